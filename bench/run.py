"""Runs a command in a fresh process, and measures it: wall time, CPU time, memory."""

import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile

import psutil

ROOT = Path(__file__).resolve().parent.parent
_SECONDS_BETWEEN_SAMPLES = 0.1

Say = Callable[[str], None]  # prints what is measured next


class BenchmarkError(Exception):
    """A benchmark cannot run, or what it measured did something wrong: its figures must not be used."""


@dataclass(frozen=True)
class Run:
    """What one command cost, together with every process that it started and waited for."""

    seconds: float  # from the start of its process to its end
    cpu_seconds: float  # user and system
    peak_mib: float | None  # of all of its processes together, shared pages divided; None: not watched
    code: int
    output: str
    errors: str

    def require_success(self, name: str) -> "Run":
        """Returns itself.

        Raises:
            BenchmarkError: the command failed.
        """
        if self.code:
            raise BenchmarkError(f"{name} failed with exit code {self.code}:\n{self.errors[-3_000:]}")
        return self


def run(command: Sequence[str | Path], environment: Mapping[str, str] = {}, *, watch_memory: bool = False) -> Run:
    """Runs a command from the root of the checkout, with some variables more, and returns what it cost."""
    return run_together([command], environment, watch_memory=watch_memory)


def run_together(
    commands: Sequence[Sequence[str | Path]], environment: Mapping[str, str] = {}, *, watch_memory: bool = False
) -> Run:
    """Runs commands at once, and returns what they cost together."""
    with TemporaryFile("w+") as output, TemporaryFile("w+") as errors:
        started = time.perf_counter()
        processes = [
            subprocess.Popen(command, cwd=ROOT, env={**os.environ, **environment}, stdout=output, stderr=errors)
            for command in commands
        ]
        peaks: list[float] = []
        ended = threading.Event()
        watcher = threading.Thread(target=_watch, args=([one.pid for one in processes], peaks, ended))
        if watch_memory:
            watcher.start()
        code, cpu = 0, 0.0
        for process in processes:
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
            code = code or process.returncode
            cpu += usage.ru_utime + usage.ru_stime
        seconds = time.perf_counter() - started
        ended.set()
        if watch_memory:
            watcher.join()
        output.seek(0)
        errors.seek(0)
        return Run(seconds, cpu, max(peaks, default=None), code, output.read(), errors.read())


@contextmanager
def on_cores(number: int) -> Iterator[None]:
    """Confines everything below the guard, servers included, and what is started meanwhile to so many cores."""
    cores = os.sched_getaffinity(0)
    guard = psutil.Process(os.getppid())

    def confine(allowed: set[int]) -> None:
        for process in guard.children(recursive=True):
            with suppress(psutil.Error, ProcessLookupError):
                for thread in process.threads():
                    os.sched_setaffinity(thread.id, allowed)

    confine(set(sorted(cores)[:number]))
    try:
        yield
    finally:
        confine(cores)


def _watch(pids: Sequence[int], peaks: list[float], ended: threading.Event) -> None:
    while not ended.wait(_SECONDS_BETWEEN_SAMPLES):
        with suppress(psutil.Error):
            below = [psutil.Process(pid) for pid in pids]
            below += [child for process in list(below) for child in process.children(recursive=True)]
            peaks.append(sum(_proportional_mib(one.pid) for one in below))


def _proportional_mib(pid: int) -> float:
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) / 1024
    return 0.0
