"""Batches that are given up on, and batches that the landing brought back."""

from alembic import op

revision = "0006"
down_revision = "0005"

_STATEMENTS = """
ALTER TABLE loginetl.batches ADD COLUMN registered_anew_at timestamptz;
COMMENT ON COLUMN loginetl.batches.registered_anew_at IS
  'When an object that no batch named became this one; it landed when it was written.';
"""


def upgrade() -> None:
    for statement in _STATEMENTS.split(";\n"):
        if statement.strip():
            op.execute(statement)


def downgrade() -> None:
    raise NotImplementedError("restore a backup instead")
