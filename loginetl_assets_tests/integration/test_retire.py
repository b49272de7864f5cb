"""Old keys leave their keyset for good once nothing is under them, and not before."""

from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from uuid import uuid4

import pytest

from loginetl_assets.errors import OperatorError
from loginetl_assets.landing.batch_files import write_messages
from loginetl_assets.logins.message import QueuedMessage
from loginetl_assets.privacy.erase import Erasure
from loginetl_assets.privacy.erasures import ErasureList
from loginetl_assets.privacy.recover import Outcome, recover
from loginetl_assets.privacy.subjects import subject_of
from loginetl_assets.services import Services
from loginetl_assets.settings import KeysetRole
from loginetl_assets.steps.replay import replay_rejected
from loginetl_assets.steps.vault_sweep import sweep_vault
from loginetl_assets.storage.rejections import Selection
from loginetl_assets_tests.support.command import run_cli
from loginetl_assets_tests.support.pipeline import Pipeline, login

WHY = "yearly rotation"


def _messages(*bodies: str) -> list[QueuedMessage]:
    return [QueuedMessage(str(uuid4()), 1_700_000_000_000, body.encode()) for body in bodies]


def _load(pipeline: Pipeline, *bodies: str) -> None:
    one = Pipeline(pipeline.settings, pipeline.settings.home / "again")  # its keys are read again
    one.land(_messages(*bodies))
    one.process_landed()


def _key_ids(pipeline: Pipeline, role: KeysetRole) -> tuple[int, ...]:
    return Services(pipeline.settings).keyring.key_ids(role)


def _recovered(pipeline: Pipeline, tokens: Iterable[str]) -> list[Outcome]:
    services = Services(pipeline.settings)
    return [one.outcome for one in recover(services.database(), services.officer(), tokens, reason=WHY)]


def _devices(pipeline: Pipeline) -> list[str]:
    return [row[0] for row in pipeline.query("SELECT masked_device_id FROM user_logins ORDER BY user_id")]


def test_a_leaked_masking_key_is_replaced_everywhere_and_then_retired(pipeline: Pipeline) -> None:
    """As the runbook has it."""
    keys = partial(run_cli, pipeline.settings, "keys")
    _load(pipeline, login(user_id="a", device_id="d-1"), login(user_id="b", device_id="d-2"))
    (leaked,), before = _key_ids(pipeline, KeysetRole.MASKING), _devices(pipeline)
    assert "the masking keyset has no old key" in keys("retire", "masking", "--yes", exit_code=1).stderr
    kept = (pipeline.settings.home / "keys" / "masking.json").read_text()

    keys("rotate", "masking")
    refused = keys("retire", "masking", "--yes", exit_code=1)
    assert "under old masking keys are rows (2), masked files (1), vault entries (3): " in refused.stderr
    assert "`loginetl keys retokenize`" in refused.stderr
    assert len(_key_ids(pipeline, KeysetRole.MASKING)) == 2
    assert pipeline.query("SELECT FROM loginetl.keys WHERE retired_at IS NOT NULL") == []

    keys("retokenize", "--reason", "the masking key leaked")
    assert keys("retire", "masking", stdin="n\n", exit_code=1).stderr.endswith("error: nothing was retired\n")
    assert _recovered(pipeline, before) == [Outcome.RECOVERED] * 2
    keys("retire", "masking", "--yes")

    (new,) = _key_ids(pipeline, KeysetRole.MASKING)
    assert new != leaked
    assert "retired" in keys("show").stdout
    everything = pipeline.query(
        "SELECT CAST(t AS text) FROM loginetl.token_map t UNION SELECT token FROM loginetl.pii_vault"
    )
    assert not [row for row in everything if f"{leaked}." in row[0]]
    _load(pipeline, login(user_id="c", device_id="d-1"))
    after = _devices(pipeline)
    assert (after[0] == after[2], after[0] == after[1]) == (True, False)
    assert _recovered(pipeline, [*after[:2], *before]) == [*[Outcome.RECOVERED] * 2, *[Outcome.UNKNOWN] * 2]

    # A process that was not restarted.
    (pipeline.settings.home / "keys" / "masking.json").write_text(kept)
    pipeline.execute("UPDATE loginetl.keys SET retired_at = NULL WHERE key_id = :new", new=new)
    with pytest.raises(OperatorError, match=rf"primary key {leaked} of LOGINETL_KEYSET_MASKING was retired"):
        _load(pipeline, login())


