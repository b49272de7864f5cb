"""The qualified name of the table of logins."""

from alembic import op

revision = "0010"
down_revision = "0009"

_STATEMENTS = """
"""


def upgrade() -> None:
    for statement in _STATEMENTS.split(";\n"):
        if statement.strip():
            op.execute(statement)


def downgrade() -> None:
    raise NotImplementedError("restore a backup instead")
