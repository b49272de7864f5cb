"""The access log says what the database knows, not what its writer claims; the keys have check values."""

from alembic import op

revision = "0008"
down_revision = "0007"

_STATEMENTS = """
ALTER TABLE loginetl.keys ADD COLUMN check_value bytea;
COMMENT ON COLUMN loginetl.keys.check_value IS
  'Tells the key from another one with its id, and nothing else about it; null until the key is next used.';

ALTER TABLE loginetl.pii_access_log ADD COLUMN client_address inet;
ALTER TABLE loginetl.pii_access_log ADD COLUMN claimed_user text NOT NULL DEFAULT '';
COMMENT ON COLUMN loginetl.pii_access_log.who IS 'The login (session_user), set by the database.';
COMMENT ON COLUMN loginetl.pii_access_log.client_address IS
  'From where the login came, set by the database; null over a unix socket.';
COMMENT ON COLUMN loginetl.pii_access_log.at IS 'When, set by the database.';
COMMENT ON COLUMN loginetl.pii_access_log.claimed_user IS 'The system user, as the client says: no proof of anything.';

CREATE FUNCTION loginetl.stamp_access() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
  BEGIN
    NEW.at := clock_timestamp(); NEW.who := session_user; NEW.client_address := inet_client_addr(); RETURN NEW; END $$;
CREATE TRIGGER stamped BEFORE INSERT ON loginetl.pii_access_log
  FOR EACH ROW EXECUTE FUNCTION loginetl.stamp_access();

CREATE FUNCTION loginetl.refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
  BEGIN RAISE EXCEPTION 'loginetl.% is append-only', TG_TABLE_NAME; END $$;
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON loginetl.pii_access_log
  FOR EACH STATEMENT EXECUTE FUNCTION loginetl.refuse_change();
"""


def upgrade() -> None:
    for statement in _STATEMENTS.split(";\n"):
        if statement.strip():
            op.execute(statement)


def downgrade() -> None:
    raise NotImplementedError("restore a backup instead")
