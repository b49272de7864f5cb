"""Giving up on a batch whose object is gone for good: its messages count as lost, by name, and nothing waits for it."""

from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import pytest
from sqlalchemy import text

from loginetl_assets.errors import OperatorError
from loginetl_assets.logins.message import QueuedMessage
from loginetl_assets.privacy.erase import Erasure
from loginetl_assets.privacy.subjects import subject_of
from loginetl_assets.steps.health import read_health
from loginetl_assets.storage import batches
from loginetl_assets_tests.support.pipeline import Pipeline, checks, login

WHY = "the bucket was emptied, incident 12"
RULES = {"max_rejection_rate": 0.05, "freshness_hours": 24.0}


def message(user: str, **changes: object) -> QueuedMessage:
    return QueuedMessage(str(uuid4()), 1_750_939_200_000, login(user_id=user, **changes).encode())


def quarantined(pipeline: Pipeline, *users: str) -> tuple[int, Path]:
    """Lands a batch, takes its object away, and runs; gives the batch and where the object is kept."""
    batch_id = pipeline.land([message(user) for user in users])
    (key,) = pipeline.query("SELECT object_path FROM loginetl.batches WHERE batch_id = :id", id=batch_id)[0]
    path = pipeline.settings.home / "landing" / key
    kept: Path = path.rename(path.with_name(f"{path.name}.kept"))
    pipeline.process_landed()
    assert state(pipeline, batch_id) == "quarantined"
    return batch_id, kept


def bring_back(kept: Path) -> None:
    kept.rename(kept.with_name(kept.name.removesuffix(".kept")))


def state(pipeline: Pipeline, batch_id: int) -> str:
    found: str = pipeline.query("SELECT state FROM loginetl.batches WHERE batch_id = :id", id=batch_id)[0][0]
    return found


def give_up(pipeline: Pipeline, batch_id: int, reason: str = WHY) -> int:
    with pipeline.services.database().transaction() as connection:
        return batches.give_up(connection, batch_id, reason)


def make_old(pipeline: Pipeline, days: int) -> None:
    pipeline.execute(
        "UPDATE loginetl.batches SET landed_at = :old, loaded_at = CASE WHEN loaded_at IS NOT NULL THEN"
        " CAST(:old AS timestamptz) END, lost_at = CASE WHEN lost_at IS NOT NULL THEN CAST(:old AS timestamptz) END",
        old=datetime.now(UTC) - timedelta(days=days),
    )


def assert_counts_add_up(pipeline: Pipeline) -> None:
    totals = pipeline.totals()
    assert totals.messages == (
        totals.loaded + totals.duplicates + totals.rejected + totals.erased + totals.lost + totals.pending
    ), totals
    assert min(value for value in asdict(totals).values() if isinstance(value, int)) >= 0, totals


def test_a_batch_that_is_given_up_counts_as_lost_and_health_is_well_again(pipeline: Pipeline) -> None:
    batch_id, _ = quarantined(pipeline, "a", "b")
    pipeline.land([message("c")])

    assert give_up(pipeline, batch_id) == 2

    result = pipeline.run(job="process_landed")
    assert checks(result)["counts_reconcile"]
    assert checks(result)["health"]
    seen = read_health(pipeline.services.database(), pipeline.services.queue())
    assert (seen.conditions(**RULES), seen.quarantined, seen.oldest_pending_seconds) == ({}, [], None)
    totals = pipeline.totals()
    assert (totals.messages, totals.loaded, totals.lost, totals.pending) == (3, 1, 2, 0)
    assert (totals.quarantined_batches, totals.pending_batches) == (0, 0)
    row = pipeline.query("SELECT lost_reason, lost_by, session_user AS me FROM loginetl.batches WHERE state = 'lost'")[
        0
    ]
    assert (row.lost_reason, row.lost_by) == (WHY, row.me)


def test_of_a_batch_that_was_settled_in_part_the_rest_is_lost(pipeline: Pipeline) -> None:
    batch_id = pipeline.land([message("a"), message("b", app_version="x"), message("c")])
    pipeline.mask()
    pipeline.execute("UPDATE loginetl.batches SET state = 'quarantined', quarantine_reason = 'raw batch: gone'")

    assert give_up(pipeline, batch_id) == 2

    totals = pipeline.totals()
    assert (totals.rejected, totals.lost, totals.pending) == (1, 2, 0)
    assert_counts_add_up(pipeline)


