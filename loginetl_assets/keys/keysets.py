"""Keysets where they are kept: a file, a setting itself, AWS Secrets Manager; in the clear or wrapped by AWS KMS.

A keyset setting is

- the path of a file (`/run/secrets/masking.json`, `file:///…`),
- the JSON text itself, as Tink writes it, or
- `aws-secretsmanager:NAME`, the name or ARN of a secret that holds that text.

A keyset that is wrapped (Tink's `encryptedKeyset`) is opened with the KMS key of `LOGINETL_KMS_KEY_URI`.
"""

import hmac
import json
import os
import warnings
from base64 import b64decode
from contextlib import suppress
from pathlib import Path
from stat import S_IMODE, S_IROTH, S_IWOTH
from tempfile import NamedTemporaryFile
from typing import Any

import boto3
import botocore.exceptions
import tink
from tink import aead, hybrid, prf, secret_key_access

from loginetl_assets.durable import sync
from loginetl_assets.errors import OperatorError

for _register in (aead.register, hybrid.register, prf.register):
    _register()

SECRETS_MANAGER = "aws-secretsmanager:"
KMS = "aws-kms://"


def read_keyset(
    name: str, setting: str, *, public: bool = False, kms_key_uri: str | None = None, guarded: bool = False
) -> tink.KeysetHandle:
    """Reads a keyset.

    Args:
        name: the variable that holds the setting, for errors.
        setting: where the keyset is, or the keyset.
        public: whether it must be a public one; private key material is refused then.
        kms_key_uri: the KMS key that opens wrapped keysets.
        guarded: whether to refuse a file that every user of the machine can read or change.

    Raises:
        OperatorError: not there, not to be opened, not guarded, or no keyset; the text never repeats the setting.
    """
    text = _text(name, setting)
    if guarded and not setting.startswith(("{", SECRETS_MANAGER)):
        _refuse_unguarded(name, _path(setting), secret=not public and '"encryptedKeyset"' not in text)
    try:
        if public:
            handle = tink.json_proto_keyset_format.parse_without_secret(text)
            handle.primitive(hybrid.HybridEncrypt).encrypt(b"", b"")  # Tink looks for the primary key no sooner
            return handle
        if '"encryptedKeyset"' in text:
            return tink.json_proto_keyset_format.parse_encrypted(text, _kms(name, kms_key_uri), b"")
        return tink.json_proto_keyset_format.parse(text, secret_key_access.TOKEN)
    except botocore.exceptions.BotoCoreError as error:
        raise OperatorError(f"{name}: the KMS key cannot be reached ({_code(error)})") from None
    except tink.TinkError:
        if not public and '"encryptedKeyset"' in text:
            raise OperatorError(f"{name}: the key of LOGINETL_KMS_KEY_URI does not open this keyset") from None
        kind = "a public Tink keyset in JSON" if public else "a Tink keyset in JSON"
        raise OperatorError(f"{name} is not {kind}") from None


def keyset_json(handle: tink.KeysetHandle, *, public: bool = False, kms_key_uri: str | None = None) -> str:
    """Writes a keyset as JSON text: public, wrapped by a KMS key where one is named, else in the clear."""
    if public:
        text = tink.json_proto_keyset_format.serialize_without_secret(handle)
    elif kms_key_uri:
        try:
            text = tink.json_proto_keyset_format.serialize_encrypted(handle, _kms("the keyset", kms_key_uri), b"")
        except botocore.exceptions.BotoCoreError as error:
            raise OperatorError(f"the key of LOGINETL_KMS_KEY_URI cannot be reached ({_code(error)})") from None
        except tink.TinkError:
            raise OperatorError(
                "the key of LOGINETL_KMS_KEY_URI cannot wrap a keyset: check it and its rights"
            ) from None
    else:
        text = tink.json_proto_keyset_format.serialize(handle, secret_key_access.TOKEN)
    return json.dumps(json.loads(text), indent=2) + "\n"


def enabled_key_ids(handle: tink.KeysetHandle) -> tuple[int, ...]:
    """The ids of a keyset's enabled keys, the primary first."""
    info = handle.keyset_info()
    ids = [key.key_id for key in info.key_info if key.status == tink.proto.tink_pb2.ENABLED]
    return tuple(sorted(ids, key=lambda key_id: key_id != info.primary_key_id))


def check_values(handle: tink.KeysetHandle) -> dict[int, bytes]:
    """The enabled keys' check values (16 bytes) by key id, the primary first.

    A check value tells a key from another one that has its id, and nothing else: it is an HMAC of a constant under the
    key's own 256 bits (as Tink encodes them, so that it is no token and no other output of the key).
    """
    text = tink.json_proto_keyset_format.serialize(handle, secret_key_access.TOKEN)
    material = {key["keyId"]: b64decode(key["keyData"]["value"]) for key in json.loads(text)["key"]}
    return {
        key_id: hmac.digest(material[key_id], b"loginetl key check value", "sha256")[:16]
        for key_id in enabled_key_ids(handle)
    }


