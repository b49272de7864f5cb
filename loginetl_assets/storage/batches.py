"""The ledger: which batch holds what and how far it has come, and which message id ended where (schema `loginetl`).

Every function works in the caller's transaction. A batch is claimed by its row lock, so a claim ends with its
transaction, however that ends. Rows that two runs may both insert are inserted in key order, vault before messages,
so that the runs wait for each other and never in a circle. (A refused batch that is halved leaves that order; should it
meet its like, Postgres ends one of them and the step is tried again.)
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime, timedelta
from typing import Any, Literal
from uuid import UUID

from sqlalchemy import Connection, text

from loginetl_assets.errors import OperatorError
from loginetl_assets.settings import KeysetRole
from loginetl_assets.storage.tables import BatchState as BatchState

REDELIVERY = timedelta(days=15)  # SQS keeps a message 14 days at most, then it cannot come again; one day of slack


@dataclass(frozen=True)
class Batch:
    """A row of `loginetl.batches`, as far as the pipeline needs it."""

    batch_id: int
    object_path: str
    landing_key_id: int
    messages: int
    state: BatchState
    masked_path: str | None
    loaded: int
    duplicates: int
    rejected: int
    erased: int
    lost: int


@dataclass(frozen=True)
class Totals:
    """The ledger in numbers.

    messages = loaded + duplicates + rejected + erased + lost + pending, or something is wrong.
    """

    batches: int
    messages: int
    loaded: int
    duplicates: int
    rejected: int
    erased: int
    lost: int  # of batches that were given up
    pending_batches: int
    pending: int  # messages landed and not yet settled, set-aside batches included
    quarantined_batches: int
    last_loaded_at: datetime | None


_BATCH = (
    "batch_id, object_path, landing_key_id, messages, state, masked_path, loaded, duplicates, rejected, erased, lost"
)
_NOT_LOST = "lost = 0, lost_reason = NULL, lost_at = NULL, lost_by = NULL"  # it was read again, by whatever way


def check_keys(connection: Connection, role: KeysetRole, check_values: Mapping[int, bytes]) -> None:
    """Makes sure that a keyset belongs to this database, and remembers its primary key.

    A new key of the vault's is not remembered: a public keyset can be put together by anybody, and what is sealed to a
    key that nobody holds is lost. `remember_key` is for an officer who has shown that his keyset opens it.

    Args:
        connection: in a transaction.
        role: which keyset.
        check_values: of its keys by key id, the primary first.

    Raises:
        OperatorError: as `check_belonging`, or the primary key is one of the vault's that no officer has taken over.
    """
    known = check_belonging(connection, role, check_values)
    primary = next(iter(check_values))
    if primary in known:
        return
    if known and role is KeysetRole.VAULT:
        raise OperatorError(
            f"the primary key {primary} of LOGINETL_KEYSET_VAULT is not known to this database: let the privacy officer"
            " run `loginetl keys reencrypt` with this keyset, or set the one before"
        )
    remember_key(connection, role, primary, check_values[primary])


def check_belonging(connection: Connection, role: KeysetRole, check_values: Mapping[int, bytes]) -> set[int]:
    """Makes sure that a keyset has keys of this database, and no other ones under their ids; gives back all known ids.

    Args:
        connection: in a transaction.
        role: which keyset.
        check_values: of its keys by key id.

    Raises:
        OperatorError: the database was written with other keys of this role, and the keyset has none of them, or
            another key under the id of one. Loading with such a key would give equal values other tokens.
    """
    kept = connection.execute(text("SELECT key_id, check_value FROM loginetl.keys WHERE role = :role"), {"role": role})
    known: dict[int, bytes] = {row.key_id: row.check_value for row in kept}
    setting = f"LOGINETL_KEYSET_{role.upper()}"
    if known and known.keys().isdisjoint(check_values):
        raise OperatorError(
            f"{setting} has none of the {role} keys that this database was written with"
            f" ({', '.join(map(str, sorted(known)))}): set the keyset that has"
        )
    for key_id in known.keys() & check_values.keys():
        if known[key_id] != check_values[key_id]:
            raise OperatorError(
                f"{setting} has another key under the id {key_id} than the one that this database was written with:"
                " set the keyset that has the right one"
            )
    return set(known)


def remember_key(connection: Connection, role: KeysetRole, key_id: int, check_value: bytes) -> None:
    """Enters a key among those that this database is written with."""
    connection.execute(
        text(
            "INSERT INTO loginetl.keys (role, key_id, check_value) VALUES (:role, :key_id, :check_value)"
            " ON CONFLICT DO NOTHING"
        ),
        {"role": role, "key_id": key_id, "check_value": check_value},
    )


def installation_id(connection: Connection) -> UUID:
    """The identity of this database."""
    found: UUID = connection.execute(text("SELECT installation_id FROM loginetl.installation")).scalar_one()
    return found


def check_writable(connection: Connection) -> None:
    """Fails as registering a batch would: on a read-only server, or without the right to write."""
    connection.execute(text("SELECT FROM loginetl.batches WHERE false FOR UPDATE"))


def register_batch(
    connection: Connection,
    *,
    object_path: str,
    landing_key_id: int,
    messages: int,
    size: int,
    oldest_sent_at_ms: int,
    run_id: str | None,
    landed_at: datetime | None = None,
) -> int:
    """Records a batch that is whole in the landing; from here on it is pending. Gives its id.

    Args:
        connection: in a transaction.
        object_path: where it is.
        landing_key_id: the key that it is sealed with.
        messages: how many it holds.
        size: its bytes.
        oldest_sent_at_ms: when SQS took the oldest of them.
        run_id: the Dagster run, if any.
        landed_at: when an object was written that is registered anew: how long ids are kept follows from it.
    """
    batch_id: int = connection.execute(
        text(
            "INSERT INTO loginetl.batches"
            " (object_path, landing_key_id, messages, bytes, oldest_sent_at, landed_run_id, landed_at,"
            "  registered_anew_at) VALUES"
            " (:object_path, :landing_key_id, :messages, :size, to_timestamp(:oldest / 1000.0), :run_id,"
            "  coalesce(:landed_at, now()), CASE WHEN CAST(:landed_at AS timestamptz) IS NOT NULL THEN now() END)"
            " RETURNING batch_id"
        ),
        {
            "object_path": object_path,
            "landing_key_id": landing_key_id,
            "messages": messages,
            "size": size,
            "oldest": oldest_sent_at_ms,
            "run_id": run_id,
            "landed_at": landed_at,
        },
    ).scalar_one()
    return batch_id


def claim_batch(
    connection: Connection,
    states: Sequence[BatchState],
    *,
    after: int = 0,
    before: int | None = None,
    newest: bool = False,
    only: Sequence[int] = (),
) -> Batch | None:
    """Locks the oldest batch in one of the states that nobody else holds, for as long as the transaction lasts.

    Args:
        connection: in a transaction.
        states: which batches to look at; those whose objects retention has removed are passed over.
        after: only batches with a higher id.
        before: only batches with a lower id, if one is given.
        newest: the newest of them, not the oldest.
        only: only these ids, if any are given.
    """
    row = connection.execute(
        text(
            f"SELECT {_BATCH} FROM loginetl.batches"
            " WHERE state = ANY(:states) AND batch_id > :after AND (:any OR batch_id = ANY(:only))"
            " AND (CAST(:before AS bigint) IS NULL OR batch_id < :before) AND object_purged_at IS NULL"
            f" ORDER BY {'batch_id DESC' if newest else 'batch_id'} LIMIT 1 FOR UPDATE SKIP LOCKED"
        ),
        {"states": list(states), "after": after, "before": before, "any": not only, "only": list(only)},
    ).one_or_none()
    return None if row is None else _batch(row)


def pending_masked(connection: Connection, *, after: int, limit: int) -> list[Batch]:
    """Batches that are masked and not loaded, oldest first; not locked."""
    rows = connection.execute(
        text(
            f"SELECT {_BATCH} FROM loginetl.batches WHERE state = 'masked' AND batch_id > :after"
            " ORDER BY batch_id LIMIT :limit"
        ),
        {"after": after, "limit": limit},
    )
    return [_batch(row) for row in rows]


def touched_by_run(connection: Connection, action: Literal["masked", "loaded"], run_id: str) -> list[Batch]:
    """Batches that a Dagster run masked or loaded; where it did none, the last one that retention has not purged.

    The second is what a check sees that is run by itself. A purged batch's message ids may be gone.
    """
    if action not in {"masked", "loaded"}:
        raise ValueError("batches are masked or loaded by a run")
    of_run = text(f"SELECT {_BATCH} FROM loginetl.batches WHERE {action}_run_id = :run_id ORDER BY batch_id")
    latest = text(
        f"SELECT {_BATCH} FROM loginetl.batches WHERE {action}_at IS NOT NULL AND object_purged_at IS NULL"
        f" ORDER BY {action}_at DESC, batch_id DESC LIMIT 1"
    )
    rows = connection.execute(of_run, {"run_id": run_id}).all() or connection.execute(latest).all()
    return [_batch(row) for row in rows]


def _batch(row: Any) -> Batch:
    columns = dict(row._mapping)
    return Batch(**{**columns, "state": BatchState(columns["state"])})


def quarantine(connection: Connection, batch: Batch, reason: str) -> None:
    """Takes a batch that cannot be read out of the way; its messages stay pending and the reason is shown."""
    connection.execute(
        text(
            "UPDATE loginetl.batches SET state = 'quarantined', quarantine_reason = :reason, quarantined_at = now(),"
            f" {_NOT_LOST} WHERE batch_id = :batch_id"
        ),
        {"batch_id": batch.batch_id, "reason": reason},
    )


@dataclass(frozen=True)
class QuarantinedBatch:
    """A batch that could not be read, and why."""

    batch_id: int
    messages: int
    reason: str
    since: datetime


def quarantined_batches(connection: Connection, *, limit: int | None = None) -> list[QuarantinedBatch]:
    """Batches that are set aside, oldest first."""
    rows = connection.execute(
        text(
            "SELECT batch_id, messages, quarantine_reason AS reason, quarantined_at AS since FROM loginetl.batches"
            " WHERE state = 'quarantined' ORDER BY batch_id LIMIT :limit"
        ),
        {"limit": limit},
    )
    return [QuarantinedBatch(**row._mapping) for row in rows]


def give_up(connection: Connection, batch_id: int, reason: str) -> int:
    """Counts the pending messages of a quarantined batch as lost, with the reason and the database's user.

    Retention and pruning treat the batch as a loaded one from then on. Until its object is purged it can be taken back
    by being read again. Returns how many messages were pending.

    Raises:
        OperatorError: there is no such batch, or it is not quarantined.
    """
    row = connection.execute(
        text("SELECT state, masked_path FROM loginetl.batches WHERE batch_id = :batch_id FOR UPDATE"),
        {"batch_id": batch_id},
    ).one_or_none()
    if row is None or row.state != BatchState.QUARANTINED:
        what = "is not in the ledger" if row is None else f"is {row.state}"
        raise OperatorError(
            f"batch {batch_id} {what}; only a quarantined one can be given up: `loginetl batches list --state"
            f" {BatchState.QUARANTINED}` names them"
        )
    lost: int = connection.execute(
        text(
            "UPDATE loginetl.batches SET state = 'lost', lost = messages - loaded - duplicates - rejected - erased,"
            " lost_reason = :reason, lost_at = now(), lost_by = session_user, masked_path = NULL"
            " WHERE batch_id = :batch_id RETURNING lost"
        ),
        {"batch_id": batch_id, "reason": reason},
    ).scalar_one()
    if row.masked_path:  # it names users in plaintext, and nothing loads it any more
        schedule_deletion(connection, [row.masked_path])
    return lost


@dataclass(frozen=True)
class BatchRecord:
    """A row of `loginetl.batches` as it is shown: no value of a message."""

    batch_id: int
    state: str
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
    registered_anew_at: datetime | None
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
        return {BatchState.QUARANTINED: self.quarantine_reason, BatchState.LOST: self.lost_reason}.get(
            BatchState(self.state)
        )


_PENDING = "messages - loaded - duplicates - rejected - erased - lost AS pending"
_RECORD = ", ".join(_PENDING if field.name == "pending" else field.name for field in fields(BatchRecord))


def newest_batches(connection: Connection, state: BatchState | None, *, limit: int) -> list[BatchRecord]:
    """Batches, newest first; of one state, if one is given."""
    rows = connection.execute(
        text(
            f"SELECT {_RECORD} FROM loginetl.batches WHERE CAST(:state AS text) IS NULL OR state = :state"
            " ORDER BY batch_id DESC LIMIT :limit"
        ),
        {"state": state, "limit": limit},
    )
    return [BatchRecord(**row._mapping) for row in rows]


def batch_record(connection: Connection, batch_id: int) -> BatchRecord:
    """One batch.

    Raises:
        OperatorError: there is no such batch.
    """
    row = connection.execute(
        text(f"SELECT {_RECORD} FROM loginetl.batches WHERE batch_id = :batch_id"), {"batch_id": batch_id}
    ).one_or_none()
    if row is None:
        raise OperatorError(f"there is no batch {batch_id}: `loginetl batches list` names those there are")
    return BatchRecord(**row._mapping)


def settled_events(connection: Connection, keys: Sequence[UUID]) -> set[UUID]:
    """Which of the events have been loaded."""
    rows = connection.execute(
        text("SELECT event_uuid FROM loginetl.processed_messages WHERE event_uuid = ANY(:keys)"), {"keys": list(keys)}
    )
    return set(rows.scalars())


def settle_duplicates(connection: Connection, batch: Batch, keys: Sequence[UUID]) -> None:
    """Settles messages that bring an event which another message has brought."""
    connection.execute(
        text(
            "INSERT INTO loginetl.processed_messages (message_uuid, batch_id, outcome)"
            " SELECT key, :batch_id, 'duplicate' FROM unnest(CAST(:keys AS uuid[])) key ORDER BY key"
            " ON CONFLICT DO NOTHING"
        ),
        {"batch_id": batch.batch_id, "keys": list(keys)},
    )


def settled(connection: Connection, keys: Sequence[UUID]) -> dict[UUID, tuple[int, str]]:
    """Which of the messages have an outcome: the batch that gave it, and which."""
    rows = connection.execute(
        text("SELECT message_uuid, batch_id, outcome FROM loginetl.processed_messages WHERE message_uuid = ANY(:keys)"),
        {"keys": list(keys)},
    )
    return {row.message_uuid: (row.batch_id, row.outcome) for row in rows}


def mark_masked(
    connection: Connection,
    batch: Batch,
    *,
    masked_path: str,
    rejected: int,
    duplicates: int,
    loaded: int,
    unknown_fields: int,
    run_id: str,
) -> None:
    """Records that a batch's masked file is written, and what of it is settled; its former file is to be deleted."""
    if batch.masked_path:
        schedule_deletion(connection, [batch.masked_path])
    connection.execute(
        text(
            "UPDATE loginetl.batches SET state = 'masked', masked_path = :masked_path, rejected = :rejected,"
            " duplicates = :duplicates, loaded = :loaded, unknown_fields = :unknown_fields, masked_at = now(),"
            f" masked_run_id = :run_id, {_NOT_LOST} WHERE batch_id = :batch_id"
        ),
        {
            "batch_id": batch.batch_id,
            "masked_path": masked_path,
            "rejected": rejected,
            "duplicates": duplicates,
            "loaded": loaded,
            "unknown_fields": unknown_fields,
            "run_id": run_id,
        },
    )


