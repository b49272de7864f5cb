"""The rejected messages: reason in plaintext, body encrypted. Works in the caller's transaction."""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    Delete,
    LargeBinary,
    Row,
    Update,
    cast,
    delete,
    func,
    select,
    update,
)
from tink import aead

from loginetl_assets.logins.encryption import encrypt
from loginetl_assets.logins.masking import RejectedMessage
from loginetl_assets.logins.rejection import Reason, Rejection
from loginetl_assets.storage.batches import Batch, lock_batches, move_rejected
from loginetl_assets.storage.copying import copy_rows
from loginetl_assets.storage.statements import among, named
from loginetl_assets.storage.tables import Outcome, processed_messages
from loginetl_assets.storage.tables import rejected_logins as table

_CREATE_TEMPORARY = named(
    "create_new_rejections",
    "CREATE TEMP TABLE new_rejections (message_uuid uuid, sent_at_ms bigint, reason text, field text,"
    " sqlstate text, constraint_name text, encrypted_body bytea) ON COMMIT DROP",
)
_ADD = named(
    "add_rejections",
    "WITH fresh AS ("
    "  INSERT INTO loginetl.processed_messages (message_uuid, batch_id, outcome)"
    "  SELECT message_uuid, :batch_id, 'rejected' FROM pg_temp.new_rejections ORDER BY message_uuid"
    "  ON CONFLICT DO NOTHING RETURNING message_uuid)"
    " INSERT INTO loginetl.rejected_logins"
    "  (message_uuid, batch_id, sent_at, reason, field, sqlstate, constraint_name, encrypted_body)"
    " SELECT message_uuid, :batch_id, to_timestamp(sent_at_ms / 1000.0), reason, field, sqlstate, constraint_name,"
    "  encrypted_body"
    " FROM pg_temp.new_rejections JOIN fresh USING (message_uuid)",
)


def forget_batch(connection: Connection, batch: Batch) -> None:
    """Removes a batch's rejections and their message ids, before it is read again."""
    gone = delete(table).where(table.c.batch_id == batch.batch_id).returning(table.c.message_uuid).cte("gone")
    ids = delete(processed_messages).where(processed_messages.c.message_uuid == gone.c.message_uuid)
    connection.execute(named("forget_rejections", ids))


def add(connection: Connection, batch: Batch, rejects: aead.Aead, rejected: Iterable[RejectedMessage]) -> int:
    """Adds messages that were not settled before, each body encrypted and bound to its id; returns how many."""
    connection.execute(_CREATE_TEMPORARY)
    columns = ("message_uuid", "sent_at_ms", *Rejection._fields, "encrypted_body")
    rows = (
        (one.uuid, one.sent_at_ms, why.reason.value, *why[1:], encrypt(rejects, one.body, str(one.uuid)))
        for one, why in rejected
    )
    copy_rows(connection, "pg_temp.new_rejections", columns, rows)
    return connection.execute(_ADD, {"batch_id": batch.batch_id}).rowcount


def count(connection: Connection, batch_ids: Sequence[int]) -> int:
    """Returns how many rejected messages the batches have."""
    statement = select(func.count()).where(among(table.c.batch_id, batch_ids))
    return connection.scalars(named("count_rejections", statement)).one()


@dataclass(frozen=True)
class RejectedLogin:
    """A rejected message as it may be shown: no body."""

    message_uuid: UUID
    batch_id: int
    sent_at: datetime
    rejected_at: datetime
    reason: str
    field: str | None
    sqlstate: str | None
    constraint_name: str | None


@dataclass(frozen=True)
class Selection:
    """Selects the rejected messages for which everything given holds; all of them if nothing is."""

    message_uuids: Sequence[UUID] = ()
    reason: Reason | None = None
    since: datetime | None = None  # rejected at or after
    until: datetime | None = None  # rejected before
    batch_ids: Sequence[int] | None = None

    def conditions(self) -> Iterator[ColumnElement[bool]]:
        """Yields what must hold of a row."""
        if self.message_uuids:
            yield among(table.c.message_uuid, self.message_uuids)
        if self.batch_ids is not None:
            yield among(table.c.batch_id, self.batch_ids)
        if self.reason is not None:
            yield table.c.reason == self.reason.value
        if self.since is not None:
            yield table.c.rejected_at >= self.since
        if self.until is not None:
            yield table.c.rejected_at < self.until


@dataclass(frozen=True)
class RejectedAlike:
    """The messages that were rejected for one reason."""

    messages: int
    reason: str
    field: str | None
    sqlstate: str | None
    constraint_name: str | None
    first_rejected_at: datetime
    last_rejected_at: datetime


def summarize(connection: Connection, which: Selection) -> list[RejectedAlike]:
    """Returns the selected messages by what was wrong with them, the most frequent first."""
    alike, at = [table.c[name] for name in Rejection._fields], table.c.rejected_at
    statement = (
        select(func.count().label("messages"), *alike, func.min(at), func.max(at))
        .where(*which.conditions())
        .group_by(*alike)
        .order_by(func.count().desc(), *alike)
    )
    return [RejectedAlike(*row) for row in connection.execute(named("summarize_rejections", statement))]


