"""The keys the pipeline holds: Tink keysets, each loaded when it is first needed and never shown.

A keyset setting is a path to a file or the JSON keyset itself. In the local environment missing keysets are made on
first use under LOGINETL_HOME/keys, mode 0600; in staging and production they never are.
"""

import json
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

import tink
from tink import aead, hybrid, prf, secret_key_access

from loginetl_assets.errors import OperatorError
from loginetl_assets.logins.sealing import Sealer
from loginetl_assets.logins.tokens import Tokenizer
from loginetl_assets.settings import KeysetRole

for _register in (aead.register, hybrid.register, prf.register):
    _register()

OFFICER_FILE = "officer-private.json"
_PRF = "PRF (HMAC-SHA256)"

_TEMPLATES: Mapping[KeysetRole, Callable[[], object]] = {
    KeysetRole.MASKING: lambda: prf.prf_key_templates.HMAC_SHA256,
    KeysetRole.LANDING: lambda: aead.aead_key_templates.AES256_GCM,
    KeysetRole.REJECTS: lambda: aead.aead_key_templates.AES256_GCM,
}
_OFFICER_TEMPLATE = hybrid.hybrid_key_templates.DHKEM_X25519_HKDF_SHA256_HKDF_SHA256_AES_256_GCM


class Keyring:
    """The four keysets of the pipeline. The officer's private one is not among them."""

    def __init__(self, keysets: Mapping[KeysetRole, str], made_in: Path | None = None) -> None:
        """Takes the settings' keysets and, in the local environment, where missing ones are made."""
        self._keysets = keysets
        self._made_in = made_in

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """Makes tokens with the masking keyset's primary key."""
        keys = self._primitive(KeysetRole.MASKING, prf.PrfSet, _PRF)
        tokenizer = Tokenizer(keys.primary_id(), keys.primary())
        try:
            tokenizer.token("", "")  # a PRF of Tink's may be too short for a token
        except tink.TinkError:
            raise OperatorError(_wrong_kind(KeysetRole.MASKING, _PRF)) from None
        return tokenizer

    @cached_property
    def landing(self) -> Sealer:
        """Seals and opens batches."""
        sealer: Sealer = self._primitive(KeysetRole.LANDING, aead.Aead, "AEAD (AES-256-GCM)")
        return sealer

    @cached_property
    def rejects(self) -> Sealer:
        """Seals and opens the bodies of rejected messages."""
        sealer: Sealer = self._primitive(KeysetRole.REJECTS, aead.Aead, "AEAD (AES-256-GCM)")
        return sealer

    @cached_property
    def vault(self) -> hybrid.HybridEncrypt:
        """Seals data keys to the privacy officer; opens nothing."""
        return self._primitive(KeysetRole.VAULT, hybrid.HybridEncrypt, "public HPKE")

    def key_ids(self, role: KeysetRole) -> tuple[int, ...]:
        """The ids of a keyset's enabled keys, the primary first."""
        info = self._handle(role).keyset_info()
        ids = [key.key_id for key in info.key_info if key.status == tink.proto.tink_pb2.ENABLED]
        return tuple(sorted(ids, key=lambda key_id: key_id != info.primary_key_id))

    def make_missing(self) -> None:
        """Makes the keysets that the local environment still lacks."""
        for role in KeysetRole:
            self._handle(role)

    def _primitive(self, role: KeysetRole, primitive: type[Any], kind: str) -> Any:
        try:
            return self._handle(role).primitive(primitive)
        except tink.TinkError:
            raise OperatorError(_wrong_kind(role, kind)) from None

    def _handle(self, role: KeysetRole) -> tink.KeysetHandle:
        if role not in self._handles:
            self._handles[role] = self._load(role)
        return self._handles[role]

    @cached_property
    def _handles(self) -> dict[KeysetRole, tink.KeysetHandle]:
        return {}

    def _load(self, role: KeysetRole) -> tink.KeysetHandle:
        setting = self._keysets.get(role)
        if setting is None:
            if self._made_in is None:
                raise OperatorError(f"{_setting(role)} is not set: name the file of the {role} keyset")
            return _read(_made(self._made_in, role), role)
        return _read(setting if setting.startswith("{") else Path(setting.removeprefix("file://")), role)


def _setting(role: KeysetRole) -> str:
    return f"LOGINETL_KEYSET_{role.upper()}"


def _wrong_kind(role: KeysetRole, kind: str) -> str:
    return f"{_setting(role)} is a keyset of the wrong kind: it must be {kind}"


def _read(source: Path | str, role: KeysetRole) -> tink.KeysetHandle:
    if isinstance(source, Path):
        try:
            text = source.read_text()
        except OSError as error:
            raise OperatorError(f"{_setting(role)}: cannot read the file it names ({error.strerror})") from None
        except UnicodeDecodeError:
            text = ""  # no JSON, whatever it is
    else:
        text = source
    try:
        if role is KeysetRole.VAULT:
            # Refuses private key material: the pipeline must not be able to read the vault.
            handle = tink.json_proto_keyset_format.parse_without_secret(text)
            handle.primitive(hybrid.HybridEncrypt).encrypt(b"", b"")  # Tink looks for the primary key no sooner
            return handle
        return tink.json_proto_keyset_format.parse(text, secret_key_access.TOKEN)
    except tink.TinkError:
        kind = "a public Tink keyset in JSON" if role is KeysetRole.VAULT else "a Tink keyset in JSON"
        raise OperatorError(f"{_setting(role)} is not {kind}") from None


def _made(directory: Path, role: KeysetRole) -> Path:
    """The file of a keyset of the local environment, made if it is missing."""
    path = directory / f"{role}.json"
    if path.exists():
        return path
    try:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        if role is KeysetRole.VAULT:
            officer = directory / OFFICER_FILE
            _write_once(officer, _secret_json(tink.new_keyset_handle(_OFFICER_TEMPLATE)))
            try:
                private = tink.json_proto_keyset_format.parse(officer.read_text(), secret_key_access.TOKEN)
            except (tink.TinkError, UnicodeDecodeError):
                raise OperatorError(f"{officer} is damaged: restore it, or move it away for a new one") from None
            _write_once(path, tink.json_proto_keyset_format.serialize_without_secret(private.public_keyset_handle()))
        else:
            _write_once(path, _secret_json(tink.new_keyset_handle(_TEMPLATES[role]())))
    except OSError as error:
        raise OperatorError(f"cannot make keys in {directory} ({error.strerror}): check LOGINETL_HOME") from None
    return path


def _secret_json(handle: tink.KeysetHandle) -> str:
    text = tink.json_proto_keyset_format.serialize(handle, secret_key_access.TOKEN)
    return json.dumps(json.loads(text), indent=2) + "\n"


def _write_once(path: Path, text: str) -> None:
    """Writes a file, mode 0600, unless it is there: whole or not at all, and the first of two writers wins."""
    if path.exists():
        return
    with NamedTemporaryFile("w", dir=path.parent) as draft:  # made with mode 0600, gone at the end of the block
        draft.write(text)
        draft.flush()
        os.fsync(draft.fileno())
        with suppress(FileExistsError):
            os.link(draft.name, path)
