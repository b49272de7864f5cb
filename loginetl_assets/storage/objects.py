"""Which objects of the landing the batches point to, and which are to be deleted."""

from collections.abc import Sequence

from sqlalchemy import Connection, delete, func, select

from loginetl_assets.storage.statements import among, named
from loginetl_assets.storage.tables import batches
from loginetl_assets.storage.tables import pending_deletions as pending

_REGISTERING_LOCK = 0x6C6F67696E75  # an advisory lock of its own

_UNREGISTERED = named(
    "find_unregistered_objects",
    "SELECT path FROM unnest(CAST(:paths AS text[])) path"
    " WHERE NOT EXISTS (SELECT FROM loginetl.batches WHERE object_path = path)"
    " AND NOT EXISTS (SELECT FROM loginetl.batches WHERE masked_path = path)"
    " AND NOT EXISTS (SELECT FROM loginetl.pending_deletions d WHERE d.object_path = path)",
)
_SCHEDULE = named(
    "schedule_deletion",
    "INSERT INTO loginetl.pending_deletions SELECT unnest(CAST(:paths AS text[])) ON CONFLICT DO NOTHING",
)


def unregistered_objects(connection: Connection, paths: Sequence[str]) -> list[str]:
    """Returns the objects that neither a batch points to nor the list of objects to be deleted."""
    return list(connection.scalars(_UNREGISTERED, {"paths": list(paths)}))


def purged_objects(connection: Connection, paths: Sequence[str]) -> list[str]:
    """Returns the objects of batches that retention has removed from the landing."""
    named_paths = select(batches.c.object_path).where(among(batches.c.object_path, paths))
    purged = named_paths.where(batches.c.object_purged_at.is_not(None))
    return list(connection.scalars(named("find_purged_objects", purged)))


def lock_registering(connection: Connection) -> None:
    """Waits until nobody else registers objects that no batch points to, and locks until the transaction ends."""
    connection.execute(named("lock_registering", select(func.pg_advisory_xact_lock(_REGISTERING_LOCK))))


def schedule_deletion(connection: Connection, paths: Sequence[str]) -> None:
    """Lists objects for deletion, in the transaction after which no batch points to them."""
    connection.execute(_SCHEDULE, {"paths": list(paths)})


def pending_deletions(connection: Connection) -> list[str]:
    """Returns the objects that were replaced and are still to be deleted."""
    return list(connection.scalars(named("read_pending_deletions", select(pending.c.object_path))))


def forget_deletions(connection: Connection, paths: Sequence[str]) -> None:
    """Takes deleted objects off the list."""
    connection.execute(named("forget_deletions", delete(pending).where(among(pending.c.object_path, paths))))
