"""What the soak sends: a steady stream of logins, some bad and some sharing values, each answered for at the end."""

import json
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Any
from uuid import UUID

from loginetl_assets_tests.support.pipeline import login

PER_CALL = 10  # as many as SQS takes at once

_NEIGHBOURS, _SHARED_BY_NEIGHBOURS = 200, 20

# Each with the reason the ledger must give for it.
_BAD: tuple[tuple[str, dict[str, object] | str], ...] = (
    ("not_json", '{"user_id": "cut off'),
    ("not_a_login", '{"foo": "oops_wrong_msg_type", "bar": "123"}'),
    ("missing_field", {"device_id": ...}),
    ("bad_ip", {"ip": "300.1.2.3"}),
    ("bad_version", {"app_version": "2.x"}),
)


@dataclass(frozen=True)
class Sent:
    """One message: its body, and what must become of it."""

    body: str
    user_id: str  # unique, so that a login loaded twice shows in the table itself
    ip: str
    device_id: str
    reason: str | None  # why it must be rejected; None where it must be loaded


class Traffic:
    """The messages by number, the same for the same seed."""

    def __init__(self, *, seed: int, bad_share: float, shared_share: float) -> None:
        """Takes the shares of bad bodies, and of values that several messages have."""
        self._random = Random(seed)  # noqa: S311 - to be repeated, not to be secret
        self._bad_share = bad_share
        self._shared_share = shared_share

    def message(self, number: int) -> Sent:
        """The next message; numbers are to be asked for in order."""
        choose = self._random.random
        user_id = f"user-{number}"
        ip = f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"
        device_id = f"device-{number}"
        if choose() < self._shared_share:
            shared = self._shared(number)
            ip = f"198.{18 + (shared >> 16 & 1)}.{shared >> 8 & 255}.{shared & 255}"
        if choose() < self._shared_share:
            device_id = f"shared-{self._shared(number)}"
        fields: dict[str, object] = {"user_id": user_id, "ip": ip, "device_id": device_id}
        if choose() >= self._bad_share:
            return Sent(login(**fields), user_id, ip, device_id, None)
        reason, change = self._random.choice(_BAD)
        body = change if isinstance(change, str) else login(**{**fields, **change})
        return Sent(body, user_id, ip, device_id, reason)

    def _shared(self, number: int) -> int:
        """A value of this message's neighbours: always a new one, so that several runs enter it in the vault at once.

        What the vault has already, runs pass over and do not contend for.
        """
        return number // _NEIGHBOURS * _SHARED_BY_NEIGHBOURS + self._random.randrange(_SHARED_BY_NEIGHBOURS)


class Producer(threading.Thread):
    """Sends at a steady rate, and remembers what the queue took.

    Attributes:
        accepted: what was sent, by the message id as the ledger keeps it.
        failure: why it ended before its time, if it did.
    """

    def __init__(self, client: Any, queue_url: str, traffic: Traffic, *, rate: float, seconds: float) -> None:
        """Takes a boto3 client that does not retry: an answer that was lost would leave a message unaccounted for."""
        super().__init__(name="producer", daemon=True)
        self.accepted: dict[UUID, Sent] = {}
        self.failure: str | None = None
        self._client = client
        self._queue_url = queue_url
        self._traffic = traffic
        self._rate = rate
        self._seconds = seconds
        self._stopped = threading.Event()

    def run(self) -> None:
        """Sends what is due, ten a call, until the time is over."""
        started, number = time.monotonic(), 0
        last = round(self._rate * self._seconds)
        try:
            while number < last and not self._stopped.wait(PER_CALL / self._rate / 2):
                due = min(last, round((time.monotonic() - started) * self._rate))
                while number + PER_CALL <= due or number < due == last:
                    chunk = [self._traffic.message(one) for one in range(number, min(number + PER_CALL, last))]
                    self._send(chunk)
                    number += len(chunk)
        except Exception as error:  # noqa: BLE001 - it is reported by the thread that reads it
            self.failure = repr(error)

    def stop(self) -> None:
        """Ends it early."""
        self._stopped.set()

    def kinds(self) -> dict[str, int]:
        """How many of each kind were accepted."""
        return dict(Counter(sent.reason or "good" for sent in self.accepted.values()))

    def _send(self, chunk: Sequence[Sent]) -> None:
        answer = self._client.send_message_batch(
            QueueUrl=self._queue_url,
            Entries=[{"Id": str(place), "MessageBody": sent.body} for place, sent in enumerate(chunk)],
        )
        for entry in answer.get("Successful", []):
            self.accepted[UUID(entry["MessageId"])] = chunk[int(entry["Id"])]
        if answer.get("Failed"):
            raise RuntimeError(f"the queue refused {json.dumps(answer['Failed'])}")
