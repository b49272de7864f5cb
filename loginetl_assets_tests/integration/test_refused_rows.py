"""Rows that the users' own `user_logins` refuses: each is rejected with its body kept, and the rest is loaded."""

from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import pytest
from sqlalchemy import NullPool, create_engine, text

from loginetl_assets.local.stack import Addresses
from loginetl_assets.privacy.erase import Erasure, subject_of
from loginetl_assets.resources.database import LoginDatabase
from loginetl_assets.settings import Settings
from loginetl_assets_tests.pipeline import Pipeline, checks, login, metadata

REFUSED = "refused_by_table"


def narrower_column(pipeline: Pipeline) -> None:
    pipeline.execute("DROP VIEW loginetl.repeated_logins, loginetl.daily_activity, loginetl.shared_ips,"
                     " loginetl.shared_devices, loginetl.logins")  # fmt: skip
    pipeline.execute("ALTER TABLE user_logins ALTER user_id TYPE varchar(6)")


def check_constraint(pipeline: Pipeline) -> None:
    pipeline.execute("ALTER TABLE user_logins ADD CHECK (user_id NOT LIKE 'refused-%')")


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
    "refuse",
    [
        narrower_column,
        check_constraint,
        trigger,
        trigger_with_a_code_of_its_own,
        trigger_that_passes_rows_over,
        foreign_key_checked_at_commit,
    ],
)
def test_a_row_that_the_table_refuses_does_not_sink_its_batch(pipeline: Pipeline, refuse: object) -> None:
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
    assert checks(result)["counts_reconcile"]
    assert checks(result)["no_message_loaded_twice"]


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
        pipeline.run()
        assert [row[0] for row in pipeline.rows()] == ["u-1", "u-\u00e9"]
        assert [row[0] for row in pipeline.query("SELECT reason FROM loginetl.rejected_logins")] == [REFUSED]
    with server.connect() as connection:
        connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))


def test_a_table_that_refuses_every_row_rejects_them_all(pipeline: Pipeline) -> None:
    pipeline.execute("ALTER TABLE user_logins ADD CHECK (app_version < 0)")
    pipeline.send(login(user_id=f"u-{number}") for number in range(20))
    pipeline.run()
    totals = pipeline.totals()
    assert (totals.loaded, totals.rejected, totals.pending) == (0, 20, 0)


def test_a_refused_row_is_brought_in_by_reading_its_batch_again(pipeline: Pipeline) -> None:
    check_constraint(pipeline)
    pipeline.send([login(user_id="u-1"), login(user_id="refused-1")])
    pipeline.run()
    pipeline.execute("ALTER TABLE user_logins DROP CONSTRAINT user_logins_user_id_check")
    result = pipeline.run({"masked_logins": {"reprocess": True}})
    assert [row[0] for row in pipeline.rows()] == ["refused-1", "u-1"]
    assert checks(result)["counts_reconcile"]


def test_a_batch_whose_bodies_are_gone_is_set_aside_whole(pipeline: Pipeline) -> None:
    check_constraint(pipeline)
    pipeline.send([login(user_id="u-1"), login(user_id="refused-1")])
    pipeline.materialize("raw_login_messages")
    pipeline.materialize("masked_logins")
    for path in (pipeline.settings.home / "landing" / "batches").iterdir():
        path.unlink()
    pipeline.materialize("user_logins")
    totals = pipeline.totals()
    assert (totals.set_aside_batches, totals.pending, totals.loaded) == (1, 2, 0)
    assert pipeline.rows() == []


def test_an_erasure_reaches_the_vault_by_a_refused_row_alone(pipeline: Pipeline) -> None:
    check_constraint(pipeline)
    pipeline.send([login(user_id="refused-1", ip="203.0.113.99", device_id="their own")])
    pipeline.run()
    pipeline.execute("UPDATE loginetl.batches SET loaded_at = now() - interval '40 days'")
    pipeline.run({"purge": {"days": 30}}, job="retention")
    services = pipeline.services
    erasure = Erasure(
        services.database(), services.landing(), services.keyring, subject_of("refused-1", [], services.keyring)
    )
    assert erasure.dry_run().vault_entries == 2
    counts = erasure.run("asked for")
    assert (counts.rejected_bodies, counts.vault_entries) == (1, 2)
    assert pipeline.query("SELECT token FROM loginetl.pii_vault") == []
