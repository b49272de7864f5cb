"""The promises of the design, on real services: nothing lost, nothing twice, every count adds up."""

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from shutil import rmtree
from typing import Any

import dagster as dg
import pytest

from loginetl_assets.assets.catalog import NUMBERS
from loginetl_assets.logins.encryption import encrypt
from loginetl_assets.logins.message import QueuedMessage, encode_messages
from loginetl_assets.settings import UnknownFields
from loginetl_assets_tests.support.pipeline import COLUMNS, SAMPLE, Pipeline, checks, login, metadata, sqs_client


def test_the_sample_gives_99_rows_of_seven_columns_and_one_rejection(pipeline: Pipeline) -> None:
    pipeline.send(SAMPLE)
    result = pipeline.run()
    assert len(pipeline.rows()) == 99
    columns = pipeline.query(
        "SELECT column_name FROM information_schema.columns WHERE table_name = 'user_logins' ORDER BY ordinal_position"
    )
    assert [row.column_name for row in columns] == COLUMNS
    assert [row.reason for row in pipeline.query("SELECT reason FROM loginetl.rejected_logins")] == ["not_a_login"]
    assert metadata(result, "raw_login_messages")["messages"] == 100
    assert metadata(result, "raw_login_messages")["stopped_reason"] == "queue_empty"
    assert metadata(result, "raw_login_messages")["queue_depth_before"] == 100
    assert metadata(result, "raw_login_messages")["queue_depth_after"] == 0
    assert metadata(result, "user_logins")["dagster/row_count"] == 99
    assert checks(result) == {
        "app_version_in_range": True,
        "no_plaintext_identifiers": True,
        "rejection_rate": True,
        "no_message_loaded_twice": True,
        "counts_reconcile": True,
        "health": True,
        "queue_health": True,
        "duplicates": True,
    }


def test_running_again_changes_nothing(pipeline: Pipeline) -> None:
    pipeline.send(SAMPLE)
    pipeline.run()
    before = pipeline.rows(), pipeline.totals()
    result = pipeline.run()
    assert (pipeline.rows(), pipeline.totals()) == before
    assert metadata(result, "raw_login_messages")["messages"] == 0


def test_the_same_bodies_sent_again_are_new_messages(pipeline: Pipeline) -> None:
    pipeline.send(SAMPLE)
    pipeline.run()
    pipeline.send(SAMPLE)
    pipeline.run()
    totals = pipeline.totals()
    assert (totals.messages, totals.loaded, totals.rejected, totals.duplicates) == (200, 198, 2, 0)


def test_redelivered_messages_add_no_row_in_any_batch(pipeline: Pipeline) -> None:
    pipeline.send([login(user_id=f"u-{number}") for number in range(8)] + ["{}", "[]"])
    received = pipeline.services.queue().receive(wait_seconds=1, visibility_seconds=0)
    pipeline.run()  # the queue shows the same messages again at once: their first receipt is not deleted
    rows = pipeline.rows()
    pipeline.land([one.message for one in received])
    pipeline.land([one.message for one in received[:5]])
    result = pipeline.run()
    assert pipeline.rows() == rows
    totals = pipeline.totals()
    assert (totals.messages, totals.loaded, totals.rejected, totals.duplicates) == (25, 8, 2, 15)
    assert checks(result)["counts_reconcile"]
    assert checks(result)["no_message_loaded_twice"]


def test_a_message_twice_in_one_batch_is_one_row(pipeline: Pipeline) -> None:
    pipeline.send([login(), "{}"])
    received = pipeline.services.queue().receive(wait_seconds=1, visibility_seconds=600)
    pipeline.land([one.message for one in received] * 3)
    pipeline.materialize("masked_logins")
    pipeline.materialize("user_logins")
    totals = pipeline.totals()
    assert (totals.messages, totals.loaded, totals.rejected, totals.duplicates) == (6, 1, 1, 4)


