"""What the database's URL may say, and what of it is shown."""

import json
import traceback
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import polars as pl
import pytest
from dagster._utils.error import serializable_error_info_from_exc_info
from sqlalchemy import Connection, text
from sqlalchemy.exc import SQLAlchemyError

from loginetl_assets.errors import OperatorError, TransientError
from loginetl_assets.settings import Settings
from loginetl_assets.storage.copying import copy_frame, copy_rows
from loginetl_assets.storage.database import LoginDatabase, RowsRefusedError, attempt
from loginetl_assets.storage.statements import array_of

PASSWORD = "correct-horse"  # noqa: S105 - to be searched for


@pytest.mark.parametrize(
    "url",
    [
        f"postgresql://user:{PASSWORD}@127.0.0.1:1/logins",
        f"postgresql://user@127.0.0.1:1/logins?password={PASSWORD}",
        f"postgresql://user:{PASSWORD}@/logins?host=127.0.0.1&port=1&sslpassword={PASSWORD}",
    ],
)
def test_no_password_is_shown_wherever_it_stands(url: str) -> None:
    database = LoginDatabase(url)
    with pytest.raises(TransientError) as raised, database.transaction():
        pass
    assert "127.0.0.1" in str(raised.value)
    assert PASSWORD not in str(raised.value)
    assert database.url.password == PASSWORD


@pytest.mark.parametrize("password", [f"p@{PASSWORD}", f"p@s/{PASSWORD}"])
def test_a_password_whose_end_would_be_taken_for_the_address_is_refused(password: str) -> None:
    with pytest.raises(OperatorError, match="%40") as raised:
        LoginDatabase(f"postgresql://user:{password}@127.0.0.1:1/logins")
    assert PASSWORD not in str(raised.value)


def test_the_options_of_the_url_reach_the_server_beside_our_own(settings: Settings) -> None:
    assert settings.database_url is not None
    url = LoginDatabase(settings.database_url).url.update_query_dict({"options": "-csearch_path=sales"})
    with LoginDatabase(url.render_as_string(hide_password=False)).transaction() as connection:
        assert connection.execute(text("SHOW search_path")).scalar_one() == "sales"
        assert connection.execute(text("SHOW lock_timeout")).scalar_one() == "30s"


def test_a_default_of_the_database_changes_nothing_that_is_relied_on(settings: Settings) -> None:
    """Erasure and the vault's sweep look again, in one transaction, for what others have committed meanwhile."""
    assert settings.database_url is not None
    url = LoginDatabase(settings.database_url).url
    database = LoginDatabase(settings.database_url)
    with database.transaction() as connection:
        for default in ("default_transaction_isolation = 'serializable'", "DateStyle = 'German'",
                        "IntervalStyle = 'iso_8601'"):  # fmt: skip
            connection.execute(text(f'ALTER DATABASE "{url.database}" SET {default}'))
    with database.transaction() as connection:
        assert connection.execute(text("SHOW transaction_isolation")).scalar_one() == "read committed"
        seen = connection.execute(text("SELECT CAST('2026-01-02 03:04Z' AS timestamptz), interval '1 day'")).one()
    assert seen == (datetime(2026, 1, 2, 3, 4, tzinfo=UTC), timedelta(days=1))


# What means something to CSV, to an array, or to COPY.
TEXTS = [
    "",
    " ",
    "NULL",
    "null",
    "a,b",
    'a"b',
    '""',
    "a\\b",
    "\\N",
    "\\.",
    "a\n\\.\nb",
    "a\rb",
    "\r\n",
    "\t",
    "{}",
    "é😀",
]


def test_a_text_arrives_in_an_array_as_it_was(settings: Settings) -> None:
    statement = text("SELECT CAST(:texts AS text[])")
    with LoginDatabase(settings.database_url or "").transaction() as connection:
        for texts in (TEXTS, TEXTS[:1], []):
            assert connection.execute(statement, {"texts": array_of(texts)}).scalar_one() == texts


def test_a_frame_is_copied_as_it_is(settings: Settings) -> None:
    texts = [None, *TEXTS]
    frame = pl.DataFrame(
        {"at": range(len(texts)), "one": texts, "other": texts[::-1], "day": [datetime.now(UTC).date()] * len(texts)}
    )
    with LoginDatabase(settings.database_url or "").transaction() as connection:
        connection.execute(text("CREATE TEMP TABLE copied (at integer, one text, other text, day date)"))
        copy_frame(connection, "copy_seen", "pg_temp.copied", frame)
        copy_frame(connection, "copy_seen", "pg_temp.copied", frame.clear())
        rows = connection.execute(text("SELECT at, one, other, day FROM pg_temp.copied ORDER BY at")).all()
    assert [tuple(row) for row in rows] == frame.rows()


