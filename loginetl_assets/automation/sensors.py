"""The sensors: one starts drains when the queue has a backlog, one tells somebody when a run fails."""

import math
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import dagster as dg

from loginetl_assets.automation.jobs import LOGIN_ETL, RETENTION
from loginetl_assets.automation.notifiers import Alert, Notifier
from loginetl_assets.errors import OperatorError, TransientError
from loginetl_assets.resources import ledger
from loginetl_assets.resources.configured import LoginDatabaseResource, LoginQueueResource

IN_FLIGHT = [
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]

# Batches left behind by a failed run are worth another, but not one every tick where the fault stays.
RETRY_PENDING_AFTER = timedelta(minutes=10)

TICK_SECONDS = 30


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
        description="Starts drains while messages wait on the queue or batches wait in the landing.",
    )
    def queue_depth(
        context: dg.SensorEvaluationContext, queue: LoginQueueResource, database: LoginDatabaseResource
    ) -> dg.SensorResult | dg.SkipReason:
        in_flight = len(_drains(context.instance.get_run_records(dg.RunsFilter(statuses=IN_FLIGHT))))
        if in_flight >= max_runs_in_flight:
            return dg.SkipReason(f"{in_flight} drains are in flight, as many as are allowed")
        try:
            waiting = queue.open().depth().waiting
            with database.open().transaction() as connection:
                pending = ledger.totals(connection).pending_batches
        except (OperatorError, TransientError) as error:
            # A skipped tick says so on the page; a failing one would fill the daemon's log for as long as it lasts.
            return dg.SkipReason(str(error))
        wanted = min(math.ceil(waiting / messages_per_run), max_runs_in_flight) - in_flight
        if waiting == 0:
            if pending == 0 or in_flight:
                return dg.SkipReason(f"no message waits; {pending} batches are pending, {in_flight} drains in flight")
            if _failed_lately(context.instance):
                return dg.SkipReason(f"{pending} batches are pending, but the last run failed and waits for its turn")
            wanted = 1
        if wanted <= 0:
            return dg.SkipReason(f"{waiting} messages wait; the {in_flight} drains in flight suffice")
        return dg.SensorResult(
            run_requests=[
                dg.RunRequest(
                    run_config={"ops": {"raw_login_messages": {"config": {"max_messages": messages_per_run}}}},
                    tags={"loginetl/waiting_messages": str(waiting)},
                )
                for _ in range(wanted)
            ]
        )

    return queue_depth


def _failed_lately(instance: dg.DagsterInstance) -> bool:
    records = _drains(instance.get_run_records(limit=20))
    return any(
        record.dagster_run.status is dg.DagsterRunStatus.FAILURE
        and datetime.now(UTC) - record.update_timestamp < RETRY_PENDING_AFTER
        for record in records[:1]
    )


def _drains(records: Sequence[dg.RunRecord]) -> list[dg.RunRecord]:
    """Runs that may drain: this job's, and those that somebody started by materialising assets."""
    return [record for record in records if record.dagster_run.job_name != RETENTION]


def failed_run_sensor(notifier: Notifier, *, default_status: dg.DefaultSensorStatus) -> dg.SensorDefinition:
    """Builds the sensor that hands every failed run of this code location to a notifier."""

    @dg.run_failure_sensor(
        name="failed_run",
        default_status=default_status,
        description="Tells the notifier of every failed run: job, run id, failed steps; no values.",
    )
    def failed_run(context: dg.RunFailureSensorContext) -> None:
        notifier.notify(
            Alert(
                job=context.dagster_run.job_name,
                run_id=context.dagster_run.run_id,
                failed_steps=tuple(
                    event.step_key for event in context.get_step_failure_events() if event.step_key is not None
                ),
            )
        )

    return failed_run