def mark_loaded(
    connection: Connection, batch: Batch, *, loaded: int, rejected: int, duplicates: int, run_id: str
) -> None:
    """Records that a batch's rows are in the table, and what became of those that are not."""
    connection.execute(
        text(
            "UPDATE loginetl.batches SET state = 'loaded', loaded = loaded + :loaded, rejected = rejected + :rejected,"
            " duplicates = duplicates + :duplicates, loaded_at = now(), loaded_run_id = :run_id"
            " WHERE batch_id = :batch_id"
        ),
        {
            "batch_id": batch.batch_id,
            "loaded": loaded,
            "rejected": rejected,
            "duplicates": duplicates,
            "run_id": run_id,
        },
    )


def totals(connection: Connection) -> Totals:
    """Adds up all batches."""
    row = connection.execute(
        text(
            "SELECT count(*) AS batches, coalesce(sum(messages), 0) AS messages,"
            " coalesce(sum(loaded), 0) AS loaded, coalesce(sum(duplicates), 0) AS duplicates,"
            " coalesce(sum(rejected), 0) AS rejected, coalesce(sum(erased), 0) AS erased,"
            " coalesce(sum(lost), 0) AS lost,"
            " count(*) FILTER (WHERE state IN ('landed', 'masked')) AS pending_batches,"
            " coalesce(sum(messages - loaded - duplicates - rejected - erased - lost)"
            "   FILTER (WHERE state <> 'loaded'), 0) AS pending,"
            " count(*) FILTER (WHERE state = 'quarantined') AS quarantined_batches,"
            " max(loaded_at) AS last_loaded_at FROM loginetl.batches"
        )
    ).one()
    columns = dict(row._mapping)
    last_loaded_at = columns.pop("last_loaded_at")
    return Totals(**{name: int(value) for name, value in columns.items()}, last_loaded_at=last_loaded_at)


