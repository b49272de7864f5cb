"""How the queue is drained: received, gathered into batches, sealed, landed, registered, and only then deleted.

A message is deleted once its batch is durable in the landing *and* registered in Postgres. Whatever dies before that
leaves it on the queue, and whatever dies after it leaves a duplicate that the ledger knows. SQS hands each message to
one receiver at a time, so any number of drains can share a queue.

One thread decides; the calls to SQS, landing and Postgres run on a pool of threads, whose number makes up for AWS's
latency (20 ms a call is 50 calls a second and connection). boto3 spends about 200 µs of CPU on each message and holds
the GIL meanwhile, so a long queue is drained by several processes: 8 threads in one process did 3.1 k msg/s, 2
processes of 4 threads 6.9 k (two cores).
"""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

import msgspec

from loginetl_assets.aws.payloads import PayloadNotNow, Payloads
from loginetl_assets.aws.sqs import MAX_PER_CALL, LoginQueue, ReceivedMessage
from loginetl_assets.errors import OperatorError, TransientError, withheld
from loginetl_assets.keys.keyring import Keyring
from loginetl_assets.landing.batch_files import register_messages, write_messages
from loginetl_assets.landing.object_store import Landing
from loginetl_assets.services import Services
from loginetl_assets.settings import Settings
from loginetl_assets.storage import vault
from loginetl_assets.storage.database import LoginDatabase

# A message whose payload goes on failing is landed as the pointer it is, to be rejected and replayed: before a redrive
# policy of five receives would take it, and long before SQS's retention.
_RECEIVES_FOR_A_PAYLOAD = 4

_DELETES_PER_TASK = 10 * MAX_PER_CALL
_SECONDS_TO_END = 20.0
DELETE_ATTEMPTS = 3  # after that the message comes again, and the ledger knows it


class StoppedReason(StrEnum):
    """Why a drain ended."""

    QUEUE_EMPTY = "queue_empty"
    MAX_MESSAGES = "max_messages"
    MAX_SECONDS = "max_seconds"


class DrainLimits(msgspec.Struct, frozen=True):
    """The bounds of one drain."""

    max_messages: int
    max_seconds: float
    receivers: int = 4
    # 5 000 messages of the usual 170 bytes are under 1 MB: memory stays flat, and the file is worth a put.
    batch_messages: int = 5_000
    batch_bytes: int = 16 * 1024 * 1024
    # With landing and deletes this must end well inside the visibility time-out (120 s by default).
    batch_seconds: float = 10.0
    # Long polling asks all of SQS's servers; a receive without it can miss messages that are there.
    wait_seconds: int = 1
    expected: int = 0  # how many messages the queue said it had, if known
    visibility_seconds: int = 120


class DrainReport(msgspec.Struct):
    """What a drain did; reports of several processes add up."""

    stopped_reason: StoppedReason = StoppedReason.QUEUE_EMPTY
    messages: int = 0
    batches: int = 0
    bytes: int = 0
    undeleted: int = 0  # landed, but SQS did not delete them: they come again and change nothing
    postponed: int = 0  # their payload failed in passing: they come again after their visibility time-out

    def add(self, other: "DrainReport") -> None:
        """Adds another process's part; the more urgent reason to stop wins."""
        self.messages += other.messages
        self.batches += other.batches
        self.bytes += other.bytes
        self.undeleted += other.undeleted
        self.postponed += other.postponed
        if other.stopped_reason is not StoppedReason.QUEUE_EMPTY:
            self.stopped_reason = other.stopped_reason


@dataclass
class _OpenBatch:
    """Messages gathered so far, not yet landed."""

    received: list[ReceivedMessage] = field(default_factory=list)
    size: int = 0
    opened_at: float = field(default_factory=time.monotonic)

    def add(self, received: list[ReceivedMessage]) -> None:
        if not self.received:
            self.opened_at = time.monotonic()
        self.received += received
        self.size += sum(len(one.message.body) for one in received)

    def is_due(self, limits: DrainLimits) -> bool:
        return (
            len(self.received) >= limits.batch_messages
            or self.size >= limits.batch_bytes
            or time.monotonic() - self.opened_at >= limits.batch_seconds
        )


