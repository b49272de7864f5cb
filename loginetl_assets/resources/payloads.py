"""Payloads in S3: the bodies that the SQS extended client library replaced with a pointer.

Only the bucket of LOGINETL_PAYLOAD_BUCKET is read, since whoever may send messages could point anywhere. The object
stays where it is: deleting it is the bucket's own rule. A pointer that leads nowhere is landed as it is, to be rejected
with its reason and replayed once the object can be had.
"""

from contextlib import suppress

from loginetl_assets.errors import OperatorError
from loginetl_assets.logins.message import QueuedMessage, read_pointer
from loginetl_assets.resources.landing import Landing, ObjectMissing

MOST_BYTES = 8 * 1024 * 1024  # a login has some hundred bytes; ten of these must fit into memory


class Payloads:
    """Reads the payloads that messages point at."""

    def __init__(self, bucket: str | None) -> None:
        """Takes the bucket's name; without one every pointer stays a pointer."""
        self._bucket = bucket
        self._objects = Landing(f"s3://{bucket}", setting="LOGINETL_PAYLOAD_BUCKET") if bucket else None

    def check_reachable(self) -> None:
        """Asks for an object that need not be there.

        Raises:
            TransientError: S3 does not answer.
        """
        if self._objects:
            with suppress(ObjectMissing, OperatorError):
                self._objects.get("is-it-there")

    def resolve(self, message: QueuedMessage) -> QueuedMessage:
        """The message with its payload for a body, or as it is where that cannot be had.

        Raises:
            TransientError: S3 failed in a way that may pass.
        """
        pointer = read_pointer(message.body) if self._objects else None
        if self._objects is None or pointer is None or pointer.bucket != self._bucket:
            return message
        try:
            body = self._objects.get(pointer.key, most_bytes=MOST_BYTES)
        except (ObjectMissing, OperatorError):  # without the right to list, S3 answers 403 where nothing is
            return message
        return QueuedMessage(message.message_id, message.sent_at_ms, body)
