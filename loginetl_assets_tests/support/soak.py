"""`python -m loginetl_assets_tests.support.soak`: runs in parallel over one queue, killed at random, under steady load.

While messages arrive, several workers run the whole pipeline side by side, and every few seconds one of them is struck:
killed (SIGKILL), or frozen (SIGSTOP) until what it holds was delivered again, and then let go on. Some runs read old
batches again, and some drain with no visibility time-out, so that messages are delivered several times. When the last
message was sent the queue must run dry, and everything is accounted for.

The moments that matter are short, between landing, registering and deleting for one. So a stroke is aimed: at a step,
at a random moment of the time that this step took the last time.

One worker is never struck: by its memory it is seen whether a long life costs any.
"""

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty, Queue
from random import Random
from statistics import linear_regression, median
from types import FrameType
from urllib.parse import urlsplit

import boto3
import msgspec
import psutil
from botocore.config import Config
from rich.console import Console
from sqlalchemy import text

from loginetl_assets.aws.session import DEFAULT_REGION
from loginetl_assets.local.stack import EmbeddedStack
from loginetl_assets.services import Services
from loginetl_assets.settings import Environment, Settings
from loginetl_assets.storage.database import LoginDatabase
from loginetl_assets_tests.support import soak_report
from loginetl_assets_tests.support.traffic import Producer, Traffic
from loginetl_assets_tests.support.verify import Verdict, verify
from loginetl_assets_tests.support.worker import Order, RunReport, StepStarted

_ROOT = Path(__file__).parents[2]  # where `-m` finds the tests' package
_READY_SECONDS = 120.0
_STOP_SECONDS = 60
_TICK_SECONDS = 0.1
_MAX_GROWTH = 0.3  # of memory, after the warm-up: loose, since a short soak has few runs to judge by
# Most go to the drain, the one step whose work is not a single transaction.
_AIMS = {"raw_login_messages": 2, "masked_logins": 1, "user_logins": 1}


class SoakError(Exception):
    """The soak itself could not go on; says why."""


@dataclass(frozen=True)
class Plan:
    """What to do, and for how long."""

    seconds: float  # of arrival; start, draining and verification come on top
    rate: float  # messages a second
    workers: int = 8
    stroke_seconds: float = 5.0  # from one stroke to the next
    freeze_share: float = 0.3  # of the strokes; the others kill
    least_strokes: int = 0  # a slow machine goes on being struck after the last message until it had as many
    seed: int = 1
    bad_share: float = 0.04
    shared_share: float = 0.3  # of the values several messages have
    max_messages: int = 500
    batch_messages: int = 50
    visibility_seconds: int = 5
    reprocess_share: float = 0.1
    hasty_share: float = 0.05
    drain_seconds: float = 180.0  # after the last message, until nothing waits any more


@dataclass(frozen=True)
class Sample:
    """One look at everything, about once a second."""

    seconds: float  # since the first message
    visible: int
    in_flight: int
    sent: int
    settled: int
    pending: int  # landed and not yet settled
    pending_batches: int
    pending_seconds: float  # age of the oldest pending message
    connections: int
    deadlocks: int
    survivor_mb: float  # of the worker that is never struck
    largest_mb: float  # of any worker
    workers: int

    @property
    def lag(self) -> int:
        """Messages that were sent and have no outcome yet."""
        return self.sent - self.settled

    @property
    def is_dry(self) -> bool:
        """Whether nothing waits, in the queue or after it."""
        return not (self.visible or self.in_flight or self.pending or self.pending_batches)


