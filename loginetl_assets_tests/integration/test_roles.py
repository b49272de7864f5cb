"""The Postgres roles, as logins that have one each: what each must be able to do, and what it must not."""

# ruff: noqa: S608 - names of our own tables

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import make_url, text

from loginetl_assets.cli.keys import RotatingRole, rotate
from loginetl_assets.errors import OperatorError
from loginetl_assets.landing.batch_files import write_messages
from loginetl_assets.logins.message import QueuedMessage
from loginetl_assets.privacy.erase import Erasure
from loginetl_assets.privacy.recover import Outcome, recover, tokens_of_user, tokens_of_value
from loginetl_assets.privacy.rotate import reencrypt_data_keys, retokenize
from loginetl_assets.privacy.subject_report import read_subject
from loginetl_assets.privacy.subjects import subject_of
from loginetl_assets.services import Services
from loginetl_assets.settings import AppVersion, KeysetRole, Settings
from loginetl_assets.storage import audit
from loginetl_assets.storage.database import LoginDatabase
from loginetl_assets.storage.roles import ANALYST, LOADER, PRIVACY, grant_roles
from loginetl_assets_tests.support.command import run_loginetl
from loginetl_assets_tests.support.pipeline import SAMPLE, Pipeline, checks, login

DENIED = "lacks a right"
ANALYSTS_PAGE = Path(__file__).parents[2] / "docs" / "analyst.md"
VIEWS = ["logins", "shared_devices", "shared_ips", "duplicate_rows", "daily_activity"]


@dataclass(frozen=True)
class Logins:
    """Settings of logins that have one role each."""

    loader: Settings
    analyst: Settings
    privacy: Settings


@pytest.fixture
def logins(settings: Settings) -> Iterator[Logins]:
    """Logins of this test alone, in its database."""
    owner = LoginDatabase(str(settings.database_url))
    grant_roles(owner)
    suffix = uuid4().hex[:12]
    names = {role: f"{role}_{suffix}" for role in (LOADER, ANALYST, PRIVACY)}
    with owner.transaction() as connection:
        for role, name in names.items():
            connection.execute(text(f"CREATE ROLE {name} LOGIN IN ROLE {role}"))
    yield Logins(*(replace(settings, database_url=_as(settings, name)) for name in names.values()))
    with owner.transaction() as connection:
        for name in names.values():
            connection.execute(text(f"DROP ROLE {name}"))


def _as(settings: Settings, name: str) -> str:
    url = make_url(str(settings.database_url)).set(username=name)
    return url.render_as_string(hide_password=False)


def _query(settings: Settings, statement: str, **values: object) -> list[Any]:
    with LoginDatabase(str(settings.database_url)).transaction() as connection:
        return list(connection.execute(text(statement), values).all())


def _execute(settings: Settings, statement: str) -> None:
    """Runs a statement and takes it back, whatever it did."""
    with LoginDatabase(str(settings.database_url)).transaction() as connection:
        savepoint = connection.begin_nested()
        connection.execute(text(statement))
        savepoint.rollback()


def _may(settings: Settings, statement: str) -> bool:
    try:
        _execute(settings, statement)
    except OperatorError as error:
        assert DENIED in str(error), f"{statement}: {error}"
        return False
    return True


def _tables(pipeline: Pipeline) -> dict[str, str]:
    """The tables of schema loginetl, each with the name of one of its columns."""
    rows = pipeline.query(
        "SELECT relname, attname FROM pg_class JOIN pg_attribute ON attrelid = pg_class.oid AND attnum = 1"
        " WHERE relnamespace = 'loginetl'::regnamespace AND relkind = 'r'"
    )
    return {row.relname: row.attname for row in rows}


def _writes(table: str, column: str) -> list[str]:
    return [
        # Without a condition or a column on the right: those would need the right to read.
        f"INSERT INTO {table} DEFAULT VALUES",
        f"UPDATE {table} SET {column} = DEFAULT",
        f"DELETE FROM {table}",
        f"TRUNCATE {table} CASCADE",
        f"DROP TABLE {table} CASCADE",
    ]


