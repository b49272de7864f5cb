"""Checks on `user_logins` over the batches this run loaded (by themselves: the one loaded last).

Each costs what those batches cost: look-ups by index, never a scan of the table. Results are counts, never values.
"""

from collections.abc import Iterator
from uuid import UUID

import dagster as dg
import polars as pl
from sqlalchemy import text

from loginetl_assets.landing.batch_files import UnreadableError, read_masked
from loginetl_assets.landing.object_store import Landing
from loginetl_assets.logins.masking import MASKED_SCHEMA
from loginetl_assets.orchestration.failures import failures_without_values
from loginetl_assets.resources import LandingResource, LoginDatabaseResource
from loginetl_assets.storage import batches as ledger
from loginetl_assets.storage import rejections
from loginetl_assets.storage.batches import Batch
from loginetl_assets.storage.login_table import is_filtered, repeated_logins, tokens_of_several_users

_ASSET = dg.AssetKey("user_logins")


@dg.multi_asset_check(
    name="user_logins_are_sound",
    can_subset=True,
    specs=[
        dg.AssetCheckSpec(
            "no_message_loaded_twice",
            asset="user_logins",
            description="Every message of the loaded batches has one outcome in the ledger, and no batch inserted"
            " more rows than the ledger gives it.",
        ),
        dg.AssetCheckSpec(
            "counts_reconcile",
            asset="user_logins",
            description="Per batch: landed = loaded + duplicates + rejected + erased + lost, and the ledger's message"
            " ids agree.",
        ),
        dg.AssetCheckSpec(
            "duplicates",
            asset="user_logins",
            description="Warns of logins that stand in the table more than once, word for word; counts devices and"
            " IPs that more than one user has. Warns, too, where row-level security hides rows from it.",
        ),
    ],
)
def user_logins_are_sound(
    context: dg.AssetCheckExecutionContext, landing: LandingResource, database: LoginDatabaseResource
) -> Iterator[dg.AssetCheckResult]:
    """Holds the batches, their masked files, the ledger and the table against each other."""
    with failures_without_values():
        open_database = database.get_client()
        files = landing.get_client(open_database)
        with open_database.transaction() as connection:
            # What others commit between two of these statements would make sums of theirs disagree.
            connection.execute(text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ"))
            batches = ledger.touched_by_run(connection, "loaded", context.run.run_id)
            logins, unreadable = _read(files, batches)
            ids = [batch.batch_id for batch in batches]
            settled = ledger.settled_by(connection, ids)
            keys = [UUID(key) for key in logins["message_uuid"].unique()]
            with_outcome, rejected_keys = ledger.settled_among(connection, keys)
            encrypted_rejections = rejections.count(connection, ids)
            refused = [str(key) for key in rejected_keys]  # maybe not even a text to Postgres
            filtered = is_filtered(connection)
            repeated = repeated_logins(connection, logins.filter(~pl.col("message_uuid").is_in(refused)))
            shared = {
                column: tokens_of_several_users(connection, column, logins[column].unique().to_list())
                for column in ("masked_device_id", "masked_ip")
            }
        without_outcome = len(keys) - with_outcome
        loaded = {batch.batch_id: settled.get((batch.batch_id, "loaded"), 0) for batch in batches}
        rejected = {batch.batch_id: settled.get((batch.batch_id, "rejected"), 0) for batch in batches}
        twice = sum(max(0, batch.loaded - loaded[batch.batch_id]) for batch in batches)
        disagreeing = sum(
            batch.messages != batch.loaded + batch.duplicates + batch.rejected + batch.erased + batch.lost
            or batch.loaded != loaded[batch.batch_id]
            or batch.rejected != rejected[batch.batch_id]
            for batch in batches
        )
        results: dict[str, tuple[bool, dg.AssetCheckSeverity, dict[str, int]]] = {
            "no_message_loaded_twice": (
                not twice and not without_outcome,
                dg.AssetCheckSeverity.ERROR,
                {"loaded_twice": twice, "messages_without_outcome": without_outcome},
            ),
            "counts_reconcile": (
                not disagreeing and encrypted_rejections == sum(rejected.values()),
                dg.AssetCheckSeverity.ERROR,
                {
                    "landed": sum(batch.messages for batch in batches),
                    "loaded": sum(batch.loaded for batch in batches),
                    "duplicates": sum(batch.duplicates for batch in batches),
                    "rejected": sum(batch.rejected for batch in batches),
                    "erased": sum(batch.erased for batch in batches),
                    "lost": sum(batch.lost for batch in batches),
                    "batches_that_disagree": disagreeing,
                },
            ),
            "duplicates": (
                repeated == 0 and not filtered,
                dg.AssetCheckSeverity.WARN,
                {
                    "repeated_logins": repeated,
                    "devices_of_several_users": shared["masked_device_id"],
                    "ips_of_several_users": shared["masked_ip"],
                    "filtered_by_row_level_security": int(filtered),
                },
            ),
        }
        looked_at = {"batches": len(batches), "rows": logins.height, "unreadable_batches": unreadable}
        for name, (passed, severity, counts) in results.items():
            if dg.AssetCheckKey(_ASSET, name) in context.selected_asset_check_keys:
                yield dg.AssetCheckResult(
                    check_name=name,
                    asset_key=_ASSET,
                    passed=passed,
                    severity=severity,
                    metadata={**counts, **looked_at},
                )


def _read(landing: Landing, batches: list[Batch]) -> tuple[pl.DataFrame, int]:
    """The batches' masked rows together, and how many files are gone or damaged."""
    frames, unreadable = [pl.DataFrame(schema=MASKED_SCHEMA)], 0
    for batch in batches:
        try:
            frames.append(read_masked(landing, batch.masked_path))
        except UnreadableError:
            unreadable += 1
    return pl.concat(frames), unreadable
