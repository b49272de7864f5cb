"""Removes what nobody needs any more, by age. Each part can be repeated; one that died is finished by the next."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from loginetl_assets.keys.keyring import Keyring
from loginetl_assets.landing.object_store import Landing
from loginetl_assets.steps.batch_objects import delete_pending
from loginetl_assets.steps.unregistered_objects import UnregisteredTotals, delete_unneeded, register_objects
from loginetl_assets.storage import batches, message_ids
from loginetl_assets.storage.database import LoginDatabase
from loginetl_assets.storage.message_ids import REDELIVERY
from loginetl_assets.storage.objects import schedule_deletion

# An object that no batch names was left by a run that died, or by a Postgres that was restored to an earlier moment. A
# run may name it within its transaction's life, so only what is older than this is taken for one.
UNREGISTERED_AGE = timedelta(days=1)


@dataclass(frozen=True)
class RetentionTotals(UnregisteredTotals):
    """What one retention removed, and what it registered."""

    objects: int = 0  # of expired batches, and replaced ones
    message_ids: int = 0


def apply_retention(
    database: LoginDatabase, landing: Landing, keys: Keyring, *, older_than: timedelta, run_id: str
) -> RetentionTotals:
    """Purges objects and message ids that are older than a time and not needed; a batch's age begins when it is loaded.

    The landing keyset is used, to register objects that no batch names.
    """
    now = datetime.now(UTC)
    cutoff, day_old = now - older_than, now - UNREGISTERED_AGE
    objects = _purge_expired(database, landing, cutoff) + delete_pending(database, landing)
    registered, unread_since = register_objects(database, landing, keys, before=day_old, run_id=run_id)
    unregistered = registered + UnregisteredTotals(
        unregistered_objects=delete_unneeded(database, landing, before=day_old)
    )
    with database.transaction() as connection:
        pruned = message_ids.prune(connection, now - max(REDELIVERY, older_than), unread_since=unread_since)
    return RetentionTotals(**unregistered.as_metadata(), objects=objects, message_ids=pruned)


def _purge_expired(database: LoginDatabase, landing: Landing, cutoff: datetime) -> int:
    """Deletes the objects of batches that were loaded before the cutoff; returns how many."""
    objects = 0
    while True:
        with database.transaction() as connection:
            expired = batches.expired_batches(connection, cutoff, limit=500)
            if not expired:
                return objects
            # The files go before the rows that name them: a purge that dies in between meets them again.
            paths = [path for batch in expired for path in (batch.object_path, batch.masked_path) if path]
            schedule_deletion(connection, landing.delete(paths))  # once more, those of which versions stay
            batches.mark_purged(connection, [batch.batch_id for batch in expired])
            objects += len(paths)
