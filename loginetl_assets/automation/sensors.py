"""The sensors: one starts drains when the queue has a backlog, the others send alerts: of runs and of health."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from itertools import takewhile

import dagster as dg

from loginetl_assets.automation.dead_runs import fail_runs_without_worker
from loginetl_assets.automation.jobs import BOUNDED, LOGIN_ETL, PROCESS_LANDED, REPLAY_REJECTED, RETENTION
from loginetl_assets.automation.notifiers import Alerts
from loginetl_assets.automation.observations import observe_queue, report_health
from loginetl_assets.checks.health import evaluations
from loginetl_assets.conditions import Condition
from loginetl_assets.dagster_instance import ENDED, INSTALLATION_TAG, OurRuns, label_of, read_automation
from loginetl_assets.errors import OperatorError, TransientError, counted
from loginetl_assets.resources import LoginDatabaseResource, LoginQueueResource
from loginetl_assets.steps.health import read_health
from loginetl_assets.storage import batches

TICK_SECONDS = 30
HEALTH_SECONDS = 60

# A fault that stays must not cost a run every tick: each counts as a receive in the queue's redrive policy.
LONGEST_PAUSE = timedelta(minutes=10)


@dataclass(frozen=True)
class Backlog:
    """What waits, and what is at work on it."""

    queued: int  # messages on the queue
    pending_batches: int
    drains_in_flight: int
    runs_in_flight: int  # drains among them

    def wanted_drains(self, *, messages_per_run: int, max_runs_in_flight: int) -> int:
        """Returns how many more drains the backlog needs, within the maximum; none where those in flight suffice."""
        if self.queued == 0:  # batches of a run that failed, or of a replay
            return int(self.pending_batches > 0 and self.runs_in_flight == 0)
        return max(min(math.ceil(self.queued / messages_per_run), max_runs_in_flight) - self.drains_in_flight, 0)

    def __str__(self) -> str:
        """For people."""
        return (
            f"{counted(self.queued, 'message')} on the queue, {counted(self.pending_batches, 'batch')} pending,"
            f" {counted(self.drains_in_flight, 'drain')} in flight, {counted(self.runs_in_flight, 'run')} in flight"
        )


def queue_depth_sensor(
    *, messages_per_run: int, max_runs_in_flight: int, default_status: dg.DefaultSensorStatus
) -> dg.SensorDefinition:
    """Builds the sensor that requests as many bounded drains as the backlog and a maximum allow.

    It reads the queue's depth and the runs in flight, whoever asked for them, and keeps no cursor. Its requests carry
    no run key: one that was ever launched would be skipped for ever, even when its run failed.
    """

    @dg.sensor(
        name="queue_depth",
        job_name=LOGIN_ETL,
        minimum_interval_seconds=TICK_SECONDS,
        default_status=default_status,
        description="Starts drains while messages wait on the queue or batches are pending; observes the asset"
        " login_queue; reports runs failed whose worker died.",
    )
    def queue_depth(
        context: dg.SensorEvaluationContext, queue: LoginQueueResource, database: LoginDatabaseResource
    ) -> dg.SensorResult | dg.SkipReason:
        try:
            opened = database.get_client()
            ours = OurRuns.on(opened, context.instance, _code_location(context))
            for run_id in fail_runs_without_worker(ours, opened):
                context.log.warning(f"run {run_id} has no living worker and was reported failed")  # noqa: G004 - an id
            with opened.transaction() as connection:
                pending = batches.totals(connection).pending_batches
            login_queue = queue.get_client()
            depth = login_queue.depth()
            observe_queue(context.instance, login_queue, depth)
            at_work = ours.records(statuses=[one for one in dg.DagsterRunStatus if one not in ENDED])
            backlog = Backlog(depth.queued, pending, len(_drains(at_work)), len(at_work))
        except (OperatorError, TransientError) as error:
            # A skipped tick says so in the UI; a failing one would fill the daemon's log.
            return dg.SkipReason(str(error))
        wanted = backlog.wanted_drains(messages_per_run=messages_per_run, max_runs_in_flight=max_runs_in_flight)
        if not wanted:
            return dg.SkipReason(f"no more drains needed, or as many as are allowed: {backlog}")
        if pause := _back_off(ours):
            seconds = math.ceil(pause.total_seconds())
            return dg.SkipReason(f"{backlog}, but the last runs failed: the next one in {seconds} s")
        tags = {"loginetl/queued_messages": str(backlog.queued), INSTALLATION_TAG: str(ours.installation), **BOUNDED}
        config = {"ops": {"raw_login_messages": {"config": {"max_messages": messages_per_run}}}}
        return dg.SensorResult(run_requests=[dg.RunRequest(run_config=config, tags=tags) for _ in range(wanted)])

    return queue_depth


def _code_location(context: dg.SensorEvaluationContext) -> str | None:
    """The label of the code location that a tick belongs to, as `label_of` returns it for a run."""
    origin = context.code_location_origin
    return f"{context.repository_name}@{origin.location_name}" if origin else None


def _back_off(ours: OurRuns) -> timedelta:
    """Returns how long the next drain must still wait: longer with every failure in a row, not at all after one."""
    records = _drains(ours.records(statuses=ENDED, limit=50))
    failures = list(takewhile(lambda one: one.dagster_run.status is dg.DagsterRunStatus.FAILURE, records))
    if not failures:
        return timedelta()
    pause: timedelta = min(timedelta(seconds=TICK_SECONDS) * (2 ** (len(failures) - 1) - 1), LONGEST_PAUSE)
    passed: timedelta = datetime.now(UTC) - failures[0].update_timestamp
    return max(pause - passed, timedelta())


def _drains(records: Sequence[dg.RunRecord]) -> list[dg.RunRecord]:
    """Returns the runs that may drain: this job's, and those that were started by materializing assets."""
    others = {RETENTION, REPLAY_REJECTED, PROCESS_LANDED}
    return [record for record in records if record.dagster_run.job_name not in others]


