"""The list of erasures: after a restore from a backup, what was erased since is erased again, and nothing else is."""

import shutil
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from uuid import uuid4

import pytest

from loginetl_assets.cli.keys import RotatingRole, rotate
from loginetl_assets.errors import OperatorError
from loginetl_assets.landing.object_store import ERASURES
from loginetl_assets.logins.encryption import key_id_of
from loginetl_assets.logins.message import QueuedMessage
from loginetl_assets.privacy.erase import Erasure, ErasureTotals
from loginetl_assets.privacy.erasures import ErasureList
from loginetl_assets.privacy.recover import Outcome, recover
from loginetl_assets.privacy.rotate import reencrypt_data_keys
from loginetl_assets.privacy.subjects import subject_of
from loginetl_assets.services import Services
from loginetl_assets.settings import KeysetRole
from loginetl_assets.steps.batch_objects import read_batch
from loginetl_assets.storage import batches
from loginetl_assets_tests.support.command import run_cli
from loginetl_assets_tests.support.databases import Backup
from loginetl_assets_tests.support.pipeline import Pipeline, checks, login

ANNA, BERT, CARL = "anna-4711", "bert-0815", "carl-1234"
BROKEN = f'{{"user_id": "{ANNA}", "ip": "203.0.113.77", '


def _of(user_id: str, **changes: object) -> str:
    return login(user_id=user_id, ip="203.0.113.1", device_id=f"device-of-{user_id}", **changes)


def _land(pipeline: Pipeline, bodies: Iterable[str], *, sent_in_days: int = -1) -> None:
    sent_at = datetime.now(UTC) + timedelta(days=sent_in_days)
    pipeline.land([QueuedMessage(str(uuid4()), int(sent_at.timestamp() * 1000), body.encode()) for body in bodies])


def _list(pipeline: Pipeline) -> ErasureList:
    services = Services(pipeline.settings)  # a process of its own: keys are read again
    database = services.database()
    return ErasureList(database, services.bound_landing(database), services.keyring)


def _erase(pipeline: Pipeline, user_id: str | None = None, tokens: Iterable[str] = ()) -> None:
    one = _list(pipeline)
    subject = subject_of(user_id, list(tokens), one.keys)
    Erasure(one.database, one.landing, one.keys, subject).run("they asked")


def _reapply(pipeline: Pipeline) -> tuple[ErasureTotals, ErasureTotals]:
    """Returns the counts of the dry run and of the run after it."""
    one = _list(pipeline)
    subject = one.subject(Services(pipeline.settings).officer())
    dry = Erasure(one.database, one.landing, one.keys, subject).dry_run()
    return dry, Erasure(one.database, one.landing, one.keys, subject).run("restored")


def _token(pipeline: Pipeline, user_id: str) -> str:
    return Services(pipeline.settings).keyring.tokenizer.token("device_id", f"device-of-{user_id}")


def _users(pipeline: Pipeline) -> list[str]:
    return [row[0] for row in pipeline.rows()]


def _landed(pipeline: Pipeline) -> str:
    """All messages that the landing holds and the ledger names, where they can be read."""
    services, bodies = Services(pipeline.settings), []
    with services.database().transaction() as connection:
        for batch_id in batches.batches_in_landing(connection):
            batch = batches.lock_batch(connection, batch_id)
            if batch is not None and (pipeline.settings.home / "landing" / batch.object_path).exists():
                bodies += [one.body.decode() for one in read_batch(services.landing(), services.keyring, batch)]
    return "\n".join(bodies)


@pytest.mark.parametrize("put_back", ["postgres", "landing", "both"])
def test_what_a_backup_brought_back_is_erased_again_and_what_was_sent_later_stays(
    pipeline: Pipeline, tmp_path: Path, put_back: str
) -> None:
    landing = pipeline.settings.home / "landing"
    _land(pipeline, [_of(ANNA), BROKEN, _of(BERT), _of(CARL)])
    pipeline.run(job="process_landed")
    backup = Backup(pipeline.settings, tmp_path / "dump")
    shutil.copytree(landing, tmp_path / "landing")
    _erase(pipeline, ANNA)
    _erase(pipeline, tokens=[_token(pipeline, CARL)])
    _land(pipeline, [_of(ANNA)], sent_in_days=2)
    pipeline.run(job="process_landed")
    assert _users(pipeline) == [ANNA, BERT]

    shutil.copytree(landing / ERASURES, tmp_path / "kept-elsewhere")
    if put_back != "landing":
        backup.restore()
        assert _users(pipeline) == [ANNA, BERT, CARL]
    if put_back != "postgres":
        shutil.rmtree(landing)
        shutil.copytree(tmp_path / "landing", landing)
        assert not (landing / ERASURES).exists()
    if put_back == "both":
        shutil.copytree(tmp_path / "kept-elsewhere", landing / ERASURES)

    _, totals = _reapply(pipeline)
    result = pipeline.run(job="process_landed")

    assert checks(result)["counts_reconcile"]
    # Where both are older than what she sent later, nobody has it any more.
    assert _users(pipeline) == ([BERT] if put_back == "both" else [ANNA, BERT])
    assert pipeline.query("SELECT FROM user_logins WHERE user_id = :u AND create_date <= current_date", u=ANNA) == []
    assert CARL not in _landed(pipeline)
    assert BROKEN not in _landed(pipeline)
    assert _landed(pipeline).count(ANNA) == 2 * (put_back == "postgres")
    assert pipeline.query("SELECT FROM loginetl.rejected_logins") == []
    officer = pipeline.services.officer()
    (carls,) = recover(pipeline.services.database(), officer, [_token(pipeline, CARL)], reason="test")
    assert carls.outcome is Outcome.ERASED
    # The batch whose object an erasure has replaced is named where one of the two is older than the other.
    assert totals.unreadable_batches == {"postgres": 1, "landing": 2, "both": 0}[put_back]
    assert len(pipeline.query("SELECT FROM loginetl.erasures")) == len(list((landing / ERASURES).iterdir())) == 2
    assert _reapply(pipeline)[1].found_anything is False


