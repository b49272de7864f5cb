"""Dagster's own failures: its processes are killed, stopped and cut off in the middle, and nothing is lost or doubled.

The processes are those of `docker-compose.yml` (code server, web server, daemon; runs are children of the code server)
on an instance with the settings of `deploy/dagster.yaml`, whose storage is an embedded Postgres of this module's own,
as one test restarts it. A run is caught in the middle by a lock that another session holds on a table it needs.
"""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from random import SystemRandom
from shutil import rmtree
from tempfile import mkdtemp
from typing import Any

import dagster as dg
import psutil
import psycopg
import pytest
import requests
import yaml
from dagster._core.errors import DagsterUserCodeUnreachableError
from dagster._core.scheduler.instigation import (
    InstigatorState,
    InstigatorTick,
    InstigatorType,
    SensorInstigatorData,
    TickStatus,
)
from dagster._grpc.client import DagsterGrpcClient
from sqlalchemy import text

from loginetl_assets.embedded import Addresses
from loginetl_assets.errors import TransientError
from loginetl_assets.local.stack import EmbeddedStack
from loginetl_assets.settings import Settings
from loginetl_assets.storage.database import LoginDatabase
from loginetl_assets_tests.support.pipeline import Pipeline, login
from loginetl_assets_tests.support.waiting import eventually

# One worker runs them all: they share an instance.
pytestmark = [pytest.mark.timeout(180), pytest.mark.xdist_group("dagster")]

ROOT = Path(__file__).parents[2]
SCRIPTS = Path(sys.executable).parent

LOCATION = "loginetl"
MESSAGES_PER_RUN = 10

# Generous, for a machine with other work: a server starts in 5 s, a run takes 6 s, a tick comes within 5 s.
START_SECONDS = 60.0
RUN_SECONDS = 60.0
TICK_SECONDS = 90.0

LAUNCH = """mutation ($run: ExecutionParams!) { launchRun(executionParams: $run) {
  __typename ... on LaunchRunSuccess { run { runId } } ... on PythonError { message }
} }"""

TERMINATE = "mutation ($run: String!) { terminateRun(runId: $run) { __typename } }"

DRY_RUN = """mutation ($sensor: SensorSelector!) { sensorDryRun(selectorData: $sensor, cursor: null) {
  __typename ... on DryRunInstigationTick { evaluationResult { skipReason runRequests { runConfigYaml } } }
} }"""

LOCATIONS = """{ workspaceOrError { ... on Workspace { locationEntries {
  locationOrLoadError { __typename ... on PythonError { errorChain { error { message } } } }
} } } }"""

SUCCESS, FAILURE, CANCELED = dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED


class Alerts(HTTPServer):
    """The chat tool to which the `failed_run` sensor posts; `got` holds what came."""

    def __init__(self) -> None:
        got: list[dict[str, Any]] = []

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                got.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        super().__init__(("127.0.0.1", 0), Handler)
        self.got = got


def free_port() -> int:
    """A port below those that the system gives away: it must stay free until its server starts, and starts again."""
    while True:
        port = SystemRandom().randrange(20_000, 30_000)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


