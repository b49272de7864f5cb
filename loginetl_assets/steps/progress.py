"""Says how far a step has come, in counts and rates: in the run's log while it works."""

import math
import threading
import time
from collections.abc import Callable

from loginetl_assets.errors import counted

SECONDS_BETWEEN_LINES = 10.0

# What a step calls with the number of messages of each batch that is done.
BatchDone = Callable[[int], object]


def ignore(messages: int) -> None:
    """Takes what nobody wants to hear."""


class Progress:
    """Writes a line after a step's first batch, and then every ten seconds at most; any thread may call it."""

    def __init__(
        self, write: Callable[[str], object], done: str, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Takes what writes a line, and what is done with batches, such as `landed`."""
        self._write, self._done, self._clock = write, done, clock
        self._started_at, self._written_at = clock(), -math.inf
        self._messages = self._batches = 0
        self._lock = threading.Lock()

    def __call__(self, messages: int) -> None:
        """Counts one batch, of so many messages."""
        with self._lock:
            self._messages += messages
            self._batches += 1
            now = self._clock()
            if now - self._written_at < SECONDS_BETWEEN_LINES:
                return
            self._written_at = now
            rate = round(self._messages / max(now - self._started_at, 0.001))
            done = f"{counted(self._messages, 'message')} in {counted(self._batches, 'batch')}"
            self._write(f"{self._done} so far: {done}, {counted(rate, 'message')} a second")