@dataclass(frozen=True)
class _Received:
    messages: list[ReceivedMessage]
    postponed: int


@dataclass(frozen=True)
class _Landed:
    size: int
    receipt_handles: list[str]


class Drain:
    """One process's drain of the queue. `run` decides; what it hands to the pool returns what became of it."""

    def __init__(
        self,
        queue: LoginQueue,
        landing: Landing,
        payloads: Payloads,
        database: LoginDatabase,
        keyring: Keyring,
        limits: DrainLimits,
        *,
        run_id: str | None = None,
    ) -> None:
        """Takes the open services, the bounds, and the Dagster run to name in the ledger."""
        self._queue = queue
        self._landing = landing
        self._payloads = payloads
        self._database = database
        self._keyring = keyring
        self._limits = limits
        self._run_id = run_id
        self._held: set[str] = set()  # receipt handles of what is received and not landed
        # Payloads of one receive side by side: a slow one costs its neighbours its own time and no more.
        self._readers = ThreadPoolExecutor(MAX_PER_CALL, thread_name_prefix="payloads")

    def run(self) -> DrainReport:
        """Drains until the queue is empty or a limit is reached.

        Raises:
            OperatorError, TransientError: a service failed. What was received by then was landed if that was still
                possible; the rest was given back to the queue.
        """
        try:
            return self._run()
        finally:
            self._readers.shutdown()
            self._make_visible()

    def _run(self) -> DrainReport:
        limits, report = self._limits, DrainReport()
        deadline = time.monotonic() + limits.max_seconds
        batch = _OpenBatch()
        empty_in_a_row = 0
        failure: BaseException | None = None
        receives: dict[Future[_Received], int] = {}  # how many messages each may still bring
        patient: set[Future[_Received]] = set()  # those of them that wait where there is nothing
        landings: set[Future[_Landed]] = set()
        deletes: set[Future[int]] = set()
        with ThreadPoolExecutor(limits.receivers + 2, thread_name_prefix="drain") as pool:
            while True:
                wanted = limits.max_messages - report.messages
                # A FIFO queue that gives nothing may be waiting for the deletes of what it gave.
                held_up = self._queue.is_fifo and (landings or deletes)
                stopped = self._stopped(wanted, 0 if held_up else empty_in_a_row, deadline)
                # With two batches on their way to the landing, memory is better kept flat than filled.
                while (
                    not stopped
                    and not failure
                    and len(receives) + empty_in_a_row < limits.receivers
                    and len(landings) < 2
                ):
                    most = min(MAX_PER_CALL, wanted - sum(receives.values()))
                    if most <= 0:
                        break
                    # What the queue said it had is on its way: what comes late is the next run's, and not worth a
                    # long poll's second. Where it said nothing is there it may not know yet (AWS's count lags).
                    hurry = 0 < limits.expected <= report.messages + sum(receives.values())
                    if hurry and patient:
                        break  # a short poll beside them would take what they are waiting for
                    receive = pool.submit(self._receive, most, 0 if hurry else limits.wait_seconds)
                    receives[receive] = most
                    if not hurry:
                        patient.add(receive)
                # An empty queue has nothing to wait for; on a FIFO queue waiting would hold up the whole group.
                if batch.received and (empty_in_a_row or not receives or batch.is_due(limits)):
                    landings.add(pool.submit(self._land, batch))
                    batch = _OpenBatch()
                if not (receives or landings or deletes):
                    break
                running: list[Future[Any]] = [*receives, *landings, *deletes]
                done, _ = wait(running, timeout=1.0, return_when=FIRST_COMPLETED)
                for future in done:
                    try:
                        if future in receives:
                            del receives[future]
                            patient.discard(future)
                            received = future.result()
                            report.messages += len(received.messages)
                            report.postponed += received.postponed
                            empty_in_a_row = 0 if received.messages or received.postponed else empty_in_a_row + 1
                            batch.add(received.messages)
                            if batch.is_due(limits):
                                landings.add(pool.submit(self._land, batch))
                                batch = _OpenBatch()
                        elif future in landings:
                            landings.remove(future)
                            landed = future.result()
                            report.batches += 1
                            report.bytes += landed.size
                            deletes |= {pool.submit(self._delete, part) for part in _in_parts(landed.receipt_handles)}
                        else:
                            deletes.remove(future)
                            report.undeleted += future.result()
                            if self._queue.is_fifo and not (landings or deletes):
                                empty_in_a_row = 0
                    except (OperatorError, TransientError) as error:
                        failure = failure or error
        if failure:
            raise failure
        report.stopped_reason = stopped or StoppedReason.QUEUE_EMPTY
        return report

    def _stopped(self, wanted: int, empty_in_a_row: int, deadline: float) -> StoppedReason | None:
        if wanted <= 0:
            return StoppedReason.MAX_MESSAGES
        if empty_in_a_row >= self._limits.receivers:
            return StoppedReason.QUEUE_EMPTY
        return StoppedReason.MAX_SECONDS if time.monotonic() >= deadline else None

    def _receive(self, most: int, wait_seconds: int) -> _Received:
        received = self._queue.receive(
            most=most, wait_seconds=wait_seconds, visibility_seconds=self._limits.visibility_seconds
        )
        # Before anything else can fail: what is not in here waits for its visibility time-out.
        self._held.update(one.receipt_handle for one in received)
        pointers = [one for one in received if self._payloads.points_here(one.message)]
        handles = [one.receipt_handle for one in pointers]
        found = dict(zip(handles, self._readers.map(self._with_payload, pointers), strict=True))
        whole: list[ReceivedMessage] = []
        for one in received:
            if (resolved := found.get(one.receipt_handle, one)) is not None:
                whole.append(resolved)
            elif self._queue.is_fifo:
                break  # those behind it may be of its group, and must not overtake it
        # Not held, and so not given back: at once they would be received again, and a redrive policy counts receives.
        kept = {one.receipt_handle for one in whole}
        self._held.difference_update(one.receipt_handle for one in received if one.receipt_handle not in kept)
        return _Received(whole, len(received) - len(whole))

    def _with_payload(self, received: ReceivedMessage) -> ReceivedMessage | None:
        """The message with its payload, or as it is; None where the payload may be had another time."""
        try:
            return replace(received, message=self._payloads.resolve(received.message))
        except PayloadNotNow:
            return received if received.receives >= _RECEIVES_FOR_A_PAYLOAD else None

    def _land(self, batch: _OpenBatch) -> _Landed:
        """Seals, puts, registers: after this the messages may leave the queue."""
        messages = [one.message for one in batch.received]
        with self._database.transaction() as connection:
            vault.lock_shared(connection)  # from before the put: an erasure waits for what is about to be registered
            written = write_messages(self._landing, self._keyring, messages)
            register_messages(connection, self._keyring, messages, written, self._run_id)
        handles = [one.receipt_handle for one in batch.received]
        self._held.difference_update(handles)
        return _Landed(written.size, handles)

    def _make_visible(self) -> None:
        """Shows the queue's other receivers what a failed or cancelled drain held, instead of after the time-out."""
        handles = list(self._held)
        if not handles:
            return
        with ThreadPoolExecutor(self._limits.receivers, thread_name_prefix="give-back") as pool:
            parts = [handles[start : start + MAX_PER_CALL] for start in range(0, len(handles), MAX_PER_CALL)]
            futures = [pool.submit(self._queue.make_visible, part) for part in parts]
            for future in futures:
                if future.exception():  # then the visibility time-out does it; the first failure is what is reported
                    pool.shutdown(wait=False, cancel_futures=True)
                    break

    def _delete(self, receipt_handles: list[str]) -> int:
        """Deletes messages, ten a call; gives back how many SQS kept."""
        kept = 0
        for start in range(0, len(receipt_handles), MAX_PER_CALL):
            left = receipt_handles[start : start + MAX_PER_CALL]
            for _ in range(DELETE_ATTEMPTS):
                left = self._queue.delete(left)
                if not left:
                    break
            kept += len(left)
        return kept


