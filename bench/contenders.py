"""What drains the same queue as loginetl: scripts, and the ready-made tools, each in an environment of its own."""

import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import make_url

from bench import messages, pipeline
from bench.run import BenchmarkError, Run, Say, run_together
from bench.services import Queue, execute
from loginetl_assets.settings import Settings

_HERE = Path(__file__).parent / "peers"
_ENVIRONMENTS = _HERE / ".venv"

LOGINETL = "loginetl"
BARE = "bare boto3 loop"
OMNILOAD = "omniload"
ROW_SCRIPT = "row script"


@dataclass(frozen=True)
class Place:
    """What a contender works on."""

    queue: Queue
    endpoint: str
    settings: Settings  # of a migrated database, for loginetl
    database_url: str  # libpq's, of a database with an empty `user_logins`, for the others

    @property
    def tcp_url(self) -> str:
        """The same for tools that insist on host and password; libpq prefers the host of the query."""
        url = make_url(self.database_url).set(host="localhost", port=5432, password="unused")  # noqa: S106 - of no server: libpq takes the socket
        return url.render_as_string(hide_password=False)


@dataclass(frozen=True)
class Loaded:
    """Where a contender's rows are."""

    table: str
    ip: str  # the column with the masked address
    other_kinds: bool = False  # whether a message of another kind becomes a row, too


@dataclass(frozen=True)
class Contender:
    """One way to empty the queue."""

    name: str
    what: str  # for the document
    deletes: str  # when a message leaves the queue
    commands: Callable[[Place], Sequence[Sequence[str | Path]]]  # run at once
    loaded: Loaded | None  # None: it stores nothing
    requirements: str | None  # None: the project's own environment
    share: float = 1.0  # of the messages: a slow one, whose rate does not depend on them, gets fewer

    def run(self, place: Place) -> Run:
        """Runs it once."""
        return run_together(self.commands(place), self.environment(place))

    def environment(self, place: Place) -> dict[str, str]:
        """Returns the variables that it needs."""
        return pipeline.environment_of(place.settings) if self.name == LOGINETL else {}

    def require_rows(self, url: str, sent: Sequence[str]) -> None:
        """Makes sure that every login is there, once, masked, and with equal tokens for equal values alone.

        Raises:
            BenchmarkError: something else is there.
        """
        if self.loaded is None:
            return
        logins = messages.logins(sent)
        ip, table = self.loaded.ip, self.loaded.table
        expected = (
            len(sent) if self.loaded.other_kinds else len(logins),
            len(logins),
            len({login["user_id"] for login in logins}),
            len({login["ip"] for login in logins}),
            0,
        )
        plaintext = f"count(*) FILTER (WHERE {ip} ~ '^[0-9]+[.][0-9]+[.][0-9]+[.][0-9]+$')"
        counts = f"count(*), count(user_id), count(DISTINCT user_id), count(DISTINCT {ip}), {plaintext}"
        (found,) = execute(url, f"SELECT {counts} FROM {table}")
        if found != expected:
            raise BenchmarkError(
                f"{self.name}: rows, logins, users, addresses and addresses in plaintext are {found}, not {expected}"
            )


def _script(environment: str, name: str, *arguments: str) -> list[str | Path]:
    return [python_of(environment), _HERE / f"{name}.py", *arguments]


def _omniload(place: Place) -> list[str | Path]:
    source = f"aws+mqb://?region=us-east-1&endpoint_url={place.endpoint}&access_key=local&secret_key=local"
    return [
        python_of("omniload").with_name("omniload"),
        *("ingest", "--source-uri", f"{source}&max_messages=10000000", "--source-table", place.queue.url),
        *("--dest-uri", place.tcp_url, "--dest-table", "public.omniload_logins"),
        *("--mask", "ip:hmac:benchmark", "--mask", "device_id:hmac:benchmark"),
        *("--pipelines-dir", str(place.settings.home / "omniload"), "--progress", "log"),
    ]


