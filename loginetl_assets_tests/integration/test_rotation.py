"""Rotation on real services: new keys for old, while a value always counts once and nothing is lost."""

import json
import os
import signal
import stat
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import tink

from loginetl_assets.errors import OperatorError
from loginetl_assets.keys.keyring import OFFICER_FILE, OFFICER_TEMPLATE, TEMPLATES
from loginetl_assets.keys.keysets import keyset_json, replace_keyset
from loginetl_assets.landing.batch_files import read_masked
from loginetl_assets.logins.encryption import VaultEncryptor
from loginetl_assets.privacy import rotate
from loginetl_assets.privacy.recover import Outcome, recover
from loginetl_assets.privacy.rotate import RetokenizeTotals, reencrypt_data_keys, retokenize
from loginetl_assets.services import Services
from loginetl_assets.settings import KeysetRole, Settings
from loginetl_assets.storage import batches, installation, vault
from loginetl_assets.storage.copying import copy_rows
from loginetl_assets_tests.support.command import LOGINETL, run_cli
from loginetl_assets_tests.support.pipeline import Pipeline, login
from loginetl_assets_tests.support.waiting import eventually

WHY = "yearly rotation"


class _InterruptedError(Exception):
    pass


def _environment(settings: Settings) -> dict[str, str]:
    return {**os.environ, **settings.as_environment(), "COLUMNS": "200"}


def _restarted(pipeline: Pipeline) -> Pipeline:
    """The pipeline as new processes have it, which read the keysets again."""
    return Pipeline(pipeline.settings, pipeline.settings.home / "restarted")


def _rotated(pipeline: Pipeline, role: str = "masking") -> Pipeline:
    run_cli(pipeline.settings, "keys", "rotate", role)
    return _restarted(pipeline)


def _retokenize(
    pipeline: Pipeline, progress: Callable[[str, int, int], None] = lambda step, done, total: None
) -> RetokenizeTotals:
    services = pipeline.services
    officer = pipeline.services.officer()
    return retokenize(services.database(), services.landing(), services.keyring, officer, reason=WHY, progress=progress)


def _send(pipeline: Pipeline, *numbers: int) -> None:
    pipeline.send(login(user_id=f"u-{n}", ip=f"10.0.0.{n}", device_id=f"device-{n}") for n in numbers)


def _key_ids(pipeline: Pipeline) -> set[str]:
    """The masking keys that rows of the table are under."""
    rows = pipeline.query(
        "SELECT split_part(masked_ip, '.', 1) FROM user_logins"
        " UNION SELECT split_part(masked_device_id, '.', 1) FROM user_logins"
    )
    return {row[0] for row in rows}


def _primary(pipeline: Pipeline, role: KeysetRole = KeysetRole.MASKING) -> int:
    return pipeline.services.keyring.key_ids(role)[0]


def _distinct(pipeline: Pipeline) -> tuple[int, int, int]:
    """How many addresses, devices and rows the analysts' view has."""
    (row,) = pipeline.query(
        "SELECT count(DISTINCT masked_ip), count(DISTINCT masked_device_id), count(*) FROM loginetl.logins"
    )
    return tuple(row)


def _values(pipeline: Pipeline) -> set[str | None]:
    """Every value of the table, by recovery."""
    tokens = [
        row[0]
        for row in pipeline.query("SELECT masked_ip FROM user_logins UNION SELECT masked_device_id FROM user_logins")
    ]
    answers = recover(pipeline.services.database(), pipeline.services.officer(), tokens, reason=WHY)
    assert {one.outcome for one in answers} == {Outcome.RECOVERED}
    return {one.value for one in answers}


def _expected(*numbers: int) -> set[str]:
    return {f"10.0.0.{n}" for n in numbers} | {f"device-{n}" for n in numbers}


def _vault_key_ids(pipeline: Pipeline) -> set[str]:
    return {row[0] for row in pipeline.query("SELECT DISTINCT split_part(token, '.', 1) FROM loginetl.pii_vault")}


