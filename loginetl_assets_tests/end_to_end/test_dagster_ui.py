"""`make ui` as a newcomer meets it: the server as a process of its own, driven in a real Chromium.

SCREENSHOTS=docs/images makes the two pictures of the documentation on the way.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import zlib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pytest
import requests
from playwright.sync_api import Page, expect, sync_playwright
from psycopg import sql

from loginetl_assets.local.stack import EmbeddedStack
from loginetl_assets_tests.support.browser import MISSING, find_browser
from loginetl_assets_tests.support.waiting import eventually

# One worker runs them all: they share an instance and a browser.
pytestmark = [pytest.mark.timeout(240), pytest.mark.xdist_group("dagster ui")]

SCREENSHOTS = os.environ.get("SCREENSHOTS")

REPOSITORY = Path(__file__).parents[2]
LOGINETL = str(Path(sys.executable).with_name("loginetl"))

ASSETS = (
    "login_queue",
    "raw_login_messages",
    "masked_logins",
    "rejected_logins",
    "pii_vault",
    "user_logins",
    "login_activity",
)

SAMPLE = (files("loginetl_assets") / "sample" / "login_messages.jsonl").read_text()
SAMPLE_LOADED = 99  # one of the hundred is no login
MORE = [
    {
        "user_id": f"later-{number}",
        "app_version": "3.1.4",
        "device_type": "ios",
        "ip": f"198.51.100.{200 + number}",
        "locale": "NO",
        "device_id": f"later-device-{number}",
    }
    for number in range(3)
]

# Generous: a run takes 8 s by itself, and thrice that beside the other work of a two-core machine.
START_SECONDS = 90
RUN_SECONDS = 90
SENSOR_SECONDS = 120
PAGE_SECONDS = 20

# No window, no sandbox (CI runs as root), and nothing of a browser's own traffic.
CHROMIUM_ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]

RUNS = """{ runsOrError { ... on Runs { results {
  runId status jobName runConfigYaml tags { key value } assetSelection { path }
} } } }"""

SENSORS = """query ($repository: RepositorySelector!) { sensorsOrError(repositorySelector: $repository) {
  ... on Sensors { results { id name sensorState { status ticks(limit: 100) { skipReason error { message stack } } } } }
} }"""

METADATA = """fragment Metadata on MetadataEntry {
  label description
  ... on TextMetadataEntry { text }
  ... on MarkdownMetadataEntry { mdStr }
  ... on JsonMetadataEntry { jsonString }
  ... on PathMetadataEntry { path }
  ... on UrlMetadataEntry { url }
  ... on IntMetadataEntry { intRepr }
  ... on FloatMetadataEntry { floatRepr }
  ... on BoolMetadataEntry { boolValue }
  ... on TableMetadataEntry { table { records } }
  ... on TableSchemaMetadataEntry { schema { columns { name type description } } }
  ... on TableColumnLineageMetadataEntry { lineage { columnName columnDeps { columnName } } }
}"""

EVENTS = (
    """query ($run: ID!, $cursor: String) { logsForRun(runId: $run, afterCursor: $cursor, limit: 500) {
  ... on EventConnection { cursor hasMore events {
    __typename
    ... on MessageEvent { message stepKey eventType }
    ... on DisplayableEvent { label description metadataEntries { ...Metadata } }
    ... on ErrorEvent { error { message stack causes { message stack } } }
    ... on MaterializationEvent { tags { key value } }
    ... on AssetCheckEvaluationEvent { evaluation { checkName success description metadataEntries { ...Metadata } } }
  } }
} }"""
    + METADATA
)

DEFINITIONS = (
    """query ($repository: RepositorySelector!, $job: PipelineSelector!) {
  allTopLevelResourceDetailsOrError(repositorySelector: $repository) { ... on ResourceDetailsList { results {
    name description resourceType
    configFields { name description defaultValueAsJson }
    configuredValues { key value type }
    nestedResources { name type resource { name configuredValues { key value } } }
  } } }
  runConfigSchemaOrError(selector: $job) { ... on RunConfigSchema { rootDefaultYaml } }
  assetNodes {
    assetKey { path } description metadataEntries { ...Metadata }
    assetMaterializations { metadataEntries { ...Metadata } }
    assetChecksOrError { ... on AssetChecks { checks {
      name description
      executionForLatestMaterialization { evaluation { description metadataEntries { ...Metadata } } }
    } } }
  }
  instance { info }
}"""
    + METADATA
)


@dataclass
class Server:
    """`loginetl ui` in a session of its own, with a home of its own."""

    home: Path
    log: Path
    url: str
    process: subprocess.Popen[bytes]

    def loginetl(self, *arguments: str, given: str | None = None) -> str:
        """Runs the command as a second terminal would."""
        done = subprocess.run(
            [LOGINETL, *arguments], env=environment(self.home), input=given, capture_output=True, text=True, check=False
        )
        assert done.returncode in {0, 3}, done.stderr  # 3: what these tests send is for a person to look at
        return done.stdout

    def loaded(self) -> int:
        return int(json.loads(self.loginetl("status", "--json"))["loaded"])

    def graphql(self, query: str, **variables: object) -> dict[str, Any]:
        answer = requests.post(f"{self.url}/graphql", json={"query": query, "variables": variables}, timeout=30).json()
        assert "errors" not in answer, answer["errors"]
        data: dict[str, Any] = answer["data"]
        return data

    def repository(self) -> dict[str, str]:
        found = self.graphql(
            "{ repositoriesOrError { ... on RepositoryConnection { nodes { name location { name } } } } }"
        )
        (one,) = found["repositoriesOrError"]["nodes"]
        return {"repositoryName": one["name"], "repositoryLocationName": one["location"]["name"]}

    def runs(self) -> list[dict[str, Any]]:
        """All runs, newest first."""
        runs: list[dict[str, Any]] = self.graphql(RUNS)["runsOrError"]["results"]
        return runs

    def ended_run(self, known: set[str], *, seconds: float) -> dict[str, Any]:
        """The one run that is not `known`, once it has ended."""

        def look() -> dict[str, Any] | None:
            ended = ("SUCCESS", "FAILURE", "CANCELED")
            return next((run for run in self.runs() if run["runId"] not in known and run["status"] in ended), None)

        return eventually("a new run has ended", look, seconds=seconds)

    def queue_depth_sensor(self) -> dict[str, Any]:
        sensors = self.graphql(SENSORS, repository=self.repository())["sensorsOrError"]["results"]
        return next(sensor for sensor in sensors if sensor["name"] == "queue_depth")

    def stop_sensor(self) -> None:
        self.graphql(
            "mutation ($id: String!) { stopSensor(id: $id) { __typename } }", id=self.queue_depth_sensor()["id"]
        )
        assert self.queue_depth_sensor()["sensorState"]["status"] == "STOPPED"

    def start_sensor(self) -> None:
        selector = self.repository() | {"sensorName": "queue_depth"}
        self.graphql(
            "mutation ($sensor: SensorSelector!) { startSensor(sensorSelector: $sensor) { __typename } }",
            sensor=selector,
        )
        assert self.queue_depth_sensor()["sensorState"]["status"] == "RUNNING"

    def stop(self) -> None:
        """Ends the server and the services, as Ctrl-C and `loginetl down` would; a second time does nothing."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(timeout=20)
        deadline = time.monotonic() + 10  # the code server, the daemon and runs under way
        while _group(self.process.pid) and time.monotonic() < deadline:
            time.sleep(0.2)
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.loginetl("down")

    def processes(self) -> list[str]:
        """Every process that has the home in its command line or its environment."""
        found, home = [], str(self.home)
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                command = process.cmdline()
                if home in " ".join(command) or any(home in value for value in process.environ().values()):
                    found.append(f"{process.pid} {process.status()} {' '.join(command)[:200]}")
        return found