def settled_by(connection: Connection, batch_ids: Sequence[int]) -> dict[tuple[int, str], int]:
    """Counts the ledger's message ids by batch and outcome (`loaded`, `rejected`), by index."""
    rows = connection.execute(
        text(
            "SELECT batch_id, outcome, count(*) AS messages FROM loginetl.processed_messages"
            " WHERE batch_id = ANY(:batch_ids) GROUP BY batch_id, outcome"
        ),
        {"batch_ids": list(batch_ids)},
    )
    return {(row.batch_id, row.outcome): row.messages for row in rows}


def settled_among(connection: Connection, keys: Sequence[UUID]) -> tuple[int, list[UUID]]:
    """How many of the message keys have an outcome, and which of them were rejected."""
    row = connection.execute(
        text(
            "SELECT count(*) AS settled,"
            " coalesce(array_agg(message_uuid) FILTER (WHERE outcome = 'rejected'), '{}') AS rejected"
            " FROM loginetl.processed_messages WHERE message_uuid = ANY(:keys)"
        ),
        {"keys": list(keys)},
    ).one()
    return row.settled, row.rejected


def expired_batches(connection: Connection, before: datetime, *, limit: int) -> list[Batch]:
    """Batches loaded or given up before a moment and not purged since; locked, those in use passed over."""
    rows = connection.execute(
        text(
            f"SELECT {_BATCH} FROM loginetl.batches"
            " WHERE (state = 'loaded' AND loaded_at < :before OR state = 'lost' AND lost_at < :before)"
            " AND object_purged_at IS NULL ORDER BY batch_id LIMIT :limit FOR UPDATE SKIP LOCKED"
        ),
        {"before": before, "limit": limit},
    )
    return [_batch(row) for row in rows]


