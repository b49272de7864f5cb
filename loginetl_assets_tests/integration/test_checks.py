"""The asset checks: each is seen to fail, a blocking one keeps rows from the table, and none shows a value."""

import io
import json
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import polars as pl
import pytest
from sqlalchemy import Connection, text

from loginetl_assets.landing.batch_files import read_masked, write_masked
from loginetl_assets.logins.contract import COLUMN_NAMES
from loginetl_assets.steps import verify
from loginetl_assets.steps.replay import replay_rejected
from loginetl_assets.storage import batches, message_ids
from loginetl_assets.storage.login_table import duplicate_rows, tokens_of_several_users
from loginetl_assets.storage.rejections import Selection
from loginetl_assets_tests.support.pipeline import SAMPLE, Pipeline, checks, login, metadata


def _alter_masked_file(pipeline: Pipeline, column: str, value: object) -> None:
    """Puts a masked file in the pending one's place that has a value in every row, as a broken masking step would."""
    (key,) = pipeline.query("SELECT masked_path FROM loginetl.batches WHERE state = 'masked'")[0]
    landing = pipeline.services.landing()
    frame = pl.read_parquet(io.BytesIO(landing.get(key)))
    key, _ = write_masked(landing, frame.with_columns(pl.lit(value, dtype=frame.schema[column]).alias(column)))
    pipeline.execute("UPDATE loginetl.batches SET masked_path = :key WHERE state = 'masked'", key=key)


@pytest.mark.parametrize(
    ("column", "value", "check"),
    [
        ("app_version", 2_147_000_000, "app_version_in_range"),
        ("masked_ip", "198.51.100.7", "no_plaintext_identifiers"),
    ],
)
def test_a_blocking_check_keeps_a_bad_batch_from_the_table(
    pipeline: Pipeline, column: str, value: object, check: str
) -> None:
    pipeline.send([login()])
    pipeline.materialize("raw_login_messages")
    pipeline.materialize("masked_logins")
    _alter_masked_file(pipeline, column, value)
    for _ in range(2):  # the next run must refuse what this one refused
        result = pipeline.run(expect_success=False)
        assert not result.success
        assert not checks(result)[check]
        assert pipeline.rows() == []
    alone = pipeline.materialize("user_logins", expect_success=False)
    assert not alone.success, "the load checks where the checks do not run"
    assert pipeline.rows() == []
    assert pipeline.run({"masked_logins": {"reprocess": True}}).success, "what the message says fixes it"
    assert len(pipeline.rows()) == 1


def test_the_command_exits_non_zero_when_a_blocking_check_fails(pipeline: Pipeline, tmp_path: Path) -> None:
    pipeline.send([login()])
    pipeline.materialize("raw_login_messages")
    pipeline.materialize("masked_logins")
    _alter_masked_file(pipeline, "app_version", -1)
    command = [str(Path(sys.executable).parent / "dagster"), "asset", "materialize", "--select", "*"]
    done = subprocess.run(
        [*command, "-m", "loginetl_assets.definitions"],
        env={"PATH": "/usr/bin:/bin", "AWS_ACCESS_KEY_ID": "local", "AWS_SECRET_ACCESS_KEY": "local"}
        | pipeline.settings.as_environment(),
        capture_output=True,
        check=False,
        cwd=tmp_path,
    )
    assert done.returncode != 0
    assert b"app_version_in_range" in done.stderr
    assert pipeline.rows() == []


@pytest.mark.parametrize(
    ("invalid", "severity"), [(1, dg.AssetCheckSeverity.WARN), (9, dg.AssetCheckSeverity.ERROR)], ids=["some", "most"]
)
def test_too_many_rejections_are_a_warning_and_nearly_all_an_error_and_none_a_failure(
    pipeline: Pipeline, invalid: int, severity: dg.AssetCheckSeverity
) -> None:
    pipeline.send([login(), *["{}"] * invalid])
    result = pipeline.run()
    (found,) = (one for one in result.get_asset_check_evaluations() if one.check_name == "rejection_rate")
    assert (found.passed, found.severity) == (False, severity)
    assert result.success


def test_the_allowed_rejection_rate_is_a_setting(pipeline: Pipeline, tmp_path: Path) -> None:
    with Pipeline.on(replace(pipeline.settings, max_rejection_rate=0.5), tmp_path / "other") as lenient:
        lenient.send([login(), "{}"])
        assert checks(lenient.run())["rejection_rate"]


