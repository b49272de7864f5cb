"""What goes wrong around the pipeline: one line that names what fixes it, and nothing lost.

The program itself is run against the session's services, with one thing broken each time. Faults that Dagster would
retry (a queue that cannot be reached, which takes 35 s and more) are left to the commands that do not.
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy import make_url

from loginetl_assets.embedded import Addresses
from loginetl_assets.local.stack import prepare_dagster_home
from loginetl_assets.services import Services
from loginetl_assets.settings import KeysetRole, Settings
from loginetl_assets_tests.support.pipeline import MARKED_BAD, MARKS, Pipeline, marked_logins

PROGRAMS = Path(sys.executable).parent

AWS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")

PASSWORD = "correct-horse"
WRONG_PASSWORD = "wrong-battery"

# Enough for an encrypted batch of more than 4 KiB, which is all that the full disks below have.
BODIES = [*marked_logins(100).values(), *MARKED_BAD]
ROWS, REJECTED = 100, 2


@dataclass(frozen=True)
class Fault:
    """One thing that is broken.

    Attributes:
        names: what the error must name: the setting or the command that fixes it.
        settings: variables over the right ones; None takes one away.
        exit_code: 2 where the user gave a wrong setting, 1 otherwise.
        within: a command line in front of the program's own.
    """

    names: Sequence[str]
    settings: Mapping[str, str | None] = field(default_factory=dict)
    exit_code: int = 1
    within: Sequence[str] = ()


@dataclass(frozen=True)
class Scene:
    """The services of a test with `BODIES` on the queue."""

    settings: Settings
    addresses: Addresses
    directory: Path
    dagster_home: Path

    @property
    def environment(self) -> dict[str, str]:
        return {
            **os.environ,
            **self.settings.as_environment(),
            "DAGSTER_HOME": str(self.dagster_home),
            "HOME": str(self.directory),  # no ~/.aws of the developer's
        }

    @property
    def queue_url(self) -> str:
        assert self.settings.queue_url is not None
        return self.settings.queue_url

    @property
    def database_url(self) -> str:
        assert self.settings.database_url is not None
        return self.settings.database_url

    @property
    def database(self) -> str:
        return str(make_url(self.database_url).database)

    def key(self, role: KeysetRole) -> str:
        """The file of one of the pipeline's own keys."""
        services = Services(self.settings)
        services.keyring.make_missing()
        return str(self.settings.home / "keys" / f"{role}.json")

    def call(self, *command: str, fault: Fault, seconds: float = 120) -> subprocess.CompletedProcess[str]:
        """Runs one of the installed programs under the fault, and interrupts it when its time is over."""
        environment = {**self.environment, **fault.settings}
        with subprocess.Popen(
            [*fault.within, str(PROGRAMS / command[0]), *command[1:]],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=self.directory,
            env={name: value for name, value in environment.items() if value is not None},
        ) as process:
            try:
                stdout, stderr = process.communicate(timeout=seconds)
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGINT)  # in the orderly way, in which it stops its children
                stdout, stderr = process.communicate()
        return subprocess.CompletedProcess(command, process.returncode, stdout, stderr)

    @contextmanager
    def pipeline(self) -> Iterator[Pipeline]:
        """The pipeline with nothing broken; Dagster keeps its records in memory."""
        with Pipeline.on(self.settings, self.directory) as pipeline:
            yield pipeline

    def execute(self, *statements: str, database: str | None = None) -> list[Any]:
        """Runs statements as the superuser; returns the last one's rows."""
        url = make_url(self.database_url).set(drivername="postgresql", database=database or self.database)
        with psycopg.connect(url.render_as_string(hide_password=False), autocommit=True) as connection:
            for statement in statements:
                cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []


