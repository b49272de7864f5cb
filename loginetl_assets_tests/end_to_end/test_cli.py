"""The `loginetl` command as its users meet it: the installed program, its output, its exit codes.

SCREENSHOTS=docs/images makes the picture of the demo on the way.
"""

import csv
import io
import json
import os
import pty
import re
import shlex
import stat
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from importlib import metadata
from pathlib import Path
from typing import Any
from uuid import uuid4

import polars as pl
import psutil
import psycopg
import pytest
import tink
import typer
from rich.text import Text
from sqlalchemy import make_url
from tink import secret_key_access

from loginetl_assets.cli.main import app
from loginetl_assets.embedded import Addresses
from loginetl_assets.home import ENTRIES
from loginetl_assets.local.stack import EmbeddedStack
from loginetl_assets.logins.masking import MASKED_SCHEMA
from loginetl_assets_tests.support.command import LOGINETL, run_loginetl
from loginetl_assets_tests.support.pipeline import COLUMNS, SAMPLE, login, sqs_client
from loginetl_assets_tests.support.terminal_picture import save_picture

# What programs may rely on, in this order; more may stand between.
STATUS = [
    "environment",
    "running",
    "home",
    "queue_url",
    "sqs_endpoint",
    "database_url",
    "table",
    "landing_url",
    "dagster_home",
    "queued",
    "in_flight",
    "messages",
    "pending_batches",
    "pending",
    "quarantined_batches",
    "loaded",
    "rejected",
    "duplicates",
    "last_loaded_at",
    "oldest_pending_seconds",
    "rejection_rate",
    "quarantined",
    "sizes",
    "conditions",
]

PRODUCTION = {
    "LOGINETL_ENV": "production",
    "LOGINETL_QUEUE_URL": "https://sqs.eu-west-1.amazonaws.com/1/q",
    "LOGINETL_DATABASE_URL": "postgresql://u@127.0.0.1:1/x",
    "LOGINETL_LANDING_URL": "s3://bucket/logins",
    **{f"LOGINETL_KEYSET_{role}": "/none.json" for role in ("MASKING", "LANDING", "REJECTS", "VAULT")},
}

KEYS = ["landing.json", "masking.json", "officer-private.json", "rejects.json", "vault.json"]


@dataclass(frozen=True)
class Cli:
    """The program with one LOGINETL_HOME, called from a directory that has nothing to do with the project."""

    home: Path
    environment: Mapping[str, str] = field(default_factory=dict)

    def __call__(
        self, *arguments: str, stdin: str | None = None, exit_code: int | None = 0
    ) -> subprocess.CompletedProcess[str]:
        return run_loginetl(
            *arguments, cwd=self.home.parent, environment=self.own_environment, stdin=stdin, exit_code=exit_code
        )

    @property
    def full_environment(self) -> dict[str, str]:
        return {**os.environ, **self.own_environment}

    @property
    def own_environment(self) -> dict[str, str]:
        return {"LOGINETL_HOME": str(self.home), **self.environment}

    @property
    def addresses(self) -> Addresses:
        """Where the stack is, found past the program."""
        found = EmbeddedStack(self.home).find()
        assert found is not None
        return found

    def status(self) -> dict[str, Any]:
        done = self("status", "--json", exit_code=None)
        report = json.loads(done.stdout)
        assert isinstance(report, dict)
        assert done.returncode == (3 if report["conditions"] else 0)
        return report

    def with_queue(self, url: str) -> "Cli":
        return Cli(self.home, {**self.environment, "LOGINETL_QUEUE_URL": url})

    def table(self) -> list[tuple[Any, ...]]:
        """The rows of `user_logins`, read past the program."""
        url = make_url(self.addresses.database_url).set(drivername="postgresql")
        with psycopg.connect(url.render_as_string(hide_password=False)) as connection:
            return sorted(connection.execute("SELECT * FROM user_logins").fetchall(), key=str)


@dataclass(frozen=True)
class Loaded:
    """A stack into which the sample was sent and run once, and what the program said to it."""

    cli: Cli
    before: Mapping[str, Any]
    sent: subprocess.CompletedProcess[str]
    queued: Mapping[str, Any]
    ran: subprocess.CompletedProcess[str]
    after: Mapping[str, Any]


@pytest.fixture(scope="module")
def cli(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cli]:
    """A stack that is up, for the tests of this file to share; none leaves a message on its queue."""
    cli = Cli(tmp_path_factory.mktemp("cli") / "home")
    cli("up")
    yield cli
    cli("down")


@pytest.fixture(scope="module")
def loaded(cli: Cli) -> Loaded:
    before = cli.status()
    sent = cli("send", "--sample")
    queued = cli.status()
    ran = cli("run")
    return Loaded(cli, before, sent, queued, ran, cli.status())


@pytest.fixture
def elsewhere(tmp_path: Path) -> Iterator[Cli]:
    """A home of this test alone, in which nothing was started yet."""
    cli = Cli(tmp_path / "home")
    yield cli
    cli("down")


@pytest.fixture
def other_queue(cli: Cli) -> str:
    """The URL of an empty queue beside the configured one."""
    endpoint, name = cli.addresses.sqs_endpoint, f"other-{uuid4().hex[:8]}"
    sqs_client(endpoint).create_queue(QueueName=name)
    return f"{endpoint}/000000000000/{name}"


def commands() -> list[str]:
    """Every command and group, as it is typed; the program itself is the empty one."""

    def below(command: Any, path: str) -> Iterator[str]:
        yield path
        for name, child in sorted(getattr(command, "commands", {}).items()):
            yield from below(child, f"{path} {name}".strip())

    return list(below(typer.main.get_command(app), ""))


def difference(before: Mapping[str, Any], after: Mapping[str, Any], *names: str) -> tuple[int, ...]:
    return tuple(after[name] - before[name] for name in names)


def cell(output: str, row: str) -> str:
    """The value beside a name, or in the line below it where it is long."""
    lines = output.splitlines()
    for line, following in zip(lines, [*lines[1:], ""], strict=True):
        name, *values = re.split(" {2,}", line.strip())
        if name == row:
            return values[0] if values else following.strip()
    raise AssertionError(f"no row {row!r} in:\n{output}")


