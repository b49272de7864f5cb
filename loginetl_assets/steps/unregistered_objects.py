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
from loginetl_assets.landing.batch_files import Written
from loginetl_assets.landing.object_store import BATCHES, MASKED, PROBES, Landing, ObjectMissingError, may_be_ours
from loginetl_assets.logins.encryption import DecryptionError, decrypt, key_id_of
from loginetl_assets.logins.message import decode_messages
from loginetl_assets.settings import KeysetRole
from loginetl_assets.steps.batch_objects import delete_pending, register
from loginetl_assets.storage import installation, objects
from loginetl_assets.storage.database import LoginDatabase

# A run names what it has put within a transaction's life: put, lock and statement have time-outs of minutes. Should one
# be frozen for longer, its own registration fails and its messages come again.
REGISTER_AGE = timedelta(hours=1)


@dataclass
class UnregisteredObjects:
    """What was found in `batches/` that the ledger did not name."""

    registered_batches: int = 0
    registered_messages: int = 0
    deleted: int = 0  # probes, and batches without a message
    unreadable_objects: int = 0
    unread_since: datetime | None = None  # when the oldest of them was written that may be ours


def register_objects(
    database: LoginDatabase, landing: Landing, keys: Keyring, *, before: datetime, run_id: str | None = None
) -> UnregisteredObjects:
    """Registers batches that the ledger does not name and that were written before a moment.

    An object that an erasure or a masking has replaced is not among them, though its deletion may be outstanding.

    Raises:
        OperatorError: the landing keyset is another database's; or the landing cannot be read.
    """
    with database.transaction() as connection:
        installation.check_keys(connection, KeysetRole.LANDING, keys.check_values(KeysetRole.LANDING))
    held = keys.key_ids(KeysetRole.LANDING)
    found = UnregisteredObjects()
    for path, written_at in _those(objects.unregistered_objects, database, landing, BATCHES, before):
        if not may_be_ours(path):
            found.unreadable_objects += 1
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
                found.unreadable_objects += 1
                found.unread_since = min(written_at, found.unread_since or written_at)
                continue
            if messages:
                key_id = key_id_of(encrypted)
                key_id = key_id if key_id in held else held[0]
                register(connection, Written(path, len(encrypted)), key_id, messages, run_id, landed_at=written_at)
            else:
                landing.delete([path])
        found.registered_batches += bool(messages)
        found.registered_messages += len(messages)
        found.deleted += not messages
    return found


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
