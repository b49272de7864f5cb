"""The privacy officer's private key, which decrypts the vault. The pipeline never has it."""

import tink
from tink import aead, cleartext_keyset_handle, hybrid

from loginetl_assets.errors import OperatorError
from loginetl_assets.home import check_home
from loginetl_assets.keys.keyring import OFFICER_FILE
from loginetl_assets.keys.keysets import check_values, enabled_key_ids, read_keyset
from loginetl_assets.logins.encryption import VAULT_KEY_CONTEXT, DecryptionError, Encryptor
from loginetl_assets.settings import OFFICER_SETTING, Settings


def officer_source(settings: Settings) -> str:
    """Returns where the private keyset is: the setting or, in the local environment, the file made on first use.

    Raises:
        OperatorError: it is named nowhere.
    """
    if settings.officer_keyset:
        return settings.officer_keyset
    if settings.is_local:
        check_home(settings.home)
        return str(settings.home / "keys" / OFFICER_FILE)
    raise OperatorError(f"{OFFICER_SETTING} is not set: recovery needs the privacy officer's private keyset")


class Officer:
    """Decrypts the data keys of the vault."""

    def __init__(self, settings: Settings) -> None:
        """Reads the private keyset.

        Raises:
            OperatorError: it is missing or of the wrong kind, or others can read it.
        """
        self.handle = read_keyset(
            OFFICER_SETTING,
            officer_source(settings),
            kms_key_uri=settings.kms_key_uri,
            guarded=not settings.is_local,
        )
        try:
            self._keys = self.handle.primitive(hybrid.HybridDecrypt)
        except tink.TinkError:
            raise OperatorError(f"{OFFICER_SETTING} is a keyset of the wrong kind: it must be private HPKE") from None

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
        """Decrypts a data key; the bytes are secret.

        Raises:
            DecryptionError: it was encrypted for another officer, or altered.
        """
        try:
            return bytes(self._keys.decrypt(wrapped_key, VAULT_KEY_CONTEXT))
        except tink.TinkError:
            raise DecryptionError("it was encrypted for another officer key") from None

    def data_key(self, wrapped_key: bytes) -> Encryptor:
        """Returns the data key itself, which decrypts values bound to their tokens; errors as for `unwrap`."""
        handle = cleartext_keyset_handle.read(tink.BinaryKeysetReader(self.unwrap(wrapped_key)))
        encryptor: Encryptor = handle.primitive(aead.Aead)
        return encryptor