CANARY = "203.0.113.199"


def told(error: BaseException) -> str:
    """All that Python and Dagster would show of an error, the errors behind it included."""
    assert error.__traceback__ is not None
    shown = serializable_error_info_from_exc_info((type(error), error, error.__traceback__))
    return "".join(traceback.format_exception(error)) + json.dumps(shown, default=str) + shown.to_string()


def by_a_statement(connection: Connection) -> None:
    connection.execute(text("SELECT CAST(:value AS integer)"), {"value": CANARY})


def by_a_constraint_that_quotes_the_row(connection: Connection) -> None:
    connection.execute(text("CREATE TEMP TABLE seen (ip text PRIMARY KEY)"))
    for _ in range(2):
        connection.execute(text("INSERT INTO seen VALUES (:value)"), {"value": CANARY})


def by_a_row_that_is_copied(connection: Connection) -> None:
    connection.execute(text("CREATE TEMP TABLE seen (version integer)"))
    copy_rows(connection, "seen", ["version"], [[CANARY]])


def by_a_frame_that_is_copied(connection: Connection) -> None:
    connection.execute(text("CREATE TEMP TABLE seen (version integer)"))
    copy_frame(connection, "copy_seen", "seen", pl.DataFrame({"version": [CANARY]}))


def at_the_commit(connection: Connection) -> None:
    connection.execute(text("CREATE TEMP TABLE seen (ip text UNIQUE DEFERRABLE INITIALLY DEFERRED)"))
    connection.execute(text("INSERT INTO seen VALUES (:value), (:value)"), {"value": CANARY})


@pytest.mark.parametrize(
    "fails",
    [
        by_a_statement,
        by_a_constraint_that_quotes_the_row,
        by_a_row_that_is_copied,
        by_a_frame_that_is_copied,
        at_the_commit,
    ],
)
def test_no_value_is_in_what_leaves_a_transaction_or_behind_it(
    fails: Callable[[Connection], None], settings: Settings
) -> None:
    assert settings.database_url is not None
    with pytest.raises(OperatorError) as raised, LoginDatabase(settings.database_url).transaction() as connection:
        fails(connection)

    assert "SQLSTATE 2" in str(raised.value)  # the server refused it, and said why with the value
    assert CANARY not in told(raised.value)


def test_no_value_is_in_a_refusal_or_behind_it(settings: Settings) -> None:
    assert settings.database_url is not None
    with LoginDatabase(settings.database_url).transaction() as connection:
        with pytest.raises(RowsRefusedError) as raised, attempt(connection):
            by_a_constraint_that_quotes_the_row(connection)
        connection.rollback()

    assert CANARY not in told(raised.value)


def test_no_text_of_the_server_is_in_a_failed_migration_or_behind_it(settings: Settings) -> None:
    assert settings.database_url is not None
    database = LoginDatabase(settings.database_url)
    with database.transaction() as connection:
        connection.execute(text("DROP SCHEMA loginetl CASCADE"))
        connection.execute(
            text(
                "CREATE FUNCTION refuse() RETURNS event_trigger LANGUAGE plpgsql AS"
                f" $$ BEGIN RAISE EXCEPTION 'not while {CANARY} is here'; END $$"
            )
        )
        connection.execute(text("CREATE EVENT TRIGGER refuse ON ddl_command_start EXECUTE FUNCTION refuse()"))
    with pytest.raises(OperatorError) as raised:
        database.migrate()

    assert "P0001" in str(raised.value)
    assert CANARY not in told(raised.value)


def test_the_text_of_an_error_within_a_transaction_has_no_parameters(settings: Settings) -> None:
    assert settings.database_url is not None
    by_zero = text("SELECT 1 / length('') WHERE CAST(:value AS text) <> ''")
    with (
        LoginDatabase(settings.database_url).transaction() as connection,
        pytest.raises(SQLAlchemyError) as raised,
        connection.begin_nested(),
    ):
        connection.execute(by_zero, {"value": CANARY})

    assert "division by zero" in str(raised.value)
    assert CANARY not in told(raised.value)
