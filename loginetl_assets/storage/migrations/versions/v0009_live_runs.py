"""Which runs have a living worker, and since when there was anything to run."""

from alembic import op

revision = "0009"
down_revision = "0008"

_STATEMENTS = """
CREATE TABLE loginetl.live_runs (
  run_id text PRIMARY KEY,
  beat_at timestamptz NOT NULL DEFAULT now(),
  missed_at timestamptz);
COMMENT ON TABLE loginetl.live_runs IS
  'Dagster runs under way: when each last gave a sign of life, and since when it is known to be silent.';
ALTER TABLE loginetl.installation ADD COLUMN installed_at timestamptz NOT NULL DEFAULT now();
"""


def upgrade() -> None:
    for statement in _STATEMENTS.split(";\n"):
        if statement.strip():
            op.execute(statement)


def downgrade() -> None:
    op.execute("DROP TABLE loginetl.live_runs")
    op.execute("ALTER TABLE loginetl.installation DROP COLUMN installed_at")