def environment(home: Path) -> dict[str, str]:
    return os.environ | {"LOGINETL_HOME": str(home)}


def _group(leader: int) -> list[int]:
    """The living members of a process group."""
    members = []
    for process in psutil.process_iter():
        with suppress(psutil.Error, ProcessLookupError):
            if os.getpgid(process.pid) == leader and process.status() != psutil.STATUS_ZOMBIE:
                members.append(process.pid)
    return members


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    directory = tmp_path_factory.mktemp("page")
    home, log = directory / "home", directory / "ui.log"
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with log.open("wb") as output:
        process = subprocess.Popen(
            [LOGINETL, "ui", "--port", str(port)],
            cwd=REPOSITORY,
            env=environment(home),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    server = Server(home, log, f"http://127.0.0.1:{port}", process)

    def answers() -> bool:
        assert process.poll() is None, f"`loginetl ui` ended: {log.read_text()[-2_000:]}"
        with suppress(requests.ConnectionError):
            return requests.get(f"{server.url}/server_info", timeout=5).ok
        return False

    try:
        eventually("the page answers", answers, seconds=START_SECONDS)
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="module")
def page(server: Server) -> Iterator[Page]:
    if (executable := find_browser()) is None:
        pytest.skip(MISSING)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=CHROMIUM_ARGUMENTS)
        page = browser.new_page(base_url=server.url, viewport={"width": 1760, "height": 900})
        page.set_default_timeout(PAGE_SECONDS * 1_000)
        expect.set_options(timeout=PAGE_SECONDS * 1_000)
        yield page
        browser.close()