def test_after_a_rotation_new_rows_are_under_the_new_key_and_old_ones_stay(pipeline: Pipeline) -> None:
    _send(pipeline, 1, 2)
    pipeline.process()
    old = str(_primary(pipeline))
    rotated = _rotated(pipeline)
    _send(rotated, 2, 3)
    rotated.process()
    new = str(_primary(rotated))
    assert new != old
    keys = {(row[0], row[1]) for row in rotated.query("SELECT user_id, split_part(masked_ip, '.', 1) FROM user_logins")}
    assert keys == {("u-1", old), ("u-2", old), ("u-2", new), ("u-3", new)}
    assert _distinct(rotated) == (3, 3, 4)
    assert {row.masked_ip for row in rotated.query("SELECT * FROM loginetl.shared_ips")} == set()


def test_values_that_a_run_with_the_old_key_still_enters_are_moved_too(pipeline: Pipeline) -> None:
    _send(pipeline, 1, 2)
    pipeline.process()
    rotated = _rotated(pipeline)
    numbers = range(3, 20)  # some of their tokens are lower than those which were moved by then

    def run_as_before(step: str, done: int, total: int) -> None:
        if step == "vault" and len(rotated.rows()) == 2:
            _send(pipeline, *numbers)
            pipeline.process()

    _retokenize(rotated, run_as_before)
    assert _key_ids(rotated) == {str(_primary(rotated))}
    assert _values(rotated) == _expected(1, 2, *numbers)


def test_retokenize_moves_rows_masked_files_and_vault_and_is_logged(pipeline: Pipeline) -> None:
    _send(pipeline, 1, 2)
    pipeline.process()
    rotated = _rotated(pipeline)
    new = str(_primary(rotated))
    _send(rotated, 2, 3)
    rotated.process()
    done = run_cli(rotated.settings, "keys", "retokenize", "--reason", WHY)
    assert "Moved" in done.stdout
    assert _key_ids(rotated) == {new}
    assert _vault_key_ids(rotated) == {new}
    assert _distinct(rotated) == (3, 3, 4)
    assert _values(rotated) == _expected(1, 2, 3)
    with rotated.services.database().transaction() as connection:
        masked = [batches.lock_batch(connection, one) for one in batches.batches_in_landing(connection)]
    frames = [read_masked(rotated.services.landing(), batch.masked_path) for batch in masked if batch]
    assert {token.split(".")[0] for one in frames for token in [*one["masked_ip"], *one["masked_device_id"]]} == {new}
    assert rotated.query("SELECT FROM loginetl.pending_deletions") == []
    assert [
        row.reason for row in rotated.query("SELECT * FROM loginetl.pii_access_log WHERE action = 'retokenize'")
    ] == [WHY]
    assert _retokenize(rotated) == RetokenizeTotals()
    (empty,) = rotated.query(
        "SELECT count(*) FROM loginetl.vault_data_keys k WHERE NOT EXISTS"
        " (SELECT FROM loginetl.pii_vault v WHERE v.data_key_id = k.data_key_id)"
    )
    assert empty[0] == 0


