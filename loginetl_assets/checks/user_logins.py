"""Checks on `user_logins` over the batches that this run loaded; a check that runs alone takes the one loaded last."""

from collections.abc import Iterator

import dagster as dg

from loginetl_assets.checks.results import selected_results
from loginetl_assets.failures import failures_without_values
from loginetl_assets.resources import LandingResource, LoginDatabaseResource
from loginetl_assets.steps.verify import verify_loaded


@dg.multi_asset_check(
    name="user_logins_are_sound",
    can_subset=True,
    specs=[
        dg.AssetCheckSpec(
            "no_message_loaded_twice",
            asset="user_logins",
            description="Every message of the loaded batches has one outcome in the ledger, and no batch inserted"
            " more rows than it has loaded messages there.",
        ),
        dg.AssetCheckSpec(
            "counts_reconcile",
            asset="user_logins",
            description="Per batch: messages = loaded + duplicates + rejected + erased + lost, and the message ids in"
            " the ledger have the same counts.",
        ),
        dg.AssetCheckSpec(
            "duplicates",
            asset="user_logins",
            description="Warns of exact duplicates in the table; counts shared devices and shared IPs. Warns, too,"
            " where row-level security hides rows from it.",
        ),
    ],
)
def user_logins_are_sound(
    context: dg.AssetCheckExecutionContext, landing: LandingResource, database: LoginDatabaseResource
) -> Iterator[dg.AssetCheckResult]:
    """Compares batches, their masked files, message ids and the table."""
    with failures_without_values():
        opened = database.get_client()
        read, repeats, sums, duplicates = verify_loaded(opened, landing.get_client(opened), context.run.run_id)
        mismatches = sums.mismatched_batches + sums.mismatched_rejections
        repeated = duplicates.duplicate_rows + duplicates.filtered_by_row_level_security
        error, warn = dg.AssetCheckSeverity.ERROR, dg.AssetCheckSeverity.WARN
        yield from selected_results(
            context,
            {
                "no_message_loaded_twice": (not any(vars(repeats).values()), error, repeats.as_metadata()),
                "counts_reconcile": (mismatches == 0, error, sums.as_metadata()),
                "duplicates": (repeated == 0, warn, duplicates.as_metadata()),
            },
            read.as_metadata(),
        )