@pytest.fixture(scope="module")
def materialized(server: Server, page: Page) -> dict[str, Any]:
    """The run that a click on `Materialize all` started on the hundred samples."""
    # On from the start, as the environment is local; off for as long as the click has to be what starts the run.
    assert server.queue_depth_sensor()["sensorState"]["status"] == "RUNNING"
    server.stop_sensor()
    server.loginetl("send", "--sample")
    before = {run["runId"] for run in server.runs()}
    page.goto("/")
    page.get_by_role("link").filter(has_text="Lineage").click()
    page.get_by_role("button", name=f"Materialize all ({len(ASSETS) - 1})").click()
    expect(page.get_by_text("Launched run")).to_be_visible()
    return server.ended_run(before, seconds=RUN_SECONDS)


def asset_group(server: Server, page: Page) -> None:
    location = server.repository()["repositoryLocationName"]
    page.goto(f"/locations/{location}/asset-groups/logins")
    expect(page.get_by_text("pii_vault", exact=True).first).to_be_visible()


def private_values() -> set[str]:
    """What no page may show: each ip and device id, and the one word that the rejected message says."""
    bodies = [json.loads(line) for line in SAMPLE.splitlines()] + MORE
    values = {str(body[name]) for body in bodies for name in ("ip", "device_id") if body.get(name)}
    assert len(values) > 150
    return values | {"oops_wrong_msg_type"}


def key_material(home: Path) -> set[str]:
    keysets = [json.loads(file.read_text()) for file in (home / "keys").glob("*.json")]
    values = {key["keyData"]["value"] for keyset in keysets for key in keyset["key"]}
    assert len(values) == 5  # four keysets and the officer's private one
    return values | {"keyData"}


def assert_free_of(secrets: set[str], text: str, where: str = "the page") -> None:
    """None of the secrets stands in the text; a failure tells how many do, and not which."""
    __tracebackhide__ = True
    found = sum(secret in text for secret in secrets)
    assert not found, f"{found} secrets stand in {where}"


def test_the_page_opens_with_nothing_in_the_way(page: Page) -> None:
    page.goto("/")
    expect(page.get_by_role("link").filter(has_text="Lineage")).to_be_visible()
    page.wait_for_timeout(2_000)  # Dagster's dialog comes a second after the page
    assert page.get_by_role("button", name="Skip").count() == 0


def test_the_asset_graph_shows_the_seven_assets_of_the_group_logins(server: Server, page: Page) -> None:
    asset_group(server, page)
    expect(page.get_by_text("Asset Group in")).to_be_visible()
    for asset in ASSETS:
        expect(page.get_by_text(asset, exact=True).first).to_be_visible()
    nodes = server.graphql("{ assetNodes { assetKey { path } groupName } }")["assetNodes"]
    assert {(*node["assetKey"]["path"], node["groupName"]) for node in nodes} == {(asset, "logins") for asset in ASSETS}


