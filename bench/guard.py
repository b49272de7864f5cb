"""Nothing that a benchmark starts outlives it, however it ends.

A guarded benchmark is three processes: the one that was started, a guard, and the one that measures. Linux makes the
first two the parents of every orphan below them, so that they find a server that has detached itself, too. Each ends
all that is below it once its child has ended, and the guard also once its parent is gone. So whichever of the three is
killed, by SIGKILL too, one is left that ends the rest.
"""

import ctypes
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from shutil import rmtree
from tempfile import mkdtemp
from types import FrameType

import psutil

_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36  # linux/prctl.h
_SECONDS_TO_END = 5.0  # then by SIGKILL
_ENDINGS = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM)


class _EndedError(Exception):
    """A signal asks this process to end."""


def guarded(work: Callable[[Path], int]) -> int:
    """Runs `work` on an empty directory in a process of its own, and returns its exit code.

    Afterwards every process that it started has ended, and the directory is removed.
    """
    if sys.platform != "linux":
        raise SystemExit("the benchmark needs Linux: it is what ends all that was started, and counts its CPU time")
    home = Path(mkdtemp(prefix="bench-"))
    return _supervised(lambda: _supervised(lambda: work(home), home), home)


def _supervised(work: Callable[[], int], home: Path) -> int:
    """Runs `work` in a child, and ends what is left of it; the child is sent SIGTERM if this process is killed."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    parent = os.getpid()
    child = os.fork()
    if child == 0:
        os.setsid()  # so that no signal to a process group reaches two of us
        _prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        os._exit(_exit_code(work) if os.getppid() == parent else 1)
    try:
        for one in _ENDINGS:
            signal.signal(one, _end)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    except _EndedError:
        code = 130
    for one in _ENDINGS:
        signal.signal(one, signal.SIG_IGN)
    _end_all_below()
    rmtree(home, ignore_errors=True)
    return code if code >= 0 else 128 - code


def _exit_code(work: Callable[[], int]) -> int:
    try:
        return work()
    except BaseException:  # noqa: BLE001 - nothing may return into the parent's code
        traceback.print_exc()
        return 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()


def _end(_signal: int, _frame: FrameType | None) -> None:
    raise _EndedError


def _end_all_below() -> None:
    told, deadline = set[int](), time.monotonic() + _SECONDS_TO_END
    while below := psutil.Process().children(recursive=True):
        for process in below:
            with suppress(psutil.NoSuchProcess):
                if time.monotonic() > deadline:
                    process.kill()
                elif process.pid not in told:
                    told.add(process.pid)
                    process.terminate()
        with suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        time.sleep(0.02)


def _prctl(option: int, value: int) -> None:
    if ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl")
