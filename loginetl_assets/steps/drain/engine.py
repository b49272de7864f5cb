"""How the queue is drained: received, gathered into batches, encrypted, landed, registered, and only then deleted.

A message is deleted once its batch is durable in the landing *and* registered in Postgres. Whatever dies before that
leaves it on the queue, and whatever dies after it leaves a duplicate that the ledger knows. SQS hands each message to
one receiver at a time, so any number of drains can share a queue.

One thread decides, by the rules of `policy`; the calls to SQS, landing and Postgres run on a pool of threads, whose
number makes up for AWS's latency (20 ms a call is 50 calls a second and connection).
"""

import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from queue import Empty, SimpleQueue
from typing import Any

from loginetl_assets.aws.payloads import Payloads, PayloadUnavailableError
from loginetl_assets.aws.sqs import MAX_PER_CALL, LoginQueue, ReceivedMessage
from loginetl_assets.errors import OperatorError, TransientError
from loginetl_assets.logins.message import QueuedMessage
from loginetl_assets.steps.drain.policy import (
    DrainLimits,
    Gathered,
    Receive,
    Receivers,
    Situation,
    StoppedReason,
    Stretch,
    decide,
    next_receivers,
)
from loginetl_assets.steps.progress import BatchDone, ignore
from loginetl_assets.steps.totals import StepTotals

# A message whose payload goes on failing is landed as the pointer it is, to be rejected and replayed: before a redrive
# policy of five receives would take it, and long before SQS's retention.
RECEIVES_FOR_A_PAYLOAD = 4
DELETE_ATTEMPTS = 3  # after that the message comes again, and the ledger knows it

_SECONDS_OF_A_STRETCH = 0.25  # after which the number of receivers is decided again
_SECONDS_BETWEEN_DECISIONS = 1.0  # at most, so that batches and the drain end in time where nothing else happens


@dataclass(frozen=True)
class DrainTotals(StepTotals):
    """What a drain did; those of several processes add up."""

    messages: int = 0
    batches: int = 0
    bytes: int = 0
    undeleted: int = 0  # landed, but SQS did not delete them: they come again and change nothing
    postponed: int = 0  # their payload failed in passing: they come again after their visibility time-out
    stopped_reason: StoppedReason = StoppedReason.QUEUE_EMPTY