@pytest.fixture(scope="module")
def dagster_home(addresses: Addresses, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Dagster instance in the session's Postgres, so that no limit on files meets Dagster's own."""
    return prepare_dagster_home(tmp_path_factory.mktemp("errors"), addresses.dagster_database_url)


@pytest.fixture
def scene(settings: Settings, addresses: Addresses, dagster_home: Path, tmp_path: Path) -> Scene:
    scene = Scene(settings, addresses, tmp_path, dagster_home)
    Services(settings).queue().send(BODIES)
    return scene


@pytest.fixture
def locked_role(scene: Scene) -> Iterator[str]:
    """A role whose password Postgres asks for; everybody else is let in on the session's socket."""
    role = f"{scene.database}_role"
    access = Path(scene.execute(f"CREATE ROLE {role} LOGIN PASSWORD '{PASSWORD}' SUPERUSER", "SHOW hba_file")[0][0])
    before = access.read_text()
    access.write_text(f"local all {role} scram-sha-256\n{before}")
    scene.execute("SELECT pg_reload_conf()")
    yield role
    access.write_text(before)
    scene.execute("SELECT pg_reload_conf()", f"DROP ROLE {role}")


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield int(server.getsockname()[1])


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def assert_one_clean_line(done: subprocess.CompletedProcess[str], fault: Fault) -> None:
    said = done.stdout + done.stderr
    assert done.returncode == fault.exit_code, said
    assert done.stderr.startswith("error: "), said
    assert done.stderr.count("\n") == 1, said
    assert not done.stdout
    assert [name for name in fault.names if name not in done.stderr] == [], said
    assert "Traceback" not in said
    assert "unexpected" not in said
    assert_no_secret(said)


def assert_no_secret(said: str) -> None:
    assert [value for value in (*MARKS, PASSWORD, WRONG_PASSWORD) if value in said] == []
    assert "primaryKeyId" not in said
    assert "keyData" not in said


def assert_all_of_it_arrives(scene: Scene) -> None:
    """What was sent is in the table or among the rejected, once the fault is fixed."""
    with scene.pipeline() as pipeline:
        pipeline.process()
        totals = pipeline.totals()
    assert scene.execute("SELECT count(*), count(DISTINCT user_id) FROM user_logins") == [(ROWS, ROWS)]
    assert (totals.messages, totals.loaded, totals.rejected) == (len(BODIES), ROWS, REJECTED)


# Before anything is received


def the_queue_is_absent(scene: Scene) -> Fault:
    return Fault(["LOGINETL_QUEUE_URL"], {"LOGINETL_QUEUE_URL": f"{scene.queue_url}-absent"})


def the_region_is_another(scene: Scene) -> Fault:
    return Fault(["LOGINETL_QUEUE_URL", "region"], {"AWS_DEFAULT_REGION": "eu-west-1"})


def there_are_no_credentials(scene: Scene) -> Fault:
    # A queue of AWS's own: for one on this machine the local environment makes credentials up. Nothing is sent, since
    # nothing can be signed.
    queue = {"LOGINETL_QUEUE_URL": "https://sqs.us-east-1.amazonaws.com/000000000000/login-queue"}
    offline = {"AWS_EC2_METADATA_DISABLED": "true"}
    return Fault(["AWS_PROFILE", "AWS_ACCESS_KEY_ID"], {**dict.fromkeys(AWS), **queue, **offline})


def the_profile_is_unknown(scene: Scene) -> Fault:
    return Fault(["AWS_PROFILE"], {"AWS_PROFILE": "nobody"})


def postgres_is_down(scene: Scene) -> Fault:
    url = f"postgresql://loginetl:{PASSWORD}@127.0.0.1:{free_port()}/logins"
    return Fault(["LOGINETL_DATABASE_URL"], {"LOGINETL_DATABASE_URL": url})


def the_socket_of_postgres_is_gone(scene: Scene) -> Fault:
    url = f"postgresql://loginetl@/logins?host={scene.directory}"
    return Fault(["LOGINETL_DATABASE_URL"], {"LOGINETL_DATABASE_URL": url})


def the_database_is_absent(scene: Scene) -> Fault:
    url = scene.database_url.replace(scene.database, "no_such_database")
    return Fault(["LOGINETL_DATABASE_URL"], {"LOGINETL_DATABASE_URL": url})


def the_table_has_other_columns(scene: Scene) -> Fault:
    scene.execute("ALTER TABLE user_logins RENAME locale TO language")
    return Fault(["public.user_logins", "locale", "LOGINETL_TABLE"])


def the_table_is_another(scene: Scene) -> Fault:
    scene.execute("ALTER TABLE user_logins RENAME TO kept", "CREATE TABLE user_logins (LIKE kept)")
    return Fault(["public.user_logins", "public.kept", "LOGINETL_TABLE"])


def the_database_is_read_only(scene: Scene) -> Fault:
    scene.execute(f"ALTER DATABASE {scene.database} SET default_transaction_read_only = on")
    return Fault(["LOGINETL_DATABASE_URL"])


def the_landing_is_below_a_file(scene: Scene) -> Fault:
    # Not a directory without rights: root, as whom containers run tests, may write there.
    file = scene.directory / "file"
    file.write_text("")
    return Fault(["LOGINETL_LANDING_URL"], {"LOGINETL_LANDING_URL": (file / "landing").as_uri()})


def a_key_is_missing(scene: Scene) -> Fault:
    return Fault(["LOGINETL_KEYSET_REJECTS"], {"LOGINETL_KEYSET_REJECTS": str(scene.directory / "none.json")})


def a_key_is_no_keyset(scene: Scene) -> Fault:
    return Fault(["LOGINETL_KEYSET_LANDING"], {"LOGINETL_KEYSET_LANDING": '{"password": "wrong-battery"}'})


def a_key_is_not_even_text(scene: Scene) -> Fault:
    file = scene.directory / "key.bin"
    file.write_bytes(b"\x80\xff\xfe" * 20)
    return Fault(["LOGINETL_KEYSET_LANDING"], {"LOGINETL_KEYSET_LANDING": str(file)})


def the_masking_key_is_of_the_wrong_kind(scene: Scene) -> Fault:
    key = scene.key(KeysetRole.REJECTS)
    return Fault(["LOGINETL_KEYSET_MASKING", "PRF"], {"LOGINETL_KEYSET_MASKING": key})


def the_landing_key_is_of_the_wrong_kind(scene: Scene) -> Fault:
    key = scene.key(KeysetRole.MASKING)
    return Fault(["LOGINETL_KEYSET_LANDING", "AEAD"], {"LOGINETL_KEYSET_LANDING": key})


def the_vault_key_is_the_officers_private_one(scene: Scene) -> Fault:
    key = str(Path(scene.key(KeysetRole.VAULT)).with_name("officer-private.json"))
    return Fault(["LOGINETL_KEYSET_VAULT", "public"], {"LOGINETL_KEYSET_VAULT": key})


def the_environment_is_unknown(scene: Scene) -> Fault:
    return Fault(["LOGINETL_ENV", "local, staging, production"], {"LOGINETL_ENV": "prod"}, exit_code=2)


def fix(scene: Scene) -> None:
    """Takes back what a fault did to the database; the rest ends with the program."""
    scene.execute(f"ALTER DATABASE {scene.database} RESET default_transaction_read_only", database="postgres")
    if scene.execute("SELECT to_regclass('kept')")[0][0]:
        scene.execute("DROP TABLE user_logins", "ALTER TABLE kept RENAME TO user_logins")
    if scene.execute("SELECT 1 FROM pg_attribute WHERE attname = 'language' AND attrelid = 'user_logins'::regclass"):
        scene.execute("ALTER TABLE user_logins RENAME language TO locale")


@pytest.mark.parametrize(
    "broken",
    [
        the_queue_is_absent,
        the_region_is_another,
        there_are_no_credentials,
        the_profile_is_unknown,
        postgres_is_down,
        the_socket_of_postgres_is_gone,
        the_database_is_absent,
        the_table_has_other_columns,
        the_table_is_another,
        the_database_is_read_only,
        the_landing_is_below_a_file,
        a_key_is_missing,
        a_key_is_no_keyset,
        a_key_is_not_even_text,
        the_masking_key_is_of_the_wrong_kind,
        the_vault_key_is_the_officers_private_one,
        the_environment_is_unknown,
    ],
)
def test_a_run_says_what_is_broken_and_the_next_one_has_it_all(broken: Callable[[Scene], Fault], scene: Scene) -> None:
    fault = broken(scene)

    assert_one_clean_line(scene.call("loginetl", "run", fault=fault), fault)

    fix(scene)
    assert_all_of_it_arrives(scene)


@pytest.mark.parametrize("password", [f":{WRONG_PASSWORD}", ""])
def test_a_wrong_password_is_named_and_not_shown(password: str, locked_role: str, scene: Scene) -> None:
    right = scene.database_url.replace("postgres@", f"{locked_role}:{PASSWORD}@")
    wrong = right.replace(f":{PASSWORD}", password)
    fault = Fault(["LOGINETL_DATABASE_URL", "password"], {"LOGINETL_DATABASE_URL": wrong})

    assert_one_clean_line(scene.call("loginetl", "run", fault=fault), fault)

    assert_all_of_it_arrives(replace(scene, settings=replace(scene.settings, database_url=right)))


def test_psql_has_the_password_and_no_process_list_shows_it(locked_role: str, scene: Scene) -> None:
    url = scene.database_url.replace("postgres@", f"{locked_role}:{PASSWORD}@")
    right = Fault([], {"LOGINETL_DATABASE_URL": url, "LOGINETL_ENV": "local"})
    command = "\\! tr '\\0' ' ' < /proc/$PPID/cmdline"  # psql's own, as any user of the machine can read it
    done = scene.call("loginetl", "psql", "-w", "-At", "-c", "SELECT current_user", "-c", command, fault=right)

    assert done.returncode == 0, done.stderr
    role, process = done.stdout.splitlines()
    assert role == locked_role
    assert f"user={locked_role}" in process
    assert PASSWORD not in process


def test_a_role_without_rights_is_told_who_can_help(locked_role: str, scene: Scene) -> None:
    scene.execute(f"ALTER ROLE {locked_role} NOSUPERUSER")
    url = scene.database_url.replace("postgres@", f"{locked_role}:{PASSWORD}@")
    fault = Fault(["loginetl migrate", "owner"], {"LOGINETL_DATABASE_URL": url})

    assert_one_clean_line(scene.call("loginetl", "run", fault=fault), fault)


# After messages were received: they are on the queue still, and come again


def wrapped_in_mount(scene: Scene, options: str) -> list[str]:
    """A command line that gives the program a landing of its own kind, which nobody else sees and nothing outlives."""
    (scene.directory / "landing").mkdir(mode=0o700)
    private = ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "--mount", "--map-root-user"]
    mounted = f'mount -t tmpfs -o mode=700,{options} tmpfs landing && exec "$@"'
    within = [*private, "sh", "-c", mounted, "sh"]
    if (
        shutil.which("unshare") is None
        or subprocess.run([*within, "true"], cwd=scene.directory, capture_output=True, check=False).returncode
    ):
        pytest.skip("mounting is not permitted here")
    return within