def test_each_asset_alone_does_the_pending_work_it_finds(pipeline: Pipeline) -> None:
    pipeline.send(SAMPLE)
    assert metadata(pipeline.materialize("user_logins"), "user_logins")["loaded"] == 0
    assert metadata(pipeline.materialize("masked_logins"), "masked_logins")["masked"] == 0
    assert metadata(pipeline.materialize("raw_login_messages"), "raw_login_messages")["messages"] == 100
    assert pipeline.totals().pending == 100
    masked = pipeline.materialize("pii_vault")
    assert metadata(masked, "pii_vault")["new_tokens"] == 175
    assert metadata(masked, "masked_logins")["masked"] == 99, "one step writes all three"
    assert metadata(pipeline.materialize("user_logins"), "user_logins")["loaded"] == 99
    assert pipeline.totals().pending == 0


def test_equal_values_have_equal_tokens_over_runs_and_fields_are_unrelated(pipeline: Pipeline) -> None:
    pipeline.send([login(user_id="a", ip="2001:DB8::1", device_id=" x ")])
    pipeline.run()
    pipeline.send([login(user_id="b", ip="2001:db8:0:0::1", device_id="x")])
    pipeline.run()
    pipeline.send([login(user_id="c", ip="198.51.100.9", device_id="198.51.100.9")])
    pipeline.run()
    rows = {row.user_id: row for row in pipeline.query("SELECT * FROM user_logins")}
    assert rows["a"].masked_ip == rows["b"].masked_ip
    assert rows["a"].masked_device_id == rows["b"].masked_device_id
    assert rows["c"].masked_ip != rows["c"].masked_device_id


def test_the_create_date_is_the_day_sqs_took_the_message(pipeline: Pipeline) -> None:
    pipeline.send([login()])
    (received,) = pipeline.services.queue().receive(wait_seconds=1, visibility_seconds=600)
    midnight = QueuedMessage(received.message.message_id, 1_700_006_399_999, received.message.body)
    pipeline.land([midnight])
    pipeline.materialize("masked_logins")
    pipeline.materialize("user_logins")
    assert str(pipeline.query("SELECT create_date FROM user_logins")[0][0]) == "2023-11-14"


def test_a_run_is_bounded_and_says_why_it_stopped(pipeline: Pipeline) -> None:
    pipeline.send(SAMPLE)
    result = pipeline.run({"raw_login_messages": {"max_messages": 33}})
    drained = metadata(result, "raw_login_messages")
    assert (drained["messages"], drained["stopped_reason"], drained["queue_depth_after"]) == (33, "max_messages", 67)


def test_small_batches_are_cut_by_count(pipeline: Pipeline) -> None:
    pipeline.send(SAMPLE)
    result = pipeline.run({"raw_login_messages": {"batch_messages": 20}})
    assert metadata(result, "raw_login_messages")["batches"] >= 4
    assert pipeline.totals().loaded == 99


def test_several_processes_drain_one_queue(pipeline: Pipeline) -> None:
    pipeline.send(login(user_id=f"u-{number}") for number in range(300))
    result = pipeline.run({"raw_login_messages": {"processes": 2}})
    assert metadata(result, "raw_login_messages")["processes"] == 2
    assert pipeline.totals().loaded == 300


@pytest.mark.parametrize(("most", "processes"), [(5, 4), (1, 2)])
def test_several_processes_take_no_more_than_one_may(pipeline: Pipeline, most: int, processes: int) -> None:
    pipeline.send(login(user_id=f"u-{number}") for number in range(40))
    result = pipeline.run({"raw_login_messages": {"max_messages": most, "processes": processes}})
    assert metadata(result, "raw_login_messages")["messages"] == most


def test_runs_in_parallel_load_every_message_once(pipeline: Pipeline, tmp_path: Path) -> None:
    pipeline.send(login(user_id=f"u-{number}", device_id=f"d-{number % 7}") for number in range(400))

    def run(number: int) -> None:
        with Pipeline.on(pipeline.settings, tmp_path / f"run-{number}") as other:
            other.run({"raw_login_messages": {"batch_messages": 30}})

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(run, range(4)))
    pipeline.run()
    users = [row.user_id for row in pipeline.query("SELECT user_id FROM user_logins")]
    assert sorted(users) == sorted(f"u-{number}" for number in range(400))
    assert pipeline.totals().pending == 0


