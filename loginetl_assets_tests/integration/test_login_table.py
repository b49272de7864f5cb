"""Which table logins are loaded into: found once, recorded in the database, and the same for every session."""

# ruff: noqa: S608 - names of our own tables

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from uuid import uuid4

import pytest
from sqlalchemy import text

from loginetl_assets.embedded import Addresses
from loginetl_assets.errors import OperatorError
from loginetl_assets.local.postgres import binaries
from loginetl_assets.privacy.recover import Outcome, recover, tokens_of_user
from loginetl_assets.privacy.rotate import retokenize
from loginetl_assets.services import Services
from loginetl_assets.settings import Settings
from loginetl_assets.storage.database import LoginDatabase
from loginetl_assets.storage.login_table import export_csv
from loginetl_assets.storage.login_table_shape import INDEXES
from loginetl_assets.storage.roles import ANALYST, LOADER, PRIVACY, grant_roles
from loginetl_assets.table_name import TableName
from loginetl_assets_tests.support.pipeline import Pipeline, checks, login, metadata
from loginetl_assets_tests.support.server import COLUMNS, Server, erased, indexes, keys_rotated

ROOT = Path(__file__).parents[2]


def test_a_role_called_as_our_schema_loads_into_the_table_that_was_in_use(server: Server, tmp_path: Path) -> None:
    server.execute(f"CREATE TABLE public.user_logins ({COLUMNS})", "INSERT INTO user_logins (user_id) VALUES ('old')")
    server.migrate()
    with Pipeline.on(server.settings(), tmp_path / "dagster") as pipeline:
        pipeline.send([login(user_id="new")])
        pipeline.process()
    assert server.execute("SELECT user_id FROM public.user_logins ORDER BY 1") == [("new",), ("old",)]
    assert server.execute("SELECT user_id FROM loginetl.logins ORDER BY 1") == [("new",), ("old",)]
    assert server.execute("SELECT to_regclass('loginetl.user_logins')") == [(None,)]


def test_a_role_called_as_our_schema_gets_a_table_in_public(server: Server, tmp_path: Path) -> None:
    server.migrate()
    with Pipeline.on(server.settings(), tmp_path / "dagster") as pipeline:
        pipeline.send([login()])
        pipeline.process()
    # As docs/docker.md has someone look, who is another role.
    (looked,) = re.findall(r"psql -U (\w+) -d loginetl -c '(.*)'", (ROOT / "docs" / "docker.md").read_text())
    assert server.execute(looked[1], user=looked[0]) == [(1,)]


def test_no_search_path_decides_what_is_loaded_moved_read_or_erased(server: Server, tmp_path: Path) -> None:
    server.migrate()
    server.execute(
        "CREATE SCHEMA decoy",
        *(
            f"CREATE TABLE decoy.{name} ({COLUMNS})"
            for name in ("user_logins", "new_logins", "seen_logins", "new_rejections")
        ),
        "CREATE TABLE decoy.new_vault (token text, field text, encrypted_value bytea)",
        "INSERT INTO decoy.user_logins (user_id) VALUES ('u-1')",
    )
    # Temporary tables come first in a search path, unless it says otherwise.
    with Pipeline.on(server.settings(search_path="decoy,pg_temp"), tmp_path / "dagster") as pipeline:
        pipeline.send([login(user_id="u-1", ip="192.0.2.1", device_id="d-1"), login(user_id="u-2", app_version="x")])
        pipeline.send([login(user_id="u-2", ip="192.0.2.2", device_id="d-2")])
        result = pipeline.run()
        assert metadata(result, "user_logins")["dagster/row_count"] == 2
        passed = checks(result)
        assert (passed["counts_reconcile"], passed["duplicates"]) == (True, True)
        before = tokens_of_user(pipeline.services.database(), "u-1")

        keys_rotated(pipeline.settings)
        services = Services(pipeline.settings)
        database, officer = services.database(), pipeline.services.officer()
        assert retokenize(database, services.landing(), services.keyring, officer, reason="test").rows == 2
        tokens = tokens_of_user(database, "u-1")
        assert not set(tokens) & set(before)
        assert {one.value for one in recover(database, officer, tokens, reason="test")} == {"192.0.2.1", "d-1"}
        with database.transaction() as connection:
            assert export_csv(connection, BytesIO()) == 2

        counts = erased(services, "u-1")
        assert (counts.rows, counts.vault_entries) == (1, 2)
        others = recover(database, officer, tokens_of_user(database, "u-2"), reason="test")
        assert {one.value for one in others} == {"192.0.2.2", "d-2"}
    assert server.execute("SELECT user_id FROM public.user_logins") == [("u-2",)]
    assert server.execute("SELECT user_id FROM decoy.user_logins") == [("u-1",)]


