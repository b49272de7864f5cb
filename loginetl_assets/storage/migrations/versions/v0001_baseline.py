"""The whole schema but its views: they read the login table, and are created with the record of it."""

from alembic import op

revision = "v0001"  # "0001" to "0010" were the revisions before the first release
down_revision = None

_TABLES = """
CREATE TABLE loginetl.installation (
  single boolean PRIMARY KEY DEFAULT true CHECK (single),
  installation_id uuid NOT NULL DEFAULT gen_random_uuid(),
  installed_at timestamptz NOT NULL DEFAULT now(),
  login_table regclass);
COMMENT ON TABLE loginetl.installation IS 'One row: which installation this database is. A restored copy keeps it.';
COMMENT ON COLUMN loginetl.installation.login_table IS
  'The login table: named by LOGINETL_TABLE when adopted or created, and followed when it is renamed.';
INSERT INTO loginetl.installation DEFAULT VALUES;

CREATE TABLE loginetl.keys (
  role text NOT NULL,
  key_id bigint NOT NULL,
  first_used_at timestamptz NOT NULL DEFAULT now(),
  check_value bytea NOT NULL,
  PRIMARY KEY (role, key_id));
COMMENT ON TABLE loginetl.keys IS 'Ids of the keys this database was written with; never the keys.';
COMMENT ON COLUMN loginetl.keys.check_value IS
  'Distinguishes the key from another one with its id, and reveals nothing else about it.';

CREATE TABLE loginetl.batches (
  batch_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  object_path text NOT NULL UNIQUE,
  landing_key_id bigint NOT NULL,
  bytes bigint NOT NULL,
  oldest_sent_at timestamptz NOT NULL,
  unknown_fields integer NOT NULL DEFAULT 0,
  state text NOT NULL DEFAULT 'landed' CHECK (state IN ('landed', 'masked', 'loaded', 'quarantined', 'lost')),
  messages integer NOT NULL CHECK (messages > 0),
  loaded integer NOT NULL DEFAULT 0,
  duplicates integer NOT NULL DEFAULT 0,
  rejected integer NOT NULL DEFAULT 0,
  erased integer NOT NULL DEFAULT 0,
  lost integer NOT NULL DEFAULT 0,
  landed_at timestamptz NOT NULL DEFAULT now(),
  landed_run_id text,
  registered_again_at timestamptz,
  masked_path text,
  masked_at timestamptz,
  masked_run_id text,
  loaded_at timestamptz,
  loaded_run_id text,
  quarantined_at timestamptz,
  quarantine_reason text,
  lost_at timestamptz,
  lost_reason text,
  lost_by text,
  object_purged_at timestamptz,
  CONSTRAINT counts_add_up
    CHECK (state NOT IN ('loaded', 'lost') OR messages = loaded + duplicates + rejected + erased + lost));
COMMENT ON TABLE loginetl.batches IS 'One row per object in the landing.';
COMMENT ON COLUMN loginetl.batches.registered_again_at IS
  'When an object that no batch pointed to became this one; it landed when it was written.';
CREATE INDEX batches_pending ON loginetl.batches (state, batch_id) WHERE state <> 'loaded';
CREATE INDEX batches_by_masked_path ON loginetl.batches (masked_path) WHERE masked_path IS NOT NULL;
CREATE INDEX batches_by_masking_run ON loginetl.batches (masked_run_id);
CREATE INDEX batches_by_loading_run ON loginetl.batches (loaded_run_id);
CREATE INDEX batches_by_masking ON loginetl.batches (masked_at, batch_id) WHERE masked_at IS NOT NULL;
CREATE INDEX batches_by_loading ON loginetl.batches (loaded_at, batch_id) WHERE loaded_at IS NOT NULL;

CREATE TABLE loginetl.processed_messages (
  message_uuid uuid PRIMARY KEY,
  batch_id bigint NOT NULL,
  outcome text NOT NULL CHECK (outcome IN ('loaded', 'rejected', 'erased', 'duplicate')),
  event_uuid uuid);
COMMENT ON TABLE loginetl.processed_messages IS
  'How each SQS message id ended; pruned once SQS can no longer deliver the message again.';
COMMENT ON COLUMN loginetl.processed_messages.event_uuid IS
  'Name-based UUID of the body''s event_id, where LOGINETL_IDENTITY says so: one event is loaded once.';
CREATE INDEX processed_messages_by_batch ON loginetl.processed_messages (batch_id, outcome);
CREATE UNIQUE INDEX processed_messages_by_event ON loginetl.processed_messages (event_uuid)
  WHERE event_uuid IS NOT NULL;

CREATE TABLE loginetl.rejected_logins (
  message_uuid uuid PRIMARY KEY,
  batch_id bigint NOT NULL REFERENCES loginetl.batches,
  sent_at timestamptz NOT NULL,
  rejected_at timestamptz NOT NULL DEFAULT now(),
  reason text NOT NULL,
  field text,
  encrypted_body bytea NOT NULL);
COMMENT ON TABLE loginetl.rejected_logins IS
  'Messages that no validation rule accepts: reason in plaintext, body encrypted.';
CREATE INDEX rejected_logins_by_batch ON loginetl.rejected_logins (batch_id);

CREATE TABLE loginetl.pending_deletions (object_path text PRIMARY KEY);
COMMENT ON TABLE loginetl.pending_deletions IS 'Objects that were replaced and are still to be deleted.';

CREATE TABLE loginetl.vault_data_keys (
  data_key_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  officer_key_id bigint NOT NULL,
  wrapped_key bytea NOT NULL,
  created_at timestamptz NOT NULL DEFAULT now());
COMMENT ON TABLE loginetl.vault_data_keys IS
  'Data keys, each encrypted for the privacy officer''s public key (HPKE).';

CREATE TABLE loginetl.pii_vault (
  token text PRIMARY KEY,
  field text NOT NULL CHECK (field IN ('ip', 'device_id')),
  encrypted_value bytea NOT NULL,
  data_key_id bigint NOT NULL REFERENCES loginetl.vault_data_keys,
  first_seen_at timestamptz NOT NULL DEFAULT now());
COMMENT ON TABLE loginetl.pii_vault IS 'Token to encrypted value; only the privacy officer''s key decrypts it.';
CREATE INDEX vault_by_data_key ON loginetl.pii_vault (data_key_id);

CREATE TABLE loginetl.erased_tokens (
  token text PRIMARY KEY,
  erased_at timestamptz NOT NULL DEFAULT now());
COMMENT ON TABLE loginetl.erased_tokens IS
  'Tokens whose value was erased, or is about to be; one that comes again leaves this list.';

CREATE TABLE loginetl.token_map (
  old_token text PRIMARY KEY,
  new_token text NOT NULL);
COMMENT ON TABLE loginetl.token_map IS
  'During a rotation: the token under the new key for each one under an old key.';
CREATE INDEX token_map_by_new_token ON loginetl.token_map (new_token);

CREATE TABLE loginetl.pii_access_log (
  access_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  at timestamptz NOT NULL DEFAULT now(),
  who text NOT NULL,
  client_address inet,
  claimed_user text NOT NULL DEFAULT '',
  action text NOT NULL,
  reason text NOT NULL,
  tokens text[] NOT NULL DEFAULT '{}',
  counts jsonb NOT NULL DEFAULT '{}');
COMMENT ON TABLE loginetl.pii_access_log IS 'Who asked for values, when and why, written before any is shown.';
COMMENT ON COLUMN loginetl.pii_access_log.at IS 'When, set by the database.';
COMMENT ON COLUMN loginetl.pii_access_log.who IS 'The login (session_user), set by the database.';
COMMENT ON COLUMN loginetl.pii_access_log.client_address IS
  'Where the login came from, set by the database; null over a unix socket.';
COMMENT ON COLUMN loginetl.pii_access_log.claimed_user IS
  'The system user, as the client says: no proof of anything.';

CREATE TABLE loginetl.live_runs (
  run_id text PRIMARY KEY,
  beat_at timestamptz NOT NULL DEFAULT now(),
  missed_at timestamptz);
COMMENT ON TABLE loginetl.live_runs IS
  'Dagster runs under way: when each last beat, and since when it is known to be silent.'
"""

