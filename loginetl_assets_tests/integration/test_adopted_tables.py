"""Tables that were there before us: each kind is loaded, erased from and moved as it should be, or refused in words."""

# ruff: noqa: S608 - names of our own tables

from io import BytesIO
from pathlib import Path
from uuid import uuid4

import pytest

from loginetl_assets.errors import OperatorError
from loginetl_assets.privacy.rotate import RetokenizeTotals, retokenize
from loginetl_assets.services import Services
from loginetl_assets.storage.database import LoginDatabase
from loginetl_assets.storage.login_table import export_csv
from loginetl_assets.storage.login_table_shape import INDEXES
from loginetl_assets.storage.migrations.login_columns import add_login_columns
from loginetl_assets.storage.roles import ANALYST, LOADER, grant_roles
from loginetl_assets_tests.support.pipeline import Pipeline, checks, login
from loginetl_assets_tests.support.server import COLUMNS, Server, erased, indexes, keys_rotated

TABLE = f"CREATE TABLE public.user_logins ({COLUMNS})"
REORDERED = ", ".join(reversed(COLUMNS.split(", ")))


def partitioned_by(key: str) -> str:
    return f"{TABLE} PARTITION BY {key}"


WORKS = {
    "partitions by date": (
        partitioned_by("RANGE (create_date)"),
        "CREATE TABLE before PARTITION OF user_logins FOR VALUES FROM (MINVALUE) TO ('2025-01-01')",
        "CREATE TABLE since PARTITION OF user_logins FOR VALUES FROM ('2025-01-01') TO (MAXVALUE)",
    ),
    "partitions of partitions, by what a rotation changes": (
        partitioned_by("HASH (masked_device_id)"),
        "CREATE TABLE even PARTITION OF user_logins FOR VALUES WITH (MODULUS 2, REMAINDER 0)",
        "CREATE TABLE odd PARTITION OF user_logins FOR VALUES WITH (MODULUS 2, REMAINDER 1)"
        " PARTITION BY HASH (masked_ip)",
        "CREATE TABLE odd_0 PARTITION OF odd FOR VALUES WITH (MODULUS 2, REMAINDER 0)",
        "CREATE TABLE odd_1 PARTITION OF odd FOR VALUES WITH (MODULUS 2, REMAINDER 1)",
    ),
    "a partition of another table": (
        f"CREATE TABLE all_logins ({COLUMNS}) PARTITION BY LIST (app_version)",
        "CREATE TABLE user_logins PARTITION OF all_logins DEFAULT",
    ),
    "an heir of another table, with an heir of its own": (
        f"CREATE TABLE all_logins ({COLUMNS})",
        "CREATE TABLE user_logins () INHERITS (all_logins)",
        "CREATE TABLE old_logins () INHERITS (user_logins)",
    ),
    "columns of its own": (
        f"CREATE TABLE user_logins (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, {REORDERED},"
        " major integer GENERATED ALWAYS AS (app_version / 1000000) STORED,"
        " loaded_at timestamptz NOT NULL DEFAULT now(), note text)",
    ),
    "row-level security that is not for its owner": (
        TABLE,
        "ALTER TABLE user_logins ENABLE ROW LEVEL SECURITY",
        "CREATE POLICY nobodys ON user_logins USING (false)",
    ),
    "a rule that is disabled": (
        TABLE,
        "CREATE RULE forget AS ON INSERT TO user_logins DO INSTEAD NOTHING",
        "ALTER TABLE user_logins DISABLE RULE forget",
    ),
}


@pytest.mark.parametrize("shape", WORKS)
def test_a_table_of_this_kind_is_loaded_moved_exported_and_erased_from(
    shape: str, server: Server, tmp_path: Path
) -> None:
    server.execute("SET search_path = public", *WORKS[shape])
    old = "INSERT INTO public.{} (user_id, create_date, app_version) VALUES ('{}', '2020-01-01', 1)"
    server.execute(old.format("user_logins", "old"))
    if "heir" in shape:
        server.execute(old.format("old_logins", "older"))
    already = server.execute("SELECT user_id FROM public.user_logins")
    server.migrate()
    settings = server.settings()
    with Pipeline.on(settings, tmp_path / "dagster") as pipeline:
        pipeline.send(
            login(user_id=user, ip=f"192.0.2.{number}", device_id=f"d-{number}")
            for number, user in enumerate(["stays", "goes"] * 8)
        )
        assert all(checks(pipeline.run()).values())
        assert pipeline.totals().loaded == 16
        keys_rotated(settings)
        services = Services(settings)
        counts = retokenize(
            services.database(), services.landing(), services.keyring, Services(settings).officer(), reason="test"
        )
        assert (counts.rows, counts.values, counts.removed_entries) == (16, 32, 32)
        with services.database().transaction() as connection:
            assert export_csv(connection, BytesIO()) == 16 + len(already)
        counts_of_erasure = erased(services, "goes")
        assert (counts_of_erasure.rows, counts_of_erasure.vault_entries) == (8, 16)
    left = sorted([*already, *[("stays",)] * 8])
    for table in ("public.user_logins", "loginetl.logins"):
        assert sorted(server.execute(f"SELECT user_id FROM {table}")) == left
    assert len(indexes(server)) >= len(INDEXES)


