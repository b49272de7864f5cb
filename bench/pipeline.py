"""loginetl as its users run it: `dagster asset materialize` in a fresh process, and what its event log says."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from shutil import copy
from typing import Any

from bench.run import ROOT, BenchmarkError, Run, run
from bench.services import Services
from loginetl_assets.services import Services as Opened
from loginetl_assets.settings import Settings
from loginetl_assets.storage.database import LoginDatabase

DAGSTER = Path(sys.executable).with_name("dagster")
LOGINETL = Path(sys.executable).with_name("loginetl")


@dataclass(frozen=True)
class Materialized:
    """A run of the assets. Times are those of the machine's clock."""

    run: Run
    steps: dict[str, dict[str, Any]]  # metadata of each asset
    committed_at: float  # when `user_logins` was materialized, or else the last asset: after its last commit
    checks_seconds: float  # of all steps that are checks and nothing else
    failed_checks: list[str]

    def rate(self, asset: str) -> float:
        """Returns messages per second of the step that made an asset."""
        messages = self.steps["raw_login_messages"]["messages"]
        return float(messages / self.steps[asset]["seconds"])


@contextmanager
def installed(services: Services, queue_url: str) -> Iterator[Settings]:
    """Yields settings with a migrated database, keys and a landing of their own."""
    with services.database() as database_url:
        settings = Settings(home=services.directory(), queue_url=queue_url, database_url=database_url)
        LoginDatabase(database_url).migrate()
        Opened(settings).keyring.make_missing()
        yield settings


def materialize(
    settings: Settings, *, select: str = "*", max_messages: int = 100_000, watch_memory: bool = False
) -> Materialized:
    """Runs `dagster asset materialize` once.

    Raises:
        BenchmarkError: it failed, or a check did.
    """
    command = command_of(settings, select=select, max_messages=max_messages)
    done = run(command, environment_of(settings), watch_memory=watch_memory).require_success("loginetl")
    found = _events(dagster_home(settings), done)
    if found.failed_checks:
        raise BenchmarkError(f"loginetl: {', '.join(found.failed_checks)} failed")
    return found


def command_of(settings: Settings, *, select: str = "*", max_messages: int = 100_000) -> list[str | Path]:
    """Returns the command."""
    config = {"ops": {"raw_login_messages": {"config": {"max_messages": max_messages}}}}
    return [DAGSTER, "asset", "materialize", "--select", select, "-m", "loginetl_assets.definitions",
            "--config-json", json.dumps(config)]  # fmt: skip


def environment_of(settings: Settings) -> dict[str, str]:
    """Returns the variables that the command needs."""
    return {**settings.as_environment(), "DAGSTER_HOME": str(dagster_home(settings))}


def dagster_home(settings: Settings) -> Path:
    """Returns a DAGSTER_HOME as the command makes without one: of the checkout's settings, and SQLite."""
    home = settings.home / "dagster"
    if not home.exists():
        home.mkdir()
        copy(ROOT / "dagster.yaml", home)
    return home


def _events(home: Path, done: Run) -> Materialized:
    import dagster as dg  # here alone: the documents need the rest of this module

    with dg.DagsterInstance.from_config(str(home)) as instance:
        records = instance.all_logs(instance.get_runs(limit=1)[0].run_id)
    steps: dict[str, dict[str, Any]] = {}
    starts: dict[str, float] = {}
    checks = set[str]()
    failed, committed_at, seconds = list[str](), 0.0, 0.0
    for record in records:
        event, step = record.dagster_event, record.step_key or ""
        if event is None:
            continue
        if event.event_type is dg.DagsterEventType.STEP_START:
            starts[step] = record.timestamp
        elif event.event_type is dg.DagsterEventType.ASSET_CHECK_EVALUATION:
            checks.add(step)
            evaluation = event.asset_check_evaluation_data
            if not evaluation.passed and evaluation.severity is dg.AssetCheckSeverity.ERROR:
                failed.append(evaluation.check_name)
        elif event.event_type is dg.DagsterEventType.ASSET_MATERIALIZATION and event.asset_key:
            name = event.asset_key.to_user_string()
            steps[name] = {key: value.value for key, value in event.materialization.metadata.items()}
            if "user_logins" not in steps or name == "user_logins":
                committed_at = record.timestamp
            checks.discard(step)
        elif event.event_type is dg.DagsterEventType.STEP_SUCCESS and step in checks:
            seconds += record.timestamp - starts[step]
    return Materialized(done, steps, committed_at, seconds, failed)
