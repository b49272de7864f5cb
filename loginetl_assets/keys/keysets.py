"""Keysets where they are kept: a file, a setting itself, AWS Secrets Manager; in plaintext or wrapped by AWS KMS.

A keyset setting is the path of a file (`/run/secrets/masking.json`, `file:///…`), the JSON text itself, as Tink writes
it, or `aws-secretsmanager:NAME`, the name or ARN of a secret that holds that text. A keyset that is wrapped (Tink's
`encryptedKeyset`) is opened with the KMS key of `LOGINETL_KMS_KEY_URI`.
"""

import hmac
import json
import os
from base64 import b64decode
from contextlib import suppress
from pathlib import Path
from stat import S_IMODE, S_IROTH, S_IWOTH
from tempfile import NamedTemporaryFile

import tink
from tink import aead, hybrid, prf, secret_key_access

from loginetl_assets.durable import sync
from loginetl_assets.errors import OperatorError

for _register in (aead.register, hybrid.register, prf.register):
    _register()

_SECRETS_MANAGER = "aws-secretsmanager:"
_WRAPPED = '"encryptedKeyset"'


def read_keyset(name: str, setting: str, *, kms_key_uri: str | None = None, guarded: bool = False) -> tink.KeysetHandle:
    """Reads a secret keyset; `name` is the variable that holds the setting, for errors.

    If `guarded`, a file is refused that every user of the machine can change or, unless it is wrapped, read. Raises
    OperatorError where it is refused, unreadable or not a keyset; the text never repeats the setting.
    """
    text = _text(name, setting, guarded=guarded)
    if _WRAPPED in text:
        from loginetl_assets.aws.secrets import unwrap_keyset  # boto3 is slow to import

        return unwrap_keyset(name, text, kms_key_uri)
    try:
        return tink.json_proto_keyset_format.parse(text, secret_key_access.TOKEN)
    except tink.TinkError:
        raise OperatorError(f"{name} is not a Tink keyset in JSON, as `loginetl keys init` writes them") from None


def read_public_keyset(name: str, setting: str, *, guarded: bool = False) -> tink.KeysetHandle:
    """Reads a public keyset and refuses private key material; arguments and errors are those of `read_keyset`."""
    text = _text(name, setting, guarded=guarded, public=True)
    try:
        handle = tink.json_proto_keyset_format.parse_without_secret(text)
        handle.primitive(hybrid.HybridEncrypt).encrypt(b"", b"")  # Tink looks for the primary key no sooner
    except tink.TinkError:
        found = "secret keys, which no pipeline may have" if _is_secret(text) else "something else"
        raise OperatorError(
            f"{name} is not a public Tink keyset, it holds {found}: set it to the public half of the privacy officer's"
            " keyset, which `loginetl keys init` and `loginetl keys rotate officer` write as vault.json"
        ) from None
    return handle


def _is_secret(text: str) -> bool:
    with suppress(tink.TinkError):
        tink.json_proto_keyset_format.parse(text, secret_key_access.TOKEN)
        return True
    return _WRAPPED in text


def keyset_json(handle: tink.KeysetHandle, kms_key_uri: str | None = None) -> str:
    """Returns a secret keyset as JSON text, wrapped where a KMS key is named."""
    if kms_key_uri:
        from loginetl_assets.aws.secrets import wrap_keyset

        return _indented(wrap_keyset(handle, kms_key_uri))
    return _indented(_plaintext(handle))


def public_keyset_json(private: tink.KeysetHandle) -> str:
    """Returns the public half of a private keyset as JSON text."""
    return _indented(tink.json_proto_keyset_format.serialize_without_secret(private.public_keyset_handle()))


def enabled_key_ids(handle: tink.KeysetHandle) -> tuple[int, ...]:
    """Returns the ids of a keyset's enabled keys, the primary first."""
    info = handle.keyset_info()
    ids = [key.key_id for key in info.key_info if key.status == tink.proto.tink_pb2.ENABLED]
    return tuple(sorted(ids, key=lambda key_id: key_id != info.primary_key_id))


def check_values(handle: tink.KeysetHandle) -> dict[int, bytes]:
    """Returns the enabled keys' check values (16 bytes) by key id, the primary first.

    Each distinguishes its key from another one with that id, and reveals nothing else: an HMAC of a constant under the
    key's 256 bits (as Tink encodes them, so that it is no token and no other output of the key).
    """
    material = {key["keyId"]: b64decode(key["keyData"]["value"]) for key in json.loads(_plaintext(handle))["key"]}
    return {
        key_id: hmac.digest(material[key_id], b"loginetl key check value", "sha256")[:16]
        for key_id in enabled_key_ids(handle)
    }


