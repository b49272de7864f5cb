"""Processes that outlive the command that started them, and how the next command knows them again.

A pid alone proves nothing: after a reboot, or enough forks, it belongs to an innocent process. So a process
is recorded together with its birth, and where no record is left it is recognised by a marker that only we put
on a command line.
"""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

# Long, because a server that is merely busy (ministack with many clients) must not be restarted under them.
REPLY_SECONDS = 10.0


@dataclass(frozen=True)
class Account:
    """The system user a server runs as."""

    uid: int
    gid: int


@dataclass(frozen=True)
class Running:
    """A server process and where it is reached.

    Attributes:
        pid: Its process id.
        born: Its birth, as `born` gives it.
        address: The directory of its unix socket, or its port on 127.0.0.1.
    """

    pid: int
    born: str
    address: str

    @property
    def alive(self) -> bool:
        """Whether this very process, not a later owner of its pid, is running."""
        return self.born != "" and born(self.pid) == self.born


def born(pid: int) -> str | None:
    """The birth of process `pid`, which no other owner of this pid ever shared; None when none runs."""
    if sys.platform == "linux":
        # Ticks since boot, with the boot's own id: psutil's create time moves whenever the clock is set.
        try:
            boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
            # The name, in brackets, may itself hold spaces and brackets.
            fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
        except OSError:
            return None
        return None if fields[0] in (b"Z", b"X") else f"{boot}/{int(fields[19])}"
    import psutil

    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else repr(process.create_time())
    except psutil.Error:
        return None


def replies(family: socket.AddressFamily, address: str | tuple[str, int], question: bytes, answer: bytes) -> bool:
    """Whether the server at `address` answers `question` with words that begin with `answer`."""
    # A connection alone proves little: the kernel takes them for a server that hangs or is just being killed.
    with socket.socket(family) as connection:
        connection.settimeout(REPLY_SECONDS)
        try:
            connection.connect(address)
            connection.sendall(question)
            return connection.recv(len(answer), socket.MSG_WAITALL) == answer
        except OSError:
            return False


def with_command_line(matches: Callable[[str], bool]) -> list[Running]:
    """Every running process whose command line, joined by spaces, `matches`; their address is left empty."""
    # Not by working directory or environment: those of another user's process are closed even to root in a
    # container without CAP_SYS_PTRACE, which is Docker's default.
    import psutil

    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if matches(" ".join(process.cmdline())):
                found.append(Running(process.pid, born(process.pid) or "", ""))
    return [process for process in found if process.alive]


def run(
    command: Sequence[str],
    *,
    directory: Path,
    log: Path,
    env: Mapping[str, str],
    account: Account | None,
    stdin: bytes = b"",
    seconds: float = 30.0,
) -> subprocess.CompletedProcess[bytes]:
    """Run `command` as `account` (None: the caller), errors to the end of `log`.

    It gets a session of its own, so that an interrupt from the keyboard reaches the command that waits for it
    and not what it does here.
    """
    with open(log, "ab", opener=_open_log) as errors:
        return subprocess.run(  # noqa: S603 - only our own commands come here
            command,
            input=stdin,
            stdout=subprocess.PIPE,
            stderr=errors,
            cwd=directory,
            env=env,
            timeout=seconds,
            start_new_session=True,
            umask=0o077,
            user=None if account is None else account.uid,
            group=None if account is None else account.gid,
            extra_groups=None if account is None else [],
            check=False,
        )


def _open_log(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW, 0o600)


def launch(
    command: Sequence[str],
    *,
    directory: Path,
    log: Path,
    env: Mapping[str, str],
    account: Account | None,
    address: str,
) -> Running:
    """Start the server `command`, all its output to the end of `log`, and return at once."""
    # The shell makes the server a child of init: a long-lived starter (the Dagster daemon) has no zombie to
    # collect. No descriptor but the log is inherited, so not the lock of the stack either.
    detached = ["/bin/sh", "-c", '"$@" </dev/null >&2 & echo $!', "sh", *command]
    pid = int(run(detached, directory=directory, log=log, env=env, account=account).stdout)
    return Running(pid, born(pid) or "", address)


def wait_for(done: Callable[[], bool], *, seconds: float, during: Running | None = None) -> bool:
    """Wait until `done`; False when `seconds` are over, or as soon as the process `during` has ended."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if done():
            return True
        if during is not None and not during.alive:
            return False
        time.sleep(0.01)
    return False


def end(leaders: Iterable[Running], polite: signal.Signals, *, others: Iterable[Running] = (), seconds: float) -> None:
    """Ask `leaders` to end, wait for them and `others`, and kill what is left after `seconds`."""
    leaders, everyone = list(leaders), [*leaders, *others]
    _send(leaders, polite)
    if not wait_for(lambda: not any(one.alive for one in everyone), seconds=seconds):
        _send(everyone, signal.SIGKILL)
        wait_for(lambda: not any(one.alive for one in everyone), seconds=5)


def _send(processes: Iterable[Running], signum: signal.Signals) -> None:
    for process in processes:
        if process.alive:
            with suppress(ProcessLookupError):
                os.kill(process.pid, signum)