def test_the_whole_pipeline_runs_as_loader(pipeline: Pipeline, logins: Logins, tmp_path: Path) -> None:
    with Pipeline.on(logins.loader, tmp_path / "loader") as loader:
        loader.send([*SAMPLE, login(app_version="x")])
        result = loader.run({"raw_login_messages": {"batch_messages": 40}})
        assert all(checks(result).values())
        assert (loader.totals().loaded, loader.totals().rejected) == (99, 2)
        assert checks(loader.run({"masked_logins": {"reprocess": True}}))["counts_reconcile"]
        assert (loader.totals().loaded, loader.totals().rejected) == (99, 2)
        loader.run({"replay": {"reason": "bad_version"}}, job="replay_rejected")
        loader.process()
        assert (loader.totals().loaded, loader.totals().rejected) == (99, 2)
        assert len(pipeline.rows()) == 99
        pipeline.execute("UPDATE loginetl.batches SET landed_at = now() - '90 days'::interval,"
                         " loaded_at = now() - '90 days'::interval")  # fmt: skip
        loader.services.landing().put("batches/probe-unregistered", b"")
        unregistered = loader.settings.home / "landing" / "batches" / "probe-unregistered"
        os.utime(unregistered, (0, 0))
        loader.run(job="retention")
        assert not unregistered.exists()
        assert pipeline.query("SELECT count(*) FROM loginetl.batches WHERE object_purged_at IS NULL")[0][0] == 0
        assert pipeline.query("SELECT outcome FROM loginetl.processed_messages GROUP BY 1") == [("rejected",)]
        assert list(loader.services.landing().list("batches")) == []


def test_several_processes_drain_as_loader(logins: Logins, tmp_path: Path) -> None:
    with Pipeline.on(logins.loader, tmp_path / "loader") as loader:
        loader.send(login(user_id=f"u-{number}") for number in range(40))
        loader.run({"raw_login_messages": {"processes": 2}})
        assert loader.totals().loaded == 40


def test_a_value_that_was_erased_is_entered_again_by_the_loader(
    pipeline: Pipeline, logins: Logins, tmp_path: Path
) -> None:
    with Pipeline.on(logins.loader, tmp_path / "loader") as loader:
        loader.send([login()])
        loader.process()
        _erase(logins.privacy, "u-1")
        assert len(pipeline.query("SELECT FROM loginetl.erased_tokens")) == 2
        loader.send([login()])
        loader.process()
    assert len(pipeline.query("SELECT FROM loginetl.pii_vault")) == 2
    assert pipeline.query("SELECT FROM loginetl.erased_tokens") == []


def test_the_loader_maps_tokens_while_keys_rotate(pipeline: Pipeline, logins: Logins, tmp_path: Path) -> None:
    pipeline.send([login()])
    pipeline.process()
    _rotate(pipeline.settings, RotatingRole.MASKING)
    with Pipeline.on(logins.loader, tmp_path / "loader") as loader:
        for _ in range(2):
            loader.send([login(user_id="u-2")])
            loader.process()
    assert len(pipeline.query("SELECT FROM loginetl.token_map")) == 2
    assert len(pipeline.query("SELECT FROM loginetl.shared_devices")) == 1


def test_the_command_runs_as_loader_and_does_not_migrate(pipeline: Pipeline, logins: Logins, tmp_path: Path) -> None:
    pipeline.send([login()])

    def loginetl(*arguments: str) -> subprocess.CompletedProcess[str]:
        (tmp_path / "dagster_home").mkdir(exist_ok=True)
        return subprocess.run(
            [str(Path(sys.executable).parent / "loginetl"), *arguments],
            env=logins.loader.as_environment()
            | {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "DAGSTER_HOME": str(tmp_path / "dagster_home")}
            | {name: value for name, value in os.environ.items() if name.startswith("AWS_")},
            capture_output=True,
            text=True,
            check=False,
        )

    ran = loginetl("run")
    assert ran.returncode == 0, ran.stderr
    assert len(pipeline.rows()) == 1
    assert loginetl("status", "--json").returncode == 0
    exported = loginetl("export", "-")
    assert len(exported.stdout.splitlines()) == 2, exported.stderr
    recovered = loginetl("recover", "--reason", "curious", f"1.{'x' * 43}")
    assert (recovered.returncode, DENIED in recovered.stderr) == (1, True)


