"""What a migration calls for a new field of the contract: docs/extending.md."""

from sqlalchemy import Connection

from loginetl_assets.logins.contract import MASKED_FIELDS, TOKEN_COLUMNS
from loginetl_assets.storage.login_table_record import recorded_table
from loginetl_assets.storage.login_table_setup import add_columns
from loginetl_assets.storage.statements import named
from loginetl_assets.storage.views import create_views


def add_login_columns(connection: Connection) -> None:
    """Gives the recorded table the columns of the contract that it lacks, and renews what is derived from these.

    It reads today's contract, whichever migration calls it: statements and views of this version need all of its
    columns at once. A database that skips versions gets them by the first call, and the later ones find nothing to do.

    In a new database no table is recorded yet: it is created, or adopted, with all columns after the migrations.
    """
    if (table := recorded_table(connection)) is not None:
        add_columns(connection, table.sql)
        create_views(connection, table.sql)
    fields = ", ".join(f"'{field}'" for field in MASKED_FIELDS)
    checked = (
        "ALTER TABLE loginetl.pii_vault DROP CONSTRAINT pii_vault_field_check,"
        f" ADD CONSTRAINT pii_vault_field_check CHECK (field IN ({fields}))"
    )
    connection.execute(named("check_vault_fields", checked))
    connection.execute(named("define_function", remove_values_without_rows(*TOKEN_COLUMNS.values())))


def remove_values_without_rows(*token_columns: str) -> str:
    """Returns the statement that defines the function of this name, for a login table with these columns of tokens.

    The pipeline may remove from the vault what no row has, or only rows that are older than the owner has recorded, and
    nothing else: hence with the owner's rights, and the condition in the function itself. Table and days are looked up
    when it runs, since they are recorded later.
    """
    without_rows = "".join(
        f"\n    ' AND NOT EXISTS (SELECT FROM %1$s WHERE {column} = v.token AND (create_date < $2) IS NOT TRUE)'"
        for column in token_columns
    )
    return f"""
CREATE OR REPLACE FUNCTION loginetl.remove_values_without_rows(tokens text[]) RETURNS bigint
  LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET row_security = off AS $body$
DECLARE
  login_table text;
  expired_before date;
  removed bigint;
  data_keys bigint[];
BEGIN
  SELECT i.login_table, CAST(now() AT TIME ZONE 'UTC' AS date) - i.vault_days
    INTO STRICT login_table, expired_before FROM loginetl.installation i;
  EXECUTE format(
    'WITH gone AS (DELETE FROM loginetl.pii_vault v WHERE v.token = ANY ($1)'{without_rows}
    ' RETURNING v.data_key_id)'
    ' SELECT count(*), array_agg(DISTINCT data_key_id) FROM gone', login_table)
    INTO removed, data_keys USING tokens, expired_before;
  DELETE FROM loginetl.vault_data_keys k WHERE k.data_key_id = ANY (data_keys)
    AND NOT EXISTS (SELECT FROM loginetl.pii_vault v WHERE v.data_key_id = k.data_key_id);
  RETURN removed;
END $body$
"""