def mark_purged(connection: Connection, batch_ids: Sequence[int]) -> None:
    """Records that the objects of batches are gone; their counts stay."""
    connection.execute(
        text(
            "UPDATE loginetl.batches SET object_purged_at = now(), masked_path = NULL WHERE batch_id = ANY(:batch_ids)"
        ),
        {"batch_ids": list(batch_ids)},
    )


def unnamed_objects(connection: Connection, keys: Sequence[str]) -> list[str]:
    """Which objects no batch names, and no list of objects to be deleted."""
    return list(
        connection.execute(
            text(
                "SELECT key FROM unnest(CAST(:keys AS text[])) key WHERE NOT EXISTS"
                " (SELECT FROM loginetl.batches WHERE object_path = key)"
                " AND NOT EXISTS (SELECT FROM loginetl.batches WHERE masked_path = key)"
                " AND NOT EXISTS (SELECT FROM loginetl.pending_deletions d WHERE d.object_path = key)"
            ),
            {"keys": list(keys)},
        ).scalars()
    )


def purged_objects(connection: Connection, keys: Sequence[str]) -> list[str]:
    """Which objects are those of batches that retention has removed from the landing."""
    return list(
        connection.execute(
            text(
                "SELECT object_path FROM loginetl.batches"
                " WHERE object_path = ANY(:keys) AND object_purged_at IS NOT NULL"
            ),
            {"keys": list(keys)},
        ).scalars()
    )


