"""Objects of the landing that the ledger does not name: registered again, deleted, or left where they are.

A run that died between its put and its commit leaves one. So does a Postgres that was put back to an earlier moment,
and then the object is the only copy of its messages. The two look the same and need not be: what opens with our
keys becomes a pending batch, and messages that the ledger knows end there as duplicates.

What does not open may be a stranger's, or ours once the right keyset is set: it is left, and counted, and ids are kept
as if it were ours. What retention had removed, and a backup of the landing brought back, is removed again: the
ids of its messages may be forgotten, and no erasure reads it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Connection

from loginetl_assets.keys.keyring import Keyring
from loginetl_assets.landing.object_store import BATCHES, MASKED, PROBES, Landing, ObjectMissingError, may_be_ours
from loginetl_assets.logins.encryption import DecryptionError, decrypt, key_id_of
from loginetl_assets.logins.message import decode_messages
from loginetl_assets.settings import KeysetRole
from loginetl_assets.steps.batch_objects import delete_pending
from loginetl_assets.steps.totals import StepTotals
from loginetl_assets.storage import installation, objects
from loginetl_assets.storage.batches import register_batch
from loginetl_assets.storage.database import LoginDatabase

# A run names what it has put within a transaction's life: put, lock and statement have time-outs of minutes. Should one
# be frozen for longer, its own registration fails and its messages come again.
REGISTER_AGE = timedelta(hours=1)


@dataclass(frozen=True)
class UnregisteredTotals(StepTotals):
    """What was found in the landing that the ledger did not name."""

    registered_batches: int = 0
    registered_messages: int = 0
    unreadable_objects: int = 0  # they are left
    unregistered_objects: int = 0  # that were deleted


def register_objects(
    database: LoginDatabase, landing: Landing, keys: Keyring, *, before: datetime, run_id: str | None = None
) -> tuple[UnregisteredTotals, datetime | None]:
    """Registers batches that the ledger does not name and that were written before a moment.

    An object that an erasure or a masking has replaced is not among them, though its deletion may be outstanding.
    Probes, and batches without a message, are deleted. Returns the totals, and when the oldest unreadable object was
    written that may be ours.

    Raises:
        OperatorError: the landing keyset is another database's; or the landing cannot be read.
    """
    with database.transaction() as connection:
        installation.check_keys(connection, KeysetRole.LANDING, keys.check_values(KeysetRole.LANDING))
    held = keys.key_ids(KeysetRole.LANDING)
    totals = UnregisteredTotals()
    unread_since: datetime | None = None
    for path, written_at in _those(objects.unregistered_objects, database, landing, BATCHES, before):
        if not may_be_ours(path):
            totals += UnregisteredTotals(unreadable_objects=1)
            continue
        with database.transaction() as connection:
            # Asked again now that nobody else registers, and read after it: an object that was replaced is deleted
            # before the ledger forgets it.
            objects.lock_registering(connection)
            if not objects.unregistered_objects(connection, [path]):
                continue
            try:
                encrypted = landing.get(path)
                messages = [] if path.startswith(PROBES) else decode_messages(decrypt(keys.landing, encrypted, path))
            except ObjectMissingError:
                continue
            except (DecryptionError, ValueError):
                totals += UnregisteredTotals(unreadable_objects=1)
                unread_since = min(written_at, unread_since or written_at)
                continue
            if messages:
                key_id = key_id_of(encrypted)
                register_batch(
                    connection,
                    object_path=path,
                    landing_key_id=key_id if key_id in held else held[0],
                    messages=messages,
                    bytes=len(encrypted),
                    run_id=run_id,
                    landed_at=written_at,
                )
            else:
                landing.delete([path])
        totals += UnregisteredTotals(1, len(messages)) if messages else UnregisteredTotals(unregistered_objects=1)
    return totals, unread_since


def delete_unneeded(database: LoginDatabase, landing: Landing, *, before: datetime) -> int:
    """Deletes what was written before a moment and no batch needs; returns how many objects.

    These are masked files that no batch names, since they can be made again, objects that retention had removed and a
    backup brought back, and what writes left behind that were killed.
    """
    unneeded = [path for path, _ in _those(objects.unregistered_objects, database, landing, MASKED, before)]
    unneeded = [path for path in unneeded if may_be_ours(path)]
    unneeded += [path for path, _ in _those(objects.purged_objects, database, landing, BATCHES, before)]
    with database.transaction() as connection:
        objects.schedule_deletion(connection, unneeded)  # first: no listing shows what only old versions are left of
    delete_pending(database, landing)
    return len(unneeded) + landing.delete_unfinished(before)


def _those(
    which: Callable[[Connection, Sequence[str]], list[str]],
    database: LoginDatabase,
    landing: Landing,
    prefix: str,
    before: datetime,
) -> list[tuple[str, datetime]]:
    """Returns the objects below a prefix that were written before a moment and that the ledger picks."""
    old = {path: written_at for path, written_at in landing.list(prefix) if written_at < before}
    with database.transaction() as connection:
        return [(path, old[path]) for path in which(connection, list(old))]
