"""The counts behind the report are those of the table and the ledger, whatever happens to both, and cost no scan."""

# ruff: noqa: S608 - names of our own tables

from collections import Counter
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest

from loginetl_assets.cli import running
from loginetl_assets.privacy.erase import Erasure
from loginetl_assets.privacy.subjects import subject_of
from loginetl_assets.report.activity import Activity, Unit
from loginetl_assets.report.page import render_page
from loginetl_assets.services import Services
from loginetl_assets.steps.activity import fold_activity, queued_messages, read_activity, recount_activity
from loginetl_assets_tests.support.pipeline import SAMPLE, Pipeline, login, metadata
from loginetl_assets_tests.support.server import COLUMNS, Server

VALUES = "('device_type', device_type), ('locale', locale), ('app_version', app_version::text)"
OF_THE_TABLE = (
    "SELECT coalesce(create_date, '0001-01-01')::text AS day, dimension, coalesce(value, '') AS value, count(*)"
    f" FROM user_logins, LATERAL (VALUES {VALUES}) v (dimension, value) GROUP BY 1, 2, 3"
)
OF_THE_REJECTIONS = (
    "SELECT (rejected_at AT TIME ZONE 'UTC')::date::text, 'rejection', reason, count(*)"
    " FROM loginetl.rejected_logins GROUP BY 1, 3"
)
COUNTED = (
    "SELECT day::text, dimension, value, sum(logins)::bigint FROM (TABLE loginetl.activity UNION ALL"
    " TABLE loginetl.activity_changes) c GROUP BY 1, 2, 3 HAVING sum(logins) <> 0"
)


def assert_counts_are_right(pipeline: Pipeline) -> None:
    expected = pipeline.query(f"{OF_THE_TABLE} UNION ALL {OF_THE_REJECTIONS}")
    assert Counter(map(tuple, pipeline.query(COUNTED))) == Counter(map(tuple, expected))


def report_of(pipeline: Pipeline) -> Activity:
    return read_activity(pipeline.services.database(), queued_messages(pipeline.services.queue), major_only=False)


def erase(pipeline: Pipeline, user_id: str) -> None:
    services = pipeline.services
    subject = subject_of(user_id, [], services.keyring)
    Erasure(services.database(), services.landing(), services.keyring, subject).run("test")


def test_counts_follow_loads_replays_reprocessing_erasure_and_retention(pipeline: Pipeline) -> None:
    pipeline.send([*SAMPLE, login(app_version="x"), login(user_id="goes", locale="only-his")])
    result = pipeline.run({"raw_login_messages": {"batch_messages": 30}})
    assert_counts_are_right(pipeline)
    shown = metadata(result, "login_activity")
    assert (shown["logins"], shown["rejected"], shown["adds_up"]) == (100, 2, True)
    assert pipeline.query("SELECT FROM loginetl.activity_changes") == [], "each run adds its own batches"

    pipeline.run({"replay": {"reason": "bad_version"}}, job="replay_rejected")
    assert_counts_are_right(pipeline)
    pipeline.run()
    pipeline.run({"masked_logins": {"reprocess": True}})
    assert_counts_are_right(pipeline)

    pipeline.send([login(user_id="goes", locale="only-his", device_type="watch")])
    pipeline.materialize("raw_login_messages")
    pipeline.materialize("masked_logins")
    pipeline.materialize("user_logins")  # its counts are not added up yet
    erase(pipeline, "goes")
    assert_counts_are_right(pipeline)
    rare = "SELECT FROM {} WHERE value IN ('only-his', 'watch')"
    assert pipeline.query(rare.format("loginetl.activity")) == [], "not even as a count of nought"
    assert pipeline.query(rare.format("loginetl.activity_changes")) == []

    pipeline.execute("UPDATE loginetl.batches SET loaded_at = now() - '90 days'::interval")
    pipeline.run(job="retention")
    assert_counts_are_right(pipeline)
    flow = report_of(pipeline).flow
    assert flow.adds_up
    assert [flow.parts[name] for name in ("loaded", "rejected", "erased")] == [99, 2, 2]
    assert flow.messages == 104


def test_a_row_that_the_table_refuses_or_changes_is_counted_as_the_table_has_it(pipeline: Pipeline) -> None:
    pipeline.execute("ALTER TABLE user_logins ADD CHECK (user_id <> 'no')")
    pipeline.execute(
        "CREATE FUNCTION upper_case() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN NEW.device_type := upper(NEW.device_type); RETURN NEW; END $$"
    )
    pipeline.execute("CREATE TRIGGER changes BEFORE INSERT ON user_logins FOR EACH ROW EXECUTE FUNCTION upper_case()")
    pipeline.send(login(user_id=user) for user in ("a", "no", "b"))
    pipeline.run()
    assert_counts_are_right(pipeline)
    assert pipeline.query("SELECT value FROM loginetl.activity WHERE dimension = 'device_type'") == [("IOS",)]
    erase(pipeline, "a")
    assert_counts_are_right(pipeline)


