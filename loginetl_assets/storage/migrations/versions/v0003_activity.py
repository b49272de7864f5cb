"""Adds the counts that the report is made from. Those of the login table are taken when the migration records it."""

from alembic import op

revision = "v0003"
down_revision = "v0002"

_TABLES = """
CREATE TABLE loginetl.activity (
  day date NOT NULL,
  dimension text NOT NULL,
  value text NOT NULL,
  logins bigint NOT NULL,
  PRIMARY KEY (day, dimension, value));
COMMENT ON TABLE loginetl.activity IS
  'Logins by day and one value at a time, for the report; loginetl.activity_changes is to be added.';

CREATE TABLE loginetl.activity_changes (
  day date NOT NULL,
  dimension text NOT NULL,
  value text NOT NULL,
  logins bigint NOT NULL);
COMMENT ON TABLE loginetl.activity_changes IS
  'What loads and erasures have changed in the counts of loginetl.activity since they were last added up.';

INSERT INTO loginetl.activity
  SELECT (rejected_at AT TIME ZONE 'UTC')::date, 'rejection', reason, count(*) FROM loginetl.rejected_logins
  GROUP BY 1, 3
"""

# A rejection comes and goes in many ways (masking, load, replay, drop, erasure): here none of them can be forgotten.
# With the owner's rights, since a role that may reject need not be one that may count.
_TRIGGERS = (
    """
CREATE FUNCTION loginetl.count_rejections() RETURNS trigger
  LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  BEGIN
    INSERT INTO loginetl.activity_changes (day, dimension, value, logins)
      SELECT (rejected_at AT TIME ZONE 'UTC')::date, 'rejection', reason,
        CASE TG_OP WHEN 'INSERT' THEN 1 ELSE -1 END * count(*) FROM changed GROUP BY 1, 3;
    RETURN NULL;
  END $$
""",
    "REVOKE ALL ON FUNCTION loginetl.count_rejections() FROM PUBLIC",
    """
CREATE TRIGGER counted_in AFTER INSERT ON loginetl.rejected_logins
  REFERENCING NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION loginetl.count_rejections()
""",
    """
CREATE TRIGGER counted_out AFTER DELETE ON loginetl.rejected_logins
  REFERENCING OLD TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION loginetl.count_rejections()
""",
)


def upgrade() -> None:
    for statement in (*_TABLES.split(";\n"), *_TRIGGERS):
        op.execute(statement)


def downgrade() -> None:
    raise NotImplementedError("an earlier version would not keep the counts; restore a backup instead")
