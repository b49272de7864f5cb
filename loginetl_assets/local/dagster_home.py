"""The long-lived Dagster instance of the local environment: its storage is the embedded Postgres.

Dagster's own default, SQLite, locks under a daemon, a web server and runs that all write.
"""

import json
from pathlib import Path

_CONFIG = """\
# Written by loginetl; changes are overwritten. To use a Dagster home of your own, set DAGSTER_HOME.
telemetry:
  enabled: false
nux:
  enabled: false # no invitation in front of the UI
storage:
  postgres:
    postgres_url: {database_url}
run_monitoring:
  enabled: true
  poll_interval_seconds: 30
  start_timeout_seconds: 90
  cancel_timeout_seconds: 60
  max_runtime_seconds: 14400 # the last resort: the queue_depth sensor ends runs whose worker is gone
  free_slots_after_run_end_seconds: 300
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


_WORKSPACE = """\
load_from:
  - python_module:
      module_name: loginetl_assets.definitions
      location_name: loginetl
"""


def prepare_dagster_home(home: Path, dagster_database_url: str) -> Path:
    """Writes `dagster.yaml` and `workspace.yaml` into `home/dagster`, and returns the directory for DAGSTER_HOME."""
    directory = home / "dagster"
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    # JSON strings are YAML strings. The URL holds a socket's path and no password.
    config = _CONFIG.format(database_url=json.dumps(dagster_database_url))
    for name, content in (("dagster.yaml", config), ("workspace.yaml", _WORKSPACE)):
        file = directory / name
        if not file.exists() or file.read_text() != content:
            draft = file.with_suffix(".draft")
            draft.write_text(content)
            draft.replace(file)
    return directory
