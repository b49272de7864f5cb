"""Checks on masked batches, before the table: blocking, and over *all* that is pending.

A blocking check runs after its asset was written, so a batch that one run refused is still pending for the next: were
only this run's batches checked, the next run would load it.
"""

from collections.abc import Iterator, Mapping

import dagster as dg

from loginetl_assets.assets.metadata import rejected_by_reason
from loginetl_assets.checks.results import Result, selected_results
from loginetl_assets.errors import counted
from loginetl_assets.failures import failures_without_values
from loginetl_assets.resources import LandingResource, LoginDatabaseResource, RulesResource
from loginetl_assets.steps.verify import Read, verify_masked
from loginetl_assets.storage.batches import touched_by_run
from loginetl_assets.storage.rejections import Selection, by_reason

NEARLY_ALL = 0.9  # from this share on it is the sender, a rule or the table that is wrong, and not some messages


@dg.multi_asset_check(
    name="masked_logins_checks",
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
        yield from selected_results(
            context,
            {
                "app_version_in_range": _result("an app_version from 0 to 2146.999.999", versions, read),
                "no_plaintext_identifiers": _result("tokens in place of identifiers", plaintext, read),
            },
            read.as_metadata(),
        )


def _result(wanted: str, broken: Mapping[str, int], read: Read) -> Result:
    found = ", ".join(f"{count:,} {rule}" for rule, count in broken.items() if count)
    said = f"Each of {counted(read.rows, 'pending row')} in {counted(read.batches, 'batch')} must have {wanted}"
    said += (
        f", and these have not: {found}. Nothing is loaded until masked_logins is materialized with `reprocess`; if the"
        " check fails again, masking is wrong: report it"
        if found
        else "; no row fails"
    )
    if read.unreadable_batches:
        said += f". Unreadable: {counted(read.unreadable_batches, 'masked file')}; the load has them masked again"
    return Result(not found, dg.AssetCheckSeverity.ERROR, f"{said}.", broken)


@dg.asset_check(
    asset="rejected_logins",
    additional_deps=["user_logins"],  # which rejects the rows that the table refuses
    description="Of the messages masked or loaded by this run, no more were rejected than LOGINETL_MAX_REJECTION_RATE"
    " allows, those that the table refused among them.",
)
def rejection_rate(
    context: dg.AssetCheckExecutionContext, database: LoginDatabaseResource, rules: RulesResource
) -> dg.AssetCheckResult:
    """Compares rejected with read messages; where this run did nothing, those of the batch that was masked last."""
    with failures_without_values():
        with database.get_client().transaction() as connection:
            batches = touched_by_run(connection, context.run.run_id, "masked", "loaded")
            reasons = by_reason(connection, Selection(batch_ids=[batch.batch_id for batch in batches]))
        messages = sum(batch.messages for batch in batches)
        rejected = sum(batch.rejected for batch in batches)
        share, allowed = rejected / messages if messages else 0.0, rules.max_rejection_rate
        listed = ", ".join(f"{count:,} {reason}" for reason, count in reasons.items())
        said = f"Of {counted(messages, 'message')}, {rejected:,} ({share:.2%}) were rejected, and {allowed:.2%} may be"
        if rejected:
            said += f": {listed}. `loginetl rejected summary` lists the reasons, `loginetl rejected show` the redacted"
            said += " shapes of bodies; once rule, sender or table is corrected, `loginetl rejected replay` loads them"
        return dg.AssetCheckResult(
            passed=share <= allowed,
            severity=dg.AssetCheckSeverity.ERROR if share >= NEARLY_ALL else dg.AssetCheckSeverity.WARN,
            description=f"{said}.",
            metadata={
                "rejected": rejected,
                "messages": messages,
                "rate": round(share, 4),
                "allowed_rate": allowed,
                **rejected_by_reason(reasons),
            },
        )