def test_materialize_all_starts_a_run_that_loads_the_samples(server: Server, materialized: dict[str, Any]) -> None:
    assert materialized["status"] == "SUCCESS"
    assert {tuple(key["path"]) for key in materialized["assetSelection"]} == {(asset,) for asset in ASSETS[1:]}
    assert server.loaded() == SAMPLE_LOADED


def test_the_graph_shows_what_was_materialized(server: Server, page: Page, materialized: dict[str, Any]) -> None:
    asset_group(server, page)
    page.get_by_role("button", name="Hide navigation").click()  # for good: no later test uses it
    asset_group(server, page)  # again, so that the graph fills the wider place: a smaller one shows no checks
    # `health` warns, as the queue_depth sensor is switched off. The check of the queue is the health sensor's.
    for passed in ("2 / 2 Passed", "1 / 1 Passed", "3 / 4 Passed"):
        expect(page.get_by_text(passed).first).to_be_visible()
    assert_free_of(private_values(), page.content())
    if SCREENSHOTS:  # of a graph without a warning
        server.start_sensor()
        expect(page.get_by_text("4 / 4 Passed")).to_be_visible(timeout=SENSOR_SECONDS * 1_000)
        page.screenshot(path=Path(SCREENSHOTS) / "asset-graph.png")
        server.stop_sensor()


def test_the_table_s_page_shows_its_rows_and_no_value(server: Server, page: Page, materialized: dict[str, Any]) -> None:
    if SCREENSHOTS:  # a picture without "Not evaluated": the daemon looks after freshness once a minute or so
        query = """{ assetNodes { freshnessStatusInfo { freshnessStatus } } }"""
        eventually("freshness is evaluated", lambda: "HEALTHY" in json.dumps(server.graphql(query)), seconds=120)
    page.goto("/assets/user_logins")
    expect(page.get_by_text("Row count")).to_be_visible()
    expect(page.get_by_role("row", name="loaded")).to_contain_text("99")
    assert_free_of(private_values(), page.content())
    if SCREENSHOTS:
        page.screenshot(path=Path(SCREENSHOTS) / "user-logins.png")
    page.goto("/assets/user_logins?view=events")
    for row in (
        "dagster/row_count 99",
        "rows 99",
        "loaded 99",
        "duplicates 0",
        "batches 1",
        "quarantined_batches 0",
    ):
        expect(page.get_by_role("row", name=row, exact=True)).to_be_visible()
    assert_free_of(private_values(), page.content())


def test_the_report_s_page_draws_where_all_messages_are(page: Page, materialized: dict[str, Any]) -> None:
    page.goto("/assets/login_activity")
    page.get_by_text("[Show Markdown]").first.click()
    picture = page.get_by_role("dialog").get_by_alt_text("Where all messages are")
    expect(picture).to_be_visible()
    assert picture.evaluate("image => image.complete && image.naturalWidth > 300")
    expect(page.get_by_text("100 landed = 99 loaded + 0 duplicates + 1 rejected")).to_be_visible()
    assert_free_of(private_values(), page.content())


@pytest.mark.parametrize(
    ("check", "verdict", "count"),
    [
        ("no_message_loaded_twice", "Succeeded", "loaded_twice 0"),
        ("counts_reconcile", "Succeeded", "messages 100"),
        ("duplicates", "Succeeded", "duplicate_rows 1"),
    ],
)
def test_the_checks_tab_shows_each_result_and_no_value(
    page: Page, materialized: dict[str, Any], check: str, verdict: str, count: str
) -> None:
    page.goto("/assets/user_logins?view=checks")
    entry = page.get_by_title(check, exact=True).first
    entry.click()
    expect(entry.locator("xpath=..")).to_contain_text(verdict)
    expect(page.get_by_role("row", name=count, exact=True)).to_be_visible()
    assert_free_of(private_values(), page.content())


