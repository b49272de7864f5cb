"""How each message id ended: what keeps a message that SQS delivers twice from being loaded twice.

The ids of rejected messages are entered by `rejections`, those of loaded ones by `login_table`, each in the statement
that adds the row. All works in the caller's transaction.
"""

from collections import Counter
from collections.abc import Collection, Sequence
from datetime import datetime, timedelta
from uuid import UUID

from sqlalchemy import Connection, Text, cast, delete, func, select

from loginetl_assets.storage.statements import among, array_of, named
from loginetl_assets.storage.tables import processed_messages as ids
from loginetl_assets.storage.tables import rejected_logins as rejected

REDELIVERY = timedelta(days=15)  # SQS keeps a message 14 days at most, then it cannot come again; one day of slack

_RECORD_DUPLICATES = named(
    "record_duplicates",
    "INSERT INTO loginetl.processed_messages (message_uuid, batch_id, outcome)"
    " SELECT message_uuid, :batch_id, 'duplicate' FROM unnest(CAST(:ids AS uuid[])) message_uuid"
    " ORDER BY message_uuid ON CONFLICT DO NOTHING",
)
_MARK_ERASED = named(
    "mark_messages_erased",
    "INSERT INTO loginetl.processed_messages (message_uuid, batch_id, outcome)"
    " SELECT DISTINCT message_uuid, CAST(:batch_id AS bigint), 'erased' FROM unnest(CAST(:ids AS uuid[])) message_uuid"
    " ORDER BY message_uuid ON CONFLICT (message_uuid) DO UPDATE SET outcome = 'erased'"
    " WHERE processed_messages.batch_id = excluded.batch_id",
)
_PRUNE = named(
    "prune_message_ids",
    "DELETE FROM loginetl.processed_messages p USING loginetl.batches b WHERE b.batch_id = p.batch_id"
    " AND b.state IN ('loaded', 'lost') AND b.landed_at < :before AND b.object_purged_at IS NOT NULL"
    " AND NOT EXISTS (SELECT FROM loginetl.rejected_logins r WHERE r.message_uuid = p.message_uuid)"
    " AND b.landed_at + CAST(:redelivery AS interval) <= least("
    "   (SELECT min(landed_at) FROM loginetl.batches WHERE object_purged_at IS NULL),"
    "   CAST(:unread_since AS timestamptz), 'infinity')",
)


def outcomes_of(connection: Connection, message_ids: Collection[str]) -> dict[str, tuple[int, str]]:
    """Returns, for the settled ones of the messages, the batch that settled them and their outcome."""
    columns = (cast(ids.c.message_uuid, Text), ids.c.batch_id, ids.c.outcome)
    rows = connection.execute(named("read_outcomes", select(*columns).where(among(ids.c.message_uuid, message_ids))))
    return {message_uuid: (batch_id, outcome) for message_uuid, batch_id, outcome in rows}


def loaded_events(connection: Connection, event_ids: Sequence[UUID]) -> set[UUID]:
    """Returns those of the events that have been loaded."""
    known = select(ids.c.event_uuid).where(among(ids.c.event_uuid, event_ids))
    return set(connection.scalars(named("read_loaded_events", known)))


def record_duplicates(connection: Connection, batch_id: int, message_ids: Sequence[UUID]) -> None:
    """Enters messages of a batch as duplicates: another message has brought their event."""
    connection.execute(_RECORD_DUPLICATES, {"batch_id": batch_id, "ids": array_of(message_ids)})


def ids_by_outcome(connection: Connection, batch_id: int) -> dict[str, set[str]]:
    """Returns the ids of the messages that a batch settled, by outcome. They lie together: no look-up for each."""
    listed = func.string_agg(cast(ids.c.message_uuid, Text), ",")
    statement = select(ids.c.outcome, listed).where(ids.c.batch_id == batch_id).group_by(ids.c.outcome)
    rows = connection.execute(named("read_ids_of_batch", statement))
    return {outcome: set(uuids.split(",")) for outcome, uuids in rows}


def mark_erased(connection: Connection, batch_id: int, message_ids: Sequence[UUID]) -> tuple[Counter[str], int]:
    """Enters messages of a batch as erased, and removes their rejected bodies.

    Returns how many of them this batch had settled before, by outcome, and how many bodies were removed.
    """
    before = select(ids.c.outcome).where(among(ids.c.message_uuid, message_ids), ids.c.batch_id == batch_id)
    settled = Counter(connection.scalars(named("read_outcomes_to_erase", before)))
    bodies = delete(rejected).where(among(rejected.c.message_uuid, message_ids), rejected.c.batch_id == batch_id)
    removed = connection.execute(named("erase_rejected_bodies", bodies)).rowcount
    connection.execute(_MARK_ERASED, {"batch_id": batch_id, "ids": array_of(message_ids)})
    return settled, removed


def prune(connection: Connection, before: datetime, *, unread_since: datetime | None = None) -> int:
    """Removes the message ids of batches that landed before a time, are loaded or lost, and whose objects are gone.

    While its object is there a batch can be read again, and ids are what keeps its messages from loading twice. An id
    is kept with the batch that settled it, and SQS may have delivered the message again for as long as it keeps one: so
    a batch's ids stay until every object is gone that landed before it, or that long after it. That of a rejected
    message stays with its body, for the replay. An object that was written at `unread_since`, the oldest of those that
    cannot be decrypted, may turn out to be a batch.
    """
    values = {"before": before, "redelivery": REDELIVERY, "unread_since": unread_since}
    return connection.execute(_PRUNE, values).rowcount
