"""What the processes that we start inherit, and where they import from."""

import json
import os
import signal
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests

from loginetl_assets.embedded import Addresses
from loginetl_assets.local.stack import prepare_dagster_home
from loginetl_assets.settings import Settings
from loginetl_assets_tests.support.pipeline import Pipeline, login, metadata
from loginetl_assets_tests.support.waiting import eventually

OFFICER = "officer-4c1f.json"
LOGINETL = str(Path(sys.executable).with_name("loginetl"))

# Python imports a module of this name, wherever it finds it, at every start.
WITNESS = """
import json, os, pathlib, sys
told = {"command": sys.orig_argv, "environ": dict(os.environ)}
(pathlib.Path(__file__).parent / f"{os.getpid()}.json").write_text(json.dumps(told))
"""


@dataclass(frozen=True)
class Witness:
    """Notes the command line and the environment of every Python that starts."""

    directory: Path

    def processes(self, *words: str) -> list[dict[str, Any]]:
        """Those that have all the words on their command lines."""
        found = [json.loads(file.read_text() or "{}") for file in self.directory.glob("*.json")]
        return [one for one in found if one and set(words) <= set(one["command"])]


@pytest.fixture
def witness(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Witness:
    """A witness of what is started from now on, by this process or by another one."""
    directory = tmp_path / "witness"
    directory.mkdir()
    (directory / "sitecustomize.py").write_text(WITNESS)
    monkeypatch.setenv("PYTHONPATH", str(directory))
    return Witness(directory)


@pytest.fixture
def hostile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, in which someone left modules under names that are imported; each says that it ran."""
    directory = tmp_path / "hostile"
    directory.mkdir()
    for name in ("queue", "boto3", "dagster", "polars", "obstore", "psycopg"):
        (directory / f"{name}.py").write_text(
            f"import pathlib; pathlib.Path({str(directory)!r}, 'ran-{name}').touch(); raise SystemExit(3)\n"
        )
    monkeypatch.chdir(directory)
    return directory


def ran(hostile: Path) -> list[str]:
    return sorted(path.name for path in hostile.glob("ran-*"))


def test_drain_processes_import_nothing_from_where_the_run_was_started(
    pipeline: Pipeline, witness: Witness, hostile: Path
) -> None:
    pipeline.send(login(user_id=f"u-{number}") for number in range(20))
    result = pipeline.run({"raw_login_messages": {"processes": 2}})

    assert metadata(result, "raw_login_messages")["processes"] == 2
    logged = [entry.user_message for entry in pipeline.instance.all_logs(result.run_id) if not entry.is_dagster_event]
    # Each step tells of its first batch; the number of messages that one process lands is chance.
    assert [line.partition(" so far: ")[0] for line in logged if " so far: " in line] == ["landed", "masked", "loaded"]
    assert pipeline.totals().loaded == 20
    assert len(witness.processes("loginetl_assets.steps.drain.workers")) == 2
    assert ran(hostile) == []


def test_drain_processes_have_the_pipelines_keysets_and_not_the_officers(
    pipeline: Pipeline, witness: Witness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOGINETL_KEYSET_OFFICER", OFFICER)
    pipeline.send(login(user_id=f"u-{number}") for number in range(20))
    pipeline.run({"raw_login_messages": {"processes": 2}})

    workers = witness.processes("loginetl_assets.steps.drain.workers")
    assert len(workers) == 2
    assert {worker["environ"]["LOGINETL_DATABASE_URL"] for worker in workers} == {pipeline.settings.database_url}
    assert not [worker["command"] for worker in workers if OFFICER in json.dumps(worker)]


def test_a_process_that_loads_the_definitions_hands_the_officers_keyset_to_nobody(witness: Witness) -> None:
    child = "import os, sys; print(os.environ.get('LOGINETL_KEYSET_OFFICER'))"
    program = (
        "import os, subprocess, sys\n"
        "from loginetl_assets import definitions\n"
        f"subprocess.run([sys.executable, '-c', {child!r}], check=True)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "LOGINETL_KEYSET_OFFICER": OFFICER},
        capture_output=True,
        text=True,
        check=True,
    )

    assert done.stdout.strip() == "None"


def test_the_dagster_uis_processes_have_no_officers_keyset_and_import_nothing_from_where_it_was_opened(
    settings: Settings, addresses: Addresses, witness: Witness, hostile: Path, tmp_path: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = int(probe.getsockname()[1])
    environment = {
        **os.environ,
        **settings.as_environment(),
        "LOGINETL_KEYSET_OFFICER": OFFICER,
        "DAGSTER_HOME": str(prepare_dagster_home(tmp_path / "of-dagster", addresses.dagster_database_url)),
    }
    with (
        (tmp_path / "output").open("wb") as output,
        subprocess.Popen([LOGINETL, "ui", "--port", str(port)], env=environment, stdout=output, stderr=output) as page,
    ):
        try:
            eventually("the page answers", lambda: _answers(port) or page.poll() is not None, seconds=120)
            eventually(
                "the definitions are loaded", lambda: witness.processes("loginetl_assets.definitions"), seconds=60
            )
        finally:
            page.send_signal(signal.SIGINT)
            page.wait(60)

    started = [one for one in witness.processes() if LOGINETL not in one["command"]]
    assert len(started) >= 3, (tmp_path / "output").read_text()  # page, daemon, code location
    assert not [one["command"] for one in started if OFFICER in json.dumps(one)]
    assert ran(hostile) == []


def _answers(port: int) -> bool:
    try:
        return requests.get(f"http://127.0.0.1:{port}/server_info", timeout=5).ok
    except requests.RequestException:
        return False
