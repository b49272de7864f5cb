"""The keys the pipeline holds: Tink keysets, each loaded when it is first needed and never shown.

In the local environment missing keysets are made on first use under LOGINETL_HOME/keys, mode 0600; in staging and
production they never are.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import tink
from tink import aead, hybrid, prf

from loginetl_assets.durable import make_directory, write_once
from loginetl_assets.errors import OperatorError
from loginetl_assets.keys import keysets
from loginetl_assets.logins.tokens import Tokenizer
from loginetl_assets.settings import OFFICER_SETTING, KeysetRole

OFFICER_FILE = "officer-private.json"

# The vault's keyset is the public half of the officer's, so it has no template of its own.
OFFICER_TEMPLATE = hybrid.hybrid_key_templates.DHKEM_X25519_HKDF_SHA256_HKDF_SHA256_AES_256_GCM
TEMPLATES: Mapping[KeysetRole, object] = {
    KeysetRole.MASKING: prf.prf_key_templates.HMAC_SHA256,
    KeysetRole.LANDING: aead.aead_key_templates.AES256_GCM,
    KeysetRole.REJECTS: aead.aead_key_templates.AES256_GCM,
}

_AEAD = (aead.Aead, "AEAD (AES-256-GCM)")
_PRIMITIVES: Mapping[KeysetRole, tuple[type[Any], str]] = {
    KeysetRole.MASKING: (prf.PrfSet, "PRF (HMAC-SHA256)"),
    KeysetRole.LANDING: _AEAD,
    KeysetRole.REJECTS: _AEAD,
    KeysetRole.VAULT: (hybrid.HybridEncrypt, "public HPKE"),
}


@dataclass(eq=False, repr=False)  # a setting may be the keyset itself
class Keyring:
    """The four keysets of the pipeline. The officer's private one is not among them."""

    keysets: Mapping[KeysetRole, str]
    made_in: Path | None = None  # where, in the local environment, missing ones are made
    kms_key_uri: str | None = None
    _handles: dict[KeysetRole, tink.KeysetHandle] = field(default_factory=dict, init=False)

    @property
    def tokenizer(self) -> Tokenizer:
        """Makes tokens with the masking keyset's primary key."""
        return self.tokenizers[0]

    @cached_property
    def tokenizers(self) -> tuple[Tokenizer, ...]:
        """Make the tokens of every key of the masking keyset, the primary first; several while a rotation lasts."""
        prfs = self._primitive(KeysetRole.MASKING).all()
        key_ids = keysets.enabled_key_ids(self.handle(KeysetRole.MASKING))
        tokenizers = tuple(Tokenizer(key_id, prfs[key_id]) for key_id in key_ids)
        with _right_kind(KeysetRole.MASKING):
            for tokenizer in tokenizers:
                tokenizer.token("", "")  # a PRF of Tink's may be too short for a token
        return tokenizers

    @cached_property
    def landing(self) -> aead.Aead:
        """Encrypts and decrypts batches."""
        return self._primitive(KeysetRole.LANDING)

    @cached_property
    def rejects(self) -> aead.Aead:
        """Encrypts and decrypts the bodies of rejected messages."""
        return self._primitive(KeysetRole.REJECTS)

    @cached_property
    def vault(self) -> hybrid.HybridEncrypt:
        """Encrypts data keys for the privacy officer; decrypts nothing."""
        return self._primitive(KeysetRole.VAULT)

    def key_ids(self, role: KeysetRole) -> tuple[int, ...]:
        """Returns the ids of a keyset's enabled keys, the primary first.

        Raises OperatorError where it is of the wrong kind: the ledger, which remembers these ids as the database's own,
        would from then on refuse the right keyset.
        """
        _ = self.tokenizers if role is KeysetRole.MASKING else self._primitive(role)
        return keysets.enabled_key_ids(self.handle(role))

    def check_values(self, role: KeysetRole) -> dict[int, bytes]:
        """Returns the check values of a keyset's enabled keys by key id, the primary first; errors as for `key_ids`."""
        self.key_ids(role)
        return keysets.check_values(self.handle(role))

    def make_missing(self) -> None:
        """Makes the keysets that the local environment still lacks."""
        for role in KeysetRole:
            self.handle(role)

    def source(self, role: KeysetRole) -> str:
        """Returns the setting a keyset is read from or the file that was made; raises OperatorError without either."""
        if setting := self.keysets.get(role):
            return setting
        if self.made_in is None:
            raise OperatorError(f"{role.setting} is not set: name the file of the {role} keyset")
        return str(_made(self.made_in, role))

    def handle(self, role: KeysetRole) -> tink.KeysetHandle:
        """Returns the keyset itself."""
        if role not in self._handles:
            name, source, guarded = role.setting, self.source(role), self.made_in is None
            if role is KeysetRole.VAULT:  # the pipeline must not be able to read the vault
                self._handles[role] = keysets.read_public_keyset(name, source, guarded=guarded)
            else:
                self._handles[role] = keysets.read_keyset(name, source, kms_key_uri=self.kms_key_uri, guarded=guarded)
        return self._handles[role]

    def _primitive(self, role: KeysetRole) -> Any:
        with _right_kind(role) as primitive:
            return self.handle(role).primitive(primitive)


@contextmanager
def _right_kind(role: KeysetRole) -> Iterator[type[Any]]:
    primitive, kind = _PRIMITIVES[role]
    try:
        yield primitive
    except tink.TinkError:
        raise OperatorError(f"{role.setting} is a keyset of the wrong kind: it must be {kind}") from None


def _made(directory: Path, role: KeysetRole) -> Path:
    """Returns the file of a keyset of the local environment; makes it where it is missing."""
    path = directory / f"{role}.json"
    if path.exists():
        return path
    try:
        make_directory(directory.parent)  # LOGINETL_HOME
        make_directory(directory)
        if role is not KeysetRole.VAULT:
            write_once(path, keysets.keyset_json(tink.new_keyset_handle(TEMPLATES[role])))
            return path
        officer = directory / OFFICER_FILE
        write_once(officer, keysets.keyset_json(tink.new_keyset_handle(OFFICER_TEMPLATE)))
        try:
            private = keysets.read_keyset(OFFICER_SETTING, str(officer))
        except OperatorError:
            raise OperatorError(f"{officer} is damaged: restore it, or move it away for a new one") from None
        write_once(path, keysets.public_keyset_json(private))
    except OSError as error:
        raise OperatorError(f"cannot make keys in {directory} ({error.strerror}): check LOGINETL_HOME") from None
    return path