def test_an_officer_with_another_search_path_erases_from_the_table_that_was_loaded(
    server: Server, tmp_path: Path
) -> None:
    server.migrate()
    with Pipeline.on(server.settings(), tmp_path / "dagster") as pipeline:
        pipeline.send([login(user_id="goes"), login(user_id="stays"), login(user_id="goes", ip="192.0.2.9")])
        pipeline.process()
        stays = tokens_of_user(pipeline.services.database(), "stays")
    server.execute("CREATE SCHEMA archive", f"CREATE TABLE archive.user_logins ({COLUMNS})")
    officer = Services(server.settings(search_path="archive"))

    counts = erased(officer, "goes")

    assert (counts.rows, counts.vault_entries, counts.vault_entries_kept) == (2, 1, 2)
    assert server.execute("SELECT user_id FROM public.user_logins") == [("stays",)]
    answers = recover(officer.database(), officer.officer(), stays, reason="test")
    assert [answer.outcome for answer in answers] == [Outcome.RECOVERED] * 2


@pytest.mark.parametrize("name", ['"Data"."User Logins"', 'sales."50% of ""all"""', '"select"."order"', "Sales.Logins"])
def test_the_table_may_be_called_anything(server: Server, tmp_path: Path, name: str) -> None:
    table = TableName.parse(name)
    server.execute(f'CREATE SCHEMA "{table.schema}"')
    settings = server.settings(login_table=table)
    LoginDatabase(str(settings.database_url)).migrate(settings.login_table)
    with Pipeline.on(settings, tmp_path / "dagster") as pipeline:
        pipeline.send([login(user_id="goes"), login(user_id="stays")])
        result = pipeline.run()
        assert all(checks(result).values())
        assert TableName.parse(metadata(result, "user_logins")["dagster/table_name"]) == table
        assert erased(pipeline.services, "goes").rows == 1
        database = pipeline.services.database()
        tokens = tokens_of_user(database, "stays")
        answers = recover(database, Services(settings).officer(), tokens, reason="test")
        assert [answer.outcome for answer in answers] == [Outcome.RECOVERED] * 2
        path = tmp_path / "logins.csv"
        with database.transaction() as connection, path.open("wb") as stream:
            export_csv(connection, stream)
        assert "stays" in path.read_text()
        keys_rotated(settings)
        services = Services(settings)
        counts = retokenize(
            services.database(), services.landing(), services.keyring, Services(settings).officer(), reason="test"
        )
        assert counts.rows == 1
        grant_roles(LoginDatabase(str(server.settings(user="postgres").database_url)))
    assert server.execute("SELECT user_id FROM loginetl.logins") == [("stays",)]
    assert server.execute("SELECT to_regclass('public.user_logins')") == [(None,)]


def test_the_roles_reach_a_table_in_a_schema_of_its_own(server: Server, tmp_path: Path) -> None:
    server.execute("CREATE SCHEMA sales")
    settings = server.settings(login_table=TableName("sales", "logins"))
    LoginDatabase(str(settings.database_url)).migrate(settings.login_table)
    grant_roles(LoginDatabase(str(server.settings(user="postgres").database_url)))
    names = {role: f"{role}_{uuid4().hex[:12]}" for role in (LOADER, ANALYST, PRIVACY)}
    server.execute(*(f"CREATE ROLE {name} LOGIN IN ROLE {role}" for role, name in names.items()), user="postgres")
    try:
        loader = replace(server.settings(user=names[LOADER]), login_table=settings.login_table)
        with Pipeline.on(loader, tmp_path / "dagster") as pipeline:
            pipeline.send([login(user_id="goes"), login(user_id="stays")])
            assert all(checks(pipeline.run()).values())
        assert (
            erased(
                Services(replace(server.settings(user=names[PRIVACY]), login_table=settings.login_table)), "goes"
            ).rows
            == 1
        )
        for table in ("sales.logins", "loginetl.logins"):
            assert server.execute(f"SELECT user_id FROM {table}", user=names[ANALYST]) == [("stays",)]
    finally:
        server.execute(*(f"DROP ROLE {name}" for name in names.values()), user="postgres")