_FUNCTIONS = (
    """
CREATE FUNCTION loginetl.version_text(packed integer) RETURNS text
  LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
  RETURN packed / 1000000 || '.' || packed / 1000 % 1000 || '.' || packed % 1000
""",
    # With the owner's rights, and the condition in itself: `login_columns` renews it when a field is added.
    """
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
    ' AND NOT EXISTS (SELECT FROM %1$s WHERE masked_device_id = v.token)'
    ' RETURNING v.data_key_id)'
    ' SELECT count(*), array_agg(DISTINCT data_key_id) FROM gone', login_table)
    INTO removed, data_keys USING tokens;
  DELETE FROM loginetl.vault_data_keys k WHERE k.data_key_id = ANY (data_keys)
    AND NOT EXISTS (SELECT FROM loginetl.pii_vault v WHERE v.data_key_id = k.data_key_id);
  RETURN removed;
END $body$
""",
    "REVOKE ALL ON FUNCTION loginetl.remove_values_without_rows(text[]) FROM PUBLIC",
    # The access log says what the database knows, not what its writer claims, and keeps it.
    """
CREATE FUNCTION loginetl.stamp_access() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
  BEGIN
    NEW.at := clock_timestamp(); NEW.who := session_user; NEW.client_address := inet_client_addr(); RETURN NEW; END $$
""",
    """
CREATE TRIGGER stamped BEFORE INSERT ON loginetl.pii_access_log
  FOR EACH ROW EXECUTE FUNCTION loginetl.stamp_access()
""",
    """
CREATE FUNCTION loginetl.refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
  BEGIN RAISE EXCEPTION 'loginetl.% is append-only', TG_TABLE_NAME; END $$
""",
    """
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON loginetl.pii_access_log
  FOR EACH STATEMENT EXECUTE FUNCTION loginetl.refuse_change()
""",
)


def upgrade() -> None:
    for statement in (*_TABLES.split(";\n"), *_FUNCTIONS):
        op.execute(statement)


def downgrade() -> None:
    raise NotImplementedError("the message ids keep messages from being loaded twice; restore a backup instead")
