"""Launches Dagster runs from the command line: until the queue is empty, or once over what has landed.

The one module of the command line that imports the definitions; commands import it when they launch a run.
"""

import math
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import dagster as dg
from rich.markup import escape
from rich.table import Table

from loginetl_assets.automation.dead_runs import fail_runs_without_worker
from loginetl_assets.automation.jobs import BOUNDED, LOGIN_ETL, PROCESS_LANDED
from loginetl_assets.cli.environment import dagster_home
from loginetl_assets.dagster_instance import OurRuns
from loginetl_assets.errors import OperatorError
from loginetl_assets.logins.rejection import Reason
from loginetl_assets.services import Services
from loginetl_assets.steps.drain.engine import DrainTotals
from loginetl_assets.steps.drain.policy import StoppedReason
from loginetl_assets.steps.load import LoadTotals
from loginetl_assets.steps.mask import MaskTotals
from loginetl_assets.storage import rejections
from loginetl_assets.storage.installation import installation_id
from loginetl_assets.table_name import TableName


@dataclass
class RunSummary:
    """What the runs did, added up; of a step that was tried again, what its last try did."""

    seconds: float = 0.0
    messages: int = 0
    postponed: int = 0  # messages whose payload could not be read just now
    loaded: int = 0
    duplicates: int = 0
    rejected: int = 0
    refused: int = 0  # of the rejected: by the table itself
    quarantined_batches: int = 0
    rejections: dict[str, int] = field(default_factory=dict)  # by reason
    too_many_rejected: bool = False  # in one run of these, by LOGINETL_MAX_REJECTION_RATE
    stopped_reason: StoppedReason | None = None  # of the last drain
    steps_tried_again: int = 0
    duplicate_rows: int = 0
    shared_devices: int = 0
    shared_ips: int = 0
    warnings: list[str] = field(default_factory=list)  # checks that did not pass, at WARN

    def needs_attention(self) -> list[str]:
        """Returns what a person should look at, one sentence each."""
        found = []
        if self.quarantined_batches:
            found.append(f"{self.quarantined_batches} batches were quarantined: `loginetl status` says why")
        if self.refused:
            refused = f"the table refused {self.refused} rows"
            found.append(f"{refused}: `loginetl rejected list --reason {Reason.REFUSED_BY_TABLE}`")
        if self.too_many_rejected:
            found.append(
                "more messages were rejected than LOGINETL_MAX_REJECTION_RATE allows: `loginetl rejected list`"
            )
        if self.postponed:
            found.append(f"{self.postponed} payloads could not be read just now: their messages are delivered again")
        return found

    def as_table(self, table: TableName) -> Table:
        """Returns the results, as the command line prints them."""
        shown = Table(title="Results", title_justify="left", show_header=False, min_width=44)
        shown.add_column(style="bold")
        shown.add_column(justify="right")
        for name, value in {
            "messages": f"{self.messages:,}",
            f"loaded into {table}": f"{self.loaded:,}",
            "duplicates": f"{self.duplicates:,}",
            "rejected": f"{self.rejected:,}",
            **{f"  {reason}": f"{count:,}" for reason, count in self.rejections.items()},
            **({"quarantined batches": f"{self.quarantined_batches:,}"} if self.quarantined_batches else {}),
            "duplicate rows": f"{self.duplicate_rows:,}",
            "shared devices": f"{self.shared_devices:,}",
            "shared IPs": f"{self.shared_ips:,}",
            "seconds": f"{self.seconds:.1f}",
            "messages a second": f"{self.messages / self.seconds:,.0f}",
        }.items():
            shown.add_row(escape(name), value)
        return shown


def dagster_instance(services: Services) -> dg.DagsterInstance:
    """Returns the instance of DAGSTER_HOME; unset, in the local environment, one on the embedded Postgres."""
    os.environ["DAGSTER_HOME"] = str(dagster_home(services))
    return dg.DagsterInstance.get()


def run_until_empty(
    definitions: dg.Definitions,
    services: Services,
    instance: dg.DagsterInstance,
    *,
    messages_per_run: int,
    max_messages: int | None = None,
) -> RunSummary:
    """Runs the job in this process until a drain finds the queue empty or `max_messages` are drained.

    Raises:
        OperatorError: a run failed; the text is the failing step's.
    """
    job = definitions.resolve_job_def(LOGIN_ETL)
    with _summary(services, instance) as summary:
        while True:
            left = messages_per_run if max_messages is None else max_messages - summary.messages
            _run(summary, job, instance, {"raw_login_messages": {"max_messages": min(left, messages_per_run)}})
            if summary.stopped_reason is StoppedReason.QUEUE_EMPTY or summary.messages >= (max_messages or math.inf):
                return summary


