"""Works through batches: one that fails never stops the others, and the failed ones are reported at the end."""

import time
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar

from sqlalchemy import Connection

from loginetl_assets.errors import BatchConflictError, BatchError, OperatorError, TransientError, withheld
from loginetl_assets.steps.progress import BatchDone, ignore
from loginetl_assets.steps.totals import BatchTotals
from loginetl_assets.storage import batches
from loginetl_assets.storage.batches import Batch, BatchState
from loginetl_assets.storage.database import LoginDatabase

# A batch that fails for a reason of its own is skipped, however many do. Should all fail for one shared reason that
# looks like their own, failures in a row take this long at most: two statement time-outs, or thousands of quick errors.
# Then the newest batch is tried, which tells the two apart: else those behind some slow ones would never be reached.
MAX_SECONDS_OF_FAILURES_IN_A_ROW = 300
_NAMED = 10

_Totals = TypeVar("_Totals", bound=BatchTotals)


class _Failure(NamedTuple):
    batch_id: int
    reason: str
    may_pass: bool


def each_batch(
    database: LoginDatabase,
    states: Sequence[BatchState],
    work: Callable[[Connection, Batch], _Totals],
    totals: _Totals,
    *,
    only: Sequence[int] = (),
    batch_done: BatchDone = ignore,
) -> tuple[_Totals, Exception | None]:
    """Claims pending batches, oldest first, and has each worked on in the transaction that holds it.

    What `work` returns of a batch is added to `totals` once it is committed, and `batch_done` is told, unless it was
    quarantined. Returns the totals, and the error that names the batches that failed: transient if one of them at least
    may pass. `only` limits all this to some ids.

    Raises:
        OperatorError, TransientError: what concerns all batches: a service, a permission, the schema. It stops at once.
    """
    failed: list[_Failure] = []
    last, until, seconds, ahead = 0, None, 0.0, False
    while True:
        started = time.monotonic()
        batch = None
        try:
            with database.transaction() as connection:
                batch = batches.claim_batch(connection, states, after=last, before=until, newest=ahead, only=only)
                if batch is None:
                    return totals, _error_of(failed, "the others went on")
                if ahead:
                    until = batch.batch_id
                else:
                    last = batch.batch_id
                done = work(connection, batch)
        except Exception as error:  # what is not ours is a bug that some message brings out
            ours = isinstance(error, (OperatorError, TransientError))
            if batch is None or (ours and not isinstance(error, (BatchError, BatchConflictError))):
                raise
            reason = str(error) if ours else withheld(error)
            failed.append(_Failure(batch.batch_id, reason, isinstance(error, TransientError)))
        else:
            totals += done
            if done.batches:
                batch_done(batch.messages)
            seconds, ahead = 0.0, False
            continue
        seconds += time.monotonic() - started
        if seconds > MAX_SECONDS_OF_FAILURES_IN_A_ROW:
            if ahead:
                return totals, _error_of(failed, "the rest was not tried")
            ahead = True


def _error_of(failed: list[_Failure], others: str) -> Exception | None:
    if not failed:
        return None
    named = ", ".join(str(one.batch_id) for one in failed[:_NAMED]) + ", …" * (len(failed) > _NAMED)
    which = f"batch {named}" if len(failed) == 1 else f"{len(failed)} batches ({named})"
    text = f"{which} failed, {others}: {failed[0].reason}"
    return TransientError(text) if any(one.may_pass for one in failed) else OperatorError(text)
