"""docs/runbook.md, walked: each section's failure is provoked, and its own commands, as they stand there, end it.

What a section's commands are is read from the document, so that the two cannot part. `unit/test_runbook.py` holds that
every section is walked here.
"""

# ruff: noqa: S608 - times and ids of our own

import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import dagster as dg
import psycopg
import pytest
from dagster._daemon.types import DaemonHeartbeat
from sqlalchemy import make_url

from loginetl_assets.automation.notifiers import Alert
from loginetl_assets.build import build_definitions
from loginetl_assets.conditions import Condition
from loginetl_assets.dagster_instance import INSTALLATION_TAG
from loginetl_assets.embedded import Addresses
from loginetl_assets.local.stack import prepare_dagster_home
from loginetl_assets.logins.message import QueuedMessage
from loginetl_assets.services import Services
from loginetl_assets.settings import KeysetRole, Settings
from loginetl_assets.steps.batch_objects import land
from loginetl_assets.storage import live_runs
from loginetl_assets.storage.installation import installation_id
from loginetl_assets.storage.roles import LOADER, PRIVACY, grant_roles
from loginetl_assets_tests.support.command import LOGINETL
from loginetl_assets_tests.support.pipeline import login, marked_logins, new_bucket, s3_client, sqs_client
from loginetl_assets_tests.support.runbook import Operator
from loginetl_assets_tests.support.waiting import eventually

HEALTHY, NO_ANSWER, NEEDS_ATTENTION = 0, 1, 3


@dataclass
class Stage:
    """A pipeline, the operator who types at it, and the alerts of its health sensor."""

    operator: Operator
    addresses: Addresses
    told: list[tuple[str, bool]] = field(default_factory=list)
    cursor: str | None = None

    @property
    def settings(self) -> Settings:
        """What the operator has exported."""
        with pytest.MonkeyPatch.context() as patch:
            for name, value in self.operator.environment.items():
                patch.setenv(name, value)
            return Settings.from_environment()

    @property
    def services(self) -> Services:
        return Services(self.settings)

    @property
    def landing(self) -> Path:
        return self.settings.home / "landing"

    def notify(self, alert: Alert) -> None:
        self.told.append((alert.condition, alert.active))

    def run(self, exit_code: int = HEALTHY) -> str:
        found, said = self.operator.type("loginetl run")
        assert found == exit_code, said
        return said

    def send(self, *bodies: str) -> None:
        self.services.queue().send(bodies)

    def execute(self, statement: str) -> list[tuple[Any, ...]]:
        with psycopg.connect(_for_libpq(str(self.settings.database_url))) as connection:
            done = connection.execute(statement)
            return done.fetchall() if done.description else []

    def users(self) -> list[str]:
        return [user for (user,) in self.execute("SELECT user_id FROM user_logins ORDER BY user_id")]

    def land(self, *bodies: str) -> tuple[int, str]:
        """Lands a batch that nobody has loaded; returns its id, and the path of its object."""
        one, now = self.services, round(time.time() * 1_000)
        messages = [QueuedMessage(str(uuid4()), now, body.encode()) for body in bodies]
        database = one.database()
        with database.transaction() as connection:
            batch_id, _ = land(connection, one.bound_landing(database), one.keyring, messages)
        ((path,),) = self.execute(f"SELECT object_path FROM loginetl.batches WHERE batch_id = {batch_id}")
        return batch_id, path

    def age_landing(self) -> None:
        """Makes its objects two hours old, as those of runs that nobody waits for any more."""
        then = time.time() - 7_200
        for path in self.landing.rglob("*"):
            os.utime(path, (then, then))

    def instance(self) -> dg.DagsterInstance:
        return dg.DagsterInstance.from_config(self.operator.environment["DAGSTER_HOME"])

    # Conditions

    def conditions(self, exit_code: int) -> Mapping[str, str]:
        found, said = self.operator.type("loginetl status --json")
        assert found == exit_code, said
        conditions: Mapping[str, str] = json.JSONDecoder().raw_decode(said)[0]["conditions"]  # an error may follow
        return conditions

    def tick(self) -> None:
        """Evaluates the health sensor once, with the settings as they are."""
        definitions = build_definitions(self.settings, notifier=self)
        resources = definitions.resources or {}
        with (
            self.instance() as instance,
            dg.build_sensor_context(
                instance=instance,
                cursor=self.cursor,
                resources={name: resources[name] for name in ("queue", "database")},
            ) as context,
        ):
            definitions.resolve_sensor_def("health")(context)
            self.cursor = context.cursor

    def assert_begun(self, condition: Condition) -> None:
        """`loginetl status` names a condition, and it alerts."""
        assert condition in self.conditions(NEEDS_ATTENTION)
        self.assert_alerts((condition, True))

    def assert_over(self, condition: Condition) -> None:
        """No condition holds, and the alert is resolved."""
        assert self.conditions(HEALTHY) == {}
        self.assert_alerts((condition, False))

    def assert_alerts(self, *told: tuple[Condition, bool]) -> None:
        self.told.clear()
        self.tick()
        assert self.told == list(told)


