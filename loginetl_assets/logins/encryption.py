"""Encryption of what the pipeline writes, so that only the right key decrypts it. All of it is Tink.

Batches and rejected bodies are encrypted with a symmetric key (AES-256-GCM), bound to where they are kept, so that no
ciphertext can be passed off as another. Vault values are encrypted for the privacy officer's public key: with a fresh
data key per batch, itself encrypted with HPKE, so that the pipeline can write what it can never read.
"""

import io

import tink
from tink import aead, cleartext_keyset_handle, hybrid

VAULT_KEY_CONTEXT = b"loginetl vault data key"


class DecryptionError(Exception):
    """A ciphertext was altered, cut short, moved, or encrypted with another key."""


def encrypt(key: aead.Aead, plaintext: bytes, place: str) -> bytes:
    """Encrypts bytes as the content of `place` (an object's path, a message's id); only there are they decrypted."""
    return bytes(key.encrypt(plaintext, place.encode()))


def decrypt(key: aead.Aead, ciphertext: bytes, place: str) -> bytes:
    """Decrypts what was encrypted for `place`; raises DecryptionError."""
    try:
        return bytes(key.decrypt(ciphertext, place.encode()))
    except tink.TinkError:
        raise DecryptionError("it was altered, or encrypted with another key") from None


def key_id_of(ciphertext: bytes) -> int | None:
    """Returns the id of the key used, where Tink wrote it (the output prefix of its key templates)."""
    return int.from_bytes(ciphertext[1:5], "big") if ciphertext.startswith(b"\x01") else None


class VaultEncryptor:
    """Encrypts one batch's values for the vault, with a data key made for this batch alone."""

    def __init__(self, officer: hybrid.HybridEncrypt) -> None:
        """Takes the privacy officer's public key."""
        handle = tink.new_keyset_handle(aead.aead_key_templates.AES256_GCM)
        self._values = handle.primitive(aead.Aead)
        plaintext = io.BytesIO()
        cleartext_keyset_handle.write(tink.BinaryKeysetWriter(plaintext), handle)
        self.wrapped_key: bytes = officer.encrypt(plaintext.getvalue(), VAULT_KEY_CONTEXT)

    def encrypt(self, token: str, value: str) -> bytes:
        """Encrypts one value, bound to its token."""
        encrypted: bytes = self._values.encrypt(value.encode(), token.encode())
        return encrypted
