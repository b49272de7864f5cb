"""Launches Dagster runs from the command line: until the queue is empty, or once over what has landed.

The one module of the command line that imports the definitions; commands import it when they launch a run.
"""

import math
import os
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import dagster as dg

from loginetl_assets.automation.dead_runs import fail_runs_without_worker
from loginetl_assets.automation.jobs import BOUNDED, LOGIN_ETL, PROCESS_LANDED
from loginetl_assets.build import build_definitions
from loginetl_assets.cli.environment import dagster_home
from loginetl_assets.dagster_instance import OurRuns
from loginetl_assets.errors import OperatorError, counted
from loginetl_assets.logins.rejection import Reason
from loginetl_assets.services import Services
from loginetl_assets.steps.drain.engine import DrainTotals
from loginetl_assets.steps.drain.policy import StoppedReason
from loginetl_assets.steps.load import LoadTotals
from loginetl_assets.steps.mask import MaskTotals
from loginetl_assets.steps.totals import StepTotals
from loginetl_assets.steps.verify import Duplicates
from loginetl_assets.storage import rejections
from loginetl_assets.table_name import TableName

REPORT = "login_activity"  # what fails there has loaded all the same


@dataclass(frozen=True)
class RunSummary(StepTotals):
    """What a run did, or several added up: the totals of each asset; of a step that was retried, its last attempt's."""

    raw_login_messages: DrainTotals = DrainTotals()
    masked_logins: MaskTotals = MaskTotals()
    user_logins: LoadTotals = LoadTotals()
    table: Duplicates = Duplicates()
    rejections: Counter[str] = field(default_factory=Counter)  # by reason
    runs_with_many_rejected: int = 0  # more than LOGINETL_MAX_REJECTION_RATE allows
    steps_retried: int = 0
    warnings: tuple[str, ...] = ()  # checks that did not pass
    report_failures: tuple[str, ...] = ()  # why the report was not made; all else was done
    seconds: float = 0.0

    @classmethod
    def of(cls, result: dg.ExecuteInProcessResult) -> "RunSummary":
        """Returns what one run did."""
        totals: dict[str, Any] = {}
        for event in result.get_asset_materialization_events():
            asset = event.asset_key.to_user_string() if event.asset_key else ""
            if isinstance(empty := getattr(cls, asset, None), StepTotals):
                metadata = event.step_materialization_data.materialization.metadata
                totals[asset] = empty.from_metadata(_values(metadata))
        for check in result.get_asset_check_evaluations():
            if check.check_name == "duplicates":
                totals["table"] = Duplicates.from_metadata(_values(check.metadata))
            # Without a message the check read an earlier run's batch.
            if check.check_name == "rejection_rate" and totals["masked_logins"].messages:
                totals["runs_with_many_rejected"] = int(not check.passed)
        return cls(
            **totals,
            steps_retried=sum(event.is_step_restarted for event in result.all_events),
            warnings=tuple(f"{check.asset_key.to_user_string()}: {check.check_name}" for check in _not_passed(result)),
            report_failures=() if result.success else (_failure(result),),
        )

    @property
    def quarantined_batches(self) -> int:
        """By masking and loading."""
        return self.masked_logins.quarantined_batches + self.user_logins.quarantined_batches

    @property
    def is_empty(self) -> bool:
        """Whether there was no message: none drained, masked or loaded."""
        drained, masked, loaded = self.raw_login_messages, self.masked_logins, self.user_logins
        found = (drained.messages, drained.postponed, masked.batches, loaded.batches, self.quarantined_batches)
        return not any(found)

    def needs_attention(self) -> list[str]:
        """Returns what a person should look at, one sentence each."""
        found = []
        if self.quarantined_batches:
            found.append(f"{counted(self.quarantined_batches, 'batch')} quarantined: `loginetl status` says why")
        if refused := self.user_logins.rejected:
            by_reason = f"`loginetl rejected list --reason {Reason.REFUSED_BY_TABLE}`"
            found.append(f"the table refused {counted(refused, 'row')}: {by_reason}")
        if self.runs_with_many_rejected:
            allowed = "more messages were rejected than LOGINETL_MAX_REJECTION_RATE allows"
            found.append(f"{allowed}: `loginetl rejected summary`")
        if postponed := self.raw_login_messages.postponed:
            found.append(f"{counted(postponed, 'payload')} could not be read: SQS delivers the message again")
        if self.report_failures:
            found.append(f"all is loaded, but {REPORT} failed: {self.report_failures[-1]}")
        return found

    def counts(self, table: TableName) -> dict[str, float]:
        """Returns the results by name, as the command line prints them."""
        messages, masked, loaded = self.raw_login_messages.messages, self.masked_logins, self.user_logins
        settled = masked.rejected + masked.duplicates + loaded.rows
        return {
            "messages": messages,
            **({"landed before": settled - messages} if settled > messages else {}),
            f"loaded into {table}": loaded.loaded,
            "duplicates": masked.duplicates + loaded.duplicates,
            "rejected": masked.rejected + loaded.rejected,
            **{f"  {reason}": count for reason, count in self.rejections.items()},
            **({"quarantined batches": self.quarantined_batches} if self.quarantined_batches else {}),
            "duplicate rows": self.table.duplicate_rows,
            "shared devices": self.table.shared_devices,
            "shared IPs": self.table.shared_ips,
            "seconds": round(self.seconds, 1),
            "messages a second": round(max(messages, settled) / self.seconds),
        }


