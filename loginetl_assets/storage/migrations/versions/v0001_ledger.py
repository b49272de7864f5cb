"""The ledger and the vault."""

from alembic import op

revision = "0001"
down_revision = None

_STATEMENTS = """
CREATE TABLE loginetl.keys (
  role text NOT NULL,
  key_id bigint NOT NULL,
  first_used_at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (role, key_id));
COMMENT ON TABLE loginetl.keys IS 'Ids of the keys this database was written with; never the keys.';

CREATE TABLE loginetl.batches (
  batch_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  object_path text NOT NULL UNIQUE,
  landing_key_id bigint NOT NULL,
  state text NOT NULL DEFAULT 'landed' CHECK (state IN ('landed', 'masked', 'loaded', 'quarantined')),
  messages integer NOT NULL CHECK (messages > 0),
  bytes bigint NOT NULL,
  oldest_sent_at timestamptz NOT NULL,
  unknown_fields integer NOT NULL DEFAULT 0,
  rejected integer NOT NULL DEFAULT 0,
  duplicates integer NOT NULL DEFAULT 0,
  loaded integer NOT NULL DEFAULT 0,
  landed_at timestamptz NOT NULL DEFAULT now(),
  landed_run_id text,
  masked_path text,
  masked_at timestamptz,
  masked_run_id text,
  loaded_at timestamptz,
  loaded_run_id text,
  quarantined_at timestamptz,
  quarantine_reason text,
  object_purged_at timestamptz,
  CONSTRAINT counts_add_up CHECK (state <> 'loaded' OR messages = loaded + duplicates + rejected));
COMMENT ON TABLE loginetl.batches IS 'One row per object in the landing.';
CREATE INDEX batches_by_masked_path ON loginetl.batches (masked_path) WHERE masked_path IS NOT NULL;
CREATE INDEX batches_pending ON loginetl.batches (state, batch_id) WHERE state <> 'loaded';
CREATE INDEX batches_by_masking_run ON loginetl.batches (masked_run_id);
CREATE INDEX batches_by_loading_run ON loginetl.batches (loaded_run_id);
CREATE INDEX batches_by_masking ON loginetl.batches (masked_at, batch_id) WHERE masked_at IS NOT NULL;
CREATE INDEX batches_by_loading ON loginetl.batches (loaded_at, batch_id) WHERE loaded_at IS NOT NULL;

CREATE TABLE loginetl.processed_messages (
  message_uuid uuid PRIMARY KEY,
  batch_id bigint NOT NULL,
  outcome text NOT NULL CHECK (outcome IN ('loaded', 'rejected')));
COMMENT ON TABLE loginetl.processed_messages IS
  'Where each SQS message id ended; pruned once SQS can no longer bring the message again.';
CREATE INDEX processed_messages_by_batch ON loginetl.processed_messages (batch_id, outcome);

CREATE TABLE loginetl.rejected_logins (
  message_uuid uuid PRIMARY KEY,
  batch_id bigint NOT NULL REFERENCES loginetl.batches,
  sent_at timestamptz NOT NULL,
  rejected_at timestamptz NOT NULL DEFAULT now(),
  reason text NOT NULL,
  field text,
  encrypted_body bytea NOT NULL);
CREATE INDEX rejected_logins_by_batch ON loginetl.rejected_logins (batch_id);

CREATE TABLE loginetl.vault_data_keys (
  data_key_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  officer_key_id bigint NOT NULL,
  wrapped_key bytea NOT NULL,
  made_at timestamptz NOT NULL DEFAULT now());
COMMENT ON TABLE loginetl.vault_data_keys IS 'Data keys, each sealed to the privacy officer (HPKE).';

CREATE TABLE loginetl.pii_vault (
  token text PRIMARY KEY,
  field text NOT NULL CHECK (field IN ('ip', 'device_id')),
  sealed bytea NOT NULL,
  data_key_id bigint NOT NULL REFERENCES loginetl.vault_data_keys,
  first_seen_at timestamptz NOT NULL DEFAULT now());
COMMENT ON TABLE loginetl.pii_vault IS 'Token to sealed value; only the privacy officer''s key opens it.';

CREATE TABLE loginetl.pii_access_log (
  access_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  at timestamptz NOT NULL DEFAULT now(),
  who text NOT NULL,
  action text NOT NULL,
  reason text NOT NULL,
  tokens text[] NOT NULL DEFAULT '{}',
  counts jsonb NOT NULL DEFAULT '{}');
COMMENT ON TABLE loginetl.pii_access_log IS 'Who asked for values, when and why, written before any is shown.';
"""


def upgrade() -> None:
    for statement in _STATEMENTS.split(";\n"):
        if statement.strip():
            op.execute(statement)


def downgrade() -> None:
    raise NotImplementedError("the ledger is what keeps messages from being loaded twice; restore a backup instead")