def _said(result: dg.ExecuteInProcessResult, check: str) -> str:
    (found,) = (one for one in result.get_asset_check_evaluations() if one.check_name == check)
    return found.description or ""


def test_every_check_says_what_it_found(pipeline: Pipeline) -> None:
    pipeline.send([login(), "{}", login(ip="nowhere")])
    result = pipeline.run()
    said = {one.check_name: one.description for one in result.get_asset_check_evaluations()}
    specs = pipeline.definitions.resolve_asset_graph().asset_check_keys
    assert said.keys() == {key.name for key in specs}
    for name, sentence in said.items():
        assert sentence, name
        assert "nowhere" not in sentence
    assert said["rejection_rate"] == (
        "Of 3 messages, 2 (66.67%) were rejected, and 5.00% may be: 1 bad_ip, 1 not_a_login. `loginetl rejected"
        " summary` lists the reasons, `loginetl rejected show` the redacted shapes of bodies; once rule, sender or"
        " table is corrected, `loginetl rejected replay` loads them."
    )
    assert "Of 3 messages in 1 batch, 1 loaded + 0 duplicates + 2 rejected" in (said["counts_reconcile"] or "")


def test_rejections_are_plotted_by_reason(pipeline: Pipeline) -> None:
    pipeline.send([login(), "{}", login(ip="nowhere"), login(ip="")])
    result = pipeline.run()
    (found,) = (one for one in result.get_asset_check_evaluations() if one.check_name == "rejection_rate")
    counts = {name: value.value for name, value in found.metadata.items() if name.startswith("rejected ")}
    assert counts == {"rejected bad_ip": 1, "rejected empty": 1, "rejected not_a_login": 1}
    of_asset = metadata(result, "rejected_logins")
    assert counts.items() <= of_asset.items()
    assert of_asset["rejected not_json"] == 0, "a plot needs the zeros"
    of_asset = metadata(pipeline.run(), "rejected_logins")
    assert not any(count for name, count in of_asset.items() if name.startswith("rejected ")), "of this run alone"


def test_a_message_that_was_loaded_twice_is_found(pipeline: Pipeline) -> None:
    pipeline.send([login(), login(user_id="u-2")])
    pipeline.run()
    pipeline.execute("UPDATE loginetl.processed_messages SET batch_id = batch_id + 1000")
    result = pipeline.run()
    assert not checks(result)["no_message_loaded_twice"]
    assert not checks(result)["counts_reconcile"]


def test_a_message_without_an_outcome_is_found(pipeline: Pipeline) -> None:
    pipeline.send([login(), login(user_id="u-2")])
    pipeline.run()
    pipeline.execute("DELETE FROM loginetl.processed_messages WHERE outcome = 'loaded'")
    assert not checks(pipeline.run())["no_message_loaded_twice"]


def test_a_rejection_that_went_missing_is_found(pipeline: Pipeline) -> None:
    pipeline.send([login(), "{}"])
    pipeline.run()
    assert checks(pipeline.run())["counts_reconcile"]
    pipeline.execute("DELETE FROM loginetl.rejected_logins")
    assert not checks(pipeline.run())["counts_reconcile"]


def test_a_run_that_finds_nothing_does_not_ask_for_ids_that_retention_forgot(pipeline: Pipeline) -> None:
    pipeline.send([login()])
    pipeline.run()
    old = datetime.now(UTC) - timedelta(days=60)
    pipeline.execute("UPDATE loginetl.batches SET landed_at = :old, loaded_at = :old", old=old)
    pipeline.run({"purge": {"days": 30}}, job="retention")
    assert pipeline.query("SELECT FROM loginetl.processed_messages") == []
    assert all(checks(pipeline.run()).values())


