"""The jobs: the pipeline in one process, replay, and retention with its schedule."""

import time
from datetime import UTC, datetime, timedelta

import dagster as dg
from pydantic import Field

from loginetl_assets.checks.health import QUEUE_HEALTH
from loginetl_assets.dagster_instance import OurRuns, label_of
from loginetl_assets.errors import counted
from loginetl_assets.failures import failures_without_values
from loginetl_assets.resources import KeyringResource, LandingResource, LoginDatabaseResource, PayloadsResource
from loginetl_assets.steps.replay import replay_rejected, selection
from loginetl_assets.steps.retention import apply_retention
from loginetl_assets.steps.vault_sweep import sweep_vault

LOGIN_ETL = "login_etl"
PROCESS_LANDED = "process_landed"
REPLAY_REJECTED = "replay_rejected"
RETENTION = "retention"

# The last resort, for a run that hangs: it counts as in flight, so it must not hold up the drains for longer than an
# hour. A drain stops receiving after 10 minutes. Runs whose worker is gone are found by their missing heartbeat.
BOUNDED = {"dagster/max_runtime": "3600"}

# The queue itself is not materialized, so its check is not part of a selection of assets.
_CHECKED = dg.AssetSelection.groups("logins") | dg.AssetSelection.checks(QUEUE_HEALTH)

# In one process: three assets and their checks take 3 s there and 12 to 15 s with a process per step (two cores).
login_etl = dg.define_asset_job(
    LOGIN_ETL,
    selection=_CHECKED,
    executor_def=dg.in_process_executor,
    description="Drains the queue, masks, loads and checks: all that is pending, within the drain's bounds.",
)

process_landed = dg.define_asset_job(
    PROCESS_LANDED,
    selection=_CHECKED - dg.AssetSelection.assets("raw_login_messages"),
    executor_def=dg.in_process_executor,
    description="Masks, loads and checks what has landed, and leaves the queue alone: after a replay, or, with"
    " `reprocess`, once a rule or a setting was corrected.",
)


class ReplayConfig(dg.Config):
    """Which rejected messages to replay: those that meet every given condition; all of them if none is given."""

    message_ids: list[str] = Field(default_factory=list, description="Only these, by id: `loginetl rejected list`.")
    reason: str = Field(default="", description="Only this reason.")
    since: str = Field(default="", description="Only those rejected at or after this time (ISO 8601, UTC).")
    until: str = Field(default="", description="Only those rejected before this time (ISO 8601, UTC).")


@dg.op(description="Lands rejected messages again; the next run of login_etl or process_landed validates them again.")
def replay(
    context: dg.OpExecutionContext,
    config: ReplayConfig,
    landing: LandingResource,
    payloads: PayloadsResource,
    database: LoginDatabaseResource,
    keyring: KeyringResource,
) -> None:
    """Replays the selected messages; can be repeated."""
    with failures_without_values():
        which = selection(config.message_ids, config.reason, config.since, config.until)
        opened = database.get_client()
        totals = replay_rejected(
            opened,
            landing.get_client(opened),
            payloads.get_client(),
            keyring.get_client(),
            which,
            run_id=context.run.run_id,
        )
        context.add_output_metadata(totals.as_metadata())


@dg.job(
    name=REPLAY_REJECTED,
    executor_def=dg.in_process_executor,
    description="Replays rejected messages: they land again, and the run that the queue_depth sensor starts (or"
    " process_landed) validates and loads them.",
)
def replay_job() -> None:
    """One op."""
    replay()


class RetentionConfig(dg.Config):
    """How long data is kept."""

    # As LOGINETL_RETENTION_DAYS, which the schedule passes: below SQS's retention a message could come again.
    days: int = Field(default=30, ge=15, le=3_650, description="Remove what is older than this.")


@dg.op(description="Removes what is no longer needed: landed batches, masked files, message ids, Dagster's runs.")
def purge(
    context: dg.OpExecutionContext,
    config: RetentionConfig,
    landing: LandingResource,
    database: LoginDatabaseResource,
    keyring: KeyringResource,
) -> None:
    """Purges by age: personal data before Dagster's runs, so that no failure of their storage keeps it."""
    with failures_without_values():
        started = time.monotonic()
        older_than = timedelta(days=config.days)
        cutoff = datetime.now(UTC) - older_than
        opened = database.get_client()
        files = landing.get_client(opened)
        totals = apply_retention(opened, files, keyring.get_client(), older_than=older_than, run_id=context.run.run_id)
        if totals.unreadable_objects:
            context.log.warning(
                f"in no batch and not decryptable: {counted(totals.unreadable_objects, 'object')} of the landing; check"  # noqa: G004 - a count
                " LOGINETL_KEYSET_LANDING, or delete what is not loginetl's"
            )
        ours = OurRuns.on(opened, context.instance, label_of(context.run))
        try:
            swept = sweep_vault(opened, files)
        finally:  # the sweep fails where row-level security hides rows, and Dagster's storage may fail, too
            runs = ours.delete_ended(before=cutoff)
        context.add_output_metadata(
            {
                **totals.as_metadata(),
                **swept.as_metadata(),
                "dagster_runs": runs,
                "seconds": round(time.monotonic() - started, 3),
            }
        )


@dg.job(
    name=RETENTION,
    executor_def=dg.in_process_executor,
    description="Removes old batches, masked files, settled message ids, and Dagster's runs with their events.",
)
def retention() -> None:
    """One op: the steps need each other's order and share connections."""
    purge()


def retention_schedule(*, days: int, default_status: dg.DefaultScheduleStatus) -> dg.ScheduleDefinition:
    """Builds the daily schedule that purges what is older than `days`."""
    return dg.ScheduleDefinition(
        name="daily_retention",
        job=retention,
        cron_schedule="17 3 * * *",  # off the full hour, when everything else starts
        run_config={"ops": {"purge": {"config": {"days": days}}}},
        default_status=default_status,
        description=f"Every day at 03:17 UTC: removes what is older than {days} days.",
    )
