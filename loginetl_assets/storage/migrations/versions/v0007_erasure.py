"""What an erasure needs to reach everything."""

from alembic import op

revision = "0007"
down_revision = "0006"

# The pipeline may remove from the vault what no row has, and nothing else: hence by the owner's rights, which say so
# themselves. The table is looked up when it runs; a later migration records which one it is.
_REMOVE = """
CREATE FUNCTION loginetl.remove_values_without_rows(tokens text[]) RETURNS bigint
  LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET row_security = off AS $body$
DECLARE
  login_table text;
  removed bigint;
  data_keys bigint[];
BEGIN
  SELECT i.login_table INTO STRICT login_table FROM loginetl.installation i;
  EXECUTE format(
    'WITH gone AS (DELETE FROM loginetl.pii_vault v WHERE v.token = ANY ($1)'
    ' AND NOT EXISTS (SELECT FROM %1$s WHERE masked_ip = v.token)'
    ' AND NOT EXISTS (SELECT FROM %1$s WHERE masked_device_id = v.token) RETURNING v.data_key_id)'
    ' SELECT count(*), array_agg(DISTINCT data_key_id) FROM gone', login_table)
    INTO removed, data_keys USING tokens;
  DELETE FROM loginetl.vault_data_keys k WHERE k.data_key_id = ANY (data_keys)
    AND NOT EXISTS (SELECT FROM loginetl.pii_vault v WHERE v.data_key_id = k.data_key_id);
  RETURN removed;
END $body$
"""


def upgrade() -> None:
    op.execute(_REMOVE)
    op.execute("REVOKE ALL ON FUNCTION loginetl.remove_values_without_rows(text[]) FROM PUBLIC")


def downgrade() -> None:
    op.execute("DROP FUNCTION loginetl.remove_values_without_rows(text[])")