def with_new_primary(handle: tink.KeysetHandle, template: object) -> tink.KeysetHandle:
    """A keyset with a new primary key; the old ones stay, for recognising and opening what they made."""
    clear = [
        json.loads(tink.json_proto_keyset_format.serialize(one, secret_key_access.TOKEN))
        for one in (tink.new_keyset_handle(template), handle)
    ]
    joined = {"primaryKeyId": clear[0]["primaryKeyId"], "key": [key for one in clear for key in one["key"]]}
    if len({key["keyId"] for key in joined["key"]}) != len(joined["key"]):
        return with_new_primary(handle, template)  # ids are random 32 bits; draw again
    return tink.json_proto_keyset_format.parse(json.dumps(joined), secret_key_access.TOKEN)


def write_once(path: Path, text: str) -> None:
    """Writes a file, mode 0600, unless it is there: whole or not at all, and the first of two writers wins."""
    if path.exists():
        return
    with NamedTemporaryFile("w", dir=path.parent) as draft:  # made with mode 0600, gone at the end of the block
        draft.write(text)
        draft.flush()
        os.fsync(draft.fileno())
        with suppress(FileExistsError):
            os.link(draft.name, path)
    sync(path.parent)


def refuse_inline(name: str, setting: str) -> None:
    """Refuses a setting that is the keyset itself, where a place to write to is needed."""
    if setting.lstrip().startswith("{"):
        raise OperatorError(f"{name} holds the keyset itself: give --output FILE, and set it from there")


def replace_keyset(name: str, setting: str, text: str) -> None:
    """Puts a keyset in the place of the one a setting names, whole or not at all.

    A file keeps its owner, its group and its mode: whoever reads it now must be able to afterwards, and nobody else. A
    link stays, and what it leads to is replaced.

    Raises:
        OperatorError: the setting is the keyset itself, or its place cannot be written.
    """
    if setting.startswith(SECRETS_MANAGER):
        try:
            secret = setting.removeprefix(SECRETS_MANAGER)
            _secrets_manager(secret).put_secret_value(SecretId=secret, SecretString=text)
        except (botocore.exceptions.BotoCoreError, botocore.exceptions.ClientError) as error:
            raise OperatorError(f"{name}: Secrets Manager did not take the keyset ({_code(error)})") from None
        return
    refuse_inline(name, setting)
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
    except OSError as error:  # a mount that is read-only, or of this one file; a file that is somebody else's
        raise OperatorError(
            f"{name}: cannot write the file it names ({error.strerror}): give --output FILE, and put that in its place"
        ) from None


def _path(setting: str) -> Path:
    return Path(setting.removeprefix("file://"))


def _refuse_unguarded(name: str, path: Path, *, secret: bool) -> None:
    mode = path.stat().st_mode
    if mode & (S_IROTH | S_IWOTH if secret else S_IWOTH):
        raise OperatorError(
            f"{name}: every user of this machine can {'read' if mode & S_IROTH and secret else 'change'} the file it"
            f" names: `chmod {'o=' if secret else 'o-w'} FILE`, or mount the secret with mode 0440"
        )


def _text(name: str, setting: str) -> str:
    if setting.startswith("{"):
        return setting
    if setting.startswith(SECRETS_MANAGER):
        try:
            secret = setting.removeprefix(SECRETS_MANAGER)
            return str(_secrets_manager(secret).get_secret_value(SecretId=secret)["SecretString"])
        except (botocore.exceptions.BotoCoreError, botocore.exceptions.ClientError, KeyError) as error:
            raise OperatorError(f"{name}: Secrets Manager does not give the secret ({_code(error)})") from None
    try:
        return _path(setting).read_text()
    except OSError as error:
        raise OperatorError(f"{name}: cannot read the file it names ({error.strerror})") from None
    except UnicodeDecodeError:
        return ""  # no JSON, whatever it is


def _secrets_manager(secret: str) -> Any:
    from dagster import BetaWarning  # Dagster is slow to import, and few need this
    from dagster_aws.secretsmanager import SecretsManagerResource

    region = secret.split(":")[3] if secret.startswith("arn:") and secret.count(":") >= 6 else None
    with warnings.catch_warnings(action="ignore", category=BetaWarning):  # the error's one line is to stay one
        return SecretsManagerResource(region_name=region).get_client()


def _kms(name: str, key_uri: str | None) -> aead.Aead:
    from tink.integration import awskms

    if not key_uri:
        raise OperatorError(f"{name} is wrapped: set LOGINETL_KMS_KEY_URI to the KMS key that opens it")
    try:
        region = key_uri.removeprefix(KMS).split(":")[3]
        client = awskms.new_client(boto3_client=boto3.client("kms", region_name=region), key_uri=key_uri)
        return client.get_aead(key_uri)
    except (tink.TinkError, IndexError):
        raise OperatorError("LOGINETL_KMS_KEY_URI must be aws-kms://arn:aws:kms:REGION:ACCOUNT:key/ID") from None


def _code(error: Exception) -> str:
    if isinstance(error, botocore.exceptions.ClientError):
        return str(error.response.get("Error", {}).get("Code", "refused"))
    return type(error).__name__
