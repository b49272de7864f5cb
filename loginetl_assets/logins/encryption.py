"""Sealing: what the pipeline writes so that only the right key opens it. All of it is Tink.

Batches and rejected bodies are sealed with a symmetric key (AES-256-GCM), bound to where they are kept, so that no
sealed thing can be passed off as another. Vault values are sealed to the privacy officer's public key: a fresh data
key per batch, itself sealed with HPKE, so that the pipeline can write what it can never read.
"""

import io
from typing import Protocol

import tink
from tink import aead, cleartext_keyset_handle, hybrid


class NotOpened(Exception):  # noqa: N818 - says what happened
    """A sealed thing did not open: altered, cut short, moved, or sealed with another key."""


class Encryptor(Protocol):
    """Tink's authenticated encryption with associated data."""

    def encrypt(self, plaintext: bytes, associated_data: bytes) -> bytes:
        """Seals bytes, bound to where they belong."""
        ...

    def decrypt(self, ciphertext: bytes, associated_data: bytes) -> bytes:
        """Opens them again; raises tink.TinkError where anything was changed."""
        ...


def encrypt(encryptor: Encryptor, plaintext: bytes, place: str) -> bytes:
    """Seals bytes so that they open only as the content of `place` (an object key, a message id)."""
    return encryptor.encrypt(plaintext, place.encode())


def decrypt(encryptor: Encryptor, sealed: bytes, place: str) -> bytes:
    """Opens what was sealed for `place`.

    Raises:
        NotOpened: altered, cut short, sealed for another place or with another key.
    """
    try:
        return encryptor.decrypt(sealed, place.encode())
    except tink.TinkError:
        raise NotOpened("it was altered, or sealed with another key") from None


def key_id_of(sealed: bytes) -> int | None:
    """The id of the key that sealed something, where Tink wrote it (the output prefix of its key templates)."""
    return int.from_bytes(sealed[1:5], "big") if sealed.startswith(b"\x01") else None


class VaultEncryptor:
    """Seals one batch's values for the vault, under a data key made for this batch alone."""

    def __init__(self, officer: hybrid.HybridEncrypt) -> None:
        """Takes the privacy officer's public side."""
        handle = tink.new_keyset_handle(aead.aead_key_templates.AES256_GCM)
        self._values = handle.primitive(aead.Aead)
        clear = io.BytesIO()
        cleartext_keyset_handle.write(tink.BinaryKeysetWriter(clear), handle)
        self.wrapped_key: bytes = officer.encrypt(clear.getvalue(), VAULT_KEY_CONTEXT)

    def encrypt(self, token: str, value: str) -> bytes:
        """Seals one value, bound to its token."""
        return encrypt(self._values, value.encode(), token)


VAULT_KEY_CONTEXT = b"loginetl vault data key"
