"""The privacy officer's private key, which decrypts the vault. The pipeline never has it."""

from functools import lru_cache
from pathlib import Path

import tink
from tink import aead, cleartext_keyset_handle, hybrid

from loginetl_assets.errors import OperatorError
from loginetl_assets.keys.keyring import OFFICER_FILE
from loginetl_assets.keys.keysets import check_values, enabled_key_ids, read_keyset
from loginetl_assets.logins.encryption import VAULT_KEY_CONTEXT, DecryptionError, decrypt
from loginetl_assets.settings import OFFICER_SETTING

_DATA_KEYS_KEPT = 10_000  # one a batch that brought new values


class Officer:
    """Decrypts the vault."""

    def __init__(self, setting: str | None, made_in: Path | None = None, kms_key_uri: str | None = None) -> None:
        """Reads the private keyset: that of the setting or, in the local environment, the one made on first use.

        Raises OperatorError where it is named nowhere, missing, of the wrong kind, or others can read it.
        """
        if not (setting or made_in):
            raise OperatorError(f"{OFFICER_SETTING} is not set: recovery needs the privacy officer's private keyset")
        self.source = setting or f"{made_in}/{OFFICER_FILE}"
        self.handle = read_keyset(OFFICER_SETTING, self.source, kms_key_uri=kms_key_uri, guarded=made_in is None)
        try:
            self._keys = self.handle.primitive(hybrid.HybridDecrypt)
        except tink.TinkError:
            raise OperatorError(f"{OFFICER_SETTING} is a keyset of the wrong kind: it must be private HPKE") from None
        self._data_key = lru_cache(_DATA_KEYS_KEPT)(self._decrypted_data_key)

    @property
    def key_ids(self) -> tuple[int, ...]:
        """The ids of the keys that decrypt, the primary first."""
        return enabled_key_ids(self.handle)

    def check_values(self) -> dict[int, bytes]:
        """Returns the check values of the public halves of these keys, as the database keeps them for the vault's."""
        return check_values(self.handle.public_keyset_handle())

    def opens(self, vault: hybrid.HybridEncrypt) -> bool:
        """Tries whether the officer can decrypt what is encrypted with a vault keyset."""
        try:
            self.unwrap(vault.encrypt(b"", VAULT_KEY_CONTEXT))
        except DecryptionError:
            return False
        return True

    def unwrap(self, wrapped_key: bytes) -> bytes:
        """Decrypts a data key, to secret bytes; errors as for `decrypt`."""
        return self.decrypt(wrapped_key, VAULT_KEY_CONTEXT)

    def decrypt(self, ciphertext: bytes, context: bytes) -> bytes:
        """Decrypts what was encrypted for its context; raises DecryptionError for another officer's, or altered."""
        try:
            return bytes(self._keys.decrypt(ciphertext, context))
        except tink.TinkError:
            raise DecryptionError("it was encrypted for another officer key") from None

    def value(self, wrapped_key: bytes, encrypted_value: bytes, token: str) -> str:
        """Decrypts the value of a token; errors as for `unwrap`."""
        return decrypt(self._data_key(wrapped_key), encrypted_value, token).decode()

    def _decrypted_data_key(self, wrapped_key: bytes) -> aead.Aead:
        return cleartext_keyset_handle.read(tink.BinaryKeysetReader(self.unwrap(wrapped_key))).primitive(aead.Aead)
