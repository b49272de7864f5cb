"""The proxy itself: what passes through it unchanged, and each of its faults as psycopg meets it."""

from collections.abc import Iterator
from contextlib import closing

import psycopg
import pytest
from sqlalchemy import make_url

from loginetl_assets.settings import Settings
from loginetl_assets_tests.support.postgres_proxy import (
    CONNECT,
    Action,
    PostgresProxy,
    RefusedError,
    call_after,
    call_before,
    call_during_copy,
    drop,
    forward_then_drop,
    refuse,
    statement,
)
from loginetl_assets_tests.support.proxy import DroppedError, Rule

ROWS = [(number, "x" * 100) for number in range(2_000)]  # several CopyData messages


def libpq(url: str) -> str:
    """A URL of SQLAlchemy's as libpq reads it."""
    return make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)


@pytest.fixture
def direct(settings: Settings) -> Iterator[psycopg.Connection]:
    assert settings.database_url is not None
    with psycopg.connect(libpq(settings.database_url), autocommit=True) as connection:
        connection.execute("CREATE TABLE t (n integer, s text)")
        yield connection


@pytest.fixture
def proxy(settings: Settings, direct: psycopg.Connection) -> Iterator[PostgresProxy]:
    assert settings.database_url is not None
    with PostgresProxy(settings.database_url) as proxy:
        yield proxy


@pytest.fixture
def url(proxy: PostgresProxy, settings: Settings) -> str:
    assert settings.database_url is not None
    return libpq(proxy.through(settings.database_url))


def copy_and_count(connection: psycopg.Connection) -> int:
    with connection.cursor() as cursor:
        cursor.execute("INSERT INTO t VALUES (%s, %s)", (-1, "first"))
        with cursor.copy("COPY t FROM STDIN") as copy:
            for row in ROWS:
                copy.write_row(row)
        return len(cursor.execute("SELECT n FROM t WHERE n >= %s", (-1,)).fetchall())


def rows(direct: psycopg.Connection) -> int:
    return len(direct.execute("SELECT FROM t").fetchall())


def test_statements_and_copies_pass_unchanged(proxy: PostgresProxy, url: str, direct: psycopg.Connection) -> None:
    with psycopg.connect(url, application_name="test") as connection:
        assert copy_and_count(connection) == len(ROWS) + 1
        for number in range(10):  # prepared from the fifth on
            assert connection.execute("SELECT %s + 1", (number,)).fetchone() == (number + 1,)
        with pytest.raises(psycopg.errors.UndefinedTable), connection.transaction():
            connection.execute("SELECT * FROM absent")
        with connection.cursor().copy("COPY t TO STDOUT") as out:
            assert len(list(out)) > 1
    assert rows(direct) == len(ROWS) + 1
    assert [one.sql for one in proxy.statements[:4]] == [
        CONNECT,
        "BEGIN",
        "INSERT INTO t VALUES ($1, $2)",
        "COPY t FROM STDIN",
    ]
    assert proxy.statements[3].before == ("BEGIN", "INSERT INTO t VALUES ($1, $2)")
    assert {one.application_name for one in proxy.statements} == {"test"}
    assert [one.sql for one in proxy.statements].count("SELECT $1 + 1") == 10


def refuse_during_copy(sqlstate: str) -> Action:
    def callback() -> None:
        raise RefusedError(sqlstate)

    return call_during_copy(callback)


def drop_during_copy() -> Action:
    def callback() -> None:
        raise DroppedError

    return call_during_copy(callback)


