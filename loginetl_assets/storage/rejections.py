"""The rejected messages: reason in the clear, body sealed. Works in the caller's transaction."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, text

from loginetl_assets.logins.encryption import Encryptor, encrypt
from loginetl_assets.logins.message import QueuedMessage
from loginetl_assets.logins.rejection import Reason, Rejection
from loginetl_assets.storage import batches as ledger
from loginetl_assets.storage.batches import Batch
from loginetl_assets.storage.database import copy_rows

# What of a `Selection` holds, in SQL.
_MEANT = (
    "(CAST(:reason AS text) IS NULL OR reason = :reason)"
    " AND (CAST(:since AS timestamptz) IS NULL OR rejected_at >= :since)"
    " AND (CAST(:until AS timestamptz) IS NULL OR rejected_at < :until)"
    " AND (:any OR message_uuid = ANY(:message_uuids))"
)


@dataclass(frozen=True)
class EncryptedRejection:
    """A row of `loginetl.rejected_logins` to be."""

    message_uuid: UUID
    sent_at_ms: int
    rejection: Rejection
    encrypted_body: bytes


def encrypted_rejection(rejects: Encryptor, message: QueuedMessage, rejection: Rejection) -> EncryptedRejection:
    """Seals a message's body, bound to its key."""
    return EncryptedRejection(
        message.uuid, message.sent_at_ms, rejection, encrypt(rejects, message.body, str(message.uuid))
    )


def forget_batch(connection: Connection, batch: Batch) -> None:
    """Takes back a batch's rejections, before it is read again."""
    connection.execute(
        text(
            "WITH taken_back AS (DELETE FROM loginetl.rejected_logins WHERE batch_id = :batch_id"
            " RETURNING message_uuid)"
            " DELETE FROM loginetl.processed_messages p USING taken_back t WHERE p.message_uuid = t.message_uuid"
        ),
        {"batch_id": batch.batch_id},
    )


def add(connection: Connection, batch: Batch, rejections: Iterable[EncryptedRejection]) -> int:
    """Records rejected messages whose id was not settled before; gives back how many that were."""
    connection.execute(
        text(
            "CREATE TEMP TABLE new_rejections (message_uuid uuid, sent_at_ms bigint, reason text, field text,"
            " encrypted_body bytea) ON COMMIT DROP"
        )
    )
    copy_rows(
        connection,
        "pg_temp.new_rejections",
        ("message_uuid", "sent_at_ms", "reason", "field", "encrypted_body"),
        (
            (r.message_uuid, r.sent_at_ms, r.rejection.reason.value, r.rejection.field, r.encrypted_body)
            for r in rejections
        ),
    )  # fmt: skip
    return connection.execute(
        text(
            "WITH fresh AS ("
            "  INSERT INTO loginetl.processed_messages (message_uuid, batch_id, outcome)"
            "  SELECT message_uuid, :batch_id, 'rejected' FROM pg_temp.new_rejections ORDER BY message_uuid"
            "  ON CONFLICT DO NOTHING RETURNING message_uuid)"
            " INSERT INTO loginetl.rejected_logins"
            " (message_uuid, batch_id, sent_at, reason, field, encrypted_body)"
            " SELECT message_uuid, :batch_id, to_timestamp(sent_at_ms / 1000.0), reason, field, encrypted_body"
            " FROM pg_temp.new_rejections JOIN fresh USING (message_uuid)"
        ),
        {"batch_id": batch.batch_id},
    ).rowcount


def count(connection: Connection, batch_ids: Sequence[int]) -> int:
    """How many rejected messages the batches have on record."""
    count: int = connection.execute(
        text("SELECT count(*) FROM loginetl.rejected_logins WHERE batch_id = ANY(:batch_ids)"),
        {"batch_ids": list(batch_ids)},
    ).scalar_one()
    return count


def by_reason(connection: Connection) -> dict[str, int]:
    """How many rejected messages are on record for each reason."""
    rows = connection.execute(
        text("SELECT reason, count(*) AS messages FROM loginetl.rejected_logins GROUP BY reason ORDER BY reason")
    )
    return {row.reason: row.messages for row in rows}


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
    """Which rejected messages are meant: those for which everything given holds; all of them if nothing is."""

    message_uuids: Sequence[UUID] = ()
    reason: Reason | None = None
    since: datetime | None = None  # rejected at or after
    until: datetime | None = None  # rejected before

    @property
    def values(self) -> dict[str, object]:
        """What is bound in the condition."""
        return {
            "reason": self.reason,
            "since": self.since,
            "until": self.until,
            "any": not self.message_uuids,
            "message_uuids": list(self.message_uuids),
        }


def newest(connection: Connection, which: Selection, *, limit: int) -> list[RejectedLogin]:
    """Rejected messages, newest first."""
    rows = connection.execute(
        text(
            "SELECT message_uuid, batch_id, sent_at, rejected_at, reason, field FROM loginetl.rejected_logins"
            f" WHERE {_MEANT} ORDER BY rejected_at DESC, message_uuid LIMIT :limit"
        ),
        {**which.values, "limit": limit},
    )
    return [RejectedLogin(**row._mapping) for row in rows]