def test_a_table_elsewhere_than_the_setting_says_is_refused_with_both_ways_out(server: Server) -> None:
    server.execute("CREATE SCHEMA sales")
    server.migrate()
    sales = server.settings(login_table=TableName("sales", "logins"))
    for refused in (lambda: Services(sales).database(), lambda: server.migrate(table=sales.login_table)):
        with pytest.raises(OperatorError) as raised:
            refused()
        assert "LOGINETL_TABLE=public.user_logins" in str(raised.value)
        assert "ALTER TABLE public.user_logins" in str(raised.value)
    assert server.execute("SELECT to_regclass('sales.logins')") == [(None,)]

    server.execute("ALTER TABLE public.user_logins SET SCHEMA sales", "ALTER TABLE sales.user_logins RENAME TO logins")

    Services(sales).database()
    with pytest.raises(OperatorError, match=r"LOGINETL_TABLE=sales\.logins"):
        Services(server.settings()).database()
    server.migrate(table=sales.login_table)
    assert server.execute("SELECT login_table::text FROM loginetl.installation") == [("sales.logins",)]


def test_a_table_put_in_the_place_of_the_recorded_one_is_refused(server: Server) -> None:
    server.migrate()
    server.execute(
        "ALTER TABLE public.user_logins RENAME TO user_logins_2025", f"CREATE TABLE public.user_logins ({COLUMNS})"
    )
    for refused in (lambda: Services(server.settings()).database(), server.migrate):
        with pytest.raises(OperatorError, match=r"public\.user_logins_2025"):
            refused()


def test_a_session_that_finds_another_table_by_the_bare_name_has_to_say_which(server: Server) -> None:
    server.execute("CREATE SCHEMA sales", f"CREATE TABLE sales.user_logins ({COLUMNS})")
    with pytest.raises(OperatorError) as raised:
        server.migrate(search_path="sales,public")
    assert "sales.user_logins" in str(raised.value)
    assert "public.user_logins" in str(raised.value)
    assert server.execute("SELECT to_regnamespace('loginetl')") == [(None,)]

    server.migrate(search_path="sales,public", table=TableName("public", "user_logins"))

    server.migrate(search_path="sales,public")  # what is recorded is no question any more
    assert server.execute("SELECT login_table::text FROM loginetl.installation") == [("user_logins",)]


@pytest.mark.parametrize("is_in_use", [True, False])
def test_a_database_whose_logins_went_into_our_own_schema_says_how_they_come_out(
    server: Server, tmp_path: Path, is_in_use: bool
) -> None:
    server.migrate()
    with Pipeline.on(server.settings(), tmp_path / "dagster") as pipeline:
        pipeline.send([login(user_id="strayed")])
        pipeline.process()
    server.execute("ALTER TABLE public.user_logins SET SCHEMA loginetl")
    if is_in_use:
        server.execute(f"CREATE TABLE public.user_logins ({COLUMNS})", "INSERT INTO public.user_logins VALUES ('kept')")

    with pytest.raises(OperatorError, match="migrate"):
        Services(server.settings()).database()
    with pytest.raises(OperatorError, match=r"loginetl\.user_logins") as raised:
        server.migrate()
    (commands,) = re.findall(r"`(.*?)`", str(raised.value))[:1]
    server.execute(*(one for one in commands.split("; ") if one not in {"BEGIN", "COMMIT"}))
    server.migrate()

    expected = {("strayed",), ("kept",)} if is_in_use else {("strayed",)}
    assert set(server.execute("SELECT user_id FROM public.user_logins")) == expected
    assert set(server.execute("SELECT user_id FROM loginetl.logins")) == expected
    assert len(indexes(server)) == len(INDEXES)
    Services(server.settings()).database()


def test_logins_in_our_own_schema_from_before_a_field_was_added_come_out_too(server: Server) -> None:
    server.migrate()
    server.execute(
        "INSERT INTO public.user_logins (user_id) VALUES ('strayed')",
        "ALTER TABLE public.user_logins DROP COLUMN locale CASCADE",
        "ALTER TABLE public.user_logins SET SCHEMA loginetl",
        f"CREATE TABLE public.user_logins ({COLUMNS})",
    )
    with pytest.raises(OperatorError, match=r"loginetl\.user_logins") as raised:
        server.migrate()
    server.execute(*str(raised.value).split("`")[1].removeprefix("BEGIN; ").removesuffix("; COMMIT").split("; "))
    server.migrate()
    assert server.execute("SELECT user_id, locale FROM public.user_logins") == [("strayed", None)]


