"""Waiting for what other threads and processes do."""

import time
from collections.abc import Callable
from typing import TypeVar

_Answer = TypeVar("_Answer")

LOCK_SECONDS = 20  # below the 30 s for which the pipeline's own statements wait for a lock


def eventually(what: str, look: Callable[[], _Answer | None], *, seconds: float, every: float = 0.05) -> _Answer:
    """Returns the first answer of `look` that is true; fails, naming `what`, where no answer is in time.

    Args:
        what: What is waited for, as a sentence.
        look: Asks for it.
        seconds: How long to wait.
        every: Seconds from one question to the next.
    """
    deadline = time.monotonic() + seconds
    while not (answer := look()):
        assert time.monotonic() < deadline, f"{what}: not within {seconds} s"
        time.sleep(every)
    return answer
