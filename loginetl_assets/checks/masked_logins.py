"""Checks on masked batches, before the table: blocking, and over *all* that is pending.

A blocking check runs after its asset was written, so a batch that one run refused is still pending for the next: to
look at this run's batches only would let the next run load it.
"""

from collections.abc import Iterator

import dagster as dg

from loginetl_assets.landing.batch_files import UnreadableError, read_masked
from loginetl_assets.logins.masking import violations
from loginetl_assets.orchestration.failures import failures_without_values
from loginetl_assets.resources import LandingResource, LoginDatabaseResource, RulesResource
from loginetl_assets.storage import batches as ledger

_PAGE = 100


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
        open_database = database.get_client()
        files = landing.get_client(open_database)
        batches = rows = unreadable = last = 0
        broken: dict[str, int] = {}
        while True:
            with open_database.transaction() as connection:
                page = ledger.pending_masked(connection, after=last, limit=_PAGE)
            if not page:
                break
            last = page[-1].batch_id
            for batch in page:
                try:
                    logins = read_masked(files, batch.masked_path)
                except UnreadableError:
                    unreadable += 1  # a parallel run may just have replaced it; the load sets it aside if it stays so
                    continue
                batches += 1
                rows += logins.height
                for name, count in violations(logins).items():
                    broken[name] = broken.get(name, 0) + count
        looked_at = {"rows": rows, "batches": batches, "unreadable_batches": unreadable}
        for check, names in (
            ("app_version_in_range", ("version_out_of_range",)),
            ("no_plaintext_identifiers", ("ip_not_masked", "device_id_not_masked")),
        ):
            if dg.AssetCheckKey(dg.AssetKey("masked_logins"), check) not in context.selected_asset_check_keys:
                continue
            counts = {name: broken.get(name, 0) for name in names}
            yield dg.AssetCheckResult(
                check_name=check,
                asset_key="masked_logins",
                passed=not any(counts.values()),
                severity=dg.AssetCheckSeverity.ERROR,
                metadata={**counts, **looked_at},
            )


@dg.asset_check(
    asset="rejected_logins",
    description="Of the messages read by this run, no more were rejected than LOGINETL_MAX_REJECTION_RATE allows.",
)
def rejection_rate(
    context: dg.AssetCheckExecutionContext, database: LoginDatabaseResource, rules: RulesResource
) -> dg.AssetCheckResult:
    """Compares rejected with read messages; by itself it looks at the batch that was masked last."""
    with failures_without_values():
        with database.get_client().transaction() as connection:
            batches = ledger.touched_by_run(connection, "masked", context.run.run_id)
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
