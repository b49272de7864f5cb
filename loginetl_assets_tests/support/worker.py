"""One worker of the soak: runs the whole pipeline again and again, until it is told to stop or killed.

It is told what to do by its only argument (an `Order`), and by the environment which services to open. It says on its
standard output, a line each, which step it starts (so that it can be struck there) and what became of each run. `stop`
on its standard input lets it end after the run under way; the input's end, which comes when its parent is gone, ends it
at once.
"""

import os
import re
import sys
import tempfile
import threading
import time
from dataclasses import replace
from random import Random
from typing import Any
from uuid import uuid4

import dagster as dg
import msgspec
from dagster_shared.error import SerializableErrorInfo
from sqlalchemy import text

from loginetl_assets.automation.jobs import LOGIN_ETL
from loginetl_assets.build import build_definitions
from loginetl_assets.settings import Settings
from loginetl_assets.storage.database import LoginDatabase

_REPROCESSED = 20  # batches a reprocessing run reads again; all of them would take longer from run to run
_PAUSE_SECONDS = 0.2
_NAMED = {"40P01": "deadlock", "55P03": "lock time-out", "57014": "statement time-out", "40001": "serialization"}


class Order(msgspec.Struct, frozen=True):
    """What a worker does."""

    seed: int
    max_messages: int
    batch_messages: int
    visibility_seconds: int
    reprocess_share: float  # of the runs read some batches again
    hasty_share: float  # of the runs have no visibility time-out, so that others get the same messages


class StepStarted(msgspec.Struct, tag=True):
    """A step of the run under way begins now."""

    step: str


class RunReport(msgspec.Struct, tag=True):
    """What became of one run."""

    seconds: float
    success: bool
    reprocess: bool
    hasty: bool
    messages: int
    retries: list[str]  # why steps were tried again, by kind
    failures: list[str]  # why steps failed for good, by kind
    failed_checks: list[str]


def kind_of(error: SerializableErrorInfo | None) -> str:
    """Names a failure without its address, so that equal ones can be counted."""
    while error is not None and error.cause is not None:
        error = error.cause  # a retry's own error says only that a policy asked for it
    message = "unsaid" if error is None else error.message.strip()
    if found := re.search(r"SQLSTATE (\w{5})", message):
        return _NAMED.get(found[1], found[0])
    return re.sub(r"\bat \S+/\S*", "at …", message)[:200]


def main() -> None:
    """Runs until told otherwise."""
    order = msgspec.json.decode(sys.argv[1], type=Order)
    stopped = threading.Event()
    threading.Thread(target=_obey, args=(stopped,), daemon=True).start()
    settings = Settings.from_environment()
    random = Random(order.seed)  # noqa: S311 - to be repeated, not to be secret
    database = LoginDatabase(settings.database_url or "", application_name="soak worker")
    # Below the 30 s that the environment allows: what a killed worker held must come again while the soak lasts.
    patient, hasty = (
        build_definitions(replace(settings, visibility_seconds=seconds)).resolve_job_def(LOGIN_ETL)
        for seconds in (order.visibility_seconds, 0)
    )
    while not stopped.is_set():
        is_hasty = random.random() < order.hasty_share
        drained = {
            # With no visibility time-out the same message comes up to `max_messages` times.
            "max_messages": order.batch_messages if is_hasty else order.max_messages,
            "batch_messages": order.batch_messages,
        }
        masked: dict[str, Any] = {}
        if random.random() < order.reprocess_share:
            masked = {"reprocess": True, "batch_ids": _some_batches(database)}
        _say(_run(hasty if is_hasty else patient, drained, masked, is_hasty))
        stopped.wait(_PAUSE_SECONDS)


def _run(job: dg.JobDefinition, drained: dict[str, Any], masked: dict[str, Any], hasty: bool) -> RunReport:
    started = time.monotonic()
    # An instance a run: an ephemeral one keeps its events in memory for as long as it lives.
    with tempfile.TemporaryDirectory() as home, dg.DagsterInstance.ephemeral(tempdir=home) as instance:
        run_id = str(uuid4())
        instance.watch_event_logs(run_id, None, _say_step)
        result = job.execute_in_process(
            instance=instance,
            run_id=run_id,
            run_config={
                "ops": {"raw_login_messages": {"config": drained}, "masked_logins": {"config": masked}},
                "loggers": {"console": {"config": {"log_level": "ERROR"}}},
            },
            raise_on_error=False,
        )
    retries, failures, messages = [], [], 0
    for event in result.all_events:
        if event.is_step_up_for_retry:
            retries.append(kind_of(event.step_retry_data.error))
        elif event.is_step_failure:
            failures.append(kind_of(event.step_failure_data.error))
        elif event.is_step_materialization and event.asset_key == dg.AssetKey("raw_login_messages"):
            value = event.step_materialization_data.materialization.metadata["messages"].value
            messages += value if isinstance(value, int) else 0
    return RunReport(
        seconds=round(time.monotonic() - started, 3),
        success=result.success,
        reprocess=bool(masked),
        hasty=hasty,
        messages=messages,
        retries=retries,
        failures=failures,
        failed_checks=[
            check.check_name
            for check in result.get_asset_check_evaluations()
            if not check.passed
            and check.severity is dg.AssetCheckSeverity.ERROR
            and check.check_name != "rejection_rate"  # a small run may have invalid messages alone
        ],
    )


def _some_batches(database: LoginDatabase) -> list[int]:
    with database.transaction() as connection:
        return list(
            connection.execute(
                text("SELECT batch_id FROM loginetl.batches ORDER BY random() LIMIT :most"), {"most": _REPROCESSED}
            ).scalars()
        )


def _obey(stopped: threading.Event) -> None:
    if os.read(sys.stdin.fileno(), 16) == b"":
        os._exit(1)
    stopped.set()


def _say_step(entry: dg.EventLogEntry, _cursor: str) -> None:
    event = entry.dagster_event
    if event is not None and event.is_step_start and event.step_key:
        _say(StepStarted(event.step_key))


def _say(word: StepStarted | RunReport) -> None:
    sys.stdout.buffer.write(msgspec.json.encode(word) + b"\n")
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
