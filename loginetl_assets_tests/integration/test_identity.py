"""What makes two messages one login: the message id, and the producer's event id where the settings say so."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from uuid import UUID

import pytest

from loginetl_assets.settings import Identity
from loginetl_assets_tests.support.pipeline import Pipeline, checks, login, metadata


@pytest.fixture
def by_event(pipeline: Pipeline, tmp_path: Path) -> Iterator[Pipeline]:
    with Pipeline.on(replace(pipeline.settings, identity=Identity.EVENT_ID), tmp_path / "by-event") as by_event:
        yield by_event


def test_an_event_redriven_under_a_new_message_id_is_loaded_once(by_event: Pipeline) -> None:
    body = login(event_id="e-1")
    by_event.send([body, login(user_id="other", event_id="e-2")])
    by_event.process()
    rows = by_event.rows()
    by_event.send([body, body])
    result = by_event.run()
    by_event.send([body])
    by_event.process()
    assert by_event.rows() == rows
    totals = by_event.totals()
    assert (totals.messages, totals.loaded, totals.duplicates, totals.pending) == (5, 2, 3, 0)
    assert all(passed for name, passed in checks(result).items())
    outcomes = by_event.query("SELECT outcome, count(*) FROM loginetl.processed_messages GROUP BY 1 ORDER BY 1")
    assert [tuple(row) for row in outcomes] == [("duplicate", 3), ("loaded", 2)]


def test_an_event_twice_in_one_batch_or_in_two_that_are_pending_is_loaded_once(by_event: Pipeline) -> None:
    body = login(event_id="e-1")
    for _ in range(2):
        by_event.send([body, body])
        by_event.drain(visibility_seconds=30)
    by_event.mask()  # none of them is loaded yet
    result = by_event.run()
    assert len(by_event.rows()) == 1
    totals = by_event.totals()
    assert (totals.messages, totals.loaded, totals.duplicates) == (4, 1, 3)
    assert checks(result)["no_message_loaded_twice"]
    assert checks(result)["counts_reconcile"]
    by_event.process_landed(reprocess=True)
    again = by_event.totals()
    assert (again.messages, again.loaded, again.duplicates, again.pending) == (4, 1, 3, 0)
    assert len(by_event.rows()) == 1


def test_without_an_event_id_the_message_id_decides(by_event: Pipeline) -> None:
    by_event.send([login(), login(), login(event_id=None), login(event_id="")])
    by_event.process()
    assert len(by_event.rows()) == 4


def test_event_ids_mean_nothing_where_the_settings_do_not_say_so(pipeline: Pipeline) -> None:
    pipeline.send([login(event_id="e-1"), login(event_id="e-1"), login(event_id=7)])
    result = pipeline.run()
    assert len(pipeline.rows()) == 3
    assert metadata(result, "masked_logins")["unknown_fields"] == 3


def test_an_event_id_that_is_no_text_is_rejected_with_its_field(by_event: Pipeline) -> None:
    by_event.send([login(event_id=7), login(event_id="\0"), json.dumps({**json.loads(login()), "event": {"id": "e"}})])
    by_event.process()
    rejected = by_event.query("SELECT reason, field FROM loginetl.rejected_logins ORDER BY reason")
    assert [tuple(row) for row in rejected] == [("unstorable_text", "event_id"), ("wrong_type", "event_id")]
    assert len(by_event.rows()) == 1, "the nested one is flattened to event_id"


def test_a_corrected_event_is_loaded_though_its_first_message_was_rejected(by_event: Pipeline) -> None:
    by_event.send([login(event_id="e-1", app_version="x")])
    by_event.process()
    by_event.send([login(event_id="e-1", app_version="2.3")])
    by_event.process()
    assert len(by_event.rows()) == 1


def test_a_known_event_brings_no_value_into_the_vault(by_event: Pipeline) -> None:
    by_event.send([login(event_id="e-1")])
    by_event.process()
    vault = by_event.query("SELECT token FROM loginetl.pii_vault ORDER BY 1")
    by_event.send([login(event_id="e-1", ip="203.0.113.200", device_id="someone's")])
    by_event.process()
    assert by_event.query("SELECT token FROM loginetl.pii_vault ORDER BY 1") == vault


def test_the_ledger_keeps_a_name_of_the_event_and_not_its_id(by_event: Pipeline) -> None:
    by_event.send([login(event_id="e-1")])
    by_event.process()
    (key,) = by_event.query("SELECT event_uuid FROM loginetl.processed_messages")[0]
    assert isinstance(key, UUID)
    assert key.version == 5