def matching_ids(connection: Connection, which: Selection) -> list[UUID]:
    """The keys of the rejected messages that are meant."""
    return list(
        connection.execute(
            text(f"SELECT message_uuid FROM loginetl.rejected_logins WHERE {_MEANT} ORDER BY message_uuid"),
            which.values,
        ).scalars()
    )


def encrypted_body(connection: Connection, message_uuid: UUID) -> bytes:
    """The sealed body of one rejected message."""
    body: bytes = connection.execute(
        text("SELECT encrypted_body FROM loginetl.rejected_logins WHERE message_uuid = :key"), {"key": message_uuid}
    ).scalar_one()
    return body


@dataclass(frozen=True)
class Claimed:
    """A rejected message that is held for this transaction, body and all."""

    message_uuid: UUID
    sent_at_ms: int
    encrypted_body: bytes


def claim(connection: Connection, which: Selection, *, after: UUID, messages: int, size: int) -> list[Claimed]:
    """Locks the next rejected messages that are meant, by key.

    Args:
        connection: in a transaction.
        which: which are meant.
        after: only those with a higher key.
        messages: at most so many.
        size: no more of them than have so many bytes together (but one at least).
    """
    columns = "message_uuid, batch_id"
    while found := _next(connection, columns, which, after=after, messages=messages, size=size):
        # Batch before rejection, as masking and erasure lock them.
        ledger.lock_batches(connection, sorted({row.batch_id for row in found}))
        rows = connection.execute(
            text(
                "SELECT message_uuid, CAST(extract(epoch FROM sent_at) * 1000 AS bigint) AS sent_at_ms, encrypted_body"
                " FROM loginetl.rejected_logins WHERE message_uuid = ANY(:keys) ORDER BY message_uuid FOR UPDATE"
            ),
            {"keys": [row.message_uuid for row in found]},
        ).all()
        if rows:
            return [Claimed(**row._mapping) for row in rows]
        after = found[-1].message_uuid  # somebody else was first with all of these
    return []


def _next(
    connection: Connection, columns: str, which: Selection, *, after: UUID, messages: int, size: int
) -> Sequence[Any]:
    return connection.execute(
        text(
            f"SELECT {columns} FROM ("
            "  SELECT message_uuid, batch_id, encrypted_body,"
            "   sum(octet_length(encrypted_body)) OVER (ORDER BY message_uuid)"
            "    - octet_length(encrypted_body) AS bytes_before FROM ("
            "    SELECT message_uuid, batch_id, encrypted_body FROM loginetl.rejected_logins"
            f"   WHERE message_uuid > :after AND {_MEANT} ORDER BY message_uuid LIMIT :messages) page) sized"
            " WHERE bytes_before < :size ORDER BY message_uuid"
        ),
        {**which.values, "after": after, "messages": messages, "size": size},
    ).all()


def hand_over(connection: Connection, keys: Sequence[UUID]) -> None:
    """Forgets rejections whose messages stand in another batch now; those they came with count them as duplicates."""
    connection.execute(
        text(
            "WITH gone AS (DELETE FROM loginetl.rejected_logins WHERE message_uuid = ANY(:keys)"
            "   RETURNING message_uuid, batch_id),"
            " forgotten AS (DELETE FROM loginetl.processed_messages p USING gone"
            "   WHERE p.message_uuid = gone.message_uuid),"
            " counted AS (SELECT batch_id, count(*) AS messages FROM gone GROUP BY batch_id)"
            " UPDATE loginetl.batches b SET rejected = rejected - counted.messages,"
            " duplicates = duplicates + counted.messages FROM counted WHERE b.batch_id = counted.batch_id"
        ),
        {"keys": list(keys)},
    )


def page(connection: Connection, *, after: UUID, messages: int, size: int) -> list[tuple[UUID, bytes]]:
    """Rejected messages by key, bounded as in `claim` but not locked: key and sealed body."""
    columns = "message_uuid, encrypted_body"
    rows = _next(connection, columns, Selection(), after=after, messages=messages, size=size)
    return [(row.message_uuid, row.encrypted_body) for row in rows]


def erase(connection: Connection, keys: Sequence[UUID]) -> None:
    """Removes rejected bodies; their ids stay, and their batches count them as erased."""
    of_batches = connection.execute(
        text("SELECT DISTINCT batch_id FROM loginetl.rejected_logins WHERE message_uuid = ANY(:keys)"),
        {"keys": list(keys)},
    ).scalars()
    ledger.lock_batches(connection, sorted(of_batches))
    connection.execute(
        text(
            "WITH gone AS (DELETE FROM loginetl.rejected_logins WHERE message_uuid = ANY(:keys)"
            "   RETURNING message_uuid, batch_id),"
            " marked AS (UPDATE loginetl.processed_messages p SET outcome = 'erased' FROM gone"
            "   WHERE p.message_uuid = gone.message_uuid),"
            " counted AS (SELECT batch_id, count(*) AS messages FROM gone GROUP BY batch_id)"
            " UPDATE loginetl.batches b SET rejected = rejected - counted.messages,"
            " erased = erased + counted.messages FROM counted WHERE b.batch_id = counted.batch_id"
        ),
        {"keys": list(keys)},
    )
