"""Canary values go through every path there is; then every byte that was written is searched for them.

One home for everything: the embedded services (Postgres data directory and WAL), landing, masked files, Dagster's
SQLite event log and compute logs, terminal output, temporary directory. Only the queue emulator's own state is left
out: the queue is where the values come from. The rejected bodies' own words are canaries too.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import mkdtemp

import pytest
from sqlalchemy import create_engine, text

from loginetl_assets.local.stack import EmbeddedStack
from loginetl_assets_tests.support.command import run_warm
from loginetl_assets_tests.support.leaks import find_leaks, holds, spellings
from loginetl_assets_tests.support.pipeline import login

# Some thirty commands one after the other, three of them with retries that wait.
pytestmark = [pytest.mark.timeout(900), pytest.mark.xdist_group("leaks")]

BIN = Path(sys.executable).parent

# Values nobody would write by chance: documentation addresses with odd ports of call, and invented ids.
IPS = [f"203.0.113.{number}" for number in (201, 203, 207, 209)] + ["2001:db8:ca1:a12::77"]
DEVICES = [f"canary-device-{number}-q7x" for number in range(6)]
REJECTED_WORDS = ["canary-in-broken-json-k3v", "canary-in-wrong-type-m9w"]
SECRETS = ["canary-aws-secret-w2p", "canary-webhook-path-h8d"]
CANARIES = [*IPS, *DEVICES, *REJECTED_WORDS, *SECRETS]
MATERIALIZE = ["dagster", "asset", "materialize", "--select", "*", "-m", "loginetl_assets.definitions"]


@dataclass
class Site:
    """One installation, and all it has printed."""

    home: Path
    temporary: Path
    dagster_home: Path
    printed: list[bytes] = field(default_factory=list)

    def run(
        self, *command: str, stdin: str = "", succeeds: bool = True, secret: bool = False, **environment: str
    ) -> str:
        """Runs a command; what it prints is searched later, but for what a person asked to be shown."""
        variables = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.temporary),
            "TMPDIR": str(self.temporary),
            "LOGINETL_HOME": str(self.home),
            "DAGSTER_HOME": str(self.dagster_home),
            "POLARS_VERBOSE": "1",
            # Secrets that the commands have and nothing may repeat.
            "AWS_SECRET_ACCESS_KEY": SECRETS[0],
            "LOGINETL_ALERT_WEBHOOK_URL": f"http://127.0.0.1:9/{SECRETS[1]}",
            **environment,
        }
        cwd = self.temporary  # not the repository: a developer's .env would take the place of these variables
        if command[0] == "loginetl":
            done = run_warm(command[1:], cwd=cwd, environment=variables, stdin=stdin)
        else:
            program = [str(BIN / command[0]), *command[1:]]
            done = subprocess.run(program, cwd=cwd, env=variables, capture_output=True, text=True, check=False)
        # What is rejected on purpose is for a person to look at.
        assert (done.returncode in {0, 3}) is succeeds, done.stderr[-2000:]
        self.printed.append((done.stderr if secret else done.stdout + done.stderr).encode())
        return done.stdout

    def send(self, *bodies: str) -> None:
        """Puts bodies on the queue."""
        file = self.home / "sqs" / "to-send.jsonl"  # beside the emulator's state, which is not searched
        file.write_text("\n".join(bodies))
        self.run("loginetl", "send", str(file))

    def execute(self, statement: str) -> None:
        """Runs a statement as the superuser."""
        addresses = EmbeddedStack(self.home).start()
        engine = create_engine(addresses.database_url, isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.execute(text(statement))
        engine.dispose()


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    """An installation of its own, in a directory of its own."""
    base = Path(mkdtemp(prefix="loginetl-leaks-"))
    base.chmod(0o711)  # as root, PostgreSQL runs as another user
    site = Site(base / "home", base / "tmp", base / "dagster")
    for directory in (site.temporary, site.dagster_home):
        directory.mkdir()
    # Verbose: every DEBUG line of Dagster, and whatever libraries log, goes to the event log and the terminal.
    (site.dagster_home / "dagster.yaml").write_text(
        "telemetry: {enabled: false}\n"
        "python_logs: {managed_python_loggers: [root, botocore, urllib3, sqlalchemy, sqlalchemy.engine, alembic,"
        " psycopg], python_log_level: DEBUG}\n"
    )
    yield site
    EmbeddedStack(site.home).stop()
    shutil.rmtree(base)


def test_no_canary_is_left_anywhere_but_on_the_queue(site: Site) -> None:
    site.run("loginetl", "up")

    # Good messages, bad messages, and a retried run.
    site.send(
        login(user_id="u-1", ip=IPS[0], device_id=DEVICES[0]),
        login(user_id="u-2", ip=IPS[4].upper(), device_id=DEVICES[0]),
        login(user_id="u-3", ip=IPS[1], device_id=DEVICES[1], app_version="not-a-version"),
        login(user_id="u-3", ip=f"{IPS[1]}.9.9", device_id=DEVICES[1]),
        '{"user_id": "u-4", "device_id": "' + REJECTED_WORDS[0] + '"',
        json.dumps({"something": REJECTED_WORDS[1], "ip": IPS[2]}),
        "\\ud800" + json.dumps({"device_id": DEVICES[2]}),
        login(user_id="u-5", ip=IPS[2], device_id="\u0000" + DEVICES[2]),
    )
    site.run(*MATERIALIZE)
    site.run("loginetl", "run")

    # The database refuses a row, and then its rejection, and says why with values in its DETAIL.
    site.execute("ALTER TABLE user_logins ADD CONSTRAINT refuses CHECK (user_id <> 'u-6')")
    site.execute("ALTER TABLE loginetl.rejected_logins ADD CONSTRAINT refuses CHECK (reason <> 'refused_by_table')")
    site.send(login(user_id="u-6", ip=IPS[3], device_id=DEVICES[3]))
    site.run(*MATERIALIZE, succeeds=False)
    site.run("loginetl", "run", succeeds=False)
    site.execute("ALTER TABLE loginetl.rejected_logins DROP CONSTRAINT refuses")
    site.run(*MATERIALIZE)
    site.execute("ALTER TABLE user_logins DROP CONSTRAINT refuses")
    site.run("loginetl", "run")

    # A crash in the middle of a batch: Postgres goes away while it is masked.
    site.send(login(user_id="u-7", ip=IPS[3], device_id=DEVICES[4]))
    site.execute(
        "CREATE FUNCTION crash() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN PERFORM pg_terminate_backend(pg_backend_pid()); RETURN NEW; END $$"
    )
    site.execute("CREATE TRIGGER crash BEFORE INSERT ON loginetl.pii_vault FOR EACH ROW EXECUTE FUNCTION crash()")
    site.run("loginetl", "run", succeeds=False)
    site.execute("DROP TRIGGER crash ON loginetl.pii_vault")
    site.run("loginetl", "run")

    # A failing blocking check.
    site.send(login(user_id="u-8", ip=IPS[0], device_id=DEVICES[5]))
    site.run("loginetl", "run", LOGINETL_MAX_REJECTION_RATE="0")

    # Recovery, look-up, rotation, erasure; errors of theirs too.
    token = site.run("loginetl", "token", "--field", "ip", "--reason", "test", stdin=IPS[0], secret=True).strip()
    assert site.run("loginetl", "recover", token, "--reason", "leak test", "--format", "csv", secret=True).count(IPS[0])
    site.run("loginetl", "recover", token, succeeds=False)
    site.run("loginetl", "token", "--field", "ip", "--reason", "x", stdin=f"{IPS[0]}.{IPS[0]}", succeeds=False)
    site.run("loginetl", "token", "--field", "ip", "--reason", "x", IPS[0], succeeds=False)
    site.run("loginetl", "recover", IPS[0], "--reason", "x", succeeds=False)
    site.run("loginetl", "keys", "rotate", "masking")
    site.run("loginetl", "keys", "retokenize", "--reason", "leak test")
    site.run("loginetl", "keys", "rotate", "officer")
    site.run("loginetl", "keys", "reencrypt", "--reason", "leak test")
    site.run("loginetl", "erase", "--user-id", "--reason", "leak test", "--yes", stdin="u-1")
    site.run("loginetl", "rejected", "list")
    site.run("loginetl", "rejected", "show")
    site.run("loginetl", "rejected", "show", "--json")
    site.run("loginetl", "rejected", "replay", "--all")
    site.run("loginetl", "rejected", "drop", "--reason", "not_json", "--yes")
    site.run("loginetl", "reprocess")
    site.run("loginetl", "export", str(site.home / "export.csv"))
    site.run("loginetl", "status")
    site.run("loginetl", "run")

    # Metadata as the Dagster UI gets it: everything of every run.
    metadata = site.run(
        "python",
        "-c",
        "import dagster as dg\n"
        "with dg.DagsterInstance.get() as instance:\n"
        "    for record in instance.get_run_records():\n"
        "        print(record.dagster_run, [e for e in instance.all_logs(record.dagster_run.run_id)])",
    )
    assert "DagsterRunStatus.SUCCESS" in metadata
    assert "DagsterRunStatus.FAILURE" in metadata

    site.run("loginetl", "down")  # all is on disk now
    printed = b"".join(site.printed)
    assert len(printed) > 10_000
    assert holds(printed, CANARIES) == []
    roots = [site.home, site.dagster_home, site.temporary]
    assert find_leaks(CANARIES, roots, leave_out=[site.home / "sqs"]) == []


def test_the_search_finds_a_canary_in_every_spelling(tmp_path: Path) -> None:
    for number, spelling in enumerate(spellings(CANARIES[0])):
        (tmp_path / f"planted-{number}").write_bytes(b"some text " + spelling + b" and more")
    planted = sorted(str(path) for path in tmp_path.iterdir())
    assert len(planted) >= 8
    assert sorted(find_leaks(CANARIES, [tmp_path])) == planted
