"""Erasure beside runs that land, mask and load in the same moment; other sessions hold it up where it is to be met."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from uuid import uuid4

from sqlalchemy import text

from loginetl_assets.logins.message import QueuedMessage
from loginetl_assets.privacy.erase import Erasure, ErasureTotals
from loginetl_assets.privacy.recover import Outcome, recover
from loginetl_assets.privacy.subjects import subject_of
from loginetl_assets.services import Services
from loginetl_assets.steps.batch_objects import land, read_batch
from loginetl_assets.storage import batches, vault
from loginetl_assets_tests.support.pipeline import Pipeline, login

ANNA, BERT, DEVICE = "anna-4711", "bert-0815", "anna-device-1"


def _messages(*user_ids: str) -> list[QueuedMessage]:
    return [
        QueuedMessage(str(uuid4()), 1_700_000_000_000, login(user_id=user_id, device_id=DEVICE).encode())
        for user_id in user_ids
    ]


def _erase(pipeline: Pipeline, progress: Callable[[int, int], None] = lambda done, total: None) -> ErasureTotals:
    services = Services(pipeline.settings)
    erasure = Erasure(services.database(), services.landing(), services.keyring, subject_of(ANNA, [], services.keyring))
    return erasure.run("she asked", progress)


def _landed_users(pipeline: Pipeline) -> list[str]:
    """Whose messages are in the landing, those of batches that are registered and not committed left out."""
    services = Services(pipeline.settings)
    found = []
    with services.database().transaction() as connection:
        for batch_id in batches.batches_in_landing(connection):
            batch = batches.lock_batch(connection, batch_id)
            assert batch is not None
            bodies = [message.body.decode() for message in read_batch(services.landing(), services.keyring, batch)]
            found += [name for name in (ANNA, BERT) for body in bodies if name in body]
    return sorted(found)


def test_a_batch_that_is_committed_after_a_later_one_is_cleaned_too(pipeline: Pipeline) -> None:
    services = pipeline.services
    early, late = _messages(ANNA, BERT), _messages(ANNA, BERT)
    with ExitStack() as uncommitted:
        connection = uncommitted.enter_context(services.database().transaction())
        first_id, _ = land(connection, services.landing(), services.keyring, early)
        assert first_id < pipeline.land(late)
        counts = _erase(pipeline, lambda done, total: uncommitted.close())
    assert (counts.batches, counts.landed_messages) == (2, 2)
    assert _landed_users(pipeline) == [BERT, BERT]
    pipeline.process()
    assert [row[0] for row in pipeline.rows()] == [BERT, BERT]


def test_what_lands_in_a_landing_that_was_empty_is_cleaned_too(pipeline: Pipeline) -> None:
    with ThreadPoolExecutor(1) as pool:
        with pipeline.services.database().transaction() as holder:
            holder.execute(text("LOCK TABLE user_logins IN ACCESS EXCLUSIVE MODE"))
            erasure = pool.submit(_erase, pipeline)
            pipeline.await_lock("relation")
            pipeline.land(_messages(ANNA, BERT))
        assert erasure.result().landed_messages == 1
    assert _landed_users(pipeline) == [BERT]


def test_what_lands_while_an_erasure_waits_for_those_who_mask_is_cleaned_too(pipeline: Pipeline) -> None:
    pipeline.land(_messages(ANNA, BERT))
    with ThreadPoolExecutor(1) as pool:
        with pipeline.services.database().transaction() as masking:
            vault.lock_shared(masking)
            erasure = pool.submit(_erase, pipeline)
            pipeline.await_lock("advisory")
            pipeline.land(_messages(ANNA, BERT))
        assert erasure.result().landed_messages == 2
    assert _landed_users(pipeline) == [BERT, BERT]


def test_a_value_that_comes_again_while_an_erasure_decides_about_it_can_be_recovered(
    pipeline: Pipeline, tmp_path: Path
) -> None:
    """Masking finds the value in the vault and enters none; the erasure removes it: the row's token would be lost."""
    pipeline.land(_messages(ANNA))
    pipeline.process()

    def mask() -> None:
        with Pipeline.on(pipeline.settings, tmp_path / "masking") as other:
            other.mask()

    with ThreadPoolExecutor(2) as pool:
        with pipeline.services.database().transaction() as holder:
            # What an erasure reads first of all once it has the vault to itself, and masking reads only in a rotation.
            holder.execute(text("LOCK TABLE loginetl.token_map IN ACCESS EXCLUSIVE MODE"))
            erasure = pool.submit(_erase, pipeline)
            pipeline.await_lock("relation")
            pipeline.land(_messages(BERT))
            masking: Future[None] = pool.submit(mask)
            pipeline.await_lock("advisory", unless=masking.done)
        assert erasure.result().vault_entries > 0
        masking.result()
    pipeline.process()
    assert [row[0] for row in pipeline.rows()] == [BERT]
    token = pipeline.services.keyring.tokenizer.token("device_id", DEVICE)
    (answer,) = recover(pipeline.services.database(), pipeline.services.officer(), [token], reason="test")
    assert (answer.outcome, answer.value) == (Outcome.RECOVERED, DEVICE)