def test_the_loader_reads_nothing_of_the_vault_and_takes_nothing_back(pipeline: Pipeline, logins: Logins) -> None:
    may = _for(logins.loader)
    for forbidden in (
        "SELECT encrypted_value FROM loginetl.pii_vault",
        "SELECT * FROM loginetl.pii_vault",
        "SELECT count(*) FROM loginetl.pii_vault WHERE encrypted_value = ''",
        "SELECT wrapped_key FROM loginetl.vault_data_keys",
        "COPY loginetl.pii_vault TO STDOUT",
        "SELECT at FROM loginetl.pii_access_log",
        *_writes("loginetl.pii_access_log", "who"),
        *_writes("user_logins", "user_id")[1:],
        *_writes("loginetl.pii_vault", "token")[1:],
        *_writes("loginetl.vault_data_keys", "officer_key_id")[1:],
        "UPDATE loginetl.rejected_logins SET encrypted_body = ''",
        "UPDATE loginetl.processed_messages SET outcome = 'loaded'",
        "DELETE FROM loginetl.batches",
        "INSERT INTO loginetl.erased_tokens VALUES ('1.token')",
        "UPDATE loginetl.keys SET key_id = 1",
        "DELETE FROM loginetl.keys",
        "UPDATE loginetl.installation SET vault_days = 1",
        "UPDATE loginetl.alembic_version SET version_num = 'v0000'",
        "CREATE TABLE loginetl.mine (n integer)",
        "DROP INDEX user_logins_by_user",
        f"SET ROLE {PRIVACY}",
    ):
        assert not may(forbidden), forbidden
    assert may("SELECT * FROM user_logins")


def test_the_loader_removes_a_value_that_a_row_has_only_once_it_is_older_than_the_owner_says(
    pipeline: Pipeline, logins: Logins
) -> None:
    pipeline.land([QueuedMessage(str(uuid4()), 1_700_000_000_000, login().encode())])
    pipeline.run(job="process_landed")
    (row,) = pipeline.query("SELECT masked_ip, masked_device_id FROM user_logins")
    remove = f"SELECT loginetl.remove_values_without_rows(ARRAY['{row[0]}', '{row[1]}'])"
    assert _query(logins.loader, remove) == [(0,)]
    pipeline.execute("UPDATE loginetl.installation SET vault_days = 36500")
    assert _query(logins.loader, remove) == [(0,)]
    pipeline.execute("UPDATE loginetl.installation SET vault_days = 30")
    assert _query(logins.loader, remove) == [(2,)]


def test_the_analyst_reads_the_table_and_the_views_and_nothing_else(pipeline: Pipeline, logins: Logins) -> None:
    may = _for(logins.analyst)
    assert may("SELECT * FROM user_logins")
    for view in VIEWS:
        assert may(f"SELECT * FROM loginetl.{view}"), view
    assert may("SELECT loginetl.version_text(2003000)")
    views = pipeline.query("SELECT viewname FROM pg_views WHERE schemaname = 'loginetl'")
    assert sorted(row.viewname for row in views) == sorted(VIEWS)
    tables = _tables(pipeline)
    assert len(tables) >= 11
    # token_map by the views, which are read by the rights of who asks; the two of all commands; the report's counts.
    readable = {"token_map", "alembic_version", "installation", "activity", "activity_changes"}
    in_part = {"batches", "keys"}  # their states and counts, and the keys' ids, which every token begins with
    for table, column in tables.items():
        assert may(f"SELECT FROM loginetl.{table}") == (table in readable | in_part), table
        assert may(f"SELECT * FROM loginetl.{table}") == (table in readable), table
        for statement in _writes(f"loginetl.{table}", column):
            assert not may(statement), statement
    for statement in (
        *_writes("user_logins", "user_id"),
        "CREATE TABLE loginetl.mine (n integer)",
        "CREATE TABLE public.mine (n integer)",
        "CREATE SCHEMA mine",
        "SELECT object_path FROM loginetl.batches",
        "SELECT lost_by FROM loginetl.batches",
        "SELECT check_value FROM loginetl.keys",
        f"SET ROLE {LOADER}",
        "CREATE ROLE mine",
    ):
        assert not may(statement), statement