def by_reason(connection: Connection, which: Selection = Selection()) -> Counter[str]:
    """Returns how many of the messages were rejected for each reason; refused rows by SQLSTATE and constraint, too."""
    counts = Counter[str]()
    for one in summarize(connection, which):
        counts[" ".join(filter(None, (one.reason, one.sqlstate, one.constraint_name)))] += one.messages
    return counts


def newest(connection: Connection, which: Selection, *, limit: int) -> list[RejectedLogin]:
    """Returns rejected messages, newest first."""
    columns = (table.c[name] for name in RejectedLogin.__dataclass_fields__)
    newest_first = (table.c.rejected_at.desc(), table.c.message_uuid)
    statement = select(*columns).where(*which.conditions()).order_by(*newest_first).limit(limit)
    return [RejectedLogin(*row) for row in connection.execute(named("list_rejections", statement))]


def matching_ids(connection: Connection, which: Selection) -> list[UUID]:
    """Returns the ids of the selected messages."""
    statement = select(table.c.message_uuid).where(*which.conditions()).order_by(table.c.message_uuid)
    return list(connection.scalars(named("list_rejected_ids", statement)))


def encrypted_body(connection: Connection, message_uuid: UUID) -> bytes:
    """Returns the encrypted body of one rejected message."""
    statement = select(table.c.encrypted_body).where(table.c.message_uuid == message_uuid)
    body: bytes = connection.scalars(named("read_rejected_body", statement)).one()
    return body


def count_under(connection: Connection, rejects_key_ids: Collection[int]) -> int:
    """Returns how many bodies are encrypted with one of these keys, by the id that Tink writes before a ciphertext."""
    headers = [b"\x01" + key_id.to_bytes(4, "big") for key_id in rejects_key_ids]
    count = select(func.count()).where(among(func.substr(table.c.encrypted_body, 1, 5, type_=LargeBinary), headers))
    return connection.scalars(named("count_rejections_under_keys", count)).one()


def page(
    connection: Connection, which: Selection = Selection(), *, after: UUID, max_messages: int, max_bytes: int
) -> Sequence[Row[Any]]:
    """Returns the next selected messages after an id, in the order of their ids, not locked.

    Rows of message_uuid, batch_id, sent_at_ms and encrypted_body: no more than have `max_bytes` together, but one at
    least.
    """
    milliseconds = cast(func.extract("epoch", table.c.sent_at) * 1000, BigInteger).label("sent_at_ms")
    rows = (
        select(table.c.message_uuid, table.c.batch_id, milliseconds, table.c.encrypted_body)
        .where(table.c.message_uuid > after, *which.conditions())
        .order_by(table.c.message_uuid)
        .limit(max_messages)
        .subquery("page")
    )
    length = func.octet_length(rows.c.encrypted_body)
    bytes_before = func.sum(length).over(order_by=rows.c.message_uuid) - length
    sized = select(rows, bytes_before.label("bytes_before")).subquery("sized")
    statement = select(sized).where(sized.c.bytes_before < max_bytes).order_by(sized.c.message_uuid)
    return connection.execute(named("page_rejections", statement)).all()


def claim(
    connection: Connection, which: Selection, *, after: UUID, max_messages: int, max_bytes: int
) -> Sequence[Row[Any]]:
    """Locks the next selected messages, and returns them as `page` does."""
    while found := page(connection, which, after=after, max_messages=max_messages, max_bytes=max_bytes):
        # Batch before rejection, as masking and erasure lock them.
        lock_batches(connection, sorted({row.batch_id for row in found}))
        there = select(table.c.message_uuid).where(among(table.c.message_uuid, [row.message_uuid for row in found]))
        locked = there.order_by(table.c.message_uuid).with_for_update()
        claimed = set(connection.scalars(named("claim_rejections", locked)))
        if claimed:
            return [row for row in found if row.message_uuid in claimed]
        after = found[-1].message_uuid  # another transaction was first with all of these
    return []


def hand_over(connection: Connection, message_uuids: Sequence[UUID]) -> None:
    """Forgets rejections whose messages are part of another batch now; their own batches count them as duplicates.

    The transaction holds these batches.
    """
    _remove(connection, "hand_over_rejections", message_uuids, delete(processed_messages), "duplicates")


def erase(connection: Connection, message_uuids: Sequence[UUID]) -> None:
    """Removes rejected bodies; their ids stay, and their batches count them as erased."""
    batch_ids = select(table.c.batch_id).where(among(table.c.message_uuid, message_uuids)).distinct()
    lock_batches(connection, sorted(connection.scalars(named("list_batches_of_rejections", batch_ids))))
    erased = update(processed_messages).values(outcome=Outcome.ERASED)
    _remove(connection, "erase_rejections", message_uuids, erased, "erased")


def _remove(
    connection: Connection,
    name: str,
    message_uuids: Sequence[UUID],
    ids: Delete | Update,
    to: Literal["duplicates", "erased"],
) -> None:
    """Removes rejections, does to the message ids of these what `ids` says, and moves their counts: one statement."""
    removed = delete(table).where(among(table.c.message_uuid, message_uuids))
    gone = removed.returning(table.c.message_uuid, table.c.batch_id).cte("gone")
    counted = select(gone.c.batch_id, func.count().label("messages")).group_by(gone.c.batch_id).cte("counted")
    of_these = ids.where(processed_messages.c.message_uuid == gone.c.message_uuid).cte("ids")
    connection.execute(named(name, move_rejected(counted, to).add_cte(of_these)))