def landing(scene: Scene) -> dict[str, str]:
    return {"LOGINETL_LANDING_URL": (scene.directory / "landing").as_uri()}


def the_disk_of_the_landing_is_full(scene: Scene) -> Fault:
    return Fault(["full", "LOGINETL_LANDING_URL"], landing(scene), within=wrapped_in_mount(scene, "size=4k"))


def the_landing_is_read_only(scene: Scene) -> Fault:
    return Fault(
        ["Read-only file system", "LOGINETL_LANDING_URL"], landing(scene), within=wrapped_in_mount(scene, "ro")
    )


def no_file_may_be_that_large(scene: Scene) -> Fault:
    # Like a full disk in that a write fails half way, and to be had everywhere: without rights, in any container and
    # on macOS. In units of 512 bytes; what else the program writes is smaller, and Dagster writes to Postgres.
    unmeasured = {"COVERAGE_PROCESS_CONFIG": None}  # coverage could not write its file either, and would say so
    settings = {**landing(scene), **unmeasured}
    return Fault(
        ["File too large", "LOGINETL_LANDING_URL"], settings, within=["sh", "-c", 'ulimit -f 8 && exec "$@"', "sh"]
    )


@pytest.mark.parametrize(
    "broken",
    [
        the_disk_of_the_landing_is_full,
        the_landing_is_read_only,
        the_landing_key_is_of_the_wrong_kind,
    ],
)
def test_a_batch_that_cannot_be_landed_stays_on_the_queue(broken: Callable[[Scene], Fault], scene: Scene) -> None:
    fault = broken(scene)

    assert_one_clean_line(scene.call("loginetl", "run", fault=fault), fault)

    depth = Services(scene.settings).queue().depth()
    assert depth.queued + depth.in_flight == len(BODIES)
    assert scene.execute("SELECT count(*) FROM loginetl.batches") == [(0,)]


