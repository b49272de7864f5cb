"""user_logins: each masked batch loaded in one transaction, every message id at most once, ever."""

import time
from collections.abc import Iterator

import dagster as dg
import polars as pl

from loginetl_assets.assets.failures import RETRY_TRANSIENT, failures_without_values
from loginetl_assets.assets.metadata import LOGIN_COLUMNS, OWNERS, column_schema, rate, table_lineage
from loginetl_assets.errors import OperatorError
from loginetl_assets.logins.masking import violations
from loginetl_assets.resources import ledger
from loginetl_assets.resources.batch_files import Unreadable, read_masked
from loginetl_assets.resources.configured import LandingResource, LoginDatabaseResource
from loginetl_assets.resources.ledger import Batch, BatchState
from loginetl_assets.resources.login_table import load_logins, table_rows


@dg.asset(
    deps=["masked_logins"],
    group_name="logins",
    kinds={"postgres"},
    owners=OWNERS,
    retry_policy=RETRY_TRANSIENT,
    description=(
        "The table analysts read: one row per login, with `ip` and `device_id` as tokens. A redelivered message"
        " changes no row."
    ),
    metadata={
        "dagster/table_name": "user_logins",
        "dagster/column_schema": column_schema(*LOGIN_COLUMNS),
        "dagster/column_lineage": table_lineage(),
    },
)
def user_logins(
    context: dg.AssetExecutionContext, landing: LandingResource, database: LoginDatabaseResource
) -> Iterator[dg.MaterializeResult[None]]:
    """Loads what is masked and not loaded yet, batch by batch, oldest first."""
    with failures_without_values():
        started = time.monotonic()
        files, open_database = landing.open(), database.open()
        batches = rows = loaded = set_aside = last = 0
        while True:
            with open_database.transaction() as connection:
                batch = ledger.claim_batch(connection, [BatchState.MASKED], after=last)
                if batch is None:
                    break
                last = batch.batch_id
                try:
                    logins = read_masked(files, batch)
                except Unreadable as error:
                    ledger.set_aside(connection, batch, str(error))
                    set_aside += 1
                    continue
                _refuse_violations(batch, logins)
                loaded += load_logins(connection, batch, logins, context.run.run_id)
                rows += logins.height
                batches += 1
        if set_aside:
            context.log.warning(f"{set_aside} batches were set aside: see `loginetl status`")  # noqa: G004 - a count
        with open_database.transaction() as connection:
            total = table_rows(connection)
        yield dg.MaterializeResult(
            metadata={
                "dagster/row_count": total,
                "rows_in": rows,
                "loaded": loaded,
                "duplicates": rows - loaded,
                "batches": batches,
                "batches_set_aside": set_aside,
                **rate(loaded, time.monotonic() - started),
            }
        )


def _refuse_violations(batch: Batch, logins: pl.DataFrame) -> None:
    """The rules of the blocking checks, once more: the load may run without them."""
    broken = {name: count for name, count in violations(logins).items() if count}
    if broken:
        raise OperatorError(
            f"batch {batch.batch_id} breaks {', '.join(broken)} and is not loaded: materialise masked_logins with"
            f" reprocess and batch_ids [{batch.batch_id}]"
        )
