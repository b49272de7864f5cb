"""How the pipeline is doing: a few counts by index, and the conditions that somebody should be told of.

SQS does not say how old its oldest message is (CloudWatch does: ApproximateAgeOfOldestMessage); the age here is that of
the oldest message that has landed and is not settled.
"""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from sqlalchemy import text

from loginetl_assets.aws.sqs import LoginQueue, QueueDepth
from loginetl_assets.errors import OperatorError, TransientError
from loginetl_assets.storage import batches, live_runs
from loginetl_assets.storage.batches import QuarantinedBatch, Totals
from loginetl_assets.storage.database import LoginDatabase

QUARANTINED_BATCHES = "quarantined_batches"
QUEUE_NOT_DRAINED = "queue_not_drained"  # cannot be told while the queue does not answer
REJECTION_WINDOW = timedelta(hours=24)

# Estimates of the planner and sizes on disk: exact counts of these tables would cost what the tables hold.
_TABLES = ("loginetl.pii_vault", "loginetl.processed_messages", "loginetl.rejected_logins")


@dataclass(frozen=True)
class TableSize:
    """A table with its indexes."""

    rows: int  # the planner's estimate
    bytes: int


@dataclass(frozen=True)
class Health:
    """What `loginetl status` and the `health` check show."""

    depth: QueueDepth | None  # None: the queue cannot be asked, for this reason
    queue_error: str | None
    totals: Totals
    oldest_pending_at: datetime | None  # when SQS took the oldest message that has landed and is not settled
    oldest_landed_at: datetime | None  # when the oldest batch landed that is not settled
    count_mismatches: int  # with more messages settled than landed; must be 0
    quarantined: list[QuarantinedBatch]
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
        return (self.seen_at - self.oldest_pending_at).total_seconds() if self.oldest_pending_at else None

    @property
    def rejection_rate(self) -> float:
        """The share of messages read within REJECTION_WINDOW that were rejected."""
        return self.rejected_lately / self.masked_lately if self.masked_lately else 0.0

    @property
    def _messages_wait(self) -> bool:
        return self.depth is not None and self.depth.waiting > 0

    def not_begun(self) -> dict[str, str]:
        """The condition that messages wait where no run ever landed any, and none is at work.

        True at once and for as long as it takes a sensor to start the first run, so it is for people who look, and no
        alert: for those `conditions` waits.
        """
        if not self._messages_wait or self.totals.batches or self.runs_at_work:
            return {}
        return {
            "never_drained": "messages wait on the queue, none was ever landed, and no run is at work: start one"
            " (`loginetl run`), or switch sensors and schedules on (LOGINETL_AUTOMATION=on) where a daemon is up"
        }

    def conditions(self, *, max_rejection_rate: float, freshness_hours: float) -> dict[str, str]:
        """What is wrong, by name; each text says what mends it. Empty when all is well."""
        found = {}
        if self.queue_error:
            found["queue_unreachable"] = self.queue_error
        if self.quarantined:
            found[QUARANTINED_BATCHES] = (
                f"{self.totals.quarantined_batches} batches cannot be read: `loginetl status` says why; once mended,"
                " `loginetl reprocess` brings them in; what is gone for good, `loginetl batches give-up` counts as lost"
            )
        # By its landing, not by its message: a replay brings old messages.
        if self.oldest_landed_at and self.seen_at - self.oldest_landed_at > timedelta(hours=freshness_hours):
            found["messages_pending_too_long"] = (
                f"messages wait in the landing for more than {freshness_hours:g} h: materialise masked_logins and"
                " user_logins, and see why runs fail"
            )
        last = self.totals.last_loaded_at or self.installed_at
        if self._messages_wait and self.seen_at - last > timedelta(hours=freshness_hours):
            found[QUEUE_NOT_DRAINED] = (
                f"messages wait on the queue and nothing was loaded for more than {freshness_hours:g} h: is the"
                " queue_depth sensor on, and the daemon up?"
            )
        if self.runs_without_worker:
            found["runs_without_worker"] = (
                f"{len(self.runs_without_worker)} runs give no sign of life, and nobody has reported them failed: is"
                " the queue_depth sensor on, and the daemon up? `loginetl run` does so too"
            )
        if self.rejection_rate > max_rejection_rate:
            found["too_many_rejected"] = (
                f"{self.rejected_lately} of {self.masked_lately} messages were rejected within"
                f" {REJECTION_WINDOW.total_seconds() / 3600:g} h: see `loginetl rejected list`"
            )
        if self.count_mismatches:
            found["counts_disagree"] = (
                f"{self.count_mismatches} batches settled more messages than they have: this is a bug, report it"
            )
        return found


def look(database: LoginDatabase, queue: LoginQueue) -> Health:
    """Reads it all; a queue that cannot be asked is part of the answer.

    Raises:
        OperatorError, TransientError: the database cannot be asked.
    """
    depth = error = None
    try:
        depth = queue.depth()
    except (OperatorError, TransientError) as reason:
        error = str(reason)
    with database.transaction() as connection:
        totals = batches.totals(connection)
        unsettled = connection.execute(
            text(
                "SELECT min(oldest_sent_at) FILTER (WHERE settled < messages) AS sent_at,"
                " min(coalesce(registered_anew_at, landed_at)) FILTER (WHERE settled < messages) AS landed_at,"
                " count(*) FILTER (WHERE settled > messages) AS count_mismatches"
                " FROM (SELECT *, loaded + duplicates + rejected + erased + lost AS settled FROM loginetl.batches"
                "   WHERE state <> 'loaded') pending"
            )
        ).one()
        lately = connection.execute(
            text(
                "SELECT coalesce(sum(messages), 0) AS messages, coalesce(sum(rejected), 0) AS rejected"
                " FROM loginetl.batches WHERE masked_at > now() - CAST(:window AS interval)"
            ),
            {"window": REJECTION_WINDOW},
        ).one()
        sizes = {
            row.name: TableSize(rows=row.rows, bytes=row.bytes)
            for row in connection.execute(
                text(
                    "SELECT name, greatest(reltuples, 0)::bigint AS rows, pg_total_relation_size(oid) AS bytes"
                    " FROM unnest(CAST(:tables AS text[])) name JOIN pg_class ON oid = to_regclass(name)"
                ),
                {"tables": list(_TABLES)},
            )
        }
        return Health(
            depth=depth,
            queue_error=error,
            totals=totals,
            oldest_pending_at=unsettled.sent_at,
            oldest_landed_at=unsettled.landed_at,
            count_mismatches=unsettled.count_mismatches,
            quarantined=batches.quarantined_batches(connection, limit=1_000),
            rejected_lately=int(lately.rejected),
            masked_lately=int(lately.messages),
            installed_at=connection.execute(text("SELECT installed_at FROM loginetl.installation")).scalar_one(),
            runs_at_work=live_runs.at_work(connection),
            runs_without_worker=live_runs.unreported(connection),
            sizes=sizes,
            seen_at=datetime.now(UTC),
        )