class Drain:
    """One process's drain of the queue: carries out what `policy.decide` says."""

    def __init__(
        self,
        queue: LoginQueue,
        payloads: Payloads,
        land: Callable[[list[QueuedMessage]], tuple[int, int]],
        limits: DrainLimits,
        *,
        landed: BatchDone = ignore,
        clock: Callable[[], float] = time.monotonic,
        cpu_clock: Callable[[], float] = time.process_time,
    ) -> None:
        """Takes the open queue and payloads, what lands a batch (and returns its id and size), and the bounds.

        `landed` is told of each batch, by the thread that runs the drain.
        """
        self._queue = queue
        self._payloads = payloads
        self._land = land
        self._limits = limits
        self._landed = landed
        self._clock, self._cpu_clock = clock, cpu_clock
        self._totals = DrainTotals()
        self._batch: list[ReceivedMessage] = []  # gathered, not yet landed
        self._batch_size, self._batch_opened_at = 0, 0.0
        self._empty_in_a_row = 0
        self._failure: Exception | None = None
        self._receives: dict[Future[tuple[list[ReceivedMessage], int]], Receive] = {}
        self._landings: set[Future[tuple[int, list[str]]]] = set()
        self._deletes: set[Future[int]] = set()
        self._to_delete: deque[Sequence[str]] = deque()  # receipt handles of what is landed, ten a call
        self._ended: SimpleQueue[Future[Any]] = SimpleQueue()
        self._receivers = Receivers(limits.receivers)
        self._receives_ended = self._bytes_received = 0
        self._held: set[str] = set()  # receipt handles of what is received and not landed
        self._pool = ThreadPoolExecutor(limits.connections + 2, thread_name_prefix="drain")
        # Payloads of one receive side by side: a slow one costs its neighbours its own time and no more.
        self._readers = ThreadPoolExecutor(MAX_PER_CALL, thread_name_prefix="payloads")

    def run(self) -> DrainTotals:
        """Drains until the queue is empty or a limit is reached.

        Raises OperatorError or TransientError where a service failed. What was received by then was landed if that was
        still possible; the rest was made visible again.
        """
        try:
            with self._readers, self._pool:  # the pool ends first: it uses the readers
                return self._run()
        finally:
            self._make_visible()

    def _run(self) -> DrainTotals:
        started_at = self._clock()
        self._seen = self._reading()  # when the number of receivers was decided
        while True:
            decision = decide(self._situation(started_at), self._limits)
            for receive in decision.receives:
                self._receives[self._start(self._receive, receive)] = receive
            if decision.land:
                self._landings.add(self._start(self._land_batch, self._batch))
                self._batch, self._batch_size = [], 0
            for _ in range(len(self._deletes), min(self._receivers.number, len(self._to_delete))):
                self._deletes.add(self._start(self._delete))
            self._adapt()
            if not (self._receives or self._landings or self._deletes):
                break
            try:
                # One result a decision: it may be the one that makes another receive possible.
                self._take(self._ended.get(timeout=_SECONDS_BETWEEN_DECISIONS))
            except Empty:
                continue
            except (OperatorError, TransientError) as error:
                self._failure = self._failure or error
        if self._failure:
            raise self._failure
        return self._totals + DrainTotals(stopped_reason=decision.stopped or StoppedReason.QUEUE_EMPTY)

    def _start(self, call: Callable[..., Any], *arguments: Any) -> Future[Any]:
        future = self._pool.submit(call, *arguments)
        future.add_done_callback(self._ended.put)
        return future

    def _adapt(self) -> None:
        """Decides again how many receivers there are, once enough was seen of as many as there are."""
        now = self._reading()
        seen = now.since(self._seen)
        if len(self._receives) < self._receivers.number:  # held up by a landing, or by the end of the queue
            self._seen = now
        elif seen.seconds >= _SECONDS_OF_A_STRETCH and seen.receives >= self._receivers.number:
            self._receivers = next_receivers(self._receivers, seen, self._limits)
            self._seen = now

    def _reading(self) -> Stretch:
        return Stretch(
            self._clock(), self._cpu_clock(), self._receives_ended, self._totals.messages, self._bytes_received
        )

    def _situation(self, started_at: float) -> Situation:
        now = self._clock()
        return Situation(
            seconds=now - started_at,
            received=self._totals.messages,
            receives=tuple(self._receives.values()),
            empty_in_a_row=self._empty_in_a_row,
            batch=Gathered(len(self._batch), self._batch_size, now - self._batch_opened_at),
            landings=len(self._landings),
            deletes=len(self._deletes) + len(self._to_delete),
            is_fifo=self._queue.is_fifo,
            failed=self._failure is not None,
            receivers=self._receivers.number,
        )

    def _take(self, future: Future[Any]) -> None:
        """Takes the result of what has ended, and starts what follows from it."""
        if future in self._receives:
            del self._receives[future]
            received, postponed = future.result()
            self._totals += DrainTotals(messages=len(received), postponed=postponed)
            self._empty_in_a_row = 0 if received or postponed else self._empty_in_a_row + 1
            if not self._batch:
                self._batch_opened_at = self._clock()
            self._batch += received
            size = sum(len(one.message.body) for one in received)
            self._batch_size += size
            self._bytes_received += size
            self._receives_ended += 1
        elif future in self._landings:
            self._landings.remove(future)
            size, handles = future.result()
            self._totals += DrainTotals(batches=1, bytes=size)
            self._landed(len(handles))
            self._to_delete.extend(_parts(handles, MAX_PER_CALL))
        else:
            self._deletes.remove(future)
            self._totals += DrainTotals(undeleted=future.result())
            if self._queue.is_fifo and not (self._landings or self._deletes):
                self._empty_in_a_row = 0  # what they held up is delivered now

    def _receive(self, receive: Receive) -> tuple[list[ReceivedMessage], int]:
        """Receives messages, and replaces pointers by their payloads; returns how many are postponed beside them."""
        received = self._queue.receive(
            max_messages=receive.max_messages,
            wait_seconds=receive.wait_seconds,
            visibility_seconds=self._limits.visibility_seconds,
        )
        # Before anything else can fail: what is not in here waits for its visibility time-out.
        self._held.update(_handles(received))
        pointers = [one for one in received if self._payloads.path_of(one.message) is not None]
        found = dict(zip(_handles(pointers), self._readers.map(self._with_payload, pointers), strict=True))
        whole: list[ReceivedMessage] = []
        for one in received:
            if (resolved := found.get(one.receipt_handle, one)) is not None:
                whole.append(resolved)
            elif self._queue.is_fifo:
                break  # those behind it may be of its group, and must not overtake it
        # Not held, and so not made visible: at once they would be received again, and a redrive policy counts receives.
        self._held.difference_update({*_handles(received)}.difference(_handles(whole)))
        return whole, len(received) - len(whole)

    def _with_payload(self, received: ReceivedMessage) -> ReceivedMessage | None:
        """Returns the message with its payload, or as it is; None where the payload may be available later."""
        try:
            return replace(received, message=self._payloads.resolve(received.message))
        except PayloadUnavailableError:
            return received if received.receives >= RECEIVES_FOR_A_PAYLOAD else None

    def _land_batch(self, received: list[ReceivedMessage]) -> tuple[int, list[str]]:
        """Lands a batch; returns its object's size, and the handles of messages that may leave the queue now."""
        _, size = self._land([one.message for one in received])
        handles = _handles(received)
        self._held.difference_update(handles)
        return size, handles

    def _delete(self) -> int:
        """Deletes messages, ten a call, until all that are landed by then are; returns how many SQS kept."""
        kept = 0
        while True:
            try:
                left = self._to_delete.popleft()
            except IndexError:  # the others were faster
                return kept
            try:
                for _ in range(DELETE_ATTEMPTS):
                    left = self._queue.delete(left)
                    if not left:
                        break
            except (OperatorError, TransientError):
                self._to_delete.clear()  # they come again, and the ledger knows them
                raise
            kept += len(left)

    def _make_visible(self) -> None:
        """Makes what a failed or cancelled drain holds visible to other receivers, before its time-out would."""
        # Where that fails, their time-out does it: the calls that are left are cancelled (`map` does), and the failure
        # of before is the one that is reported.
        with suppress(Exception), ThreadPoolExecutor(self._limits.receivers, "make-visible") as pool:
            list(pool.map(self._queue.make_visible, _parts(list(self._held), MAX_PER_CALL)))


def _handles(received: list[ReceivedMessage]) -> list[str]:
    return [one.receipt_handle for one in received]


def _parts(handles: Sequence[str], size: int) -> list[Sequence[str]]:
    return [handles[start : start + size] for start in range(0, len(handles), size)]