def test_messages_of_a_failed_run_come_again_and_are_loaded(scene: Scene) -> None:
    soon = {"LOGINETL_VISIBILITY_SECONDS": "30"}  # the least that is allowed
    fault = no_file_may_be_that_large(scene)
    fault = replace(fault, settings={**fault.settings, **soon})

    assert_one_clean_line(scene.call("loginetl", "run", fault=fault), fault)

    deadline = time.monotonic() + 60
    while Services(scene.settings).queue().depth().queued < len(BODIES):
        assert time.monotonic() < deadline
        time.sleep(0.5)
    assert_all_of_it_arrives(scene)


def test_batches_are_not_lost_to_a_landing_elsewhere(scene: Scene) -> None:
    with scene.pipeline() as pipeline:
        pipeline.drain(visibility_seconds=30)

        scene.call("loginetl", "run", fault=Fault([], landing(scene)))

        totals = pipeline.totals()
        assert (totals.messages, totals.pending, totals.loaded) == (len(BODIES), len(BODIES), 0)
        pipeline.process_landed(reprocess=True)
    assert_all_of_it_arrives(scene)


def test_dagsters_own_command_fails_without_a_value_in_its_output_or_log(scene: Scene) -> None:
    fault = no_file_may_be_that_large(scene)  # met with all values in memory, and not retried
    before = scene.execute("SELECT id FROM event_logs", database="dagster")

    done = scene.call(
        "dagster", "asset", "materialize", "--select", "*", "-m", "loginetl_assets.definitions", fault=fault
    )

    said = done.stdout + done.stderr
    assert done.returncode == 1, said
    assert "LOGINETL_LANDING_URL" in said
    assert_no_secret(said)
    events = scene.execute("SELECT event FROM event_logs ORDER BY id", database="dagster")[len(before) :]
    assert any("LOGINETL_LANDING_URL" in event for (event,) in events)
    assert_no_secret("".join(event for (event,) in events))