def rows_of_csv(text: str) -> list[tuple[str, ...]]:
    header, *rows = csv.reader(io.StringIO(text))
    assert header == COLUMNS
    return sorted(map(tuple, rows), key=str)


def as_csv(rows: list[tuple[Any, ...]]) -> list[tuple[str, ...]]:
    return sorted((tuple("" if value is None else str(value) for value in row) for row in rows), key=str)


def servers_below(home: Path) -> dict[str, int]:
    """How many servers keep their data below `home`, whether recorded or not."""
    found = {"postgres": 0, "sqs": 0}
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            command = process.cmdline()
            if str(home / "postgres" / "data") in command:
                found["postgres"] += 1
            elif command[-1:] == ["ministack"] and process.environ().get("STATE_DIR") == f"{home}/sqs/state":
                found["sqs"] += 1
    return found


def key_id(file: Path) -> int:
    """The primary key of a keyset, of which the public half has the private one's id."""
    text = file.read_text()
    if file.name == "vault.json":
        handle = tink.json_proto_keyset_format.parse_without_secret(text)
    else:
        handle = tink.json_proto_keyset_format.parse(text, secret_key_access.TOKEN)
    found: int = handle.keyset_info().primary_key_id
    return found


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


# Usage


@pytest.mark.parametrize("command", commands())
def test_every_command_explains_itself(command: str, tmp_path: Path) -> None:
    done = Cli(tmp_path / "home")(*command.split(), "--help")

    assert f"Usage: loginetl {command}".strip() in done.stdout
    assert not done.stderr
    assert not (tmp_path / "home").exists()


def test_help_imports_nothing_that_takes_its_time(tmp_path: Path) -> None:
    # -X importtime lists every module that is imported, on stderr; the last column is its name.
    done = subprocess.run(
        [sys.executable, "-X", "importtime", LOGINETL, "--help"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=True,
    )
    imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in done.stderr.splitlines()}

    assert "typer" in imported
    assert imported.isdisjoint({"dagster", "polars", "sqlalchemy", "alembic", "psycopg", "boto3", "botocore", "tink"})


@pytest.mark.parametrize(
    "arguments",
    [
        "--wrong",
        "wrong",
        "status --wrong",
        "up now",
        "run --max-messages 0",
        "run --max-messages many",
        "run --queue-url",
        "rejected list --limit 0",
        "rejected wrong",
        "export",
        "export x.xlsx",
        "export x",
        "ui --port 70000",
        "send",
        "send FILE --sample",
        "send no-such-file",
    ],
)
def test_wrong_usage_exits_with_2(arguments: str, tmp_path: Path) -> None:
    done = Cli(tmp_path / "home")(*arguments.split(), exit_code=2)

    assert done.stderr
    assert not done.stdout
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "home").exists()


@pytest.mark.parametrize("name", ["[/x].jsonl", "[red]x.jsonl", "[bold"])
def test_a_file_name_in_brackets_is_shown_as_it_is(name: str, tmp_path: Path) -> None:
    done = Cli(tmp_path / "home")("send", name, exit_code=2)

    assert done.stderr == f"error: cannot read {name} (FileNotFoundError)\n"


def test_the_version_is_the_installed_ones(tmp_path: Path) -> None:
    assert Cli(tmp_path / "home")("--version").stdout == f"loginetl {metadata.version('loginetl')}\n"


def test_help_begins_with_what_people_start_with(tmp_path: Path) -> None:
    listed = re.findall(r"^│ (\w+)  ", Cli(tmp_path / "home")("--help").stdout, re.MULTILINE)

    assert listed[:7] == ["demo", "ui", "up", "down", "status", "send", "run"]


# Starting and stopping


def test_status_before_up_says_so_and_starts_nothing(tmp_path: Path) -> None:
    cli = Cli(tmp_path / "home")

    report = cli.status()

    assert [name for name in report if name in STATUS] == STATUS
    assert report["running"] is False
    assert report["environment"] == "local"
    assert report["home"] == str(cli.home)
    assert report["landing_url"] == (cli.home / "landing").as_uri()
    known = ("running", "environment", "home", "landing_url", "dagster_home")
    assert all(value is None for name, value in report.items() if name not in known)
    assert "loginetl up" in cli("status").stderr
    assert not cli.home.exists()


def test_status_after_up_has_addresses_and_zeros_of_which_people_see_the_addresses(elsewhere: Cli) -> None:
    printed = Cli(elsewhere.home, {"COLUMNS": "80"})("up").stdout
    report = elsewhere.status()

    assert [name for name in report if name in STATUS] == STATUS
    assert report["running"] is True
    assert report["sqs_endpoint"].startswith("http://127.0.0.1:")
    assert report["queue_url"] == f"{report['sqs_endpoint']}/000000000000/login-queue"
    assert report["database_url"].startswith("postgresql+psycopg://")
    assert report["table"] == "public.user_logins"
    assert report["last_loaded_at"] is None
    counts = STATUS[STATUS.index("queued") : STATUS.index("last_loaded_at")]
    assert {name: report[name] for name in counts} == dict.fromkeys(counts, 0)
    for name in ("environment", "home", "queue url", "database url", "table", "landing url", "DAGSTER_HOME"):
        assert cell(printed, name) == report[name.lower().replace(" ", "_")], "an address is whole"
    assert printed.endswith("conditions    healthy\n")
    assert not re.search(r"^(messages|queued|rejection rate|sizes|oldest|running)", printed, re.MULTILINE)
    assert [line for line in printed.splitlines() if len(line) > 80 and len(line.split()) > 1] == []


