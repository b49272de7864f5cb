"""The health of the whole pipeline, as a check on `user_logins`: what `loginetl status` shows, never blocking."""

import dagster as dg

from loginetl_assets.dagster_instance import label_of, read_automation
from loginetl_assets.failures import failures_without_values
from loginetl_assets.resources import LoginDatabaseResource, LoginQueueResource
from loginetl_assets.steps.health import read_health


@dg.asset_check(
    asset="user_logins",
    description="Warns of quarantined batches, messages that wait too long, a queue that is not drained or is"
    " unreachable, and too many rejections within a day; shows ages, counts and sizes.",
)
def health(
    context: dg.AssetCheckExecutionContext, database: LoginDatabaseResource, queue: LoginQueueResource
) -> dg.AssetCheckResult:
    """Reads queue and ledger at this moment, whatever this run did."""
    with failures_without_values():
        found = read_health(database.get_client(), queue.get_client())
        settings = database.services.settings
        conditions = found.conditions(**settings.thresholds)
        if automation := read_automation(context.instance, settings, label_of(context.run)):
            conditions |= automation.conditions(settings)
        loaded_at = found.totals.last_loaded_at
        return dg.AssetCheckResult(
            passed=not conditions,
            severity=dg.AssetCheckSeverity.WARN,
            metadata={
                **conditions,
                **found.as_metadata(),
                "last_loaded_at": dg.MetadataValue.timestamp(loaded_at) if loaded_at else None,
            },
        )
