"""Rows that the users' own `user_logins` refuses: each is rejected with its body kept, and the rest is loaded."""

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import dagster as dg
import pytest
from sqlalchemy import NullPool, create_engine, make_url, text

from loginetl_assets.embedded import Addresses
from loginetl_assets.errors import OperatorError, TransientError
from loginetl_assets.privacy.erase import Erasure
from loginetl_assets.privacy.subjects import subject_of
from loginetl_assets.settings import Settings
from loginetl_assets.storage import rejections
from loginetl_assets.storage.copying import copy_rows
from loginetl_assets.storage.database import LoginDatabase, attempt
from loginetl_assets.storage.roles import grant_roles
from loginetl_assets_tests.support.pipeline import Pipeline, checks, login, metadata

REFUSED = "refused_by_table"


@pytest.fixture
def loader(pipeline: Pipeline, tmp_path: Path) -> Iterator[Pipeline]:
    """The same pipeline as a login of the role that loads: row-level security and grants hold for it."""
    grant_roles(pipeline.services.database())
    name = f"loader_{uuid4().hex[:12]}"
    pipeline.execute(f"CREATE ROLE {name} LOGIN IN ROLE loginetl_loader")
    url = make_url(pipeline.settings.database_url or "").set(username=name).render_as_string(hide_password=False)
    with Pipeline.on(replace(pipeline.settings, database_url=url), tmp_path / "loader") as loader:
        yield loader
    pipeline.execute(f"DROP ROLE {name}")


def _failures(result: dg.ExecuteInProcessResult) -> str:
    return str([event.step_failure_data.user_failure_data for event in result.get_step_failure_events()])


def narrower_column(pipeline: Pipeline) -> None:
    pipeline.execute("DROP VIEW loginetl.duplicate_rows, loginetl.daily_activity, loginetl.shared_ips,"
                     " loginetl.shared_devices, loginetl.logins")  # fmt: skip
    pipeline.execute("ALTER TABLE user_logins ALTER user_id TYPE varchar(6)")


def check_constraint(pipeline: Pipeline) -> None:
    pipeline.execute("ALTER TABLE user_logins ADD CHECK (user_id NOT LIKE 'refused-%')")


def check_constraint_that_asks_a_function(pipeline: Pipeline) -> None:
    pipeline.execute(
        "CREATE FUNCTION is_allowed(text) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN"
        " IF $1 LIKE 'refused-%' THEN PERFORM * FROM gone; END IF; RETURN true; END $$"
    )
    pipeline.execute("ALTER TABLE user_logins ADD CHECK (is_allowed(user_id))")


def trigger(pipeline: Pipeline, using: str = "") -> None:
    pipeline.execute(
        "CREATE FUNCTION no_refused() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        f" IF NEW.user_id LIKE 'refused-%' THEN RAISE EXCEPTION 'not %', NEW.user_id {using}; END IF;"
        " RETURN NEW; END $$"
    )
    pipeline.execute(
        "CREATE TRIGGER no_refused BEFORE INSERT ON user_logins FOR EACH ROW EXECUTE FUNCTION no_refused()"
    )


def trigger_with_a_code_of_its_own(pipeline: Pipeline) -> None:
    trigger(pipeline, "USING ERRCODE = 'LG001'")


def trigger_that_makes_a_constraint_s_name_of_the_row(pipeline: Pipeline) -> None:
    trigger(pipeline, "USING ERRCODE = '23514', CONSTRAINT = NEW.user_id")


def raising(code: str) -> Callable[[Pipeline], None]:
    """A trigger that gives its refusal a code that Postgres has for something else."""

    def refuse(pipeline: Pipeline) -> None:
        trigger(pipeline, f"USING ERRCODE = '{code}'")

    refuse.__name__ = f"raising_{code}"
    return refuse


def before_each_row(pipeline: Pipeline, body: str) -> None:
    pipeline.execute(
        f"CREATE FUNCTION no_refused() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        f" IF NEW.user_id LIKE 'refused-%' THEN {body}; END IF; RETURN NEW; END $$"
    )
    pipeline.execute(
        "CREATE TRIGGER no_refused BEFORE INSERT ON user_logins FOR EACH ROW EXECUTE FUNCTION no_refused()"
    )