def lock_registering(connection: Connection) -> None:
    """Waits until nobody else registers objects that no batch names, and keeps it so until the transaction ends."""
    connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": 0x6C6F67696E75})


def prune_messages(connection: Connection, before: datetime, *, unread_since: datetime | None = None) -> int:
    """Forgets the message ids of batches that landed before a moment, are loaded or lost, and whose objects are gone.

    While its object is there a batch can be read again, and ids are what keeps its messages from loading twice. An id
    is kept with the batch that settled it, and SQS may have delivered the message anew for as long as it keeps one: so
    a batch's ids stay until every object is gone that landed before it, or that long after it. That of a rejected
    message stays with its body, for the replay.

    Args:
        connection: in a transaction.
        before: only those of batches that landed earlier.
        unread_since: when the oldest object was written that may be a batch, once the key is there that opens it.
    """
    return connection.execute(
        text(
            "DELETE FROM loginetl.processed_messages p USING loginetl.batches b WHERE b.batch_id = p.batch_id"
            " AND b.state IN ('loaded', 'lost') AND b.landed_at < :before AND b.object_purged_at IS NOT NULL"
            " AND NOT EXISTS (SELECT FROM loginetl.rejected_logins r WHERE r.message_uuid = p.message_uuid)"
            " AND b.landed_at + CAST(:redelivery AS interval) <= least("
            "   (SELECT min(landed_at) FROM loginetl.batches WHERE object_purged_at IS NULL),"
            "   CAST(:unread_since AS timestamptz), 'infinity')"
        ),
        {"before": before, "redelivery": REDELIVERY, "unread_since": unread_since},
    ).rowcount