@pytest.mark.parametrize("shape", [shape for shape in WORKS if "another" not in shape])
def test_a_migration_adds_what_a_table_of_this_kind_lacks_of_the_contract(shape: str, server: Server) -> None:
    server.execute("SET search_path = public", *WORKS[shape])
    server.migrate()
    server.execute("INSERT INTO public.user_logins (user_id, create_date) VALUES ('old', '2020-01-01')")
    server.execute("ALTER TABLE public.user_logins DROP COLUMN locale CASCADE")  # and the views that read it
    with LoginDatabase(str(server.settings().database_url)).transaction() as connection:
        add_login_columns(connection)
    for relation in ("public.user_logins", "loginetl.logins"):
        assert server.execute(f"SELECT user_id, locale FROM {relation}") == [("old", None)]
    Services(server.settings()).database()  # which looks at its columns


def test_the_views_keep_their_grants_when_a_migration_renews_them(server: Server) -> None:
    server.execute(TABLE)
    server.migrate()
    grant_roles(LoginDatabase(str(server.settings(user="postgres").database_url)))
    server.execute("CREATE VIEW public.theirs AS SELECT * FROM loginetl.logins")
    with LoginDatabase(str(server.settings().database_url)).transaction() as connection:
        add_login_columns(connection)
    allowed = f"SELECT has_table_privilege('{ANALYST}', 'loginetl.logins', 'SELECT')"
    assert server.execute(allowed) == [(True,)]
    assert server.execute("SELECT count(*) FROM public.theirs") == [(0,)]


def test_a_row_that_no_partition_takes_is_rejected_by_itself(server: Server, tmp_path: Path) -> None:
    server.execute(
        "SET search_path = public",
        partitioned_by("LIST (locale)"),
        "CREATE TABLE german PARTITION OF user_logins FOR VALUES IN ('DE')",
    )
    server.migrate()
    with Pipeline.on(server.settings(), tmp_path / "dagster") as pipeline:
        pipeline.send([login(locale="DE"), login(locale="FR"), login(locale="DE", user_id="u-2")])
        pipeline.process()
        assert (pipeline.totals().loaded, pipeline.totals().rejected) == (2, 1)
        reasons = pipeline.query("SELECT reason FROM loginetl.rejected_logins")
        assert [row.reason for row in reasons] == ["refused_by_table"]


FOREIGN = ("CREATE FOREIGN DATA WRAPPER elsewhere", "CREATE SERVER elsewhere FOREIGN DATA WRAPPER elsewhere")

