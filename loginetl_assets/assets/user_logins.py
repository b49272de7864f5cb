"""user_logins: the table that analysts read."""

import time
from collections.abc import Iterator

import dagster as dg

from loginetl_assets.assets.metadata import (
    LOGIN_COLUMNS,
    NOT_MASKED,
    OWNERS,
    TABLE_LINEAGE,
    column_schema,
    data_version,
    rate,
    rejected_by_reason,
)
from loginetl_assets.errors import OperatorError, counted
from loginetl_assets.failures import check_batches, failures_without_values
from loginetl_assets.logins.rejection import Reason
from loginetl_assets.resources import KeyringResource, LandingResource, LoginDatabaseResource
from loginetl_assets.steps.load import load_pending
from loginetl_assets.steps.progress import Progress
from loginetl_assets.storage.batches import batches_of_run
from loginetl_assets.storage.login_table_record import login_table
from loginetl_assets.storage.rejections import Selection, by_reason
from loginetl_assets.storage.table_sizes import table_rows


@dg.asset(
    deps=["masked_logins"],
    group_name="logins",
    kinds={"postgres"},
    owners=OWNERS,
    description=(
        "The table that analysts read: one row per login, with `ip` and `device_id` as tokens. A redelivered"
        " message changes no row."
    ),
    metadata={"dagster/column_schema": column_schema(*LOGIN_COLUMNS), "dagster/column_lineage": TABLE_LINEAGE},
)
def user_logins(
    context: dg.AssetExecutionContext,
    landing: LandingResource,
    database: LoginDatabaseResource,
    keyring: KeyringResource,
) -> Iterator[dg.MaterializeResult[None]]:
    """Loads what is masked and not loaded yet, batch by batch, oldest first."""
    with failures_without_values(retried=context):
        started = time.monotonic()
        opened = database.get_client()
        totals, failed = load_pending(
            opened,
            landing.get_client(opened),
            keyring.get_client(),
            run_id=context.run.run_id,
            batch_done=Progress(context.log.info, "loaded"),
        )
        check_batches(context, failed, totals.quarantined_batches)
        if totals.batches_to_mask_again:
            context.log.warning(
                f"gone or damaged: {counted(totals.batches_to_mask_again, 'masked file')}; the next run masks again"  # noqa: G004 - a count
            )
        with opened.transaction() as connection:
            table = login_table(connection)
            rows = table_rows(connection, table)
            loaded = batches_of_run(connection, context.run.run_id, "loaded")
            batch_ids = [batch.batch_id for batch in loaded]
            refused = by_reason(connection, Selection(batch_ids=batch_ids, reason=Reason.REFUSED_BY_TABLE))
        lags = [(one.loaded_at - one.oldest_sent_at).total_seconds() for one in loaded if one.loaded_at]
        yield dg.MaterializeResult(
            data_version=data_version(context),
            metadata={
                "dagster/row_count": rows,
                "dagster/table_name": table,
                **totals.as_metadata(),
                **rejected_by_reason(refused),
                **({"lag_seconds": round(max(lags), 1)} if lags else {}),
                **rate(totals.loaded, time.monotonic() - started),
            },
        )
        # Last, and for both steps: had the masking step failed, Dagster would have skipped the load of its batches.
        not_masked = _not_masked_by(context.instance, context.run.run_id)
        if failed and not not_masked:
            raise failed
        if not_masked:
            raise OperatorError("; ".join(filter(None, [not_masked, str(failed) if failed else ""])))


def _not_masked_by(instance: dg.DagsterInstance, run_id: str) -> str:
    """Returns what the run's masking step reported of batches that it could not mask; empty if there are none."""
    for entry in instance.all_logs(run_id, of_type=dg.DagsterEventType.ASSET_MATERIALIZATION):
        if entry.asset_materialization and NOT_MASKED in entry.asset_materialization.metadata:
            return str(entry.asset_materialization.metadata[NOT_MASKED].value)
    return ""
