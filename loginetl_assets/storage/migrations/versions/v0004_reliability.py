"""Events by an id of their own, beside message ids."""

from alembic import op

revision = "0004"
down_revision = "0003"

_STATEMENTS = """
ALTER TABLE loginetl.processed_messages DROP CONSTRAINT processed_messages_outcome_check;
ALTER TABLE loginetl.processed_messages ADD CONSTRAINT processed_messages_outcome_check
  CHECK (outcome IN ('loaded', 'rejected', 'erased', 'duplicate'));

ALTER TABLE loginetl.processed_messages ADD COLUMN event_uuid uuid;
COMMENT ON COLUMN loginetl.processed_messages.event_uuid IS
  'Name-based UUID of the body''s event_id, where LOGINETL_IDENTITY says so: one event is loaded once.';
CREATE UNIQUE INDEX processed_messages_by_event ON loginetl.processed_messages (event_uuid)
  WHERE event_uuid IS NOT NULL;
"""


def upgrade() -> None:
    for statement in _STATEMENTS.split(";\n"):
        if statement.strip():
            op.execute(statement)


def downgrade() -> None:
    raise NotImplementedError("duplicates settled by event would be loaded; restore a backup instead")
