"""The sensors: one starts drains when the queue has a backlog, two tell somebody when runs fail or health declines."""

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import dagster as dg

from loginetl_assets.automation.dead_runs import fail_runs_without_worker
from loginetl_assets.automation.jobs import BOUNDED, LOGIN_ETL, PROCESS_LANDED, REPLAY_REJECTED, RETENTION
from loginetl_assets.automation.notifiers import Notifier, condition_changed, run_failed
from loginetl_assets.errors import OperatorError, TransientError
from loginetl_assets.orchestration.automation_state import read_automation
from loginetl_assets.orchestration.our_runs import INSTALLATION_TAG, OurRuns, label_of
from loginetl_assets.resources import LoginDatabaseResource, LoginQueueResource, RulesResource
from loginetl_assets.settings import Settings
from loginetl_assets.steps.health import QUARANTINED_BATCHES, QUEUE_NOT_DRAINED, look
from loginetl_assets.storage import batches as ledger

IN_FLIGHT = [
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]

TICK_SECONDS = 30
HEALTH_SECONDS = 60

# A fault that stays must not cost a run every tick: each counts as a receive in the queue's redrive policy.
LONGEST_PAUSE = timedelta(minutes=10)


def queue_depth_sensor(
    *, messages_per_run: int, max_runs_in_flight: int, default_status: dg.DefaultSensorStatus
) -> dg.SensorDefinition:
    """Builds the sensor that asks for as many bounded drains as the backlog and a maximum allow.

    It reads the queue's depth and the runs in flight and keeps no cursor. Its requests carry no run key: one that
    was ever launched would be skipped for ever, even when its run failed.

    Args:
        messages_per_run: what one drain takes at most; the backlog is divided by it.
        max_runs_in_flight: how many drains may be under way at once, whoever asked for them.
        default_status: whether it runs without being switched on.
    """

    @dg.sensor(
        name="queue_depth",
        job_name=LOGIN_ETL,
        minimum_interval_seconds=TICK_SECONDS,
        default_status=default_status,
        description="Starts drains while messages wait on the queue or batches wait in the landing; reports runs failed"
        " whose worker is gone.",
    )
    def queue_depth(
        context: dg.SensorEvaluationContext, queue: LoginQueueResource, database: LoginDatabaseResource
    ) -> dg.SensorResult | dg.SkipReason:
        try:
            open_database = database.get_client()
            with open_database.transaction() as connection:
                installation = str(ledger.installation_id(connection))
            ours = OurRuns(context.instance, installation, _code_location(context))
            for run_id in fail_runs_without_worker(context.instance, ours, open_database):
                context.log.warning(f"run {run_id} has no living worker and was reported failed")  # noqa: G004 - an id
            with open_database.transaction() as connection:
                pending = ledger.totals(connection).pending_batches
            waiting = queue.get_client().depth().waiting
        except (OperatorError, TransientError) as error:
            # A skipped tick says so on the page; a failing one would fill the daemon's log for as long as it lasts.
            return dg.SkipReason(str(error))
        at_work = ours.records(statuses=IN_FLIGHT)
        in_flight = len(_drains(at_work))
        if in_flight >= max_runs_in_flight:
            return dg.SkipReason(f"{in_flight} drains are in flight, as many as are allowed")
        wanted = min(math.ceil(waiting / messages_per_run), max_runs_in_flight) - in_flight
        if waiting == 0:
            if pending == 0 or at_work:
                return dg.SkipReason(f"no message waits; {pending} batches are pending, {len(at_work)} runs in flight")
            wanted = 1
        if wanted <= 0:
            return dg.SkipReason(f"{waiting} messages wait; the {in_flight} drains in flight suffice")
        if pause := _back_off(ours):
            return dg.SkipReason(
                f"{waiting} messages wait and {pending} batches are pending, but the last runs failed: the next one in"
                f" {math.ceil(pause.total_seconds())} s"
            )
        return dg.SensorResult(
            run_requests=[
                dg.RunRequest(
                    run_config={"ops": {"raw_login_messages": {"config": {"max_messages": messages_per_run}}}},
                    tags={"loginetl/waiting_messages": str(waiting), INSTALLATION_TAG: installation, **BOUNDED},
                )
                for _ in range(wanted)
            ]
        )

    return queue_depth


def _code_location(context: dg.SensorEvaluationContext) -> str | None:
    """The label of the code location that a tick belongs to, as `label_of` gives it for a run."""
    origin = context.code_location_origin
    return f"{context.repository_name}@{origin.location_name}" if origin else None


def _back_off(ours: OurRuns) -> timedelta:
    """How long the next drain should still wait: longer with every failure in a row, not at all after one."""
    in_a_row = 0
    ended = [dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED]
    records = _drains(ours.records(statuses=ended, limit=50))
    for record in records:
        if record.dagster_run.status is not dg.DagsterRunStatus.FAILURE:
            break
        in_a_row += 1
    if not in_a_row:
        return timedelta()
    pause: timedelta = min(timedelta(seconds=TICK_SECONDS) * (2 ** (in_a_row - 1) - 1), LONGEST_PAUSE)
    passed: timedelta = datetime.now(UTC) - records[0].update_timestamp
    return max(pause - passed, timedelta())