@dataclass(frozen=True)
class Memory:
    """What became of the memory of the worker that was never struck, its warm-up left out; in MB."""

    start: float  # median of the first fifth of what is left
    end: float  # median of its last fifth
    largest: float
    slope_per_minute: float

    @property
    def growth(self) -> float:
        """As a share of the start."""
        return self.end / self.start - 1

    @classmethod
    def of(cls, samples: Sequence[Sample]) -> "Memory":
        """Leaves out the first two fifths as warm-up: libraries that the first runs load, and their caches."""
        readings = [(one.seconds / 60, one.survivor_mb) for one in samples if one.survivor_mb]
        readings = readings[2 * len(readings) // 5 :]
        fifth = max(1, len(readings) // 5)
        sizes = [size for _, size in readings]
        return cls(
            start=median(sizes[:fifth]),
            end=median(sizes[-fifth:]),
            largest=max(sizes),
            slope_per_minute=linear_regression([at for at, _ in readings], sizes).slope,
        )


@dataclass
class Outcome:
    """Everything a soak has to tell."""

    plan: Plan
    kinds: dict[str, int]  # accepted messages: how many good ones, and how many bad ones by reason
    seconds: float  # of arrival, as it was
    drained_after: float | None  # seconds from the last message until nothing waited; None: it never came to that
    kills: int
    freezes: int
    runs: list[RunReport]
    samples: list[Sample]
    verdict: Verdict
    crashes: list[int] = field(default_factory=list)  # exit codes of workers that nobody killed

    @property
    def retries(self) -> Counter[str]:
        """Steps that were tried again, by kind of failure."""
        return Counter(kind for run in self.runs for kind in run.retries)

    @property
    def failures(self) -> Counter[str]:
        """Steps that failed for good, by kind."""
        return Counter(kind for run in self.runs for kind in run.failures)

    @property
    def failed_checks(self) -> Counter[str]:
        """Checks of severity ERROR that did not pass."""
        return Counter(name for run in self.runs for name in run.failed_checks)

    @property
    def memory(self) -> Memory:
        """Of the worker that was never struck."""
        return Memory.of(self.samples)

    @property
    def problems(self) -> list[str]:
        """What must not have happened; empty is good."""
        return [
            *(["the queue did not run dry in time"] if self.drained_after is None else []),
            *self.verdict.problems,
            *(f"{count} runs failed for good: {kind}" for kind, count in self.failures.items()),
            *(f"check {name} failed in {count} runs" for name, count in self.failed_checks.items()),
            *([f"memory grew by {self.memory.growth:.0%}"] if self.memory.growth > _MAX_GROWTH else []),
            *(f"a worker ended by itself (exit code {code})" for code in self.crashes),
        ]


class _Worker:
    """A worker's place: the process that holds it now, and all that was reported from it."""

    def __init__(self, settings: Settings, order: Order, steps: "Queue[_Begun]") -> None:
        self.runs: list[RunReport] = []
        self._steps = steps
        self._settings = settings
        self._order = order
        self.start()

    def start(self) -> None:
        """Starts a new process in this place; a new seed, so that it does not do what the last one did."""
        self._order = msgspec.structs.replace(self._order, seed=self._order.seed + 1_000)
        temporary = self._settings.home / "tmp"  # what a killed worker leaves there goes with the home
        temporary.mkdir(parents=True, exist_ok=True)
        self.ready = threading.Event()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "loginetl_assets_tests.support.worker", msgspec.json.encode(self._order).decode()],
            cwd=_ROOT,
            env={**os.environ, **self._settings.as_environment(), "TMPDIR": str(temporary)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,  # an interrupt from the keyboard is for the driver, which then ends them all
        )
        self._process_memory = psutil.Process(self.process.pid)
        self._reader = threading.Thread(target=self._read, args=(self.process, self.ready), daemon=True)
        self._reader.start()

    @property
    def megabytes(self) -> float:
        """Resident memory; 0 once it has ended."""
        try:
            return round(self._process_memory.memory_info().rss / 1e6, 1)
        except psutil.Error:
            return 0.0

    def freeze(self) -> Callable[[], None]:
        """Stops the process where it is; returns a function that continues it, if it still exists then."""
        process = self.process
        process.send_signal(signal.SIGSTOP)
        return lambda: process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """Ends the process as a crash does; what it had said by then counts."""
        self.process.kill()
        self.process.wait()
        self._reader.join()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe:
                pipe.close()

    def ask_to_stop(self) -> None:
        """Lets it end after the run under way."""
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(b"stop\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            return  # its exit code tells

    def _read(self, process: "subprocess.Popen[bytes]", ready: threading.Event) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            try:
                word = msgspec.json.decode(line, type=StepStarted | RunReport)
            except msgspec.MsgspecError:
                continue  # it was killed while it wrote
            if isinstance(word, RunReport):
                self.runs.append(word)
            else:
                ready.set()
                self._steps.put(_Begun(self, word.step, time.monotonic()))


@dataclass(frozen=True)
class _Begun:
    worker: _Worker
    step: str
    at: float


class _Striker:
    """Strikes workers, each at a random moment of the step aimed at."""

    def __init__(self, plan: Plan, able: Sequence[_Worker]) -> None:
        self.kills = self.freezes = 0
        self._plan = plan
        self._able = able
        self._random = Random(plan.seed)  # noqa: S311 - to be repeated, not to be secret
        self._next = time.monotonic()
        self._aim = self._choose()
        self._frozen: dict[_Worker, tuple[float, Callable[[], None]]] = {}
        self._under_way: dict[_Worker, tuple[str, float]] = {}
        self._took: dict[str, float] = {}

    def see(self, begun: _Begun) -> None:
        """Takes note that a worker begins a step, and strikes it there if that is what is due."""
        worker, step, at = begun.worker, begun.step, begun.at
        if worker in self._under_way:
            before, since = self._under_way[worker]
            self._took[before] = at - since
        self._under_way[worker] = step, at
        moment = at + self._random.uniform(0, min(2.0, self._took.get(step, 0.5)))
        able = worker in self._able and worker not in self._frozen and worker.ready.is_set()
        if able and step == self._aim and at >= self._next and time.monotonic() <= moment:
            time.sleep(max(0.0, moment - time.monotonic()))
            self._strike(worker)
            self._aim = self._choose()
            self._next = moment + self._plan.stroke_seconds * self._random.uniform(0.5, 1.5)

    def thaw(self, *, all_of_them: bool = False) -> None:
        """Lets those go on whose time has come."""
        for worker, (until, go_on) in list(self._frozen.items()):
            if all_of_them or time.monotonic() >= until:
                del self._frozen[worker]
                go_on()

    def _choose(self) -> str:
        return self._random.choices(list(_AIMS), list(_AIMS.values()))[0]

    def _strike(self, worker: _Worker) -> None:
        del self._under_way[worker]
        # By turns and not by chance: few strokes, too, hold both kinds.
        if self.freezes < self._plan.freeze_share * (self.kills + self.freezes + 1):
            # Just long enough that what it holds is in two hands when it goes on.
            until = time.monotonic() + self._plan.visibility_seconds + self._random.uniform(0, 2)
            self._frozen[worker] = until, worker.freeze()
            self.freezes += 1
        else:
            worker.kill()
            worker.start()
            self.kills += 1


class Soak:
    """One soak, on services that are already there."""

    def __init__(self, settings: Settings, plan: Plan, say: Callable[[str], None] = lambda _: None) -> None:
        """Takes settings that name queue and database, both empty, and a home."""
        self._settings = settings
        self._plan = plan
        self._say = say
        self._services = Services(settings)
        self._queue = self._services.queue()
        self._database = LoginDatabase(self._services.database_url, application_name="soak")
        parts = urlsplit(self._services.queue_url)
        self._producer = Producer(
            boto3.client(
                "sqs",
                endpoint_url=f"{parts.scheme}://{parts.netloc}",
                region_name=DEFAULT_REGION,
                aws_access_key_id="local",
                aws_secret_access_key="local",
                config=Config(retries={"total_max_attempts": 1, "mode": "standard"}),
            ),
            self._services.queue_url,
            Traffic(seed=plan.seed, bad_share=plan.bad_share, shared_share=plan.shared_share),
            rate=plan.rate,
            seconds=plan.seconds,
        )
        self._workers: list[_Worker] = []
        self._samples: list[Sample] = []
        self._crashes: list[int] = []
        self._steps: Queue[_Begun] = Queue()

    def run(self) -> Outcome:
        """Sends, kills, samples, drains, verifies.

        Raises:
            SoakError: workers did not start or did not stop, or the producer failed.
        """
        try:
            self._start_workers()
            self._producer.start()
            self._started = time.monotonic()
            striker = self._let_arrive()
            arrival = time.monotonic() - self._started
            self._say(f"{len(self._producer.accepted):,} messages sent; draining what is left")
            drained_after = self._let_drain()
            self._stop_workers()
        finally:
            self._producer.stop()
            for worker in self._workers:
                worker.kill()
        return Outcome(
            plan=self._plan,
            kinds=self._producer.kinds(),
            seconds=arrival,
            drained_after=drained_after,
            kills=striker.kills,
            freezes=striker.freezes,
            runs=[run for worker in self._workers for run in worker.runs],
            samples=self._samples,
            verdict=verify(self._settings, self._producer.accepted),
            crashes=self._crashes,
        )

    def _start_workers(self) -> None:
        plan = self._plan
        order = Order(
            seed=plan.seed,
            max_messages=plan.max_messages,
            batch_messages=plan.batch_messages,
            visibility_seconds=plan.visibility_seconds,
            reprocess_share=plan.reprocess_share,
            hasty_share=plan.hasty_share,
        )
        for number in range(plan.workers):
            of_worker = msgspec.structs.replace(order, seed=plan.seed + number)
            self._workers.append(_Worker(self._settings, of_worker, self._steps))
        deadline = time.monotonic() + _READY_SECONDS
        for worker in self._workers:
            if not worker.ready.wait(max(0.0, deadline - time.monotonic())):
                raise SoakError("the workers did not get ready in time")

    def _let_arrive(self) -> _Striker:
        striker = _Striker(self._plan, self._workers[1:])
        next_word = 0.0
        latest = self._started + self._plan.seconds + self._plan.drain_seconds
        while self._producer.is_alive() or (
            striker.kills + striker.freezes < self._plan.least_strokes and time.monotonic() < latest
        ):
            with suppress(Empty):
                striker.see(self._steps.get(timeout=_TICK_SECONDS))
            striker.thaw()
            self._tick()
            last = self._samples[-1]
            if last.seconds >= next_word:
                self._say(
                    f"{last.seconds:5.0f} s: {last.sent:,} sent, lag {last.lag:,},"
                    f" {striker.kills} kills, {striker.freezes} freezes"
                )
                next_word += 30
        striker.thaw(all_of_them=True)
        if self._producer.failure:
            raise SoakError(f"the producer failed: {self._producer.failure}")
        return striker

    def _let_drain(self) -> float | None:
        started = time.monotonic()
        while (waited := time.monotonic() - started) < self._plan.drain_seconds:
            if self._tick() and self._samples[-1].is_dry:
                return waited
            time.sleep(_TICK_SECONDS)
        return None

    def _stop_workers(self) -> None:
        for worker in self._workers:
            worker.ask_to_stop()
        for worker in self._workers:
            try:
                if code := worker.process.wait(_STOP_SECONDS):
                    self._crashes.append(code)
            except subprocess.TimeoutExpired:
                raise SoakError("a worker did not end its run in time") from None

    def _tick(self) -> bool:
        """Looks after the workers, and takes a sample where a second has passed; says whether it did."""
        for worker in self._workers:
            if (code := worker.process.poll()) is not None:
                self._crashes.append(code)
                worker.kill()
                worker.start()
        now = time.monotonic() - self._started
        if self._samples and now < self._samples[-1].seconds + 1:
            return False
        self._samples.append(self._sample(now))
        return True

    def _sample(self, now: float) -> Sample:
        sent = len(self._producer.accepted)
        depth = self._queue.depth()
        with self._database.transaction() as connection:
            row = connection.execute(_STATE).one()
        sizes = [worker.megabytes for worker in self._workers]
        return Sample(
            seconds=round(now, 2),
            visible=depth.queued,
            in_flight=depth.in_flight,
            sent=sent,
            settled=min(sent, int(row.settled)),  # what was sent after the count may be settled already
            pending=int(row.pending),
            pending_batches=int(row.pending_batches),
            pending_seconds=round(float(row.pending_seconds), 1),
            connections=int(row.connections),
            deadlocks=int(row.deadlocks),
            survivor_mb=sizes[0],
            largest_mb=max(sizes),
            workers=sum(size > 0 for size in sizes),
        )


_STATE = text(
    "SELECT coalesce(sum(loaded + rejected), 0) AS settled,"
    " coalesce(sum(messages - loaded - duplicates - rejected - erased) FILTER (WHERE state <> 'loaded'), 0) AS pending,"
    " count(*) FILTER (WHERE state <> 'loaded') AS pending_batches,"
    " coalesce(extract(epoch FROM now() - min(oldest_sent_at) FILTER (WHERE state <> 'loaded'"
    "   AND messages > loaded + duplicates + rejected + erased + lost)), 0) AS pending_seconds,"
    " (SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()) AS connections,"
    " (SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()) AS deadlocks"
    " FROM loginetl.batches"
)


@contextmanager
def own_stack() -> Iterator[Settings]:
    """Settings on an embedded stack in a temporary home, stopped and removed at the end."""
    with tempfile.TemporaryDirectory(prefix="loginetl-soak-") as home:
        stack = EmbeddedStack(Path(home) / "stack")
        try:
            addresses = stack.start()
            LoginDatabase(addresses.database_url).migrate()
            yield Settings(
                environment=Environment.LOCAL,
                home=Path(home) / "work",
                queue_url=addresses.queue_url,
                database_url=addresses.database_url,
            )
        finally:
            stack.stop()


def main() -> int:
    """Soaks and reports; exit code 1 if something is not as it must be."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=20, help="how long messages arrive (default 20)")
    parser.add_argument("--rate", type=float, default=100, help="messages a second (default 100)")
    parser.add_argument("--workers", type=int, default=8, help="runs side by side (default 8)")
    parser.add_argument("--stroke-seconds", type=float, default=5, help="from one stroke to the next (default 5)")
    parser.add_argument("--seed", type=int, default=1, help="of everything chosen at random (default 1)")
    parser.add_argument("--report", type=Path, metavar="DIR", help="where soak.md and soak.json go")
    arguments = parser.parse_args()
    console = Console(highlight=False)
    # Ended from outside, it still ends what it started.
    signal.signal(signal.SIGTERM, _leave)
    for name in [name for name in os.environ if name.startswith(("AWS_", "LOGINETL_", "DAGSTER_", "PG"))]:
        del os.environ[name]
    os.environ |= {"AWS_EC2_METADATA_DISABLED": "true", "DAGSTER_DISABLE_TELEMETRY": "yes"}
    plan = Plan(
        seconds=arguments.minutes * 60,
        rate=arguments.rate,
        workers=arguments.workers,
        stroke_seconds=arguments.stroke_seconds,
        seed=arguments.seed,
    )
    try:
        with own_stack() as settings:
            outcome = Soak(settings, plan, console.print).run()
    except KeyboardInterrupt:
        console.print("interrupted; every process is ended")
        return 130
    except SoakError as failure:
        console.print(f"error: {failure}", style="red", markup=False)
        return 1
    console.print(soak_report.as_markdown(outcome), markup=False, soft_wrap=True)
    if arguments.report:
        soak_report.write(outcome, arguments.report)
    return 1 if outcome.problems else 0


def _leave(_signal: int, _frame: FrameType | None) -> None:
    sys.exit(143)


if __name__ == "__main__":
    sys.exit(main())