def test_status_says_whether_anything_starts_by_itself(elsewhere: Cli) -> None:
    elsewhere("up")
    assert elsewhere.status()["conditions"] == {}
    elsewhere("send", "-", stdin=login())

    untold = subprocess.run(
        [LOGINETL, "status", "--json"],
        env={**elsewhere.full_environment, "PYTHONPROFILEIMPORTTIME": "1"},
        cwd=elsewhere.home.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert untold.returncode == 3
    report = json.loads(untold.stdout)
    assert report["automation"].endswith("set DAGSTER_HOME, and this line says whether a daemon runs")
    assert report["dagster_home"] == f"{elsewhere.home}/dagster"
    assert list(report["conditions"]) == ["never_drained"]
    assert re.search(r"\| +loginetl_assets\.cli$", untold.stderr, re.MULTILINE)
    assert not re.search(r"\| +dagster$", untold.stderr, re.MULTILINE), "it takes seconds to import"

    dagster_home = elsewhere.home / "of-dagster"
    dagster_home.mkdir()
    told = Cli(elsewhere.home, {"DAGSTER_HOME": str(dagster_home), "LOGINETL_AUTOMATION": "on"}).status()
    assert told["automation"] == "sensors on; there is no daemon"
    assert sorted(told["conditions"]) == ["daemon_down", "never_drained"]
    off = Cli(elsewhere.home, {"DAGSTER_HOME": str(dagster_home), "LOGINETL_AUTOMATION": "off"}).status()
    assert off["automation"] == "sensors off: queue_depth, failed_run, recovered_run, health; there is no daemon"
    assert sorted(off["conditions"]) == ["never_drained"]


def test_up_again_finds_the_same_stack(cli: Cli) -> None:
    before = cli.status()
    cli("up")

    assert cli.status() == before


def test_keys_and_home_are_their_owners_alone(elsewhere: Cli) -> None:
    elsewhere("up")

    keys = elsewhere.home / "keys"
    assert mode(keys) == 0o700
    assert {path.name: oct(mode(path)) for path in keys.iterdir()} == dict.fromkeys(KEYS, "0o600")
    # As root, the postgres user gets the right to walk through, and no more.
    assert mode(elsewhere.home) in {0o700, 0o701}


def test_all_that_lies_in_a_home_is_looked_at_before_it_is_used(loaded: Loaded) -> None:
    assert {path.name for path in loaded.cli.home.iterdir()} <= {*ENTRIES}


@pytest.mark.parametrize(
    "command", ["up", "down", "status", "migrate", "run", "send --sample", "psql", "keys show", "ui"]
)
def test_a_home_that_others_can_write_to_is_refused_by_every_command(command: str, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    home.chmod(0o777)

    done = Cli(home)(*command.split(), exit_code=1)

    assert done.stderr == (
        f"error: {home} can be written to by other users: `chmod go-w {home}`, or set LOGINETL_HOME to a directory of"
        " your own\n"
    )
    assert list(home.iterdir()) == []


def test_two_ups_at_once_make_one_stack_and_one_set_of_keys(elsewhere: Cli) -> None:
    both = [
        subprocess.Popen(
            [LOGINETL, "up"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=elsewhere.home.parent,
            env=elsewhere.full_environment,
        )
        for _ in range(2)
    ]
    said = [process.communicate(timeout=120) for process in both]

    assert [process.returncode for process in both] == [0, 0], said
    assert said[0][0] == said[1][0]
    assert servers_below(elsewhere.home) == {"postgres": 1, "sqs": 1}
    keys = elsewhere.home / "keys"
    assert sorted(path.name for path in keys.iterdir()) == KEYS
    assert key_id(keys / "vault.json") == key_id(keys / "officer-private.json")


def test_down_keeps_the_queue_and_the_tables(elsewhere: Cli) -> None:
    elsewhere("up")
    elsewhere("send", "-", stdin=f"{login()}\n{login(user_id='u-2')}\n")
    elsewhere("psql", "-c", "INSERT INTO user_logins (user_id) VALUES ('kept')")

    assert elsewhere("down").stderr == "stopped\n"
    assert servers_below(elsewhere.home) == {"postgres": 0, "sqs": 0}
    assert elsewhere.status()["running"] is False

    elsewhere("up")
    assert elsewhere.status()["queued"] == 2
    assert [row[0] for row in elsewhere.table()] == ["kept"]


def test_down_with_nothing_up_is_no_error(tmp_path: Path) -> None:
    assert Cli(tmp_path / "home")("down").stderr == "stopped\n"
    assert not (tmp_path / "home").exists()


@pytest.mark.parametrize("command", ["up", "down"])
def test_up_and_down_are_refused_outside_the_local_environment(command: str, tmp_path: Path) -> None:
    done = Cli(tmp_path / "home", PRODUCTION)(command, exit_code=2)

    assert done.stderr.startswith(f"error: `loginetl {command}` is for LOGINETL_ENV=local")
    assert not (tmp_path / "home").exists()


def test_status_names_a_schema_that_is_not_this_versions_and_leaves_it_alone(elsewhere: Cli) -> None:
    there = "SELECT to_regnamespace('loginetl')"
    elsewhere("up")
    elsewhere("psql", "-c", "DROP SCHEMA loginetl CASCADE")

    for arguments in (["status"], ["status", "--json"]):
        said = elsewhere(*arguments, exit_code=1).stderr
        assert said.startswith("error: schema loginetl at postgresql")
        assert said.endswith(" is not there: run `loginetl migrate`\n")
    assert not elsewhere("psql", "-Atc", there).stdout.strip()

    elsewhere("up")
    assert elsewhere.status()["messages"] == 0


def test_up_starts_the_queue_beside_a_database_elsewhere(cli: Cli, elsewhere: Cli) -> None:
    beside = Cli(elsewhere.home, {"LOGINETL_ENV": "local", "LOGINETL_DATABASE_URL": cli.addresses.database_url})
    beside("up")

    assert beside.status()["queue_url"] == elsewhere.addresses.queue_url


# Sending and running


def test_the_sample_gives_99_rows_and_1_rejection(loaded: Loaded) -> None:
    assert loaded.sent.stderr == "sent 100 messages\n"
    assert difference(loaded.before, loaded.queued, "queued", "messages") == (100, 0)
    assert difference(loaded.before, loaded.after, "queued", "messages", "loaded", "rejected") == (0, 100, 99, 1)
    assert (loaded.after["in_flight"], loaded.after["pending"], loaded.after["duplicates"]) == (0, 0, 0)
    assert datetime.fromisoformat(loaded.after["last_loaded_at"]).tzinfo is not None


def test_a_run_shows_its_results(loaded: Loaded) -> None:
    said = loaded.ran.stdout

    assert cell(said, "messages") == "100"
    assert cell(said, "loaded into public.user_logins") == "99"
    assert cell(said, "duplicates") == "0"
    assert cell(said, "rejected") == "1"
    assert cell(said, "not_a_login") == "1"
    assert cell(said, "duplicate rows") == "1"
    assert "check did not pass" not in loaded.ran.stderr, "two logins of one user on one day are no fault"


def test_a_run_shows_no_value_of_a_message(loaded: Loaded) -> None:
    said = loaded.ran.stdout + loaded.ran.stderr + loaded.sent.stdout + loaded.sent.stderr
    values = {str(value) for body in SAMPLE for value in json.loads(body).values() if len(str(value)) > 7}

    assert len(values) > 200
    assert not [value for value in values if value in said]


def test_a_run_with_nothing_queued_says_so_and_changes_nothing(loaded: Loaded) -> None:
    before, rows = loaded.cli.status(), loaded.cli.table()
    ran = loaded.cli("run")
    after = loaded.cli.status()

    assert ran.stderr.startswith("nothing was there: the queue is empty")
    assert not ran.stdout
    assert {**after, "sizes": None} == {**before, "sizes": None}  # bytes change by themselves
    assert loaded.cli.table() == rows


def test_the_same_bodies_sent_again_are_logins_again(loaded: Loaded) -> None:
    before = loaded.cli.status()
    loaded.cli("send", "--sample")
    loaded.cli("run")

    names = ("messages", "loaded", "rejected", "duplicates", "pending", "queued")
    assert difference(before, loaded.cli.status(), *names) == (100, 99, 1, 0, 0, 0)


def test_status_rounds_for_people_and_counts_small_tables_exactly(loaded: Loaded) -> None:
    report, printed = loaded.cli.status(), loaded.cli("status").stdout

    sizes = report["sizes"]
    assert sizes["loginetl.processed_messages"]["rows"] == report["messages"]
    assert sizes["loginetl.rejected_logins"]["rows"] == report["rejected"]
    assert re.search(r"last loaded at  20\S+ \(\d+ (second|minute)s? ago\)", printed)
    assert re.search(r"loginetl\.processed_messages: \d+ rows, [\d.]+ kB$", printed, re.MULTILINE)
    assert re.search(r"rejection rate  [\d.]+ % within a day", printed)


def test_the_demo_explains_what_became_of_the_sample(elsewhere: Cli) -> None:
    colourful = Cli(elsewhere.home, {"COLUMNS": "80", "FORCE_COLOR": "1"})("demo").stdout
    said = Text.from_ansi(colourful).plain

    with psycopg.connect(elsewhere.addresses.database_url.replace("+psycopg", "")) as connection:
        tokens = connection.execute("SELECT DISTINCT masked_ip, masked_device_id FROM user_logins").fetchall()
    shown = re.findall(r"masked_(?:ip|device_id) +(\S+)…", said)
    assert len(shown) == 6
    assert all(any(token.startswith(one) for row in tokens for token in row) for one in shown)
    assert shown[1] == shown[3] != shown[5], "two users of one device, and one of another"
    for body in (json.loads(SAMPLE[number]) for number in (11, 45, 12)):
        assert re.search(rf"^ip +{body['ip']} ", said, re.MULTILINE)
    assert re.search(r"^loaded into public.user_logins +99  \S+", said, re.MULTILINE)
    assert re.search(r"^shared devices +7  that several users have", said, re.MULTILINE)
    assert "not_a_login: The body has no field of a login" in said
    assert re.search(r"^duplicate rows +1  equal logins", said, re.MULTILINE)
    assert '{"xxx": "xxxx_xxxxx_xxx_xxxx", "xxx": "999"}' in said
    assert max(map(len, said.partition("\nNext\n")[0].splitlines())) <= 80
    assert said.endswith("\nEvery message has its outcome, and every check passed.\n")
    typed = re.findall(rf"^{LOGINETL} (.+?)  \S", said, re.MULTILINE)
    assert "ui" in typed and "down" in typed
    for command in set(typed) - {"ui", "down", "send --sample"}:
        elsewhere(*shlex.split(command))
    (elsewhere.home.parent / "logins.csv").unlink()
    if folder := os.environ.get("SCREENSHOTS"):
        printed = colourful.replace(str(LOGINETL), ".venv/bin/loginetl")
        save_picture(printed, Path(folder) / "demo.svg", title="make demo")


def test_the_demo_leaves_a_queue_of_someone_s_alone(cli: Cli, other_queue: str) -> None:
    refused = cli.with_queue(other_queue)("demo", exit_code=2)

    assert "unset LOGINETL_QUEUE_URL" in refused.stderr
    assert cli.with_queue(other_queue).status()["queued"] == 0


def test_a_file_and_standard_input_are_sent_line_by_line(cli: Cli, other_queue: str, tmp_path: Path) -> None:
    file = tmp_path / "logins.jsonl"
    # JSON takes U+2028 as it is, between quotes; only a line feed ends a line of JSON lines.
    file.write_text("\n".join([login(), "", login(locale="...").replace("...", "\u2028"), "not json"]) + "\n")

    assert cli.with_queue(other_queue)("send", str(file)).stderr == "sent 3 messages\n"
    assert cli.with_queue(other_queue)("send", "-", stdin=file.read_text() * 4).stderr == "sent 12 messages\n"
    assert cli.with_queue(other_queue).status()["queued"] == 15


@pytest.mark.parametrize("answer", ["n\n", ""])
def test_samples_go_to_a_queue_of_real_logins_only_when_that_is_said(
    answer: str, cli: Cli, other_queue: str, tmp_path: Path
) -> None:
    production = Cli(tmp_path / "home", PRODUCTION | {"LOGINETL_QUEUE_URL": other_queue})

    refused = production("send", "--sample", stdin=answer, exit_code=1)
    assert "Send the 100 sample messages to the queue of production?" in refused.stderr
    assert refused.stderr.endswith("error: nothing was sent: --yes sends samples outside LOGINETL_ENV=local\n")
    assert cli.with_queue(other_queue).status()["queued"] == 0

    assert production("send", "-", stdin=login()).stderr == "sent 1 message\n", "what the caller named is used"
    assert production("send", "--sample", "--yes").stderr == "sent 100 messages\n"
    assert production("send", "--sample", stdin="y\n").stderr.endswith("sent 100 messages\n")
    assert cli.with_queue(other_queue).status()["queued"] == 201


def test_a_run_stops_after_max_messages(cli: Cli, other_queue: str) -> None:
    beside = cli.with_queue(other_queue)
    beside("send", "-", stdin="\n".join([login()] * 25))
    before = beside.status()

    assert cell(beside("run", "--max-messages", "12").stdout, "messages") == "12"
    assert difference(before, beside.status(), "messages", "loaded", "queued", "in_flight") == (12, 12, -12, 0)


def test_a_run_drains_the_queue_it_is_told_to(cli: Cli, other_queue: str) -> None:
    before = cli.status()
    cli.with_queue(other_queue)("send", "-", stdin=login())
    cli("run", "--queue-url", other_queue)

    assert difference(before, cli.status(), "messages", "loaded", "queued") == (1, 1, 0)
    assert cli.with_queue(other_queue).status()["queued"] == 0


# Looking


def test_rejected_list_gives_reasons_and_no_body(loaded: Loaded) -> None:
    found = json.loads(loaded.cli("rejected", "list", "--json").stdout)
    printed = loaded.cli("rejected", "list").stdout

    assert found
    for row in found:
        assert sorted(row) == [
            *("batch_id", "constraint_name", "field", "message_uuid", "reason", "rejected_at", "sent_at", "sqlstate")
        ]
        assert row["reason"] == "not_a_login"
    assert printed.count("not_a_login") == len(found)
    assert "oops" not in printed + json.dumps(found)


def test_rejected_list_names_messages_in_full(loaded: Loaded) -> None:
    newest = json.loads(loaded.cli("rejected", "list", "--limit", "1", "--json").stdout)[0]
    printed = loaded.cli("rejected", "list", "--limit", "1").stdout

    assert f"message uuid: {newest['message_uuid']}  " in printed


def test_rejected_list_can_be_narrowed(loaded: Loaded) -> None:
    assert json.loads(loaded.cli("rejected", "list", "--reason", "bad_ip", "--json").stdout) == []
    assert len(json.loads(loaded.cli("rejected", "list", "--limit", "1", "--json").stdout)) == 1


# Rejected messages, and quarantined batches


@pytest.fixture
def refusing(cli: Cli, other_queue: str) -> Cli:
    """A message with a field too many, rejected because the settings said so when it was read."""
    beside = cli.with_queue(other_queue)
    strict = Cli(beside.home, {**beside.environment, "LOGINETL_UNKNOWN_FIELDS": "reject"})
    strict("send", "-", stdin=login(user_id="held-back", ip="203.0.113.77", colour="blue"))
    ran = strict("run", exit_code=3)
    assert cell(ran.stdout, "unknown_field") == "1"
    assert "needs attention: more messages were rejected than LOGINETL_MAX_REJECTION_RATE allows" in ran.stderr
    return beside


def test_rejected_bodies_are_shown_by_their_redacted_shape(refusing: Cli) -> None:
    shown = refusing("rejected", "show", "--reason", "unknown_field", "--limit", "1")
    (row,) = json.loads(refusing("rejected", "show", "--reason", "unknown_field", "--limit", "1", "--json").stdout)

    assert '"user_id": "xxxx-xxxx"' in shown.stdout
    assert '"ip": "999.9.999.99"' in shown.stdout
    assert row["redacted_shape"] in shown.stdout
    assert not [value for value in ("held", "203.0", "blue", "colour") if value in shown.stdout + json.dumps(row)]
    refusing("rejected", "drop", "--reason", "unknown_field", "--yes")


def test_a_replay_from_the_command_line_loads_what_is_accepted_now(refusing: Cli) -> None:
    before = refusing.status()
    said = refusing("rejected", "replay", "--reason", "unknown_field")

    assert said.stderr.startswith("replayed 1 message\n")
    assert [cell(said.stdout, row) for row in ("messages", "landed before", "duplicates")] == ["0", "1", "0"]
    assert cell(said.stdout, "loaded into public.user_logins") == "1"
    names = ("messages", "loaded", "rejected", "duplicates", "pending")
    assert difference(before, refusing.status(), *names) == (1, 1, -1, 1, 0)
    assert refusing("rejected", "replay", "--reason", "unknown_field").stderr == "replayed 0 messages\n"


def test_what_is_dropped_is_gone_and_counted(refusing: Cli) -> None:
    before = refusing.status()
    asked = refusing("rejected", "drop", "--reason", "unknown_field", stdin="n\n", exit_code=1)
    assert asked.stderr.endswith("error: nothing was dropped\n")
    assert refusing.status()["rejected"] == before["rejected"]

    (row,) = json.loads(refusing("rejected", "list", "--reason", "unknown_field", "--json").stdout)
    assert refusing("rejected", "drop", row["message_uuid"], "--yes").stderr == "dropped 1 message\n"
    assert difference(before, refusing.status(), "messages", "rejected", "erased") == (0, -1, 1)
    for command in ("drop", "replay", "show"):
        again = refusing("rejected", command, row["message_uuid"], exit_code=1)
        assert again.stderr.startswith(f"error: of the messages named, these are not rejected: {row['message_uuid']};")
    assert refusing("rejected", "drop", "--reason", "unknown_field").stderr == "no rejected message matches\n"


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("replay",), "--all"),
        (("drop", "--yes"), "--all"),
        (("replay", "17"), "UUID"),
        (("list", "--reason", "because"), "not_a_login"),
        (("show", "--since", "yesterday"), "ISO 8601"),
    ],
)
def test_a_choice_of_rejected_messages_that_cannot_be_is_named(
    cli: Cli, arguments: tuple[str, ...], named: str
) -> None:
    done = cli("rejected", *arguments, exit_code=2)

    assert done.stderr.startswith("error: ")
    assert named in done.stderr
    assert not done.stdout