def trigger_that_needs_a_table_which_is_gone(pipeline: Pipeline) -> None:
    before_each_row(pipeline, "PERFORM * FROM gone")


def trigger_without_a_right_it_needs(pipeline: Pipeline) -> None:
    before_each_row(pipeline, "SET LOCAL ROLE pg_monitor; PERFORM * FROM loginetl.batches")


def constraint_trigger_that_waits_for_the_commit(pipeline: Pipeline) -> None:
    trigger(pipeline, "USING ERRCODE = '0A000'")
    pipeline.execute("DROP TRIGGER no_refused ON user_logins")
    pipeline.execute(
        "CREATE CONSTRAINT TRIGGER no_refused AFTER INSERT ON user_logins DEFERRABLE INITIALLY DEFERRED"
        " FOR EACH ROW EXECUTE FUNCTION no_refused()"
    )


def index_that_has_no_room(pipeline: Pipeline) -> None:
    pipeline.execute(
        "CREATE FUNCTION wide(text) RETURNS text IMMUTABLE LANGUAGE sql AS $$"
        " SELECT CASE WHEN $1 LIKE 'refused-%' THEN string_agg(md5($1 || n), '') ELSE '' END"
        " FROM generate_series(1, 500) n $$"
    )
    pipeline.execute("CREATE INDEX ON user_logins (wide(user_id))")


def trigger_that_passes_rows_over(pipeline: Pipeline) -> None:
    pipeline.execute(
        "CREATE FUNCTION pass_over() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        " IF NEW.user_id LIKE 'refused-%' THEN RETURN NULL; END IF; RETURN NEW; END $$"
    )
    pipeline.execute("CREATE TRIGGER pass_over BEFORE INSERT ON user_logins FOR EACH ROW EXECUTE FUNCTION pass_over()")


def foreign_key_checked_at_commit(pipeline: Pipeline) -> None:
    pipeline.execute("CREATE TABLE known_users (user_id varchar(128) PRIMARY KEY)")
    pipeline.execute("INSERT INTO known_users SELECT 'u-' || generate_series(0, 39)")
    pipeline.execute("ALTER TABLE user_logins ADD FOREIGN KEY (user_id) REFERENCES known_users"
                     " DEFERRABLE INITIALLY DEFERRED")  # fmt: skip


@pytest.mark.parametrize(
    ("refuse", "said"),
    [
        (narrower_column, "22001"),
        (check_constraint, "23514 user_logins_user_id_check"),
        (check_constraint_that_asks_a_function, "42P01"),
        (trigger, "P0001"),
        (trigger_with_a_code_of_its_own, "LG001"),
        (trigger_that_makes_a_constraint_s_name_of_the_row, "23514"),
        *((raising(code), code) for code in ("42501", "0A000", "55P03", "55000", "57014", "42P01", "XX000", "25006")),
        (trigger_that_needs_a_table_which_is_gone, "42P01"),
        (trigger_without_a_right_it_needs, "42501"),
        (constraint_trigger_that_waits_for_the_commit, "0A000"),
        (index_that_has_no_room, "54000"),
        (trigger_that_passes_rows_over, ""),
        (foreign_key_checked_at_commit, "23503 user_logins_user_id_fkey"),
    ],
)
def test_a_row_that_the_table_refuses_does_not_sink_its_batch(pipeline: Pipeline, refuse: object, said: str) -> None:
    assert callable(refuse)
    refuse(pipeline)
    good = [f"u-{number}" for number in range(40)]
    pipeline.send(login(user_id=user) for user in [*good[:13], "refused-1", *good[13:30], "refused-2", *good[30:]])
    pipeline.send(["{}"])

    result = pipeline.run()

    assert sorted(row[0] for row in pipeline.rows()) == sorted(good)
    reasons = pipeline.query("SELECT reason, count(*) FROM loginetl.rejected_logins GROUP BY 1 ORDER BY 1")
    assert [tuple(row) for row in reasons] == [("not_a_login", 1), (REFUSED, 2)]
    totals = pipeline.totals()
    assert (totals.messages, totals.loaded, totals.rejected, totals.duplicates, totals.pending) == (43, 40, 3, 0, 0)
    assert metadata(result, "user_logins")["rejected"] == 2
    assert metadata(result, "user_logins")[f"rejected {REFUSED} {said}".rstrip()] == 2
    with pipeline.services.database().transaction() as connection:
        assert rejections.by_reason(connection) == {"not_a_login": 1, f"{REFUSED} {said}".rstrip(): 2}
    (rate,) = (one for one in result.get_asset_check_evaluations() if one.check_name == "rejection_rate")
    assert rate.metadata["rejected"].value == 3, "those of the table count"
    assert "refused-1" not in str(rate)
    assert checks(result)["counts_reconcile"]
    assert checks(result)["no_message_loaded_twice"]


