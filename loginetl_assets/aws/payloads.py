"""Payloads in S3: the bodies that the SQS extended client library replaced with a pointer.

Only the bucket of LOGINETL_PAYLOAD_BUCKET is read, since whoever may send messages could point anywhere. The object
stays where it is: deleting it is the bucket's own rule. A pointer that leads nowhere is landed as it is, to be rejected
with its reason and replayed once the object can be had.

Whoever may send also chooses the key, so each pointer is decided by itself: where its object fails, the bucket is asked
for another, and only what both meet concerns other messages. Read with boto3, which takes every key as it is; a client
that normalises paths would read `a` for `a/`, and another message's payload.
"""

from typing import TYPE_CHECKING, Any

from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    CredentialRetrievalError,
    HTTPClientError,
    NoCredentialsError,
    ParamValidationError,
    PartialCredentialsError,
    SSOError,
    TokenRetrievalError,
)
from botocore.exceptions import ConnectionError as NoConnectionError
from urllib3.exceptions import HTTPError

from loginetl_assets.aws.sqs import MAX_PER_CALL, NO_CREDENTIALS, open_session
from loginetl_assets.errors import OperatorError, TransientError
from loginetl_assets.logins.message import QueuedMessage, read_pointer

if TYPE_CHECKING:
    from botocore.response import StreamingBody

MAX_BYTES = 8 * 1024 * 1024  # a login has some hundred bytes; ten of these must fit into memory
_CHUNK_BYTES = 1024 * 1024

# Three tries of at most 5 s, and 1 to 2 s between them: well inside the shortest visibility time-out, 30 s.
_ATTEMPTS, _TIMEOUT_SECONDS = 3, 5
_NEED_NOT_BE_THERE = "is-it-there"

_PASSES = {"RequestTimeout", "SlowDown", "TooManyRequests", "TooManyRequestsException"}
_NO_CREDENTIALS = (NoCredentialsError, PartialCredentialsError, CredentialRetrievalError, TokenRetrievalError, SSOError)


class PayloadNotNow(TransientError):  # noqa: N818 - says what happened
    """One object failed in a way that may pass, while its bucket answers: its own message's business alone."""


class Payloads:
    """Reads the payloads that messages point at; safe to use from many threads."""

    def __init__(self, bucket: str | None) -> None:
        """Takes the bucket's name; without one every pointer stays a pointer."""
        self._bucket = bucket
        self._client = _open_client() if bucket else None

    def points_here(self, message: QueuedMessage) -> bool:
        """Whether the message's body is a pointer into the bucket."""
        return self._key_of(message) is not None

    def check_reachable(self) -> None:
        """Asks for an object that need not be there.

        An answer of 403 with AccessDenied is one: without the right to list S3 gives it where nothing is.

        Raises:
            OperatorError: there is no such bucket, or no object of it can be had with these settings.
            TransientError: S3 does not answer.
        """
        if self._client is None:
            return
        bucket = f"bucket {self._bucket} of LOGINETL_PAYLOAD_BUCKET"
        try:
            self._client.get_object(Bucket=self._bucket, Key=_NEED_NOT_BE_THERE)["Body"].close()
        except ClientError as error:
            code = _code(error)
            if code in {"NoSuchKey", "AccessDenied"}:
                return
            if _may_pass(error):
                raise TransientError(f"cannot read from {bucket} just now ({code})") from None
            if code == "NoSuchBucket":
                raise OperatorError(f"there is no {bucket}: make it or mend the setting") from None
            raise OperatorError(f"S3 answers {code} for {bucket}: check it, AWS's region and credentials") from None
        except _NO_CREDENTIALS:
            raise OperatorError(NO_CREDENTIALS) from None
        except (NoConnectionError, HTTPClientError) as error:
            raise TransientError(f"cannot read from {bucket} just now ({type(error).__name__})") from None
        except (BotoCoreError, ValueError) as error:
            raise OperatorError(f"boto3 refuses {bucket} ({type(error).__name__}): mend the setting") from None

    def resolve(self, message: QueuedMessage) -> QueuedMessage:
        """Returns the message with its payload for a body, or as it is where that is not available.

        Raises:
            PayloadNotNow: this object failed in a way that may pass.
            OperatorError, TransientError: the bucket failed, as `check_reachable` says.
        """
        key = self._key_of(message)
        if key is None:
            return message
        try:
            body = self._read(key)
        except (BotoCoreError, ClientError, HTTPError, ValueError) as error:  # a key that is no UTF-8 is of the last
            if isinstance(error, ClientError) and _code(error) == "NoSuchKey":
                return message
            self.check_reachable()
            if _may_pass(error):
                raise PayloadNotNow("the payload of a message cannot be read just now") from None
            return message
        return message if body is None else QueuedMessage(message.message_id, message.sent_at_ms, body)

    def _key_of(self, message: QueuedMessage) -> str | None:
        pointer = read_pointer(message.body) if self._client else None
        return pointer.path if pointer and pointer.bucket == self._bucket else None

    def _read(self, key: str) -> bytes | None:
        """Reads an object whole; one larger than `MAX_BYTES` is not read on and gives None."""
        assert self._client is not None  # noqa: S101 - for the type checker: there is no key without it
        found = self._client.get_object(Bucket=self._bucket, Key=key)
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


def _open_client() -> Any:  # boto3-stubs has no S3 here
    session = open_session()
    return session.client(
        "s3",
        region_name=session.region_name or "us-east-1",
        config=Config(
            retries={"total_max_attempts": _ATTEMPTS, "mode": "standard"},
            max_pool_connections=MAX_PER_CALL,
            connect_timeout=_TIMEOUT_SECONDS,
            read_timeout=_TIMEOUT_SECONDS,
        ),
    )


def _code(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))


def _may_pass(error: Exception) -> bool:
    if isinstance(error, ClientError):
        status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
        code = _code(error)
        return status >= 500 or status == 429 or code in _PASSES or "Throttl" in code
    return not isinstance(error, (ParamValidationError, ValueError))
