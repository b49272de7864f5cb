"""A batch's two objects in the landing: the encrypted messages and the masked rows."""

import io
from hashlib import sha256
from typing import NamedTuple
from uuid import uuid4

import polars as pl
from polars.exceptions import PolarsError
from tink import aead

from loginetl_assets.landing.object_store import BATCHES, MASKED, Landing, ObjectMissingError
from loginetl_assets.logins.encryption import DecryptionError, decrypt, encrypt
from loginetl_assets.logins.masking import as_masked
from loginetl_assets.logins.message import QueuedMessage, decode_messages, encode_messages


class UnreadableError(Exception):
    """An object is missing, cut short, altered, or of another shape; the text says which and carries no content."""


class Written(NamedTuple):
    """An object of the landing: its path and its bytes."""

    object_path: str
    bytes: int


def write_messages(landing: Landing, key: aead.Aead, messages: list[QueuedMessage]) -> Written:
    """Encrypts messages into a new object."""
    path = f"{BATCHES}/{uuid4()}"
    encrypted = encrypt(key, encode_messages(messages), path)
    landing.put(path, encrypted)
    return Written(path, len(encrypted))


def read_messages(landing: Landing, key: aead.Aead, object_path: str) -> list[QueuedMessage]:
    """Returns the messages of an object; raises UnreadableError where it is missing or damaged."""
    try:
        return decode_messages(decrypt(key, landing.get(object_path), object_path))
    except ObjectMissingError as error:  # names the object itself
        raise UnreadableError(f"raw batch: {error}") from None
    except (DecryptionError, ValueError) as error:
        raise UnreadableError(f"raw batch {object_path}: {error}") from None


def pack_masked(logins: pl.DataFrame) -> bytes:
    """Returns a parquet file: tokens are random, so at a higher level it takes twice the time and is no smaller."""
    file = io.BytesIO()
    logins.write_parquet(file, compression="zstd", compression_level=1)
    return file.getvalue()


def write_masked(landing: Landing, logins: pl.DataFrame) -> Written:
    """Writes masked rows, of `MASKED_SCHEMA`, into a new parquet file.

    Its path ends with the content's digest, and the ledger keeps the path: nothing in a parquet file says that it was
    altered. Of all single bits of one, every second changed rows unnoticed, and some ended the process.
    """
    content = pack_masked(logins)
    path = f"{MASKED}/{uuid4()}-{sha256(content).hexdigest()}.parquet"
    landing.put(path, content)
    return Written(path, len(content))


def read_masked(landing: Landing, masked_path: str | None) -> pl.DataFrame:
    """Returns masked rows, of `MASKED_SCHEMA`; raises UnreadableError where no file is named, or it is damaged."""
    if masked_path is None:
        raise UnreadableError("masked file: none is recorded")
    try:
        content = landing.get(masked_path)
    except ObjectMissingError as error:
        raise UnreadableError(f"masked file: {error}") from None
    if not masked_path.endswith(f"-{sha256(content).hexdigest()}.parquet"):
        raise UnreadableError(f"masked file {masked_path}: it was altered")
    try:
        return as_masked(pl.read_parquet(io.BytesIO(content)))
    except PolarsError:  # its text quotes what it could not read
        raise UnreadableError(f"masked file {masked_path}: it cannot be read as masked logins") from None