def test_the_access_log_can_be_added_to_and_never_changed(pipeline: Pipeline, logins: Logins) -> None:
    database = LoginDatabase(str(logins.privacy.database_url))
    audit.record(database, audit.Action.RECOVER, "a reason")
    (row,) = _query(logins.privacy, "SELECT * FROM loginetl.pii_access_log")
    assert row.who == make_url(str(logins.privacy.database_url)).username
    may = _for(logins.privacy)
    for statement in (
        *_writes("loginetl.pii_access_log", "who")[1:],
        *(
            f"INSERT INTO loginetl.pii_access_log (action, reason, {column}) VALUES ('recover', 'why', {value})"
            for column, value in (
                ("who", "'someone else'"),
                ("at", "now() - '1 year'::interval"),
                ("client_address", "'192.0.2.1'"),
            )
        ),
        "INSERT INTO loginetl.pii_access_log (access_id, action, reason)"
        " OVERRIDING SYSTEM VALUE VALUES (1, 'recover', 'why')",
        "TRUNCATE loginetl.pii_access_log",
        "SELECT setval('loginetl.pii_access_log_access_id_seq', 1)",
        "SET session_replication_role = replica",
        "SET SESSION AUTHORIZATION postgres",
        "UPDATE loginetl.pii_access_log SET reason = 'another'",
        "DELETE FROM loginetl.pii_access_log",
        "ALTER TABLE loginetl.pii_access_log ADD COLUMN n integer",
        "ALTER TABLE loginetl.pii_access_log DISABLE TRIGGER ALL",
    ):
        assert not may(statement), statement
    assert _query(pipeline.settings, "SELECT * FROM loginetl.pii_access_log") == [row]


def test_nobody_else_adds_to_the_access_log(pipeline: Pipeline, logins: Logins) -> None:
    for settings in (logins.loader, logins.analyst):
        database = LoginDatabase(str(settings.database_url))
        with pytest.raises(OperatorError, match=DENIED):
            audit.record(database, audit.Action.RECOVER, "a reason")
    assert _query(pipeline.settings, "SELECT * FROM loginetl.pii_access_log") == []


