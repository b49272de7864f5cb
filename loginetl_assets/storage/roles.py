"""The Postgres roles: what each may do, and nothing more.

`loginetl_loader` writes everything the pipeline writes and reads no value of the vault; the encrypted bodies it reads,
for a replay, are those it wrote and has the key for. `loginetl_analyst` reads the login table and the views, what
these look tokens up in, and the counts of the report. `loginetl_privacy` recovers, erases and rotates; it can add to
the access log (who, from where and when are set by the database) and never change it. All three are group roles without
a login: GRANT them to logins of your own.
"""

from loginetl_assets.storage.database import LoginDatabase
from loginetl_assets.storage.login_table_record import require_recorded
from loginetl_assets.storage.statements import named
from loginetl_assets.storage.views import VIEWS

LOADER, ANALYST, PRIVACY = "loginetl_loader", "loginetl_analyst", "loginetl_privacy"

_CREATE = """
DO $$ BEGIN IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = '{role}')
  THEN CREATE ROLE {role} NOLOGIN; END IF; END $$
"""

_VIEWS = ", ".join(f"loginetl.{view}" for view in VIEWS)

# What the report reads of the ledger: neither objects nor runs, nor who gave up what and why.
_COUNTS = "state, messages, loaded, duplicates, rejected, erased, lost, oldest_sent_at, loaded_at"

_GRANTS = f"""
REVOKE ALL ON FUNCTION loginetl.version_text(integer) FROM PUBLIC;
GRANT USAGE ON SCHEMA loginetl, {{schema}} TO {LOADER}, {ANALYST}, {PRIVACY};
GRANT SELECT ON loginetl.alembic_version, loginetl.installation TO {LOADER}, {ANALYST}, {PRIVACY};

GRANT SELECT, INSERT ON {{table}} TO {LOADER};
GRANT SELECT, INSERT, UPDATE, DELETE ON loginetl.live_runs, loginetl.token_map TO {LOADER};
GRANT SELECT, INSERT, DELETE ON loginetl.processed_messages, loginetl.pending_deletions TO {LOADER};
GRANT SELECT, INSERT, DELETE, UPDATE (field) ON loginetl.rejected_logins TO {LOADER};
GRANT INSERT ON loginetl.pii_vault, loginetl.vault_data_keys TO {LOADER};
GRANT SELECT (token, field) ON loginetl.pii_vault TO {LOADER};
GRANT SELECT (data_key_id) ON loginetl.vault_data_keys TO {LOADER};
GRANT SELECT, DELETE ON loginetl.erased_tokens TO {LOADER};

GRANT SELECT ON {{table}}, loginetl.token_map, loginetl.activity, loginetl.activity_changes TO {ANALYST};
GRANT SELECT ({_COUNTS}) ON loginetl.batches TO {ANALYST};
GRANT SELECT (role, key_id) ON loginetl.keys TO {ANALYST};
GRANT SELECT ON {_VIEWS} TO {ANALYST}, {PRIVACY};
GRANT EXECUTE ON FUNCTION loginetl.version_text(integer) TO {ANALYST}, {PRIVACY};

GRANT SELECT, UPDATE, DELETE ON {{table}} TO {PRIVACY};
GRANT SELECT, INSERT (claimed_user, action, reason, tokens, counts) ON loginetl.pii_access_log TO {PRIVACY};
GRANT SELECT, INSERT, UPDATE, DELETE ON loginetl.pii_vault, loginetl.vault_data_keys, loginetl.token_map,
  loginetl.erased_tokens, loginetl.pending_deletions, loginetl.processed_messages TO {PRIVACY};
GRANT SELECT, DELETE ON loginetl.rejected_logins TO {PRIVACY};
GRANT SELECT, INSERT, DELETE ON loginetl.erasures TO {PRIVACY};

GRANT SELECT, INSERT ON loginetl.keys TO {LOADER}, {PRIVACY};
GRANT UPDATE (retired_at) ON loginetl.keys TO {PRIVACY};
GRANT SELECT, INSERT, UPDATE ON loginetl.batches TO {LOADER}, {PRIVACY};
GRANT SELECT, INSERT, UPDATE, DELETE ON loginetl.activity, loginetl.activity_changes TO {LOADER}, {PRIVACY};
GRANT EXECUTE ON FUNCTION loginetl.remove_values_without_rows(text[]) TO {LOADER}, {PRIVACY};
"""


def grant_roles(database: LoginDatabase) -> None:
    """Creates the roles where they are missing and grants them what they need; can be repeated.

    Raises:
        OperatorError: the login may not create roles, or does not own the tables.
    """
    with database.transaction() as connection:
        for role in (LOADER, ANALYST, PRIVACY):
            connection.execute(named("create_role", _CREATE.format(role=role)))
        table = require_recorded(connection)
        names = {"table": table.sql, "schema": table.schema_sql}
        for grant in _GRANTS.strip().split(";\n"):
            connection.execute(named("grant", grant.format(**names)))
