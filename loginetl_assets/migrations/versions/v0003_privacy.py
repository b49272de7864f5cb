"""Erasure, rotation and the analysts' views."""

from alembic import op

revision = "0003"
down_revision = "0002"

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

CREATE TABLE loginetl.doomed_objects (object_key text PRIMARY KEY);
COMMENT ON TABLE loginetl.doomed_objects IS 'Objects that were replaced and are still to be deleted.';

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

CREATE VIEW loginetl.logins AS
SELECT u.user_id, u.device_type, coalesce(ip.new_token, u.masked_ip) AS masked_ip,
  coalesce(device.new_token, u.masked_device_id) AS masked_device_id, u.locale, u.app_version,
  loginetl.version_text(u.app_version) AS app_version_text, u.create_date
FROM user_logins u
LEFT JOIN loginetl.token_map ip ON ip.old_token = u.masked_ip
LEFT JOIN loginetl.token_map device ON device.old_token = u.masked_device_id;
COMMENT ON VIEW loginetl.logins IS
  'user_logins with readable versions and, while keys rotate, with every value under one token.';

CREATE VIEW loginetl.shared_devices AS
SELECT masked_device_id, count(DISTINCT user_id) AS users, count(*) AS logins,
  min(create_date) AS first_seen, max(create_date) AS last_seen
FROM loginetl.logins GROUP BY masked_device_id HAVING count(DISTINCT user_id) > 1;
COMMENT ON VIEW loginetl.shared_devices IS 'Devices that more than one user has logged in from.';

CREATE VIEW loginetl.shared_ips AS
SELECT masked_ip, count(DISTINCT user_id) AS users, count(*) AS logins,
  min(create_date) AS first_seen, max(create_date) AS last_seen
FROM loginetl.logins GROUP BY masked_ip HAVING count(DISTINCT user_id) > 1;
COMMENT ON VIEW loginetl.shared_ips IS 'IP addresses that more than one user has logged in from.';

CREATE VIEW loginetl.repeated_logins AS
SELECT user_id, device_type, masked_ip, masked_device_id, locale, app_version_text, create_date, count(*) AS times
FROM loginetl.logins
GROUP BY user_id, device_type, masked_ip, masked_device_id, locale, app_version_text, create_date
HAVING count(*) > 1;
COMMENT ON VIEW loginetl.repeated_logins IS 'Logins that were sent more than once on one day, word for word.';

CREATE VIEW loginetl.daily_activity AS
SELECT create_date, count(*) AS logins, count(DISTINCT user_id) AS users,
  count(DISTINCT masked_device_id) AS devices, count(DISTINCT masked_ip) AS ips
FROM loginetl.logins GROUP BY create_date;
COMMENT ON VIEW loginetl.daily_activity IS 'Logins, users, devices and addresses a day.';
"""


def upgrade() -> None:
    for statement in _STATEMENTS.split(";\n"):
        if statement.strip():
            op.execute(statement)


def downgrade() -> None:
    raise NotImplementedError("erasures cannot be undone; restore a backup instead")
