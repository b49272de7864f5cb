"""The jobs: the pipeline in one process, and retention."""

import time
from datetime import UTC, datetime, timedelta

import dagster as dg
from pydantic import Field

from loginetl_assets.automation.our_runs import OurRuns
from loginetl_assets.landing.batch_files import delete_objects, delete_pending
from loginetl_assets.landing.object_store import Landing
from loginetl_assets.resources.configured import KeyringResource, LandingResource, LoginDatabaseResource, label_of
from loginetl_assets.resources.failures import failures_without_values
from loginetl_assets.steps.replay import replay_rejected, selection
from loginetl_assets.steps.unregistered_objects import delete_purged, delete_unnamed_masked, register_unnamed
from loginetl_assets.steps.vault_sweep import sweep_vault
from loginetl_assets.storage import batches as ledger
from loginetl_assets.storage.database import LoginDatabase

LOGIN_ETL = "login_etl"
PROCESS_LANDED = "process_landed"
REPLAY_REJECTED = "replay_rejected"
RETENTION = "retention"

# The last resort, for a run that hangs: it counts as in flight, so it must not hold up the drains for longer than an
# hour. A drain stops receiving after 10 minutes. Runs whose worker is gone are found by their silence.
BOUNDED = {"dagster/max_runtime": "3600"}

# In one process: three assets and their checks take 3 s there and 12 to 15 s with a process per step (two cores).
login_etl = dg.define_asset_job(
    LOGIN_ETL,
    selection=dg.AssetSelection.groups("logins"),
    executor_def=dg.in_process_executor,
    description="Drains the queue, masks, loads and checks: all that is pending, within the drain's bounds.",
)

process_landed = dg.define_asset_job(
    PROCESS_LANDED,
    selection=dg.AssetSelection.groups("logins") - dg.AssetSelection.assets("raw_login_messages"),
    executor_def=dg.in_process_executor,
    description="Masks, loads and checks what has landed, and leaves the queue alone: after a replay, or, with"
    " `reprocess`, once a rule or a setting was mended.",
)

# An object that no batch names was left by a run that died, or by a Postgres that was put back to an earlier moment. A
# run may name it within its transaction's life, so only what is older than this is taken for one.
ORPHAN_AGE = timedelta(days=1)


class ReplayConfig(dg.Config):
    """Which rejected messages to replay: those for which everything given holds; all of them if nothing is."""

    message_ids: list[str] = Field(default_factory=list, description="Only these, as `loginetl rejected list` names.")
    reason: str = Field(default="", description="Only this reason.")
    since: str = Field(default="", description="Only those rejected at or after this time (ISO 8601, UTC).")
    until: str = Field(default="", description="Only those rejected before this time (ISO 8601, UTC).")


@dg.op(description="Lands rejected messages once more; the next run of login_etl or process_landed decides anew.")
def replay(
    context: dg.OpExecutionContext,
    config: ReplayConfig,
    landing: LandingResource,
    database: LoginDatabaseResource,
    keyring: KeyringResource,
) -> None:
    """Replays what is meant; every step can be repeated."""
    with failures_without_values():
        which = selection(config.message_ids, config.reason, config.since, config.until)
        open_database = database.open()
        counts = replay_rejected(
            open_database,
            landing.open(open_database),
            landing.open_payloads(),
            keyring.open(),
            which,
            run_id=context.run.run_id,
        )
        context.add_output_metadata(vars(counts))


@dg.job(
    name=REPLAY_REJECTED,
    executor_def=dg.in_process_executor,
    description="Replays rejected messages: they land again, and the queue_depth sensor (or process_landed) does the"
    " rest.",
)
def replay_job() -> None:
    """One op."""
    replay()


class RetentionConfig(dg.Config):
    """How long what is kept."""

    # As LOGINETL_RETENTION_DAYS, which the schedule gives: below SQS's retention a message could come again.
    days: int = Field(default=30, ge=15, le=3_650, description="Remove what is older than this.")


@dg.op(description="Removes what nobody needs any more: landing, masked files, message ids, Dagster's runs.")
def purge(
    context: dg.OpExecutionContext,
    config: RetentionConfig,
    landing: LandingResource,
    database: LoginDatabaseResource,
    keyring: KeyringResource,
) -> None:
    """Purges by age; every step can be repeated, and a purge that died is finished by the next."""
    with failures_without_values():
        started = time.monotonic()
        now = datetime.now(UTC)
        cutoff = now - timedelta(days=config.days)
        open_database = database.open()
        files = landing.open(open_database)
        objects = _purge_expired(open_database, files, cutoff)
        objects += delete_pending(open_database, files)
        unnamed = register_unnamed(
            open_database, files, keyring.open(), before=now - ORPHAN_AGE, run_id=context.run.run_id
        )
        orphans = unnamed.deleted + files.delete_unfinished(now - ORPHAN_AGE)
        orphans += delete_unnamed_masked(open_database, files, before=now - ORPHAN_AGE)
        orphans += delete_purged(open_database, files, before=now - ORPHAN_AGE)
        if unnamed.unreadable_objects:
            context.log.warning(
                f"{unnamed.unreadable_objects} objects of the landing are named by no batch and do not open: check"  # noqa: G004 - a count
                " LOGINETL_KEYSET_LANDING, or delete what is not loginetl's"
            )
        with open_database.transaction() as connection:
            message_ids = ledger.prune_messages(
                connection, now - max(ledger.REDELIVERY, now - cutoff), unread_since=unnamed.unread_since
            )
            installation = str(ledger.installation_id(connection))
        runs = _purge_runs(context.instance, OurRuns(context.instance, installation, label_of(context.run)), cutoff)
        swept = sweep_vault(open_database, files)  # the last: it fails where row-level security hides rows
        context.add_output_metadata(
            {
                "objects": objects,
                "registered_batches": unnamed.registered_batches,
                "registered_messages": unnamed.registered_messages,
                "unreadable_objects": unnamed.unreadable_objects,
                "orphans": orphans,
                "message_ids": message_ids,
                "unneeded_vault_entries": swept.removed,
                "unreadable_batches": swept.unreadable_batches,
                "dagster_runs": runs,
                "seconds": round(time.monotonic() - started, 3),
            }
        )


def _purge_expired(database: LoginDatabase, files: Landing, cutoff: datetime) -> int:
    """Deletes the objects of batches that were loaded before the cutoff; returns how many."""
    objects = 0
    while True:
        with database.transaction() as connection:
            expired = ledger.expired_batches(connection, cutoff, limit=500)
            if not expired:
                return objects
            # The files go before the rows that name them: a purge that dies in between meets them again.
            keys = [key for batch in expired for key in (batch.object_path, batch.masked_path) if key]
            delete_objects(connection, files, keys)
            ledger.mark_purged(connection, [batch.batch_id for batch in expired])
            objects += len(keys)


def _purge_runs(instance: dg.DagsterInstance, ours: OurRuns, cutoff: datetime) -> int:
    """Deletes our runs that ended before the cutoff, with their events and compute logs; returns how many."""
    run_ids = ours.ids(
        updated_before=cutoff,
        statuses=[dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED],
    )
    for run_id in run_ids:
        instance.compute_log_manager.delete_logs(prefix=[run_id])  # first: without the run nobody finds them
        instance.delete_run(run_id)
    return len(run_ids)


@dg.job(
    name=RETENTION,
    executor_def=dg.in_process_executor,
    description="Retention: landing, masked files, settled message ids, Dagster's runs and their events.",
)
def retention() -> None:
    """One op: the steps need each other's order and share connections."""
    purge()