def test_a_quarantined_batch_is_shown_with_its_reason_and_read_again_once_fixed(cli: Cli, other_queue: str) -> None:
    beside = cli.with_queue(other_queue)
    assert beside("reprocess").stderr == "no batch is quarantined\n"
    beside("send", "-", stdin=login(user_id="quarantined"))
    beside("run", "--max-messages", "1")
    (newest,) = sorted((beside.home / "landing" / "batches").iterdir(), key=lambda path: path.stat().st_mtime)[-1:]
    again = f"UPDATE loginetl.batches SET state = 'landed' WHERE object_path = 'batches/{newest.name}'"  # noqa: S608
    beside("psql", "-c", again)
    newest.rename(newest.with_suffix(".away"))
    ran = beside("run", exit_code=3)
    assert cell(ran.stdout, "quarantined batches") == "1"
    assert "needs attention: 1 batch quarantined" in ran.stderr
    beside("run")  # the next one has nothing to do with it, and health tells of it
    report = beside.status()
    (one,) = report["quarantined"]
    assert one["reason"].startswith("raw batch: the landing has no object")
    assert list(report["conditions"]) == ["quarantined_batches"] or "quarantined_batches" in report["conditions"]
    assert f"batch {one['batch_id']}" in beside("status", exit_code=3).stdout

    newest.with_suffix(".away").rename(newest)
    beside("reprocess")
    assert beside.status()["quarantined"] == []
    assert [row[0] for row in beside.table()].count("quarantined") == 1


