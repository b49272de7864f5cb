"""The identity of this database, so that what belongs to it elsewhere (the landing) can be told from another's."""

from alembic import op

revision = "0005"
down_revision = "0004"

_STATEMENTS = """
CREATE TABLE loginetl.installation (
  single boolean PRIMARY KEY DEFAULT true CHECK (single),
  installation_id uuid NOT NULL DEFAULT gen_random_uuid());
COMMENT ON TABLE loginetl.installation IS 'One row: which installation this database is. A restored copy keeps it.';
INSERT INTO loginetl.installation DEFAULT VALUES;
"""


def upgrade() -> None:
    for statement in _STATEMENTS.split(";\n"):
        if statement.strip():
            op.execute(statement)


def downgrade() -> None:
    op.execute("DROP TABLE loginetl.installation")
