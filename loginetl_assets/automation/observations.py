"""What the sensors write onto assets' pages: observations of the queue, and results of the health checks.

Such an event belongs to no run, and Dagster's API cannot delete single ones, so few are written.
docs/dagster.md has the numbers.
"""

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

import dagster as dg

from loginetl_assets.assets.metadata import QUEUE
from loginetl_assets.aws.sqs import LoginQueue, QueueDepth

# A plot of a busy queue needs no more points; one of an idle queue shows that the sensor runs.
MIN_INTERVAL = timedelta(minutes=5)
MAX_INTERVAL = timedelta(hours=1)


def observe_queue(instance: dg.DagsterInstance, queue: LoginQueue, depth: QueueDepth) -> None:
    """Writes an observation of the queue where the newest one differs or is old."""
    for newest in instance.fetch_observations(QUEUE, limit=1).records:
        metadata = newest.asset_observation.metadata if newest.asset_observation else {}
        seen = {name: value.value for name, value in metadata.items() if name in vars(depth)}
        if _age(newest.timestamp) < (MAX_INTERVAL if seen == vars(depth) else MIN_INTERVAL):
            return
    more = {"dead_letters": queue.dead_letters(), "oldest_message_seconds": queue.oldest_message_seconds()}
    known = {name: value for name, value in more.items() if value is not None}
    instance.report_runless_asset_event(dg.AssetObservation(QUEUE, metadata={**vars(depth), **known}))


def report_health(instance: dg.DagsterInstance, evaluations: Iterable[dg.AssetCheckEvaluation]) -> None:
    """Writes each result that differs from the newest one of its check, or where that is old, or not shown."""
    for one in evaluations:
        newest = instance.get_latest_asset_check_evaluation_record(one.asset_check_key)
        said = newest and newest.evaluation  # or what is planned, whatever its type says
        if newest and isinstance(said, dg.AssetCheckEvaluation):
            same = (said.passed, said.severity) == (one.passed, one.severity)
            same &= said.metadata.get("conditions") == one.metadata.get("conditions")
            same &= _is_shown(instance, said, newest.run_id, newest.create_timestamp)
            is_written = same and _age(newest.create_timestamp) < MAX_INTERVAL
        else:
            # A run has announced the check, and it reports unless it fails before; so a condition does not wait for it.
            run = instance.get_run_by_id(newest.run_id) if newest and one.passed else None
            is_written = run is not None and not run.is_finished
        if not is_written:
            instance.report_runless_asset_event(one)


def _is_shown(instance: dg.DagsterInstance, newest: dg.AssetCheckEvaluation, run_id: str, created_at: float) -> bool:
    """Returns whether the Dagster UI takes a result for one of the asset's latest materialization.

    Of two runs that overlap, the one with the newest result need not have materialized last: it shows "not evaluated".
    """
    target = newest.target_materialization_data  # None where no run has written it
    return all(
        run_id == latest.run_id or (target.storage_id == latest.storage_id if target else created_at > latest.timestamp)
        for latest in instance.fetch_materializations(newest.asset_key, limit=1).records
    )


def _age(timestamp: float) -> timedelta:
    return datetime.now(UTC) - datetime.fromtimestamp(timestamp, UTC)