# Settings and commands that need no message to go wrong


@pytest.mark.parametrize(
    ("command", "variables", "exit_code", "names"),
    [
        ("status", {"LOGINETL_ENV": "prod"}, 2, ["LOGINETL_ENV", "local, staging, production"]),
        ("up", {"LOGINETL_ENV": "Local"}, 2, ["LOGINETL_ENV"]),
        (
            "run",
            {"LOGINETL_ENV": "production", "LOGINETL_QUEUE_URL": None},
            2,
            ["LOGINETL_QUEUE_URL", "LOGINETL_LANDING_URL", "LOGINETL_KEYSET_MASKING", "LOGINETL_KEYSET_VAULT"],
        ),
        ("run", {"LOGINETL_VISIBILITY_SECONDS": "5"}, 2, ["LOGINETL_VISIBILITY_SECONDS", "30"]),
        ("run", {"LOGINETL_MAX_REJECTION_RATE": "5 %"}, 2, ["LOGINETL_MAX_REJECTION_RATE"]),
        ("run", {"LOGINETL_APP_VERSION": "minor"}, 2, ["LOGINETL_APP_VERSION", "packed, major"]),
        ("status", {"LOGINETL_QUEUE_URL": "login-queue"}, None, ["LOGINETL_QUEUE_URL"]),
        ("status", {"LOGINETL_DATABASE_URL": "logins"}, None, ["LOGINETL_DATABASE_URL"]),
        ("status", {"LOGINETL_DATABASE_URL": f"mysql://u:{PASSWORD}@h/d"}, None, ["LOGINETL_DATABASE_URL"]),
        ("migrate", {"LOGINETL_DATABASE_URL": f"postgresql://u:{PASSWORD}@h:x/d"}, None, ["LOGINETL_DATABASE_URL"]),
        ("run", {"DAGSTER_HOME": "."}, 2, ["DAGSTER_HOME", "absolute"]),
        ("run", {"DAGSTER_HOME": "/absent/dagster"}, 2, ["DAGSTER_HOME", "exists"]),
        ("run", {"LOGINETL_LANDING_URL": "landing"}, None, ["LOGINETL_LANDING_URL"]),
        ("run", {"LOGINETL_LANDING_URL": "gs://bucket/x"}, None, ["LOGINETL_LANDING_URL"]),
        ("up", {"LOGINETL_HOME": "/dev/null/home"}, None, ["LOGINETL_HOME"]),
        # The variable that boto3 reads; it does not know AWS_REGION.
        (
            "status",
            {"LOGINETL_QUEUE_URL": "https://sqs.eu-west-1.amazonaws.com/1/q", "AWS_DEFAULT_REGION": "us-west-2"},
            1,
            ["eu-west-1", "us-west-2", "AWS_DEFAULT_REGION", "LOGINETL_QUEUE_URL"],
        ),
        ("run", {"LOGINETL_LANDING_URL": "s3://bucket/x", "AWS_PROFILE": "nobody"}, 1, ["AWS_PROFILE"]),
        ("status", {"LOGINETL_QUEUE_URL": f"https://u:{PASSWORD}@sqs.eu-west-1.amazonaws.com/1/q"}, 2, ["QUEUE_URL"]),
        ("run", {"LOGINETL_LANDING_URL": f"s3://u:{PASSWORD}@bucket/x"}, 2, ["LOGINETL_LANDING_URL"]),
        (f"run --queue-url=http://{PASSWORD}@127.0.0.1/1/q", {}, 2, ["LOGINETL_QUEUE_URL"]),
        ("run", {"AWS_ENDPOINT_URL_SQS": f"http://u:{PASSWORD}/x@127.0.0.1"}, 1, ["AWS_ENDPOINT_URL_SQS"]),
    ],
)
def test_a_setting_that_cannot_be_right_is_named(
    command: str, variables: Mapping[str, str | None], exit_code: int | None, names: list[str], scene: Scene
) -> None:
    done = scene.call("loginetl", *command.split(), fault=Fault([], variables))

    assert done.returncode in {1, 2}
    assert_one_clean_line(done, Fault(names, exit_code=done.returncode if exit_code is None else exit_code))


