"""Keysets in AWS: kept in Secrets Manager, wrapped by KMS. Each function raises OperatorError where that fails.

Credentials, region and endpoints follow AWS's own variables and profiles; an ARN names its region itself.
"""

from typing import Any

import tink
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from tink import aead

from loginetl_assets.aws.session import open_session, remedy_of
from loginetl_assets.errors import OperatorError


def read_secret(setting: str, secret_id: str) -> str:
    """Returns the text of a secret, by its name or ARN; `setting` is the variable that names it, for errors."""
    try:
        return str(_secrets_manager(secret_id).get_secret_value(SecretId=secret_id)["SecretString"])
    except (BotoCoreError, ClientError, KeyError) as error:
        why = "it is binary: store the keyset in it as text"
        if not isinstance(error, KeyError):
            why = remedy_of(error, "secretsmanager:GetSecretValue, and kms:Decrypt on the key of the secret")
        raise OperatorError(f"{setting}: Secrets Manager does not return the secret that it names ({why})") from None


def replace_secret(setting: str, secret_id: str, text: str) -> None:
    """Writes a new version of a secret; arguments are those of `read_secret`."""
    try:
        _secrets_manager(secret_id).put_secret_value(SecretId=secret_id, SecretString=text)
    except (BotoCoreError, ClientError) as error:
        why = remedy_of(error, "secretsmanager:PutSecretValue")
        raise OperatorError(f"{setting}: Secrets Manager did not take the keyset ({why})") from None


def unwrap_keyset(setting: str, text: str, kms_key_uri: str | None) -> tink.KeysetHandle:
    """Reads a keyset (Tink's `encryptedKeyset`) that was wrapped by a KMS key."""
    if not kms_key_uri:
        raise OperatorError(f"{setting} is wrapped: set LOGINETL_KMS_KEY_URI to the KMS key that opens it")
    try:
        return tink.json_proto_keyset_format.parse_encrypted(text, _kms_key(kms_key_uri), b"")
    except BotoCoreError as error:
        why = remedy_of(error, "kms:Decrypt")
        raise OperatorError(f"{setting}: the key of LOGINETL_KMS_KEY_URI cannot be reached ({why})") from None
    except tink.TinkError:
        raise OperatorError(
            f"{setting}: the key of LOGINETL_KMS_KEY_URI does not open this keyset: name the one that it was"
            " wrapped with, and grant these credentials kms:Decrypt on it"
        ) from None


def wrap_keyset(handle: tink.KeysetHandle, kms_key_uri: str) -> str:
    """Returns a keyset as JSON, wrapped by a KMS key."""
    try:
        return str(tink.json_proto_keyset_format.serialize_encrypted(handle, _kms_key(kms_key_uri), b""))
    except BotoCoreError as error:
        why = remedy_of(error, "kms:Encrypt")
        raise OperatorError(f"the key of LOGINETL_KMS_KEY_URI cannot be reached ({why})") from None
    except tink.TinkError:
        raise OperatorError(
            "the key of LOGINETL_KMS_KEY_URI cannot wrap a keyset: grant these credentials kms:Encrypt on it"
        ) from None


def _kms_key(uri: str) -> aead.Aead:
    from tink.integration import awskms  # few keysets are wrapped

    try:
        region = uri.removeprefix("aws-kms://").split(":")[3]
        client = awskms.new_client(boto3_client=open_session(region_name=region).client("kms"), key_uri=uri)
        return client.get_aead(uri)
    except (tink.TinkError, IndexError):
        raise OperatorError("LOGINETL_KMS_KEY_URI must be aws-kms://arn:aws:kms:REGION:ACCOUNT:key/ID") from None


def _secrets_manager(secret_id: str) -> Any:
    region = secret_id.split(":")[3] if secret_id.startswith("arn:") and secret_id.count(":") >= 6 else None
    retries = Config(retries={"mode": "standard", "max_attempts": 5})
    return open_session(region_name=region).client("secretsmanager", config=retries)
