"""Batches that are given up on, and batches that the landing brought back."""

from alembic import op

revision = "0006"
down_revision = "0005"

_STATEMENTS = """
ALTER TABLE loginetl.batches ADD COLUMN lost integer NOT NULL DEFAULT 0;
ALTER TABLE loginetl.batches ADD COLUMN lost_reason text;
ALTER TABLE loginetl.batches ADD COLUMN lost_at timestamptz;
ALTER TABLE loginetl.batches ADD COLUMN lost_by text;
ALTER TABLE loginetl.batches DROP CONSTRAINT batches_state_check;
ALTER TABLE loginetl.batches ADD CONSTRAINT batches_state_check
  CHECK (state IN ('landed', 'masked', 'loaded', 'quarantined', 'lost'));
ALTER TABLE loginetl.batches DROP CONSTRAINT counts_add_up;
ALTER TABLE loginetl.batches ADD CONSTRAINT counts_add_up
  CHECK (state NOT IN ('loaded', 'lost') OR messages = loaded + duplicates + rejected + erased + lost);

ALTER TABLE loginetl.batches ADD COLUMN registered_anew_at timestamptz;
COMMENT ON COLUMN loginetl.batches.registered_anew_at IS
  'When an object that no batch named became this one; it landed when it was written.';
"""


def upgrade() -> None:
    for statement in _STATEMENTS.split(";\n"):
        if statement.strip():
            op.execute(statement)


def downgrade() -> None:
    raise NotImplementedError("lost messages would be pending again; restore a backup instead")
