"""Loads masked batches into the login table: one transaction a batch, every message id at most once, ever."""

from dataclasses import dataclass
from functools import partial

import polars as pl
from sqlalchemy import Connection

from loginetl_assets.errors import BatchError
from loginetl_assets.keys.keyring import Keyring
from loginetl_assets.landing.batch_files import UnreadableError, read_masked
from loginetl_assets.landing.object_store import Landing
from loginetl_assets.logins.masking import RejectedMessage, violations
from loginetl_assets.logins.rejection import Rejection
from loginetl_assets.steps.batch_objects import read_batch
from loginetl_assets.steps.each_batch import each_batch
from loginetl_assets.steps.progress import BatchDone, ignore
from loginetl_assets.steps.totals import BatchTotals
from loginetl_assets.storage import batches, rejections
from loginetl_assets.storage.batches import Batch, BatchState, Results
from loginetl_assets.storage.database import LoginDatabase
from loginetl_assets.storage.login_table import load_logins


@dataclass(frozen=True)
class LoadTotals(BatchTotals):
    """What a run loaded; rows = loaded + rejected + duplicates."""

    rows: int = 0
    loaded: int = 0
    rejected: int = 0
    duplicates: int = 0
    batches_to_mask_again: int = 0  # their masked file is gone or damaged


def load_pending(
    database: LoginDatabase, landing: Landing, keys: Keyring, *, run_id: str, batch_done: BatchDone = ignore
) -> tuple[LoadTotals, Exception | None]:
    """Loads what is masked and not loaded yet, batch by batch, oldest first.

    The keysets of the landing and of the rejects are used only where the table refuses a row.

    Raises:
        OperatorError, TransientError: what concerns all batches.
    """
    load = partial(_load, landing, keys, run_id)
    return each_batch(database, [BatchState.MASKED], load, LoadTotals(), batch_done=batch_done)


def _load(landing: Landing, keys: Keyring, run_id: str, connection: Connection, batch: Batch) -> LoadTotals:
    """Loads one batch in the transaction that claims it, or quarantines it where it cannot be read.

    One whose masked file is gone or damaged becomes pending for masking: the next run makes the file again.
    """
    try:
        logins = read_masked(landing, batch.masked_path)
    except UnreadableError:
        batches.replace_masked(connection, batch, None)
        return LoadTotals(batches_to_mask_again=1)
    try:
        with connection.begin_nested():  # rows of a batch that is quarantined must not stay
            _refuse_violations(batch, logins)
            outcome = load_logins(connection, batch, logins)
            rejected = _reject(landing, keys, connection, batch, outcome.refused)
    except UnreadableError as error:
        batches.quarantine(connection, batch, str(error))
        return LoadTotals(quarantined_batches=1)
    duplicates = logins.height - outcome.inserted - rejected
    results = Results(loaded=outcome.inserted, duplicates=duplicates, rejected=rejected)
    batches.mark_loaded(connection, batch, results, run_id=run_id)
    return LoadTotals(rows=logins.height, batches=1, loaded=outcome.inserted, rejected=rejected, duplicates=duplicates)


def _reject(
    landing: Landing, keys: Keyring, connection: Connection, batch: Batch, refused: dict[str, Rejection]
) -> int:
    """Keeps the bodies of rows that the table refused, as those of other rejected messages."""
    if not refused:
        return 0
    bodies = {str(message.uuid): message for message in read_batch(landing, keys, batch)}
    rejected = (RejectedMessage(bodies[uuid], rejection) for uuid, rejection in refused.items())
    return rejections.add(connection, batch, keys.rejects, rejected)


def _refuse_violations(batch: Batch, logins: pl.DataFrame) -> None:
    """Applies the rules of the blocking checks once more: the load may run without them."""
    broken = {name: count for name, count in violations(logins).items() if count}
    if broken:
        raise BatchError(
            f"batch {batch.batch_id} breaks {', '.join(broken)} and is not loaded: mask it again by"
            f" `loginetl reprocess {batch.batch_id}`"
        )
