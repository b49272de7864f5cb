"""Checks on masked batches, before the table: blocking, and over *all* that is pending.

A blocking check runs after its asset was written, so a batch that one run refused is still pending for the next: were
only this run's batches checked, the next run would load it.
"""

from collections.abc import Iterator

import dagster as dg

from loginetl_assets.checks.results import selected_results
from loginetl_assets.failures import failures_without_values
from loginetl_assets.resources import LandingResource, LoginDatabaseResource, RulesResource
from loginetl_assets.steps.verify import verify_masked
from loginetl_assets.storage.batches import touched_by_run


@dg.multi_asset_check(
    name="masked_logins_are_sound",
    can_subset=True,
    specs=[
        dg.AssetCheckSpec(
            "app_version_in_range",
            asset="masked_logins",
            blocking=True,
            description="Every pending row has an app_version from 0 to 2146.999.999, packed.",
        ),
        dg.AssetCheckSpec(
            "no_plaintext_identifiers",
            asset="masked_logins",
            blocking=True,
            description="Every pending masked_ip and masked_device_id has the shape of a token.",
        ),
    ],
)
def masked_logins_are_sound(
    context: dg.AssetCheckExecutionContext, landing: LandingResource, database: LoginDatabaseResource
) -> Iterator[dg.AssetCheckResult]:
    """Reads every masked file that is not loaded yet, once for both checks."""
    with failures_without_values():
        opened = database.get_client()
        read, broken = verify_masked(opened, landing.get_client(opened))
        versions = {rule: count for rule, count in broken.items() if rule == "version_out_of_range"}
        plaintext = {rule: count for rule, count in broken.items() if rule not in versions}
        error = dg.AssetCheckSeverity.ERROR
        yield from selected_results(
            context,
            {
                "app_version_in_range": (not any(versions.values()), error, versions),
                "no_plaintext_identifiers": (not any(plaintext.values()), error, plaintext),
            },
            read.as_metadata(),
        )


@dg.asset_check(
    asset="rejected_logins",
    description="Of the messages read by this run, no more were rejected than LOGINETL_MAX_REJECTION_RATE allows.",
)
def rejection_rate(
    context: dg.AssetCheckExecutionContext, database: LoginDatabaseResource, rules: RulesResource
) -> dg.AssetCheckResult:
    """Compares rejected with read messages; where this run masked nothing, of the batch that was masked last."""
    with failures_without_values():
        with database.get_client().transaction() as connection:
            batches = touched_by_run(connection, "masked", context.run.run_id)
        messages = sum(batch.messages for batch in batches)
        rejected = sum(batch.rejected for batch in batches)
        share = rejected / messages if messages else 0.0
        return dg.AssetCheckResult(
            passed=share <= rules.max_rejection_rate,
            severity=dg.AssetCheckSeverity.WARN,
            metadata={
                "rejected": rejected,
                "messages": messages,
                "rate": round(share, 4),
                "allowed_rate": rules.max_rejection_rate,
            },
        )