@dataclass
class Deployment:
    """Code server, web server and daemon as processes, and what they work on."""

    directory: Path
    addresses: Addresses
    pipeline: Pipeline  # its instance is the deployment's
    alerts: Alerts
    code_port: int = field(default_factory=free_port)
    web_port: int = field(default_factory=free_port)
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def instance(self) -> dg.DagsterInstance:
        return self.pipeline.instance

    # Processes

    def start(self, name: str, **environment: str) -> None:
        """Starts one of the three, unless it runs, with the commands of docker-compose.yml; does not wait."""
        if name in self.processes and self.processes[name].poll() is None:
            return
        where = ["--workspace", str(self.directory / "workspace.yaml")]
        module = ["--module-name", "loginetl_assets.definitions"]
        host = ["--host", "127.0.0.1", "--port"]
        command = {
            "code": ["dagster", "code-server", "start", *host, str(self.code_port), *module],
            "web": ["dagster-webserver", *host, str(self.web_port), *where],
            "daemon": ["dagster-daemon", "run", *where],
        }[name]
        with (self.directory / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                [SCRIPTS / command[0], *command[1:]],
                cwd=self.directory,
                env={
                    **os.environ,
                    **self.pipeline.settings.as_environment(),
                    "DAGSTER_HOME": str(self.directory),
                    **environment,
                },
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def start_all(self) -> None:
        """Starts what does not run, and waits until the location is loaded."""
        for name in ("code", "web", "daemon"):
            self.start(name)
        self.await_location()

    def await_location(self) -> None:
        """Waits until the code server answers and the web server, which remembers it, has loaded it."""

        def loaded() -> bool:
            with suppress(DagsterUserCodeUnreachableError):
                DagsterGrpcClient(port=self.code_port).ping("")
                return self.location() == "RepositoryLocation"
            return False

        eventually("the location is loaded", loaded, seconds=START_SECONDS)

    def location(self) -> str | None:
        """How the web server sees the code location: its type, or its errors' text; None while it does not answer."""
        with suppress(requests.ConnectionError):
            (entry,) = self.graphql(LOCATIONS)["workspaceOrError"]["locationEntries"]
            seen = entry["locationOrLoadError"]
            return seen and str(seen.get("errorChain", seen["__typename"]))
        return None

    def kill(self, name: str) -> None:
        """Ends one process by SIGKILL; its children live on."""
        self.processes[name].kill()
        self.processes[name].wait()

    def kill_container(self, name: str) -> None:
        """Ends a process and all its descendants by SIGKILL, as a container ends."""
        with suppress(ProcessLookupError):
            os.killpg(self.processes[name].pid, signal.SIGKILL)
        self.processes[name].wait()

    def log(self, name: str) -> str:
        return (self.directory / f"{name}.log").read_text()

    # GraphQL

    def graphql(self, query: str, **variables: object) -> dict[str, Any]:
        answer = requests.post(
            f"http://127.0.0.1:{self.web_port}/graphql", json={"query": query, "variables": variables}, timeout=30
        ).json()
        assert "errors" not in answer, answer["errors"]
        data: dict[str, Any] = answer["data"]
        return data

    def launch(self, config: Mapping[str, object] | None = None) -> str:
        """Launches the job as the page's button does; gives the run's id."""
        run = {
            "selector": {**self.repository(), "jobName": "login_etl"},
            "runConfigData": {"ops": {"raw_login_messages": {"config": config or {}}}},
        }
        answer = self.graphql(LAUNCH, run=run)["launchRun"]
        assert answer["__typename"] == "LaunchRunSuccess", answer
        return str(answer["run"]["runId"])

    @staticmethod
    def repository() -> dict[str, str]:
        return {"repositoryName": "__repository__", "repositoryLocationName": LOCATION}

    # Runs

    def status(self, run_id: str) -> dg.DagsterRunStatus:
        run = self.instance.get_run_by_id(run_id)
        assert run is not None
        return run.status

    def unfinished(self) -> list[str]:
        return [run.run_id for run in self.instance.get_runs() if not run.is_finished]

    def ended(self, run_id: str, *, seconds: float = RUN_SECONDS) -> dg.DagsterRunStatus:
        """How the run ended, once it has."""
        eventually("the run has ended", lambda: run_id not in self.unfinished(), seconds=seconds)
        return self.status(run_id)

    def starts(self, run_id: str) -> int:
        """How many times a worker began to work on the run."""
        return len(self.instance.all_logs(run_id, of_type=dg.DagsterEventType.RUN_START))

    def worker(self, run_id: str) -> int:
        """The pid of the run's process, which reports it at its start."""
        messages = [log.message for log in self.instance.all_logs(run_id, of_type=dg.DagsterEventType.ENGINE_EVENT)]
        (pid,) = re.findall(r"Started process for run \(pid: (\d+)\)", "\n".join(messages))
        return int(pid)

    def let_a_day_pass(self) -> None:
        """Moves every run a day back: those that failed are no reason to hold back now, and those that hang are old."""
        with psycopg.connect(self.addresses.dagster_database_url) as connection:
            connection.execute(
                "UPDATE runs SET create_timestamp = create_timestamp - interval '1 day',"
                " update_timestamp = update_timestamp - interval '1 day',"
                " start_time = start_time - 86400, end_time = end_time - 86400"
            )

    # Sensors, whose clock the tests turn: none ticks unless it is told to, and then it does not wait its 30 s. It is
    # turned only while no tick is under way: the daemon, too, writes it at a tick's begin and end.

    def _sensor(self, name: str) -> tuple[InstigatorState, SensorInstigatorData] | None:
        states = self.instance.all_instigator_state(instigator_type=InstigatorType.SENSOR)
        state = next((state for state in states if state.name == name), None)
        return (
            (state, state.instigator_data)
            if state and isinstance(state.instigator_data, SensorInstigatorData)
            else None
        )

    def _turn_clock(self, sensor: str, last_tick_start: float | None) -> None:
        state, data = self._sensor(sensor) or pytest.fail(f"{sensor} never ticked")
        turned = data._replace(last_tick_timestamp=None, last_tick_start_timestamp=last_tick_start)
        self.instance.update_instigator_state(state.with_data(turned))

    def _last_tick(self, sensor: str) -> InstigatorTick | None:
        found = self._sensor(sensor)
        ticks = found and self.instance.get_ticks(found[0].instigator_origin_id, found[0].selector_id, limit=1)
        return ticks[0] if ticks else None

    def start_tick(self, sensor: str) -> InstigatorTick:
        """The sensor's next tick, as soon as the daemon has begun it."""
        before = self._last_tick(sensor)

        def look() -> InstigatorTick | None:
            tick = self._last_tick(sensor)
            return tick if tick and (before is None or tick.tick_id != before.tick_id) else None

        if before:
            self._turn_clock(sensor, None)
        return eventually(f"{sensor} ticks", look, seconds=TICK_SECONDS)

    def tick(self, sensor: str) -> InstigatorTick:
        """The sensor's next tick, at its end; the clock stands then."""
        begun = self.start_tick(sensor)

        def look() -> InstigatorTick | None:
            tick, found = self._last_tick(sensor), self._sensor(sensor)
            # The daemon writes both at a tick's end, in either order.
            written = found and found[1].last_tick_timestamp == begun.timestamp
            is_over = tick and tick.tick_id == begun.tick_id and tick.status is not TickStatus.STARTED
            return tick if is_over and written else None

        ended = eventually(f"the tick of {sensor} ends", look, seconds=TICK_SECONDS)
        self._turn_clock(sensor, time.time() + 86_400)
        return ended

    # What the runs are about

    def send(self, who: str, messages: int) -> list[str]:
        """Sends logins, each of a user of its own; gives the users."""
        users = [f"{who}-{number}" for number in range(messages)]
        self.pipeline.send(login(user_id=user, device_id=f"device-{user}") for user in users)
        return users

    @contextmanager
    def held(self, table: str, mode: str) -> Iterator[Callable[[], list[int]]]:
        """Locks a table from another session; yields a function that returns which server processes wait for it."""
        with self.pipeline.services.database().transaction() as connection:
            holder = connection.execute(text("SELECT pg_backend_pid()")).scalar_one()
            connection.execute(text(f"LOCK TABLE {table} IN {mode} MODE"))

            def waiting() -> list[int]:
                blocked = "SELECT pid FROM pg_stat_activity WHERE :holder = ANY(pg_blocking_pids(pid))"
                return [row.pid for row in self.pipeline.query(blocked, holder=holder)]

            yield waiting

    @contextmanager
    def caught_at(self, table: str, mode: str) -> Iterator[Callable[[], list[int]]]:
        """The same, entered once one of them waits: a run is in the middle of its work then."""
        with self.held(table, mode) as waiting:
            eventually("the run is in the middle", waiting, seconds=RUN_SECONDS)
            yield waiting

    def claims(self) -> int:
        """How many batches some run has claimed."""
        every, free = (
            self.pipeline.query(f"SELECT FROM loginetl.batches {claim}") for claim in ("", "FOR UPDATE SKIP LOCKED")
        )
        return len(every) - len(free)

    def assert_settled(self, users: Iterable[str]) -> None:
        """Every one of the messages is a row, once; nothing waits, nothing is pending, and the counts add up."""
        depth = self.pipeline.services.queue().depth()
        assert (depth.queued, depth.in_flight) == (0, 0)
        users = list(users)
        rows = self.pipeline.query(
            "SELECT user_id, count(*) AS times FROM user_logins WHERE user_id = ANY(:users) GROUP BY user_id",
            users=users,
        )
        assert {row.user_id: row.times for row in rows} == dict.fromkeys(users, 1)
        totals = self.pipeline.totals()
        assert totals.pending_batches == totals.pending == totals.quarantined_batches == 0
        assert totals.messages == totals.loaded + totals.duplicates + totals.rejected + totals.erased + totals.lost
        assert totals.loaded == self.pipeline.query("SELECT count(*) FROM user_logins")[0][0]

    def run_settles(self, users: Iterable[str]) -> None:
        """The next run that someone starts settles everything."""
        assert self.ended(self.launch()) is SUCCESS
        self.assert_settled(users)


@pytest.fixture(scope="module")
def stack() -> Iterator[EmbeddedStack]:
    """An embedded stack of this module's own, as it is restarted; not below pytest's directory, see `stack_home`."""
    home = Path(mkdtemp(prefix="loginetl-tests-"))
    stack = EmbeddedStack(home)
    try:
        stack.start()
        yield stack
    finally:
        stack.stop()
        rmtree(home)


@pytest.fixture(scope="module")
def deployed(stack: EmbeddedStack) -> Iterator[Deployment]:
    """The deployment, running, its sensors' clocks stopped."""
    addresses = stack.start()
    LoginDatabase(addresses.database_url).migrate()
    directory = stack.home / "deployment"
    directory.mkdir()
    instance = yaml.safe_load((ROOT / "deploy/dagster.yaml").read_text())
    instance["storage"]["postgres"]["postgres_url"] = addresses.dagster_database_url
    instance["run_monitoring"]["poll_interval_seconds"] = 2
    instance["run_coordinator"]["config"] = {"dequeue_interval_seconds": 1}
    instance["concurrency"]["runs"]["max_concurrent_runs"] = 2
    for section in ("compute_logs", "local_artifact_storage"):
        instance[section]["config"]["base_dir"] = str(directory / section)
    (directory / "dagster.yaml").write_text(yaml.safe_dump(instance))
    with Alerts() as alerts, dg.DagsterInstance.from_config(str(directory)) as dagster:
        threading.Thread(target=alerts.serve_forever, daemon=True).start()
        settings = Settings(
            home=directory,
            queue_url=addresses.queue_url,
            database_url=addresses.database_url,
            visibility_seconds=30,
            messages_per_run=MESSAGES_PER_RUN,
            max_runs_in_flight=3,
            alert_webhook_url=f"http://127.0.0.1:{alerts.server_port}",
        )
        pipeline = Pipeline(settings, dagster)
        deployment = Deployment(directory, addresses, pipeline, alerts)
        workspace = yaml.safe_load((ROOT / "deploy/workspace.yaml").read_text())
        workspace["load_from"][0]["grpc_server"] |= {"host": "127.0.0.1", "port": deployment.code_port}
        (directory / "workspace.yaml").write_text(yaml.safe_dump(workspace))
        try:
            deployment.start_all()
            for sensor in ("queue_depth", "failed_run", "recovered_run"):
                deployment.tick(sensor)
            yield deployment
        finally:
            for name in deployment.processes:
                deployment.kill_container(name)
            alerts.shutdown()


@pytest.fixture
def deployment(deployed: Deployment) -> Iterator[Deployment]:
    """The deployment as a test wants to find it, whatever the one before left behind."""
    deployed.start_all()
    deployed.let_a_day_pass()
    yield deployed
    for run_id in deployed.unfinished():  # only where the test failed: the next one is not to wait for them
        deployed.instance.delete_run(run_id)


def test_a_daemon_killed_in_a_tick_begins_it_again(deployment: Deployment) -> None:
    users = deployment.send("tick", MESSAGES_PER_RUN)
    with deployment.held("loginetl.batches", "ACCESS EXCLUSIVE") as waiting:
        cut_short = deployment.start_tick("queue_depth")
        eventually("the tick is in the middle", waiting, seconds=TICK_SECONDS)
        deployment.kill("daemon")
    assert deployment.unfinished() == []
    deployment.start("daemon")
    tick = deployment.tick("queue_depth")
    assert tick.tick_id != cut_short.tick_id
    assert tick.status is TickStatus.SUCCESS
    (run_id,) = tick.run_ids
    assert deployment.ended(run_id) is SUCCESS
    assert deployment.starts(run_id) == 1
    deployment.assert_settled(users)


def test_runs_queued_by_a_daemon_that_is_killed_are_launched_once_by_the_next(deployment: Deployment) -> None:
    users = deployment.send("queued", 3 * MESSAGES_PER_RUN)
    with deployment.held("user_logins", "EXCLUSIVE") as waiting:
        run_ids = deployment.tick("queue_depth").run_ids
        assert len(run_ids) == 3
        eventually("two runs are in the middle", lambda: len(waiting()) == 2, seconds=RUN_SECONDS)
        statuses = [deployment.status(run_id) for run_id in run_ids]
        deployment.kill("daemon")
        assert statuses.count(dg.DagsterRunStatus.QUEUED) == 1
        deployment.start("daemon")
    assert [deployment.ended(run_id) for run_id in run_ids] == [SUCCESS] * 3
    assert [deployment.starts(run_id) for run_id in run_ids] == [1] * 3
    deployment.assert_settled(users)
    assert deployment.tick("queue_depth").status is TickStatus.SKIPPED, "ticks go on"


def test_a_run_continues_while_its_servers_are_killed_and_ticks_do_once_the_location_is_fixed(
    deployment: Deployment,
) -> None:
    users = deployment.send("outlived", 15)
    run_id = deployment.launch()
    with deployment.caught_at("user_logins", "EXCLUSIVE"):
        worker = deployment.worker(run_id)
        deployment.kill("web")
        servers = [deployment.processes["code"].pid]
        servers += [child.pid for child in psutil.Process(servers[0]).children() if "api" in child.cmdline()]
        assert len(servers) == 2, "the code server and the one behind it"
        for pid in servers:
            os.kill(pid, signal.SIGKILL)
        deployment.processes["code"].wait()
        assert psutil.pid_exists(worker)
    deployment.start("code", LOGINETL_MAX_RUNS_IN_FLIGHT="many")
    deployment.start("web")
    assert deployment.ended(run_id) is SUCCESS
    assert deployment.starts(run_id) == 1
    deployment.assert_settled(users)
    eventually(
        "the page says what is wrong",
        lambda: "LOGINETL_MAX_RUNS_IN_FLIGHT must be a whole number" in (deployment.location() or ""),
        seconds=START_SECONDS,
    )
    deployment.kill_container("code")
    deployment.start("code")
    deployment.await_location()
    assert deployment.processes["daemon"].poll() is None
    assert deployment.tick("queue_depth").status is TickStatus.SKIPPED


def test_a_run_that_died_with_its_container_is_failed_by_its_age_and_the_next_settles_everything(
    deployment: Deployment,
) -> None:
    users = deployment.send("container", 15)
    run_id = deployment.launch()
    with deployment.caught_at("user_logins", "EXCLUSIVE"):
        deployment.kill_container("code")
    deployment.start("code")
    deployment.await_location()
    # Nobody is left who knows of the process, so Dagster cannot tell it from one that works: only its age ends it.
    assert deployment.status(run_id) is dg.DagsterRunStatus.STARTED
    deployment.let_a_day_pass()
    assert deployment.ended(run_id) is FAILURE
    deployment.run_settles(users)


@pytest.mark.timeout(400)
def test_a_drain_that_died_with_its_code_server_is_failed_by_its_silence_and_the_queue_drained_again(
    deployment: Deployment,
) -> None:
    users = deployment.send("silent", 15)
    run_id = deployment.launch()
    with deployment.caught_at("loginetl.batches", "SHARE"):
        deployment.kill_container("code")
    deployment.start("code")
    deployment.await_location()
    queue = deployment.pipeline.services.queue()  # the killed drain's messages come again
    eventually("all wait", lambda: queue.depth().queued == len(users), seconds=START_SECONDS)
    ticks = list[InstigatorTick]()

    def reported() -> bool:
        ticks.append(deployment.tick("queue_depth"))
        return deployment.status(run_id) is FAILURE

    eventually("the run is reported failed", reported, seconds=200)
    deployment.tick("failed_run")
    assert [alert["run_id"] for alert in deployment.alerts.got].count(run_id) == 1
    run_ids = [each for tick in ticks for each in tick.run_ids]
    assert run_ids, "the tick that reports it has the queue drained again"
    assert {deployment.ended(each) for each in run_ids} == {SUCCESS}
    deployment.assert_settled(users)


def test_a_killed_run_is_reported_and_the_sensor_s_next_one_settles_everything(deployment: Deployment) -> None:
    users = deployment.send("worker", 15)
    run_id = deployment.launch()
    with deployment.caught_at("user_logins", "EXCLUSIVE"):
        os.kill(deployment.worker(run_id), signal.SIGKILL)
        assert deployment.ended(run_id) is FAILURE
    deployment.tick("failed_run")
    assert [alert["run_id"] for alert in deployment.alerts.got].count(run_id) == 1
    assert "SIGKILL" in str(deployment.instance.all_logs(run_id, of_type=dg.DagsterEventType.ENGINE_EVENT))
    users += deployment.send("after-worker", 1)
    deployment.let_a_day_pass()
    (next_id,) = deployment.tick("queue_depth").run_ids
    assert deployment.ended(next_id) is SUCCESS

    def resolved() -> bool:
        deployment.tick("recovered_run")
        return (next_id, False) in [(alert["run_id"], alert["active"]) for alert in deployment.alerts.got]

    eventually("the alert is resolved", resolved, seconds=60)
    deployment.assert_settled(users)


def test_a_cancelled_run_releases_its_claims(deployment: Deployment) -> None:
    users = deployment.send("cancelled", 15)
    run_id = deployment.launch()
    with deployment.caught_at("user_logins", "EXCLUSIVE"):
        assert deployment.claims() == 1
        deployment.graphql(TERMINATE, run=run_id)
        assert deployment.ended(run_id) is CANCELED
    # Postgres does not look after its client while it waits for a lock: the claim lasts until it has it, or 30 s.
    eventually("the claim is gone", lambda: not deployment.claims(), seconds=5)
    deployment.run_settles(users)


def test_two_ticks_at_once_start_more_runs_and_load_no_row_twice(deployment: Deployment) -> None:
    users = deployment.send("twice", MESSAGES_PER_RUN)
    sensor = {**deployment.repository(), "sensorName": "queue_depth"}
    with ThreadPoolExecutor(2) as daemons:
        ticks = list(daemons.map(lambda _: deployment.graphql(DRY_RUN, sensor=sensor), range(2)))
    configs = [
        yaml.safe_load(request["runConfigYaml"])["ops"]["raw_login_messages"]["config"]
        for tick in ticks
        for request in tick["sensorDryRun"]["evaluationResult"]["runRequests"]
    ]
    assert len(configs) == 2, "each asks for the one run that is needed"
    run_ids = [deployment.launch(config) for config in configs]
    assert [deployment.ended(run_id) for run_id in run_ids] == [SUCCESS] * 2
    deployment.assert_settled(users)


def test_a_restart_of_postgres_under_daemon_and_run_heals_by_itself(
    deployment: Deployment, stack: EmbeddedStack
) -> None:
    users = deployment.send("restart", 15)
    run_id = deployment.launch()
    with pytest.raises(TransientError), deployment.caught_at("user_logins", "EXCLUSIVE"):
        postmaster = psutil.Process(json.loads((stack.home / "services.json").read_text())["postgres"]["pid"])
        postmaster.send_signal(signal.SIGQUIT)  # "immediate": every session is cut off, and the start recovers
        postmaster.wait(timeout=10)
        assert stack.start() == deployment.addresses
    # Dagster tries for some 6 s to reach its database: whether that was enough for the run is the machine's affair.
    assert deployment.ended(run_id) in {SUCCESS, FAILURE}
    users += deployment.send("after-restart", 1)

    def launched() -> str | None:
        with suppress(AssertionError):  # each connection that the web server keeps open costs one request an error
            return deployment.launch()
        return None

    assert deployment.ended(eventually("the page recovers", launched, seconds=10)) is SUCCESS
    deployment.assert_settled(users)
    assert deployment.tick("queue_depth").status is TickStatus.SKIPPED
    assert deployment.processes["daemon"].poll() is None, "the daemon is still the same"


# The last of the module: where it fails, what the queue still hides would keep the others waiting.
def test_what_a_cancelled_drain_had_received_is_visible_at_once(deployment: Deployment) -> None:
    users = deployment.send("hidden", 3 * MESSAGES_PER_RUN)
    run_id = deployment.launch({"batch_messages": MESSAGES_PER_RUN})
    queue = deployment.pipeline.services.queue()
    with deployment.caught_at("loginetl.batches", "SHARE") as waiting:
        deployment.graphql(TERMINATE, run=run_id)
        for pid in waiting():
            deployment.pipeline.query("SELECT pg_terminate_backend(:pid)", pid=pid)
        assert deployment.ended(run_id) is CANCELED
    assert deployment.claims() == 0
    eventually("all is visible", lambda: queue.depth().queued == len(users), seconds=5)
    deployment.run_settles(users)
