"""Replaying rejected messages: with the current validation rules, exactly once, and never in plaintext."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from loginetl_assets.errors import SettingsError
from loginetl_assets.privacy.erase import Erasure
from loginetl_assets.privacy.subjects import subject_of
from loginetl_assets.settings import UnknownFields
from loginetl_assets.steps.replay import ReplayTotals, replay_rejected, selection
from loginetl_assets.storage import rejections
from loginetl_assets.storage.rejections import Selection
from loginetl_assets_tests.support.pipeline import Pipeline, checks, login, metadata


def _replay(pipeline: Pipeline, which: Selection | None = None) -> ReplayTotals:
    services = pipeline.services
    return replay_rejected(
        services.database(), services.landing(), services.payloads(), services.keyring, which or Selection()
    )


@pytest.fixture
def strict(pipeline: Pipeline, tmp_path: Path) -> Pipeline:
    """A pipeline that has rejected three messages with a field too many, and one that is no login."""
    settings = replace(pipeline.settings, unknown_fields=UnknownFields.REJECT)
    pipeline.send([login(user_id="plain"), *(login(user_id=f"extra-{n}", colour="blue") for n in range(3)), "{}"])
    with Pipeline.on(settings, tmp_path / "strict") as before:
        before.process()
        assert (before.totals().loaded, before.totals().rejected) == (1, 4)
    return pipeline


def test_a_replay_loads_what_the_rules_accept_now_and_rejects_the_rest_again(strict: Pipeline) -> None:
    assert _replay(strict) == ReplayTotals(messages=4, batches=1)
    assert strict.query("SELECT 1 FROM loginetl.rejected_logins") == []
    assert strict.totals().pending == 4

    result = strict.run(job="process_landed")

    assert [row[0] for row in strict.rows()] == ["extra-0", "extra-1", "extra-2", "plain"]
    totals = strict.totals()
    assert (totals.messages, totals.loaded, totals.rejected, totals.duplicates, totals.pending) == (9, 4, 1, 4, 0)
    assert all(passed for name, passed in checks(result).items() if name not in {"rejection_rate", "health"})


def test_a_replay_keeps_the_id_and_the_day_of_the_message(strict: Pipeline) -> None:
    strict.execute("UPDATE loginetl.rejected_logins SET sent_at = '2024-02-29T23:59:59.999Z'")
    before = {row[0] for row in strict.query("SELECT message_uuid FROM loginetl.rejected_logins")}
    _replay(strict)
    strict.process_landed()
    assert {str(row.create_date) for row in strict.query("SELECT * FROM user_logins WHERE user_id LIKE 'extra%'")} == {
        "2024-02-29"
    }
    assert before <= {row[0] for row in strict.query("SELECT message_uuid FROM loginetl.processed_messages")}


def test_two_replays_at_once_replay_each_message_once(strict: Pipeline) -> None:
    with ThreadPoolExecutor(4) as pool:
        done = list(pool.map(lambda _: _replay(strict), range(4)))
    assert sum(one.messages for one in done) == 4
    strict.process()
    _replay(strict)
    strict.process()
    assert len(strict.rows()) == 4


def test_a_redelivery_between_replay_and_load_is_loaded_once(strict: Pipeline) -> None:
    _replay(strict)
    strict.process_landed(reprocess=True)  # the batch they came with is read again too
    assert len(strict.rows()) == 4
    totals = strict.totals()
    assert totals.messages == totals.loaded + totals.duplicates + totals.rejected
    assert totals.pending == 0


def test_only_what_is_selected_is_replayed(strict: Pipeline) -> None:
    (no_login,) = strict.query("SELECT message_uuid FROM loginetl.rejected_logins WHERE reason = 'not_a_login'")[0]
    later = datetime.now(UTC) + timedelta(hours=1)
    assert _replay(strict, selection([], since=later.isoformat())).messages == 0
    assert _replay(strict, selection([], until="2020-01-01")).messages == 0
    assert _replay(strict, selection([str(no_login)], "unknown_field")).messages == 0
    assert _replay(strict, selection([str(no_login)])).messages == 1
    assert _replay(strict, selection([], "unknown_field", until=later.isoformat())).messages == 3


@pytest.mark.parametrize(
    ("ids", "reason", "since"), [(["x"], "", ""), ([], "because", ""), ([], "", "yesterday"), ([], "", "1-1-2020")]
)
def test_a_choice_that_cannot_be_is_named(ids: list[str], reason: str, since: str) -> None:
    with pytest.raises(SettingsError):
        selection(ids, reason, since)


def test_bodies_encrypted_with_another_key_stay_rejected(strict: Pipeline) -> None:
    strict.execute(
        "UPDATE loginetl.rejected_logins SET encrypted_body = encrypted_body || '\\x00' WHERE reason = 'not_a_login'"
    )
    assert _replay(strict) == ReplayTotals(messages=3, batches=1, undecryptable=1)
    assert strict.totals().rejected == 1


def test_large_bodies_are_replayed_in_several_batches(pipeline: Pipeline) -> None:
    for number in range(20):
        pipeline.send([login(user_id=f"{number}" + "u" * 900_000)])
    pipeline.run()
    assert pipeline.totals().rejected == 20
    counts = _replay(pipeline)
    assert (counts.messages, counts.batches) == (20, 2)


def test_the_replay_job_lands_what_its_config_means(strict: Pipeline) -> None:
    result = strict.run({"replay": {"reason": "unknown_field"}}, job="replay_rejected")
    assert result.success
    assert strict.totals().pending == 3
    loaded = strict.run()
    assert metadata(loaded, "user_logins")["loaded"] == 3
    failed = strict.run({"replay": {"reason": "no such reason"}}, job="replay_rejected", expect_success=False)
    assert "the reasons are" in str([event.step_failure_data for event in failed.get_step_failure_events()])


def test_a_batch_is_read_again_after_its_rejections_were_dropped(strict: Pipeline) -> None:
    _drop(strict)
    strict.process_landed(reprocess=True)
    strict.send([login(user_id="later")])
    strict.process()
    assert [row[0] for row in strict.rows()] == ["later", "plain"]
    totals = strict.totals()
    assert (totals.messages, totals.loaded, totals.erased, totals.duplicates, totals.pending) == (6, 2, 4, 0, 0)


def test_a_batch_that_is_only_masked_stands_a_drop_and_someone_else_s_erasure(pipeline: Pipeline) -> None:
    pipeline.send([login(user_id="stays"), login(user_id="goes", ip="203.0.113.5", device_id="theirs"), "{}"])
    pipeline.drain(visibility_seconds=30)
    pipeline.mask()
    _drop(pipeline)
    one = pipeline.services
    Erasure(one.database(), one.landing(), one.keyring, subject_of("goes", [], one.keyring)).run("asked for")
    pipeline.process()
    assert [row[0] for row in pipeline.rows()] == ["stays"]
    totals = pipeline.totals()
    assert (totals.messages, totals.loaded, totals.erased, totals.pending) == (3, 1, 2, 0)


def test_a_rejection_erased_while_its_batch_was_unreadable_stays_erased_once_that_is_fixed(pipeline: Pipeline) -> None:
    pipeline.send([login(user_id="stays"), login(user_id="goes", app_version="x")])
    pipeline.process()
    (path,) = (pipeline.settings.home / "landing" / "batches").iterdir()
    path.rename(path.with_suffix(".away"))
    one = pipeline.services
    Erasure(one.database(), one.landing(), one.keyring, subject_of("goes", [], one.keyring)).run("asked for")
    path.with_suffix(".away").rename(path)
    pipeline.process_landed(reprocess=True)
    assert [row[0] for row in pipeline.rows()] == ["stays"]
    totals = pipeline.totals()
    assert (totals.messages, totals.loaded, totals.erased, totals.duplicates, totals.pending) == (2, 1, 1, 0, 0)


def _drop(pipeline: Pipeline) -> None:
    with pipeline.services.database().transaction() as connection:
        rejections.erase(connection, rejections.matching_ids(connection, Selection()))
