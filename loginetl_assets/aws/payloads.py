"""Payloads in S3: the bodies that the SQS extended client library replaced with a pointer.

Only the bucket of LOGINETL_PAYLOAD_BUCKET is read, since whoever may send messages could point anywhere. The object
stays where it is: deleting it is the bucket's own rule. A pointer to nothing is landed as it is, to be rejected with
its reason and replayed once the object is available.

Whoever may send also chooses the object's path, so each pointer is decided by itself: where its object fails, the
bucket is asked for another, and only what both meet concerns other messages. Read with boto3, which takes every path as
it is; a client that normalises paths would read `a` for `a/`, and another message's payload.
"""

from typing import Any

import msgspec
from botocore.exceptions import ClientError, ParamValidationError
from urllib3.exceptions import HTTPError

from loginetl_assets.aws import session as aws
from loginetl_assets.errors import OperatorError, TransientError
from loginetl_assets.logins.message import QueuedMessage, read_pointer

MAX_BYTES = 8 * 1024 * 1024  # a login has some hundred bytes; ten of these must fit into memory

_NEED_NOT_BE_THERE = "is-it-there"


class PayloadUnavailableError(TransientError):
    """One object failed in a way that may pass, while its bucket answers: it concerns its own message alone."""


class Payloads:
    """Reads the payloads that messages point at; safe to use from many threads."""

    def __init__(self, bucket: str | None) -> None:
        """Takes the bucket's name; without one every pointer stays a pointer."""
        self._bucket = bucket
        # Three tries of at most 5 s, and 1 to 2 s between them: well inside the shortest visibility time-out, 30 s.
        self._client: Any = aws.open_s3(aws.open_session(), attempts=3, read_timeout=5) if bucket else None

    def path_of(self, message: QueuedMessage) -> str | None:
        """Returns the path of the payload in the bucket to which the message's body points; None if it does not."""
        bucket, path = read_pointer(message.body) or (None, None)
        return path if bucket == self._bucket else None

    def check_reachable(self) -> None:
        """Asks for an object that need not be there.

        403 with AccessDenied counts as reachable: without the right to list, S3 answers so where nothing is. Raises
        OperatorError where the bucket is missing or unreadable with these settings, TransientError where S3 is silent.
        """
        if self._client is None:
            return
        bucket = f"bucket {self._bucket} of LOGINETL_PAYLOAD_BUCKET"
        try:
            self._client.get_object(Bucket=self._bucket, Key=_NEED_NOT_BE_THERE)["Body"].close()
        except aws.CREDENTIAL_ERRORS:
            raise OperatorError(aws.NO_CREDENTIALS) from None
        except (*aws.AWS_ERRORS, ValueError) as error:
            code = aws.error_code(error)
            if code in {"NoSuchKey", "AccessDenied"}:
                return
            if aws.is_transient(error):
                raise TransientError(f"cannot read from {bucket} just now ({code})") from None
            if code == "NoSuchBucket":
                raise OperatorError(f"there is no {bucket}: create it or correct the setting") from None
            raise OperatorError(
                f"{bucket} cannot be read ({code}): check the setting, AWS's region and credentials"
            ) from None

    def resolve(self, message: QueuedMessage) -> QueuedMessage:
        """Returns the message with its payload for a body, or as it is where that is not available.

        Raises PayloadUnavailableError where this object failed in a way that may pass, else as `check_reachable`.
        """
        path = self.path_of(message)
        if path is None:
            return message
        try:
            found = self._client.get_object(Bucket=self._bucket, Key=path)
            with (stream := found["Body"]):  # entered, it is another object, that does not compare lengths
                if found.get("ContentLength", MAX_BYTES + 1) > MAX_BYTES:
                    return message
                # Never longer than announced; `read` fails where it is shorter.
                return msgspec.structs.replace(message, body=bytes(stream.read()))
        except (*aws.AWS_ERRORS, HTTPError, ValueError) as error:
            if aws.error_code(error) == "NoSuchKey":
                return message
            self.check_reachable()
            # A ValueError is a path that is no UTF-8; what else is no answer of S3 failed on the way.
            if aws.is_transient(error) or not isinstance(error, (ClientError, ParamValidationError, ValueError)):
                raise PayloadUnavailableError("the payload of a message cannot be read just now") from None
            return message