def with_new_primary(handle: tink.KeysetHandle, template: object) -> tink.KeysetHandle:
    """Returns a keyset with a new primary key; the old ones stay, to recognize and decrypt what they made."""
    new, old = (json.loads(_plaintext(one)) for one in (tink.new_keyset_handle(template), handle))
    if new["primaryKeyId"] in {key["keyId"] for key in old["key"]}:
        return with_new_primary(handle, template)  # ids are random 32 bits; draw again
    joined = {"primaryKeyId": new["primaryKeyId"], "key": [*new["key"], *old["key"]]}
    return tink.json_proto_keyset_format.parse(json.dumps(joined), secret_key_access.TOKEN)


def without_old_keys(handle: tink.KeysetHandle) -> tink.KeysetHandle:
    """Returns a keyset without the enabled keys that are not its primary one."""
    keyset, (_, *old) = json.loads(_plaintext(handle)), enabled_key_ids(handle)
    keyset["key"] = [key for key in keyset["key"] if key["keyId"] not in old]
    return tink.json_proto_keyset_format.parse(json.dumps(keyset), secret_key_access.TOKEN)


def require_replaceable(name: str, setting: str) -> None:
    """Raises OperatorError where a setting is the keyset itself, and so names no place to write to."""
    if setting.lstrip().startswith("{"):
        raise OperatorError(f"{name} holds the keyset itself: give --output FILE, and set it from there")


def replace_keyset(name: str, setting: str, text: str) -> None:
    """Replaces the keyset that a setting names, whole or not at all; a link stays, and its target is replaced.

    A file keeps its owner, group and mode: whoever reads it now must be able to afterwards, and nobody else. Raises
    OperatorError where the setting is the keyset itself, or its place cannot be written.
    """
    if setting.startswith(_SECRETS_MANAGER):
        from loginetl_assets.aws.secrets import replace_secret

        replace_secret(name, setting.removeprefix(_SECRETS_MANAGER), text)
        return
    require_replaceable(name, setting)
    try:
        path = _path(setting).resolve()
        before = path.stat()
        with NamedTemporaryFile("w", dir=path.parent, delete=False) as draft:
            try:
                os.fchown(draft.fileno(), before.st_uid, before.st_gid)
                os.fchmod(draft.fileno(), S_IMODE(before.st_mode))
                draft.write(text)
                draft.flush()
                os.fsync(draft.fileno())
                Path(draft.name).replace(path)
            except OSError:
                Path(draft.name).unlink()  # it holds a key
                raise
        sync(path.parent)
    except OSError as error:  # a mount that is read-only, or of this one file; a file that is someone else's
        raise OperatorError(
            f"{name}: cannot write the file it names ({error.strerror}): give --output FILE, and put that in its place"
        ) from None


def _plaintext(handle: tink.KeysetHandle) -> str:
    return str(tink.json_proto_keyset_format.serialize(handle, secret_key_access.TOKEN))


def _text(name: str, setting: str, *, guarded: bool, public: bool = False) -> str:
    """Returns a keyset's text; a file's, if `guarded`, as `read_keyset` says."""
    if setting.startswith("{"):
        return setting
    if setting.startswith(_SECRETS_MANAGER):
        from loginetl_assets.aws.secrets import read_secret

        return read_secret(name, setting.removeprefix(_SECRETS_MANAGER))
    path = _path(setting)
    try:
        text, mode = path.read_text(errors="replace"), path.stat().st_mode
    except OSError as error:
        raise OperatorError(f"{name}: cannot read the file it names ({error.strerror})") from None
    secret = not public and _WRAPPED not in text
    if guarded and mode & (S_IROTH | S_IWOTH if secret else S_IWOTH):
        raise OperatorError(
            f"{name}: every user of this machine can {'read' if mode & S_IROTH and secret else 'change'} the file it"
            f" names: `chmod {'o=' if secret else 'o-w'} FILE`, or mount the secret with mode 0440"
        )
    return text


def _path(setting: str) -> Path:
    return Path(setting.removeprefix("file://"))


def _indented(text: str) -> str:
    return json.dumps(json.loads(text), indent=2) + "\n"