def test_an_existing_table_is_adopted_as_it_is(pipeline: Pipeline) -> None:
    pipeline.execute("INSERT INTO user_logins VALUES ('before', 'ios', 'x', 'y', NULL, 2, '2020-01-01')")
    pipeline.send([login()])
    pipeline.run()
    assert [row[0] for row in pipeline.rows()] == ["before", "u-1"]


def test_reprocessing_brings_in_what_new_rules_accept_and_nothing_twice(pipeline: Pipeline, tmp_path: Path) -> None:
    strict = replace(pipeline.settings, unknown_fields=UnknownFields.REJECT)
    pipeline.send([login(user_id="plain"), login(user_id="extra", colour="blue"), "{}"])
    with Pipeline.on(strict, tmp_path / "strict") as before:
        before.run()
        assert [row[0] for row in before.rows()] == ["plain"]
        assert before.totals().rejected == 2
    result = pipeline.run({"masked_logins": {"reprocess": True}})
    assert [row[0] for row in pipeline.rows()] == ["extra", "plain"]
    totals = pipeline.totals()
    assert (totals.messages, totals.loaded, totals.rejected, totals.duplicates) == (3, 2, 1, 0)
    assert checks(result)["counts_reconcile"]
    pipeline.run({"masked_logins": {"reprocess": True}})
    assert len(pipeline.rows()) == 2
    assert pipeline.totals() == totals or pipeline.totals().loaded == 2


def test_an_sns_envelope_and_nested_objects_are_read(pipeline: Pipeline) -> None:
    nested = json.dumps(
        {
            "user": {"id": "n"},
            "app": {"version": "3.7"},
            "device": {"id": "1", "type": "ios"},
            "ip": "198.51.100.1",
        }
    )
    pipeline.send([json.dumps({"Type": "Notification", "Message": login(user_id="s")}), nested])
    pipeline.run()
    assert [row[0] for row in pipeline.rows()] == ["n", "s"]


def test_text_that_could_break_a_copy_is_stored_as_it_was_sent(pipeline: Pipeline) -> None:
    users = ["a\tb", "a\nb", "\\.", "a\n\\.\nb", "\\N", 'quote"d', "'; DROP TABLE user_logins; --", "‮ rtl", "NULL"]
    pipeline.send([login(user_id=user) for user in users])
    pipeline.run()
    assert sorted(row[0] for row in pipeline.rows()) == sorted(users)


def test_an_unregistered_object_in_the_landing_is_never_loaded(pipeline: Pipeline) -> None:
    pipeline.send([login()])
    received = pipeline.services.queue().receive(wait_seconds=1, visibility_seconds=600)
    packed = encode_messages([one.message for one in received])
    pipeline.services.landing().put(
        "batches/unregistered", encrypt(pipeline.services.keyring.landing, packed, "batches/unregistered")
    )
    pipeline.run()
    assert pipeline.rows() == []


@pytest.mark.parametrize("processes", [1, 2])
def test_messages_that_cannot_be_registered_are_visible_again_at_once(pipeline: Pipeline, processes: int) -> None:
    pipeline.send(login(user_id=f"u-{number}") for number in range(25))
    pipeline.execute("ALTER TABLE loginetl.batches ADD CONSTRAINT nothing_lands CHECK (messages < 0) NOT VALID")
    failed = pipeline.run({"raw_login_messages": {"processes": processes}}, expect_success=False)
    assert not failed.success
    depth = pipeline.services.queue().depth()
    assert (depth.queued, depth.in_flight) == (25, 0), "they left the queue, or wait for their time-out"
    pipeline.execute("ALTER TABLE loginetl.batches DROP CONSTRAINT nothing_lands")
    pipeline.run()
    assert pipeline.totals().loaded == 25


