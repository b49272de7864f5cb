"""The keys the pipeline holds: Tink keysets, each loaded when it is first needed and never shown.

In the local environment missing keysets are made on first use under LOGINETL_HOME/keys, mode 0600; in staging and
production they never are.
"""

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import tink
from tink import aead, hybrid, prf

from loginetl_assets.durable import make_directory
from loginetl_assets.errors import OperatorError
from loginetl_assets.keys.keysets import check_values, enabled_key_ids, keyset_json, read_keyset, write_once
from loginetl_assets.logins.encryption import Encryptor
from loginetl_assets.logins.tokens import Tokenizer
from loginetl_assets.settings import KeysetRole

OFFICER_SETTING = "LOGINETL_KEYSET_OFFICER"
OFFICER_FILE = "officer-private.json"

_PRF = "PRF (HMAC-SHA256)"
_AEAD = "AEAD (AES-256-GCM)"

# The officer's private keyset makes the vault's public one, so the vault has no template of its own.
OFFICER_TEMPLATE = hybrid.hybrid_key_templates.DHKEM_X25519_HKDF_SHA256_HKDF_SHA256_AES_256_GCM
TEMPLATES: Mapping[KeysetRole, object] = {
    KeysetRole.MASKING: prf.prf_key_templates.HMAC_SHA256,
    KeysetRole.LANDING: aead.aead_key_templates.AES256_GCM,
    KeysetRole.REJECTS: aead.aead_key_templates.AES256_GCM,
}


class Keyring:
    """The four keysets of the pipeline. The officer's private one is not among them."""

    def __init__(
        self, keysets: Mapping[KeysetRole, str], made_in: Path | None = None, kms_key_uri: str | None = None
    ) -> None:
        """Takes the settings' keysets and, in the local environment, where missing ones are made."""
        self._keysets = keysets
        self._made_in = made_in
        self._kms_key_uri = kms_key_uri
        self._handles: dict[KeysetRole, tink.KeysetHandle] = {}

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """Makes tokens with the masking keyset's primary key."""
        return self._tokenizers[0]

    @cached_property
    def old_tokenizers(self) -> tuple[Tokenizer, ...]:
        """Make the tokens of the masking keyset's other keys: there while a rotation is under way."""
        return self._tokenizers[1:]

    @cached_property
    def _tokenizers(self) -> tuple[Tokenizer, ...]:
        prfs = self._primitive(KeysetRole.MASKING, prf.PrfSet, _PRF).all()
        key_ids = enabled_key_ids(self.handle(KeysetRole.MASKING))
        tokenizers = tuple(Tokenizer(key_id, prfs[key_id]) for key_id in key_ids)
        try:
            for tokenizer in tokenizers:
                tokenizer.token("", "")  # a PRF of Tink's may be too short for a token
        except tink.TinkError:
            raise OperatorError(_wrong_kind(KeysetRole.MASKING, _PRF)) from None
        return tokenizers

    @cached_property
    def landing(self) -> Encryptor:
        """Seals and opens batches."""
        encryptor: Encryptor = self._primitive(KeysetRole.LANDING, aead.Aead, _AEAD)
        return encryptor

    @cached_property
    def rejects(self) -> Encryptor:
        """Seals and opens the bodies of rejected messages."""
        encryptor: Encryptor = self._primitive(KeysetRole.REJECTS, aead.Aead, _AEAD)
        return encryptor

    @cached_property
    def vault(self) -> hybrid.HybridEncrypt:
        """Seals data keys to the privacy officer; opens nothing."""
        return self._primitive(KeysetRole.VAULT, hybrid.HybridEncrypt, "public HPKE")

    def key_ids(self, role: KeysetRole) -> tuple[int, ...]:
        """The ids of a keyset's enabled keys, the primary first.

        Raises:
            OperatorError: the keyset is of the wrong kind. The ledger remembers these ids as the database's own, and
                would from then on refuse the right keyset.
        """
        match role:
            case KeysetRole.MASKING:
                _ = self._tokenizers
            case KeysetRole.LANDING:
                _ = self.landing
            case KeysetRole.REJECTS:
                _ = self.rejects
            case KeysetRole.VAULT:
                _ = self.vault
        return enabled_key_ids(self.handle(role))

    def check_values(self, role: KeysetRole) -> dict[int, bytes]:
        """The check values of a keyset's enabled keys by key id, the primary first; for `ledger.check_keys`.

        Raises:
            OperatorError: as `key_ids`.
        """
        self.key_ids(role)
        return check_values(self.handle(role))

    def make_missing(self) -> None:
        """Makes the keysets that the local environment still lacks."""
        for role in KeysetRole:
            self.handle(role)

    def source(self, role: KeysetRole) -> str:
        """The setting a keyset is read from, or the file the local environment made.

        Raises:
            OperatorError: there is neither.
        """
        if setting := self._keysets.get(role):
            return setting
        if self._made_in is None:
            raise OperatorError(f"{setting_of(role)} is not set: name the file of the {role} keyset")
        return str(_made(self._made_in, role))

    def handle(self, role: KeysetRole) -> tink.KeysetHandle:
        """The keyset itself."""
        if role not in self._handles:
            self._handles[role] = read_keyset(
                setting_of(role),
                self.source(role),
                public=role is KeysetRole.VAULT,  # the pipeline must not be able to read the vault
                kms_key_uri=self._kms_key_uri,
                guarded=self._made_in is None,
            )
        return self._handles[role]

    def _primitive(self, role: KeysetRole, primitive: type[Any], kind: str) -> Any:
        try:
            return self.handle(role).primitive(primitive)
        except tink.TinkError:
            raise OperatorError(_wrong_kind(role, kind)) from None


def setting_of(role: KeysetRole) -> str:
    """The variable that names a keyset."""
    return f"LOGINETL_KEYSET_{role.upper()}"


def _wrong_kind(role: KeysetRole, kind: str) -> str:
    return f"{setting_of(role)} is a keyset of the wrong kind: it must be {kind}"


def _made(directory: Path, role: KeysetRole) -> Path:
    """The file of a keyset of the local environment, made if it is missing."""
    path = directory / f"{role}.json"
    if path.exists():
        return path
    try:
        make_directory(directory.parent)  # LOGINETL_HOME
        make_directory(directory)
        if role is KeysetRole.VAULT:
            officer = directory / OFFICER_FILE
            write_once(officer, keyset_json(tink.new_keyset_handle(OFFICER_TEMPLATE)))
            try:
                private = read_keyset(OFFICER_SETTING, str(officer))
            except OperatorError:
                raise OperatorError(f"{officer} is damaged: restore it, or move it away for a new one") from None
            write_once(path, keyset_json(private.public_keyset_handle(), public=True))
        else:
            write_once(path, keyset_json(tink.new_keyset_handle(TEMPLATES[role])))
    except OSError as error:
        raise OperatorError(f"cannot make keys in {directory} ({error.strerror}): check LOGINETL_HOME") from None
    return path
