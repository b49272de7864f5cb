"""A batch that cannot be masked or loaded never stops the others; the run goes on, and fails at its end by its name."""

from collections.abc import Callable
from typing import Any
from uuid import uuid4

import dagster as dg
import pytest

from loginetl_assets.logins.message import QueuedMessage
from loginetl_assets.steps import each_batch as batches
from loginetl_assets_tests.support.pipeline import Pipeline, login, metadata


@pytest.fixture(autouse=True)
def _retries_do_not_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dagster.RetryPolicy.calculate_delay", lambda *_: 0)


def land(pipeline: Pipeline, *users: str, sent_at_ms: int = 1_700_000_000_000) -> int:
    return pipeline.land(
        [QueuedMessage(str(uuid4()), sent_at_ms, login(user_id=user).encode()) for user in users],
    )


def said(result: dg.ExecuteInProcessResult) -> str:
    """The words of the steps that failed."""
    return str([event.step_failure_data for event in result.get_step_failure_events()])


def failed_steps(result: dg.ExecuteInProcessResult) -> set[str | None]:
    return {event.step_key for event in result.get_step_failure_events()}


def raising(pipeline: Pipeline, code: str) -> None:
    pipeline.execute(
        "CREATE FUNCTION no_refused() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        f" IF NEW.user_id LIKE 'bad-%' THEN RAISE EXCEPTION 'no' USING ERRCODE = '{code}'; END IF; RETURN NEW; END $$"
    )
    pipeline.execute("CREATE TRIGGER no BEFORE INSERT ON user_logins FOR EACH ROW EXECUTE FUNCTION no_refused()")


def a_key_that_is_not_held(pipeline: Pipeline, batch_id: int) -> str:
    pipeline.execute("UPDATE loginetl.batches SET landing_key_id = 1 WHERE batch_id = :id", id=batch_id)
    return "LOGINETL_KEYSET_LANDING"


@pytest.mark.parametrize("break_it", [a_key_that_is_not_held])
def test_a_batch_that_cannot_be_masked_stops_neither_masking_nor_loading_of_the_others(
    pipeline: Pipeline, break_it: Callable[[Pipeline, int], str]
) -> None:
    before, bad, after = land(pipeline, "u-1"), land(pipeline, "u-2"), land(pipeline, "u-3")
    words = break_it(pipeline, bad)

    result = pipeline.run(job="process_landed", expect_success=False)

    assert not result.success
    assert [row[0] for row in pipeline.rows()] == ["u-1", "u-3"]
    assert failed_steps(result) == {"user_logins"}
    assert f"batch {bad} failed, the others went on" in said(result)
    assert words in said(result)
    assert metadata(result, "masked_logins")["batches"] == 2
    assert pipeline.totals().pending == 1
    assert before < bad < after


def test_masking_alone_fails_by_itself(pipeline: Pipeline) -> None:
    bad = land(pipeline, "u-1")
    land(pipeline, "u-2")
    words = a_key_that_is_not_held(pipeline, bad)
    result = pipeline.materialize("masked_logins", expect_success=False)
    assert failed_steps(result) == {"masked_logins"}
    assert words in said(result)
    assert metadata(pipeline.materialize("user_logins"), "user_logins")["loaded"] == 1


def test_a_batch_with_what_nobody_foresaw_stops_no_other(pipeline: Pipeline) -> None:
    bad = pipeline.land(
        [
            QueuedMessage(str(uuid4()), 1_700_000_000_000, login(user_id="u-1").encode()),
            QueuedMessage(str(uuid4()), 1 << 63, login(user_id="u-5ee4-never").encode()),
        ]
    )
    land(pipeline, "u-2")
    result = pipeline.run(job="process_landed", expect_success=False)
    assert [row[0] for row in pipeline.rows()] == ["u-2"]
    assert f"batch {bad} failed" in said(result)
    assert "u-5ee4-never" not in said(result)


@pytest.mark.parametrize("code", ["40001", "40P01"])
def test_a_batch_that_cannot_be_loaded_stops_no_other(pipeline: Pipeline, code: str) -> None:
    raising(pipeline, code)
    land(pipeline, "u-1")
    bad = land(pipeline, "bad-1")
    land(pipeline, "u-2")

    result = pipeline.run(job="process_landed", expect_success=False)

    assert [row[0] for row in pipeline.rows()] == ["u-1", "u-2"]
    assert f"batch {bad} failed, the others went on" in said(result)
    assert code in said(result)
    assert pipeline.totals().pending == 1
    pipeline.execute("DROP TRIGGER no ON user_logins")
    pipeline.run(job="process_landed")
    assert len(pipeline.rows()) == 3


def test_a_batch_that_breaks_the_rules_stops_no_other(pipeline: Pipeline) -> None:
    bad = land(pipeline, "u-1")
    pipeline.materialize("masked_logins")
    (wrong,) = pipeline.query("SELECT masked_path FROM loginetl.batches")
    assert wrong
    land(pipeline, "u-2")
    pipeline.materialize("masked_logins")
    _replace_masked_file(pipeline, bad)
    result = pipeline.materialize("user_logins", expect_success=False)
    assert [row[0] for row in pipeline.rows()] == ["u-2"]
    assert f"loginetl reprocess {bad}" in said(result)


def _replace_masked_file(pipeline: Pipeline, batch_id: int) -> None:
    """Gives a batch a masked file with a version that no login has."""
    import polars as pl

    from loginetl_assets.landing.batch_files import read_masked, write_masked
    from loginetl_assets.storage import batches

    with pipeline.services.database().transaction() as connection:
        batch = batches.lock_batch(connection, batch_id)
        assert batch is not None
        landing = pipeline.services.landing()
        logins = read_masked(landing, batch.masked_path).with_columns(pl.lit(-1, pl.Int32).alias("app_version"))
        key, _ = write_masked(landing, logins)
        batches.replace_masked(connection, batch, key)


def test_what_concerns_all_batches_stops_at_the_first(pipeline: Pipeline) -> None:
    for number in range(3):
        land(pipeline, f"u-{number}")
    pipeline.materialize("masked_logins")
    raising(pipeline, "53100")
    pipeline.execute("UPDATE loginetl.batches SET state = state")
    land(pipeline, "bad-1")
    land(pipeline, "u-9")
    result = pipeline.run(job="process_landed", expect_success=False)
    assert "disk of Postgres is full" in said(result)
    assert "u-9" not in [row[0] for row in pipeline.rows()]


def test_failures_in_a_row_that_take_their_time_stop_the_run(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "MAX_SECONDS_OF_FAILURES_IN_A_ROW", 0)
    bad, _, newest = (land(pipeline, user) for user in ("u-1", "u-2", "u-3"))
    for one in (bad, newest):
        a_key_that_is_not_held(pipeline, one)
    result: Any = pipeline.run(job="process_landed", expect_success=False)
    assert "the rest was not tried" in said(result)
    assert pipeline.rows() == []


def test_failures_in_a_row_that_take_their_time_stop_none_behind_them(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "MAX_SECONDS_OF_FAILURES_IN_A_ROW", 0)
    for bad in [land(pipeline, "u-1"), land(pipeline, "u-2")]:
        a_key_that_is_not_held(pipeline, bad)
    for user in ("u-3", "u-4", "u-5"):
        land(pipeline, user)
    result: Any = pipeline.run(job="process_landed", expect_success=False)
    assert "2 batches" in said(result)
    assert "the others went on" in said(result)
    assert [row[0] for row in pipeline.rows()] == ["u-3", "u-4", "u-5"]
