"""The life of a batch: landed -> masked -> loaded; quarantined or lost where it cannot be read.

Nothing else changes `loginetl.batches`. Every function works in the caller's transaction. A batch is claimed by its row
lock, so a claim ends with its transaction, however that ends. Rows that two runs may both insert are inserted in order,
vault before message ids, so that the runs wait for each other without a deadlock. (Bisecting a refused batch leaves
that order; where two of them block each other, Postgres ends one and the step is retried.)
"""

from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import datetime, timedelta
from functools import reduce
from operator import sub
from typing import Any, Literal
from uuid import UUID

from sqlalchemy import ColumnElement, Connection, FromClause, Select, Update, false, func, insert, or_, select, update

from loginetl_assets.errors import OperatorError
from loginetl_assets.logins.message import QueuedMessage
from loginetl_assets.storage import message_ids
from loginetl_assets.storage.objects import schedule_deletion
from loginetl_assets.storage.statements import among, named
from loginetl_assets.storage.tables import COUNTS
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


@dataclass(frozen=True, kw_only=True)
class Totals(Results):
    """All batches in numbers: messages = loaded + duplicates + rejected + erased + lost + pending."""

    batches: int
    messages: int
    pending_batches: int
    pending: int  # of landed, masked and quarantined batches
    quarantined_batches: int
    last_loaded_at: datetime | None
    oldest_sent_at: datetime | None  # when SQS took the oldest message that is pending
    oldest_landed_at: datetime | None  # when the oldest of the pending batches landed
    mismatched_batches: int  # with more settled messages than messages; must be 0


_IN_LANDING = table.c.object_purged_at.is_(None)
_PENDING = reduce(sub, (table.c[name] for name in ("messages", *COUNTS)))
# A batch that is read again is not lost any more.
_NOT_LOST: dict[str, Any] = {"lost": 0, "lost_reason": None, "lost_at": None, "lost_by": None}


# What is there


def _rows() -> Select[Any]:
    """Selects what `Batch` has: a migration may add a column before it is a field."""
    return select(*(_PENDING.label("pending") if one.name == "pending" else table.c[one.name] for one in fields(Batch)))


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


def list_batches(
    connection: Connection,
    state: BatchState | None = None,
    *,
    after: int = 0,
    newest: bool = False,
    limit: int | None = None,
) -> list[Batch]:
    """Returns batches with a higher id than `after`, oldest or newest first; of one state, if one is given."""
    statement = _rows().where(table.c.batch_id > after).order_by(_order(newest)).limit(limit)
    if state is not None:
        statement = statement.where(table.c.state == state)
    return _batches(connection, "list_batches", statement)


Action = Literal["masked", "loaded"]


def batches_of_run(connection: Connection, run_id: str, *actions: Action) -> list[Batch]:
    """Returns batches to which a Dagster run did one of the actions."""
    of_run = or_(*(table.c[f"{action}_run_id"] == run_id for action in actions))
    return _batches(connection, "list_batches_of_run", _rows().where(of_run).order_by(table.c.batch_id))


def touched_by_run(connection: Connection, run_id: str, *actions: Action) -> list[Batch]:
    """Returns batches as `batches_of_run`; without any, the last one of the first action that retention has not purged.

    The second is what a check reads that is run by itself. A purged batch's message ids may be gone.
    """
    at = table.c[f"{actions[0]}_at"]
    latest = _rows().where(at.is_not(None), _IN_LANDING).order_by(at.desc(), table.c.batch_id.desc()).limit(1)
    return batches_of_run(connection, run_id, *actions) or _batches(connection, "read_latest_batch", latest)


def batches_in_landing(connection: Connection) -> list[int]:
    """Returns the ids of all batches whose object is still in the landing.

    An id is taken before its batch is committed: one that is lower than these may appear later.
    """
    statement = select(table.c.batch_id).where(_IN_LANDING).order_by(table.c.batch_id)
    return list(connection.scalars(named("list_batches_in_landing", statement)))


def totals(connection: Connection) -> Totals:
    """Adds up all batches."""
    state, landed_at = table.c.state, func.coalesce(table.c.registered_again_at, table.c.landed_at)
    unfinished, pending = state != BatchState.LOADED, state.in_([BatchState.LANDED, BatchState.MASKED])
    statement = select(
        func.count().label("batches"),
        *(_sum(table.c[name]).label(name) for name in ("messages", *COUNTS)),
        func.count().filter(pending).label("pending_batches"),
        func.coalesce(func.sum(_PENDING).filter(unfinished), 0).label("pending"),
        func.count().filter(state == BatchState.QUARANTINED).label("quarantined_batches"),
        func.max(table.c.loaded_at).label("last_loaded_at"),
        func.min(table.c.oldest_sent_at).filter(unfinished, _PENDING > 0).label("oldest_sent_at"),
        func.min(landed_at).filter(pending, _PENDING > 0).label("oldest_landed_at"),
        func.count().filter(unfinished, _PENDING < 0).label("mismatched_batches"),
    ).select_from(table)
    return Totals(**connection.execute(named("read_totals", statement)).mappings().one())