def test_a_replay_in_the_midst_of_the_check_does_not_disturb_it(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids_by_outcome, one = message_ids.ids_by_outcome, pipeline.services

    def replayed_meanwhile(connection: Connection, batch_id: int) -> dict[str, set[str]]:
        assert replay_rejected(one.database(), one.landing(), one.payloads(), one.keyring, Selection()).messages == 1
        return ids_by_outcome(connection, batch_id)

    pipeline.send([*(login(user_id=f"u-{number}") for number in range(20)), "{}"])
    with monkeypatch.context() as patch:
        patch.setattr(message_ids, "ids_by_outcome", replayed_meanwhile)
        assert all(checks(pipeline.run()).values())


def test_duplicates_are_counted_and_never_shown(pipeline: Pipeline) -> None:
    pipeline.send([login(user_id="a"), login(user_id="b"), login(user_id="b"), login(user_id="c", ip="203.0.113.9")])
    result = pipeline.run()
    (found,) = (one for one in result.get_asset_check_evaluations() if one.check_name == "duplicates")
    counts = {name: value.value for name, value in found.metadata.items()}
    assert counts["duplicate_rows"] == 1
    assert counts["shared_devices"] == 1
    assert counts["shared_ips"] == 1
    assert (counts["distinct_rows"], counts["duplicate_rate"]) == (3, 0.3333)
    assert found.passed, "two logins of one user on one day are no fault"


def test_a_repeated_login_is_found_in_an_earlier_batch_and_its_limit_is_a_setting(
    pipeline: Pipeline, tmp_path: Path
) -> None:
    with Pipeline.on(replace(pipeline.settings, max_duplicate_rate=0.5), tmp_path / "other") as strict:
        strict.send([login(locale=None)])
        assert checks(strict.run())["duplicates"]
        strict.send([login(locale=None)])
        result = strict.run()
        assert not checks(result)["duplicates"]
        assert result.success
        assert "LOGINETL_MAX_DUPLICATE_RATE allows 50.00%" in _said(result, "duplicates")
        strict.send([login(user_id="another")])
        assert checks(strict.run())["duplicates"], "of this run's rows none is in the table twice"


def test_of_many_rows_a_sample_is_looked_up(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every row is there twice, and every second device is shared: whichever are chosen show the first exactly."""
    users = [f"u-{number}" for number in range(400)]
    pipeline.send(login(user_id=user, device_id=f"d-{user}", ip=f"2001:db8::{at:x}") for at, user in enumerate(users))
    pipeline.process()
    pipeline.send(login(user_id=user, device_id=f"d-{user}", ip=f"2001:db8::{at:x}") for at, user in enumerate(users))
    pipeline.send(login(user_id=f"other-{user}", device_id=f"d-{user}") for user in users[::2])
    pipeline.process()
    with monkeypatch.context() as patch, pipeline.services.database().transaction() as connection:
        run_id = batches.touched_by_run(connection, "none", "loaded")[0].loaded_run_id
        patch.setattr(verify, "LOOKED_UP", 60)
        found = verify.verify_loaded(pipeline.services.database(), pipeline.services.landing(), run_id or "")[-1]
    assert found.one_in == 10
    assert 0 < found.duplicate_rows < found.distinct_rows < 1_200
    assert found.duplicate_rows % 10 == found.shared_devices % 10 == found.distinct_rows % 10 == 0
    assert 0 < found.shared_devices < 400


def test_the_duplicates_check_looks_up_and_never_scans_the_table(pipeline: Pipeline) -> None:
    """The table has 20 000 rows of others; the check of a batch of one touches only what it asks for."""
    pipeline.execute(
        "INSERT INTO user_logins SELECT 'u' || n, 'ios', 'ip' || n, 'd' || n, NULL, 1, '2026-01-01'"
        " FROM generate_series(1, 20000) n"
    )
    pipeline.send([login()])
    pipeline.run()
    with pipeline.services.database().transaction() as connection:
        connection.execute(text("ANALYZE user_logins"))
        before = connection.execute(text("SELECT pg_stat_force_next_flush()")).rowcount
    assert before == 1
    scans = "SELECT seq_tup_read FROM pg_stat_user_tables WHERE relname = 'user_logins'"
    read_before = pipeline.query(scans)[0][0]
    with pipeline.services.database().transaction() as connection:
        (batch,) = batches.touched_by_run(connection, "none", "loaded")
        logins = read_masked(pipeline.services.landing(), batch.masked_path)
        duplicate_rows(connection, logins.select(COLUMN_NAMES))
        tokens_of_several_users(connection, "masked_ip", logins["masked_ip"].to_list())
        connection.execute(text("SELECT pg_stat_force_next_flush()"))
    assert pipeline.query(scans)[0][0] - read_before == 0


def test_no_metadata_of_a_run_holds_a_value(pipeline: Pipeline) -> None:
    pipeline.send(SAMPLE)
    result = pipeline.run()
    written = str([event.event_specific_data for event in result.all_events])
    assert metadata(result, "masked_logins")["masked"] == 99
    for line in SAMPLE:
        if '"ip"' in line:
            fields = json.loads(line)
            assert fields["ip"] not in written
            assert fields["device_id"] not in written
