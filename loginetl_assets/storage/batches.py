"""The life of a batch: landed -> masked -> loaded; quarantined or lost where it cannot be read.

Nothing else changes `loginetl.batches`. Every function works in the caller's transaction. A batch is claimed by its row
lock, so a claim ends with its transaction, however that ends. Rows that two runs may both insert are inserted in order,
vault before message ids, so that the runs wait for each other without a deadlock. (Bisecting a refused batch leaves
that order; where two of them block each other, Postgres ends one and the step is retried.)
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from sqlalchemy import (
    ColumnElement,
    Connection,
    FromClause,
    Select,
    Update,
    and_,
    false,
    func,
    insert,
    or_,
    select,
    update,
)

from loginetl_assets.errors import OperatorError
from loginetl_assets.storage import message_ids
from loginetl_assets.storage.objects import schedule_deletion
from loginetl_assets.storage.statements import among, named
from loginetl_assets.storage.tables import BatchState as BatchState
from loginetl_assets.storage.tables import batches as table


@dataclass(frozen=True, kw_only=True)
class Results:
    """How many messages ended in which way; those in none of the counts are pending."""

    loaded: int = 0
    duplicates: int = 0
    rejected: int = 0
    erased: int = 0
    lost: int = 0


@dataclass(frozen=True)
class Batch:
    """A row of `loginetl.batches`: no value of a message."""

    batch_id: int
    state: BatchState
    messages: int
    loaded: int
    duplicates: int
    rejected: int
    erased: int
    lost: int
    pending: int
    bytes: int
    unknown_fields: int
    object_path: str
    masked_path: str | None
    landing_key_id: int
    oldest_sent_at: datetime
    landed_at: datetime
    landed_run_id: str | None
    registered_again_at: datetime | None
    masked_at: datetime | None
    masked_run_id: str | None
    loaded_at: datetime | None
    loaded_run_id: str | None
    object_purged_at: datetime | None
    quarantined_at: datetime | None
    quarantine_reason: str | None
    lost_at: datetime | None
    lost_reason: str | None
    lost_by: str | None

    @property
    def reason(self) -> str | None:
        """Why it is in its state, if that needs a reason."""
        return {BatchState.QUARANTINED: self.quarantine_reason, BatchState.LOST: self.lost_reason}.get(self.state)


@dataclass(frozen=True)
class QuarantinedBatch:
    """A batch that could not be read, and why."""

    batch_id: int
    messages: int
    reason: str
    since: datetime


@dataclass(frozen=True, kw_only=True)
class Totals(Results):
    """All batches in numbers: messages = loaded + duplicates + rejected + erased + lost + pending."""

    batches: int
    messages: int
    pending_batches: int
    pending: int  # of landed, masked and quarantined batches
    quarantined_batches: int
    last_loaded_at: datetime | None


_COUNTS = tuple(asdict(Results()))
PENDING = table.c.messages - sum((table.c[name] for name in _COUNTS[1:]), table.c[_COUNTS[0]])
# A batch that is read again is not lost any more.
_NOT_LOST: dict[str, Any] = {"lost": 0, "lost_reason": None, "lost_at": None, "lost_by": None}


# What is there


def _rows() -> Select[Any]:
    """Selects what `Batch` has: a migration may add a column before it is a field."""
    return select(*(PENDING.label("pending") if one.name == "pending" else table.c[one.name] for one in fields(Batch)))


def _batches(connection: Connection, name: str, statement: Select[Any]) -> list[Batch]:
    rows = connection.execute(named(name, statement)).mappings()
    return [Batch(**{**row, "state": BatchState(row["state"])}) for row in rows]


def _one(connection: Connection, name: str, statement: Select[Any]) -> Batch | None:
    return next(iter(_batches(connection, name, statement)), None)


def get_batch(connection: Connection, batch_id: int) -> Batch:
    """Returns one batch.

    Raises:
        OperatorError: there is no such batch.
    """
    found = _one(connection, "read_batch", _rows().where(table.c.batch_id == batch_id))
    if found is None:
        raise OperatorError(f"batch {batch_id} is not in the database: `loginetl batches list` shows those that are")
    return found


def newest_batches(connection: Connection, state: BatchState | None, *, limit: int) -> list[Batch]:
    """Returns batches, newest first; of one state, if one is given."""
    statement = _rows().order_by(table.c.batch_id.desc()).limit(limit)
    if state is not None:
        statement = statement.where(table.c.state == state)
    return _batches(connection, "list_batches", statement)


def pending_masked(connection: Connection, *, after: int, limit: int) -> list[Batch]:
    """Returns batches that are masked and not loaded, oldest first; not locked."""
    masked = _rows().where(table.c.state == BatchState.MASKED, table.c.batch_id > after)
    return _batches(connection, "list_masked_batches", masked.order_by(table.c.batch_id).limit(limit))


def quarantined_batches(connection: Connection, *, limit: int | None = None) -> list[QuarantinedBatch]:
    """Returns quarantined batches, oldest first."""
    statement = (
        select(
            table.c.batch_id,
            table.c.messages,
            table.c.quarantine_reason.label("reason"),
            table.c.quarantined_at.label("since"),
        )
        .where(table.c.state == BatchState.QUARANTINED)
        .order_by(table.c.batch_id)
        .limit(limit)
    )
    return [QuarantinedBatch(*row) for row in connection.execute(named("list_quarantined_batches", statement))]


def touched_by_run(connection: Connection, action: Literal["masked", "loaded"], run_id: str) -> list[Batch]:
    """Returns batches that a Dagster run masked or loaded; without any, the last one that retention has not purged.

    The second is what a check reads that is run by itself. A purged batch's message ids may be gone.
    """
    if action not in {"masked", "loaded"}:
        raise ValueError("batches are masked or loaded by a run")
    of_run = _rows().where(table.c[f"{action}_run_id"] == run_id).order_by(table.c.batch_id)
    at = table.c[f"{action}_at"]
    latest = (
        _rows()
        .where(at.is_not(None), table.c.object_purged_at.is_(None))
        .order_by(at.desc(), table.c.batch_id.desc())
        .limit(1)
    )
    return _batches(connection, "list_batches_of_run", of_run) or _batches(connection, "read_latest_batch", latest)


def batches_in_landing(connection: Connection) -> list[int]:
    """Returns the ids of all batches whose object is still in the landing.

    An id is taken before its batch is committed: one that is lower than these may appear later.
    """
    statement = select(table.c.batch_id).where(table.c.object_purged_at.is_(None)).order_by(table.c.batch_id)
    return list(connection.execute(named("list_batches_in_landing", statement)).scalars())


def totals(connection: Connection) -> Totals:
    """Adds up all batches."""
    state = table.c.state

    def sum_of(column: ColumnElement[int]) -> ColumnElement[int]:
        return func.coalesce(func.sum(column), 0)

    pending = func.sum(PENDING).filter(state != BatchState.LOADED)
    statement = select(
        func.count().label("batches"),
        *(sum_of(table.c[name]).label(name) for name in ("messages", *_COUNTS)),
        func.count().filter(state.in_([BatchState.LANDED, BatchState.MASKED])).label("pending_batches"),
        func.coalesce(pending, 0).label("pending"),
        func.count().filter(state == BatchState.QUARANTINED).label("quarantined_batches"),
        func.max(table.c.loaded_at).label("last_loaded_at"),
    ).select_from(table)
    return Totals(**connection.execute(named("read_totals", statement)).mappings().one())


# Locks


def claim_batch(
    connection: Connection,
    states: Sequence[BatchState],
    *,
    after: int = 0,
    before: int | None = None,
    newest: bool = False,
    only: Sequence[int] = (),
) -> Batch | None:
    """Locks the oldest batch in one of the states that no other transaction holds, until the transaction ends.

    Args:
        connection: in a transaction.
        states: of these states; batches whose objects retention has removed are passed over.
        after: only batches with a higher id.
        before: only batches with a lower id, if one is given.
        newest: the newest of them, not the oldest.
        only: only these ids, if any are given.
    """
    statement = _rows().where(table.c.state.in_(states), table.c.batch_id > after, table.c.object_purged_at.is_(None))
    if only:
        statement = statement.where(among(table.c.batch_id, only))
    if before is not None:
        statement = statement.where(table.c.batch_id < before)
    statement = statement.order_by(table.c.batch_id.desc() if newest else table.c.batch_id).limit(1)
    return _one(connection, "claim_batch", statement.with_for_update(skip_locked=True))


def lock_batch(connection: Connection, batch_id: int) -> Batch | None:
    """Waits for a batch and locks it; returns None where retention was first."""
    statement = _rows().where(table.c.batch_id == batch_id, table.c.object_purged_at.is_(None))
    return _one(connection, "lock_batch", statement.with_for_update())


def lock_batches(connection: Connection, batch_ids: Sequence[int]) -> None:
    """Waits for batches, in the order of their ids, and locks them."""
    statement = select(table.c.batch_id).where(among(table.c.batch_id, batch_ids)).order_by(table.c.batch_id)
    connection.execute(named("lock_batches", statement.with_for_update()))


def expired_batches(connection: Connection, before: datetime, *, limit: int) -> list[Batch]:
    """Locks batches loaded or given up before a time and not purged since; those in use are passed over."""
    statement = (
        _rows()
        .where(
            or_(
                and_(table.c.state == BatchState.LOADED, table.c.loaded_at < before),
                and_(table.c.state == BatchState.LOST, table.c.lost_at < before),
            ),
            table.c.object_purged_at.is_(None),
        )
        .order_by(table.c.batch_id)
        .limit(limit)
    )
    return _batches(connection, "list_expired_batches", statement.with_for_update(skip_locked=True))


def check_writable(connection: Connection) -> None:
    """Fails as registering a batch would: on a read-only server, or without the right to write."""
    connection.execute(named("check_writable", select(table.c.batch_id).where(false()).with_for_update()))


# Transitions, each of a batch that the transaction holds


def register_batch(
    connection: Connection,
    *,
    object_path: str,
    landing_key_id: int,
    messages: int,
    bytes: int,
    oldest_sent_at_ms: int,
    run_id: str | None,
    landed_at: datetime | None = None,
) -> int:
    """Records a batch whose object is whole in the landing: landed, and pending from here on. Returns its id.

    Args:
        connection: in a transaction.
        object_path: its object.
        landing_key_id: the key that encrypts it.
        messages: how many it holds.
        bytes: the size of that object.
        oldest_sent_at_ms: when SQS took the oldest of them, in milliseconds since 1970.
        run_id: the Dagster run, if any.
        landed_at: when an object was written that is registered again: how long ids are kept follows from it.
    """
    reregistered = {} if landed_at is None else {"landed_at": landed_at, "registered_again_at": func.now()}
    statement = insert(table).values(
        object_path=object_path,
        landing_key_id=landing_key_id,
        messages=messages,
        bytes=bytes,
        oldest_sent_at=func.to_timestamp(oldest_sent_at_ms / 1000),
        landed_run_id=run_id,
        **reregistered,
    )
    batch_id: int = connection.execute(named("register_batch", statement.returning(table.c.batch_id))).scalar_one()
    return batch_id


def mark_masked(
    connection: Connection, batch: Batch, results: Results, *, masked_path: str, unknown_fields: int, run_id: str
) -> None:
    """Records that a batch's masked file is written: masked; its former file is to be deleted.

    Args:
        connection: in the transaction that holds the batch.
        batch: as it was.
        results: of the messages that it settled, or that were settled before; they take the place of earlier counts.
        masked_path: the masked file.
        unknown_fields: how many fields of its messages the contract does not name.
        run_id: the Dagster run.
    """
    _schedule_deletion_of_masked(connection, batch)
    counts = {"loaded": results.loaded, "duplicates": results.duplicates, "rejected": results.rejected}
    _change(
        connection,
        "mark_masked",
        batch.batch_id,
        state=BatchState.MASKED,
        masked_path=masked_path,
        masked_at=func.now(),
        masked_run_id=run_id,
        unknown_fields=unknown_fields,
        **{**_NOT_LOST, **counts},
    )


def mark_loaded(connection: Connection, batch: Batch, results: Results, *, run_id: str) -> None:
    """Records that a batch's rows are in the login table: loaded, with results in addition to those of masking."""
    _change(
        connection,
        "mark_loaded",
        batch.batch_id,
        state=BatchState.LOADED,
        loaded_at=func.now(),
        loaded_run_id=run_id,
        **_increased(results),
    )


