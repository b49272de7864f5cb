"""What a newcomer and CI do on a fresh checkout: Dagster's own commands, with nothing started."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from loginetl_assets.local.stack import EmbeddedStack
from loginetl_assets_tests.support.leaks import find_leaks, spellings
from loginetl_assets_tests.support.pipeline import SAMPLE

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent

VALUES = [
    value
    for line in SAMPLE
    for name, value in json.loads(line).items()
    if name in {"ip", "device_id"} and isinstance(value, str)
]


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    """A home where nothing is started yet."""
    home = tmp_path / "home"
    yield home
    EmbeddedStack(home).stop()


def _run(command: list[str], home: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(BIN / command[0]), *command[1:]],
        cwd=ROOT,
        env={
            "PATH": os.environ["PATH"],
            "HOME": os.environ.get("HOME", "/"),
            "LOGINETL_HOME": str(home),
            **environment,
        },
        capture_output=True,
        text=True,
        check=False,
    )


MATERIALIZE = ["dagster", "asset", "materialize", "--select", "*", "-m", "loginetl_assets.definitions"]


@pytest.mark.parametrize(
    "command",
    [
        ["dagster", "definitions", "validate"],
        ["dagster", "asset", "list", "-m", "loginetl_assets.definitions"],  # Dagster 1.13 insists on a target here
        ["dg", "list", "defs"],
        ["dg", "check", "defs"],
    ],
    ids=" ".join,
)
def test_dagsters_commands_load_the_project_and_start_nothing(command: list[str], home: Path) -> None:
    done = _run(command, home)
    assert done.returncode == 0, done.stderr
    assert "validate" in command or "check" in command or "user_logins" in done.stdout
    assert EmbeddedStack(home).find() is None


def test_one_command_starts_what_it_needs_and_nothing_it_writes_holds_a_value(home: Path, tmp_path: Path) -> None:
    dagster_home = tmp_path / "dagster"
    dagster_home.mkdir()
    shutil.copy(ROOT / "dagster.yaml", dagster_home)
    first = _run(MATERIALIZE, home, DAGSTER_HOME=str(dagster_home))
    assert first.returncode == 0, first.stderr
    assert EmbeddedStack(home).find() is not None
    assert _run(["loginetl", "send", "--sample"], home).returncode == 0
    second = _run(MATERIALIZE, home, DAGSTER_HOME=str(dagster_home))
    assert second.returncode == 0, second.stderr
    status = json.loads(_run(["loginetl", "status", "--json"], home).stdout)
    assert (status["loaded"], status["rejected"], status["duplicates"]) == (99, 1, 0)
    run = _run(["loginetl", "run"], home)  # also fills the Dagster home of the command, in Postgres
    assert run.returncode == 0, run.stderr
    printed = "".join(done.stdout + done.stderr for done in (first, second, run))
    assert not [value for value in VALUES if value in printed]

    (home / "planted").write_bytes(b"..." + next(iter(spellings(VALUES[0]))))
    EmbeddedStack(home).stop()  # all is on disk now
    leaks = find_leaks(VALUES, [home, dagster_home], leave_out=[home / "sqs"])
    assert leaks == [str(home / "planted")], "the search finds what was planted, and nothing else"
