"""Python processes that begin with their imports done: each is forked from a server that has nothing but the imports.

Imports are most of what a short command costs: one second of CPU, with Dagster three. The forked process is a process
as any other, with an id, environment, directory and streams of its own, and it can be killed. That the installed
program starts by itself is shown by the tests that do not come here (`Checkout`, `LOGINETL`).
"""

import atexit
import gc
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from shutil import rmtree
from typing import IO

# Not the command line itself: its consoles read the environment when they are imported.
IMPORTED = ("loginetl_assets.build", "loginetl_assets.local.stack", "loginetl_assets.report.page", "typer.main",
            "rich.console", "alembic.command", "dagster_postgres")  # fmt: skip
_MAX_ORDER = 1 << 20  # bytes


@dataclass(frozen=True)
class WarmProcess:
    """A process under way."""

    pid: int
    server: socket.socket

    def wait(self, timeout: float | None = None) -> int:
        """Returns the exit code, negative for a signal; kills it after so many seconds, and raises TimeoutError."""
        self.server.settimeout(timeout)
        with self.server:
            try:
                return int(self.server.recv(32))
            except TimeoutError:
                os.kill(self.pid, signal.SIGKILL)
                raise


def start(
    function: str,
    arguments: Sequence[str],
    *,
    cwd: Path,
    environment: Mapping[str, str],
    streams: tuple[IO[bytes], IO[bytes], IO[bytes]],
) -> WarmProcess:
    """Starts a process that calls a function.

    Args:
        function: "module:name"; what it returns is the exit code, None is 0.
        arguments: `sys.argv`, the program first.
        cwd: the directory.
        environment: all of it.
        streams: standard input, output and error.
    """
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    connection.connect(_server())
    order = json.dumps([function, list(arguments), str(cwd), dict(environment)]).encode()
    socket.send_fds(connection, [order], [stream.fileno() for stream in streams])
    return WarmProcess(int(connection.recv(32)), connection)


@cache
def _server() -> str:
    """Returns the path of the server's socket; it ends with this process."""
    directory = Path(tempfile.mkdtemp(prefix="loginetl-warm-"))
    address = str(directory / "socket")
    server = subprocess.Popen(
        # Not -m: from a main module in a package click would take the program's name.
        [sys.executable, "-c", f"import sys; from {__name__} import serve; sys.exit(serve({address!r}))"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd="/",
    )
    assert server.stdin is not None
    assert server.stdout is not None
    atexit.register(rmtree, directory)
    atexit.register(server.wait)
    atexit.register(server.stdin.close)
    assert server.stdout.readline() == b"ready\n"
    return address


def serve(address: str) -> int | None:
    """Forks a process for each connection, until standard input ends; returns in each of them with its exit code."""
    for name in IMPORTED:
        import_module(name)
    gc.freeze()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the keepers
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(address)
        listener.listen(64)
        os.write(1, b"ready\n")
        while sys.stdin not in select.select([listener, sys.stdin], [], [])[0]:
            connection, _ = listener.accept()
            with connection:
                if not os.fork():
                    listener.close()
                    return _keep(connection)
    return 0


def _keep(connection: socket.socket) -> int | None:
    """Forks the process of one order, tells its id and how it ended; returns in that process alone."""
    content, streams, _, _ = socket.recv_fds(connection, _MAX_ORDER, 3)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    if not (pid := os.fork()):
        connection.close()
        function, arguments, cwd, environment = json.loads(content)
        return _carry_out(function, arguments, cwd, environment, streams)
    for stream in streams:
        os.close(stream)
    connection.send(b"%d" % pid)
    _, status = os.waitpid(pid, 0)
    connection.send(b"%d" % os.waitstatus_to_exitcode(status))
    os._exit(0)


def _carry_out(
    function: str, arguments: list[str], cwd: str, environment: dict[str, str], streams: list[int]
) -> int | None:
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    time.tzset()
    tempfile.tempdir = None  # looked up in the environment again
    sys.argv = arguments
    module, name = function.split(":")
    code: int | None = getattr(import_module(module), name)()
    return code