def test_who_from_where_and_when_is_what_the_database_knows(
    pipeline: Pipeline, logins: Logins, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOGNAME", "the-chief")
    audit.record(LoginDatabase(str(logins.privacy.database_url)), audit.Action.RECOVER, "a reason")
    name = make_url(str(logins.privacy.database_url)).username
    (row,) = _query(
        logins.privacy,
        "SELECT who, claimed_user, client_address, inet_client_addr() AS here, now() - at AS age"
        " FROM loginetl.pii_access_log",
    )
    assert (row.who, row.claimed_user) == (name, "the-chief"), "what the client says of its user stands apart"
    assert row.client_address == row.here
    assert timedelta() <= row.age < timedelta(minutes=5)


def test_even_the_owner_cannot_write_who_and_when_in_passing(pipeline: Pipeline, logins: Logins) -> None:
    """Nor with functions of the same names found first, nor as another role than the one that logged in."""
    pipeline.execute(f"GRANT {PRIVACY} TO CURRENT_USER")
    with pipeline.services.database().transaction() as connection:
        for statement in (
            "CREATE SCHEMA mine",
            "CREATE FUNCTION mine.clock_timestamp() RETURNS timestamptz LANGUAGE sql RETURN '2001-01-01'::timestamptz",
            "CREATE FUNCTION mine.inet_client_addr() RETURNS inet LANGUAGE sql RETURN '192.0.2.1'::inet",
            f"GRANT USAGE ON SCHEMA mine TO {PRIVACY}",
            "SET LOCAL search_path = mine, pg_catalog",
            "INSERT INTO loginetl.pii_access_log (at, who, client_address, action, reason)"
            " VALUES ('2001-01-01', 'someone else', '192.0.2.1', 'recover', 'first')",
            f"SET LOCAL ROLE {PRIVACY}",
            "INSERT INTO loginetl.pii_access_log (action, reason) VALUES ('recover', 'second')",
            "RESET ROLE",
        ):
            connection.execute(text(statement))
    rows = pipeline.query(
        "SELECT who = session_user AS own, client_address IS NOT DISTINCT FROM inet_client_addr() AS here,"
        " at > now() - '5 minutes'::interval AS lately FROM loginetl.pii_access_log"
    )
    assert [tuple(row) for row in rows] == [(True, True, True)] * 2


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE loginetl.pii_access_log SET reason = 'another'",
        "UPDATE loginetl.pii_access_log SET reason = 'another' WHERE false",
        "DELETE FROM loginetl.pii_access_log",
        "TRUNCATE loginetl.pii_access_log",
        "INSERT INTO loginetl.pii_access_log (access_id, action, reason) OVERRIDING SYSTEM VALUE"
        " VALUES (1, 'recover', 'another') ON CONFLICT (access_id) DO UPDATE SET reason = excluded.reason",
    ],
)
def test_the_access_log_is_append_only_for_its_owner_too(pipeline: Pipeline, statement: str) -> None:
    audit.record(pipeline.services.database(), audit.Action.RECOVER, "a reason")
    before = pipeline.query("SELECT * FROM loginetl.pii_access_log")
    with pytest.raises(OperatorError):
        pipeline.execute(statement)
    assert pipeline.query("SELECT * FROM loginetl.pii_access_log") == before


def test_privacy_loads_nothing_and_owns_nothing(pipeline: Pipeline, logins: Logins) -> None:
    may = _for(logins.privacy)
    for statement in (
        "INSERT INTO user_logins (user_id) VALUES ('u-1')",
        "TRUNCATE user_logins",
        "DELETE FROM loginetl.batches",
        "INSERT INTO loginetl.rejected_logins DEFAULT VALUES",
        "UPDATE loginetl.rejected_logins SET reason = ''",
        "UPDATE loginetl.keys SET key_id = 1",
        "DELETE FROM loginetl.keys",
        "UPDATE loginetl.alembic_version SET version_num = 'v0000'",
        "CREATE TABLE loginetl.mine (n integer)",
    ):
        assert not may(statement), statement
    for view in VIEWS:
        assert may(f"SELECT * FROM loginetl.{view}"), view


def test_privacy_recovers_and_erases(pipeline: Pipeline, logins: Logins) -> None:
    pipeline.send([login(user_id="a", ip="192.0.2.1", device_id="d-1"), login(user_id="a", app_version="x"), login()])
    pipeline.process()
    database, officer = LoginDatabase(str(logins.privacy.database_url)), Services(logins.privacy).officer()
    tokens = tokens_of_user(database, "a")
    answers = recover(database, officer, tokens, reason="test")
    assert {answer.value for answer in answers} == {"192.0.2.1", "d-1"}
    found = tokens_of_value(database, pipeline.services.keyring, "ip", "192.0.2.1", reason="test")
    assert set(found) <= set(tokens)
    pipeline.send([login(user_id="a", ip="192.0.2.2")])
    pipeline.drain(visibility_seconds=30)
    pipeline.mask()
    one = Services(logins.privacy)
    options = {"reason": "test", "app_version": AppVersion.PACKED}
    report = read_subject(database, one.landing(), one.keyring, officer, "a", **options)  # type: ignore[arg-type]
    assert (len(report.logins), len(report.rejected), len(report.landing)) == (1, 1, 3)
    left = QueuedMessage(str(uuid4()), 1_700_000_000_000, login(user_id="a", ip="192.0.2.3").encode())
    write_messages(pipeline.services.landing(), pipeline.services.keyring.landing, [left])  # by a drain that died
    _erase(logins.privacy, "a")
    assert pipeline.query("SELECT sum(erased) FROM loginetl.batches") == [(4,)]
    assert [row[0] for row in pipeline.rows()] == ["u-1"]
    assert {answer.outcome for answer in recover(database, officer, tokens, reason="test")} == {Outcome.ERASED}
    assert checks(pipeline.run())["counts_reconcile"]


