"""The embedded SQS and S3: `ministack`, listening on 127.0.0.1; its queues are written to disk when it ends."""

import json
import os
import signal
import socket
import sys
from contextlib import closing, suppress
from functools import partial
from http.client import HTTPConnection, HTTPException
from pathlib import Path

from loginetl_assets.errors import EmbeddedStackError
from loginetl_assets.local.processes import Running, Server, end_processes, replies, wait_for, with_command_line

QUEUE = "login-queue"
# ministack keeps the queues of accounts and regions apart; these are its own when a caller names neither.
ACCOUNT = "000000000000"
REGION = "us-east-1"

# Measured: 0.4 s. A snapshot of many messages is read before the port opens.
START_SECONDS = 30.0
STOP_SECONDS = 60.0
# Another program may take a port between the check and ministack's start.
PORT_ATTEMPTS = 3


class Sqs(Server):
    """The ministack server below one home directory."""

    name = "sqs"

    def __init__(self, home: Path) -> None:
        super().__init__(home)
        # Nothing of the caller's but what Python needs: AWS_*, MINISTACK_*, AUTH, USE_SSL and more would change what
        # ministack does.
        kept = ("PATH", "PYTHONPATH", "LD_LIBRARY_PATH")
        self.environment = {name: os.environ[name] for name in kept if name in os.environ} | {
            "BIND_HOST": "127.0.0.1",
            "SERVICES": "sqs,s3",
            "IOT_MTLS_ENABLED": "0",
            "SFTP_ENABLED": "0",
            "LOG_LEVEL": "WARNING",
            "PERSIST_STATE": "1",
            "STATE_DIR": str(self.directory / "state"),
            "S3_PERSIST": "1",
            "S3_DATA_DIR": str(self.directory / "s3"),
            "TMPDIR": str(self.directory / "tmp"),
            "PYTHONSAFEPATH": "1",  # no module is looked for in the working directory
            # Where a real Docker is running it removes the containers of any other ministack at start and stop.
            "DOCKER_HOST": f"unix://{self.directory}/no-docker",
        }

    def answers(self, server: Running) -> bool:
        """Returns whether `server` runs and answers."""
        request = b"GET /_ministack/health HTTP/1.0\r\n\r\n"
        return server.alive and replies(socket.AF_INET, ("127.0.0.1", int(server.address)), request, b"HTTP/")

    def start(self, recorded: Running | None) -> Running:
        """Starts a server with the queue on it, on the recorded port where that is still free."""
        for directory in (self.directory, self.directory / "tmp"):
            directory.mkdir(mode=0o700, exist_ok=True)
        wanted = int(recorded.address) if recorded is not None else 0
        for _ in range(PORT_ATTEMPTS):
            port = _free_port(wanted)
            # Not GATEWAY_PORT: that one also goes into the key under which a queue is kept, and its messages would be
            # lost from view after a start on another port.
            self.environment["EDGE_PORT"] = str(port)
            # Python accepts any -X option, and takes no notice of the mark.
            server = self.launch([sys.executable, "-X", self.mark, "-m", "ministack"], str(port))
            if wait_for(partial(_listens, server), seconds=START_SECONDS, during=server):
                self._create_queue(port)
                return server
            if server.alive:
                break
            wanted = 0
        raise EmbeddedStackError(f"the embedded SQS did not start within {START_SECONDS:.0f} s: see {self.log}")

    def stop(self, recorded: Running | None) -> None:
        """Ends the server, and makes sure that it saved the queues: a full disk, or a kill, prevents it."""
        before = self._snapshot()
        if self.end(recorded) and self._snapshot() == before:
            raise EmbeddedStackError(f"the queue's messages could not be saved on stopping: see {self.log}")

    def end(self, recorded: Running | None) -> bool:
        """Ends the server in its orderly way; returns whether one ran."""
        running = with_command_line(lambda line: line.endswith(f" -X {self.mark} -m ministack"))
        return end_processes([*running, *([recorded] if recorded else [])], signal.SIGTERM, seconds=STOP_SECONDS)

    def _snapshot(self) -> tuple[int, int] | None:
        try:
            found = (self.directory / "state" / "sqs.json").stat()
        except OSError:
            return None
        return found.st_ino, found.st_mtime_ns

    def _create_queue(self, port: int) -> None:
        # One call of the JSON protocol, which needs no signature here, instead of 0.3 s of importing boto3. A queue
        # that exists is left as it is.
        headers = {"X-Amz-Target": "AmazonSQS.CreateQueue", "Content-Type": "application/x-amz-json-1.0"}
        connection = HTTPConnection("127.0.0.1", port, timeout=START_SECONDS)
        with closing(connection), suppress(OSError, HTTPException):
            connection.request("POST", "/", json.dumps({"QueueName": QUEUE}), headers)
            if connection.getresponse().status == 200:
                return
        raise EmbeddedStackError(f"the embedded SQS did not create its queue: see {self.log}")


def _listens(server: Running) -> bool:
    """Returns whether `server` itself, and not another program on its port, is listening."""
    import psutil

    try:
        connections = psutil.Process(server.pid).net_connections(kind="tcp")
    except psutil.Error:
        return False
    return any(one.status == psutil.CONN_LISTEN and one.laddr.port == int(server.address) for one in connections)


def _free_port(wanted: int) -> int:
    """Returns the port `wanted` if nobody listens on it, else another; 0 wants any."""
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
