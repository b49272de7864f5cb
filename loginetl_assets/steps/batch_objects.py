"""What a batch's row in Postgres and its objects in the landing do together: land, read, delete."""

from collections.abc import Iterator
from dataclasses import dataclass

import polars as pl
from sqlalchemy import Connection

from loginetl_assets.errors import BatchError
from loginetl_assets.keys.keyring import Keyring
from loginetl_assets.landing.batch_files import UnreadableError, read_masked, read_messages, write_messages
from loginetl_assets.landing.object_store import Landing
from loginetl_assets.logins.message import QueuedMessage
from loginetl_assets.settings import KeysetRole
from loginetl_assets.storage import batches, installation, objects, vault
from loginetl_assets.storage.batches import Batch, BatchState
from loginetl_assets.storage.database import LoginDatabase

_DELETED_TOGETHER = 500
_READ_TOGETHER = 100


def land(
    connection: Connection, landing: Landing, keyring: Keyring, messages: list[QueuedMessage], run_id: str | None = None
) -> tuple[int, int]:
    """Writes messages as a new batch and registers it; they are landed once the transaction commits.

    Returns the batch's id, and its object's size in bytes.

    Where an erasure may be under way the caller holds the vault's shared lock: the erasure then waits for what is about
    to be registered.
    """
    object_path, size = write_messages(landing, keyring.landing, messages)
    batch_id = batches.register_batch(
        connection,
        object_path=object_path,
        landing_key_id=keyring.key_ids(KeysetRole.LANDING)[0],
        messages=messages,
        bytes=size,
        run_id=run_id,
    )
    return batch_id, size


@dataclass(frozen=True)
class BatchLanding:
    """Lands batches, each in a transaction of its own."""

    database: LoginDatabase
    landing: Landing
    keyring: Keyring
    run_id: str | None = None

    def check_ready(self) -> None:
        """Fails where no batch could be landed: the wrong keyset, a database or a landing that takes no writes."""
        with self.database.transaction() as connection:
            installation.check_keys(connection, KeysetRole.LANDING, self.keyring.check_values(KeysetRole.LANDING))
            batches.check_writable(connection)
        self.landing.check_writable()

    def __call__(self, messages: list[QueuedMessage]) -> tuple[int, int]:
        """Lands one, durably: once this returns its messages may leave the queue."""
        with self.database.transaction() as connection:
            vault.lock_shared(connection)
            return land(connection, self.landing, self.keyring, messages, self.run_id)


def read_batch(landing: Landing, keyring: Keyring, batch: Batch) -> list[QueuedMessage]:
    """Returns a batch's messages.

    Raises:
        UnreadableError: the object is missing or damaged.
        BatchError: it was encrypted with a key that the keyring does not hold.
    """
    if batch.landing_key_id not in keyring.key_ids(KeysetRole.LANDING):
        raise BatchError(
            f"batch {batch.batch_id} was encrypted with landing key {batch.landing_key_id}, which"
            " LOGINETL_KEYSET_LANDING does not hold: set the keyset that does"
        )
    return read_messages(landing, keyring.landing, batch.object_path)


def pending_logins(connection: Connection, landing: Landing) -> Iterator[pl.DataFrame | None]:
    """Yields the rows of each batch that is masked and not loaded, one by one; None where they are unreadable."""
    last = 0
    while page := batches.list_batches(connection, BatchState.MASKED, after=last, limit=_READ_TOGETHER):
        last = page[-1].batch_id
        for batch in page:
            yield readable_logins(landing, batch)


def readable_logins(landing: Landing, batch: Batch) -> pl.DataFrame | None:
    """Returns the rows of a batch's masked file, None where they are unreadable."""
    try:
        return read_masked(landing, batch.masked_path)
    except UnreadableError:
        return None


def delete_pending(database: LoginDatabase, landing: Landing) -> int:
    """Deletes the objects that were replaced, and takes them off the list once they are gone; returns how many."""
    with database.transaction() as connection:
        pending = objects.pending_deletions(connection)
    deleted = 0
    for start in range(0, len(pending), _DELETED_TOGETHER):
        page = pending[start : start + _DELETED_TOGETHER]
        left = landing.delete(page)  # outside a transaction: it may take a minute
        with database.transaction() as connection:
            objects.forget_deletions(connection, sorted({*page}.difference(left)))
        deleted += len(page) - len(left)
    return deleted