def _in_parts(handles: list[str]) -> list[list[str]]:
    """A batch's handles in parts that can be deleted side by side; fewer parts are cheaper to wait for."""
    return [handles[start : start + _DELETES_PER_TASK] for start in range(0, len(handles), _DELETES_PER_TASK)]


class _Order(msgspec.Struct):
    """What a worker process is told, on its standard input; keys and passwords come by its environment."""

    limits: DrainLimits
    run_id: str | None


class _Answer(msgspec.Struct):
    """What a worker process says at its end, on its standard output."""

    report: DrainReport | None = None
    operator_error: str | None = None
    transient_error: str | None = None


def drain_in_processes(
    environment: Mapping[str, str], limits: DrainLimits, processes: int, *, run_id: str | None = None
) -> DrainReport:
    """Drains with several processes at once, each with its share of `max_messages`.

    Args:
        environment: variables that tell the workers which services to open, laid over this process's own.
        limits: for all of them together.
        processes: how many.
        run_id: the Dagster run.

    Raises:
        OperatorError, TransientError: as `Drain.run`, once every process has ended.
    """
    processes = min(processes, limits.max_messages)
    whole, rest = divmod(limits.max_messages, processes)
    shares = [whole + (number < rest) for number in range(processes)]
    workers = [
        subprocess.Popen(  # noqa: S603 - this module, in our own interpreter
            # -P: with -m alone Python imports from the working directory first, which may be anybody's.
            [sys.executable, "-P", "-m", __name__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, **environment},
        )
        for _ in range(processes)
    ]
    try:
        for worker, share in zip(workers, shares, strict=True):
            assert worker.stdin is not None  # noqa: S101 - for the type checker: it was asked for above
            order = _Order(msgspec.structs.replace(limits, max_messages=share, expected=0), run_id)
            worker.stdin.write(msgspec.json.encode(order) + b"\n")
            worker.stdin.flush()  # and left open: its end tells the worker that this process is gone
        answers = [_answer_of(worker) for worker in workers]
    finally:
        for worker in workers:
            worker.terminate()  # it gives back what it holds
        for worker in workers:
            try:
                worker.wait(timeout=_SECONDS_TO_END)
            except subprocess.TimeoutExpired:
                worker.kill()
                worker.wait()
            for pipe in (worker.stdin, worker.stdout):
                if pipe:
                    pipe.close()
    total = DrainReport()
    for answer in answers:
        if answer.operator_error:
            raise OperatorError(answer.operator_error)
        if answer.report is None:
            raise TransientError(answer.transient_error or "a drain process died; its messages come again")
        total.add(answer.report)
    return total