REFUSED = {
    "a view": ((TABLE.replace("user_logins", "kept"), "CREATE VIEW user_logins AS SELECT * FROM kept"), "a view"),
    "a materialized view": (
        (TABLE.replace("user_logins", "kept"), "CREATE MATERIALIZED VIEW user_logins AS SELECT * FROM kept"),
        "a materialized view",
    ),
    "a foreign table": (
        (*FOREIGN, f"CREATE FOREIGN TABLE user_logins ({COLUMNS}) SERVER elsewhere"),
        "a foreign table",
    ),
    "a sequence": (("CREATE SEQUENCE user_logins",), "a sequence"),
    "unlogged": ((TABLE.replace("TABLE", "UNLOGGED TABLE"),), "ALTER TABLE public.user_logins SET LOGGED"),
    "a partition that is unlogged": (
        (
            partitioned_by("LIST (locale)"),
            "CREATE UNLOGGED TABLE german PARTITION OF user_logins FOR VALUES IN ('DE')",
        ),
        "ALTER TABLE public.german SET LOGGED",
    ),
    "a partition on another server": (
        (
            *FOREIGN,
            partitioned_by("LIST (locale)"),
            "CREATE FOREIGN TABLE german PARTITION OF user_logins FOR VALUES IN ('DE') SERVER elsewhere",
        ),
        "public.german",
    ),
    "a rule on what is loaded": (
        (TABLE, "CREATE RULE forget AS ON INSERT TO user_logins DO INSTEAD NOTHING"),
        "rule forget",
    ),
    "a rule on what is erased": (
        (TABLE, "CREATE RULE keep AS ON DELETE TO user_logins DO INSTEAD NOTHING"),
        "rule keep",
    ),
    "a column too few": (
        (TABLE.replace("locale varchar(32), ", ""),),
        "ALTER TABLE public.user_logins ADD COLUMN locale varchar(32)",
    ),
    "a partition with a column too few": (
        (
            f'CREATE TABLE "All" ({COLUMNS.replace("locale varchar(32), ", "")}) PARTITION BY LIST (app_version)',
            'CREATE TABLE middle PARTITION OF "All" DEFAULT PARTITION BY LIST (user_id)',
            "CREATE TABLE user_logins PARTITION OF middle DEFAULT",
        ),
        'ALTER TABLE public."All" ADD COLUMN locale varchar(32)',
    ),
    "a column of another type": ((TABLE.replace("app_version integer", "app_version text"),), "app_version is text"),
    "a generated column": (
        (TABLE.replace("masked_ip varchar(256)", "masked_ip varchar(256) GENERATED ALWAYS AS (user_id) STORED"),),
        "masked_ip is generated",
    ),
    "a counted column": (
        (TABLE.replace("app_version integer", "app_version integer GENERATED ALWAYS AS IDENTITY"),),
        "app_version is generated",
    ),
    "a column that must have a value": ((f"{TABLE[:-1]}, tenant integer NOT NULL)",), "tenant"),
    "the name of an index taken by a table": (
        (TABLE, "CREATE TABLE user_logins_by_user (n integer)"),
        "public.user_logins_by_user",
    ),
    "the name of an index taken by another index": (
        (TABLE, "CREATE INDEX user_logins_by_ip ON user_logins (locale)"),
        "public.user_logins_by_ip",
    ),
}


@pytest.mark.parametrize("shape", REFUSED)
def test_a_table_of_this_kind_is_refused_before_anything_is_made(shape: str, server: Server) -> None:
    statements, said = REFUSED[shape]
    # As the superuser, whom foreign data wrappers need; the owner is the role that migrates all the same.
    server.execute("SET search_path = public", *statements, user="postgres")
    server.execute("ALTER SCHEMA public OWNER TO loginetl", user="postgres")
    with pytest.raises(OperatorError) as raised:
        server.migrate(user="postgres")
    assert said in str(raised.value)
    assert server.execute("SELECT to_regnamespace('loginetl')", user="postgres") == [(None,)]


def test_a_table_that_becomes_unfit_is_refused_before_a_run_loads_into_it(server: Server) -> None:
    server.migrate()
    server.execute("CREATE RULE forget AS ON INSERT TO public.user_logins DO INSTEAD NOTHING")
    with pytest.raises(OperatorError, match="rule forget"):
        Services(server.settings()).database()


def test_an_index_of_the_users_own_takes_the_place_of_ours(server: Server) -> None:
    server.execute(
        "SET search_path = public",
        TABLE,
        "CREATE INDEX theirs ON user_logins (user_id, create_date)",
        "CREATE INDEX in_part ON user_logins (masked_ip, user_id) WHERE locale = 'DE'",
        "CREATE TABLE user_logins_by_user (n integer)",
    )
    server.migrate()
    assert {name for name, _ in indexes(server)} == {"theirs", "in_part", *INDEXES} - {"user_logins_by_user"}


def test_what_a_role_may_not_make_is_said_before_anything_is_made(server: Server) -> None:
    server.execute("ALTER SCHEMA public OWNER TO postgres", user="postgres")
    with pytest.raises(OperatorError, match="GRANT CREATE ON SCHEMA public"):
        server.migrate()
    server.execute("DROP SCHEMA public", user="postgres")
    with pytest.raises(OperatorError, match="no schema public"):
        server.migrate()
    server.execute("CREATE SCHEMA public", "GRANT USAGE ON SCHEMA public TO PUBLIC", TABLE, user="postgres")
    with pytest.raises(
        OperatorError, match=r"belongs to postgres,.*CREATE INDEX user_logins_by_user ON public\.user_logins"
    ) as raised:
        server.migrate()
    assert server.execute("SELECT to_regnamespace('loginetl')") == [(None,)]

    commands = str(raised.value).split("`")[3]
    server.execute(*commands.split("; "), user="postgres")
    server.execute("GRANT SELECT, INSERT ON public.user_logins TO loginetl", user="postgres")
    server.migrate()
    Services(server.settings()).database()