@pytest.mark.parametrize("found", ["landed", "masked", "loaded", "lost", "none"])
def test_only_a_quarantined_batch_can_be_given_up(pipeline: Pipeline, found: str) -> None:
    batch_id = pipeline.land([message("a")])
    if found == "masked":
        pipeline.mask()
    elif found == "loaded":
        pipeline.process_landed()
    elif found == "lost":
        batch_id, _ = quarantined(pipeline, "b")
        give_up(pipeline, batch_id)
    elif found == "none":
        batch_id = 999
    before = pipeline.query("SELECT * FROM loginetl.batches ORDER BY batch_id")

    with pytest.raises(OperatorError, match=f"batch {batch_id}"):
        give_up(pipeline, batch_id)

    assert pipeline.query("SELECT * FROM loginetl.batches ORDER BY batch_id") == before


def test_retention_goes_on_past_a_lost_batch(pipeline: Pipeline) -> None:
    batch_id, _ = quarantined(pipeline, "lost")
    pipeline.land([message("loaded")])
    pipeline.process_landed()
    give_up(pipeline, batch_id)
    make_old(pipeline, 60)

    pipeline.run({"purge": {"days": 30}}, job="retention")

    assert pipeline.query("SELECT FROM loginetl.batches WHERE object_purged_at IS NULL") == []
    assert pipeline.query("SELECT FROM loginetl.processed_messages") == []


def test_a_lost_batch_keeps_ids_for_as_long_as_its_object_may_turn_up(pipeline: Pipeline) -> None:
    batch_id, kept = quarantined(pipeline, "a")
    give_up(pipeline, batch_id)
    pipeline.run({"purge": {"days": 30}}, job="retention")
    bring_back(kept)

    pipeline.run({"masked_logins": {"reprocess": True, "batch_ids": [batch_id]}}, job="process_landed")

    assert [row[0] for row in pipeline.rows()] == ["a"]
    row = pipeline.query("SELECT state, lost, lost_reason, lost_at, lost_by FROM loginetl.batches")[0]
    assert tuple(row) == ("loaded", 0, None, None, None)
    assert_counts_add_up(pipeline)


def test_a_lost_batch_is_left_alone_by_a_reprocess_that_does_not_name_it(pipeline: Pipeline) -> None:
    batch_id, _ = quarantined(pipeline, "a")
    give_up(pipeline, batch_id)
    pipeline.process_landed(reprocess=True)
    assert state(pipeline, batch_id) == "lost"


def test_a_lost_batch_that_is_named_and_still_gone_is_quarantined_again(pipeline: Pipeline) -> None:
    batch_id, _ = quarantined(pipeline, "a")
    give_up(pipeline, batch_id)
    pipeline.run({"masked_logins": {"reprocess": True, "batch_ids": [batch_id]}}, job="process_landed")
    assert state(pipeline, batch_id) == "quarantined"
    assert (pipeline.totals().lost, pipeline.totals().pending) == (0, 1)
    assert_counts_add_up(pipeline)


def test_an_erasure_reaches_a_lost_batch_whose_object_is_back(pipeline: Pipeline) -> None:
    batch_id, kept = quarantined(pipeline, "goes", "stays")
    give_up(pipeline, batch_id)
    bring_back(kept)
    one = pipeline.services

    counts = Erasure(one.database(), one.landing(), one.keyring, subject_of("goes", [], one.keyring)).run("asked for")
    pipeline.process_landed()

    assert counts.landed_messages == 1
    assert [row[0] for row in pipeline.rows()] == ["stays"]
    totals = pipeline.totals()
    assert (totals.loaded, totals.erased, totals.lost) == (1, 1, 0)
    assert_counts_add_up(pipeline)


def test_a_batch_that_another_transaction_holds_is_passed_over_by_retention(pipeline: Pipeline) -> None:
    held, free = (pipeline.land([message(user)]) for user in ("held", "free"))
    pipeline.process_landed()
    make_old(pipeline, 60)
    files = {path for path, _ in pipeline.services.landing().list("batches")}
    with pipeline.services.database().transaction() as connection:  # as an erasure or a reprocess does
        batch = batches.lock_batch(connection, held)
        assert batch is not None
        pipeline.run({"purge": {"days": 30}}, job="retention")
        assert {path for path, _ in pipeline.services.landing().list("batches")} == {batch.object_path} < files
        purged = text("SELECT batch_id FROM loginetl.batches WHERE object_purged_at IS NOT NULL")
        assert connection.execute(purged).scalars().all() == [free]

    pipeline.run({"purge": {"days": 30}}, job="retention")
    assert list(pipeline.services.landing().list("batches")) == []
