"""Adds to a rejected message what Postgres said of a row that the table refused, as far as that names no value."""

from alembic import op

revision = "v0004"
down_revision = "v0003"

_CHANGES = """
ALTER TABLE loginetl.rejected_logins ADD COLUMN sqlstate text, ADD COLUMN constraint_name text;
COMMENT ON COLUMN loginetl.rejected_logins.sqlstate IS
  'Of a row that the table refused: the code of Postgres''s error.';
COMMENT ON COLUMN loginetl.rejected_logins.constraint_name IS
  'Of a row that the table refused: the constraint or unique index, if one did.'
"""


def upgrade() -> None:
    for statement in _CHANGES.split(";\n"):
        op.execute(statement)


def downgrade() -> None:
    raise NotImplementedError("why rows were refused would be lost; restore a backup instead")
