"""Server processes that outlive the command that started them, and how the next command recognizes them.

A pid alone proves nothing: after a reboot, or enough forks, it belongs to another process. So a process is recorded
together with its birth, and without a record it is recognized by a mark that only loginetl puts on a command line.
"""

import hashlib
import os
import signal
import socket
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

# Long, because a server that is merely busy (ministack with many clients) must not be restarted under them.
REPLY_SECONDS = 10.0


class Account(NamedTuple):
    """The system user a server runs as."""

    uid: int
    gid: int


@dataclass(frozen=True)
class Running:
    """A server process and where it is reached."""

    pid: int
    born: str  # as `born` returns it
    address: str  # the directory of its unix socket, or its port on 127.0.0.1

    @property
    def alive(self) -> bool:
        """Whether this very process, not a later owner of its pid, is running."""
        return self.born != "" and born(self.pid) == self.born


class Server(ABC):
    """One server below a home directory."""

    name: str
    environment: dict[str, str]  # of its programs; no other variable of the caller's reaches them
    account: Account | None = None  # that it runs as; None: the caller's

    def __init__(self, home: Path) -> None:
        self.home = home
        self.directory = home / self.name  # of its data, and its working directory
        self.log = home / "logs" / f"{self.name}.log"  # of all its output
        self.mark = f"loginetl-{hashlib.sha256(os.fsencode(home)).hexdigest()[:16]}"  # on its command line

    @abstractmethod
    def answers(self, server: Running) -> bool:
        """Returns whether `server` runs and answers."""

    @abstractmethod
    def start(self, recorded: Running | None) -> Running:
        """Starts a new server on the same data; the recorded one has ended."""

    @abstractmethod
    def end(self, recorded: Running | None) -> bool:
        """Ends the server in its orderly way, and whatever a killed one left; returns whether anything ran."""

    def stop(self, recorded: Running | None) -> None:
        """Ends the server, and makes sure that its data are saved."""
        self.end(recorded)

    def ensure(self, recorded: Running | None) -> Running:
        """Returns the running server: the recorded one if it answers, else a new one."""
        if recorded is not None and self.answers(recorded):
            return recorded
        self.end(recorded)
        return self.start(recorded)

    def run(self, command: Sequence[str], stdin: str = "", seconds: float = 30.0) -> subprocess.CompletedProcess[bytes]:
        """Runs a command as the server's user and waits for it; its errors go to the end of the log.

        It gets a session of its own, so that an interrupt from the keyboard reaches the command that waits for it and
        not what it does here.
        """
        with open(self.log, "ab", opener=_open_log) as errors:
            return subprocess.run(  # noqa: S603 - only our own commands come here
                command,
                input=stdin.encode(),
                stdout=subprocess.PIPE,
                stderr=errors,
                cwd=self.directory,
                env=self.environment,
                timeout=seconds,
                start_new_session=True,
                umask=0o077,
                user=self.account and self.account.uid,
                group=self.account and self.account.gid,
                extra_groups=None if self.account is None else [],
                check=False,
            )

    def launch(self, command: Sequence[str], address: str) -> Running:
        """Starts a server, all its output to the end of the log, and returns at once."""
        # The shell makes the server a child of init: a long-lived starter (the Dagster daemon) has no zombie to
        # collect. No descriptor but the log is inherited, so not the lock of the stack either.
        pid = int(self.run(["/bin/sh", "-c", '"$@" </dev/null >&2 & echo $!', "sh", *command]).stdout)
        return Running(pid, born(pid) or "", address)


def _open_log(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW, 0o600)


def born(pid: int) -> str | None:
    """Returns the birth of a process, which no other owner of this pid ever shared; None if none runs."""
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
    """Returns whether the server at an address answers a question with bytes that begin with `answer`."""
    # A connection alone proves little: the kernel accepts them for a server that hangs or is just being killed.
    with socket.socket(family) as connection:
        connection.settimeout(REPLY_SECONDS)
        try:
            connection.connect(address)
            connection.sendall(question)
            return connection.recv(len(answer), socket.MSG_WAITALL) == answer
        except OSError:
            return False


def with_command_line(matches: Callable[[str], bool]) -> list[Running]:
    """Returns every running process whose command line, joined by spaces, matches; their address is left empty."""
    # Not by working directory or environment: those of another user's process are closed even to root in a
    # container without CAP_SYS_PTRACE, which is Docker's default.
    import psutil

    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if matches(" ".join(process.cmdline())):
                found.append(Running(process.pid, born(process.pid) or "", ""))
    return [process for process in found if process.alive]


_DAGSTER = {"dagster", "dagster-daemon", "dagster-webserver", "dagster._daemon", "dagster_webserver", "dg"}


def dagster_processes(dagster_home: Path) -> list[Running]:
    """Returns the Dagster UI, daemon and code servers of a DAGSTER_HOME, what started them, and their runs."""
    # By the environment, unlike the servers: `dg dev` and a daemon of the user's own count too, and run as this user.
    import psutil

    def is_dagster(process: psutil.Process) -> bool:
        python, *arguments = [Path(one).name for one in process.cmdline()[:5]] or [""]
        return python.startswith("python") and not _DAGSTER.isdisjoint(arguments)

    found = set[int]()
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if is_dagster(process) and process.environ().get("DAGSTER_HOME") == str(dagster_home):
                found |= {one.pid for one in (process, *process.parents()) if is_dagster(one)}
                found |= {one.pid for one in process.children(recursive=True)}  # a run's command line says nothing
    return [Running(pid, born(pid) or "", "") for pid in found]


def wait_for(done: Callable[[], bool], *, seconds: float, during: Running | None = None) -> bool:
    """Waits until `done`; False after `seconds`, or as soon as the process `during` has ended."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if done():
            return True
        if during is not None and not during.alive:
            return False
        time.sleep(0.01)
    return False


def end_processes(
    leaders: Sequence[Running], polite: signal.Signals, *, others: Sequence[Running] = (), seconds: float
) -> bool:
    """Asks `leaders` to end, and kills what is left of them and `others` after `seconds`; returns whether any ran."""
    # Not psutil.wait_procs: it would wait for a zombie that nobody collects, as in a container without an init.
    everyone = [one for one in (*leaders, *others) if one.alive]

    def send(processes: Sequence[Running], signum: signal.Signals) -> None:
        for process in processes:
            if process.alive:
                with suppress(ProcessLookupError):
                    os.kill(process.pid, signum)

    def gone() -> bool:
        return not any(one.alive for one in everyone)

    send(leaders, polite)
    if not wait_for(gone, seconds=seconds):
        send(everyone, signal.SIGKILL)
        wait_for(gone, seconds=5)
    return bool(everyone)
