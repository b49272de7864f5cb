"""What Postgres does to a run: how its errors are sorted, and that a run outlives those that pass."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import make_url, text

from loginetl_assets.errors import OperatorError, TransientError
from loginetl_assets.local.stack import EmbeddedStack
from loginetl_assets.settings import Settings
from loginetl_assets.storage import database
from loginetl_assets.storage.copying import copy_rows
from loginetl_assets.storage.database import LoginDatabase
from loginetl_assets_tests.support.postgres_proxy import CONNECT, call_after, call_before, call_during_copy, statement
from loginetl_assets_tests.support.proxy import Rule
from loginetl_assets_tests.support.scene import DRAIN, Scene, assert_no_value, failures

VALUE = "user-5ee4001"  # a value of a message, in errors that quote one

LOCK_SECONDS = 2


@contextmanager
def session(settings: Settings, options: str = "") -> Iterator[psycopg.Connection]:
    """Another session on the database, as its superuser."""
    url = make_url(settings.database_url or "").set(drivername="postgresql").render_as_string(hide_password=False)
    with closing(psycopg.connect(url, autocommit=True, options=options)) as connection:
        yield connection


@pytest.fixture
def role(settings: Settings) -> Iterator[str]:
    """A role that may do all that the pipeline does, and is no superuser: limits hold for it."""
    name = f"{make_url(settings.database_url or '').database}_role"
    with session(settings) as other:
        other.execute(f"CREATE ROLE {name} LOGIN IN ROLE postgres".encode())
    yield name
    with session(settings) as other:
        other.execute(f"DROP ROLE {name}".encode())


def as_role(url: str | None, role: str) -> str:
    return make_url(url or "").set(username=role).render_as_string(hide_password=False)


# How errors are sorted


def raised(sqlstate: str) -> str:
    """A statement that the server answers with that error, a value in its text and its DETAIL line."""
    return f"DO $$BEGIN RAISE EXCEPTION '{VALUE}' USING ERRCODE = '{sqlstate}', DETAIL = 'Key ({VALUE})'; END$$"


SORTED: dict[str, tuple[str, type[Exception], str]] = {
    "shut-down": ("SELECT pg_terminate_backend(pg_backend_pid())", TransientError, "57P01|cannot be reached"),
    "takes-too-long": ("SET LOCAL statement_timeout = 10; SELECT pg_sleep(5)", TransientError, "57014"),
    "lock-time-out": ("SET LOCAL lock_timeout = 10; LOCK TABLE user_logins", TransientError, "55P03"),
    "locked": ("LOCK TABLE user_logins NOWAIT", TransientError, "55P03"),
    "serialization": (raised("40001"), TransientError, "40001"),
    "deadlock": (raised("40P01"), TransientError, "40P01"),
    "out-of-memory": (raised("53200"), TransientError, "53200"),
    "too-many-connections": (raised("53300"), TransientError, "53300"),
    "i/o-error": (raised("58030"), TransientError, "58030"),
    "connection-failure": (raised("08006"), TransientError, "08006"),
    "idle-in-transaction": (raised("25P03"), TransientError, "25P03"),
    "disk-full": (raised("53100"), OperatorError, "disk of Postgres is full"),
    "read-only": ("SET TRANSACTION READ ONLY; DELETE FROM user_logins", OperatorError, "read-only"),
    "no-table": ("SELECT * FROM loginetl.absent", OperatorError, "loginetl migrate"),
    "no-column": ("SELECT absent FROM user_logins", OperatorError, "loginetl migrate"),
    "no-integer": (f"SELECT CAST('{VALUE}' AS integer)", OperatorError, "22P02"),
    "unique": (raised("23505"), OperatorError, "23505"),
    "damaged": (raised("XX001"), OperatorError, "XX001"),
}


@pytest.mark.parametrize(("statement", "kind", "words"), SORTED.values(), ids=SORTED)
def test_an_error_is_sorted_into_what_passes_and_what_a_person_fixes(
    statement: str, kind: type[Exception], words: str, settings: Settings
) -> None:
    database = LoginDatabase(settings.database_url or "")
    with session(settings) as other, other.transaction():
        other.execute("LOCK TABLE user_logins IN ACCESS SHARE MODE")  # in the way of nothing but a lock of the table

        with pytest.raises(kind, match=words) as caught, database.transaction() as connection:
            connection.exec_driver_sql(statement)

    assert_no_value("".join(map(str, [caught.value, caught.value.__cause__, *caught.value.args])))
    assert caught.value.__suppress_context__


@pytest.mark.parametrize(
    ("make", "kind", "words"),
    [
        ("ALTER ROLE {role} CONNECTION LIMIT 0", TransientError, "no connection free"),
        ("ALTER DATABASE {database} CONNECTION LIMIT 0", TransientError, "no connection free"),
        ("ALTER ROLE {role} NOLOGIN", OperatorError, "refuses the login"),
    ],
)
def test_a_connection_that_is_refused_says_why(
    make: str, kind: type[Exception], words: str, settings: Settings, role: str
) -> None:
    with session(settings) as other:
        other.execute(make.format(role=role, database=make_url(settings.database_url or "").database).encode())

    with (
        pytest.raises(kind, match=words),
        LoginDatabase(as_role(settings.database_url, role)).transaction() as connection,
    ):
        connection.execute(text("SELECT 1"))


def test_a_row_that_a_copy_cannot_take_is_not_shown(settings: Settings) -> None:
    with (
        pytest.raises(OperatorError, match="22001") as caught,
        LoginDatabase(settings.database_url or "").transaction() as connection,
    ):
        copy_rows(connection, "user_logins", ["user_id"], [(VALUE * 100,)])

    assert_no_value(str(caught.value))


# What a run makes of them


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[Callable[[], object]]:
    """What happens while Dagster waits before it tries a step again, one for each wait; the waits are cut short."""
    meanwhile: list[Callable[[], object]] = []

    def short(policy: object, attempt_num: int) -> float:
        meanwhile.pop(0)()
        return 0.05

    monkeypatch.setattr("dagster.RetryPolicy.calculate_delay", short)
    return meanwhile


def nothing() -> None:
    """Nothing happens but time."""


def run_and_settle(scene: Scene) -> tuple[list[str], float]:
    """Runs the job, which must succeed, and accounts for every message; gives what failed on the way, and seconds."""
    started = time.monotonic()
    with scene.pipeline() as pipeline:
        result = pipeline.run(DRAIN)
    seconds = time.monotonic() - started
    said = failures(result)
    assert_no_value("".join(said))
    scene.settle()
    scene.assert_settled()
    return said, seconds


def test_a_backend_terminated_in_the_midst_of_a_copy_is_tried_again(
    scene: Scene, waits: list[Callable[[], object]]
) -> None:
    def terminate() -> None:
        with session(scene.settings) as other:
            ended = other.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND query LIKE '/* copy_logins */%'"
            ).fetchall()
        assert ended == [(True,)]

    scene.postgres.add(Rule(statement("copy_logins"), call_during_copy(terminate)))
    waits.append(nothing)

    said, _ = run_and_settle(scene)

    assert waits == []
    assert len(said) == 1


@pytest.mark.parametrize(
    ("moment", "how"),
    [
        pytest.param("register_batch", signal.SIGINT, id="register-shut-down"),
        pytest.param("add_values", signal.SIGKILL, id="vault-crash"),
        pytest.param("copy_logins", signal.SIGINT, id="copy-shut-down"),
    ],
)
def test_a_server_that_restarts_between_two_statements_costs_one_retry(
    moment: str, how: signal.Signals, scene: Scene, stack_home: Path, waits: list[Callable[[], object]]
) -> None:
    def restart() -> None:
        server = int((stack_home / "postgres" / "data" / "postmaster.pid").read_text().split()[0])
        os.kill(server, how)
        stack = EmbeddedStack(stack_home)
        deadline = time.monotonic() + 30
        while stack.find() is not None:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        stack.start()

    scene.postgres.add(Rule(statement(moment), call_after(restart)))
    waits.append(nothing)

    said, _ = run_and_settle(scene)

    assert waits == []
    assert len(said) == 1


def test_a_load_waits_for_a_lock_on_the_table(scene: Scene, waits: list[Callable[[], object]]) -> None:
    with session(scene.settings) as other:
        release = threading.Timer(LOCK_SECONDS, other.commit)

        def lock() -> None:
            other.autocommit = False
            other.execute("LOCK TABLE user_logins IN ACCESS EXCLUSIVE MODE")
            release.start()

        scene.postgres.add(Rule(statement("copy_logins"), call_before(lock)))

        said, seconds = run_and_settle(scene)
        release.join()

    assert said == []
    assert seconds >= LOCK_SECONDS


def test_a_load_that_is_the_victim_of_a_deadlock_is_tried_again(
    scene: Scene, waits: list[Callable[[], object]]
) -> None:
    # The other session is patient, so that the server chooses the load.
    with session(scene.settings, options="-c deadlock_timeout=20s") as other:

        def meet() -> None:
            with other.transaction():
                other.execute("LOCK TABLE user_logins IN EXCLUSIVE MODE")
                locked.set()
                other.execute("SELECT FROM loginetl.batches FOR UPDATE")  # which the load holds

        locked, meeting = threading.Event(), threading.Thread(target=meet)

        def begin() -> None:
            meeting.start()
            assert locked.wait(10)

        scene.postgres.add(Rule(statement("copy_logins"), call_before(begin)))
        waits.append(nothing)

        said, _ = run_and_settle(scene)
        meeting.join()

    assert waits == []
    assert "SQLSTATE 40P01" in said[0]


def test_a_run_without_a_free_connection_is_tried_again(
    scene: Scene, role: str, waits: list[Callable[[], object]]
) -> None:
    with session(scene.settings) as other:
        limit = f"ALTER ROLE {role} CONNECTION LIMIT".encode()
        other.execute(limit + b" 0")
        waits.append(lambda: other.execute(limit + b" -1"))
        scene.settings = replace(scene.settings, database_url=as_role(scene.settings.database_url, role))

        said, _ = run_and_settle(scene)

    assert waits == []
    assert "no connection free" in said[0]


# Migrations


def test_an_index_whose_build_was_ended_is_built_by_the_next_migration(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    validity = "SELECT indexrelid::regclass::text, indisvalid FROM pg_index WHERE indrelid = 'user_logins'::regclass"
    with session(settings) as other:
        other.execute("DROP SCHEMA loginetl CASCADE")
        other.execute("DROP INDEX user_logins_by_user, user_logins_by_ip, user_logins_by_device")
        with monkeypatch.context() as patch, other.transaction():
            other.execute("UPDATE user_logins SET locale = locale")
            patch.setattr(database, "LOCK_TIMEOUT_SECONDS", 0.1)
            with pytest.raises(TransientError, match="55P03"):
                LoginDatabase(settings.database_url or "").migrate()
        assert other.execute(validity.encode()).fetchall() == [("user_logins_by_user", False)]

        LoginDatabase(settings.database_url or "").migrate()

        indexes = ("user_logins_by_user", "user_logins_by_ip", "user_logins_by_device")
        assert dict(other.execute(validity.encode()).fetchall()) == dict.fromkeys(indexes, True)


def test_every_statement_of_a_run_carries_its_name(scene: Scene) -> None:
    with scene.pipeline() as pipeline:
        pipeline.run(DRAIN)
    of_the_driver = {CONNECT, "BEGIN", "COMMIT", "ROLLBACK", "SAVEPOINT", "RELEASE", "select", "show"}
    assert {one.name for one in scene.postgres.statements if "/*" not in one.sql} <= of_the_driver
    assert {"register_batch", "mark_masked", "copy_logins"} <= {one.name for one in scene.postgres.statements}