def test_a_queue_that_cannot_be_reached_is_named(scene: Scene) -> None:
    fault = Fault(["LOGINETL_QUEUE_URL"], {"LOGINETL_QUEUE_URL": f"http://127.0.0.1:{free_port()}/1/login-queue"})

    done = scene.call("loginetl", "status", fault=fault)

    assert "queue_unreachable" in done.stdout, "the rest is shown all the same"
    assert_one_clean_line(without_stdout(done), fault)


def without_stdout(done: subprocess.CompletedProcess[str]) -> subprocess.CompletedProcess[str]:
    """The same without what a command prints besides its error."""
    return subprocess.CompletedProcess(done.args, done.returncode, "", done.stderr)


def test_a_database_of_the_next_version_is_not_touched(scene: Scene) -> None:
    scene.execute("UPDATE loginetl.alembic_version SET version_num = 'v9999'")
    fault = Fault(["9999", "upgrade"])

    assert_one_clean_line(scene.call("loginetl", "run", fault=fault), fault)
    assert scene.execute("SELECT version_num FROM loginetl.alembic_version") == [("v9999",)]


@pytest.mark.parametrize(
    "command",
    [
        "up",
        "status",
        "run",
        "reprocess",
        "export -",
        "ui --port 38471",
        "rejected list",
        "rejected replay --all",
        "keys show",
        "erase --user-id --reason test --yes",
        "roles",
    ],
)
@pytest.mark.parametrize("found", ["nothing", "an older one"])
def test_only_migrate_changes_the_schema_of_a_database_elsewhere(found: str, command: str, scene: Scene) -> None:
    if found == "nothing":
        scene.execute("DROP SCHEMA loginetl CASCADE")
    else:
        scene.execute("UPDATE loginetl.alembic_version SET version_num = 'v0000'")
    relations = "SELECT oid, relname FROM pg_class WHERE relname !~ '^pg_' ORDER BY oid"
    before = scene.execute(relations)
    fault = Fault(["schema loginetl at", "loginetl migrate"])

    assert_one_clean_line(scene.call("loginetl", *command.split(), fault=fault), fault)

    assert scene.execute(relations) == before
    if found != "nothing":
        assert scene.execute("SELECT version_num FROM loginetl.alembic_version") == [("v0000",)]


