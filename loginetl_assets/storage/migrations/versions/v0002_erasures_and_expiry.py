"""Adds the list of erasures, when keys were retired, and how long the vault keeps a value."""

from alembic import op

from loginetl_assets.logins.contract import TOKEN_COLUMNS
from loginetl_assets.storage.migrations.login_columns import remove_values_without_rows

revision = "v0002"
down_revision = "v0001"

_CHANGES = """
CREATE TABLE loginetl.erasures (
  erasure_id uuid PRIMARY KEY,
  erased_at timestamptz NOT NULL,
  encrypted_subject bytea NOT NULL);
COMMENT ON TABLE loginetl.erasures IS
  'What `loginetl erase --reapply` erases again: when, and whom, encrypted for the privacy officer''s key.';

ALTER TABLE loginetl.installation ADD COLUMN vault_days integer;
COMMENT ON COLUMN loginetl.installation.vault_days IS
  'LOGINETL_VAULT_DAYS: a value leaves the vault so many days after the last login that has it.';

ALTER TABLE loginetl.keys ADD COLUMN retired_at timestamptz;
COMMENT ON COLUMN loginetl.keys.retired_at IS 'Since when no keyset with it as its primary key is accepted.'
"""


def upgrade() -> None:
    for statement in _CHANGES.split(";\n"):
        op.execute(statement)
    op.execute(remove_values_without_rows(*TOKEN_COLUMNS.values()))


def downgrade() -> None:
    raise NotImplementedError("the list of erasures would be lost; restore a backup instead")