CONTENDERS = (
    Contender(
        LOGINETL,
        "`dagster asset materialize` with its defaults: lands encrypted, registers, masks, fills vault and rejects,"
        " loads with the ledger, checks",
        "once landed (fsync) and registered (commit)",
        lambda place: [pipeline.command_of(place.settings)],
        Loaded("user_logins", "masked_ip"),
        None,
    ),
    Contender(
        OMNILOAD,
        "`omniload ingest` from `aws+mqb://` with `--mask ip:hmac --mask device_id:hmac`; merges by message id",
        "after the commit of all",
        lambda place: [_omniload(place)],
        Loaded("omniload_logins", "ip", other_kinds=True),
        "omniload",
    ),
    Contender(
        "dlt",
        "a boto3 resource of eight threads, masked by HMAC; merges by message id",
        "after the commit of all",
        lambda place: [
            _script("dlt", "dlt_pipeline", place.queue.url, place.tcp_url, str(place.settings.home / "dlt"))
        ],
        Loaded("dlt.user_logins", "masked_ip", other_kinds=True),
        "dlt",
    ),
    Contender(
        "tuned script",
        "boto3 and psycopg, eight threads, HMAC, `executemany` of ten rows; no ledger, no index",
        "after the commit of ten",
        lambda place: [_script("scripts", "tuned_script", place.queue.url, place.database_url)],
        Loaded("user_logins", "masked_ip"),
        "scripts",
    ),
    Contender(
        ROW_SCRIPT,
        "boto3 and psycopg, one thread, HMAC, insert, commit and delete one by one; no ledger, no index",
        "after the commit of its row",
        lambda place: [_script("scripts", "row_script", place.queue.url, place.database_url)],
        Loaded("user_logins", "masked_ip"),
        "scripts",
        share=0.2,
    ),
    Contender(
        BARE,
        "boto3 in two processes of four threads, about the maximum on two cores; stores nothing",
        "when received",
        lambda place: [_script("scripts", "bare_loop", place.queue.url, "4")] * 2,
        None,
        "scripts",
    ),
    Contender(
        "mq-bridge",
        "receives and deletes by a client in Rust, in one process; stores nothing",
        "when received",
        lambda place: [_script("mq-bridge", "mq_bridge_loop", place.queue.url, place.endpoint)],
        None,
        "mq-bridge",
    ),
)


def python_of(environment: str) -> Path:
    """Returns the interpreter of a contender's environment."""
    return _ENVIRONMENTS / environment / "bin" / "python"


def install(say: Say) -> None:
    """Makes the environments from the pinned requirements beside the scripts, unless they are there.

    Raises:
        BenchmarkError: pip failed.
    """
    for name in sorted({one.requirements for one in CONTENDERS if one.requirements}):
        requirements, installed = _HERE / f"{name}.txt", _ENVIRONMENTS / name / "requirements.txt"
        if installed.exists() and installed.read_bytes() == requirements.read_bytes():
            continue
        say(f"installing {name}")
        shutil.rmtree(_ENVIRONMENTS / name, ignore_errors=True)
        subprocess.run([sys.executable, "-m", "venv", _ENVIRONMENTS / name], check=True)
        pip: list[str | Path] = [
            python_of(name),
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
            "--no-deps",
        ]
        done = subprocess.run([*pip, "--require-hashes", "-r", requirements], stderr=subprocess.PIPE, text=True)
        if done.returncode:
            raise BenchmarkError(f"{name} cannot be installed:\n{done.stderr[-3_000:]}")
        shutil.copy(requirements, installed)


def versions() -> dict[str, str]:
    """Returns the version of each ready-made tool."""
    found = {}
    for name in ("omniload", "mq-bridge", "dlt"):
        (line,) = (
            one for one in (_HERE / f"{name}.txt").read_text().splitlines() if one.startswith((f"{name}==", f"{name}["))
        )
        found[name] = line.partition("==")[2].split()[0]
    return found