def _drains(records: Sequence[dg.RunRecord]) -> list[dg.RunRecord]:
    """Runs that may drain: this job's, and those that somebody started by materialising assets."""
    others = {RETENTION, REPLAY_REJECTED, PROCESS_LANDED}
    return [record for record in records if record.dagster_run.job_name not in others]


def failed_run_sensor(notifier: Notifier, *, default_status: dg.DefaultSensorStatus) -> dg.SensorDefinition:
    """Builds the sensor that tells a notifier when a job of this code location begins to fail."""

    @dg.run_failure_sensor(
        name="failed_run",
        default_status=default_status,
        description="Tells the notifier of a failed run: job, run id, failed steps; no values. Of failures in a row at"
        " the same steps only the first.",
    )
    def failed_run(context: dg.RunFailureSensorContext) -> dg.SkipReason | None:
        run = context.dagster_run
        failed_steps = _failed_steps(context.instance, run.run_id)
        before = _finished_before(context.instance, run)
        if (
            before is not None
            and before.status is dg.DagsterRunStatus.FAILURE
            and _failed_steps(context.instance, before.run_id) == failed_steps
        ):
            return dg.SkipReason("told already: the run before it failed at the same steps")
        notifier.notify(run_failed(run.job_name, run.run_id, failed_steps))
        return None

    return failed_run


def _failed_steps(instance: dg.DagsterInstance, run_id: str) -> list[str]:
    failures = instance.all_logs(run_id, of_type=dg.DagsterEventType.STEP_FAILURE)
    return sorted({entry.step_key for entry in failures if entry.step_key is not None})


def _finished_before(instance: dg.DagsterInstance, run: dg.DagsterRun) -> dg.DagsterRun | None:
    """The newest finished run of the same job that was made before this one.

    The database is not asked, as it may be what failed: a run that began names the installation itself.
    """
    ours = OurRuns(instance, run.tags.get(INSTALLATION_TAG), label_of(run))
    records = ours.records(job_name=run.job_name, limit=50)
    made = next((one.create_timestamp for one in records if one.dagster_run.run_id == run.run_id), None)
    earlier = [
        one.dagster_run
        for one in records
        if made is not None and one.create_timestamp < made and one.dagster_run.is_finished
    ]
    return earlier[0] if earlier else None


def health_sensor(notifier: Notifier, *, default_status: dg.DefaultSensorStatus) -> dg.SensorDefinition:
    """Builds the sensor that tells a notifier when something about the pipeline's health begins and ceases to be wrong.

    The conditions that hold are its cursor, and each quarantined batch, so each is told once, however long it lasts and
    however many runs see it.
    """

    @dg.sensor(
        name="health",
        minimum_interval_seconds=HEALTH_SECONDS,
        default_status=default_status,
        description="Tells the notifier, once each, of batches set aside, messages that wait too long, a queue or a"
        " database that cannot be reached, and too many rejections; and when that is over.",
    )
    def health(
        context: dg.SensorEvaluationContext,
        queue: LoginQueueResource,
        database: LoginDatabaseResource,
        rules: RulesResource,
    ) -> dg.SkipReason:
        told: set[str] = set(json.loads(context.cursor or "[]"))
        told_conditions = {_condition_of(mark) for mark in told}
        try:
            seen = look(database.get_client(), queue.get_client())
            hold = seen.conditions(max_rejection_rate=rules.max_rejection_rate, freshness_hours=rules.freshness_hours)
            hold |= _switched_off(context, database.services.settings)
            if seen.depth is None and QUEUE_NOT_DRAINED in told:
                hold[QUEUE_NOT_DRAINED] = ""  # of this nothing is known
            marks = hold.keys() | {f"{QUARANTINED_BATCHES}/{one.batch_id}" for one in seen.quarantined}
        except (OperatorError, TransientError) as error:
            # Of the others nothing is known.
            hold = {**dict.fromkeys(told_conditions, ""), "database_unreachable": str(error)}
            marks = told | hold.keys()
        for name in {_condition_of(mark) for mark in marks - told}:
            notifier.notify(condition_changed(name, hold[name], holds=True))
        for name in told_conditions - hold.keys():
            notifier.notify(condition_changed(name, "", holds=False))
        context.update_cursor(json.dumps(sorted(marks)))
        return dg.SkipReason("; ".join(text or name for name, text in sorted(hold.items())) or "all is well")

    return health


def _switched_off(context: dg.SensorEvaluationContext, settings: Settings) -> dict[str, str]:
    """What of the automation is off while this sensor is on, which some daemon evaluates."""
    automation = read_automation(context.instance, settings, _code_location(context))
    return replace(automation, daemon_beats=True).conditions(settings) if automation else {}


def _condition_of(mark: str) -> str:
    """The condition of a mark in the health sensor's cursor: `condition`, or `condition/batch`."""
    return mark.partition("/")[0]
