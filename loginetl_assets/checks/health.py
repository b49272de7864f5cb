"""The health of the whole pipeline, as a check on `user_logins`: what `loginetl status` shows, never blocking."""

import dagster as dg

from loginetl_assets.orchestration.automation_state import read_automation
from loginetl_assets.orchestration.failures import failures_without_values
from loginetl_assets.orchestration.our_runs import label_of
from loginetl_assets.resources import LoginDatabaseResource, LoginQueueResource, RulesResource
from loginetl_assets.steps.health import look


@dg.asset_check(
    asset="user_logins",
    description="Warns of batches set aside, messages that wait too long, a queue that is not drained or cannot be"
    " reached, and too many rejections within a day; shows ages, counts and sizes.",
)
def health(
    context: dg.AssetCheckExecutionContext,
    database: LoginDatabaseResource,
    queue: LoginQueueResource,
    rules: RulesResource,
) -> dg.AssetCheckResult:
    """Looks at queue and ledger as they are now, whatever this run did."""
    with failures_without_values():
        seen = look(database.get_client(), queue.get_client())
        conditions = seen.conditions(**rules.thresholds)
        settings = database.services.settings
        if automation := read_automation(context.instance, settings, label_of(context.run)):
            conditions |= automation.conditions(settings)
        sizes = {
            f"{name.removeprefix('loginetl.')}_{part}": value
            for name, size in seen.sizes.items()
            for part, value in vars(size).items()
        }
        return dg.AssetCheckResult(
            passed=not conditions,
            severity=dg.AssetCheckSeverity.WARN,
            metadata={
                **conditions,
                "queued": seen.depth.waiting if seen.depth else None,
                "delayed": seen.depth.delayed if seen.depth else None,
                "in_flight": seen.depth.in_flight if seen.depth else None,
                "oldest_pending_seconds": seen.oldest_pending_seconds,
                "pending": seen.totals.pending,
                "pending_batches": seen.totals.pending_batches,
                "lost": seen.totals.lost,
                "quarantined_batches": seen.totals.quarantined_batches,
                "last_loaded_at": seen.totals.last_loaded_at and dg.MetadataValue.timestamp(seen.totals.last_loaded_at),
                "runs_without_worker": len(seen.runs_without_worker),
                "rejection_rate": round(seen.rejection_rate, 4),
                **sizes,
            },
        )