@pytest.fixture(scope="module")
def dagster_home(addresses: Addresses, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepare_dagster_home(tmp_path_factory.mktemp("runbook"), addresses.dagster_database_url)


@pytest.fixture
def stage(settings: Settings, addresses: Addresses, dagster_home: Path, tmp_path: Path) -> Iterator[Stage]:
    environment = {**settings.as_environment(), "DAGSTER_HOME": str(dagster_home), "COLUMNS": "200"}
    operator = Operator(environment, addresses.sqs_endpoint, tmp_path)
    Services(settings).keyring.make_missing()
    yield Stage(operator, addresses)
    for process in operator.background:
        process.terminate()
        process.wait()


def _hours_ago(hours: float) -> str:
    return f"now() - interval '{hours} hours'"


def test_queue_unreachable(stage: Stage) -> None:
    queue_url = str(stage.settings.queue_url)
    sqs_client(stage.addresses.sqs_endpoint).delete_queue(QueueUrl=queue_url)
    assert Condition.QUEUE_UNREACHABLE in stage.conditions(NO_ANSWER)
    stage.assert_alerts((Condition.QUEUE_UNREACHABLE, True))

    stage.operator.follow("queue_unreachable", QUEUE=queue_url.rsplit("/", 1)[-1])

    stage.assert_over(Condition.QUEUE_UNREACHABLE)


def test_database_unreachable(stage: Stage) -> None:
    right = stage.operator.environment["LOGINETL_DATABASE_URL"]
    stage.operator.environment["LOGINETL_DATABASE_URL"] = "postgresql://loginetl@127.0.0.1:9/logins"
    stage.assert_alerts((Condition.DATABASE_UNREACHABLE, True))

    stage.operator.follow("database_unreachable", URL=right)

    stage.assert_over(Condition.DATABASE_UNREACHABLE)


def test_queue_not_drained(stage: Stage) -> None:
    stage.send(login())
    stage.execute(f"UPDATE loginetl.installation SET installed_at = {_hours_ago(25)}")
    stage.assert_begun(Condition.QUEUE_NOT_DRAINED)

    stage.operator.follow("queue_not_drained")

    stage.assert_over(Condition.QUEUE_NOT_DRAINED)


def test_never_drained(stage: Stage) -> None:
    stage.send(login())
    assert list(stage.conditions(NEEDS_ATTENTION)) == [Condition.NEVER_DRAINED]
    stage.assert_alerts()

    stage.operator.follow("never_drained")

    assert stage.conditions(HEALTHY) == {}


# Automation


@pytest.fixture
def watched(stage: Stage, tmp_path: Path) -> Stage:
    """A stage with an instance of its own, whose daemon and sensors are the test's to break."""
    home = tmp_path / "dagster"
    home.mkdir()
    (home / "dagster.yaml").write_text("telemetry: {enabled: false}")
    stage.operator.environment["DAGSTER_HOME"] = str(home)
    return stage


def _beat(stage: Stage, *, seconds_ago: float) -> None:
    with stage.instance() as instance:
        instance.add_daemon_heartbeat(DaemonHeartbeat(time.time() - seconds_ago, "SENSOR", "a-daemon"))


def test_daemon_down(watched: Stage, tmp_path: Path) -> None:
    watched.operator.environment["LOGINETL_AUTOMATION"] = "on"
    _beat(watched, seconds_ago=3_600)
    assert list(watched.conditions(NEEDS_ATTENTION)) == [Condition.DAEMON_DOWN]
    (tmp_path / "workspace.yaml").write_text("load_from: []")
    watched.operator.sleep = lambda _: eventually(
        "the daemon beats",
        lambda: watched.operator.type("loginetl status")[0] == HEALTHY,
        seconds=60,
        every=1,
    )

    watched.operator.follow("daemon_down", WORKSPACE=tmp_path / "workspace.yaml")

    assert watched.conditions(HEALTHY) == {}


def test_automation_off(watched: Stage) -> None:
    keysets = {role.setting: str(watched.settings.home / "keys" / f"{role}.json") for role in KeysetRole}
    outside = {"LOGINETL_ENV": "staging", "LOGINETL_LANDING_URL": watched.landing.as_uri()}
    watched.operator.environment |= keysets | outside
    _beat(watched, seconds_ago=10)
    watched.assert_begun(Condition.AUTOMATION_OFF)

    watched.operator.follow("automation_off")

    watched.assert_over(Condition.AUTOMATION_OFF)


# Runs


@pytest.fixture
def role(stage: Stage) -> Iterator[str]:
    """A login that may load and erase, whose name the operator has in his URL."""
    grant_roles(stage.services.database())
    owner, name = stage.operator.environment["LOGINETL_DATABASE_URL"], f"runbook_{uuid4().hex[:12]}"
    stage.execute(f"CREATE ROLE {name} LOGIN IN ROLE {LOADER}, {PRIVACY}")
    url = make_url(owner).set(username=name).render_as_string(hide_password=False)
    stage.operator.environment["LOGINETL_DATABASE_URL"] = url
    yield name
    stage.operator.environment["LOGINETL_DATABASE_URL"] = owner
    stage.execute(f"DROP ROLE {name}")


def test_run_failed(stage: Stage, settings: Settings, role: str) -> None:
    url, owner_url = (stage.operator.environment["LOGINETL_DATABASE_URL"], str(settings.database_url))
    with psycopg.connect(_for_libpq(owner_url)) as owner:
        owner.execute(f"REVOKE INSERT ON user_logins FROM {LOADER}")
    stage.send(login(user_id="anna"))

    said = stage.operator.follow("run_failed", OWNER_URL=owner_url, URL=url)

    assert f"{role}@" in said
    assert stage.users() == ["anna"]


def test_runs_without_worker(stage: Stage) -> None:
    with stage.instance() as instance, stage.services.database().transaction() as connection:
        definition = build_definitions(stage.settings).resolve_job_def("login_etl")
        tags = {INSTALLATION_TAG: str(installation_id(connection))}
        run_id = instance.create_run_for_job(definition, status=dg.DagsterRunStatus.STARTED, tags=tags).run_id
        live_runs.beat(connection, run_id)

    def let_pass(seconds: float) -> None:
        passed = f"interval '{seconds} seconds'"
        stage.execute(f"UPDATE loginetl.live_runs SET beat_at = beat_at - {passed}, missed_at = missed_at - {passed}")

    let_pass(600)
    stage.assert_begun(Condition.RUNS_WITHOUT_WORKER)
    stage.operator.sleep = let_pass

    stage.operator.follow("runs_without_worker")

    stage.assert_over(Condition.RUNS_WITHOUT_WORKER)
    with stage.instance() as instance:
        run = instance.get_run_by_id(run_id)
    assert run is not None
    assert run.status is dg.DagsterRunStatus.FAILURE


# Batches


def test_quarantined_batches(stage: Stage, tmp_path: Path) -> None:
    batch_id, path = stage.land(login(user_id="anna"))
    backup = tmp_path / "backup"
    (backup / path).parent.mkdir(parents=True)
    (stage.landing / path).rename(backup / path)
    stage.run(NEEDS_ATTENTION)
    stage.assert_begun(Condition.QUARANTINED_BATCHES)

    said = stage.operator.follow("quarantined_batches", BATCH=batch_id, BACKUP=backup, PATH=path, LANDING=stage.landing)

    assert path in said
    assert stage.users() == ["anna"]
    stage.assert_over(Condition.QUARANTINED_BATCHES)


def test_a_lost_object(stage: Stage) -> None:
    batch_id, path = stage.land(login(), login())
    (stage.landing / path).unlink()
    stage.run(NEEDS_ATTENTION)
    stage.assert_begun(Condition.QUARANTINED_BATCHES)

    stage.operator.follow("A lost object", BATCH=batch_id, INCIDENT="the bucket was emptied, incident 12")

    assert stage.execute("SELECT state, lost FROM loginetl.batches") == [("lost", 2)]
    stage.assert_over(Condition.QUARANTINED_BATCHES)


def test_messages_pending_too_long(stage: Stage) -> None:
    stage.land(login(user_id="anna"))
    stage.execute(f"UPDATE loginetl.batches SET landed_at = {_hours_ago(25)}")
    stage.assert_begun(Condition.MESSAGES_PENDING_TOO_LONG)

    stage.operator.follow("messages_pending_too_long")

    assert stage.users() == ["anna"]
    stage.assert_over(Condition.MESSAGES_PENDING_TOO_LONG)


def test_count_mismatch(stage: Stage) -> None:
    batch_id, _ = stage.land(login(user_id="anna"))
    stage.run()
    stage.execute("UPDATE loginetl.batches SET state = 'masked', loaded = messages + 1")
    stage.assert_begun(Condition.COUNT_MISMATCH)

    stage.operator.follow("count_mismatch", BATCH=batch_id)

    assert stage.execute("SELECT state, messages, loaded FROM loginetl.batches") == [("loaded", 1, 1)]
    stage.assert_over(Condition.COUNT_MISMATCH)


# Rejections


def test_too_many_rejected(stage: Stage) -> None:
    stage.operator.environment["LOGINETL_UNKNOWN_FIELDS"] = "reject"
    stage.send(login(user_id="anna", colour="blue"))
    stage.run(NEEDS_ATTENTION)
    stage.assert_begun(Condition.TOO_MANY_REJECTED)

    said = stage.operator.follow("too_many_rejected", REASON="unknown_field")

    assert "blue" not in said
    assert stage.users() == ["anna"]
    stage.assert_over(Condition.TOO_MANY_REJECTED)


def test_rows_that_the_table_refuses(stage: Stage) -> None:
    stage.execute("ALTER TABLE user_logins ADD CONSTRAINT no_anna CHECK (user_id <> 'anna')")
    stage.send(login(user_id="anna"), login(user_id="bert"))
    stage.run(NEEDS_ATTENTION)
    assert stage.users() == ["bert"]

    stage.operator.follow("Rows that the table refuses", CONSTRAINT_NAME="no_anna")

    assert stage.users() == ["anna", "bert"]
    assert json.loads(stage.operator.type("loginetl rejected list --json")[1]) == []
    assert stage.conditions(HEALTHY) == {}


# Settings and services


def test_test(stage: Stage) -> None:
    assert "LOGINETL_ALERT_WEBHOOK_URL" in stage.operator.follow("test")


def test_a_keyset_is_refused(stage: Stage, tmp_path: Path) -> None:
    stage.send(login(user_id="anna"))
    stage.run()
    found, said = stage.operator.type("loginetl keys init others")
    assert found == HEALTHY, said
    setting = KeysetRole.MASKING.setting
    stage.operator.environment[setting] = str(tmp_path / "others" / "masking.json")
    stage.send(login(user_id="bert"))
    assert setting in stage.run(NO_ANSWER)

    right = stage.settings.home / "keys" / "masking.json"
    said = stage.operator.follow("A keyset is refused", KEYSET_SETTING=setting, KEYSET=right)

    assert "not held" in said
    assert stage.users() == ["anna", "bert"]


def test_the_landing_cannot_be_written(stage: Stage, tmp_path: Path) -> None:
    stage.send(login(user_id="anna"))
    stage.run()
    stage.send(*marked_logins(100).values())
    private = ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "--mount", "--map-root-user"]
    full = [*private, "sh", "-c", f'mount -t tmpfs -o mode=700,size=4k tmpfs {stage.landing} && exec "$@"', "sh"]
    if shutil.which("unshare") is None or subprocess.run([*full, "true"], check=False).returncode:
        pytest.skip("mounting is not permitted here")
    environment = {**os.environ, **stage.operator.environment}
    failed = subprocess.run(
        [*full, LOGINETL, "run"], env=environment, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert failed.returncode == NO_ANSWER
    assert "LOGINETL_LANDING_URL" in failed.stderr
    assert stage.users() == ["anna"]
    (larger := tmp_path / "larger").mkdir()

    stage.operator.follow("The landing cannot be written", LANDING=stage.landing, LARGER=larger)

    assert len(stage.users()) == 101


def test_the_dead_letter_queue_has_messages(stage: Stage) -> None:
    sqs, queue_url = sqs_client(stage.addresses.sqs_endpoint), str(stage.settings.queue_url)
    dead_letters = sqs.create_queue(QueueName=f"dead_{uuid4().hex[:12]}")["QueueUrl"]
    arn = sqs.get_queue_attributes(QueueUrl=dead_letters, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    policy = json.dumps({"deadLetterTargetArn": arn, "maxReceiveCount": "1"})
    sqs.set_queue_attributes(QueueUrl=queue_url, Attributes={"RedrivePolicy": policy})
    stage.send(login(user_id="anna"))
    for expected in (1, 0):
        found = sqs.receive_message(QueueUrl=queue_url, VisibilityTimeout=0).get("Messages", [])
        assert len(found) == expected

    said = stage.operator.follow("The dead-letter queue has messages", DEAD_LETTERS_ARN=arn, DEAD_LETTERS=dead_letters)

    assert re.findall(r'"ApproximateNumberOfMessages": "(\d)"', said) == ["1", "0"]
    assert stage.users() == ["anna"]


@pytest.fixture
def empty_database(stage: Stage) -> Iterator[str]:
    """The URL of a database without anything, on the same server."""
    url, name = make_url(str(stage.settings.database_url)), f"restored_{uuid4().hex[:12]}"
    with psycopg.connect(_for_libpq(stage.addresses.database_url), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
        yield url.set(database=name).render_as_string(hide_password=False)
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


def test_postgres_is_restored_from_a_backup(stage: Stage, empty_database: str, tmp_path: Path) -> None:
    stage.send(login(user_id="anna"), login(user_id="erased"))
    stage.run()
    dump = f"pg_dump --format=custom --file=backup {_for_libpq(str(stage.settings.database_url))}"
    assert stage.operator.type(dump) == (HEALTHY, "")
    stage.send(login(user_id="bert"))
    stage.run()
    stage.land(login(user_id="carl"))
    stage.operator.answer = "erased"
    found, said = stage.operator.type("loginetl erase --user-id --reason 'she asked' --yes")
    assert found == HEALTHY, said
    stage.age_landing()

    stage.operator.follow(
        "Postgres is restored from a backup",
        RESTORED=_for_libpq(empty_database),
        BACKUP=tmp_path / "backup",
        URL=empty_database,
        INCIDENT="restored to Monday",
    )

    assert stage.users() == ["anna", "bert", "carl"]
    assert stage.operator.type("loginetl batches register")[1].startswith("registered 0 batches")


def test_postgres_is_lost_without_a_backup(stage: Stage, empty_database: str) -> None:
    stage.send(*marked_logins(30).values(), "{}")
    stage.run()
    rows = "SELECT * FROM user_logins ORDER BY user_id"
    before = stage.execute(rows)
    stage.age_landing()

    stage.operator.follow("Postgres is lost without a backup", URL=empty_database, LANDING=stage.landing)

    assert stage.execute(rows) == before
    assert stage.execute("SELECT reason FROM loginetl.rejected_logins") == [("not_a_login",)]


def test_the_bucket_is_restored_from_a_backup(stage: Stage) -> None:
    endpoint = stage.addresses.sqs_endpoint
    bucket, backup = new_bucket(endpoint), new_bucket(endpoint, "backup")
    stage.operator.environment |= {"LOGINETL_LANDING_URL": f"s3://{bucket}/logins", "AWS_ENDPOINT_URL_S3": endpoint}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL_S3", endpoint)
        stage.land(login(user_id="anna"))
        stage.operator.type(f"aws s3 sync s3://{bucket}/logins s3://{backup}/logins")
        lost, _ = stage.land(login(user_id="bert"))
        s3 = s3_client(endpoint)
        for one in s3.list_objects_v2(Bucket=bucket)["Contents"]:
            s3.delete_object(Bucket=bucket, Key=one["Key"])

        stage.operator.follow(
            "The bucket is restored from a backup",
            BACKUP=backup,
            BUCKET=bucket,
            PREFIX="logins",
            BATCH=lost,
            INCIDENT="written after the backup",
        )

    assert stage.users() == ["anna"]
    assert stage.execute("SELECT state FROM loginetl.batches ORDER BY 1") == [("loaded",), ("lost",)]


def test_the_masking_key_leaked(stage: Stage, tmp_path: Path) -> None:
    stage.send(login(user_id="anna"))
    stage.run()
    (leaked,) = stage.services.keyring.key_ids(KeysetRole.MASKING)
    keyset = stage.settings.home / "keys" / "masking.json"

    said = stage.operator.follow(
        "The masking key leaked", MASKING_KEYSET=keyset, KEPT=tmp_path / "kept.json", INCIDENT="the laptop was stolen"
    )

    assert "retired" in said
    (tokens,) = stage.execute("SELECT masked_ip, masked_device_id FROM user_logins")
    assert not any(token.startswith(f"{leaked}.") for token in tokens)
    assert stage.services.keyring.key_ids(KeysetRole.MASKING) != (leaked,)


def test_row_level_security_hides_rows(stage: Stage, settings: Settings, role: str) -> None:
    stage.send(login(user_id="anna"), login(user_id="bert"))
    stage.run()
    with psycopg.connect(admin := _for_libpq(str(settings.database_url))) as owner:
        owner.execute("ALTER TABLE user_logins ENABLE ROW LEVEL SECURITY")
        owner.execute("CREATE POLICY only_annas ON user_logins USING (user_id = 'anna')")

    stage.operator.answer = "bert"
    said = stage.operator.follow("Row-level security hides rows", ERASING_ROLE=role, ADMIN_URL=admin)

    assert "BYPASSRLS" in said


def test_the_login_table_is_another_one(stage: Stage) -> None:
    stage.execute("ALTER TABLE user_logins RENAME TO logins_of_users")

    said = stage.operator.follow("The login table is another one", TABLE="public.logins_of_users")

    assert "logins_of_users" in said
    assert stage.conditions(HEALTHY) == {}


def test_what_to_alarm_on_from_outside(stage: Stage) -> None:
    said = stage.operator.follow(
        "What to alarm on from outside", QUEUE="logins", DEAD_LETTERS="dead-logins", TOPIC="arn:aws:sns:eu-west-1:1:ops"
    )

    for name in ("conditions", "last_loaded_at", "oldest_pending_seconds"):
        assert f'"{name}"' in said


def _for_libpq(url: str) -> str:
    return make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