def test_the_rows_of_an_adopted_table_are_counted_even_without_a_date(server: Server, tmp_path: Path) -> None:
    server.execute(
        f"CREATE TABLE public.user_logins ({COLUMNS})",
        "INSERT INTO public.user_logins (user_id, device_type, create_date) SELECT 'old', 'palm', '2004-01-01'"
        " FROM generate_series(1, 6)",
        "INSERT INTO public.user_logins (user_id) VALUES ('older')",
        "INSERT INTO public.user_logins (user_id, create_date) VALUES ('oldest', '4000-01-01 BC'), ('n', 'infinity')",
        f"INSERT INTO public.user_logins (user_id, locale) VALUES ('long', '{'x' * 32}')",
    )
    server.migrate()
    with Pipeline.on(server.settings(), tmp_path / "dagster") as pipeline:
        assert_counts_are_right(pipeline)
        server.migrate()
        assert_counts_are_right(pipeline)
        pipeline.send([login()])
        pipeline.run()
        assert_counts_are_right(pipeline)
        read = report_of(pipeline)
        assert (read.logins, read.undated) == (11, 4)
        assert read.period is not None
        assert (read.period.first, read.period.unit) == (date(2004, 1, 1), Unit.QUARTER)
        assert (read.device_types.names[0], read.device_types.totals[0]) == ("palm", 6)
        assert "palm" in render_page(read)
        erase(pipeline, "old")
        assert_counts_are_right(pipeline)


def test_a_recount_finds_what_the_owner_of_the_table_changed(pipeline: Pipeline) -> None:
    pipeline.send(SAMPLE)
    pipeline.run()
    pipeline.execute("DELETE FROM user_logins WHERE device_type = 'ios'")
    with pytest.raises(AssertionError):
        assert_counts_are_right(pipeline)
    recount_activity(pipeline.services.database())
    assert_counts_are_right(pipeline)
    assert report_of(pipeline).rejections == {"not_a_login": 1}, "these were right all the time"


def test_what_is_loaded_while_others_add_up_is_counted_once(pipeline: Pipeline) -> None:
    pipeline.send(login(user_id=str(number)) for number in range(6))
    pipeline.run()
    database = pipeline.services.database()
    with database.transaction() as loading:
        pipeline.materialize("login_activity")
        loading.exec_driver_sql("INSERT INTO loginetl.activity_changes VALUES ('2024-01-01', 'device_type', 'tv', 5)")
        fold_activity(database)
    before = Counter(map(tuple, pipeline.query(COUNTED)))
    for _ in range(2):
        fold_activity(database)
    assert Counter(map(tuple, pipeline.query(COUNTED))) == before
    assert ("2024-01-01", "device_type", "tv", 5) in before


def test_values_of_few_logins_and_the_long_tail_are_others_and_versions_are_shortened(pipeline: Pipeline) -> None:
    pipeline.send(SAMPLE)
    pipeline.run()
    read = report_of(pipeline)
    assert (read.device_types.names, read.device_types.totals) == (["ios", "android"], [50, 49])
    assert read.locales.names == ["", "ID", "BR", "PH", "FR", "RU", "CN", "PT", None]
    assert sum(read.locales.totals) == 99
    assert read.locales.totals[-1] == 6, "two of one locale and four of one each"
    assert set(read.versions.names) < {None, *(f"{major}.x" for major in range(10))}
    assert sum(read.versions.totals) == 99
    devices, addresses = (
        pipeline.query(f"SELECT count(*) FROM loginetl.{view}")[0][0] for view in ("shared_devices", "shared_ips")
    )
    assert (read.devices.shared, read.addresses.shared) == (devices, addresses) == (7, 7)
    assert read.devices.tokens == pipeline.query("SELECT count(DISTINCT masked_device_id) FROM user_logins")[0][0]