@pytest.mark.parametrize("broken", ["landing", "database"])
def test_a_run_that_could_not_land_receives_nothing(pipeline: Pipeline, broken: str) -> None:
    pipeline.run()  # the keys are on record then, and nothing else is to be written before the first receive
    pipeline.send([login()])
    if broken == "landing":
        rmtree(pipeline.settings.home / "landing" / "batches")
        (pipeline.settings.home / "landing" / "batches").write_text("a file where the directory should be")
    else:
        (name,) = pipeline.query("SELECT current_database()")[0]
        pipeline.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    assert not pipeline.run(expect_success=False).success
    (raw,) = sqs_client(str(pipeline.settings.queue_url).rsplit("/", 2)[0]).receive_message(
        QueueUrl=pipeline.settings.queue_url, MessageSystemAttributeNames=["ApproximateReceiveCount"]
    )["Messages"]
    assert raw["Attributes"]["ApproximateReceiveCount"] == "1", "a redrive policy would have counted the run's receive"


def test_a_batch_encrypted_with_a_missing_key_stops_with_its_setting(pipeline: Pipeline) -> None:
    pipeline.send([login()])
    pipeline.materialize("raw_login_messages")
    pipeline.execute("UPDATE loginetl.batches SET landing_key_id = 1")
    result = pipeline.run(expect_success=False)
    assert "LOGINETL_KEYSET_LANDING" in str([event.step_failure_data for event in result.get_step_failure_events()])
    assert pipeline.totals().quarantined_batches == 0


def test_a_masking_keyset_of_another_database_is_refused_before_any_work(pipeline: Pipeline) -> None:
    pipeline.send([login()])
    pipeline.run()
    pipeline.execute("UPDATE loginetl.keys SET key_id = 7 WHERE role = 'masking'")
    pipeline.send([login(user_id="later")])
    result = pipeline.run(expect_success=False)
    assert "LOGINETL_KEYSET_MASKING" in str([event.step_failure_data for event in result.get_step_failure_events()])
    pipeline.execute("DELETE FROM loginetl.keys WHERE role = 'masking'")
    pipeline.run()
    assert len(pipeline.rows()) == 2


def test_a_fifo_queue_is_drained_in_order(pipeline: Pipeline, addresses: Any) -> None:
    client = sqs_client(addresses.sqs_endpoint)
    client.create_queue(QueueName="ordered.fifo", Attributes={"FifoQueue": "true", "ContentBasedDeduplication": "true"})
    settings = replace(pipeline.settings, queue_url=f"{addresses.sqs_endpoint}/000000000000/ordered.fifo")
    with Pipeline.on(settings, pipeline.settings.home / "fifo") as fifo:
        fifo.send(login(user_id=f"u-{number:03}") for number in range(35))
        fifo.run()
        users = [row.user_id for row in fifo.query("SELECT user_id FROM user_logins ORDER BY ctid")]
        assert users == [f"u-{number:03}" for number in range(35)]


def test_definitions_name_owners_kinds_and_a_description_for_every_asset(pipeline: Pipeline) -> None:
    for spec in pipeline.definitions.resolve_all_asset_specs():
        assert spec.owners, spec.key
        assert spec.kinds, spec.key
        assert spec.description, spec.key
        assert spec.group_name == "logins"
        assert "dagster/column_schema" in spec.metadata
    (table,) = (
        spec for spec in pipeline.definitions.resolve_all_asset_specs() if spec.key == dg.AssetKey("user_logins")
    )
    assert table.freshness_policy is not None
    assert table.metadata["dagster/table_name"] == "public.user_logins"


def test_a_run_reports_the_numbers_that_the_catalog_explains_and_new_data(pipeline: Pipeline) -> None:
    pipeline.send([login()])
    results = [pipeline.run(), pipeline.run()]
    for asset, numbers in NUMBERS.items():
        told = {name for name in metadata(results[0], asset) if not name.startswith(("dagster/", "rejected "))}
        assert told == {*numbers}, asset
    assert 0 <= metadata(results[0], "user_logins")["lag_seconds"] < 300
    assert "lag_seconds" not in metadata(results[1], "user_logins"), "nothing was loaded"
    versions = {
        (event.asset_key, (event.step_materialization_data.materialization.tags or {})["dagster/data_version"])
        for result in results
        for event in result.get_asset_materialization_events()
    }
    assert len(versions) == 2 * 6
