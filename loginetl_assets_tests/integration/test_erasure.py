"""Erasure, on real services: what is the person's goes from everywhere, what is others' stays, every count adds up."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any
from uuid import uuid4

import polars as pl
import pytest
from sqlalchemy import Connection, Row, text

from loginetl_assets.errors import SettingsError
from loginetl_assets.keys.keyring import TEMPLATES
from loginetl_assets.keys.keysets import keyset_json, replace_keyset, with_new_primary
from loginetl_assets.landing.batch_files import read_masked
from loginetl_assets.landing.object_store import BATCHES, MASKED
from loginetl_assets.logins.canonical import canonical_text
from loginetl_assets.logins.message import QueuedMessage
from loginetl_assets.privacy.erase import Erasure, ErasureTotals
from loginetl_assets.privacy.recover import Outcome, recover
from loginetl_assets.privacy.rotate import retokenize
from loginetl_assets.privacy.subjects import subject_of
from loginetl_assets.services import Services
from loginetl_assets.settings import KeysetRole
from loginetl_assets.steps.batch_objects import read_batch
from loginetl_assets.storage import batches, rejections
from loginetl_assets_tests.support.pipeline import Pipeline, checks, login

SENT_AT_MS = 1_700_000_000_000

ANNA, BERT = "anna-4711", "bert-0815"
ANNA_IP, ANNA_DEVICE, SHARED_IP = "203.0.113.77", "anna-device-1", "203.0.113.1"
BERT_DEVICE = "bert-device-1"


def _annas(**changes: object) -> str:
    return login(**{"user_id": ANNA, "ip": ANNA_IP, "device_id": ANNA_DEVICE, **changes})


def _berts(**changes: object) -> str:
    return login(**{"user_id": BERT, "ip": SHARED_IP, "device_id": BERT_DEVICE, **changes})


BROKEN = f'{{"user_id": "{ANNA}", "ip": "{ANNA_IP}", '
ANNAS = [_annas(), _annas(ip=SHARED_IP), _annas(app_version="no version"), BROKEN]
BERTS = [_berts(), _berts(app_version="also none")]


class _KilledError(Exception):
    pass


def _messages(bodies: Iterable[str]) -> list[QueuedMessage]:
    return [QueuedMessage(str(uuid4()), SENT_AT_MS, body.encode()) for body in bodies]


def _mask(pipeline: Pipeline) -> None:
    pipeline.mask()


def _load(pipeline: Pipeline) -> None:
    _mask(pipeline)
    pipeline.load()


def _erasure(pipeline: Pipeline, user_id: str | None = ANNA, tokens: Iterable[str] = ()) -> Erasure:
    services = Services(pipeline.settings)  # a process of its own: keys are read again
    subject = subject_of(user_id, list(tokens), services.keyring)
    return Erasure(services.database(), services.landing(), services.keyring, subject)


def _token(pipeline: Pipeline, field: str, value: str) -> str:
    return Services(pipeline.settings).keyring.tokenizer.token(field, value)


def _recovered(pipeline: Pipeline, *tokens: str) -> list[tuple[Outcome, str | None]]:
    answers = recover(pipeline.services.database(), pipeline.services.officer(), tokens, reason="test")
    return [(answer.outcome, answer.value) for answer in answers]


def _landed(pipeline: Pipeline) -> str:
    """All that the landing holds, opened; no object may be there that no batch names, and none be missing."""
    services = Services(pipeline.settings)
    landing = services.landing()
    named: set[str] = set()
    found = []
    with services.database().transaction() as connection:
        for batch_id in batches.batches_in_landing(connection):
            batch = batches.lock_batch(connection, batch_id)
            assert batch is not None
            named |= {batch.object_path} | ({batch.masked_path} if batch.masked_path else set())
            found += [message.body.decode() for message in read_batch(landing, services.keyring, batch)]
            if batch.masked_path:
                found.append(read_masked(landing, batch.masked_path).write_csv())
    assert {path for prefix in (BATCHES, MASKED) for path, _ in landing.list(prefix)} == named
    assert pipeline.query("SELECT FROM loginetl.pending_deletions") == []
    return "\n".join(found)


def _assert_nothing_left_of_anna(pipeline: Pipeline) -> None:
    landed = _landed(pipeline)
    for value in (ANNA, ANNA_IP, ANNA_DEVICE):
        assert value not in landed
    own = [_token(pipeline, "ip", ANNA_IP), _token(pipeline, "device_id", ANNA_DEVICE)]
    assert not any(token in landed for token in own)
    assert pipeline.query("SELECT FROM user_logins WHERE user_id = :user_id", user_id=ANNA) == []
    assert pipeline.query("SELECT FROM loginetl.pii_vault WHERE token = ANY(:own)", own=own) == []


def _assert_counts_add_up(pipeline: Pipeline) -> None:
    totals = pipeline.totals()
    settled = (totals.loaded, totals.duplicates, totals.rejected, totals.erased, totals.lost)
    assert totals.messages == sum(settled) + totals.pending, totals
    assert min(*settled, totals.pending) >= 0, totals


def _everything(pipeline: Pipeline) -> list[Any]:
    """All tables and the names of all objects."""
    tables = pipeline.query(
        "SELECT relname FROM pg_class WHERE relnamespace = 'loginetl'::regnamespace AND relkind = 'r' ORDER BY 1"
    )
    return [
        pipeline.rows(),
        *(
            sorted(map(str, pipeline.query(f"SELECT * FROM loginetl.{table.relname}")))  # noqa: S608 - from the catalogue
            for table in tables
        ),
        sorted(path for prefix in (BATCHES, MASKED) for path, _ in pipeline.services.landing().list(prefix)),
    ]


def test_what_is_the_persons_goes_and_what_is_others_stays(pipeline: Pipeline) -> None:
    pipeline.send([*ANNAS, *BERTS])
    pipeline.process()
    counts = _erasure(pipeline).run("she asked")
    assert counts == ErasureTotals(
        rows=2,
        rejected_bodies=2,
        landed_messages=4,
        batches=1,
        masked_rows=2,
        vault_entries=2,
        vault_entries_kept=1,
        unreadable_batches=0,
    )
    _assert_nothing_left_of_anna(pipeline)
    assert [row[0] for row in pipeline.rows()] == [BERT]
    assert len(pipeline.query("SELECT FROM loginetl.rejected_logins")) == 1
    assert BERT_DEVICE in _landed(pipeline)
    assert _recovered(
        pipeline,
        _token(pipeline, "ip", ANNA_IP),
        _token(pipeline, "device_id", ANNA_DEVICE),
        _token(pipeline, "ip", SHARED_IP),
        _token(pipeline, "device_id", BERT_DEVICE),
    ) == [
        (Outcome.ERASED, None),
        (Outcome.ERASED, None),
        (Outcome.RECOVERED, SHARED_IP),
        (Outcome.RECOVERED, BERT_DEVICE),
    ]
    totals = pipeline.totals()
    assert (totals.messages, totals.loaded, totals.rejected, totals.erased, totals.pending) == (6, 1, 1, 4, 0)
    assert checks(pipeline.run())["counts_reconcile"]
    reprocessed = pipeline.run({"masked_logins": {"reprocess": True}})
    assert checks(reprocessed)["counts_reconcile"]
    assert checks(reprocessed)["no_message_loaded_twice"]
    assert pipeline.totals().loaded == 1
    _assert_counts_add_up(pipeline)


def test_batches_in_every_state_are_cleaned(pipeline: Pipeline) -> None:
    loaded = _messages([*ANNAS, *BERTS])
    pipeline.land(loaded)
    _load(pipeline)
    twice = _messages([_annas(device_id="anna-device-2"), _berts()])
    # Masked: with messages that came before, and one that stands in the batch three times.
    pipeline.land([*loaded, *twice, twice[0], twice[0], *_messages([*ANNAS, *BERTS])])
    _mask(pipeline)
    pipeline.land([*loaded, *_messages([_annas(device_id="anna-device-3"), *BERTS])])
    states = pipeline.query("SELECT state FROM loginetl.batches ORDER BY batch_id")
    assert [row.state for row in states] == ["loaded", "masked", "landed"]
    _assert_counts_add_up(pipeline)
    counts = _erasure(pipeline).run("she asked")
    assert (counts.batches, counts.rejected_bodies, counts.landed_messages) == (3, 4, 4 + 11 + 5)
    _assert_nothing_left_of_anna(pipeline)
    assert "anna-device" not in _landed(pipeline)
    _assert_counts_add_up(pipeline)
    for device in ("anna-device-1", "anna-device-2"):
        assert _recovered(pipeline, _token(pipeline, "device_id", device)) == [(Outcome.ERASED, None)]
    assert checks(pipeline.run())["counts_reconcile"]
    assert [row[0] for row in pipeline.rows()] == [BERT] * 4
    _assert_nothing_left_of_anna(pipeline)
    totals = pipeline.totals()
    assert (totals.pending, totals.erased, totals.loaded, totals.rejected) == (0, 20, 4, 3)
    assert checks(pipeline.run({"masked_logins": {"reprocess": True}}))["counts_reconcile"]
    assert [row[0] for row in pipeline.rows()] == [BERT] * 4
    _assert_counts_add_up(pipeline)


def test_a_value_that_someone_else_has_in_a_pending_batch_stays(pipeline: Pipeline) -> None:
    pipeline.land(_messages([_annas(), _annas(ip=SHARED_IP)]))
    _load(pipeline)
    pipeline.land(_messages([_berts(), _annas(ip=SHARED_IP, device_id="another")]))
    pipeline.land(_messages([_berts(device_id=ANNA_DEVICE)]))
    _mask(pipeline)
    dry = _erasure(pipeline).dry_run()
    assert _erasure(pipeline).run("she asked") == dry
    assert (dry.vault_entries, dry.vault_entries_kept) == (2, 2)
    tokens = [_token(pipeline, "ip", SHARED_IP), _token(pipeline, "device_id", ANNA_DEVICE)]
    assert [outcome for outcome, _ in _recovered(pipeline, *tokens)] == [Outcome.RECOVERED] * 2
    _load(pipeline)
    assert [outcome for outcome, _ in _recovered(pipeline, *tokens)] == [Outcome.RECOVERED] * 2
    assert len(pipeline.rows()) == 2
    assert len(pipeline.query("SELECT FROM loginetl.erased_tokens")) == 2


@pytest.mark.parametrize("state", ["loaded", "masked", "landed"])
def test_a_dry_run_changes_nothing_and_counts_as_the_run_after_it(pipeline: Pipeline, state: str) -> None:
    pipeline.land(_messages([*ANNAS, *BERTS, "{}"]))
    if state != "landed":
        _mask(pipeline)
    if state == "loaded":
        _load(pipeline)
    before = _everything(pipeline)
    dry = _erasure(pipeline).dry_run()
    if state != "landed":
        assert _everything(pipeline) == before
    assert _erasure(pipeline).run("she asked") == dry
    assert dry.landed_messages == 4
    _assert_nothing_left_of_anna(pipeline)


def test_erasing_again_removes_nothing_and_is_no_error(pipeline: Pipeline) -> None:
    pipeline.land(_messages([*ANNAS, *BERTS]))
    _load(pipeline)
    _erasure(pipeline).run("she asked")
    before = pipeline.rows(), pipeline.totals(), _landed(pipeline)
    assert _erasure(pipeline).run("she asked again") == ErasureTotals()
    assert _erasure(pipeline, "nobody at all").run("a mistake") == ErasureTotals()
    assert (pipeline.rows(), pipeline.totals(), _landed(pipeline)) == before


def test_an_erasure_that_was_killed_is_finished_by_another(pipeline: Pipeline) -> None:
    pipeline.land(_messages([_annas(), _berts()]))
    _load(pipeline)
    pipeline.land(_messages([_annas(ip="203.0.113.78", device_id="anna-device-2"), *ANNAS, *BERTS]))
    pipeline.land(_messages([_annas(ip="203.0.113.79", device_id="anna-device-3"), *BERTS]))
    _mask(pipeline)

    def kill_after(batches: int) -> Callable[[int, int], None]:
        def kill(done: int, total: int) -> None:
            assert total == 3
            if done == batches:
                raise _KilledError

        return kill

    for searched in (1, 2, 3):  # after the last the vault's values are named by nothing else any more
        with pytest.raises(_KilledError):
            _erasure(pipeline).run("she asked", kill_after(searched))
        _assert_counts_add_up(pipeline)
    _erasure(pipeline).run("she asked")
    _assert_nothing_left_of_anna(pipeline)
    for number in (77, 78, 79):
        assert _recovered(pipeline, _token(pipeline, "ip", f"203.0.113.{number}")) == [(Outcome.ERASED, None)]
    values = pipeline.query("SELECT count(*) FROM loginetl.pii_vault")[0][0]
    assert values == 2, "Bert's address and device"
    assert checks(pipeline.run())["counts_reconcile"]
    _assert_counts_add_up(pipeline)


def test_what_one_erasure_left_half_done_another_persons_does_not_spoil(pipeline: Pipeline) -> None:
    pipeline.land(_messages([_annas(), _annas(ip=SHARED_IP), _berts()]))
    _load(pipeline)

    def kill(done: int, total: int) -> None:
        raise _KilledError

    with pytest.raises(_KilledError):
        _erasure(pipeline).run("she asked", kill)
    _erasure(pipeline, BERT).run("he asked")
    assert _recovered(pipeline, _token(pipeline, "ip", ANNA_IP)) == [(Outcome.RECOVERED, ANNA_IP)]
    _erasure(pipeline).run("she asked")
    _assert_nothing_left_of_anna(pipeline)
    assert pipeline.query("SELECT FROM loginetl.pii_vault") == []
    assert pipeline.query("SELECT FROM loginetl.vault_data_keys") == []


def test_a_redelivered_message_of_an_erased_person_comes_to_nothing(pipeline: Pipeline) -> None:
    messages = _messages([*ANNAS, *BERTS])
    pipeline.land(messages)
    _load(pipeline)
    _erasure(pipeline).run("she asked")
    pipeline.land(messages)
    assert checks(pipeline.run())["counts_reconcile"]
    assert [row[0] for row in pipeline.rows()] == [BERT]
    assert len(pipeline.query("SELECT FROM loginetl.rejected_logins")) == 1
    assert pipeline.query("SELECT count(*) FROM loginetl.pii_vault")[0][0] == 2
    assert _recovered(pipeline, _token(pipeline, "ip", ANNA_IP)) == [(Outcome.ERASED, None)]
    totals = pipeline.totals()
    assert (totals.loaded, totals.rejected, totals.erased, totals.duplicates) == (1, 1, 4, 6)
    assert _erasure(pipeline).run("what came again").landed_messages == 4
    _assert_nothing_left_of_anna(pipeline)
    assert checks(pipeline.run({"masked_logins": {"reprocess": True}}))["counts_reconcile"]
    _assert_counts_add_up(pipeline)


def test_a_message_that_the_person_sends_later_is_loaded_and_can_be_recovered(pipeline: Pipeline) -> None:
    pipeline.land(_messages(ANNAS))
    _load(pipeline)
    _erasure(pipeline).run("she asked")
    assert len(pipeline.query("SELECT FROM loginetl.erased_tokens")) == 3
    pipeline.land(_messages([_annas()]))
    _load(pipeline)
    assert [row[0] for row in pipeline.rows()] == [ANNA]
    tokens = [_token(pipeline, "ip", ANNA_IP), _token(pipeline, "device_id", ANNA_DEVICE)]
    assert _recovered(pipeline, *tokens) == [(Outcome.RECOVERED, ANNA_IP), (Outcome.RECOVERED, ANNA_DEVICE)]
    left = pipeline.query("SELECT token FROM loginetl.erased_tokens")
    assert [row.token for row in left] == [_token(pipeline, "ip", SHARED_IP)]


def test_whoever_has_a_device_or_an_address_is_erased_by_its_token(pipeline: Pipeline) -> None:
    bodies = [
        _annas(),
        _annas(device_id="anna-device-2"),
        _berts(device_id=f"  {ANNA_DEVICE} "),
        _berts(ip=ANNA_IP, app_version="x"),
        login(),
        f'{{"device_id": "{ANNA_DEVICE}"',
    ]
    pipeline.land(_messages(bodies))
    _load(pipeline)
    tokens = [_token(pipeline, "device_id", ANNA_DEVICE)]
    dry = _erasure(pipeline, None, tokens).dry_run()
    counts = _erasure(pipeline, None, tokens).run("a stolen device")
    assert counts == dry
    assert (counts.rows, counts.landed_messages, counts.rejected_bodies) == (2, 3, 1)
    assert ANNA_DEVICE not in _landed(pipeline)
    assert sorted(row[0] for row in pipeline.rows()) == [ANNA, "u-1"]
    assert (counts.vault_entries, counts.vault_entries_kept) == (2, 1), "her address stands in another row"
    assert _erasure(pipeline, None, [_token(pipeline, "ip", ANNA_IP)]).run("the address").rows == 1
    assert ANNA_IP not in _landed(pipeline)
    assert [row[0] for row in pipeline.rows()] == ["u-1"]
    _assert_counts_add_up(pipeline)


@pytest.mark.parametrize(
    "body",
    [
        '{"user_id": "4711", "ip": }',
        '{"user_id": 4711, "ip": "192.0.2.1"}',
        '{"user": {"id": 4711}, "ip": "192.0.2.1"}',
        '{"user_id": "4711',
        '{"user_id":4711',
        '{"user_id": "someone", "user_id": "4711"}',
        json.dumps({"Type": "Notification", "Message": '{"user_id": "4711", "ip": 5}'}),
        json.dumps({"Type": "Notification", "Message": '{"user_id": 4711}'}),
    ],
)
def test_a_bad_body_goes_however_it_names_the_person(pipeline: Pipeline, body: str) -> None:
    others = ['{"user_id": 47110}', '{"user_id": 14711}', '{"user_id": "47110', '{"user_id": "4711-2"}', "{}"]
    pipeline.land(_messages([body, *others]))
    _mask(pipeline)
    counts = _erasure(pipeline, "4711").run("he asked")
    assert (counts.rejected_bodies, counts.landed_messages) == (1, 1)
    assert len(pipeline.query("SELECT FROM loginetl.rejected_logins")) == len(others)


def _escaped(value: str) -> str:
    """A spelling of a string, without its quotes, that no serialiser chooses."""
    return "".join(f"\\u{ord(character):04X}" for character in value)


@pytest.mark.parametrize(
    "body",
    [
        r'{"user_id": "ann\u002Bx@example.org", "ip": "198.51.100.7"}',
        r'{"user_id": "ann\u002bx@ex\u0061mple.org"}',
        f'{{"user_id": "{_escaped("ann+x@example.org")}", "ip": "198.51.100.7"',
        f'{{"{_escaped("ann+x@example.org")}": 1}}',
        '{"x": ' * 600 + f'"{_escaped("ann+x@example.org")}"' + "}" * 600,
        f'{{"user_id": "{_escaped("ann+x@example.org")}", "user_id": "another"}}',
        json.dumps({"Type": "Notification", "Message": r'{"user_id": "ann\u002Bx@example.org"}'}),
        f'{{"Type": "Notification", "Message": "{_escaped(json.dumps({"user_id": "ann+x@example.org"}))}"}}',
        f'{{"Type": "Notification", "Message": "{_escaped(json.dumps({"user_id": "ann+x@example.org"})[:-1])}"}}',
    ],
)
def test_a_bad_body_goes_however_it_spells_the_id(pipeline: Pipeline, body: str) -> None:
    others = [r'{"user_id": "ann\u002Bx@example.org2"}', r'{"user_id": "dann\u002Bx@example.org"}', r'{"\ud800": "\"}']
    pipeline.land(_messages([body, *others]))
    _mask(pipeline)
    counts = _erasure(pipeline, "ann+x@example.org").run("she asked")
    assert (counts.rejected_bodies, counts.landed_messages) == (1, 1)
    assert len(pipeline.query("SELECT FROM loginetl.rejected_logins")) == len(others)


def test_a_bad_body_goes_however_it_spells_a_number(pipeline: Pipeline) -> None:
    bodies = [f'{{"user_{_escaped("id")}": 4711}}', f'{{"Message": "{_escaped(json.dumps({"user_id": 4711}))}"}}']
    pipeline.land(_messages([*bodies, f'{{"{_escaped("size")}": 4711}}', f'{{"user_{_escaped("id")}": 47110}}']))
    _mask(pipeline)
    assert _erasure(pipeline, "4711").run("he asked").rejected_bodies == 2


def test_a_bad_body_goes_however_it_spells_a_device_or_an_address(pipeline: Pipeline) -> None:
    bodies = [
        f'{{"device_id": "{_escaped(ANNA_DEVICE)}"}}',
        f'{{"device_id": "{_escaped(ANNA_DEVICE)}", "\\ud800": 1',
        f'{{"ip": "{_escaped("::ffff:" + ANNA_IP)}"}}',
        f'{{"Type": "Notification", "Message": "{_escaped(json.dumps({"ip": ANNA_IP}))}"}}',
        f'{{"a"": "{ANNA_DEVICE}"}}',  # one quote too many
    ]
    pipeline.land(_messages([*bodies, f'{{"device_id": "{_escaped(ANNA_DEVICE)}0"}}']))
    _mask(pipeline)
    tokens = [_token(pipeline, "device_id", ANNA_DEVICE), _token(pipeline, "ip", ANNA_IP)]
    assert _erasure(pipeline, None, tokens).run("a stolen device").rejected_bodies == len(bodies)
    assert len(pipeline.query("SELECT FROM loginetl.rejected_logins")) == 1


def test_a_bad_bodys_strings_are_made_canonical_together(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    frames: list[pl.Expr] = []

    def count(column: pl.Expr) -> pl.Expr:
        frames.append(column)
        return canonical_text(column)

    monkeypatch.setattr("loginetl_assets.logins.canonical.canonical_text", count)
    subject = subject_of(None, [_token(pipeline, "device_id", ANNA_DEVICE)], pipeline.services.keyring)
    others = [f"{name}-{number}" for name in ("a", "b") for number in range(500)]
    assert not subject.matches(json.dumps(others).encode())
    assert len(frames) == 1
    assert subject.matches(json.dumps([*others, f" {ANNA_DEVICE}\t"]).encode())
    assert len(frames) == 2


def test_large_rejected_bodies_are_read_a_few_at_a_time(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    most = 10_000
    pages: list[list[int]] = []

    def page(connection: Connection, **bounds: Any) -> Sequence[Row[Any]]:
        found = rejections_page(connection, **bounds)
        pages.append([len(row.encrypted_body) for row in found])
        return found

    rejections_page = rejections.page
    monkeypatch.setattr(rejections, "page", page)
    monkeypatch.setattr("loginetl_assets.privacy.search.MAX_PAGE_BYTES", most)
    sizes = [100, 4_000, 4_000, 4_000, 3 * most, 100, 3 * most, 4_000]
    pipeline.land(_messages([f'{{"user_id": "{ANNA}", "x": "{"x" * size}"' for size in sizes]))
    _mask(pipeline)
    assert _erasure(pipeline).dry_run().rejected_bodies == len(sizes)
    assert sum(map(len, pages)) == len(sizes)
    assert all(sum(page[:-1]) < most for page in pages)
    assert pages[-1] == [], "read to the end"


def test_a_batch_whose_masked_file_is_lost_is_cleaned_all_the_same(pipeline: Pipeline) -> None:
    pipeline.land(_messages([*ANNAS, *BERTS]))
    _load(pipeline)
    pipeline.land(_messages([*ANNAS, *BERTS]))
    _mask(pipeline)
    landing = pipeline.services.landing()
    landing.delete(path for path, _ in list(landing.list(MASKED)))
    assert _erasure(pipeline).run("she asked").unreadable_batches == 0
    pipeline.process_landed(reprocess=True)
    assert [row[0] for row in pipeline.rows()] == [BERT] * 2
    _assert_nothing_left_of_anna(pipeline)
    _assert_counts_add_up(pipeline)


def test_a_batch_that_cannot_be_opened_is_counted_and_the_others_are_cleaned(pipeline: Pipeline) -> None:
    pipeline.land(_messages(ANNAS))
    _load(pipeline)
    (lost,) = pipeline.query("SELECT object_path FROM loginetl.batches")[0]
    landing = pipeline.services.landing()
    landing.delete([lost])
    landing.put(lost, b"damaged")
    pipeline.land(_messages(ANNAS))
    counts = _erasure(pipeline).run("she asked")
    assert (counts.unreadable_batches, counts.batches, counts.rows, counts.rejected_bodies) == (1, 1, 2, 2)
    assert pipeline.query("SELECT FROM loginetl.rejected_logins") == []
    assert pipeline.query("SELECT FROM loginetl.pii_vault") == []
    _assert_counts_add_up(pipeline)


def test_while_the_masking_key_is_rotated_a_value_goes_under_both_tokens(pipeline: Pipeline) -> None:
    pipeline.land(_messages([_annas(), _annas(ip=SHARED_IP), _berts()]))
    _load(pipeline)
    old = {name: _token(pipeline, "ip", name) for name in (ANNA_IP, SHARED_IP)}
    keyring = pipeline.services.keyring
    rotated = with_new_primary(keyring.handle(KeysetRole.MASKING), TEMPLATES[KeysetRole.MASKING])
    replace_keyset("", keyring.source(KeysetRole.MASKING), keyset_json(rotated))
    services = Services(pipeline.settings)
    with pytest.raises(_KilledError):

        def kill(step: str, done: int, total: int) -> None:
            raise _KilledError

        retokenize(
            services.database(), services.landing(), services.keyring, pipeline.services.officer(), reason="test",
            progress=kill,
        )  # fmt: skip
    assert len(pipeline.query("SELECT FROM loginetl.pii_vault")) == 8, "four values under two tokens each"
    pipeline.execute("DELETE FROM loginetl.batches")  # as after retention: only the rows name the values now
    pipeline.services.landing().delete([path for prefix in (BATCHES, MASKED) for path, _ in _listed(pipeline, prefix)])
    counts = _erasure(pipeline).run("she asked")
    assert (counts.vault_entries, counts.vault_entries_kept) == (4, 2)
    assert [outcome for outcome, _ in _recovered(pipeline, _token(pipeline, "ip", ANNA_IP))] == [Outcome.ERASED]
    assert [outcome for outcome, _ in _recovered(pipeline, old[ANNA_IP])] == [Outcome.ERASED]
    for token in (old[SHARED_IP], _token(pipeline, "ip", SHARED_IP)):
        assert _recovered(pipeline, token) == [(Outcome.RECOVERED, SHARED_IP)]
    assert _erasure(pipeline, None, [_token(pipeline, "ip", SHARED_IP)]).run("by the new token").rows == 1
    assert pipeline.rows() == []
    assert pipeline.query("SELECT FROM loginetl.pii_vault") == []


def _listed(pipeline: Pipeline, prefix: str) -> list[tuple[str, object]]:
    return list(pipeline.services.landing().list(prefix))


def test_a_row_without_a_user_counts_as_someone_elses(pipeline: Pipeline) -> None:
    pipeline.land(_messages([_annas()]))
    _load(pipeline)
    token = _token(pipeline, "ip", ANNA_IP)
    pipeline.execute("INSERT INTO user_logins (masked_ip) VALUES (:token)", token=token)
    _erasure(pipeline).run("she asked")
    assert _recovered(pipeline, token) == [(Outcome.RECOVERED, ANNA_IP)]


def test_the_log_says_what_was_asked_and_done_and_names_nobody(pipeline: Pipeline) -> None:
    pipeline.land(_messages([*ANNAS, *BERTS]))
    _load(pipeline)
    counts = _erasure(pipeline).run("ticket 12")
    log = pipeline.query("SELECT action, reason, tokens, counts FROM loginetl.pii_access_log ORDER BY access_id")
    assert [(row.action, row.reason) for row in log] == [("erase", "ticket 12"), ("erased", "ticket 12")]
    assert [row.counts for row in log] == [{}, {name: count for name, count in asdict(counts).items() if count}]
    assert log[0].tokens == log[1].tokens == [_token(pipeline, "user_id", ANNA)]
    everything = str(pipeline.query("SELECT * FROM loginetl.pii_access_log"))
    assert not any(value in everything for value in (ANNA, ANNA_IP, ANNA_DEVICE))


def test_the_log_names_the_number_of_a_user_without_a_name(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(uid: int) -> None:
        raise KeyError(uid)

    for variable in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr("pwd.getpwuid", unknown)
    _erasure(pipeline).run("ticket 12")
    log = pipeline.query("SELECT claimed_user FROM loginetl.pii_access_log")
    assert [row.claimed_user for row in log] == [f"uid {os.getuid()}"] * 2


def test_the_request_is_logged_before_anything_is_removed(pipeline: Pipeline) -> None:
    pipeline.land(_messages(ANNAS))
    _load(pipeline)
    seen: list[Any] = []

    def look(done: int, total: int) -> None:
        seen.extend(pipeline.query("SELECT action FROM loginetl.pii_access_log"))
        raise _KilledError

    with pytest.raises(_KilledError):
        _erasure(pipeline).run("she asked", look)
    assert [row.action for row in seen] == ["erase"]


@pytest.mark.parametrize("reason", ["", "  \n"])
def test_without_a_reason_nothing_happens(pipeline: Pipeline, reason: str) -> None:
    pipeline.land(_messages(ANNAS))
    _load(pipeline)
    before = _everything(pipeline)
    with pytest.raises(SettingsError, match="reason"):
        _erasure(pipeline).run(reason)
    assert _everything(pipeline) == before


def test_nobody_and_both_ways_at_once_are_refused(pipeline: Pipeline) -> None:
    for user_id, tokens in ((None, []), ("", []), (ANNA, ["1.token"])):
        with pytest.raises(SettingsError, match="name whom to erase"):
            subject_of(user_id, tokens, pipeline.services.keyring)


def test_only_what_must_be_touched_is(pipeline: Pipeline) -> None:
    pipeline.execute(
        "INSERT INTO user_logins SELECT 'u-' || n % 20000, 'ios', '1.ip-' || n % 30000, '1.device-' || n % 40000, 'RU',"
        " 2003000, '2024-01-01' FROM generate_series(1, 100000) n"
    )
    pipeline.execute("ANALYZE user_logins")
    keyring = pipeline.services.keyring
    for subject, indexes in (
        (subject_of("u-77", [], keyring), {"user_logins_by_user"}),
        (subject_of(None, ["1.ip-5", "1.device-5"], keyring), {"user_logins_by_ip", "user_logins_by_device"}),
    ):
        with pipeline.services.database().transaction() as connection:
            plan = connection.execute(
                text(f"EXPLAIN (FORMAT JSON) DELETE FROM user_logins WHERE {subject.rows.condition}"),  # noqa: S608 - a constant
                subject.rows.values,
            ).scalar_one()
        nodes = list(_nodes(plan[0]["Plan"]))
        assert {node["Index Name"] for node in nodes if "Index Name" in node} == indexes
        assert "Seq Scan" not in {node["Node Type"] for node in nodes}
    assert _erasure(pipeline, "u-77").run("he asked").rows == 5
    assert len(pipeline.query("SELECT FROM user_logins")) == 99_995


def _nodes(plan: dict[str, Any]) -> Iterable[dict[str, Any]]:
    yield plan
    for inner in plan.get("Plans", ()):
        yield from _nodes(inner)


def test_the_command_shows_then_erases(pipeline: Pipeline) -> None:
    pipeline.land(_messages([*ANNAS, *BERTS]))
    _load(pipeline)

    def loginetl(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(Path(sys.executable).parent / "loginetl"), "erase", "--user-id", *arguments],
            input=ANNA,
            env={"PATH": "/usr/bin:/bin", "COLUMNS": "200"} | pipeline.settings.as_environment(),
            capture_output=True,
            text=True,
            check=False,
        )

    shown = loginetl("--dry-run")
    assert shown.returncode == 0, shown.stderr
    assert "Would be removed" in shown.stdout
    assert len(pipeline.rows()) == 3
    without_reason = loginetl("--yes")
    assert (without_reason.returncode, "--reason" in without_reason.stderr) == (2, True)
    assert len(pipeline.rows()) == 3
    done = loginetl("--yes", "--reason", "ticket 12")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[1:] == shown.stdout.splitlines()[1:]
    _assert_nothing_left_of_anna(pipeline)
    said = shown.stdout + shown.stderr + done.stdout + done.stderr
    assert not any(value in said for value in (ANNA, ANNA_IP, ANNA_DEVICE))