def batches_in_landing(connection: Connection) -> list[int]:
    """The ids of all batches whose object is still in the landing.

    An id is taken before its batch is committed: one that is lower than these may appear later.
    """
    return list(
        connection.execute(
            text("SELECT batch_id FROM loginetl.batches WHERE object_purged_at IS NULL ORDER BY batch_id")
        ).scalars()
    )


def lock_batch(connection: Connection, batch_id: int) -> Batch | None:
    """Waits for a batch and locks it; None where retention was first."""
    row = connection.execute(
        text(
            f"SELECT {_BATCH} FROM loginetl.batches WHERE batch_id = :batch_id AND object_purged_at IS NULL FOR UPDATE"
        ),
        {"batch_id": batch_id},
    ).one_or_none()
    return None if row is None else _batch(row)


def lock_batches(connection: Connection, batch_ids: Sequence[int]) -> None:
    """Waits for batches, in the order of their ids, and locks them."""
    connection.execute(
        text("SELECT FROM loginetl.batches WHERE batch_id = ANY(:batch_ids) ORDER BY batch_id FOR UPDATE"),
        {"batch_ids": list(batch_ids)},
    )


def replace_objects(
    connection: Connection,
    batch: Batch,
    *,
    object_path: str,
    landing_key_id: int,
    size: int,
    masked_path: str | None,
    erased: Sequence[UUID],
    pending_deletion: Sequence[str],
) -> int:
    """Points a batch at objects without the erased messages, and moves those to their own outcome.

    A loaded batch stays loaded. Any other goes back to landed, to be masked anew: its counts are made then. Gives back
    how many rejected bodies went with the messages.

    Args:
        connection: in the transaction that holds the batch.
        batch: as it was.
        object_path: the new object.
        landing_key_id: the key it is sealed with.
        size: its bytes.
        masked_path: the new masked file of a loaded batch.
        erased: the removed messages' keys, as often as they stood in the batch.
        pending_deletion: the objects that are replaced.
    """
    outcomes = {
        row.message_uuid: row.outcome
        for row in connection.execute(
            text(
                "SELECT message_uuid, outcome FROM loginetl.processed_messages"
                " WHERE message_uuid = ANY(:keys) AND batch_id = :batch_id"
            ),
            {"keys": list(erased), "batch_id": batch.batch_id},
        )
    }
    loaded = sum(outcome == "loaded" for outcome in outcomes.values())
    rejected = sum(outcome == "rejected" for outcome in outcomes.values())
    already = sum(outcome == "erased" for outcome in outcomes.values())  # as a rejected body, while this batch came in
    fresh = len(erased) - already
    is_loaded = batch.state is BatchState.LOADED
    bodies = connection.execute(
        text("DELETE FROM loginetl.rejected_logins WHERE message_uuid = ANY(:keys) AND batch_id = :batch_id"),
        {"keys": list(erased), "batch_id": batch.batch_id},
    ).rowcount
    connection.execute(
        text(
            "INSERT INTO loginetl.processed_messages (message_uuid, batch_id, outcome)"
            " SELECT DISTINCT key, CAST(:batch_id AS bigint), 'erased' FROM unnest(CAST(:keys AS uuid[])) key"
            " ORDER BY key ON CONFLICT (message_uuid) DO UPDATE SET outcome = 'erased'"
            " WHERE processed_messages.batch_id = excluded.batch_id"
        ),
        {"keys": list(erased), "batch_id": batch.batch_id},
    )
    connection.execute(
        text(
            "UPDATE loginetl.batches SET object_path = :object_path, landing_key_id = :landing_key_id, bytes = :size,"
            " masked_path = :masked_path, state = CASE WHEN state = 'loaded' THEN state ELSE 'landed' END,"
            " loaded = loaded - :loaded, rejected = rejected - :rejected, duplicates = duplicates - :duplicates,"
            f" erased = erased + :erased, {_NOT_LOST} WHERE batch_id = :batch_id"
        ),
        {
            "object_path": object_path,
            "landing_key_id": landing_key_id,
            "size": size,
            "masked_path": masked_path,
            "loaded": loaded,
            "rejected": rejected,
            "duplicates": fresh - loaded - rejected if is_loaded else batch.duplicates,
            "erased": fresh,
            "batch_id": batch.batch_id,
        },
    )
    schedule_deletion(connection, pending_deletion)
    return bodies


