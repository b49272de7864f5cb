"""The pipeline's health: a few counts by index, and the conditions that need a person.

SQS does not say how old its oldest message is (CloudWatch does: ApproximateAgeOfOldestMessage); the age here is that of
the oldest message that has landed and is not settled.
"""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from loginetl_assets.aws.sqs import LoginQueue, QueueDepth
from loginetl_assets.conditions import Condition
from loginetl_assets.errors import OperatorError, TransientError, counted
from loginetl_assets.storage import batches, live_runs
from loginetl_assets.storage.batches import Batch, BatchState, Totals
from loginetl_assets.storage.database import LoginDatabase
from loginetl_assets.storage.installation import installed_at
from loginetl_assets.storage.table_sizes import TableSize, table_sizes

REJECTION_WINDOW = timedelta(hours=24)


@dataclass(frozen=True)
class Health:
    """What `loginetl status` and the `health` check show."""

    depth: QueueDepth | None  # None: the queue cannot be asked, for this reason
    queue_error: str | None
    totals: Totals
    quarantined: list[Batch]
    rejected_lately: int
    masked_lately: int  # messages read within REJECTION_WINDOW
    installed_at: datetime  # when the schema was made
    runs_at_work: int
    runs_without_worker: list[str]  # ids of Dagster runs, where nobody has reported them failed so far
    sizes: dict[str, TableSize]
    seen_at: datetime

    @property
    def oldest_pending_seconds(self) -> float | None:
        """The age of the oldest message that has landed and is not settled."""
        oldest = self.totals.oldest_sent_at
        return (self.seen_at - oldest).total_seconds() if oldest else None

    @property
    def rejection_rate(self) -> float:
        """The share of messages read within REJECTION_WINDOW that were rejected."""
        return self.rejected_lately / self.masked_lately if self.masked_lately else 0.0

    def as_metadata(self) -> dict[str, Any]:
        """Returns ages, counts and sizes by name."""
        depth = self.depth
        return {
            "queued": depth.queued if depth else None,
            "delayed": depth.delayed if depth else None,
            "in_flight": depth.in_flight if depth else None,
            "oldest_pending_seconds": self.oldest_pending_seconds,
            "pending": self.totals.pending,
            "pending_batches": self.totals.pending_batches,
            "lost": self.totals.lost,
            "quarantined_batches": self.totals.quarantined_batches,
            "last_loaded_at": self.totals.last_loaded_at,
            "runs_without_worker": len(self.runs_without_worker),
            "rejection_rate": round(self.rejection_rate, 4),
            **{
                f"{name.removeprefix('loginetl.')}_{part}": value
                for name, size in self.sizes.items()
                for part, value in vars(size).items()
            },
        }

    def summary(self, *, max_rejection_rate: float, freshness_hours: float) -> str:
        """Returns what is found where no condition holds, in a sentence."""
        return (
            f"No batch is quarantined. Pending: {counted(self.totals.pending, 'message')}, on the queue:"
            f" {self.depth.queued if self.depth else 0:,}; none may wait for more than {freshness_hours:g} h. Of"
            f" {counted(self.masked_lately, 'message')} within {REJECTION_WINDOW.total_seconds() / 3600:g} h,"
            f" {self.rejection_rate:.2%} were rejected, and {max_rejection_rate:.2%} may be."
        )

    @property
    def _messages_wait(self) -> bool:
        return self.depth is not None and self.depth.queued > 0

    def not_begun(self) -> dict[str, str]:
        """The condition that messages wait where no run ever landed any, and none is at work.

        True at once and for as long as it takes a sensor to start the first run, so it is for people who look, and no
        alert: for those `conditions` waits.
        """
        if not self._messages_wait or self.totals.batches or self.runs_at_work:
            return {}
        return {
            Condition.NEVER_DRAINED: "messages wait on the queue, none was ever landed, and no run is at work: start"
            " one (`loginetl run`), or switch sensors and schedules on (LOGINETL_AUTOMATION=on) where a daemon is up"
        }

    def conditions(self, *, max_rejection_rate: float, freshness_hours: float) -> dict[str, str]:
        """Returns what is wrong, by name; each text says what fixes it. Empty when healthy."""
        found: dict[str, str] = {}
        if self.queue_error:
            found[Condition.QUEUE_UNREACHABLE] = self.queue_error
        if self.quarantined:
            found[Condition.QUARANTINED_BATCHES] = (
                f"{counted(self.totals.quarantined_batches, 'batch')} cannot be read: `loginetl status` says why; once"
                " fixed, `loginetl reprocess` loads them; `loginetl batches give-up` counts as lost what exists nowhere"
            )
        # By its landing, not by its message: a replay brings old messages.
        landed, limit = self.totals.oldest_landed_at, timedelta(hours=freshness_hours)
        if landed and self.seen_at - landed > limit:
            found[Condition.MESSAGES_PENDING_TOO_LONG] = (
                f"messages wait in the landing for more than {freshness_hours:g} h: `loginetl run` loads them,"
                " or says why not"
            )
        last = self.totals.last_loaded_at or self.installed_at
        if self._messages_wait and self.seen_at - last > limit:
            found[Condition.QUEUE_NOT_DRAINED] = (
                f"messages wait on the queue and nothing was loaded for more than {freshness_hours:g} h: is the"
                " queue_depth sensor on, and the daemon up?"
            )
        if self.runs_without_worker:
            found[Condition.RUNS_WITHOUT_WORKER] = (
                f"{counted(len(self.runs_without_worker), 'run')} without a heartbeat, not yet reported failed: is the"
                " queue_depth sensor on, and the daemon up? `loginetl run` reports them, too"
            )
        if self.rejection_rate > max_rejection_rate:
            found[Condition.TOO_MANY_REJECTED] = (
                f"{self.rejected_lately:,} of {counted(self.masked_lately, 'message')} rejected within"
                f" {REJECTION_WINDOW.total_seconds() / 3600:g} h: `loginetl rejected summary` counts them by reason;"
                " once fixed, `loginetl rejected replay` loads them"
            )
        if mismatched := self.totals.mismatched_batches:
            found[Condition.COUNT_MISMATCH] = (
                f"more messages settled than landed in {counted(mismatched, 'batch')}: this is a bug, report it"
            )
        return found


def read_health(database: LoginDatabase, queue: LoginQueue) -> Health:
    """Reads it all; a queue that does not answer is part of the result.

    Raises:
        OperatorError, TransientError: the database cannot be read.
    """
    depth = error = None
    try:
        depth = queue.depth()
    except (OperatorError, TransientError) as reason:
        error = str(reason)
    with database.transaction() as connection:
        masked, rejected = batches.masked_within(connection, REJECTION_WINDOW)
        return Health(
            depth=depth,
            queue_error=error,
            totals=batches.totals(connection),
            quarantined=batches.list_batches(connection, BatchState.QUARANTINED, limit=1_000),
            rejected_lately=rejected,
            masked_lately=masked,
            installed_at=installed_at(connection),
            runs_at_work=live_runs.at_work(connection),
            runs_without_worker=live_runs.unreported(connection),
            sizes=table_sizes(connection),
            seen_at=datetime.now(UTC),
        )