def quarantine(connection: Connection, batch: Batch, reason: str) -> None:
    """Takes a batch that cannot be read out of the way: quarantined; its messages stay pending."""
    _change(
        connection,
        "quarantine_batch",
        batch.batch_id,
        state=BatchState.QUARANTINED,
        quarantine_reason=reason,
        quarantined_at=func.now(),
        **_NOT_LOST,
    )


def give_up(connection: Connection, batch_id: int, reason: str) -> int:
    """Counts the pending messages of a quarantined batch as lost, with the reason and the database's user.

    Retention and pruning treat the batch as a loaded one from then on. Until its object is purged it can be taken back
    by being read again. Returns how many messages were pending.

    Raises:
        OperatorError: there is no such batch, or it is not quarantined.
    """
    batch = _one(connection, "lock_batch_to_give_up", _rows().where(table.c.batch_id == batch_id).with_for_update())
    if batch is None or batch.state is not BatchState.QUARANTINED:
        what = "is not in the database" if batch is None else f"is {batch.state}"
        raise OperatorError(
            f"batch {batch_id} {what}; only a quarantined one can be given up: `loginetl batches list --state"
            f" {BatchState.QUARANTINED}` names them"
        )
    _change(
        connection,
        "give_up_batch",
        batch_id,
        state=BatchState.LOST,
        lost_reason=reason,
        lost_at=func.now(),
        lost_by=func.session_user(),
        masked_path=None,
        **_increased(Results(lost=batch.pending)),
    )
    _schedule_deletion_of_masked(connection, batch)  # it names users in plaintext, and nothing loads it any more
    return batch.pending