def run_landed(
    definitions: dg.Definitions, services: Services, instance: dg.DagsterInstance, masking: Mapping[str, object]
) -> RunSummary:
    """Masks and loads once what has landed, by the given config of masked_logins; leaves the queue alone.

    Raises:
        OperatorError: the run failed; the text is the failing step's.
    """
    with _summary(services, instance) as summary:
        _run(summary, definitions.resolve_job_def(PROCESS_LANDED), instance, {"masked_logins": masking})
    return summary


@contextmanager
def _summary(services: Services, instance: dg.DagsterInstance) -> Iterator[RunSummary]:
    summary, started = RunSummary(), time.monotonic()
    database = services.database()
    with database.transaction() as connection:
        installation = str(installation_id(connection))
        before = rejections.by_reason(connection)
    # Without a sensor nobody else does: earlier runs of this command, if they were killed, are STARTED still.
    fail_runs_without_worker(instance, OurRuns(instance, installation, None), database)
    yield summary
    with database.transaction() as connection:
        after = rejections.by_reason(connection)
    # A batch that is read again takes its rejections back first, so there may be fewer than before.
    summary.rejections = {reason: count - before.get(reason, 0) for reason, count in after.items()}
    summary.rejections = {reason: count for reason, count in summary.rejections.items() if count > 0}
    summary.seconds = time.monotonic() - started


def _run(
    summary: RunSummary, job: dg.JobDefinition, instance: dg.DagsterInstance, config: Mapping[str, Mapping[str, object]]
) -> None:
    result = job.execute_in_process(
        instance=instance,
        tags=BOUNDED,
        run_config={
            "ops": {name: {"config": dict(values)} for name, values in config.items()},
            "loggers": {"console": {"config": {"log_level": "CRITICAL"}}},
        },
        raise_on_error=False,
    )
    _add(summary, result)
    if not result.success:
        raise OperatorError(_failure(result))


def _add(summary: RunSummary, result: dg.ExecuteInProcessResult) -> None:
    masked, loaded = MaskTotals(), LoadTotals()
    for event in result.get_asset_materialization_events():
        metadata = _values(event.step_materialization_data.materialization.metadata)
        match event.asset_key and event.asset_key.to_user_string():
            case "raw_login_messages":
                drained = DrainTotals.from_metadata(metadata)
                summary.messages += drained.messages
                summary.postponed += drained.postponed
                summary.stopped_reason = StoppedReason(drained.stopped_reason)
            case "masked_logins":
                masked += MaskTotals.from_metadata(metadata)
            case "user_logins":
                loaded += LoadTotals.from_metadata(metadata)
    summary.loaded += loaded.loaded
    summary.refused += loaded.rejected
    for step in (masked, loaded):
        summary.duplicates += step.duplicates
        summary.rejected += step.rejected
        summary.quarantined_batches += step.quarantined_batches
    summary.steps_tried_again += sum(event.is_step_restarted for event in result.all_events)
    for evaluation in result.get_asset_check_evaluations():
        if evaluation.check_name == "duplicates":
            counts = _values(evaluation.metadata)
            for name in ("duplicate_rows", "shared_devices", "shared_ips"):
                setattr(summary, name, getattr(summary, name) + counts[name])
        # Without a message the check read an earlier run's batch.
        if evaluation.check_name == "rejection_rate" and masked.messages:
            summary.too_many_rejected |= not evaluation.passed
        if not evaluation.passed and evaluation.severity is dg.AssetCheckSeverity.WARN:
            warning = f"{evaluation.asset_key.to_user_string()}: {evaluation.check_name}"
            if warning not in summary.warnings:
                summary.warnings.append(warning)


def _values(metadata: Mapping[str, dg.MetadataValue[Any]]) -> dict[str, Any]:
    return {name: value.value for name, value in metadata.items()}


def _failure(result: dg.ExecuteInProcessResult) -> str:
    for event in result.all_events:
        if event.is_step_failure:
            data = event.step_failure_data.user_failure_data
            if data is not None and data.description:
                return data.description
    failed = [
        f"{check.asset_key.to_user_string()}: {check.check_name}"
        for check in result.get_asset_check_evaluations()
        if not check.passed and check.severity is dg.AssetCheckSeverity.ERROR
    ]
    if failed:
        return f"checks failed ({', '.join(failed)}): see run {result.run_id} in the Dagster UI (`loginetl ui`)"
    return f"run {result.run_id} failed: see it in the Dagster UI (`loginetl ui`)"