def _answer_of(worker: subprocess.Popen[bytes]) -> _Answer:
    assert worker.stdout is not None  # noqa: S101 - for the type checker
    said = worker.stdout.read()
    try:
        return msgspec.json.decode(said, type=_Answer)
    except msgspec.MsgspecError:
        return _Answer()


def _work() -> None:
    """A worker process: reads its order, drains, answers; ends when it is told to or its parent is gone."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # raised in the main thread: what is held is given back
    order = msgspec.json.decode(sys.stdin.buffer.readline(), type=_Order)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        services = Services(Settings.from_environment())
        answer = _Answer(
            Drain(
                services.queue(connections=order.limits.receivers + 2),
                services.landing(),
                services.payloads(),
                services.database(application_name="loginetl drain"),
                services.keyring,
                order.limits,
                run_id=order.run_id,
            ).run()
        )
    except OperatorError as error:
        answer = _Answer(operator_error=str(error))
    except TransientError as error:
        answer = _Answer(transient_error=str(error))
    except Exception as error:  # noqa: BLE001 - a bug; its text would end in the log
        answer = _Answer(operator_error=withheld(error))
    sys.stdout.buffer.write(msgspec.json.encode(answer))


def _end_with_parent() -> None:
    os.read(sys.stdin.fileno(), 1)  # not through the buffer: its lock would still be held when Python shuts down
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(_SECONDS_TO_END)
    os._exit(1)  # a crash like any other: what is not deleted yet comes again


if __name__ == "__main__":
    _work()