def test_privacy_rotates_the_masking_key_and_the_officers(pipeline: Pipeline, logins: Logins, tmp_path: Path) -> None:
    with Pipeline.on(logins.loader, tmp_path / "loader") as loader:
        loader.send([login(), login(user_id="u-2")])
        loader.process()
        before = loader.rows()
        loader.send([login(user_id="u-3")])
        loader.drain(visibility_seconds=30)
        loader.mask()
    _rotate(pipeline.settings, RotatingRole.MASKING)
    services = Services(logins.privacy)
    counts = retokenize(
        services.database(), services.landing(), services.keyring, Services(logins.privacy).officer(), reason="test"
    )
    assert (counts.values, counts.rows, counts.masked_files) == (2, 2, 2)
    key_id = services.keyring.key_ids(KeysetRole.MASKING)[0]
    assert all(row[2].startswith(f"{key_id}.") for row in pipeline.rows())
    _rotate(pipeline.settings, RotatingRole.OFFICER)
    services = Services(logins.privacy)
    reencrypted = reencrypt_data_keys(
        services.database(), services.keyring, Services(logins.privacy).officer(), reason="test"
    )
    assert reencrypted == 1
    answers = recover(services.database(), Services(logins.privacy).officer(), [before[0][2]], reason="test")
    assert [answer.value for answer in answers] == ["198.51.100.7"]
    with Pipeline.on(logins.loader, tmp_path / "later") as loader:
        loader.process()
        assert loader.totals().loaded == 3
        assert checks(loader.run({"masked_logins": {"reprocess": True}}))["counts_reconcile"]


def test_the_views_give_analysts_right_answers(pipeline: Pipeline, logins: Logins) -> None:
    pipeline.execute(
        "INSERT INTO user_logins VALUES"
        " ('a', 'ios', '1.ip-1', '1.d-1', 'RU', 2003000, '2024-01-01'),"
        " ('a', 'ios', '1.ip-1', '1.d-1', 'RU', 2003000, '2024-01-01'),"
        " ('b', 'android', '1.ip-2', '1.d-1', NULL, 12000045, '2024-01-02'),"
        " ('c', 'android', '1.ip-2', '1.d-3', NULL, 1, '2024-01-02'),"
        " ('c', 'android', '1.ip-2', '1.d-3', NULL, 1, '2024-01-02'),"
        " ('c', 'android', '1.ip-2', '1.d-3', NULL, 1, '2024-01-03'),"
        # under an old key, whose new token is ip-2's: one address, whatever key it was masked with
        " ('d', 'ios', '0.ip-2', '0.d-4', 'EN', NULL, '2024-01-04')"
    )
    pipeline.execute("INSERT INTO loginetl.token_map VALUES ('0.ip-2', '1.ip-2')")

    def view(name: str) -> list[tuple[str, ...]]:
        return sorted(tuple(map(str, row)) for row in _query(logins.analyst, f"SELECT * FROM loginetl.{name}"))

    assert view("shared_devices") == [("1.d-1", "2", "3", "2024-01-01", "2024-01-02")]
    assert view("shared_ips") == [("1.ip-2", "3", "5", "2024-01-02", "2024-01-04")]
    # The columns of later fields follow these, and are null here.
    assert [row[:8] for row in view("duplicate_rows")] == [
        ("a", "ios", "1.ip-1", "1.d-1", "RU", "2.3.0", "2024-01-01", "2"),
        ("c", "android", "1.ip-2", "1.d-3", "None", "0.0.1", "2024-01-02", "2"),
    ]
    assert view("daily_activity") == [
        ("2024-01-01", "2", "1", "1", "1"),
        ("2024-01-02", "3", "2", "2", "1"),
        ("2024-01-03", "1", "1", "1", "1"),
        ("2024-01-04", "1", "1", "1", "1"),
    ]
    versions = _query(
        logins.analyst, "SELECT DISTINCT user_id, app_version_text, masked_ip FROM loginetl.logins ORDER BY 1"
    )
    assert [tuple(row) for row in versions] == [
        ("a", "2.3.0", "1.ip-1"),
        ("b", "12.0.45", "1.ip-2"),
        ("c", "0.0.1", "1.ip-2"),
        ("d", None, "1.ip-2"),
    ]