@pytest.mark.parametrize(
    "policy",
    [
        "CREATE POLICY welcome ON user_logins USING (true) WITH CHECK (user_id NOT LIKE 'refused-%')",
        "CREATE FUNCTION allowed(text) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN IF $1 LIKE 'refused-%' THEN"
        " RAISE EXCEPTION 'no' USING ERRCODE = '42501'; END IF; RETURN true; END $$;"
        "CREATE POLICY welcome ON user_logins USING (true) WITH CHECK (allowed(user_id))",
    ],
    ids=["check", "function"],
)
def test_a_row_that_row_level_security_refuses_does_not_sink_its_batch(
    pipeline: Pipeline, loader: Pipeline, policy: str
) -> None:
    pipeline.execute("ALTER TABLE user_logins ENABLE ROW LEVEL SECURITY")
    pipeline.execute(policy)
    pipeline.send(login(user_id=user) for user in ("u-1", "refused-1", "u-2"))
    loader.process()
    assert [row[0] for row in pipeline.rows()] == ["u-1", "u-2"]
    assert [row[0] for row in pipeline.query("SELECT reason FROM loginetl.rejected_logins")] == [REFUSED]


def test_a_right_that_is_missing_refuses_no_row(pipeline: Pipeline, loader: Pipeline) -> None:
    pipeline.execute("REVOKE INSERT ON user_logins FROM loginetl_loader")
    pipeline.send([login()])
    failed = loader.run(expect_success=False)
    assert "lacks a right it needs (permission denied for table user_logins)" in _failures(failed)
    totals = pipeline.totals()
    assert (totals.rejected, totals.pending) == (0, 1)


# What comes from elsewhere than the row, within a trigger too.
NOT_THE_ROW = {
    "our own statement time-out": ("PERFORM pg_sleep(60)", "SET LOCAL statement_timeout = 50", TransientError),
    "our own lock time-out": ("LOCK TABLE loginetl.keys", "SET LOCAL lock_timeout = 50", TransientError),
    "someone's lock": ("LOCK TABLE loginetl.keys NOWAIT", "SELECT 1", TransientError),
    "deadlock": ("RAISE EXCEPTION 'x' USING ERRCODE = '40P01'", "SELECT 1", TransientError),
    "serialization": ("RAISE EXCEPTION 'x' USING ERRCODE = '40001'", "SELECT 1", TransientError),
    "disk full": ("RAISE EXCEPTION 'x' USING ERRCODE = '53100'", "SELECT 1", OperatorError),
    "shut-down": ("PERFORM pg_terminate_backend(pg_backend_pid()), pg_sleep(5)", "SELECT 1", TransientError),
}


@pytest.mark.parametrize(("body", "before", "kind"), NOT_THE_ROW.values(), ids=NOT_THE_ROW)
def test_what_has_nothing_to_do_with_a_row_refuses_none(
    pipeline: Pipeline, body: str, before: str, kind: type[Exception]
) -> None:
    before_each_row(pipeline, body)
    database = pipeline.services.database()
    with database.transaction() as other:
        other.execute(text("LOCK TABLE loginetl.keys IN EXCLUSIVE MODE"))
        with pytest.raises(kind), database.transaction() as connection:
            connection.execute(text(before))
            with attempt(connection):
                connection.execute(text("INSERT INTO user_logins (user_id) VALUES ('refused-1')"))