def test_a_second_table_in_our_schema_is_refused_whenever_it_comes(server: Server) -> None:
    server.migrate()
    server.execute(f"CREATE TABLE user_logins_elsewhere ({COLUMNS})")  # resolves to our schema
    Services(server.settings()).database()
    server.execute(f"CREATE TABLE user_logins ({COLUMNS})")
    with pytest.raises(OperatorError, match=r"loginetl\.user_logins"):
        Services(server.settings()).database()


def test_a_table_that_was_dropped_is_not_made_again_and_one_put_back_is_taken(server: Server) -> None:
    server.migrate()
    server.execute("DROP TABLE public.user_logins CASCADE")
    for refused in (lambda: Services(server.settings()).database(), server.migrate):
        with pytest.raises(OperatorError, match="loginetl migrate"):
            refused()
    assert server.execute("SELECT to_regclass('public.user_logins')") == [(None,)]

    server.execute(f"CREATE TABLE public.user_logins ({COLUMNS})")
    server.migrate()

    Services(server.settings()).database()
    assert len(indexes(server)) == len(INDEXES)
    assert server.execute("SELECT count(*) FROM loginetl.daily_activity") == [(0,)]


def test_the_record_survives_dump_and_restore(server: Server, addresses: Addresses, tmp_path: Path) -> None:
    server.migrate()
    copy = f"{server.url.database}_copy"
    place = ["-h", str(server.url.query["host"]), "-p", str(server.url.query["port"]), "-U", "postgres"]
    programs = binaries()
    dump = tmp_path / "dump"
    subprocess.run([programs / "pg_dump", *place, "-Fc", "-f", dump, str(server.url.database)], check=True)
    server.execute_alone(f"CREATE DATABASE {copy} OWNER loginetl")
    try:
        # Tables made before give the restored ones other oids.
        subprocess.run([programs / "psql", *place, "-qc", "CREATE TABLE a(); DROP TABLE a", copy], check=True)
        subprocess.run([programs / "pg_restore", *place, "-d", copy, dump], check=True)
        restored = Server(server.settings(), server.url.render_as_string(hide_password=False), copy)
        Services(restored.settings()).database()
    finally:
        server.execute_alone(f"DROP DATABASE {copy} WITH (FORCE)")


def test_the_commands_use_the_setting(server: Server, tmp_path: Path) -> None:
    server.execute("CREATE SCHEMA sales")
    settings = server.settings(login_table=TableName("sales", "User Logins"))

    def loginetl(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [Path(sys.executable).parent / "loginetl", *arguments],
            capture_output=True,
            text=True,
            timeout=120,
            cwd=tmp_path,
            env={**os.environ, **settings.as_environment(), **environment},
            check=False,
        )

    migrated = loginetl("migrate")
    assert migrated.returncode == 0, migrated.stderr
    assert 'logins are loaded into sales."User Logins"' in migrated.stderr
    assert json.loads(loginetl("status", "--json").stdout)["table"] == 'sales."User Logins"'
    refused = loginetl("status", LOGINETL_TABLE="")
    assert (refused.returncode, "LOGINETL_TABLE=sales." in refused.stderr) == (1, True)
    unread = loginetl("migrate", LOGINETL_TABLE="User Logins")
    assert (unread.returncode, "LOGINETL_TABLE must be schema.table" in unread.stderr) == (2, True)


def test_a_migration_that_was_ended_before_the_record_is_finished_by_the_next(
    server: Server, settings: Settings, stack_home: Path
) -> None:
    server.migrate()
    unfinished = "UPDATE loginetl.installation SET login_table = NULL"
    server.execute(unfinished, "DROP VIEW loginetl.daily_activity", "DROP INDEX public.user_logins_by_ip")
    with pytest.raises(OperatorError, match="loginetl migrate"):
        Services(server.settings()).database()
    server.migrate()
    Services(server.settings()).database()
    assert len(indexes(server)) == len(INDEXES)
    assert server.execute("SELECT * FROM loginetl.daily_activity") == []

    # The embedded database is brought up to date by its start.
    embedded = Services(replace(settings, home=stack_home, database_url=None))
    with embedded.database().transaction() as connection:
        connection.execute(text(unfinished))
    embedded.database()
