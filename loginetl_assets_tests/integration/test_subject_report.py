"""A subject's own data, on real services: all that is his from every place, nothing of others, logged first."""

import json
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from loginetl_assets.errors import OperatorError, SettingsError
from loginetl_assets.logins.message import QueuedMessage
from loginetl_assets.privacy.erase import Erasure
from loginetl_assets.privacy.recover import Outcome
from loginetl_assets.privacy.subject_report import SubjectReport, read_subject
from loginetl_assets.privacy.subjects import subject_of
from loginetl_assets.settings import AppVersion, Settings
from loginetl_assets.steps.replay import replay_rejected
from loginetl_assets.storage import batches, vault
from loginetl_assets.storage.rejections import Selection
from loginetl_assets_tests.support.command import run_cli
from loginetl_assets_tests.support.pipeline import Pipeline, login

WHY = "request 12"
SENT_AT_MS = 1_700_000_000_000  # 14 November 2023
ANNA, BERT = "anna-4711", "bert-0815"
ANNA_IP, ANNA_DEVICE, SHARED_IP = "203.0.113.77", "anna-device-1", "203.0.113.1"


def _annas(**changes: object) -> str:
    return login(**{"user_id": ANNA, "ip": ANNA_IP, "device_id": ANNA_DEVICE, "app_version": "2.3.0", **changes})


BERTS = login(user_id=BERT, ip=SHARED_IP, device_id="bert-device-1")
BROKEN = f'{{"user_id": "{ANNA}", "ip": "{ANNA_IP}", '
LOADED = [_annas(), _annas(ip=SHARED_IP, app_version="3.0"), _annas(app_version="no version"), BROKEN, BERTS]
PENDING = [_annas(device_id="anna-device-2"), BERTS]


def _messages(bodies: Iterable[str]) -> list[QueuedMessage]:
    return [QueuedMessage(str(uuid4()), SENT_AT_MS, body.encode()) for body in bodies]


@pytest.fixture
def filled(pipeline: Pipeline) -> Pipeline:
    """A batch that is loaded, with two rejected messages of Anna's, and one that is landed; Bert is in both."""
    pipeline.land(_messages(LOADED))
    pipeline.materialize("masked_logins")
    pipeline.materialize("user_logins")
    pipeline.land(_messages(PENDING))
    return pipeline


def _report(pipeline: Pipeline, user_id: str = ANNA, **changes: Any) -> SubjectReport:
    one = pipeline.services
    options = {"reason": WHY, "app_version": AppVersion.PACKED, **changes}
    return read_subject(one.database(), one.landing(), one.keyring, one.officer(), user_id, **options)


def _log(pipeline: Pipeline) -> list[Any]:
    return pipeline.query("SELECT action, reason, tokens, counts FROM loginetl.pii_access_log ORDER BY access_id")


def _token(pipeline: Pipeline, field: str, value: str) -> str:
    return pipeline.services.keyring.tokenizer.token(field, value)


def test_all_that_is_stored_of_a_user_is_in_the_report(filled: Pipeline) -> None:
    report = _report(filled)
    assert [(one["app_version_text"], one["ip"], one["device_id"], one["locale"]) for one in report.logins] == [
        ("2.3.0", ANNA_IP, ANNA_DEVICE, "RU"),
        ("3.0.0", SHARED_IP, ANNA_DEVICE, "RU"),
    ]
    assert {one["user_id"] for one in report.logins} == {ANNA}
    assert report.days == {"2023-11-14": 2}
    assert [(one.app_version, one.logins, str(one.first_day)) for one in report.app_versions] == [
        ("2.3.0", 1, "2023-11-14"),
        ("3.0.0", 1, "2023-11-14"),
    ]
    assert [(one.field, one.value, one.logins, one.token) for one in report.values] == [
        ("ip", ANNA_IP, 1, _token(filled, "ip", ANNA_IP)),
        ("ip", SHARED_IP, 1, _token(filled, "ip", SHARED_IP)),
        ("device_id", ANNA_DEVICE, 2, _token(filled, "device_id", ANNA_DEVICE)),
    ]
    rejected = {(one.reason, one.field, one.is_login, one.body) for one in report.rejected}
    assert rejected == {("bad_version", "app_version", True, LOADED[2]), ("not_json", None, False, BROKEN)}
    landing = [(str(one.batch_state), one.body) for one in report.landing]
    assert landing == [*(("loaded", body) for body in LOADED[:4]), ("landed", PENDING[0])]
    assert {f"{one.sent_at:%Y-%m-%d}" for one in (*report.rejected, *report.landing)} == {"2023-11-14"}
    assert (report.found_anything, report.incomplete) == (True, [])


def test_the_report_finds_what_an_erasure_would_remove(filled: Pipeline) -> None:
    report, one = _report(filled), filled.services
    subject = subject_of(ANNA, [], one.keyring)
    totals = Erasure(one.database(), one.landing(), one.keyring, subject).dry_run()
    found = (len(report.logins), len(report.rejected), len(report.landing))
    assert found == (totals.rows, totals.rejected_bodies, totals.landed_messages) == (2, 2, 5)