def test_every_query_of_the_analysts_page_has_an_answer(pipeline: Pipeline, logins: Logins) -> None:
    pipeline.send(SAMPLE)
    pipeline.run()
    queries = re.findall(r"^```sql\n(.*?)^```", ANALYSTS_PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    assert len(queries) >= 12
    for query in queries:
        assert _query(logins.analyst, query), query


def test_the_analyst_exports_and_reports_with_the_two_settings_of_the_page(
    pipeline: Pipeline, logins: Logins, tmp_path: Path
) -> None:
    pipeline.send(SAMPLE)
    pipeline.run()
    settings = {"LOGINETL_ENV": "local", "LOGINETL_DATABASE_URL": str(logins.analyst.database_url)}

    def loginetl(*arguments: str, exit_code: int = 0) -> subprocess.CompletedProcess[str]:
        return run_loginetl(*arguments, cwd=tmp_path, environment=settings, exit_code=exit_code)

    loginetl("export", "logins.csv")
    assert len((tmp_path / "logins.csv").read_text().splitlines()) == 100
    loginetl("report")
    page = (tmp_path / "login-activity.html").read_text(encoding="utf-8")
    assert "100 landed = 99 loaded" in page
    assert "The queue was not asked" in page
    assert not (tmp_path / ".loginetl").exists(), "no service was started"
    assert DENIED in loginetl("report", "--recount", exit_code=1).stderr
    assert DENIED in loginetl("rejected", "list", exit_code=1).stderr


def test_granting_twice_is_no_error_and_changes_nothing(pipeline: Pipeline, logins: Logins) -> None:
    rights = (
        "SELECT relname::text, relacl::text FROM pg_class WHERE relacl IS NOT NULL AND relnamespace IN"
        " ('public'::regnamespace, 'loginetl'::regnamespace) ORDER BY 1"
    )
    before = pipeline.query(rights)
    grant_roles(pipeline.services.database())
    assert pipeline.query(rights) == before


def test_who_does_not_own_the_tables_cannot_grant(pipeline: Pipeline, logins: Logins) -> None:
    with pytest.raises(OperatorError, match=DENIED):
        grant_roles(LoginDatabase(str(logins.analyst.database_url)))


def test_public_may_do_nothing_in_the_schema(pipeline: Pipeline, logins: Logins) -> None:
    name = f"stranger_{uuid4().hex[:12]}"
    pipeline.execute(f"CREATE ROLE {name} LOGIN")
    may = _for(replace(pipeline.settings, database_url=_as(pipeline.settings, name)))
    allowed = [table for table in [*(f"loginetl.{one}" for one in [*VIEWS, *_tables(pipeline)]), "user_logins"]
               if may(f"SELECT FROM {table}")]  # fmt: skip
    called = may("SELECT loginetl.version_text(1)")
    pipeline.execute(f"DROP ROLE {name}")
    assert (allowed, called) == ([], False)


def _for(settings: Settings) -> Callable[[str], bool]:
    return lambda statement: _may(settings, statement)


def _erase(settings: Settings, user_id: str) -> None:
    services = Services(settings)
    subject = subject_of(user_id, [], services.keyring)
    Erasure(services.database(), services.landing(), services.keyring, subject).run("test")


def _rotate(settings: Settings, role: RotatingRole) -> None:
    """As the command does, which reads its settings from the environment."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in settings.as_environment().items():
            patch.setenv(name, value)
        rotate(role)
