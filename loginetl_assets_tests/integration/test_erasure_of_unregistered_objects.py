"""Erasure of what runs left in the landing that died before the ledger named it, and of what is about to be named."""

from concurrent.futures import ThreadPoolExecutor
from uuid import uuid4

from sqlalchemy import text

from loginetl_assets.landing.batch_files import read_masked, write_masked, write_messages
from loginetl_assets.landing.object_store import BATCHES, MASKED
from loginetl_assets.logins.message import QueuedMessage
from loginetl_assets.privacy.erase import Erasure, ErasureTotals
from loginetl_assets.privacy.subjects import subject_of
from loginetl_assets.services import Services
from loginetl_assets.storage import batches
from loginetl_assets_tests.support.pipeline import Pipeline, checks, login

ANNA, BERT = "anna-4711", "bert-0815"
BODIES = [login(user_id=ANNA, device_id="anna-device"), login(user_id=BERT)]


def _messages() -> list[QueuedMessage]:
    return [QueuedMessage(str(uuid4()), 1_700_000_000_000, body.encode()) for body in BODIES]


def _erase(pipeline: Pipeline) -> ErasureTotals:
    services = Services(pipeline.settings)
    subject = subject_of(ANNA, [], services.keyring)
    return Erasure(services.database(), services.landing(), services.keyring, subject).run("she asked")


def _objects(pipeline: Pipeline, prefix: str) -> set[str]:
    return {path for path, _ in pipeline.services.landing().list(prefix)}


def _named(pipeline: Pipeline) -> set[str]:
    rows = pipeline.query("SELECT object_path FROM loginetl.batches WHERE object_purged_at IS NULL")
    return {row.object_path for row in rows}


def test_a_batch_that_a_killed_drain_left_is_cleaned_and_its_other_messages_are_loaded(pipeline: Pipeline) -> None:
    left = write_messages(pipeline.services.landing(), pipeline.services.keyring.landing, _messages()).object_path
    counts = _erase(pipeline)
    assert (counts.landed_messages, counts.unreadable_objects) == (1, 0)
    assert left not in _objects(pipeline, BATCHES)
    assert _objects(pipeline, BATCHES) == _named(pipeline)
    assert checks(pipeline.run(job="process_landed"))["counts_reconcile"]
    assert [row[0] for row in pipeline.rows()] == [BERT]


def test_an_object_that_does_not_open_is_left_and_told(pipeline: Pipeline) -> None:
    pipeline.services.landing().put("batches/a-strangers", b"encrypted otherwise")
    assert _erase(pipeline).unreadable_objects == 1
    assert _objects(pipeline, BATCHES) == {"batches/a-strangers"}


def test_a_masked_file_that_a_killed_run_left_is_deleted(pipeline: Pipeline) -> None:
    pipeline.land(_messages())
    pipeline.mask()
    landing = pipeline.services.landing()
    with pipeline.services.database().transaction() as connection:
        (batch,) = batches.list_batches(connection, batches.BatchState.MASKED)
    write_masked(landing, read_masked(landing, batch.masked_path))
    unfinished = pipeline.settings.home / "landing" / "masked" / "killed-in-a-write#1"
    unfinished.write_bytes(ANNA.encode())
    counts = _erase(pipeline)
    assert counts.unregistered_objects == 2
    assert _objects(pipeline, MASKED) == set()
    assert not unfinished.exists()
    pipeline.process_landed()
    assert [row[0] for row in pipeline.rows()] == [BERT]


def test_a_batch_that_a_drain_is_about_to_register_is_waited_for_and_cleaned(pipeline: Pipeline) -> None:
    pipeline.send(BODIES)
    with ThreadPoolExecutor(2) as pool:
        with pipeline.services.database().transaction() as holder:
            holder.execute(text("LOCK TABLE loginetl.batches IN SHARE ROW EXCLUSIVE MODE"))  # nobody registers
            drain = pool.submit(pipeline.drain, visibility_seconds=30)
            pipeline.await_lock("relation")
            assert len(_objects(pipeline, BATCHES)) == 1
            erasure = pool.submit(_erase, pipeline)
            pipeline.await_lock("advisory", unless=erasure.done)
        assert drain.result().undeleted == 0
        assert erasure.result().landed_messages == 1
    assert _objects(pipeline, BATCHES) == _named(pipeline)
    assert checks(pipeline.run())["counts_reconcile"]
    assert [row[0] for row in pipeline.rows()] == [BERT]
    assert (pipeline.totals().messages, pipeline.totals().pending) == (2, 0)
