"""The rejected messages: reason in plaintext, body encrypted. Works in the caller's transaction."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    Column,
    ColumnElement,
    Connection,
    Delete,
    Update,
    cast,
    delete,
    func,
    select,
    update,
)
from tink import aead

from loginetl_assets.logins.encryption import encrypt
from loginetl_assets.logins.message import QueuedMessage
from loginetl_assets.logins.rejection import Reason, Rejection
from loginetl_assets.storage.batches import Batch, lock_batches, move_rejected
from loginetl_assets.storage.database import copy_rows
from loginetl_assets.storage.statements import among, named
from loginetl_assets.storage.tables import Outcome, processed_messages
from loginetl_assets.storage.tables import rejected_logins as table

_CREATE_TEMPORARY = named(
    "create_new_rejections",
    "CREATE TEMP TABLE new_rejections (message_uuid uuid, sent_at_ms bigint, reason text, field text,"
    " encrypted_body bytea) ON COMMIT DROP",
)
_ADD = named(
    "add_rejections",
    "WITH fresh AS ("
    "  INSERT INTO loginetl.processed_messages (message_uuid, batch_id, outcome)"
    "  SELECT message_uuid, :batch_id, 'rejected' FROM pg_temp.new_rejections ORDER BY message_uuid"
    "  ON CONFLICT DO NOTHING RETURNING message_uuid)"
    " INSERT INTO loginetl.rejected_logins (message_uuid, batch_id, sent_at, reason, field, encrypted_body)"
    " SELECT message_uuid, :batch_id, to_timestamp(sent_at_ms / 1000.0), reason, field, encrypted_body"
    " FROM pg_temp.new_rejections JOIN fresh USING (message_uuid)",
)


@dataclass(frozen=True)
class EncryptedRejection:
    """A row of `loginetl.rejected_logins` before it is added."""

    message_uuid: UUID
    sent_at_ms: int
    rejection: Rejection
    encrypted_body: bytes


def encrypted_rejection(rejects: aead.Aead, message: QueuedMessage, rejection: Rejection) -> EncryptedRejection:
    """Encrypts a message's body, bound to its id."""
    return EncryptedRejection(
        message.uuid, message.sent_at_ms, rejection, encrypt(rejects, message.body, str(message.uuid))
    )


def forget_batch(connection: Connection, batch: Batch) -> None:
    """Removes a batch's rejections and their message ids, before it is read again."""
    gone = delete(table).where(table.c.batch_id == batch.batch_id).returning(table.c.message_uuid).cte("gone")
    ids = delete(processed_messages).where(processed_messages.c.message_uuid == gone.c.message_uuid)
    connection.execute(named("forget_rejections", ids))


def add(connection: Connection, batch: Batch, rejections: Iterable[EncryptedRejection]) -> int:
    """Adds rejected messages that were not settled before; returns how many that were."""
    connection.execute(_CREATE_TEMPORARY)
    columns = ("message_uuid", "sent_at_ms", "reason", "field", "encrypted_body")
    rows = (
        (one.message_uuid, one.sent_at_ms, one.rejection.reason.value, one.rejection.field, one.encrypted_body)
        for one in rejections
    )
    copy_rows(connection, "pg_temp.new_rejections", columns, rows)
    return connection.execute(_ADD, {"batch_id": batch.batch_id}).rowcount


def count(connection: Connection, batch_ids: Sequence[int]) -> int:
    """Returns how many rejected messages the batches have."""
    statement = select(func.count()).where(among(table.c.batch_id, batch_ids))
    found: int = connection.execute(named("count_rejections", statement)).scalar_one()
    return found


def by_reason(connection: Connection) -> dict[str, int]:
    """Returns how many messages were rejected for each reason."""
    statement = select(table.c.reason, func.count().label("messages")).group_by(table.c.reason).order_by(table.c.reason)
    return {row.reason: row.messages for row in connection.execute(named("count_rejections_by_reason", statement))}


@dataclass(frozen=True)
class RejectedLogin:
    """A rejected message as it may be shown: no body."""

    message_uuid: UUID
    batch_id: int
    sent_at: datetime
    rejected_at: datetime
    reason: str
    field: str | None


@dataclass(frozen=True)
class Selection:
    """Selects the rejected messages for which everything given holds; all of them if nothing is."""

    message_uuids: Sequence[UUID] = ()
    reason: Reason | None = None
    since: datetime | None = None  # rejected at or after
    until: datetime | None = None  # rejected before

    def conditions(self) -> list[ColumnElement[bool]]:
        """Returns what must hold of a row."""
        conditions = []
        if self.message_uuids:
            conditions.append(among(table.c.message_uuid, self.message_uuids))
        if self.reason is not None:
            conditions.append(table.c.reason == self.reason.value)
        if self.since is not None:
            conditions.append(table.c.rejected_at >= self.since)
        if self.until is not None:
            conditions.append(table.c.rejected_at < self.until)
        return conditions