@pytest.mark.usefixtures("loaded")  # a batch that stays in the landing, for tests that name one
def test_a_quarantined_batch_is_listed_shown_and_given_up(cli: Cli, other_queue: str) -> None:
    beside = cli.with_queue(other_queue)
    beside("send", "-", stdin=login(user_id="gone") + "\n" + login(user_id="gone-too"))
    again = """UPDATE loginetl.batches SET state = 'landed', loaded = 0
        WHERE batch_id = (SELECT max(batch_id) FROM loginetl.batches)"""
    beside("run")
    (newest,) = json.loads(beside("batches", "list", "--limit", "1", "--json").stdout)
    (beside.home / "landing" / newest["object_path"]).unlink()
    beside("psql", "-c", again)
    beside("run", exit_code=3)
    batch_id = str(newest["batch_id"])
    assert "gone" not in beside("batches", "show", batch_id).stdout
    listed = json.loads(beside("batches", "list", "--state", "quarantined", "--json").stdout)
    assert [(one["batch_id"], one["pending"]) for one in listed] == [(newest["batch_id"], 2)]
    before = beside.status()
    assert before["conditions"].keys() >= {"quarantined_batches"}

    assert "--reason" in beside("batches", "give-up", batch_id, exit_code=2).stderr
    assert (
        "nothing was given up"
        in beside("batches", "give-up", batch_id, "--reason", "x", stdin="n\n", exit_code=1).stderr
    )
    said = beside("batches", "give-up", batch_id, "--reason", "the disk [died]", "--yes").stderr

    assert "2 messages lost" in said
    after = beside.status()
    assert difference(before, after, "lost", "pending", "quarantined_batches") == (2, -2, -1)
    assert "quarantined_batches" not in after["conditions"]
    shown = json.loads(beside("batches", "show", batch_id, "--json").stdout)
    assert (shown["state"], shown["lost"], shown["lost_reason"]) == ("lost", 2, "the disk [died]")
    assert "[died]" in beside("batches", "list", "--state", "lost").stdout
    assert "batch" in beside("batches", "give-up", batch_id, "--reason", "x", "--yes", exit_code=1).stderr
    for arguments in (("show", "999999"), ("give-up", "999999", "--reason", "x", "--yes")):
        assert "999999" in beside("batches", *arguments, exit_code=1).stderr
    assert "the states are" in beside("batches", "list", "--state", "x", exit_code=2).stderr
    # As retention does in the end: until then erasures say that they could not search it.
    beside("psql", "-c", "UPDATE loginetl.batches SET object_purged_at = now() WHERE state = 'lost'")


