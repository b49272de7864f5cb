"""The right keys or none: what keeps a wrong keyset, of whatever kind, from being used or made official."""

import json
from base64 import b64encode, urlsafe_b64encode
from dataclasses import replace
from pathlib import Path

import pytest
import tink

from loginetl_assets.errors import OperatorError
from loginetl_assets.keys.keyring import OFFICER_FILE, OFFICER_TEMPLATE, TEMPLATES
from loginetl_assets.keys.keysets import keyset_json, public_keyset_json
from loginetl_assets.keys.officer import Officer
from loginetl_assets.privacy.recover import Outcome, recover, tokens_of_user
from loginetl_assets.privacy.rotate import reencrypt_data_keys, retokenize
from loginetl_assets.services import Services
from loginetl_assets.settings import KeysetRole, Settings
from loginetl_assets_tests.support.command import run_cli
from loginetl_assets_tests.support.pipeline import Pipeline, login

WHY = "ticket 4711"
VALUES = {"198.51.100.7", "593-47-5928"}


@pytest.fixture
def loaded(pipeline: Pipeline) -> Pipeline:
    """One login loaded, its two values in the vault, and a rejected message beside it."""
    pipeline.send([login(), "{}"])
    pipeline.process()
    return pipeline


def _file(settings: Settings, name: str) -> Path:
    return settings.home / "keys" / name


def _officer_keyset() -> str:
    return keyset_json(tink.new_keyset_handle(OFFICER_TEMPLATE))


def _public(private: str) -> str:
    return public_keyset_json(Officer(private).handle)


def _joined(primary: str, other: str) -> str:
    first, second = json.loads(primary), json.loads(other)
    return json.dumps({"primaryKeyId": first["primaryKeyId"], "key": [*first["key"], *second["key"]]})


def _ids(keyset: str) -> list[int]:
    return [key["keyId"] for key in json.loads(keyset)["key"]]


def _same_ids_other_keys(keyset: str, role: KeysetRole) -> str:
    """A keyset in which every key has its id and its prefix, and other bytes."""
    document = json.loads(keyset)
    for key in document["key"]:
        stranger = (
            _public(_officer_keyset())
            if role is KeysetRole.VAULT
            else keyset_json(tink.new_keyset_handle(TEMPLATES[role]))
        )
        key["keyData"] = json.loads(stranger)["key"][0]["keyData"]
    return json.dumps(document)


def _recovered(settings: Settings) -> set[str | None]:
    database = Services(settings).database()
    tokens = tokens_of_user(database, "u-1")
    return {one.value for one in recover(database, Services(settings).officer(), tokens, reason=WHY)}


def _vault(pipeline: Pipeline) -> list[object]:
    return [
        pipeline.query("SELECT * FROM loginetl.vault_data_keys ORDER BY data_key_id"),
        pipeline.query("SELECT * FROM loginetl.pii_vault ORDER BY token"),
        pipeline.query("SELECT role, key_id FROM loginetl.keys ORDER BY role, key_id"),
    ]


@pytest.mark.parametrize("with_the_old_key", [True, False])
def test_re_encrypting_for_a_key_the_officer_does_not_hold_is_refused(loaded: Pipeline, with_the_old_key: bool) -> None:
    stranger = _public(_officer_keyset())
    old = _file(loaded.settings, "vault.json").read_text()
    wrong = replace(
        loaded.settings, keysets={KeysetRole.VAULT: _joined(stranger, old) if with_the_old_key else stranger}
    )
    before = _vault(loaded)
    services = Services(wrong)
    with pytest.raises(
        OperatorError, match=rf"primary key {_ids(stranger)[0]} of LOGINETL_KEYSET_VAULT.*--to-another-officer"
    ):
        reencrypt_data_keys(services.database(), services.keyring, Services(wrong).officer(), reason=WHY)
    assert _vault(loaded) == before
    assert loaded.query("SELECT FROM loginetl.pii_access_log") == []
    assert _recovered(loaded.settings) == VALUES


def test_a_vault_is_handed_over_to_another_officer_where_that_is_said(loaded: Pipeline) -> None:
    successor = _officer_keyset()
    (new,) = _ids(successor)
    handing_over = replace(loaded.settings, keysets={KeysetRole.VAULT: _public(successor)})
    refused = run_cli(handing_over, "keys", "reencrypt", "--reason", WHY, exit_code=1)
    assert "--to-another-officer" in refused.stderr
    done = run_cli(handing_over, "keys", "reencrypt", "--reason", WHY, "--to-another-officer")
    assert str(new) in done.stderr, "the officer sees to which key"
    (row,) = loaded.query("SELECT counts FROM loginetl.pii_access_log")
    assert row.counts == {"new_key_id": new, "data_keys": 1, "to_another_officer": 1}
    database = loaded.services.database()
    tokens = tokens_of_user(database, "u-1")
    former = recover(database, loaded.services.officer(), tokens, reason=WHY)
    assert {one.outcome for one in former} == {Outcome.OTHER_KEY}
    after = replace(handing_over, officer_keyset=successor)
    assert _recovered(after) == VALUES


def test_a_vault_is_not_said_to_be_handed_over_to_a_key_that_has_the_id_of_the_one_before(loaded: Pipeline) -> None:
    """By their ids nothing would have to be moved, and whoever trusts that would throw the only right key away."""
    successor = _same_ids_other_keys(_file(loaded.settings, "vault.json").read_text(), KeysetRole.VAULT)
    handing_over = replace(loaded.settings, keysets={KeysetRole.VAULT: successor})
    before = _vault(loaded)
    done = run_cli(handing_over, "keys", "reencrypt", "--reason", WHY, "--to-another-officer", exit_code=1)
    assert f"LOGINETL_KEYSET_VAULT has another key under the id {_ids(successor)[0]}" in " ".join(done.stderr.split())
    assert _vault(loaded) == before
    assert loaded.query("SELECT FROM loginetl.pii_access_log") == []