def test_a_reapply_counts_first_what_it_removes_then(pipeline: Pipeline, tmp_path: Path) -> None:
    _land(pipeline, [_of(ANNA), _of(BERT)])
    pipeline.run(job="process_landed")
    backup = Backup(pipeline.settings, tmp_path / "dump")
    _erase(pipeline, ANNA)
    backup.restore()
    dry, totals = _reapply(pipeline)
    assert (dry.rows, dry.vault_entries, dry.vault_entries_kept) == (1, 1, 1)
    assert (totals.rows, totals.vault_entries, totals.vault_entries_kept) == (1, 1, 1)


def test_the_command_counts_before_it_asks_and_reapplies(pipeline: Pipeline, tmp_path: Path) -> None:
    _land(pipeline, [_of(ANNA), _of(BERT)])
    pipeline.run(job="process_landed")
    backup = Backup(pipeline.settings, tmp_path / "dump")
    erase = partial(run_cli, pipeline.settings, "erase", "--reason", "she asked")
    annas = ("--token", _token(pipeline, ANNA))

    refused = erase(*annas, stdin="n\n", exit_code=1)
    assert "Would be removed" in refused.stdout
    assert "Removed" not in refused.stdout
    assert refused.stderr.endswith("error: nothing was erased\n")
    assert _users(pipeline) == [ANNA, BERT]
    assert pipeline.query("SELECT FROM loginetl.erasures") == []

    counted, removed = erase(*annas, stdin="y\n").stdout.replace("Would be removed", "").split("Removed")
    assert counted.split() == removed.split()
    assert _users(pipeline) == [BERT]
    erase("--reapply", "--yes")  # with nothing to erase

    backup.restore()
    again = erase("--reapply", stdin="y\n", exit_code=3)
    assert "not searched: 1 batch that cannot be read" in again.stderr  # whose object the erasure has replaced
    assert _users(pipeline) == [BERT]
    erase("--reapply", *annas, exit_code=2)


def test_what_was_sent_on_the_day_of_an_erasure_is_part_of_it(pipeline: Pipeline) -> None:
    _erase(pipeline, ANNA)
    for days in (-1, 0, 1):
        _land(pipeline, [_of(ANNA), BROKEN], sent_in_days=days)
    pipeline.run(job="process_landed")
    _, totals = _reapply(pipeline)
    assert (totals.rows, totals.landed_messages, totals.rejected_bodies) == (2, 4, 2)
    assert len(pipeline.rows()) == len(pipeline.query("SELECT FROM loginetl.rejected_logins")) == 1
    assert checks(pipeline.run(job="process_landed"))["counts_reconcile"]


def test_the_list_says_nothing_to_who_lacks_the_officers_key(pipeline: Pipeline) -> None:
    _erase(pipeline, ANNA)
    (row,) = pipeline.query("SELECT encrypted_subject FROM loginetl.erasures")
    (path,) = [path for path, _ in pipeline.services.landing().list(ERASURES)]
    assert pipeline.services.landing().get(path) == row.encrypted_subject
    assert ANNA.encode() not in row.encrypted_subject
    assert key_id_of(row.encrypted_subject) == pipeline.services.keyring.key_ids(KeysetRole.VAULT)[0]

    pipeline.execute("UPDATE loginetl.erasures SET encrypted_subject = encrypted_subject || 'x'::bytea")
    with pytest.raises(OperatorError, match=r"does not decrypt: set LOGINETL_KEYSET_OFFICER .* key \d+"):
        _list(pipeline).subject(pipeline.services.officer())


def test_re_encrypting_moves_the_list_to_the_officers_new_key(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    _land(pipeline, [_of(ANNA)])
    pipeline.run(job="process_landed")
    _erase(pipeline, ANNA)
    (old_key,) = _list(pipeline).count_by_key()
    monkeypatch.setattr("loginetl_assets.cli.keys.configured_services", lambda: Services(pipeline.settings))
    rotate(RotatingRole.OFFICER)
    services = Services(pipeline.settings)
    officer = services.officer()
    reencrypt_data_keys(services.database(), services.keyring, officer, reason="new officer")
    assert _list(pipeline).reencrypt(officer) == 1
    assert _list(pipeline).count_by_key() == {services.keyring.key_ids(KeysetRole.VAULT)[0]: 2}
    assert old_key not in _list(pipeline).count_by_key()
    assert _list(pipeline).reencrypt(officer) == 0
    assert _list(pipeline).subject(officer).matches(_of(ANNA).encode())
