"""Which table the logins are loaded into; `loginetl_assets.storage.adoption` finds it and records it."""

from alembic import op

revision = "0010"
down_revision = "0009"

_STATEMENTS = """
ALTER TABLE loginetl.installation ADD COLUMN login_table regclass;
COMMENT ON COLUMN loginetl.installation.login_table IS
  'The table of logins: named by LOGINETL_TABLE when it was adopted or made, and followed when it is renamed.';
"""


def upgrade() -> None:
    for statement in _STATEMENTS.split(";\n"):
        if statement.strip():
            op.execute(statement)


def downgrade() -> None:
    op.execute("ALTER TABLE loginetl.installation DROP COLUMN login_table")