def test_a_policy_holds_for_analysts_in_the_views_too(server: Server, tmp_path: Path) -> None:
    server.execute(
        "SET search_path = public",
        TABLE,
        "ALTER TABLE user_logins ENABLE ROW LEVEL SECURITY",
        f"CREATE POLICY recent ON user_logins USING (user_id = 'shown' OR current_user NOT LIKE '{ANALYST}%')",
    )
    server.migrate()
    grant_roles(LoginDatabase(str(server.settings(user="postgres").database_url)))
    names = {role: f"{role}_{uuid4().hex[:12]}" for role in (LOADER, ANALYST)}
    server.execute(*(f"CREATE ROLE {name} LOGIN IN ROLE {role}" for role, name in names.items()), user="postgres")
    try:
        with Pipeline.on(server.settings(user=names[LOADER]), tmp_path / "dagster") as pipeline:
            pipeline.send([login(user_id="shown"), login(user_id="hidden"), login(user_id="hidden too")])
            assert checks(pipeline.run())["counts_reconcile"]
        for table in ("public.user_logins", "loginetl.logins"):
            assert server.execute(f"SELECT user_id FROM {table}", user=names[ANALYST]) == [("shown",)]
        assert server.execute("SELECT users FROM loginetl.daily_activity", user=names[ANALYST]) == [(1,)]
        assert server.execute("SELECT users FROM loginetl.shared_devices", user=names[ANALYST]) == []
        assert server.execute("SELECT users FROM loginetl.shared_devices") == [(3,)]
    finally:
        server.execute(*(f"DROP ROLE {name}" for name in names.values()), user="postgres")


def test_an_erasure_whose_rows_a_trigger_keeps_is_not_called_done(server: Server, tmp_path: Path) -> None:
    server.migrate()
    with Pipeline.on(server.settings(), tmp_path / "dagster") as pipeline:
        pipeline.send([login(user_id="goes"), login(user_id="goes", locale="DE")])
        pipeline.process()
    server.execute(
        "CREATE FUNCTION public.keep() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        " IF OLD.locale = 'DE' THEN RETURN NULL; END IF; RETURN OLD; END $$",
        "CREATE TRIGGER keep BEFORE DELETE ON public.user_logins FOR EACH ROW EXECUTE FUNCTION public.keep()",
    )
    services = Services(server.settings())
    with pytest.raises(OperatorError, match=r"not deleted from public\.user_logins: "):
        erased(services, "goes")
    assert server.execute("SELECT count(*) FROM public.user_logins") == [(2,)]
    assert server.execute("SELECT count(*) FROM loginetl.pii_vault") == [(2,)]

    server.execute("DROP TRIGGER keep ON public.user_logins")
    counts = erased(services, "goes")
    assert (counts.rows, counts.vault_entries) == (2, 2)


@pytest.mark.parametrize("keep", ["RETURN NULL;", "NEW.masked_device_id := OLD.masked_device_id;"])
def test_a_retokenize_whose_rows_a_trigger_keeps_is_not_called_done(server: Server, tmp_path: Path, keep: str) -> None:
    server.migrate()
    with Pipeline.on(server.settings(), tmp_path / "dagster") as pipeline:
        pipeline.send([login(), login(user_id="u-2", device_id="of u-2", locale="DE")])
        pipeline.process()
    server.execute(
        "CREATE FUNCTION public.keep() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        f" IF OLD.locale = 'DE' THEN {keep} END IF; RETURN NEW; END $$",
        "CREATE TRIGGER keep BEFORE UPDATE ON public.user_logins FOR EACH ROW EXECUTE FUNCTION public.keep()",
    )
    settings = server.settings()
    keys_rotated(settings)
    services = Services(settings)
    with pytest.raises(OperatorError, match=r"rows of public\.user_logins still have [12] old tokens: a trigger"):
        _retokenized(services)

    server.execute("DROP TRIGGER keep ON public.user_logins")
    assert _retokenized(services).rows == 1
    new_key = services.keyring.tokenizer.key_id
    moved = f"starts_with(masked_ip, '{new_key}.') AND starts_with(masked_device_id, '{new_key}.')"
    assert server.execute(f"SELECT count(*) FROM public.user_logins WHERE {moved}") == [(2,)]


def _retokenized(services: Services) -> RetokenizeTotals:
    officer = services.officer()
    return retokenize(services.database(), services.landing(), services.keyring, officer, reason="yearly")