def failed_run_sensor(alerts: Alerts, *, default_status: dg.DefaultSensorStatus) -> dg.SensorDefinition:
    """Builds the sensor that sends an alert when a job of this code location starts to fail."""

    @dg.run_failure_sensor(
        name="failed_run",
        default_status=default_status,
        description="Sends an alert for a failed run: job, run id, failed steps; no values. Of consecutive failures"
        " at the same steps, only the first.",
    )
    def failed_run(context: dg.RunFailureSensorContext) -> None:
        run = context.dagster_run
        failed_steps = _failed_steps(context.instance, run.run_id)
        before = _failed_before(context.instance, run)
        if before is not None and _failed_steps(context.instance, before.run_id) == failed_steps:
            context.log.info("already alerted: the run before it failed at the same steps")
        else:
            alerts.run_failed(run.job_name, run.run_id, failed_steps)

    return failed_run


def recovered_run_sensor(alerts: Alerts, *, default_status: dg.DefaultSensorStatus) -> dg.SensorDefinition:
    """Builds the sensor that resolves the alert of a failed job when it succeeds again."""

    @dg.run_status_sensor(
        run_status=dg.DagsterRunStatus.SUCCESS,
        name="recovered_run",
        default_status=default_status,
        description="Sends the alert that a failure is resolved for the first run of a job that succeeds after a failed"
        " one.",
    )
    def recovered_run(context: dg.RunStatusSensorContext) -> None:
        run = context.dagster_run
        if _failed_before(context.instance, run):
            alerts.run_succeeded(run.job_name, run.run_id)

    return recovered_run


def _failed_steps(instance: dg.DagsterInstance, run_id: str) -> list[str]:
    failures = instance.all_logs(run_id, of_type=dg.DagsterEventType.STEP_FAILURE)
    return sorted({entry.step_key for entry in failures if entry.step_key is not None})


def _failed_before(instance: dg.DagsterInstance, run: dg.DagsterRun) -> dg.DagsterRun | None:
    """Returns the run of the same job that ended last before this one, if it failed; cancelled ones do not count.

    By their ends, since runs overlap. The database is not asked, as it may be what failed: a run that began names the
    installation itself.
    """
    ours = OurRuns(instance, run.tags.get(INSTALLATION_TAG), label_of(run))
    ended = [dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE]
    records = ours.records(job_name=run.job_name, statuses=ended, limit=50)
    runs = [one.dagster_run for one in sorted(records, key=lambda one: (one.end_time or 0.0, one.storage_id))]
    run_ids = [one.run_id for one in runs]
    place = run_ids.index(run.run_id) if run.run_id in run_ids else 0  # 0: that sensor is far behind
    return runs[place - 1] if place and runs[place - 1].status is dg.DagsterRunStatus.FAILURE else None


def health_sensor(alerts: Alerts, *, default_status: dg.DefaultSensorStatus) -> dg.SensorDefinition:
    """Builds the sensor that sends an alert when a condition of the pipeline's health starts, and when it is resolved.

    It also writes what it finds as results of the health checks, so that the graph shows it between runs. Its cursor
    holds the active conditions and each quarantined batch, so each alerts once, however long it lasts and however many
    runs see it.
    """

    @dg.sensor(
        name="health",
        minimum_interval_seconds=HEALTH_SECONDS,
        default_status=default_status,
        description="Keeps the checks `health` and `queue_health` up to date between runs. Alerts once when a condition"
        " begins, such as quarantined batches or an unreachable queue, and once when it is resolved.",
    )
    def health(
        context: dg.SensorEvaluationContext, queue: LoginQueueResource, database: LoginDatabaseResource
    ) -> dg.SkipReason:
        known: set[str] = set(json.loads(context.cursor or "[]"))
        known_conditions = {_condition_of(mark) for mark in known}
        settings, found = database.services.settings, None
        try:
            found = read_health(database.get_client(), queue.get_client())
            active = found.conditions(**settings.thresholds)
            if automation := read_automation(context.instance, settings, _code_location(context)):
                # This sensor is on, so a daemon evaluates it.
                active |= replace(automation, daemon_beats=True).conditions(settings)
            if found.depth is None and Condition.QUEUE_NOT_DRAINED in known:
                active[Condition.QUEUE_NOT_DRAINED] = ""  # unknown while the queue does not answer
            marks = active.keys() | {f"{Condition.QUARANTINED_BATCHES}/{one.batch_id}" for one in found.quarantined}
        except (OperatorError, TransientError) as error:
            # The others are unknown.
            active = {**dict.fromkeys(known_conditions, ""), Condition.DATABASE_UNREACHABLE: str(error)}
            marks = known | active.keys()
        # First: an alert that is not delivered ends the tick.
        report_health(context.instance, evaluations(found, active, settings))
        for name in {_condition_of(mark) for mark in marks - known}:
            alerts.condition_changed(Condition(name), active[name], active=True)
        for name in known_conditions - active.keys():
            alerts.condition_changed(Condition(name), "", active=False)
        context.update_cursor(json.dumps(sorted(marks)))
        return dg.SkipReason("; ".join(text or name for name, text in sorted(active.items())) or "healthy")

    return health


def _condition_of(mark: str) -> str:
    """Returns the condition of a mark in the health sensor's cursor: `condition`, or `condition/batch`."""
    return mark.partition("/")[0]
