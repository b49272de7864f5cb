"""user_logins: each masked batch loaded in one transaction, every message id at most once, ever."""

import time
from collections.abc import Iterator
from dataclasses import dataclass

import dagster as dg
import polars as pl
from sqlalchemy import Connection

from loginetl_assets.assets.metadata import LOGIN_COLUMNS, NOT_MASKED, OWNERS, column_schema, rate, table_lineage
from loginetl_assets.errors import BatchError, OperatorError
from loginetl_assets.keys.keyring import Keyring
from loginetl_assets.landing.batch_files import Unreadable, read_masked, read_messages
from loginetl_assets.landing.object_store import Landing
from loginetl_assets.logins.masking import violations
from loginetl_assets.logins.rejection import Reason, Rejection
from loginetl_assets.resources.configured import KeyringResource, LandingResource, LoginDatabaseResource
from loginetl_assets.resources.failures import failures_without_values, retries_left
from loginetl_assets.steps.each_batch import each_batch
from loginetl_assets.storage import batches as ledger
from loginetl_assets.storage import rejections
from loginetl_assets.storage.adoption import login_table
from loginetl_assets.storage.batches import Batch, BatchState
from loginetl_assets.storage.login_table import load_logins, table_rows
from loginetl_assets.storage.rejections import encrypted_rejection


@dataclass
class LoadTotals:
    """What a run loaded; rows_in = loaded + rejected + duplicates."""

    rows_in: int = 0
    loaded: int = 0
    rejected: int = 0
    duplicates: int = 0
    batches: int = 0
    quarantined_batches: int = 0
    batches_to_mask_anew: int = 0  # their masked file is gone or damaged

    def add(self, other: "LoadTotals") -> None:
        """Adds a batch's."""
        for name, count in vars(other).items():
            setattr(self, name, getattr(self, name) + count)


@dg.asset(
    deps=["masked_logins"],
    group_name="logins",
    kinds={"postgres"},
    owners=OWNERS,
    description=(
        "The table analysts read: one row per login, with `ip` and `device_id` as tokens. A redelivered message"
        " changes no row."
    ),
    metadata={
        "dagster/column_schema": column_schema(*LOGIN_COLUMNS),
        "dagster/column_lineage": table_lineage(),
    },
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
        totals = LoadTotals()
        open_database = database.open()
        loader = _Loader(landing.open(open_database), keyring.open(), context.run.run_id)
        failed = each_batch(open_database, [BatchState.MASKED], loader.load, totals.add)
        if failed.may_pass and retries_left(context):
            raise failed.error()
        if totals.quarantined_batches:
            context.log.warning(f"{totals.quarantined_batches} batches were set aside: see `loginetl status`")  # noqa: G004 - a count
        if totals.batches_to_mask_anew:
            context.log.warning(
                f"{totals.batches_to_mask_anew} masked files are gone or damaged: the next run makes them anew"  # noqa: G004 - a count
            )
        with open_database.transaction() as connection:
            table = login_table(connection)
            rows = table_rows(connection, table)
        yield dg.MaterializeResult(
            metadata={
                "dagster/row_count": rows,
                "dagster/table_name": table,
                **vars(totals),
                **rate(totals.loaded, time.monotonic() - started),
            }
        )
        # At the end, and for both steps: a failure of masking's own would have kept the load from its batches.
        not_masked = _not_masked_by(context.instance, context.run.run_id)
        if failed and not not_masked:
            raise failed.error()
        if not_masked:
            raise OperatorError("; ".join(filter(None, [not_masked, str(failed) if failed else ""])))


def _not_masked_by(instance: dg.DagsterInstance, run_id: str) -> str:
    """What the run's step before this one said of batches that it could not mask; empty where all went well."""
    for entry in instance.all_logs(run_id, of_type=dg.DagsterEventType.ASSET_MATERIALIZATION):
        if entry.asset_materialization and NOT_MASKED in entry.asset_materialization.metadata:
            return str(entry.asset_materialization.metadata[NOT_MASKED].value)
    return ""


class _Loader:
    """Loads claimed batches, each in the transaction that claims it."""

    def __init__(self, landing: Landing, keys: Keyring, run_id: str) -> None:
        self._landing = landing
        self._keys = keys
        self._run_id = run_id

    def load(self, connection: Connection, batch: Batch) -> LoadTotals:
        """Loads one batch, or sets it aside where it cannot be read.

        One whose masked file is gone or damaged goes back to be masked: the next run makes the file anew.
        """
        try:
            logins = read_masked(self._landing, batch)
        except Unreadable:
            ledger.replace_masked(connection, batch, None)
            return LoadTotals(batches_to_mask_anew=1)
        try:
            with connection.begin_nested():  # rows whose batch is set aside must not stay
                _refuse_violations(batch, logins)
                outcome = load_logins(connection, batch, logins)
                rejected = self._reject(connection, batch, outcome.refused)
        except Unreadable as error:
            ledger.quarantine(connection, batch, str(error))
            return LoadTotals(quarantined_batches=1)
        duplicates = logins.height - outcome.inserted - rejected
        ledger.mark_loaded(
            connection,
            batch,
            loaded=outcome.inserted,
            rejected=rejected,
            duplicates=duplicates,
            run_id=self._run_id,
        )
        return LoadTotals(
            rows_in=logins.height, loaded=outcome.inserted, rejected=rejected, duplicates=duplicates, batches=1
        )

    def _reject(self, connection: Connection, batch: Batch, refused: list[str]) -> int:
        """Keeps the bodies of rows that the table refused, as those of other rejected messages."""
        if not refused:
            return 0
        bodies = {str(message.key): message for message in read_messages(self._landing, self._keys, batch)}
        reason = Rejection(Reason.REFUSED_BY_TABLE)
        return rejections.add(
            connection, batch, (encrypted_rejection(self._keys.rejects, bodies[key], reason) for key in refused)
        )


def _refuse_violations(batch: Batch, logins: pl.DataFrame) -> None:
    """The rules of the blocking checks, once more: the load may run without them."""
    broken = {name: count for name, count in violations(logins).items() if count}
    if broken:
        raise BatchError(
            f"batch {batch.batch_id} breaks {', '.join(broken)} and is not loaded: materialise masked_logins with"
            f" reprocess and batch_ids [{batch.batch_id}]"
        )