def prepare(services: Services) -> tuple[dg.Definitions, dg.DagsterInstance]:
    """Returns the definitions, and the instance of DAGSTER_HOME; unset, in the local environment, the embedded one."""
    home = str(dagster_home(services))
    os.environ["DAGSTER_HOME"] = home
    definitions = build_definitions(services.settings)
    try:
        return definitions, dg.DagsterInstance.get()
    except Exception as error:  # noqa: BLE001 - whatever storage it has; its text may have the password
        raise OperatorError(
            f"the Dagster instance of DAGSTER_HOME={home} cannot be opened ({type(error).__name__}): check its"
            " dagster.yaml, and that its database is up"
        ) from None


def run_until_empty(
    definitions: dg.Definitions, services: Services, instance: dg.DagsterInstance, max_messages: int | None = None
) -> RunSummary:
    """Runs the job in this process until a drain finds the queue empty or `max_messages` are drained.

    Raises:
        OperatorError: a run failed; the text is the failing step's.
    """

    def runs() -> Iterator[RunSummary]:
        left = max_messages or math.inf
        while left > 0:
            drain = {"max_messages": min(left, services.settings.messages_per_run)}
            yield (done := _run(definitions, instance, LOGIN_ETL, {"raw_login_messages": drain}))
            left -= done.raw_login_messages.messages
            if done.raw_login_messages.stopped_reason is StoppedReason.QUEUE_EMPTY:
                return

    return _sum_of(runs(), services, instance)


def run_landed(
    definitions: dg.Definitions, services: Services, instance: dg.DagsterInstance, masking: Mapping[str, object]
) -> RunSummary:
    """Masks and loads once what has landed, by the given config of masked_logins; leaves the queue alone.

    Raises:
        OperatorError: the run failed; the text is the failing step's.
    """
    run = partial(_run, definitions, instance, PROCESS_LANDED)
    return _sum_of(map(run, [{"masked_logins": masking}]), services, instance)


def _sum_of(runs: Iterator[RunSummary], services: Services, instance: dg.DagsterInstance) -> RunSummary:
    """Carries out the runs, and returns what they did together, with the time and the rejections of all."""
    started = time.monotonic()
    database = services.database()
    with database.transaction() as connection:
        before = Counter(rejections.by_reason(connection))
    # Without a sensor nobody else does: earlier runs of this command, if they were killed, are STARTED still.
    fail_runs_without_worker(OurRuns.on(database, instance, None), database)
    summary = sum(runs, RunSummary())
    with database.transaction() as connection:
        # Where there are fewer than before, a batch was read again, which takes its rejections back first.
        rejected = Counter(rejections.by_reason(connection)) - before
    return replace(summary, rejections=rejected, seconds=time.monotonic() - started)


def _run(
    definitions: dg.Definitions, instance: dg.DagsterInstance, job: str, config: Mapping[str, Mapping[str, object]]
) -> RunSummary:
    result = definitions.resolve_job_def(job).execute_in_process(
        instance=instance,
        tags=BOUNDED,
        run_config={
            "ops": {name: {"config": dict(values)} for name, values in config.items()},
            "loggers": {"console": {"config": {"log_level": "CRITICAL"}}},
        },
        raise_on_error=False,
    )
    failed = {event.step_key for event in result.all_events if event.is_step_failure}
    if not result.success and failed != {REPORT}:
        raise OperatorError(_failure(result))
    return RunSummary.of(result)


def _values(metadata: Mapping[str, dg.MetadataValue[Any]]) -> dict[str, Any]:
    return {name: value.value for name, value in metadata.items()}


def _failure(result: dg.ExecuteInProcessResult) -> str:
    failures = (event.step_failure_data.user_failure_data for event in result.all_events if event.is_step_failure)
    if said := next((data.description for data in failures if data and data.description), None):
        return said
    failed = [check for check in _not_passed(result) if check.severity is dg.AssetCheckSeverity.ERROR]
    said = "; ".join(f"check {check.check_name} did not pass: {check.description}" for check in failed)
    return said or f"run {result.run_id} failed: see it in the Dagster UI (`loginetl ui`)"


def _not_passed(result: dg.ExecuteInProcessResult) -> list[dg.AssetCheckEvaluation]:
    return [check for check in result.get_asset_check_evaluations() if not check.passed]
