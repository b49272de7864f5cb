"""Works through batches: one that fails never stops the others, and the failed ones are reported at the end."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from sqlalchemy import Connection

from loginetl_assets.errors import BatchConflictError, BatchError, OperatorError, TransientError, withheld
from loginetl_assets.steps.totals import StepTotals
from loginetl_assets.storage import batches
from loginetl_assets.storage.batches import Batch, BatchState
from loginetl_assets.storage.database import LoginDatabase

# A batch that fails for a reason of its own is skipped, however many do. Should all fail for one shared reason that
# looks like their own, failures in a row take this long at most: two statement time-outs, or thousands of quick errors.
# Then the newest batch is tried, which tells the two apart: else those behind some slow ones would never be reached.
MAX_SECONDS_OF_FAILURES_IN_A_ROW = 300
_NAMED = 10

_Totals = TypeVar("_Totals", bound=StepTotals)


@dataclass
class FailedBatches:
    """The batches of a run that failed, for reasons of their own."""

    ids: list[int] = field(default_factory=list)
    reason: str = ""  # of the first
    may_pass: bool = False  # one of them at least
    stopped: bool = False  # and so the rest was not tried

    def __bool__(self) -> bool:
        """Returns whether there are any."""
        return bool(self.ids)

    def add(self, batch: Batch, reason: str, *, may_pass: bool) -> None:
        """Adds one."""
        self.ids.append(batch.batch_id)
        self.reason = self.reason or reason
        self.may_pass |= may_pass

    def __str__(self) -> str:
        """Names them, and why the first failed."""
        named = ", ".join(map(str, self.ids[:_NAMED])) + ", …" * (len(self.ids) > _NAMED)
        others = "the rest was not tried" if self.stopped else "the others went on"
        batches = f"batch {named}" if len(self.ids) == 1 else f"{len(self.ids)} batches ({named})"
        return f"{batches} failed, {others}: {self.reason}"

    def error(self) -> Exception:
        """Returns what a run raises for them."""
        return TransientError(str(self)) if self.may_pass else OperatorError(str(self))


def each_batch(
    database: LoginDatabase,
    states: Sequence[BatchState],
    work: Callable[[Connection, Batch], _Totals],
    totals: _Totals,
    *,
    only: Sequence[int] = (),
) -> tuple[_Totals, FailedBatches]:
    """Claims pending batches, oldest first, and has each worked on in the transaction that holds it.

    Args:
        database: the open one.
        states: which batches are pending.
        work: what is done with one; returns its totals.
        totals: to which those of each batch are added once they are committed.
        only: only these ids, if any are given.

    Raises:
        OperatorError, TransientError: what concerns all batches: a service, a permission, the schema. It stops at once.
    """
    failed = FailedBatches()
    last, until, seconds, ahead = 0, None, 0.0, False
    while True:
        started = time.monotonic()
        batch = None
        try:
            with database.transaction() as connection:
                batch = batches.claim_batch(connection, states, after=last, before=until, newest=ahead, only=only)
                if batch is None:
                    return totals, failed
                if ahead:
                    until = batch.batch_id
                else:
                    last = batch.batch_id
                done = work(connection, batch)
        except (BatchError, BatchConflictError) as error:
            if batch is None:
                raise
            failed.add(batch, str(error), may_pass=isinstance(error, TransientError))
        except (OperatorError, TransientError):
            raise
        except Exception as error:  # a bug that some message brings out; see `withheld`
            if batch is None:
                raise
            failed.add(batch, withheld(error), may_pass=False)
        else:
            totals += done
            seconds, ahead = 0.0, False
            continue
        seconds += time.monotonic() - started
        if seconds > MAX_SECONDS_OF_FAILURES_IN_A_ROW:
            if ahead:
                failed.stopped = True
                return totals, failed
            ahead = True
