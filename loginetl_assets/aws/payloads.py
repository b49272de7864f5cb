"""Payloads in S3: the bodies that the SQS extended client library replaced with a pointer.

Only the bucket of LOGINETL_PAYLOAD_BUCKET is read, since whoever may send messages could point anywhere. The object
stays where it is: deleting it is the bucket's own rule. A pointer to nothing is landed as it is, to be rejected with
its reason and replayed once the object is available.

Whoever may send also chooses the object's path, so each pointer is decided by itself: where its object fails, the
bucket is asked for another, and only what both meet concerns other messages. Read with boto3, which takes every path as
it is; a client that normalises paths would read `a` for `a/`, and another message's payload.
"""

from typing import TYPE_CHECKING, Any

import msgspec
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, ParamValidationError
from urllib3.exceptions import HTTPError

from loginetl_assets.aws.session import (
    CREDENTIAL_ERRORS,
    NO_CREDENTIALS,
    error_code,
    is_transient,
    open_s3,
    open_session,
)
from loginetl_assets.aws.sqs import MAX_PER_CALL
from loginetl_assets.errors import OperatorError, TransientError
from loginetl_assets.logins.message import QueuedMessage, read_pointer

if TYPE_CHECKING:
    from botocore.response import StreamingBody

MAX_BYTES = 8 * 1024 * 1024  # a login has some hundred bytes; ten of these must fit into memory
_CHUNK_BYTES = 1024 * 1024

# Three tries of at most 5 s, and 1 to 2 s between them: well inside the shortest visibility time-out, 30 s.
_CONFIG = Config(
    retries={"total_max_attempts": 3, "mode": "standard"},
    max_pool_connections=MAX_PER_CALL,
    connect_timeout=5,
    read_timeout=5,
)
_NEED_NOT_BE_THERE = "is-it-there"


class PayloadUnavailableError(TransientError):
    """One object failed in a way that may pass, while its bucket answers: it concerns its own message alone."""


class Payloads:
    """Reads the payloads that messages point at; safe to use from many threads."""

    def __init__(self, bucket: str | None) -> None:
        """Takes the bucket's name; without one every pointer stays a pointer."""
        self._bucket = bucket
        self._client = open_s3(open_session(), _CONFIG) if bucket else None

    def points_here(self, message: QueuedMessage) -> bool:
        """Returns whether the message's body is a pointer into the bucket."""
        return self._path_of(message) is not None

    def check_reachable(self) -> None:
        """Asks for an object that need not be there.

        403 with AccessDenied counts as reachable: without the right to list, S3 answers so where nothing is.

        Raises:
            OperatorError: there is no such bucket, or none of its objects can be read with these settings.
            TransientError: S3 does not answer.
        """
        if self._client is None:
            return
        bucket = f"bucket {self._bucket} of LOGINETL_PAYLOAD_BUCKET"
        try:
            self._client.get_object(Bucket=self._bucket, Key=_NEED_NOT_BE_THERE)["Body"].close()
        except CREDENTIAL_ERRORS:
            raise OperatorError(NO_CREDENTIALS) from None
        except (BotoCoreError, ClientError, ValueError) as error:
            code = error_code(error)
            if code in {"NoSuchKey", "AccessDenied"}:
                return
            if is_transient(error):
                raise TransientError(f"cannot read from {bucket} just now ({code})") from None
            if code == "NoSuchBucket":
                raise OperatorError(f"there is no {bucket}: create it or correct the setting") from None
            if isinstance(error, ClientError):
                raise OperatorError(f"S3 answers {code} for {bucket}: check it, AWS's region and credentials") from None
            raise OperatorError(f"boto3 refuses {bucket} ({code}): correct the setting") from None

    def resolve(self, message: QueuedMessage) -> QueuedMessage:
        """Returns the message with its payload for a body, or as it is where that is not available.

        Raises:
            PayloadUnavailableError: this object failed in a way that may pass.
            OperatorError, TransientError: the bucket failed, as `check_reachable` says.
        """
        path = self._path_of(message)
        if path is None:
            return message
        try:
            body = self._read(path)
        except (BotoCoreError, ClientError, HTTPError, ValueError) as error:
            if error_code(error) == "NoSuchKey":
                return message
            self.check_reachable()
            # A ValueError is a path that is no UTF-8; what else is no answer of S3 failed on the way.
            if is_transient(error) or not isinstance(error, (ClientError, ParamValidationError, ValueError)):
                raise PayloadUnavailableError("the payload of a message cannot be read just now") from None
            return message
        return message if body is None else msgspec.structs.replace(message, body=body)

    def _path_of(self, message: QueuedMessage) -> str | None:
        pointer = read_pointer(message.body) if self._client else None
        return pointer.path if pointer and pointer.bucket == self._bucket else None

    def _read(self, path: str) -> bytes | None:
        """Returns an object whole; None for one larger than `MAX_BYTES`, which is not read on."""
        assert self._client is not None  # noqa: S101 - for the type checker: there is no path without it
        found: dict[str, Any] = self._client.get_object(Bucket=self._bucket, Key=path)
        stream: StreamingBody = found["Body"]
        with stream:
            if found.get("ContentLength", 0) > MAX_BYTES:
                return None
            content = bytearray()
            while chunk := stream.read(_CHUNK_BYTES):  # the last one compares with the length that was announced
                content += chunk
                if len(content) > MAX_BYTES:
                    return None
            return bytes(content)
