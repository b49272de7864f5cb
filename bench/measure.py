"""Starts and times the processes of a contender, and reads what they report."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from bench.failure import BenchmarkError

_ROOT = Path(__file__).parent.parent  # where `-m` finds the package bench


@dataclass(frozen=True)
class Span:
    """Work done between two readings of the machine's clock (`time.perf_counter`, the same in every process)."""

    first: float
    last: float
    messages: int
    details: dict[str, Any] = field(default_factory=dict)

    def write(self) -> None:
        """Writes the span to standard output, where `timed` reads it."""
        json.dump(asdict(self), sys.stdout)


@dataclass(frozen=True)
class Timing:
    """One run of a contender, in one process or several in parallel."""

    messages: int
    seconds: float  # from the first receive to the last commit (or delete)
    process_seconds: float  # from the start of its first process to the end of its last
    details: dict[str, Any]


def timed(commands: Sequence[Sequence[str]], environment: Mapping[str, str]) -> Timing:
    """Runs Python modules (name and arguments) in parallel, each in a fresh process, and returns their combined timing.

    Raises:
        BenchmarkError: one of them failed.
    """
    started = time.perf_counter()
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", *command],
            cwd=_ROOT,
            env={**os.environ, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for command in commands
    ]
    try:
        outputs = [process.communicate() for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    ended = time.perf_counter()
    for process, command, (_, errors) in zip(processes, commands, outputs, strict=True):
        if process.returncode:
            raise BenchmarkError(f"{command[0]} failed:\n{errors[-2_000:]}")
    spans = [Span(**json.loads(output)) for output, _ in outputs]
    return Timing(
        messages=sum(span.messages for span in spans),
        seconds=max(span.last for span in spans) - min(span.first for span in spans),
        process_seconds=ended - started,
        details={name: value for span in spans for name, value in span.details.items()},
    )


@dataclass(frozen=True)
class Spread:
    """Median, lowest and highest of repeated readings."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, readings: Sequence[float]) -> "Spread":
        """Returns the spread of the readings."""
        return cls(median(readings), min(readings), max(readings))