def test_shared_tokens_of_a_large_table_are_estimated_from_a_sample(pipeline: Pipeline) -> None:
    """Each of 30 000 devices has four rows, and each third one two users; each address has one."""
    pipeline.send([login()])
    pipeline.run()  # which records the masking key
    (key_id,) = pipeline.query("SELECT key_id FROM loginetl.keys WHERE role = 'masking'")[0]
    token = f"'{key_id}.' || translate(encode(sha256((:kind || {{}})::text::bytea), 'base64'), '+/', '-_')"
    number = "(i / 4)::text"
    pipeline.execute(
        "INSERT INTO user_logins SELECT CASE WHEN i % 12 < 4 THEN 'u' || i % 2 ELSE 'u' END, 'tv',"
        f" {token.format('i::text')}, {token.format(number)}, NULL, 1, '2024-01-01'"
        " FROM generate_series(0, 119999) i",
        kind="d",
    )
    pipeline.execute("ANALYZE user_logins")
    read = report_of(pipeline)
    assert read.devices.one_in == 64
    assert read.devices.tokens == pytest.approx(30_000, rel=0.2)
    assert read.devices.shared == pytest.approx(10_000, rel=0.3)
    assert read.devices.by_users["2"] == read.devices.shared
    assert read.addresses.shared == 0
    plan = "\n".join(
        row[0]
        for row in pipeline.query(
            f"EXPLAIN SELECT count(*) FROM user_logins WHERE masked_device_id >= '{key_id}.A'"
            f" AND masked_device_id < '{key_id}.B'"
        )
    )
    assert "user_logins_by_device" in plan


def test_loads_are_those_of_the_last_week_that_had_any(pipeline: Pipeline) -> None:
    pipeline.send([login()])
    pipeline.run()
    pipeline.execute(
        "UPDATE loginetl.batches SET loaded_at = '2024-05-10 10:30+00', oldest_sent_at = '2024-05-10 10:29+00'"
    )
    add = (
        "INSERT INTO loginetl.batches (object_path, landing_key_id, bytes, oldest_sent_at, state, messages, loaded,"
        " loaded_at) SELECT at::text, 1, 1, at - '10 s'::interval, 'loaded', 5, 5, at FROM CAST(:at AS timestamptz) at"
    )
    for at in ("2024-05-10 09:59:30+00", "2024-05-10 09:01+00", "2024-04-01 09:00+00"):
        pipeline.execute(add, at=at)
    read = report_of(pipeline)
    assert read.loads_step == timedelta(minutes=5)
    assert [(one.start, one.messages, one.typical_seconds) for one in read.loads] == [
        (datetime(2024, 5, 10, 9, 0, tzinfo=UTC), 5, 10),
        (datetime(2024, 5, 10, 9, 55, tzinfo=UTC), 5, 10),
        (datetime(2024, 5, 10, 10, 30, tzinfo=UTC), 1, 60),
    ]
    assert len(read.load_starts) == 19
    assert "10:30" in render_page(read)


def test_the_flow_has_every_message_in_one_place_and_a_queue_that_is_gone_keeps_no_report(pipeline: Pipeline) -> None:
    pipeline.send([login(user_id="a"), login(user_id="b"), login(ip="x")])
    pipeline.run()
    pipeline.send([login(user_id="c")])
    pipeline.materialize("raw_login_messages")
    pipeline.materialize("masked_logins")
    pipeline.send([login(user_id="d"), login(user_id="e")])
    pipeline.materialize("raw_login_messages")
    pipeline.execute("UPDATE loginetl.batches SET state = 'quarantined' WHERE messages = 2")
    pipeline.send([login(user_id="f")])
    pipeline.materialize("raw_login_messages")
    pipeline.send([login(user_id="g")])
    flow = report_of(pipeline).flow
    assert (flow.queued, flow.messages) == (1, 7)
    assert flow.parts == {"loaded": 2, "duplicates": 0, "rejected": 1, "erased": 0, "lost": 0, "landed": 1,
                          "masked": 1, "quarantined": 2}  # fmt: skip
    assert flow.adds_up

    gone = Services(replace(pipeline.settings, queue_url=f"{pipeline.settings.queue_url}-gone"))
    read = read_activity(pipeline.services.database(), queued_messages(gone.queue), major_only=False)
    assert read.flow == replace(flow, queued=None)
    assert "The queue was not asked, or did not answer." in render_page(read)


def test_a_report_that_fails_takes_no_load_with_it(pipeline: Pipeline) -> None:
    pipeline.execute("ALTER TABLE loginetl.activity RENAME TO elsewhere")
    pipeline.send([login()])
    summary = running.run_until_empty(pipeline.definitions, pipeline.services, pipeline.instance)
    assert summary.user_logins.loaded == 1
    assert len(pipeline.rows()) == 1
    (said,) = summary.needs_attention()
    assert said.startswith("all is loaded, but login_activity failed: a table or column is missing")
    pipeline.execute("ALTER TABLE loginetl.elsewhere RENAME TO activity")
    assert running.run_until_empty(pipeline.definitions, pipeline.services, pipeline.instance).needs_attention() == []
    assert_counts_are_right(pipeline)
