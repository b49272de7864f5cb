"""The access log says what the database knows, not what its writer claims; the keys have check values."""

from alembic import op

revision = "0008"
down_revision = "0007"

_STATEMENTS = """
ALTER TABLE loginetl.keys ADD COLUMN check_value bytea;
COMMENT ON COLUMN loginetl.keys.check_value IS
  'Tells the key from another one with its id, and nothing else about it; null until the key is next used.';
"""


def upgrade() -> None:
    for statement in _STATEMENTS.split(";\n"):
        if statement.strip():
            op.execute(statement)


def downgrade() -> None:
    raise NotImplementedError("restore a backup instead")