def newest(connection: Connection, which: Selection, *, limit: int) -> list[RejectedLogin]:
    """Returns rejected messages, newest first."""
    columns = (table.c[name] for name in RejectedLogin.__dataclass_fields__)
    statement = (
        select(*columns)
        .where(*which.conditions())
        .order_by(table.c.rejected_at.desc(), table.c.message_uuid)
        .limit(limit)
    )
    return [RejectedLogin(*row) for row in connection.execute(named("list_rejections", statement))]


def matching_ids(connection: Connection, which: Selection) -> list[UUID]:
    """Returns the ids of the selected messages."""
    statement = select(table.c.message_uuid).where(*which.conditions()).order_by(table.c.message_uuid)
    return list(connection.execute(named("list_rejected_ids", statement)).scalars())


def encrypted_body(connection: Connection, message_uuid: UUID) -> bytes:
    """Returns the encrypted body of one rejected message."""
    statement = select(table.c.encrypted_body).where(table.c.message_uuid == message_uuid)
    body: bytes = connection.execute(named("read_rejected_body", statement)).scalar_one()
    return body


@dataclass(frozen=True)
class Claimed:
    """A rejected message that this transaction has locked, with its body."""

    message_uuid: UUID
    sent_at_ms: int
    encrypted_body: bytes


def claim(connection: Connection, which: Selection, *, after: UUID, max_messages: int, max_bytes: int) -> list[Claimed]:
    """Locks the next selected messages, in the order of their ids.

    Args:
        connection: in a transaction.
        which: of these.
        after: only those with a higher id.
        max_messages: at most so many.
        max_bytes: no more of them than have so many bytes together (but one at least).
    """
    columns = (table.c.message_uuid, table.c.batch_id)
    while found := _next(connection, columns, which, after=after, max_messages=max_messages, max_bytes=max_bytes):
        # Batch before rejection, as masking and erasure lock them.
        lock_batches(connection, sorted({row.batch_id for row in found}))
        milliseconds = cast(func.extract("epoch", table.c.sent_at) * 1000, BigInteger)
        statement = (
            select(table.c.message_uuid, milliseconds, table.c.encrypted_body)
            .where(among(table.c.message_uuid, [row.message_uuid for row in found]))
            .order_by(table.c.message_uuid)
            .with_for_update()
        )
        if rows := connection.execute(named("claim_rejections", statement)).all():
            return [Claimed(*row) for row in rows]
        after = found[-1].message_uuid  # another transaction was first with all of these
    return []


def page(connection: Connection, *, after: UUID, max_messages: int, max_bytes: int) -> list[tuple[UUID, bytes]]:
    """Returns rejected messages in the order of their ids, bounded as in `claim`, not locked: id and encrypted body."""
    columns = (table.c.message_uuid, table.c.encrypted_body)
    rows = _next(connection, columns, Selection(), after=after, max_messages=max_messages, max_bytes=max_bytes)
    return [(row.message_uuid, row.encrypted_body) for row in rows]


def _next(
    connection: Connection,
    columns: Sequence[Column[Any]],
    which: Selection,
    *,
    after: UUID,
    max_messages: int,
    max_bytes: int,
) -> Sequence[Any]:
    rows = (
        select(table.c.message_uuid, table.c.batch_id, table.c.encrypted_body)
        .where(table.c.message_uuid > after, *which.conditions())
        .order_by(table.c.message_uuid)
        .limit(max_messages)
        .subquery("page")
    )
    length = func.octet_length(rows.c.encrypted_body)
    bytes_before = func.sum(length).over(order_by=rows.c.message_uuid) - length
    sized = select(*(rows.c[column.name] for column in columns), bytes_before.label("bytes_before")).subquery("sized")
    statement = (
        select(*(sized.c[column.name] for column in columns))
        .where(sized.c.bytes_before < max_bytes)
        .order_by(sized.c.message_uuid)
    )
    return connection.execute(named("page_rejections", statement)).all()


def hand_over(connection: Connection, message_uuids: Sequence[UUID]) -> None:
    """Forgets rejections whose messages are part of another batch now; their own batches count them as duplicates.

    Args:
        connection: in the transaction that holds their batches.
        message_uuids: whose.
    """
    _remove(connection, "hand_over_rejections", message_uuids, delete(processed_messages), "duplicates")


def erase(connection: Connection, message_uuids: Sequence[UUID]) -> None:
    """Removes rejected bodies; their ids stay, and their batches count them as erased."""
    batch_ids = select(table.c.batch_id).where(among(table.c.message_uuid, message_uuids)).distinct()
    lock_batches(connection, sorted(connection.execute(named("list_batches_of_rejections", batch_ids)).scalars()))
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