def test_a_database_elsewhere_is_used_once_it_was_migrated(scene: Scene) -> None:
    scene.execute("DROP SCHEMA loginetl CASCADE")

    assert scene.call("loginetl", "migrate", fault=Fault([])).returncode == 0

    assert scene.call("loginetl", "up", fault=Fault([])).returncode == 0
    assert_all_of_it_arrives(scene)


def test_a_database_not_migrated_is_named_in_production(scene: Scene) -> None:
    scene.execute("DROP SCHEMA loginetl CASCADE")
    settings = {
        "LOGINETL_ENV": "production",
        "LOGINETL_LANDING_URL": "s3://bucket/x",
        **{f"LOGINETL_KEYSET_{role.upper()}": "/none.json" for role in KeysetRole},
    }
    fault = Fault(["loginetl migrate"], settings)

    assert_one_clean_line(scene.call("loginetl", "run", fault=fault), fault)


def test_a_dagster_instance_that_cannot_be_opened_is_named(scene: Scene) -> None:
    home = scene.directory / "damaged"
    home.mkdir()
    (home / "dagster.yaml").write_text(f"storage: {{postgres: {PASSWORD}")
    fault = Fault([f"DAGSTER_HOME={home}", "dagster.yaml"], {"DAGSTER_HOME": str(home)})

    assert_one_clean_line(scene.call("loginetl", "run", fault=fault), fault)


def test_a_port_that_is_taken_is_named(taken_port: int, scene: Scene) -> None:
    fault = Fault([str(taken_port), "--port"])

    assert_one_clean_line(scene.call("loginetl", "ui", "--port", str(taken_port), fault=fault), fault)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a disk that is always full is Linux's own")
@pytest.mark.parametrize(
    ("arguments", "redirection"),
    [
        ("export full/logins.csv", ""),
        ("export full/logins.parquet", ""),
        ("export -", "> /dev/full"),
        ("status --json", "> /dev/full"),
        ("status", "> /dev/full"),
    ],
)
def test_output_to_a_full_disk_is_one_line(arguments: str, redirection: str, scene: Scene) -> None:
    (scene.directory / "full").mkdir()
    for suffix in ("csv", "parquet"):
        (scene.directory / f"full/logins.{suffix}").symlink_to("/dev/full")
    fault = Fault(["No space left on device"], within=["sh", "-c", f'"$@" {redirection}', "sh"])

    assert_one_clean_line(scene.call("loginetl", *arguments.split(), fault=fault), fault)


def test_a_full_disk_under_the_home_is_named(scene: Scene) -> None:
    within = wrapped_in_mount(scene, "size=4k")
    home = {"LOGINETL_HOME": str(scene.directory / "landing" / "home")}
    fault = Fault(["No space left on device", "LOGINETL_HOME"], home, within=within)

    assert_one_clean_line(scene.call("loginetl", "up", fault=fault), fault)