def test_messages_sent_while_the_sensor_is_on_are_loaded_without_a_hand(
    server: Server, page: Page, materialized: dict[str, Any]
) -> None:
    before, loaded = {run["runId"] for run in server.runs()}, server.loaded()
    server.loginetl("send", "-", given="".join(json.dumps(body) + "\n" for body in MORE))
    server.start_sensor()
    run = server.ended_run(before, seconds=SENSOR_SECONDS)
    assert run["status"] == "SUCCESS"
    assert run["jobName"] == "login_etl"
    assert {"key": "dagster/sensor_name", "value": "queue_depth"} in run["tags"]
    assert server.loaded() == loaded + len(MORE)
    page.goto("/runs")
    expect(page.get_by_role("link", name=run["runId"][:8])).to_be_visible()
    page.goto(f"/runs/{run['runId']}")
    expect(page.get_by_text("RUN_SUCCESS")).to_be_visible()
    assert_free_of(private_values(), page.content())


def test_graphql_gives_no_value_and_no_key(server: Server, materialized: dict[str, Any]) -> None:
    secrets = private_values() | key_material(server.home)
    repository = server.repository()
    for run in server.runs():
        assert_free_of(secrets, json.dumps(run), "a run")
        cursor, kinds = None, set()
        while True:
            events = server.graphql(EVENTS, run=run["runId"], cursor=cursor)["logsForRun"]
            kinds |= {event["__typename"] for event in events["events"]}
            assert_free_of(secrets, json.dumps(events), "events")
            cursor = events["cursor"]
            if not events["hasMore"]:
                break
        assert kinds > {"MaterializationEvent", "AssetCheckEvaluationEvent", "RunSuccessEvent"}
    job = repository | {"pipelineName": "login_etl"}
    definitions = server.graphql(DEFINITIONS, repository=repository, job=job)
    resources = definitions["allTopLevelResourceDetailsOrError"]["results"]
    assert {resource["name"] for resource in resources} == {
        "queue",
        "database",
        "landing",
        "payloads",
        "keyring",
        "rules",
    }
    assert "max_messages" in definitions["runConfigSchemaOrError"]["rootDefaultYaml"]
    assert_free_of(secrets, json.dumps(definitions), "definitions")
    assert_free_of(secrets, json.dumps(server.graphql(SENSORS, repository=repository)), "ticks")


def test_dagster_s_own_tables_and_logs_hold_no_value_and_no_key(server: Server, materialized: dict[str, Any]) -> None:
    secrets = private_values() | key_material(server.home)
    addresses = EmbeddedStack(server.home).find()
    assert addresses
    with psycopg.connect(addresses.dagster_database_url) as connection:
        tables = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'").fetchall()
        select_text = sql.SQL("SELECT t::text FROM {} AS t")
        held = {
            table: [row for (row,) in connection.execute(select_text.format(sql.Identifier(table)))]
            for (table,) in tables
        }
        snapshots = connection.execute("SELECT snapshot_body FROM snapshots").fetchall()
    held["snapshots"] = [zlib.decompress(body).decode() for (body,) in snapshots]  # jobs, with their defaults
    for table, known in (
        ("event_logs", "duplicate_rows"),
        ("runs", materialized["runId"]),
        ("snapshots", "user_logins"),
    ):
        assert known in "".join(held[table])  # what is looked through is what it is taken for
    for table, rows in held.items():
        assert_free_of(secrets, "".join(rows), table)
    logs = [server.log, *(server.home / "logs").rglob("*"), *(server.home / "dagster").rglob("*")]
    for file in filter(Path.is_file, logs):
        assert_free_of(secrets, file.read_bytes().decode(errors="replace"), file.name)


# The last test, as it ends what the others use.
def test_down_ends_the_ui_before_the_services_and_leaves_no_process_behind(server: Server) -> None:
    assert server.processes()
    down = subprocess.run([LOGINETL, "down"], env=environment(server.home), capture_output=True, text=True, check=True)

    assert down.stderr == "stopped, and the Dagster UI with it\n"
    assert server.process.wait(timeout=10) == 0
    assert "Traceback" not in server.log.read_text()
    assert server.processes() == []
    assert not _group(server.process.pid)