def schedule_deletion(connection: Connection, keys: Sequence[str]) -> None:
    """Lists objects for deletion, in the transaction after which no batch names them."""
    connection.execute(
        text("INSERT INTO loginetl.pending_deletions SELECT unnest(CAST(:keys AS text[])) ON CONFLICT DO NOTHING"),
        {"keys": list(keys)},
    )


def pending_deletions(connection: Connection) -> list[str]:
    """Objects that were replaced and are still to be deleted."""
    return list(connection.execute(text("SELECT object_path FROM loginetl.pending_deletions")).scalars())


def forget_deletions(connection: Connection, keys: Sequence[str]) -> None:
    """Takes deleted objects off the list."""
    connection.execute(
        text("DELETE FROM loginetl.pending_deletions WHERE object_path = ANY(:keys)"), {"keys": list(keys)}
    )


def replace_masked(connection: Connection, batch: Batch, masked_path: str | None) -> None:
    """Points a batch at a new masked file, or sends it back to be masked; the old file is to be deleted."""
    connection.execute(
        text(
            "UPDATE loginetl.batches SET masked_path = :masked_path,"
            " state = CASE WHEN CAST(:masked_path AS text) IS NULL THEN 'landed' ELSE state END"
            " WHERE batch_id = :batch_id"
        ),
        {"masked_path": masked_path, "batch_id": batch.batch_id},
    )
    if batch.masked_path:
        schedule_deletion(connection, [batch.masked_path])