def test_batches_that_the_ledger_lost_are_registered_again_and_loaded(cli: Cli, other_queue: str) -> None:
    beside = cli.with_queue(other_queue)
    beside("send", "-", stdin=login(user_id="restored"))
    beside("run")
    for table, condition in (
        ("loginetl.processed_messages", "batch_id = (SELECT max(batch_id) FROM loginetl.batches)"),
        ("loginetl.batches", "batch_id = (SELECT max(batch_id) FROM loginetl.batches)"),
        ("user_logins", "user_id = 'restored'"),
    ):
        beside("psql", "-c", f"DELETE FROM {table} WHERE {condition}")  # noqa: S608
    assert "registered 0 batches" in beside("batches", "register").stderr, "a run may be writing it"
    for path in (beside.home / "landing" / "batches").iterdir():
        os.utime(path, (path.stat().st_mtime - 7200,) * 2)

    assert "registered 1 batch with 1 message;" in beside("batches", "register").stderr
    beside("run")

    assert [row[0] for row in beside.table()].count("restored") == 1
    assert "registered 0 batches" in beside("batches", "register").stderr


def test_rows_that_the_table_refuses_are_for_a_person_to_look_at(cli: Cli, other_queue: str) -> None:
    beside = cli.with_queue(other_queue)
    beside("psql", "-c", "ALTER TABLE user_logins ADD CONSTRAINT no_refused CHECK (user_id <> 'refused')")
    beside("send", "-", stdin="\n".join(login(user_id=user) for user in ("refused", *map(str, range(39)))))
    ran = beside("run", exit_code=3)
    assert "needs attention: the table refused 1 row:" in ran.stderr
    assert "LOGINETL_MAX_REJECTION_RATE" not in ran.stderr
    (summary,) = json.loads(beside("rejected", "summary", "--reason", "refused_by_table", "--json").stdout)
    said = {name: summary[name] for name in ("messages", "field", "sqlstate", "constraint_name")}
    assert said == {"messages": 1, "field": None, "sqlstate": "23514", "constraint_name": "no_refused"}
    printed = beside("rejected", "summary")
    assert "no_refused" in printed.stdout
    assert "refused_by_table: The login table refuses the row" in printed.stderr
    assert "23514" in beside("rejected", "list").stdout
    beside("rejected", "drop", "--reason", "refused_by_table", "--yes")
    beside("psql", "-c", "ALTER TABLE user_logins DROP CONSTRAINT no_refused")


