"""The embedded SQS and S3: `ministack`, listening on 127.0.0.1.

It keeps queues in memory and writes them down when it is asked to end (SIGTERM), so a kill -9 takes them back
to their last orderly stop: messages sent since are lost, messages deleted since are delivered again.
"""

import hashlib
import json
import os
import signal
import socket
import sys
from functools import partial
from pathlib import Path

from loginetl_assets.errors import EmbeddedStackError
from loginetl_assets.local.processes import Running, end, launch, replies, wait_for, with_command_line

QUEUE = "login-queue"
# ministack keeps the queues of accounts and regions apart; these are its own when a caller names neither.
ACCOUNT = "000000000000"
REGION = "us-east-1"

# Measured: 0.4 s. A snapshot of many messages is read before the port opens.
START_SECONDS = 30.0
STOP_SECONDS = 60.0
# Somebody may take a port between our look at it and ministack's.
PORT_ATTEMPTS = 3


class Sqs:
    """The ministack server below one home directory."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.directory = home / "sqs"
        self.log = home / "logs" / "sqs.log"
        # Python accepts any -X option: a mark on the command line by which the process is known again.
        self._mark = f"loginetl-{hashlib.sha256(os.fsencode(home)).hexdigest()[:16]}"

    def answers(self, server: Running | None) -> bool:
        """Whether `server` is running and answers."""
        if server is None or not server.alive:
            return False
        request = b"GET /_ministack/health HTTP/1.0\r\n\r\n"
        return replies(socket.AF_INET, ("127.0.0.1", int(server.address)), request, b"HTTP/")

    def ensure(self, recorded: Running | None) -> Running:
        """The running server, with the queue on it: the `recorded` one if it answers, else a new one.

        A new one takes the recorded port where that is still free.

        Raises:
            EmbeddedStackError: It did not start.
        """
        if recorded is not None and self.answers(recorded):
            return recorded
        self._end(recorded)
        port = int(recorded.address) if recorded is not None else 0
        for _ in range(PORT_ATTEMPTS):
            server = self._launch(_free_port(port))
            if wait_for(partial(_listens, server), seconds=START_SECONDS, during=server):
                self._create_queue(int(server.address))
                return server
            if server.alive:
                break
            port = 0
        raise EmbeddedStackError(f"the embedded SQS did not start within {START_SECONDS:.0f} s: see {self.log}")

    def stop(self, recorded: Running | None) -> None:
        """End the server in its orderly way, which writes the queues down; do nothing if none runs.

        Raises:
            EmbeddedStackError: It ended without writing them down (a full disk, or it had to be killed).
        """
        before = self._snapshot()
        if self._end(recorded) and self._snapshot() == before:
            raise EmbeddedStackError(f"the queue's messages could not be saved on stopping: see {self.log}")

    def _end(self, recorded: Running | None) -> bool:
        running = with_command_line(lambda line: line.endswith(f" -X {self._mark} -m ministack"))
        if recorded is not None and recorded.alive:
            running.append(recorded)
        end(running, signal.SIGTERM, seconds=STOP_SECONDS)
        return bool(running)

    def _snapshot(self) -> tuple[int, int] | None:
        try:
            found = (self.directory / "state" / "sqs.json").stat()
        except OSError:
            return None
        return found.st_ino, found.st_mtime_ns

    def _launch(self, port: int) -> Running:
        self.directory.mkdir(mode=0o700, exist_ok=True)
        temporary = self.directory / "tmp"
        temporary.mkdir(mode=0o700, exist_ok=True)
        # Nothing of the caller's but what Python needs: AWS_*, MINISTACK_*, AUTH, USE_SSL and more would
        # change what ministack does.
        kept = ("PATH", "PYTHONPATH", "LD_LIBRARY_PATH")
        env = {name: os.environ[name] for name in kept if name in os.environ} | {
            "BIND_HOST": "127.0.0.1",
            # Not GATEWAY_PORT: that one also goes into the key under which a queue is kept, and its messages
            # would be out of sight after a start on another port.
            "EDGE_PORT": str(port),
            "SERVICES": "sqs,s3",
            "IOT_MTLS_ENABLED": "0",
            "SFTP_ENABLED": "0",
            "LOG_LEVEL": "WARNING",
            "PERSIST_STATE": "1",
            "STATE_DIR": str(self.directory / "state"),
            "S3_PERSIST": "1",
            "S3_DATA_DIR": str(self.directory / "s3"),
            "TMPDIR": str(temporary),
            "PYTHONSAFEPATH": "1",  # no module is looked for in the working directory
            # With a real Docker in reach it removes the containers of any other ministack at start and stop.
            "DOCKER_HOST": f"unix://{self.directory}/no-docker",
        }
        return launch(
            [sys.executable, "-X", self._mark, "-m", "ministack"],
            directory=self.directory,
            log=self.log,
            env=env,
            account=None,
            address=str(port),
        )

    def _create_queue(self, port: int) -> None:
        # One call of the JSON protocol, which needs no signature here, instead of 0.3 s of importing boto3. A
        # queue that exists is left as it is.
        from http.client import HTTPConnection, HTTPException

        connection = HTTPConnection("127.0.0.1", port, timeout=START_SECONDS)
        headers = {"X-Amz-Target": "AmazonSQS.CreateQueue", "Content-Type": "application/x-amz-json-1.0"}
        try:
            connection.request("POST", "/", json.dumps({"QueueName": QUEUE}), headers)
            created = connection.getresponse().status == 200
        except (OSError, HTTPException):
            created = False
        finally:
            connection.close()
        if not created:
            raise EmbeddedStackError(f"the embedded SQS did not create its queue: see {self.log}")


def _listens(server: Running) -> bool:
    """Whether `server` itself, and not another program on its port, is listening."""
    import psutil

    try:
        connections = psutil.Process(server.pid).net_connections(kind="tcp")
    except psutil.Error:
        return False
    return any(one.status == psutil.CONN_LISTEN and one.laddr.port == int(server.address) for one in connections)


def _free_port(wanted: int) -> int:
    """The port `wanted` if nobody listens on it, else another; 0 wants any."""
    for port in (wanted, 0):
        with socket.socket() as probe:
            # Else the last server's connections, which linger for a minute, would make its port look taken.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise EmbeddedStackError("no port is free on 127.0.0.1: stop what holds them")
