"""The queue and the databases of a benchmark: one SQS emulator and one Postgres, everything fresh for each run."""

import json
import os
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from itertools import count
from pathlib import Path
from typing import Any

import psycopg
from sqlalchemy import make_url

from bench.run import BenchmarkError
from loginetl_assets.local.stack import EmbeddedStack

# The AWS settings of every process of a benchmark; no profile, endpoint, proxy or real key of the caller.
ENVIRONMENT = {
    "AWS_CONFIG_FILE": os.devnull,
    "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    "NO_PROXY": "127.0.0.1",
    "no_proxy": "127.0.0.1",
    "AWS_ACCESS_KEY_ID": "local",
    "AWS_SECRET_ACCESS_KEY": "local",
    "AWS_REGION": "us-east-1",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}
# Nothing is redelivered while a contender works; SQS's default of 30 s would be too short for those that delete last.
_VISIBILITY_SECONDS = 900
_HERE = Path(__file__).parent
_PACKAGE = _HERE / "node_modules" / "fauxqs" / "package.json"

# As in the users' databases; loginetl's gets the indexes of its migrations.
_TABLE = (
    "CREATE TABLE user_logins (user_id varchar(128), device_type varchar(32), masked_ip varchar(256),"
    " masked_device_id varchar(256), locale varchar(32), app_version integer, create_date date)"
)


@dataclass(frozen=True)
class QueueState:
    """What the emulator knows of a queue; times are those of the machine's clock, 0 if it never happened."""

    waiting: int
    in_flight: int
    received: int  # a message that comes again is counted again
    first_receive_at: float
    last_delete_at: float


class Queue:
    """A queue of the emulator."""

    def __init__(self, emulator: "Emulator", name: str) -> None:
        self._emulator = emulator
        self._name = name
        self.url = f"{emulator.endpoint}/000000000000/{name}"

    def state(self) -> QueueState:
        """Returns its counts, exact on the emulator."""
        return QueueState(**self._emulator.tell("state", queue=self._name))

    def expire(self) -> None:
        """Makes visible again what is in flight, as the visibility time-out does."""
        self._emulator.tell("expire", queue=self._name)

    def require_empty(self, who: str) -> None:
        """Makes sure that nothing is left.

        Raises:
            BenchmarkError: something waits or is in flight.
        """
        state = self.state()
        if state.waiting or state.in_flight:
            raise BenchmarkError(f"{who} left {state.waiting} messages waiting and {state.in_flight} in flight")


class Emulator:
    """fauxqs, in memory; see emulator.mjs."""

    def __init__(self, server: "subprocess.Popen[str]", home: Path) -> None:
        self._server = server
        self._home = home
        self._names = count(1)
        self.pid = server.pid
        self.endpoint = f"http://127.0.0.1:{self._read()}"

    def tell(self, command: str, **how: Any) -> dict[str, Any]:
        """Carries out a command, and returns the answer."""
        assert self._server.stdin is not None  # noqa: S101 - for the type checker
        self._server.stdin.write(json.dumps({"command": command, **how}) + "\n")
        self._server.stdin.flush()
        return dict(json.loads(self._read()))

    def _read(self) -> str:
        line = self._server.stdout.readline() if self._server.stdout else ""
        if not line:
            raise BenchmarkError("fauxqs ended: its output is above")
        return line.strip()

    @contextmanager
    def queue(self, bodies: Iterable[str], *, deletes_to_lose: int = 0) -> Iterator[Queue]:
        """Yields a queue that holds these bodies; the first deletes that are to be lost succeed and do nothing."""
        name = f"logins_{next(self._names)}"
        file = self._home / "bodies.jsonl"
        with file.open("w") as lines:
            lines.writelines(json.dumps(body) + "\n" for body in bodies)
        self.tell(
            "fill",
            queue=name,
            file=str(file),
            visibility_seconds=_VISIBILITY_SECONDS,
            deletes_to_lose=deletes_to_lose,
        )
        yield Queue(self, name)
        self.tell("remove", queue=name)

    @contextmanager
    def delay(self, milliseconds: int) -> Iterator[None]:
        """Adds latency to each call to the queue."""
        self.tell("delay", milliseconds=milliseconds)
        yield
        self.tell("delay", milliseconds=0)


@dataclass
class Services:
    """What the measurements share."""

    home: Path  # an empty directory, removed at the end
    emulator: Emulator
    _names: Iterator[int] = field(default_factory=lambda: count(1))

    @cached_property
    def _server(self) -> str:
        return EmbeddedStack(self.home / "stack").start().database_url

    @property
    def postgres_version(self) -> str:
        """The server's, such as 18.1."""
        with psycopg.connect(self._url("postgres")) as connection:
            return f"{connection.info.server_version // 10_000}.{connection.info.server_version % 10_000}"

    def directory(self) -> Path:
        """Returns a new directory."""
        path = self.home / f"run-{next(self._names)}"
        path.mkdir(mode=0o700)
        return path

    @contextmanager
    def database(self) -> Iterator[str]:
        """Yields the libpq URL of a database with an empty `user_logins`, which is dropped at the end."""
        name = f"bench_{next(self._names)}"
        execute(self._url("postgres"), f"CREATE DATABASE {name}")
        execute(self._url(name), _TABLE)
        yield self._url(name)
        execute(self._url("postgres"), f"DROP DATABASE {name} WITH (FORCE)")

    def _url(self, database: str) -> str:
        url = make_url(self._server).set(drivername="postgresql", database=database)
        return url.render_as_string(hide_password=False)


@contextmanager
def services(home: Path) -> Iterator[Services]:
    """Yields the services, with the emulator up; Postgres is started when it is first asked for.

    Raises:
        BenchmarkError: Node.js or fauxqs is not installed, or it did not start.
    """
    node = shutil.which("node")
    if node is None or not _PACKAGE.exists():
        raise BenchmarkError("fauxqs is not installed: install Node.js 20.6 or newer with npm, and run `make bench`")
    with subprocess.Popen(
        [node, str(_HERE / "emulator.mjs")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as server:
        yield Services(home, Emulator(server, home))
        server.kill()
    EmbeddedStack(home / "stack").stop()


def versions() -> dict[str, str]:
    """Returns the versions of Node.js and fauxqs."""
    node = subprocess.run(["node", "--version"], capture_output=True, text=True, check=True)
    return {"node": node.stdout.strip(), "fauxqs": str(json.loads(_PACKAGE.read_text())["version"])}


def execute(url: str, statement: str) -> list[tuple[Any, ...]]:
    """Runs a statement in autocommit, and returns its rows."""
    with psycopg.connect(url, autocommit=True) as connection:
        result = connection.execute(statement.encode())
        return result.fetchall() if result.description else []