def test_a_report_is_logged_before_it_is_read_and_the_recovery_before_it_is_decrypted(filled: Pipeline) -> None:
    report = _report(filled, max_tokens=3)
    asked, recovered = _log(filled)
    assert (asked.action, asked.reason, asked.tokens) == ("subject_report", WHY, [_token(filled, "user_id", ANNA)])
    assert (recovered.action, recovered.reason, recovered.counts) == ("recover", WHY, {"tokens": 3, "max_tokens": 3})
    assert set(recovered.tokens) == {one.token for one in report.values}
    assert not any(value in str(_log(filled)) for value in (ANNA, ANNA_IP, SHARED_IP, ANNA_DEVICE))


def test_without_a_log_or_a_reason_or_beyond_the_limit_there_is_no_report(filled: Pipeline) -> None:
    with pytest.raises(SettingsError, match="--reason"):
        _report(filled, reason=" ")
    with pytest.raises(SettingsError, match="^3 tokens are more than --max-tokens, 2: "):
        _report(filled, max_tokens=2)
    assert [row.action for row in _log(filled)] == ["subject_report"]
    filled.execute("ALTER TABLE loginetl.pii_access_log ADD CONSTRAINT full_up CHECK (false) NOT VALID")
    with pytest.raises(OperatorError):
        _report(filled)


def test_a_message_that_is_replayed_meanwhile_is_not_missed(filled: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    filled.execute("DELETE FROM loginetl.batches WHERE state = 'landed'")
    filled.execute("UPDATE loginetl.batches SET object_purged_at = now(), masked_path = NULL")  # as after retention
    one, listed = filled.services, batches.batches_in_landing

    def replay_first(connection: Any) -> list[int]:
        if _log(filled):  # the report is under way
            replay_rejected(one.database(), one.landing(), one.payloads(), one.keyring, Selection())
        return listed(connection)

    monkeypatch.setattr(batches, "batches_in_landing", replay_first)
    report = _report(filled)
    assert {one.body for one in report.landing} == {LOADED[2], BROKEN}


def test_what_an_erasure_leaves_of_a_user_is_in_the_report(filled: Pipeline) -> None:
    one = filled.services
    Erasure(one.database(), one.landing(), one.keyring, subject_of(ANNA, [], one.keyring)).run(WHY)
    report = _report(filled)
    assert (report.logins, report.values, report.rejected, report.landing) == ([], [], [], [])
    assert len(report.erasures) == 1
    assert report.found_anything
    assert not _report(filled, BERT).erasures


def test_what_could_not_be_read_is_named(filled: Pipeline) -> None:
    landed = filled.query("SELECT object_path FROM loginetl.batches WHERE state = 'landed'")
    filled.services.landing().delete([row.object_path for row in landed])
    filled.execute("UPDATE loginetl.rejected_logins SET encrypted_body = 'x'::bytea WHERE reason = 'not_json'")
    with filled.services.database().transaction() as connection:
        vault.erase(connection, [_token(filled, "ip", ANNA_IP)])
    report = _report(filled)
    assert [what.split(":")[0] for what in report.incomplete] == [
        "1 batch not searched, unreadable",
        "1 rejected message not searched, undecryptable",
        "1 value not shown",
    ]
    assert [(one.outcome, one.value) for one in report.values][0] == (Outcome.ERASED, None)
    assert [one["ip"] for one in report.logins] == [None, SHARED_IP]


def test_the_command_writes_both_files_for_their_owner_alone(filled: Pipeline) -> None:
    directory = filled.settings.home.parent
    done = run_cli(filled.settings, "subject-report", "--user-id", "--reason", WHY, stdin=ANNA)
    assert (done.stdout, done.stderr) == ("", "wrote subject-report.json, subject-report.html\n")
    for name in ("subject-report.json", "subject-report.html"):
        assert stat.S_IMODE((directory / name).stat().st_mode) == 0o600
    written = json.loads((directory / "subject-report.json").read_text())
    assert written["user_id"] == ANNA
    assert [row["ip"] for row in written["logins"]] == [ANNA_IP, SHARED_IP]
    assert written["days"] == {"2023-11-14": 2}
    assert [one["outcome"] for one in written["values"]] == ["recovered"] * 3
    assert [one["body"] for one in written["landing"]] == [*LOADED[:4], PENDING[0]]
    page = (directory / "subject-report.html").read_text()
    assert all(
        value in page for value in (ANNA, ANNA_IP, SHARED_IP, ANNA_DEVICE, "anna-device-2", "A field is not a version")
    )
    assert BERT not in page + json.dumps(written)
    again = run_cli(filled.settings, "subject-report", "--reason", WHY, stdin=ANNA, exit_code=2)
    assert "subject-report.json is there already" in again.stderr
    assert [row.action for row in _log(filled)] == ["subject_report", "recover"]


def test_the_command_says_what_is_missing_and_that_nothing_was_found(filled: Pipeline, tmp_path: Path) -> None:
    def report(name: str, user_id: str, exit_code: int, settings: Settings = filled.settings) -> str:
        file = str(tmp_path / name)
        command = ("subject-report", "--reason", WHY, "--output", file)
        return run_cli(settings, *command, stdin=user_id, exit_code=exit_code).stderr

    assert "nothing of that user is here: check the id" in report("nobody.html", "nobody-has-it", 1)
    assert "None." in (tmp_path / "nobody.html").read_text()
    filled.execute("DELETE FROM loginetl.pii_vault")
    assert "needs attention: 3 values not shown" in report("anna.json", ANNA, 3)
    assert "ends in neither .json nor .html" in report("anna.txt", ANNA, 2)
