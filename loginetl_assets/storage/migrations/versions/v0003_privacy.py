"""Erasure and rotation. The analysts' views read the table of logins, and are made with its record."""

from alembic import op

revision = "0003"
down_revision = "0001"

_STATEMENTS = """
ALTER TABLE loginetl.batches ADD COLUMN erased integer NOT NULL DEFAULT 0;
ALTER TABLE loginetl.batches DROP CONSTRAINT counts_add_up;
ALTER TABLE loginetl.batches ADD CONSTRAINT counts_add_up
  CHECK (state <> 'loaded' OR messages = loaded + duplicates + rejected + erased);
ALTER TABLE loginetl.processed_messages DROP CONSTRAINT processed_messages_outcome_check;
ALTER TABLE loginetl.processed_messages ADD CONSTRAINT processed_messages_outcome_check
  CHECK (outcome IN ('loaded', 'rejected', 'erased'));

CREATE TABLE loginetl.erased_tokens (
  token text PRIMARY KEY,
  erased_at timestamptz NOT NULL DEFAULT now());
COMMENT ON TABLE loginetl.erased_tokens IS
  'Tokens whose value was erased, or is about to be; one that comes again leaves this list.';

CREATE TABLE loginetl.pending_deletions (object_path text PRIMARY KEY);
COMMENT ON TABLE loginetl.pending_deletions IS 'Objects that were replaced and are still to be deleted.';

CREATE TABLE loginetl.token_map (
  old_token text PRIMARY KEY,
  new_token text NOT NULL);
COMMENT ON TABLE loginetl.token_map IS
  'For the time of a rotation: the token under the new key for each one under an old key.';

CREATE INDEX token_map_by_new_token ON loginetl.token_map (new_token);

CREATE INDEX vault_by_data_key ON loginetl.pii_vault (data_key_id);

CREATE FUNCTION loginetl.version_text(packed integer) RETURNS text
  LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
  RETURN packed / 1000000 || '.' || packed / 1000 % 1000 || '.' || packed % 1000;
"""


def upgrade() -> None:
    for statement in _STATEMENTS.split(";\n"):
        if statement.strip():
            op.execute(statement)


def downgrade() -> None:
    raise NotImplementedError("erasures cannot be undone; restore a backup instead")