def test_a_time_out_while_rows_are_copied_refuses_none(pipeline: Pipeline) -> None:
    with pytest.raises(TransientError), pipeline.services.database().transaction() as connection:
        connection.execute(text("CREATE TEMP TABLE copied (user_id text)"))
        connection.execute(text("SET LOCAL statement_timeout = 100"))

        def rows() -> Iterator[list[str]]:
            yield ["PL/pgSQL function f() line 1 at RAISE" * 10_000]
            time.sleep(1)
            yield ["PL/pgSQL function f() line 1 at RAISE" * 10_000]

        with attempt(connection):
            copy_rows(connection, "copied", ["user_id"], rows())


def test_a_text_that_the_database_s_encoding_lacks_is_refused_by_itself(
    settings: Settings, addresses: Addresses, tmp_path: Path
) -> None:
    server = create_engine(LoginDatabase(addresses.database_url).url, isolation_level="AUTOCOMMIT", poolclass=NullPool)
    name = f"latin_{uuid4().hex[:12]}"
    with server.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name} ENCODING 'LATIN1' TEMPLATE template0 LOCALE 'C'"))
    url = server.url.set(database=name).render_as_string(hide_password=False)
    LoginDatabase(url).migrate()
    with Pipeline.on(replace(settings, database_url=url), tmp_path / "latin") as pipeline:
        pipeline.send(login(user_id=user) for user in ("u-\u00e9", "u-\u0416", "u-1"))
        pipeline.process()
        assert [row[0] for row in pipeline.rows()] == ["u-1", "u-\u00e9"]
        assert [row[0] for row in pipeline.query("SELECT reason FROM loginetl.rejected_logins")] == [REFUSED]
    with server.connect() as connection:
        connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))


def test_a_table_that_refuses_every_row_rejects_them_all(pipeline: Pipeline) -> None:
    pipeline.execute("ALTER TABLE user_logins ADD CHECK (app_version < 0)")
    pipeline.send(login(user_id=f"u-{number}") for number in range(20))
    pipeline.process()
    totals = pipeline.totals()
    assert (totals.loaded, totals.rejected, totals.pending) == (0, 20, 0)


def test_a_refused_row_is_brought_in_by_reading_its_batch_again(pipeline: Pipeline) -> None:
    check_constraint(pipeline)
    pipeline.send([login(user_id="u-1"), login(user_id="refused-1")])
    pipeline.process()
    pipeline.execute("ALTER TABLE user_logins DROP CONSTRAINT user_logins_user_id_check")
    result = pipeline.run({"masked_logins": {"reprocess": True}})
    assert [row[0] for row in pipeline.rows()] == ["refused-1", "u-1"]
    assert checks(result)["counts_reconcile"]


def test_a_batch_whose_bodies_are_missing_is_quarantined_as_a_whole(pipeline: Pipeline) -> None:
    check_constraint(pipeline)
    pipeline.send([login(user_id="u-1"), login(user_id="refused-1")])
    pipeline.drain(visibility_seconds=30)
    pipeline.mask()
    for path in (pipeline.settings.home / "landing" / "batches").iterdir():
        path.unlink()
    pipeline.load()
    totals = pipeline.totals()
    assert (totals.quarantined_batches, totals.pending, totals.loaded) == (1, 2, 0)
    assert pipeline.rows() == []


def test_an_erasure_reaches_the_vault_by_a_refused_row_alone(pipeline: Pipeline) -> None:
    check_constraint(pipeline)
    pipeline.send([login(user_id="refused-1", ip="203.0.113.99", device_id="their own")])
    pipeline.process()
    # As retention leaves it before it sweeps the vault: only the rejected body still has the values.
    pipeline.execute("UPDATE loginetl.batches SET object_purged_at = now(), masked_path = NULL")
    services = pipeline.services
    erasure = Erasure(
        services.database(), services.landing(), services.keyring, subject_of("refused-1", [], services.keyring)
    )
    assert erasure.dry_run().vault_entries == 2
    counts = erasure.run("asked for")
    assert (counts.rejected_bodies, counts.vault_entries) == (1, 2)
    assert pipeline.query("SELECT token FROM loginetl.pii_vault") == []