def test_the_pipeline_uses_no_vault_key_before_an_officer_has_shown_that_it_opens(
    loaded: Pipeline, tmp_path: Path
) -> None:
    """A public keyset can be put together by anybody; what is encrypted for a key that nobody holds is lost."""
    old = _file(loaded.settings, "vault.json").read_text()
    officer = _officer_keyset()
    renewed = replace(
        loaded.settings,
        keysets={KeysetRole.VAULT: _joined(_public(officer), old)},
        officer_keyset=_joined(officer, _file(loaded.settings, OFFICER_FILE).read_text()),
    )
    with Pipeline.on(renewed, tmp_path / "renewed") as pipeline:
        pipeline.send([login(user_id="u-2", ip="192.0.2.1")])
        said = _failure(pipeline)
        assert "LOGINETL_KEYSET_VAULT" in said
        assert "loginetl keys reencrypt" in said
        assert len(pipeline.query("SELECT FROM loginetl.keys WHERE role = 'vault'")) == 1
        run_cli(
            renewed,
            "keys",
            "reencrypt",
            "--reason",
            WHY,
            environment={"LOGINETL_KEYSET_OFFICER": str(renewed.officer_keyset)},
        )
        pipeline.process()
        assert pipeline.totals().loaded == 2


def test_a_retokenize_encrypts_for_no_key_the_officer_does_not_hold(loaded: Pipeline) -> None:
    """It encrypts every value again and removes the old entries, so it can do what a wrong re-encryption can."""
    keys = loaded.settings.home / "keys"
    stranger = _public(_officer_keyset())
    wrong = replace(loaded.settings, keysets={KeysetRole.VAULT: _joined(stranger, (keys / "vault.json").read_text())})
    run_cli(loaded.settings, "keys", "rotate", "masking")
    services = Services(wrong)
    key_id, check_value = next(iter(services.keyring.check_values(KeysetRole.VAULT).items()))
    assert key_id == _ids(stranger)[0]
    loaded.execute(  # made official by whatever way
        "INSERT INTO loginetl.keys (role, key_id, check_value) VALUES ('vault', :key_id, :value)",
        key_id=key_id,
        value=check_value,
    )
    before = _vault(loaded)
    with pytest.raises(OperatorError, match="LOGINETL_KEYSET_VAULT"):
        retokenize(services.database(), services.landing(), services.keyring, Services(wrong).officer(), reason=WHY)
    assert _vault(loaded) == before


def test_another_officers_keyset_does_not_replace_the_vaults(loaded: Pipeline) -> None:
    before = {path.name: path.read_text() for path in (loaded.settings.home / "keys").iterdir()}
    other = loaded.settings.home / "other.json"
    other.write_text(_officer_keyset())
    done = run_cli(
        loaded.settings, "keys", "rotate", "officer", exit_code=1, environment={"LOGINETL_KEYSET_OFFICER": str(other)}
    )
    assert "LOGINETL_KEYSET_OFFICER" in done.stderr
    assert {path.name: path.read_text() for path in (loaded.settings.home / "keys").iterdir()} == before


@pytest.mark.parametrize("old_key", [False, True], ids=["the primary key", "an old key"])
@pytest.mark.parametrize("role", list(KeysetRole))
def test_another_key_under_the_same_id_is_refused_before_any_work(
    loaded: Pipeline, tmp_path: Path, role: KeysetRole, old_key: bool
) -> None:
    keyset = _file(loaded.settings, f"{role}.json").read_text()
    (key_id,) = _ids(keyset)
    wrong = _same_ids_other_keys(keyset, role)
    if old_key:
        new = keyset_json(tink.new_keyset_handle(TEMPLATES[role])) if role in TEMPLATES else _public(_officer_keyset())
        wrong = _joined(new, wrong)
    settings = replace(loaded.settings, keysets={role: wrong})
    before = [*_vault(loaded), loaded.rows()]
    with Pipeline.on(settings, tmp_path / "wrong") as pipeline:
        pipeline.send([login(user_id="u-2")])
        said = _failure(pipeline)
        assert f"LOGINETL_KEYSET_{role.upper()}" in said
        assert str(key_id) in said
        assert [*_vault(loaded), loaded.rows()] == before
        assert pipeline.totals().quarantined_batches == 0, "a wrong keyset is no damaged object"
    assert "another key under this id" in run_cli(settings, "keys", "show").stdout


def test_the_check_values_are_no_part_of_a_key_or_token(loaded: Pipeline) -> None:
    kept = [bytes(row[0]) for row in loaded.query("SELECT check_value FROM loginetl.keys")]
    assert len(set(kept)) == len(kept) == len(KeysetRole)
    assert {len(one) for one in kept} == {16}
    keys = [path.read_text() for path in (loaded.settings.home / "keys").iterdir()]
    shown = f"{keys}{loaded.rows()}"
    for one in kept:
        assert b64encode(one).decode()[:12] not in shown
        assert urlsafe_b64encode(one).decode()[:12] not in shown


def _failure(pipeline: Pipeline) -> str:
    result = pipeline.run(expect_success=False)
    assert not result.success
    return str([event.event_specific_data for event in result.all_events if event.is_step_failure])
