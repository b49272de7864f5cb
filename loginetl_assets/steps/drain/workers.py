"""Worker processes that drain side by side: how they are started, instructed and ended.

boto3 spends about 200 µs of CPU on each message and holds the GIL meanwhile, so a long queue is drained by several
processes: 8 threads in one process did 3.1 k msg/s, 2 processes of 4 threads 6.9 k (two cores).
"""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import msgspec

from loginetl_assets.errors import OperatorError, TransientError, withheld
from loginetl_assets.services import Services
from loginetl_assets.settings import Settings
from loginetl_assets.steps.batch_objects import BatchLanding
from loginetl_assets.steps.drain.engine import Drain, DrainTotals
from loginetl_assets.steps.drain.policy import DrainLimits
from loginetl_assets.steps.progress import BatchDone, ignore

_SECONDS_TO_END = 20.0


# A worker's input, as JSON on its standard input, is its limits and the run; keys and passwords are in its environment.
_Order = tuple[DrainLimits, str | None]


class _Answer(msgspec.Struct):
    """The last line of a worker's output, JSON as all of them; by default that of one that died.

    Before it there is a line with the number of messages for each batch that it has landed.
    """

    totals: DrainTotals | None = None
    error: str = "a drain process died; its messages come again"
    may_pass: bool = True


def drain_in_processes(
    environment: Mapping[str, str],
    limits: DrainLimits,
    processes: int,
    *,
    run_id: str | None = None,
    landed: BatchDone = ignore,
) -> DrainTotals:
    """Drains with several processes at once, each with its share of `max_messages`.

    The environment, laid over this process's own, tells the workers which services to open. `landed` is told of each
    batch, by several threads. Raises as `Drain.run`, once every process has ended.
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
    with ThreadPoolExecutor(processes) as readers:  # ends last: a reader ends with its worker
        try:
            for worker, share in zip(workers, shares, strict=True):
                assert worker.stdin is not None  # noqa: S101 - for the type checker: it was asked for above
                order = (msgspec.structs.replace(limits, max_messages=share, expected=0), run_id)
                worker.stdin.write(msgspec.json.encode(order) + b"\n")
                worker.stdin.flush()  # and left open: its end tells the worker that this process is gone
            answers = list(readers.map(partial(_answer_of, landed), workers))
        finally:
            _end(workers)
    totals = DrainTotals()
    for answer in answers:
        if answer.totals is None:
            raise TransientError(answer.error) if answer.may_pass else OperatorError(answer.error)
        totals += answer.totals
    return totals


def _answer_of(landed: BatchDone, worker: subprocess.Popen[bytes]) -> _Answer:
    assert worker.stdout is not None  # noqa: S101 - for the type checker
    for line in worker.stdout:
        try:
            told = msgspec.json.decode(line, type=int | _Answer)
        except msgspec.MsgspecError:
            break
        if isinstance(told, _Answer):
            return told
        landed(told)
    return _Answer()


def _end(workers: list[subprocess.Popen[bytes]]) -> None:
    for worker in workers:
        worker.terminate()  # it makes visible what it holds
    for worker in workers:
        with worker:  # closes its pipes, and waits for one that was killed
            try:
                worker.wait(timeout=_SECONDS_TO_END)
            except subprocess.TimeoutExpired:
                worker.kill()


def _work() -> None:
    """A worker process: reads its order, drains, answers; ends when it is asked to or its parent is gone."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # raised in the main thread: what is held is made visible
    limits, run_id = msgspec.json.decode(sys.stdin.buffer.readline(), type=_Order)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        services = Services(Settings.from_environment())
        queue = services.queue(connections=limits.connections)
        landing, payloads = services.landing(), services.payloads()
        database = services.database(application_name="loginetl drain")
        land = BatchLanding(database, landing, services.keyring, run_id)
        answer = _Answer(Drain(queue, payloads, land, limits, landed=_tell).run())
    except (OperatorError, TransientError) as error:
        answer = _Answer(error=str(error), may_pass=isinstance(error, TransientError))
    except Exception as error:  # noqa: BLE001 - a bug; its text would end in the log
        answer = _Answer(error=withheld(error), may_pass=False)
    # It is ended once it has answered: an exit raised while Python shuts down would be a traceback in the run's log.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    _tell(answer)


def _tell(line: int | _Answer) -> None:
    sys.stdout.buffer.write(msgspec.json.encode(line) + b"\n")
    sys.stdout.buffer.flush()


def _end_with_parent() -> None:
    os.read(sys.stdin.fileno(), 1)  # not through the buffer: its lock would still be held when Python shuts down
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(_SECONDS_TO_END)
    os._exit(1)  # a crash like any other: what is not deleted yet comes again


if __name__ == "__main__":
    _work()
