"""The long-lived Dagster instance of the local environment: its storage is the embedded Postgres.

Dagster's own default, SQLite, locks under a daemon, a web server and runs that all write.
"""

import json
from pathlib import Path

_CONFIG = """\
# Written by loginetl; what is changed here is overwritten. A Dagster home of your own goes into DAGSTER_HOME.
telemetry:
  enabled: false
storage:
  postgres:
    postgres_url: {database_url}
run_monitoring:
  enabled: true
  start_timeout_seconds: 180
  free_slots_after_run_end_seconds: 300
run_coordinator:
  module: dagster.core.run_coordinator
  class: QueuedRunCoordinator
concurrency:
  runs:
    max_concurrent_runs: 4
retention:
  schedule:
    purge_after_days: 30
  sensor:
    purge_after_days:
      skipped: 2
      failure: 30
      success: 30
"""


def prepare_dagster_home(home: Path, dagster_database_url: str) -> Path:
    """Writes `home/dagster/dagster.yaml` and gives the directory, for DAGSTER_HOME."""
    directory = home / "dagster"
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    # JSON strings are YAML strings. The URL holds a socket's path and no password.
    config = _CONFIG.format(database_url=json.dumps(dagster_database_url))
    file = directory / "dagster.yaml"
    if not file.exists() or file.read_text() != config:
        draft = file.with_suffix(".draft")
        draft.write_text(config)
        draft.replace(file)
    return directory
