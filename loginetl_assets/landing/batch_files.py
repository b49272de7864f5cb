"""A batch's two objects in the landing: the sealed messages and the masked rows."""

import io
from collections.abc import Iterable, Iterator
from hashlib import sha256
from typing import NamedTuple
from uuid import uuid4

import polars as pl
from polars.exceptions import PolarsError
from sqlalchemy import Connection

from loginetl_assets.errors import BatchError
from loginetl_assets.keys.keyring import Keyring
from loginetl_assets.landing.object_store import BATCHES, MASKED, Landing, ObjectMissing
from loginetl_assets.logins.encryption import DecryptionError, decrypt, encrypt
from loginetl_assets.logins.masking import as_masked
from loginetl_assets.logins.message import QueuedMessage, decode_messages, encode_messages
from loginetl_assets.settings import KeysetRole
from loginetl_assets.storage import batches as ledger
from loginetl_assets.storage.batches import Batch
from loginetl_assets.storage.database import LoginDatabase

_DELETED_TOGETHER = 500


class Unreadable(Exception):  # noqa: N818 - says what happened
    """An object is gone, cut short, altered, or of another shape; the text says which and carries no content."""


class Written(NamedTuple):
    """An object of the landing: its key and its size in bytes."""

    object_path: str
    size: int


def write_messages(landing: Landing, keys: Keyring, messages: list[QueuedMessage]) -> Written:
    """Seals messages into a new object."""
    key = f"{BATCHES}/{uuid4()}"
    sealed = encrypt(keys.landing, encode_messages(messages), key)
    landing.put(key, sealed)
    return Written(key, len(sealed))


def register_messages(
    connection: Connection,
    keys: Keyring,
    messages: list[QueuedMessage],
    written: Written,
    run_id: str | None = None,
) -> int:
    """Registers in the ledger what `write_messages` wrote of these messages; gives the id of the batch, pending now."""
    return ledger.register_batch(
        connection,
        object_path=written.object_path,
        landing_key_id=keys.key_ids(KeysetRole.LANDING)[0],
        messages=len(messages),
        size=written.size,
        oldest_sent_at_ms=min(message.sent_at_ms for message in messages),
        run_id=run_id,
    )


def read_messages(landing: Landing, keys: Keyring, batch: Batch) -> list[QueuedMessage]:
    """Opens a batch's messages.

    Raises:
        Unreadable: the object is gone or damaged.
        BatchError: it was sealed with a key that the keyring does not hold.
    """
    if batch.landing_key_id not in keys.key_ids(KeysetRole.LANDING):
        raise BatchError(
            f"batch {batch.batch_id} was sealed with landing key {batch.landing_key_id}, which"
            " LOGINETL_KEYSET_LANDING does not hold: set the keyset that does"
        )
    try:
        return decode_messages(decrypt(keys.landing, landing.get(batch.object_path), batch.object_path))
    except (ObjectMissing, DecryptionError, ValueError) as error:
        raise Unreadable(f"raw batch: {error}") from None


def write_masked(landing: Landing, logins: pl.DataFrame) -> tuple[str, int]:
    """Writes masked rows, of `MASKED_SCHEMA`, into a new parquet file; gives its key and its size in bytes.

    The key ends with the content's digest, and the ledger keeps the key: nothing in a parquet file says that it was
    altered. Of all single bits of one, every second made other rows without a word, and some ended the process.
    """
    file = io.BytesIO()
    logins.write_parquet(file, compression="zstd")
    content = file.getvalue()
    key = f"{MASKED}/{uuid4()}-{sha256(content).hexdigest()}.parquet"
    landing.put(key, content)
    return key, len(content)


def read_masked(landing: Landing, batch: Batch) -> pl.DataFrame:
    """Reads a batch's masked rows, of `MASKED_SCHEMA`.

    Raises:
        Unreadable: the file is gone or damaged.
    """
    if batch.masked_path is None:
        raise Unreadable("masked file: none is recorded")
    try:
        content = landing.get(batch.masked_path)
    except ObjectMissing as error:
        raise Unreadable(f"masked file: {error}") from None
    if not batch.masked_path.endswith(f"-{sha256(content).hexdigest()}.parquet"):
        raise Unreadable("masked file: it was altered")
    try:
        return as_masked(pl.read_parquet(io.BytesIO(content)))
    except PolarsError:  # its text quotes what it could not read
        raise Unreadable("masked file: it cannot be read as masked logins") from None


def pending_logins(connection: Connection, landing: Landing) -> Iterator[tuple[Batch, pl.DataFrame | None]]:
    """Reads the batches that are masked and not loaded, one by one; None for one that cannot be read."""
    last = 0
    while page := ledger.pending_masked(connection, after=last, limit=100):
        last = page[-1].batch_id
        for batch in page:
            try:
                yield batch, read_masked(landing, batch)
            except Unreadable:
                yield batch, None


def delete_objects(connection: Connection, landing: Landing, keys: Iterable[str]) -> None:
    """Deletes objects that no batch needs; those of which versions stay are listed to be tried again."""
    ledger.schedule_deletion(connection, landing.delete(keys))


def delete_pending(database: LoginDatabase, landing: Landing) -> int:
    """Deletes the objects that were replaced, and takes them off the list once they are gone; gives back how many."""
    with database.transaction() as connection:
        pending_deletion = ledger.pending_deletions(connection)
    gone = 0
    for start in range(0, len(pending_deletion), _DELETED_TOGETHER):
        page = pending_deletion[start : start + _DELETED_TOGETHER]
        left = landing.delete(page)  # outside a transaction: it may take a minute
        with database.transaction() as connection:
            ledger.forget_deletions(connection, sorted({*page}.difference(left)))
        gone += len(page) - len(left)
    return gone