def test_an_idle_run_after_one_with_too_many_rejections_is_well(refusing: Cli) -> None:
    idle = refusing("run")
    assert "needs attention" not in idle.stderr
    refusing("rejected", "drop", "--reason", "unknown_field", "--yes")


NO_TOKEN = f"1.{'x' * 43}"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("reprocess", "99999"), "the landing holds no batch 99999"),
        (("reprocess", "1", "99999", "88888"), "the landing holds no batch 88888, 99999"),
        (("recover", NO_TOKEN, "--reason", "test"), "no value to show: 1 of 1 token"),
        (("erase", "--user-id", "--dry-run"), "nothing of that person is here"),
        (("erase", "--user-id", "--reason", "test", "--yes"), "nothing of that person is here"),
        (("erase", "--token", NO_TOKEN, "--reason", "test", "--yes"), "nothing of that person is here"),
    ],
)
def test_what_is_asked_for_and_is_not_there_fails_with_a_word(
    loaded: Loaded, arguments: tuple[str, ...], said: str
) -> None:
    done = loaded.cli(*arguments, stdin="nobody-has-it", exit_code=1)
    assert done.stderr.splitlines()[-1].startswith(f"error: {said}")


def test_a_value_that_is_there_is_shown_though_another_is_not(loaded: Loaded) -> None:
    there = loaded.cli.table()[0][2]
    some = loaded.cli("recover", there, NO_TOKEN, "--reason", "test", "--format", "json", exit_code=1)
    assert [one["outcome"] for one in json.loads(some.stdout)] == ["recovered", "unknown"]
    assert some.stderr == "error: no value to show: 1 of 2 tokens; the outcome says why\n"


def test_an_export_is_the_table(loaded: Loaded, tmp_path: Path) -> None:
    # Null and empty, and what CSV has to quote.
    loaded.cli("psql", "-c", "INSERT INTO user_logins (user_id, locale) VALUES ('', NULL), (E'a,\"b\"\\nc', '')")
    rows = loaded.cli.table()
    assert {len(row) for row in rows} == {len(COLUMNS)}

    to_csv = loaded.cli("export", str(tmp_path / "logins.csv"))
    to_parquet = loaded.cli("export", str(tmp_path / "logins.parquet"))
    to_stdout = loaded.cli("export", "-")

    assert rows_of_csv((tmp_path / "logins.csv").read_text()) == as_csv(rows)
    assert rows_of_csv(to_stdout.stdout) == as_csv(rows)
    frame = pl.read_parquet(tmp_path / "logins.parquet")
    assert frame.columns == COLUMNS
    assert frame.schema == {name: MASKED_SCHEMA[name] for name in COLUMNS}
    assert [str(dtype) for dtype in frame.dtypes[:7]] == [*["String"] * 5, "Int32", "Date"]
    assert sorted(frame.rows(), key=str) == rows
    said = f"wrote {len(rows):,} rows\n"
    assert [to_csv.stderr, to_parquet.stderr, to_stdout.stderr] == [said] * 3


def test_an_export_names_the_suffixes_that_it_knows(tmp_path: Path) -> None:
    for name in ("logins.xlsx", "logins"):
        done = Cli(tmp_path / "home")("export", str(tmp_path / name), exit_code=2)
        assert done.stderr.endswith(
            f"/{name} ends in neither .csv nor .parquet: name such a file, or - for CSV to stdout\n"
        )
    assert list(tmp_path.iterdir()) == []


def test_the_report_is_one_file_of_what_was_loaded(loaded: Loaded, tmp_path: Path) -> None:
    file = tmp_path / "[report].html"
    done = loaded.cli("report", "--output", str(file))
    page = file.read_text(encoding="utf-8")

    assert done.stderr == f"wrote {file} ({len(page.encode()) / 1000:.0f} kB): open it in a browser\n"
    assert "<title>Login activity</title>" in page
    for shown in ("android", "ios", "not_a_login", " landed = "):
        assert shown in page
    assert loaded.cli("report", "--output", "-").stdout.startswith("<!doctype html>")
    missing = loaded.cli("report", "--output", str(tmp_path / "no" / "such.html"), exit_code=1)
    assert "cannot write" in missing.stderr


@pytest.mark.parametrize("command", ["status", "status --json", "rejected list", "export -"])
def test_a_reader_that_has_left_is_no_error(command: str, loaded: Loaded) -> None:
    reader, end = os.pipe()
    os.close(reader)  # as `head` does once it has what it wants
    done = subprocess.run(
        [LOGINETL, *command.split()],
        stdout=end,
        stderr=subprocess.PIPE,
        cwd=loaded.cli.home.parent,
        env=loaded.cli.full_environment,
        check=False,
    )
    os.close(end)

    assert (done.returncode, done.stderr) == (0, b"")


CONTROL = "\x1b]52;c;b3duZWQ=\x07\u202e"  # writes to the clipboard; what follows reads from right to left


def seen_in_a_terminal(cli: Cli, *arguments: str) -> str:
    """What a command prints where its standard output is a terminal."""
    terminal, end = pty.openpty()
    with subprocess.Popen(
        [LOGINETL, *arguments], stdout=end, cwd=cli.home.parent, env=cli.full_environment, close_fds=True
    ) as process:
        os.close(end)
        seen = b""
        with suppress(OSError):  # Linux's way to say that nobody holds the other end any more
            while part := os.read(terminal, 65_536):
                seen += part
        os.close(terminal)
    assert process.returncode == 0
    return seen.decode()


