"""Checks on `user_logins` over the batches that this run loaded; a check that runs alone takes the one loaded last."""

from collections.abc import Iterator

import dagster as dg

from loginetl_assets.checks.results import Result, selected_results
from loginetl_assets.errors import counted
from loginetl_assets.failures import failures_without_values
from loginetl_assets.resources import LandingResource, LoginDatabaseResource, RulesResource
from loginetl_assets.steps.totals import StepTotals
from loginetl_assets.steps.verify import Duplicates, Read, Repeats, Sums, verify_loaded
from loginetl_assets.storage.tables import COUNTS


@dg.multi_asset_check(
    name="user_logins_checks",
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
            description="The share of loaded rows that the table has more than once is at most"
            " LOGINETL_MAX_DUPLICATE_RATE, and row-level security hides no row. Counts shared devices and shared IPs.",
        ),
    ],
)
def user_logins_are_sound(
    context: dg.AssetCheckExecutionContext,
    landing: LandingResource,
    database: LoginDatabaseResource,
    rules: RulesResource,
) -> Iterator[dg.AssetCheckResult]:
    """Compares batches, their masked files, message ids and the table."""
    with failures_without_values():
        opened = database.get_client()
        read, repeats, sums, duplicates = verify_loaded(opened, landing.get_client(opened), context.run.run_id)
        yield from selected_results(
            context,
            {
                "no_message_loaded_twice": _loaded_once(repeats, read),
                "counts_reconcile": _reconciled(sums, read),
                "duplicates": _duplicates(duplicates, rules.max_duplicate_rate),
            },
            read.as_metadata(),
        )


def _result(*, passed: bool, said: str, totals: StepTotals) -> Result:
    if not passed:
        said += ": `loginetl batches list` and `loginetl batches show` have each batch's counts; it is a bug, report it"
    return Result(passed, dg.AssetCheckSeverity.ERROR, f"{said}.", totals.as_metadata())


def _loaded_once(repeats: Repeats, read: Read) -> Result:
    said = (
        f"Of {counted(read.rows, 'row')} in {counted(read.batches, 'batch')}, {repeats.loaded_twice:,} were inserted"
        f" twice and {repeats.messages_without_outcome:,} have no outcome in the ledger, where none may"
    )
    return _result(passed=not any(vars(repeats).values()), said=said, totals=repeats)


def _reconciled(sums: Sums, read: Read) -> Result:
    counts = " + ".join(f"{getattr(sums, name):,} {name}" for name in COUNTS)
    said = (
        f"Of {counted(sums.messages, 'message')} in {counted(read.batches, 'batch')}, {counts};"
        f" {counted(sums.mismatched_batches, 'batch')} and {counted(sums.mismatched_rejections, 'rejection')} differ"
        " from the message ids in the ledger, where none may"
    )
    return _result(passed=not (sums.mismatched_batches or sums.mismatched_rejections), said=said, totals=sums)


def _duplicates(found: Duplicates, allowed: float) -> Result:
    sample = f" (by one in {found.one_in} of them)" if found.one_in > 1 else ""
    said = (
        f"Of {counted(found.distinct_rows, 'distinct row')}{sample}, the table has {found.duplicate_rows:,}"
        f" ({found.rate:.2%}) more than once, and LOGINETL_MAX_DUPLICATE_RATE allows {allowed:.2%};"
        f" {counted(found.shared_devices, 'device')} and {counted(found.shared_ips, 'IP address')} are shared"
    )
    if found.rate > allowed:
        said += (
            ". The view loginetl.duplicate_rows shows them: where one event was sent as several messages, set"
            " LOGINETL_IDENTITY=event_id; where users log in several times a day, raise LOGINETL_MAX_DUPLICATE_RATE"
        )
    if found.filtered_by_row_level_security:
        said += ". Row-level security hides rows, so there may be more: ALTER ROLE of the pipeline's login BYPASSRLS"
    passed = found.rate <= allowed and not found.filtered_by_row_level_security
    shown = {**found.as_metadata(), "duplicate_rate": round(found.rate, 4), "allowed_rate": allowed}
    return Result(passed, dg.AssetCheckSeverity.WARN, f"{said}.", shown)