def test_old_entries_are_removed_in_chunks_between_which_others_mask(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    _send(pipeline, 1, 2, 3)
    pipeline.process()
    rotated = _rotated(pipeline)
    monkeypatch.setattr(rotate, "OLD_ENTRIES_PER_CHUNK", 4)
    removed: list[tuple[int, int]] = []

    def mask_meanwhile(step: str, done: int, total: int) -> None:
        if step == "old entries":
            removed.append((done, total))
            _send(rotated, 3 + len(removed))
            rotated.process()

    assert _retokenize(rotated, mask_meanwhile).removed_entries == 6
    assert removed == [(4, 6), (6, 6)]
    assert _values(rotated) == _expected(1, 2, 3, 4, 5)
    assert _vault_key_ids(rotated) == {str(_primary(rotated))}


def test_without_a_reason_nothing_is_moved(pipeline: Pipeline) -> None:
    _send(pipeline, 1)
    pipeline.process()
    old = str(_primary(pipeline))
    _rotated(pipeline)
    for command in ("retokenize", "reencrypt"):
        assert "--reason" in run_cli(pipeline.settings, "keys", command, exit_code=2).stderr
    assert _key_ids(pipeline) == {old}
    assert pipeline.query("SELECT FROM loginetl.pii_access_log") == []


def test_a_value_counts_once_at_every_moment_whatever_interrupts_the_retokenize(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rotate, "VALUES_PER_CHUNK", 20)
    monkeypatch.setattr(rotate, "PAGES_PER_CHUNK", 2)
    first, second = range(40), range(20, 60)
    _send(pipeline, *first, *first, *first, *first)
    pipeline.process()
    assert _distinct(pipeline) == (40, 40, 160)
    rotated = _rotated(pipeline)
    assert _distinct(rotated) == (40, 40, 160)
    _send(rotated, *second)
    rotated.process()
    assert _distinct(rotated) == (60, 60, 200)
    steps = []
    calls = 0

    def stop_after(most: int) -> Callable[[str, int, int], None]:
        def progress(step: str, done: int, total: int) -> None:
            nonlocal calls
            calls += 1
            steps.append(step)
            assert _distinct(rotated) == (60, 60, 200), step
            assert done <= total or step == "rows"
            if calls == most:
                raise _InterruptedError

        return progress

    for most in (1, 2, 1, 1, 1, 1, 1):
        calls = 0
        with pytest.raises(_InterruptedError):
            _retokenize(rotated, stop_after(most))
        assert _distinct(rotated) == (60, 60, 200)
    calls = 0
    _retokenize(rotated, stop_after(0))
    assert set(steps) == {"vault", "expired tokens", "masked files", "rows", "old entries"}
    assert steps.count("rows") > 1
    assert steps.count("vault") == 2, "what the pipeline or an interrupted retokenize has moved is not moved again"
    assert _distinct(rotated) == (60, 60, 200)
    assert _key_ids(rotated) == _vault_key_ids(rotated) == {str(_primary(rotated))}
    assert _values(rotated) == _expected(*range(60))


def test_batches_that_are_pending_at_the_rotation_are_loaded_under_the_new_key(pipeline: Pipeline) -> None:
    _send(pipeline, 1)
    pipeline.process()
    _send(pipeline, 1, 2)
    pipeline.drain(visibility_seconds=30)
    pipeline.mask()  # masked under the old key, not loaded
    _send(pipeline, 3)
    pipeline.drain(visibility_seconds=30)  # landed only
    rotated = _rotated(pipeline)
    counts = _retokenize(rotated)
    assert counts.masked_files == 2
    assert [row[0] for row in rotated.query("SELECT state FROM loginetl.batches ORDER BY batch_id")] == [
        "loaded",
        "landed",
        "landed",
    ]
    rotated.process()
    assert _key_ids(rotated) == {str(_primary(rotated))}
    assert _distinct(rotated) == (3, 3, 4)
    assert _values(rotated) == _expected(1, 2, 3)
    totals = rotated.totals()
    assert (totals.messages, totals.loaded, totals.pending) == (4, 4, 0)


def _generate(pipeline: Pipeline, values: int, rows: int) -> None:
    """Fills vault and table as the pipeline would, without the messages."""
    keys = pipeline.services.keyring
    tokens: dict[str, list[str]] = {}
    for field in ("ip", "device_id"):
        tokens[field] = [keys.tokenizer.token(field, f"value-{n}") for n in range(values // 2)]
        with pipeline.services.database().transaction() as connection:
            encryptor = VaultEncryptor(keys.vault)
            installation.check_keys(connection, KeysetRole.MASKING, keys.check_values(KeysetRole.MASKING))
            vault.add(
                connection,
                encryptor.wrapped_key,
                _primary(pipeline, KeysetRole.VAULT),
                ((token, field, encryptor.encrypt(token, f"value-{n}")) for n, token in enumerate(tokens[field])),
            )
    with pipeline.services.database().transaction() as connection:
        copy_rows(
            connection,
            "user_logins",
            ("user_id", "masked_ip", "masked_device_id"),
            ((f"u-{n}", *(tokens[field][n % (values // 2)] for field in ("ip", "device_id"))) for n in range(rows)),
        )


def _kill(process: "subprocess.Popen[bytes]", begun: Callable[[], bool]) -> None:
    """Kills a process in the middle of its work."""
    eventually("the work has begun", lambda: begun() or process.poll() is not None, seconds=60, every=0.01)
    os.kill(process.pid, signal.SIGKILL)


def test_a_retokenize_that_is_killed_is_finished_by_another(pipeline: Pipeline) -> None:
    _generate(pipeline, values=30_000, rows=45_000)
    before = _distinct(pipeline)
    assert before == (15_000, 15_000, 45_000)
    rotated = _rotated(pipeline)
    new = f"{_primary(rotated)}."

    def count(statement: str) -> int:
        return int(rotated.query(statement, new=new)[0][0])

    def mapped() -> int:
        return count("SELECT count(*) FROM loginetl.token_map")

    def moved() -> int:
        return count("SELECT count(*) FROM user_logins WHERE starts_with(masked_ip, :new)")

    def start() -> "subprocess.Popen[bytes]":
        return subprocess.Popen(
            [LOGINETL, "keys", "retokenize", "--reason", WHY],
            env=_environment(rotated.settings),
            cwd=rotated.settings.home.parent,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    for begun in (lambda: mapped() > 0, lambda: mapped() >= 20_000, lambda: moved() > 0):
        process = start()
        _kill(process, begun)
        assert process.wait() == -signal.SIGKILL, "it was done before it was killed"
        assert _distinct(rotated) == before
    assert 0 < moved() < 45_000
    run_cli(rotated.settings, "keys", "retokenize", "--reason", WHY)
    assert moved() == 45_000
    assert _distinct(rotated) == before
    assert _vault_key_ids(rotated) == {new[:-1]}
    tokens = [row[0] for row in rotated.query("SELECT DISTINCT masked_ip FROM user_logins")]
    answers = recover(
        rotated.services.database(), rotated.services.officer(), tokens, reason=WHY, max_tokens=len(tokens)
    )
    assert {one.value for one in answers} == {f"value-{n}" for n in range(15_000)}


def test_a_retokenize_beside_a_running_pipeline_loses_nothing(pipeline: Pipeline, tmp_path: Path) -> None:
    _generate(pipeline, values=4_000, rows=4_000)
    _send(pipeline, *range(100))
    pipeline.process()
    _rotated(pipeline)
    sent, done, failed = 0, threading.Event(), []

    def load() -> None:
        nonlocal sent
        try:
            with Pipeline.on(pipeline.settings, tmp_path / "beside") as beside:
                while not done.is_set() and sent < 5_000:
                    numbers = [(sent + n) % 250 for n in range(100)]
                    _send(beside, *numbers)
                    sent += len(numbers)
                    beside.process()
        except BaseException as error:  # noqa: BLE001 - told to the test
            failed.append(error)

    rotated = _restarted(pipeline)
    thread = threading.Thread(target=load)
    thread.start()
    deadline = time.monotonic() + 60
    try:
        while (sent < 300 or len(_key_ids(rotated)) > 1) and thread.is_alive() and time.monotonic() < deadline:
            _retokenize(rotated)
    finally:
        done.set()
        thread.join()
    assert failed == []
    rotated.process()  # what a run was turned away from by a lock, if any
    _retokenize(rotated)
    assert _key_ids(rotated) == _vault_key_ids(rotated) == {str(_primary(rotated))}
    numbers = {n % 250 for n in range(sent)} | set(range(100))
    assert _distinct(rotated) == (2_000 + len(numbers), 2_000 + len(numbers), 4_000 + 100 + sent)
    totals = rotated.totals()
    assert (totals.messages, totals.loaded, totals.pending) == (100 + sent, 100 + sent, 0)


@pytest.mark.parametrize("finished", [True, False], ids=["after a whole retokenize", "after half a retokenize"])
def test_a_second_rotation_moves_what_is_under_either_old_key(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch, finished: bool
) -> None:
    monkeypatch.setattr(rotate, "VALUES_PER_CHUNK", 3)
    _send(pipeline, *range(8))
    pipeline.process()
    oldest = [row[0] for row in pipeline.query("SELECT masked_ip FROM user_logins ORDER BY user_id")]
    once = _rotated(pipeline)
    _send(once, *range(4, 12))
    once.process()
    if finished:
        _retokenize(once)
    else:

        def stop(step: str, done: int, _total: int) -> None:
            if step == "vault" and done > 4:
                raise _InterruptedError

        with pytest.raises(_InterruptedError):
            _retokenize(once, stop)
    assert _distinct(once) == (12, 12, 16)
    twice = _rotated(once)
    assert len(twice.services.keyring.tokenizers) == 3
    _send(twice, 0, 11, 12)
    twice.process()
    assert _distinct(twice) == (13, 13, 19)
    _retokenize(twice, lambda step, done, total: _same(_distinct(twice), (13, 13, 19)))
    assert _key_ids(twice) == _vault_key_ids(twice) == {str(_primary(twice))}
    assert _distinct(twice) == (13, 13, 19)
    assert _values(twice) == _expected(*range(13))
    answers = recover(twice.services.database(), twice.services.officer(), oldest, reason=WHY)
    assert [one.value for one in answers] == [f"10.0.0.{n}" for n in range(8)]


def _same(found: object, expected: object) -> None:
    assert found == expected


def test_a_token_from_two_rotations_ago_is_recovered_though_its_key_is_gone(pipeline: Pipeline) -> None:
    _send(pipeline, 1)
    pipeline.process()
    (oldest,) = pipeline.query("SELECT masked_ip FROM user_logins")
    once = _rotated(pipeline)
    _retokenize(once)
    path = once.settings.home / "keys" / "masking.json"
    keyset = json.loads(path.read_text())
    keyset["key"] = [key for key in keyset["key"] if key["keyId"] == keyset["primaryKeyId"]]
    path.write_text(json.dumps(keyset))
    twice = _rotated(once)
    _retokenize(twice)
    answers = recover(twice.services.database(), twice.services.officer(), [oldest[0]], reason=WHY)
    assert [one.value for one in answers] == ["10.0.0.1"]


@pytest.mark.parametrize("role", [KeysetRole.LANDING, KeysetRole.REJECTS])
def test_what_was_encrypted_before_a_rotation_is_decrypted_after_it(pipeline: Pipeline, role: KeysetRole) -> None:
    _send(pipeline, 1)
    pipeline.send(["{}"])
    pipeline.process()
    _send(pipeline, 2)
    pipeline.drain(visibility_seconds=30)
    old = _primary(pipeline, role)
    rotated = _rotated(pipeline, role)
    new = _primary(rotated, role)
    assert new != old
    _send(rotated, 3)
    pipeline.send(["[]"])
    rotated.process()
    assert _distinct(rotated) == (3, 3, 3)
    if role is KeysetRole.LANDING:
        keys = [row[0] for row in rotated.query("SELECT landing_key_id FROM loginetl.batches ORDER BY batch_id")]
        assert keys == [old, old, new]
    else:
        pages = rotated.query("SELECT message_uuid, encrypted_body FROM loginetl.rejected_logins ORDER BY rejected_at")
        opened = [rotated.services.keyring.rejects.decrypt(row[1], str(row[0]).encode()) for row in pages]
        assert opened == [b"{}", b"[]"]
        # Tink's prefix: a version byte, then the id of the key.
        assert [int.from_bytes(bytes(row[1])[1:5]) for row in pages] == [old, new]
    assert {row[0] for row in rotated.query("SELECT key_id FROM loginetl.keys WHERE role = :r", r=role)} == ({old, new})
    shown = run_cli(rotated.settings, "keys", "show").stdout
    assert str(new) in shown
    assert str(old) in shown


def test_after_the_officers_rotation_and_re_encryption_the_new_key_alone_recovers(pipeline: Pipeline) -> None:
    _send(pipeline, 1, 2)
    pipeline.process()
    old = _primary(pipeline, KeysetRole.VAULT)
    rotated = _rotated(pipeline, "officer")
    new = _primary(rotated, KeysetRole.VAULT)
    assert rotated.services.officer().key_ids == (new, old)
    run_cli(rotated.settings, "keys", "reencrypt", "--reason", WHY)
    assert {row[0] for row in rotated.query("SELECT officer_key_id FROM loginetl.vault_data_keys")} == {new}
    _send(rotated, 3)
    pipeline.process()  # a process that still holds the keyset before
    assert {row[0] for row in rotated.query("SELECT officer_key_id FROM loginetl.vault_data_keys")} == {old, new}
    assert _values(rotated) == _expected(1, 2, 3)
    run_cli(rotated.settings, "keys", "reencrypt", "--reason", WHY)
    assert {row[0] for row in rotated.query("SELECT officer_key_id FROM loginetl.vault_data_keys")} == {new}
    assert (
        reencrypt_data_keys(
            rotated.services.database(), rotated.services.keyring, rotated.services.officer(), reason=WHY
        )
        == 0
    )
    keys = rotated.settings.home / "keys"
    for name in (OFFICER_FILE, "vault.json"):
        keyset = json.loads((keys / name).read_text())
        keyset["key"] = [key for key in keyset["key"] if key["keyId"] == new]
        (keys / name).write_text(json.dumps(keyset))
    alone = _restarted(rotated)
    assert alone.services.officer().key_ids == (new,)
    assert _values(alone) == _expected(1, 2, 3)
    _send(alone, 4)
    alone.process()
    assert _values(alone) == _expected(1, 2, 3, 4)


def test_an_officers_keyset_without_the_vaults_key_moves_nothing(pipeline: Pipeline) -> None:
    _send(pipeline, 1)
    pipeline.process()
    rotated = _rotated(pipeline)
    stranger = replace(rotated.settings, officer_keyset=keyset_json(tink.new_keyset_handle(OFFICER_TEMPLATE)))
    before = rotated.rows(), rotated.query("SELECT * FROM loginetl.pii_vault ORDER BY token")
    services = rotated.services
    said = f"does not hold every key.*{_primary(rotated, KeysetRole.VAULT)}"
    with pytest.raises(OperatorError, match=said):
        retokenize(services.database(), services.landing(), services.keyring, Services(stranger).officer(), reason=WHY)
    with pytest.raises(OperatorError, match=said):
        reencrypt_data_keys(services.database(), services.keyring, Services(stranger).officer(), reason=WHY)
    assert (rotated.rows(), rotated.query("SELECT * FROM loginetl.pii_vault ORDER BY token")) == before
    assert rotated.query("SELECT FROM loginetl.token_map") == []
    assert rotated.query("SELECT FROM loginetl.pii_access_log") == []


def test_another_databases_masking_keyset_is_refused_before_any_work(pipeline: Pipeline) -> None:
    _send(pipeline, 1)
    pipeline.process()
    stranger = keyset_json(tink.new_keyset_handle(TEMPLATES[KeysetRole.MASKING]))
    services = Services(replace(pipeline.settings, keysets={KeysetRole.MASKING: stranger}))
    with pytest.raises(OperatorError, match="LOGINETL_KEYSET_MASKING has none of the masking keys"):
        retokenize(services.database(), services.landing(), services.keyring, pipeline.services.officer(), reason=WHY)
    assert pipeline.query("SELECT FROM loginetl.token_map") == []
    assert pipeline.query("SELECT FROM loginetl.pii_access_log") == []
    assert len(pipeline.query("SELECT FROM loginetl.keys WHERE role = 'masking'")) == 1


def test_a_damaged_vault_value_stops_the_retokenize_with_words_and_leaves_every_row(pipeline: Pipeline) -> None:
    _send(pipeline, 1, 2)
    pipeline.process()
    rotated = _rotated(pipeline)
    rows = rotated.rows()
    rotated.execute(
        "UPDATE loginetl.pii_vault SET encrypted_value = encrypted_value || 'x'::bytea WHERE token ="
        " (SELECT masked_ip FROM user_logins WHERE user_id = 'u-1')"
    )
    with pytest.raises(OperatorError, match="does not decrypt"):
        _retokenize(rotated)
    assert rotated.rows() == rows


def test_keyset_files_stay_private_and_the_pipelines_vault_key_stays_public(pipeline: Pipeline) -> None:
    keys = pipeline.settings.home / "keys"
    pipeline.services.keyring.make_missing()
    for role in ("masking", "landing", "rejects", "officer"):
        done = run_cli(pipeline.settings, "keys", "rotate", role)
        assert f"of the {role} keyset" in done.stderr
    assert sorted(path.name for path in keys.iterdir()) == [
        "landing.json",
        "masking.json",
        "officer-private.json",
        "rejects.json",
        "vault.json",
    ]
    assert {stat.S_IMODE(path.stat().st_mode) for path in keys.iterdir()} == {0o600}
    vault = json.loads((keys / "vault.json").read_text())
    assert len(vault["key"]) == 2
    assert {key["keyData"]["keyMaterialType"] for key in vault["key"]} == {"ASYMMETRIC_PUBLIC"}


def test_a_rotation_to_another_file_leaves_the_keyset_in_use_alone(pipeline: Pipeline, tmp_path: Path) -> None:
    pipeline.services.keyring.make_missing()
    keys = pipeline.settings.home / "keys"
    before = {path.name: path.read_text() for path in keys.iterdir()}
    run_cli(pipeline.settings, "keys", "rotate", "officer", "--output", str(tmp_path / "next.json"))
    assert {path.name: path.read_text() for path in keys.iterdir()} == before
    public = json.loads((tmp_path / "next-public.json").read_text())
    assert {key["keyData"]["keyMaterialType"] for key in public["key"]} == {"ASYMMETRIC_PUBLIC"}
    assert {stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("next.json", "next-public.json")} == {0o600}
    again = run_cli(
        pipeline.settings, "keys", "rotate", "officer", "--output", str(tmp_path / "next.json"), exit_code=2
    )
    assert "never overwritten" in again.stderr


def test_a_rotation_that_meets_the_public_keyset_of_another_writes_nothing(pipeline: Pipeline, tmp_path: Path) -> None:
    pipeline.services.keyring.make_missing()
    other = tmp_path / "next-public.json"
    other.write_text("another's")
    arguments = ("keys", "rotate", "officer", "--output", str(tmp_path / "next.json"))
    refused = run_cli(pipeline.settings, *arguments, exit_code=2)
    assert "next-public.json" in refused.stderr
    assert "never overwritten" in refused.stderr
    assert [(path, path.read_text()) for path in tmp_path.glob("next*")] == [(other, "another's")]


def test_an_officer_is_not_rotated_halfway_where_the_public_keyset_cannot_be_written(pipeline: Pipeline) -> None:
    pipeline.services.keyring.make_missing()
    keys = pipeline.settings.home / "keys"
    private = (keys / "officer-private.json").read_text()
    inline = replace(pipeline.settings, keysets={KeysetRole.VAULT: (keys / "vault.json").read_text()})
    refused = run_cli(inline, "keys", "rotate", "officer", exit_code=1)
    assert "LOGINETL_KEYSET_VAULT" in refused.stderr
    assert (keys / "officer-private.json").read_text() == private


def test_a_value_counts_once_where_an_earlier_keyset_was_put_back(pipeline: Pipeline) -> None:
    earlier = pipeline.services.keyring.source(KeysetRole.MASKING)
    text = Path(earlier).read_text()
    _send(pipeline, 1, 2)
    pipeline.process()
    rotated = _rotated(pipeline)
    _retokenize(rotated)
    both = json.loads(Path(earlier).read_text())
    replace_keyset("", earlier, json.dumps({**both, "primaryKeyId": json.loads(text)["primaryKeyId"]}))
    back = _restarted(pipeline)
    _send(back, 1, 3)
    back.process()
    assert _distinct(back)[0] == 3
    _retokenize(back)
    assert _distinct(back)[0] == 3