def test_an_export_is_exact_in_a_file_and_harmless_in_a_terminal(loaded: Loaded, tmp_path: Path) -> None:
    insert = f"INSERT INTO user_logins (user_id, locale) VALUES ('hostile{CONTROL}', '=1+1')"  # noqa: S608
    loaded.cli("psql", "-c", insert)
    loaded.cli("export", str(tmp_path / "logins.csv"))

    assert f"hostile{CONTROL}," in (tmp_path / "logins.csv").read_text()
    assert f"hostile{CONTROL}," in loaded.cli("export", "-").stdout
    seen = seen_in_a_terminal(loaded.cli, "export", "-")
    assert "hostile\\x1b]52;c;b3duZWQ=\\x07\\u202e,,,,=1+1,," in seen
    assert not [one for one in seen if not (one.isprintable() or one in "\r\n")]


@pytest.mark.parametrize("device", ["=HYPERLINK(0)", "+1", "-1+1", "@SUM(1)", f"x{CONTROL}"])
def test_recovered_values_steer_neither_terminal_nor_spreadsheet(device: str, cli: Cli, other_queue: str) -> None:
    user = f"of-{uuid4().hex}"
    beside = cli.with_queue(other_queue)
    beside("send", "-", stdin=login(user_id=user, device_id=device))
    beside("run")

    def recovered(*output_format: str) -> str:
        return beside("recover", "--user-id", "--reason", "test", *output_format, stdin=user).stdout

    assert device in {one["value"] for one in json.loads(recovered("--format", "json"))}
    printed = recovered("--format", "csv")
    (row,) = (row for row in csv.DictReader(io.StringIO(printed)) if row["field"] == "device_id")
    assert row["value"] in {f"'{device}", "x\\x1b]52;c;b3duZWQ=\\x07\\u202e"}
    assert not [one for one in printed + recovered() if not (one.isprintable() or one in "\r\n")]


def test_psql_gets_its_arguments_and_gives_its_exit_code(loaded: Loaded) -> None:
    counted = loaded.cli("psql", "-At", "-c", "SELECT count(*) FROM user_logins")

    assert int(counted.stdout) == len(loaded.cli.table())
    loaded.cli("psql", "-c", "SELECT nonsense", exit_code=1)


SECRET = "s3cret-of-the-url"


@pytest.fixture
def recording_psql(tmp_path: Path) -> Path:
    """A directory with a `psql` that writes down its arguments and its environment, and ends."""
    programs = tmp_path / "programs"
    programs.mkdir()
    program = programs / "psql"
    program.write_text(
        f"#!{sys.executable}\n"
        "import json, os, pathlib, sys\n"
        "said = json.dumps([sys.argv[1:], dict(os.environ)])\n"
        "pathlib.Path(__file__).with_name('said').write_text(said)\n"
    )
    program.chmod(0o755)
    return programs


@pytest.mark.parametrize(
    ("url", "password"),
    [
        (f"postgresql://etl:{SECRET}@127.0.0.1:5433/logins?sslmode=prefer", SECRET),
        (f"postgres://etl@127.0.0.1:5433/logins?sslmode=prefer&password={SECRET}", SECRET),
        (f"postgresql+psycopg://etl:a%40%2F%3A%20{SECRET}@127.0.0.1:5433/logins?sslmode=prefer", f"a@/: {SECRET}"),
        (f"postgresql://etl:{SECRET}@/logins?host=127.0.0.1&port=5433&sslmode=prefer", SECRET),
    ],
)
def test_psql_is_told_where_on_its_command_line_and_the_password_past_it(
    url: str, password: str, recording_psql: Path, tmp_path: Path
) -> None:
    environment = {"LOGINETL_ENV": "local", "PATH": f"{recording_psql}:{os.environ['PATH']}"}
    Cli(tmp_path / "home", {**environment, "LOGINETL_DATABASE_URL": url})("psql", "-c", "SELECT 1")

    (address, *others), environ = json.loads((recording_psql / "said").read_text())
    assert psycopg.conninfo.conninfo_to_dict(address) == {
        "host": "127.0.0.1", "port": "5433", "user": "etl", "dbname": "logins", "sslmode": "prefer"
    }  # fmt: skip
    assert others == ["-c", "SELECT 1"]
    assert environ["PGPASSWORD"] == password
    assert not [name for name in environ if name.startswith("LOGINETL_")]


def test_psql_keeps_the_urls_options_and_invents_no_password(recording_psql: Path, tmp_path: Path) -> None:
    url = "postgresql://etl@127.0.0.1/logins?options=-csearch_path%3Dsales&passfile=/etc/pass%20file&connect_timeout=5"
    environment = {"LOGINETL_ENV": "local", "PATH": f"{recording_psql}:{os.environ['PATH']}"}
    Cli(tmp_path / "home", {**environment, "LOGINETL_DATABASE_URL": url})("psql")

    ((address,), environ) = json.loads((recording_psql / "said").read_text())
    asked = psycopg.conninfo.conninfo_to_dict(address)
    assert asked["options"] == "-csearch_path=sales"
    assert asked["passfile"] == "/etc/pass file"
    assert asked["connect_timeout"] == "5"
    assert "PGPASSWORD" not in environ


@pytest.mark.parametrize("name", ["sslpassword", "oauth_client_secret", "scram_client_key", "pasword"])
def test_psql_is_not_started_with_a_secret_that_only_its_command_line_could_hold(
    name: str, recording_psql: Path, tmp_path: Path
) -> None:
    environment = {"LOGINETL_ENV": "local", "PATH": f"{recording_psql}:{os.environ['PATH']}"}
    url = f"postgresql://etl@127.0.0.1/logins?{name}={SECRET}"
    refused = Cli(tmp_path / "home", {**environment, "LOGINETL_DATABASE_URL": url})("psql", exit_code=1)

    assert not (recording_psql / "said").exists()
    assert "LOGINETL_DATABASE_URL" in refused.stderr
    assert refused.stderr.count("\n") == 1
    assert SECRET not in refused.stderr
