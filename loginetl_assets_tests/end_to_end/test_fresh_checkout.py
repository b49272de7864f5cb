"""What a newcomer and CI do on a fresh checkout: Dagster's own commands, with nothing started."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from loginetl_assets.local.stack import EmbeddedStack
from loginetl_assets_tests.support.checkout import ROOT, Checkout
from loginetl_assets_tests.support.leaks import find_leaks, spellings
from loginetl_assets_tests.support.pipeline import SAMPLE

VALUES = [
    value
    for line in SAMPLE
    for name, value in json.loads(line).items()
    if name in {"ip", "device_id"} and isinstance(value, str)
]


@pytest.fixture
def checkout(tmp_path: Path) -> Iterator[Checkout]:
    """A checkout where nothing is started yet."""
    checkout = Checkout(tmp_path / "loginetl")
    yield checkout
    EmbeddedStack(checkout.home).stop()


MATERIALIZE = "dagster asset materialize --select '*' -m loginetl_assets.definitions 2>&1"


@pytest.mark.parametrize(
    "command",
    [
        "dagster definitions validate",
        "dagster asset list -m loginetl_assets.definitions",  # Dagster 1.13 insists on a target here
        "dg list component-tree",
        "dg check defs",
    ],
)
def test_dagsters_commands_load_the_project_and_start_nothing(command: str, checkout: Checkout) -> None:
    printed = checkout.run(command)
    assert "asset list" not in command or "user_logins" in printed
    assert EmbeddedStack(checkout.home).find() is None


def test_what_dg_scaffolds_is_a_definition_beside_ours(checkout: Checkout) -> None:
    checkout.run("dg scaffold defs dagster.asset reports/weekly_logins.py")
    listed = {asset["asset_key"] for asset in json.loads(checkout.run("dg list defs --json"))["assets"]}
    assert listed > {"user_logins", "weekly_logins"}


def test_dagsters_commands_show_the_demo_s_history_and_the_users_own_env_file_stays(checkout: Checkout) -> None:
    checkout.run("make .env && loginetl run && loginetl up")
    assert "login_etl" in checkout.run("dagster run list")
    own = checkout.path / ".env"
    own.write_text("LOGINETL_TABLE=crm.logins\n")
    checkout.run("make .env")
    assert own.read_text() == "LOGINETL_TABLE=crm.logins\n"


def test_one_command_starts_what_it_needs_and_nothing_it_writes_holds_a_value(
    checkout: Checkout, tmp_path: Path
) -> None:
    dagster_home = tmp_path / "dagster"
    dagster_home.mkdir()
    shutil.copy(ROOT / "dagster.yaml", dagster_home)
    first = checkout.run(MATERIALIZE, DAGSTER_HOME=str(dagster_home))
    assert EmbeddedStack(checkout.home).find() is not None
    checkout.run("loginetl send --sample")
    second = checkout.run(MATERIALIZE, DAGSTER_HOME=str(dagster_home))
    status = json.loads(checkout.run("loginetl status --json"))
    assert (status["loaded"], status["rejected"], status["duplicates"]) == (99, 1, 0)
    run = checkout.run("loginetl run 2>&1")  # also fills the Dagster home of the command, in Postgres
    assert not [value for value in VALUES if value in first + second + run]

    (checkout.home / "planted").write_bytes(b"..." + next(iter(spellings(VALUES[0]))))
    EmbeddedStack(checkout.home).stop()  # all is on disk now
    leaks = find_leaks(VALUES, [checkout.home, dagster_home], leave_out=[checkout.home / "sqs"])
    assert leaks == [str(checkout.home / "planted")], "the search finds what was planted, and nothing else"
