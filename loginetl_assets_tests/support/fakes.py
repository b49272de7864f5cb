"""Fakes of queue, payloads, landing, database and clock, in memory: unit tests of what uses them take milliseconds."""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Lock
from typing import Any, Literal, cast
from unittest.mock import MagicMock
from uuid import uuid4

import msgspec
from botocore.exceptions import ClientError
from sqlalchemy import Connection

from loginetl_assets.aws.payloads import Payloads, PayloadUnavailableError
from loginetl_assets.aws.sqs import LoginQueue
from loginetl_assets.landing.object_store import Landing, ObjectMissingError
from loginetl_assets.logins.message import QueuedMessage
from loginetl_assets.storage.database import LoginDatabase


class FakeClock:
    """Tells the time that a test sets."""

    def __init__(self) -> None:
        """Begins at zero."""
        self.now = 0.0

    def __call__(self) -> float:
        """Returns the time in seconds."""
        return self.now


@dataclass
class _Waiting:
    body: str
    message_id: str
    visible_at: float = 0.0
    receives: int = 0


class FakeSqs:
    """Stands in for boto3's client of one queue: time-outs by a clock, and on a FIFO queue one group that keeps order.

    `before` holds what is called before an operation, by the operation's name: to fail, or to let time pass.
    """

    def __init__(self, clock: FakeClock, *, fifo: bool = False) -> None:
        """Takes the clock that visibility time-outs use."""
        self.clock = clock
        self.url = f"https://sqs.eu-west-1.amazonaws.com/000000000000/logins{'.fifo' if fifo else ''}"
        self.before: dict[str, Callable[[], None]] = {}
        self.calls: Counter[str] = Counter()
        self.undeletable: set[str] = set()  # bodies
        self._fifo = fifo
        self._messages: dict[str, _Waiting] = {}  # by receipt handle, which stays the same
        self._lock = Lock()

    @property
    def queue(self) -> LoginQueue:
        """The queue as the pipeline uses it."""
        return LoginQueue(cast("Any", self), self.url)

    def put(self, *bodies: str) -> None:
        """Puts messages on the queue."""
        for body in bodies:
            self._messages[uuid4().hex] = _Waiting(body, str(uuid4()))

    @property
    def visible(self) -> list[str]:
        """The bodies of messages that a receiver would get."""
        return [one.body for one in self._messages.values() if one.visible_at <= self.clock()]

    @property
    def in_flight(self) -> list[str]:
        """The bodies of messages that are received and not deleted."""
        return [one.body for one in self._messages.values() if one.visible_at > self.clock()]

    def receive_message(self, **asked: Any) -> dict[str, Any]:
        """As boto3's; a long poll on an empty queue takes no time."""
        self._called("receive")
        with self._lock:
            found = [] if self._fifo and self.in_flight else list(self._messages.items())
            received = [(handle, one) for handle, one in found if one.visible_at <= self.clock()]
            received = received[: asked["MaxNumberOfMessages"]]
            for _, one in received:
                one.visible_at = self.clock() + asked["VisibilityTimeout"]
                one.receives += 1
        return {
            "Messages": [
                {
                    "MessageId": one.message_id,
                    "ReceiptHandle": handle,
                    "Body": one.body,
                    "Attributes": {"SentTimestamp": "1750939200000", "ApproximateReceiveCount": str(one.receives)},
                }
                for handle, one in received
            ]
        }

    def delete_message_batch(self, **asked: Any) -> dict[str, Any]:
        """As boto3's; `undeletable` bodies are refused."""
        self._called("delete")
        failed = []
        with self._lock:
            for entry in asked["Entries"]:
                if self._messages[entry["ReceiptHandle"]].body in self.undeletable:
                    failed.append({"Id": entry["Id"], "Code": "InternalError", "SenderFault": False})
                else:
                    del self._messages[entry["ReceiptHandle"]]
        return {"Failed": failed}

    def change_message_visibility_batch(self, **asked: Any) -> dict[str, Any]:
        """As boto3's."""
        self._called("make_visible")
        for entry in asked["Entries"]:
            self._messages[entry["ReceiptHandle"]].visible_at = self.clock() + entry["VisibilityTimeout"]
        return {}

    def _called(self, operation: str) -> None:
        self.calls[operation] += 1
        self.before.get(operation, lambda: None)()


def sqs_unavailable() -> None:
    """Fails as boto3 does where SQS does; for `FakeSqs.before`.

    Raises:
        ClientError: always.
    """
    answer: Any = {"Error": {"Code": "ServiceUnavailable"}, "ResponseMetadata": {"HTTPStatusCode": 503}}
    raise ClientError(answer, "any")


class FakePayloads(Payloads):
    """A bucket of payloads by path; the body of a pointer is `pointer:PATH`."""

    def __init__(self, **objects: bytes | None) -> None:
        """Takes the objects; None is one that fails in passing."""
        super().__init__(None)
        self.objects = objects

    def path_of(self, message: QueuedMessage) -> str | None:
        """As `Payloads.path_of`."""
        kind, _, path = message.body.decode().partition(":")
        return path if kind == "pointer" else None

    def resolve(self, message: QueuedMessage) -> QueuedMessage:
        """As `Payloads.resolve`.

        Raises:
            PayloadUnavailableError: the object fails in passing.
        """
        body = self.objects[str(self.path_of(message))]
        if body is None:
            raise PayloadUnavailableError("the payload of a message cannot be read just now")
        return msgspec.structs.replace(message, body=body)


class FakeLanding(Landing):
    """Objects in memory."""

    def __init__(self) -> None:
        """Begins empty; `failure` is raised by whatever is put while it is set."""
        self.url = "s3://fake/landing"
        self.objects: dict[str, bytes] = {}
        self.failure: Exception | None = None

    def put(self, path: str, content: bytes, mode: Literal["create", "overwrite"] = "overwrite") -> None:
        """As `Landing.put`, in mode `overwrite`."""
        if self.failure:
            raise self.failure
        self.objects[path] = content

    def get(self, path: str) -> bytes:
        """As `Landing.get`.

        Raises:
            ObjectMissingError: there is no such object.
        """
        if path not in self.objects:
            raise ObjectMissingError(f"the landing has no object {path}")
        return self.objects[path]


class FakeDatabase(LoginDatabase):
    """Takes any statement and answers with a mock; counts what is committed."""

    def __init__(self) -> None:
        """Begins without a transaction; `failure` is raised by each commit while it is set."""
        self.committed = 0
        self.failure: Exception | None = None

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """As `LoginDatabase.transaction`."""
        yield MagicMock(spec=Connection)
        if self.failure:
            raise self.failure
        self.committed += 1