def places(connection: Connection) -> dict[str, int]:
    """Returns how many messages landed, and where they are: by count, or by the state of those that are pending."""
    pending = (BatchState.LANDED, BatchState.MASKED, BatchState.QUARANTINED)
    statement = select(
        *(_sum(table.c[name]).label(name) for name in ("messages", *COUNTS)),
        *(func.coalesce(func.sum(_PENDING).filter(table.c.state == one), 0).label(one.value) for one in pending),
    )
    return dict(connection.execute(named("read_places", statement)).mappings().one())


def masked_within(connection: Connection, window: timedelta) -> tuple[int, int]:
    """Returns how many messages the batches had that were masked within a time, and how many of them were rejected."""
    statement = select(_sum(table.c.messages), _sum(table.c.rejected)).where(table.c.masked_at > func.now() - window)
    messages, rejected = connection.execute(named("read_rejection_rate", statement)).one()
    return messages, rejected


def _sum(column: ColumnElement[int]) -> ColumnElement[int]:
    return func.coalesce(func.sum(column), 0)


def _order(newest: bool) -> ColumnElement[int]:
    return table.c.batch_id.desc() if newest else table.c.batch_id.asc()


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
    """Locks the oldest or newest batch in one of the states that no other transaction holds, until this one ends.

    It has a higher id than `after`, a lower one than `before`, and is one of `only`, where these are given. Batches
    whose objects retention has removed are passed over.
    """
    statement = _rows().where(table.c.state.in_(states), table.c.batch_id > after, _IN_LANDING)
    if only:
        statement = statement.where(among(table.c.batch_id, only))
    if before is not None:
        statement = statement.where(table.c.batch_id < before)
    first = statement.order_by(_order(newest)).limit(1)
    return _one(connection, "claim_batch", first.with_for_update(skip_locked=True))


def lock_batch(connection: Connection, batch_id: int) -> Batch | None:
    """Waits for a batch and locks it; returns None where retention was first."""
    statement = _rows().where(table.c.batch_id == batch_id, _IN_LANDING)
    return _one(connection, "lock_batch", statement.with_for_update())


def lock_batches(connection: Connection, batch_ids: Sequence[int]) -> None:
    """Waits for batches, in the order of their ids, and locks them."""
    statement = select(table.c.batch_id).where(among(table.c.batch_id, batch_ids)).order_by(table.c.batch_id)
    connection.execute(named("lock_batches", statement.with_for_update()))


def count_under(connection: Connection, landing_key_ids: Collection[int]) -> int:
    """Returns how many batches in the landing are encrypted with one of these keys."""
    count = select(func.count()).where(_IN_LANDING, among(table.c.landing_key_id, landing_key_ids))
    return connection.scalars(named("count_batches_under_keys", count)).one()


def expired_batches(connection: Connection, before: datetime, *, limit: int) -> list[Batch]:
    """Locks batches loaded or given up before a time and not purged since; those in use are passed over."""
    loaded = (table.c.state == BatchState.LOADED) & (table.c.loaded_at < before)
    lost = (table.c.state == BatchState.LOST) & (table.c.lost_at < before)
    statement = _rows().where(loaded | lost, _IN_LANDING).order_by(table.c.batch_id).limit(limit)
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
    messages: Sequence[QueuedMessage],
    bytes: int,
    run_id: str | None,
    landed_at: datetime | None = None,
) -> int:
    """Records a batch whose object is whole in the landing: landed, and pending from here on. Returns its id.

    An object that is registered again was written at `landed_at`: how long ids are kept follows from it.
    """
    statement = insert(table).values(
        object_path=object_path,
        landing_key_id=landing_key_id,
        messages=len(messages),
        bytes=bytes,
        oldest_sent_at=func.to_timestamp(min(message.sent_at_ms for message in messages) / 1000),
        landed_run_id=run_id,
        landed_at=landed_at or func.now(),
        registered_again_at=func.now() if landed_at else None,
    )
    batch_id: int = connection.scalars(named("register_batch", statement.returning(table.c.batch_id))).one()
    return batch_id


def mark_masked(
    connection: Connection, batch: Batch, results: Results, *, masked_path: str, unknown_fields: int, run_id: str
) -> None:
    """Records that a batch's masked file is written: masked; its former file is to be deleted.

    The results, of the messages that it settled or that were settled before, take the place of earlier counts, but for
    those of erased messages.
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
    loaded = {"state": BatchState.LOADED, "loaded_at": func.now(), "loaded_run_id": run_id}
    _change(connection, "mark_loaded", batch.batch_id, **loaded, **_increased(results))


def quarantine(connection: Connection, batch: Batch, reason: str) -> None:
    """Takes a batch that cannot be read out of the way: quarantined; its messages stay pending."""
    why = {"quarantine_reason": reason, "quarantined_at": func.now(), **_NOT_LOST}
    _change(connection, "quarantine_batch", batch.batch_id, state=BatchState.QUARANTINED, **why)


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
) -> int:
    """Points a batch at objects without the erased messages, which end as erased; the former ones are to be deleted.

    A loaded batch stays loaded, with `masked_path` in place of its masked file. Any other is landed again, to be masked
    again: its counts are made then. `erased` has the messages' ids as often as the batch held them. Returns how many
    rejected bodies were removed with the messages.
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
    schedule_deletion(connection, [batch.object_path])
    _schedule_deletion_of_masked(connection, batch)
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