def test_tokens_whose_value_has_expired_leave_a_retired_key_too(pipeline: Pipeline) -> None:
    pipeline.services.database().migrate(vault_days=30)
    _load(pipeline, *(login(user_id=user, device_id=f"d-{user in 'ac'}") for user in "abc"))
    sweep_vault(pipeline.services.database(), pipeline.services.landing())
    assert pipeline.query("SELECT FROM loginetl.pii_vault") == []
    keys = partial(run_cli, pipeline.settings, "keys")
    keys("rotate", "masking")
    keys("retokenize", "--reason", WHY)
    keys("retire", "masking", "--yes")
    (key_id,), devices = _key_ids(pipeline, KeysetRole.MASKING), _devices(pipeline)
    assert all(device.startswith(f"{key_id}.") for device in devices)
    assert (devices[0] == devices[2], devices[0] == devices[1]) == (True, False)
    assert _recovered(pipeline, devices[:2]) == [Outcome.EXPIRED] * 2


def test_an_old_landing_key_stays_until_no_object_is_encrypted_with_it(pipeline: Pipeline) -> None:
    keys = partial(run_cli, pipeline.settings, "keys")
    _load(pipeline, login(user_id="a"))
    unregistered = write_messages(
        pipeline.services.landing(), pipeline.services.keyring.landing, _messages(login(user_id="b"))
    ).object_path
    keys("rotate", "landing")
    refused = keys("retire", "landing", "--yes", exit_code=1)
    assert "under old landing keys are batches (1), unregistered objects (1): retention deletes" in refused.stderr
    pipeline.execute("UPDATE loginetl.batches SET object_purged_at = now()")
    assert "are unregistered objects (1)" in keys("retire", "landing", "--yes", exit_code=1).stderr
    pipeline.services.landing().delete([unregistered])
    keys("retire", "landing", "--yes")
    assert len(_key_ids(pipeline, KeysetRole.LANDING)) == 1
    _load(pipeline, login(user_id="c"))
    assert len(pipeline.rows()) == 2


def test_an_old_rejects_key_stays_until_the_bodies_were_replayed(pipeline: Pipeline) -> None:
    keys = partial(run_cli, pipeline.settings, "keys")
    _load(pipeline, "{}")
    keys("rotate", "rejects")
    refused = keys("retire", "rejects", "--yes", exit_code=1)
    assert "under old rejects keys are rejected bodies (1): `loginetl rejected replay`" in refused.stderr
    services = Services(pipeline.settings)
    database = services.database()
    replay_rejected(database, services.landing(), services.payloads(), services.keyring, Selection(), run_id="r")
    Pipeline(pipeline.settings, pipeline.settings.home / "again").process_landed()
    keys("retire", "rejects", "--yes")
    assert len(_key_ids(pipeline, KeysetRole.REJECTS)) == 1
    assert pipeline.totals().rejected == 1


def test_an_old_officers_key_stays_until_vault_and_list_were_encrypted_again(pipeline: Pipeline) -> None:
    keys = partial(run_cli, pipeline.settings, "keys")
    _load(pipeline, login(user_id="a"), login(user_id="b", device_id="d-2"))
    one = pipeline.services
    subject = subject_of("b", [], one.keyring)
    Erasure(one.database(), one.landing(), one.keyring, subject).run("they asked")
    keys("rotate", "officer")
    assert "let the privacy officer run" in keys("retire", "officer", "--yes", exit_code=1).stderr
    keys("reencrypt", "--reason", WHY)
    keys("retire", "officer", "--yes")
    services = Services(pipeline.settings)
    assert len(services.officer().key_ids) == len(services.keyring.key_ids(KeysetRole.VAULT)) == 1
    assert _recovered(pipeline, _devices(pipeline)) == [Outcome.RECOVERED]
    listed = ErasureList(services.database(), services.landing(), services.keyring).subject(services.officer())
    assert listed.matches(login(user_id="b").encode())


def test_a_retired_keyset_can_go_to_another_file(pipeline: Pipeline) -> None:
    keys = partial(run_cli, pipeline.settings, "keys")
    keys("rotate", "rejects")
    other = pipeline.settings.home / "rejects-new.json"
    keys("retire", "rejects", "--yes", "--output", str(other))
    assert len(_key_ids(pipeline, KeysetRole.REJECTS)) == 2
    from_there = replace(pipeline.settings, keysets={KeysetRole.REJECTS: str(other)})
    assert len(Services(from_there).keyring.key_ids(KeysetRole.REJECTS)) == 1