@pytest.mark.parametrize(
    ("name", "action", "error", "arrived"),
    [
        (CONNECT, refuse("53300"), psycopg.OperationalError, 0),
        (CONNECT, drop(), psycopg.OperationalError, 0),
        ("INSERT", refuse("40001"), psycopg.errors.SerializationFailure, 0),
        ("COPY", refuse("55P03"), psycopg.errors.LockNotAvailable, 0),
        ("COPY", refuse_during_copy("53100"), psycopg.errors.DiskFull, 0),
        ("COPY", drop_during_copy(), psycopg.OperationalError, 0),
        ("COPY", forward_then_drop(), psycopg.OperationalError, 0),
        ("SELECT", refuse("57P01"), psycopg.errors.AdminShutdown, 0),
        ("SELECT", drop(), psycopg.OperationalError, 0),
        ("COMMIT", refuse("40P01"), psycopg.errors.DeadlockDetected, 0),
        ("COMMIT", drop(), psycopg.OperationalError, 0),
        ("COMMIT", forward_then_drop(), psycopg.OperationalError, len(ROWS) + 1),
    ],
    ids=[
        *("connect-refused", "connect-dropped", "insert-refused", "copy-refused", "copy-refused-midway"),
        *("copy-dropped-midway", "copy-unheard", "select-shut-down", "select-dropped", "commit-refused"),
        *("commit-dropped", "commit-unheard"),
    ],
)
def test_a_fault_hits_the_statement_it_is_set_for(
    name: str,
    action: Action,
    error: type[Exception],
    arrived: int,
    proxy: PostgresProxy,
    url: str,
    direct: psycopg.Connection,
) -> None:
    fault = proxy.add(Rule(statement(name), action))

    with pytest.raises(error), closing(psycopg.connect(url)) as connection, connection:
        copy_and_count(connection)
    assert fault.acted == 1
    assert rows(direct) == arrived

    with psycopg.connect(url) as connection:
        copy_and_count(connection)
    assert rows(direct) == arrived + len(ROWS) + 1


def test_a_transaction_goes_on_after_a_refused_statement(url: str, proxy: PostgresProxy) -> None:
    proxy.add(Rule(statement("SELECT"), refuse("40001")))
    proxy.add(Rule(statement("COPY"), refuse_during_copy("53100")))

    with psycopg.connect(url) as connection:
        with pytest.raises(psycopg.errors.SerializationFailure):
            connection.execute("SELECT 1")
        assert connection.info.transaction_status is psycopg.pq.TransactionStatus.INERROR
        connection.rollback()
        with pytest.raises(psycopg.errors.DiskFull):
            copy_and_count(connection)
        assert connection.info.transaction_status is psycopg.pq.TransactionStatus.INERROR
        connection.rollback()
        assert copy_and_count(connection) == len(ROWS) + 1


def test_callbacks_run_before_the_server_knows_and_before_the_client_hears(
    url: str, proxy: PostgresProxy, direct: psycopg.Connection
) -> None:
    seen: list[int] = []
    for action in (call_before, call_after):
        proxy.add(Rule(statement("COMMIT", after="INSERT"), action(lambda: seen.append(rows(direct)))))

    for _ in range(2):
        with psycopg.connect(url) as connection:
            copy_and_count(connection)

    assert seen == [0, 2 * (len(ROWS) + 1)]


def test_a_terminated_backend_is_reported_as_by_the_server(
    url: str, proxy: PostgresProxy, direct: psycopg.Connection
) -> None:
    kill = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'victim'"
    proxy.add(Rule(statement("COPY"), call_during_copy(lambda: direct.execute(kill.encode()))))

    with (
        pytest.raises(psycopg.OperationalError) as caught,
        psycopg.connect(url, application_name="victim") as connection,
    ):
        copy_and_count(connection)

    assert caught.value.sqlstate in {"57P01", None}
    assert rows(direct) == 0


def test_what_a_callback_raises_is_raised_at_the_end(settings: Settings) -> None:
    def fail() -> None:
        raise AssertionError("seen")

    assert settings.database_url is not None
    with (
        pytest.raises(AssertionError, match="seen"),
        PostgresProxy(settings.database_url, Rule(statement("SELECT"), call_before(fail))) as proxy,
        pytest.raises(psycopg.OperationalError),
        psycopg.connect(libpq(proxy.through(settings.database_url))) as connection,
    ):
        connection.execute("SELECT 1")
