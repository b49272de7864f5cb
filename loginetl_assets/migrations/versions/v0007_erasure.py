"""What an erasure needs to reach everything."""

from alembic import op

revision = "0007"
down_revision = "0006"

_STATEMENTS = """
"""


def upgrade() -> None:
    for statement in _STATEMENTS.split(";\n"):
        if statement.strip():
            op.execute(statement)


def downgrade() -> None:
    raise NotImplementedError("restore a backup instead")