def mark_purged(connection: Connection, batch_ids: Sequence[int]) -> None:
    """Records that the objects of batches are gone; their counts stay."""
    statement = update(table).where(among(table.c.batch_id, batch_ids))
    connection.execute(named("mark_purged", statement.values(object_purged_at=func.now(), masked_path=None)))


def replace_masked(connection: Connection, batch: Batch, masked_path: str | None) -> None:
    """Points a batch at a new masked file, or without one sends it back to landed; the old file is to be deleted."""
    state = BatchState.LANDED if masked_path is None else batch.state
    _change(connection, "replace_masked_file", batch.batch_id, masked_path=masked_path, state=state)
    _schedule_deletion_of_masked(connection, batch)


def replace_objects(
    connection: Connection,
    batch: Batch,
    *,
    object_path: str,
    landing_key_id: int,
    bytes: int,
    masked_path: str | None,
    erased: Sequence[UUID],
    pending_deletion: Sequence[str],
) -> int:
    """Points a batch at objects without the erased messages, which end as erased.

    A loaded batch stays loaded. Any other is landed again, to be masked again: its counts are made then. Returns how
    many rejected bodies were removed with the messages.

    Args:
        connection: in the transaction that holds the batch.
        batch: as it was.
        object_path: the new object.
        landing_key_id: the key that encrypts it.
        bytes: the size of that object.
        masked_path: the new masked file of a loaded batch.
        erased: the removed messages' ids, as often as the batch held them.
        pending_deletion: the objects that are replaced.
    """
    before, bodies = message_ids.mark_erased(connection, batch.batch_id, erased)
    loaded, rejected = before["loaded"], before["rejected"]
    fresh = len(erased) - before["erased"]  # erased before: as a rejected body, while this batch was rewritten
    is_loaded = batch.state is BatchState.LOADED
    duplicates = fresh - loaded - rejected if is_loaded else batch.duplicates
    results = Results(loaded=-loaded, duplicates=-duplicates, rejected=-rejected, erased=fresh)
    _change(
        connection,
        "replace_objects",
        batch.batch_id,
        object_path=object_path,
        landing_key_id=landing_key_id,
        bytes=bytes,
        masked_path=masked_path,
        state=BatchState.LOADED if is_loaded else BatchState.LANDED,
        **{**_NOT_LOST, **_increased(results)},
    )
    schedule_deletion(connection, pending_deletion)
    return bodies


def move_rejected(counted: FromClause, to: Literal["duplicates", "erased"]) -> Update:
    """Returns the statement that moves messages from batches' rejected to another count.

    It is one however many batches there are; the caller holds them. `counted` has columns batch_id and messages.
    """
    moved = {"rejected": table.c.rejected - counted.c.messages, to: table.c[to] + counted.c.messages}
    return update(table).where(table.c.batch_id == counted.c.batch_id).values(moved)


def _change(connection: Connection, name: str, batch_id: int, **values: Any) -> None:
    connection.execute(named(name, update(table).where(table.c.batch_id == batch_id).values(**values)))


def _increased(added: Results) -> dict[str, Any]:
    return {name: table.c[name] + count for name, count in asdict(added).items() if count}


def _schedule_deletion_of_masked(connection: Connection, batch: Batch) -> None:
    if batch.masked_path:
        schedule_deletion(connection, [batch.masked_path])
