"""Hostile bodies: each ends as the corpus says, whatever stands beside it and whichever way it comes."""

import json
import re
import time
from collections.abc import Callable, Sequence
from datetime import date
from typing import Any
from uuid import uuid4

import polars as pl
import pytest
import tink
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tink import prf

from loginetl_assets.logins.contract import ADOPTED_COLUMNS, COLUMN_NAMES, FIELD_NAMES, MAX_LENGTHS
from loginetl_assets.logins.encryption import decrypt
from loginetl_assets.logins.masking import MASKED_SCHEMA, MaskedBatch, mask_batch
from loginetl_assets.logins.message import QueuedMessage
from loginetl_assets.logins.rejection import Reason, Rejection
from loginetl_assets.logins.tokens import TOKEN_PATTERN, Tokenizer
from loginetl_assets.storage import batches
from loginetl_assets.storage.batches import BatchState
from loginetl_assets.storage.login_table import Loaded, load_logins
from loginetl_assets_tests.support.corpus import CORPUS, FLAT, GROWING, MIB, VALUES, Hostile, Row, good, sns
from loginetl_assets_tests.support.pipeline import Pipeline

prf.register()
_KEYS = tink.new_keyset_handle(prf.prf_key_templates.HMAC_SHA256).primitive(prf.PrfSet)
TOKENIZER = Tokenizer(_KEYS.primary_id(), _KEYS.primary())

NOON = 1_750_939_200_000  # 2025-06-26 12:00 UTC
TODAY = date(2025, 6, 26)

# "A message can include only XML, JSON, and unformatted text. The following Unicode characters are allowed" (SQS's API
# reference, SendMessage), and at least one of them.
OF_SQS = re.compile("[\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]+")

reproducible = settings(
    derandomize=True, database=None, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def sent(body: bytes) -> QueuedMessage:
    return QueuedMessage(str(uuid4()), NOON, body)


def expected_row(row: Row, tokenizer: Tokenizer) -> tuple[Any, ...]:
    """The row of `user_logins`, the date left out."""
    ip, device_id = tokenizer.token("ip", row.ip), tokenizer.token("device_id", row.device_id)
    return (row.user_id, row.device_type, ip, device_id, row.locale, row.app_version)


def outcomes(batch: MaskedBatch) -> dict[str, tuple[Any, ...] | Rejection]:
    """What became of each message, by its id."""
    rows = batch.logins.select("message_uuid", *ADOPTED_COLUMNS).rows()
    assert all(row[-1] == TODAY for row in rows)
    rejected = {one.message.message_id: one.rejection for one in batch.rejected}
    assert len(rows) + len(rejected) == len({row[0] for row in rows} | rejected.keys()), "one outcome a message"
    return {**{row[0]: row[1:-1] for row in rows}, **rejected}


def expected(hostile: Hostile) -> tuple[Any, ...] | Rejection:
    return expected_row(hostile.outcome, TOKENIZER) if isinstance(hostile.outcome, Row) else hostile.outcome


# In memory


@pytest.mark.parametrize("name", CORPUS)
def test_a_hostile_body_alone_has_its_outcome(name: str) -> None:
    message = sent(CORPUS[name].body)

    batch = mask_batch([message], TOKENIZER)

    assert outcomes(batch) == {message.message_id: expected(CORPUS[name])}
    if isinstance(outcome := CORPUS[name].outcome, Row):
        assert sorted(batch.vault.select("field", "value").rows()) == [
            ("device_id", outcome.device_id),
            ("ip", outcome.ip),
        ]
    else:
        assert batch.vault.is_empty()


@pytest.mark.parametrize("backwards", [False, True])
def test_hostile_bodies_change_nothing_for_each_other(backwards: bool) -> None:
    wanted = {str(uuid4()): hostile for hostile in CORPUS.values()}
    messages = [QueuedMessage(message_id, NOON, hostile.body) for message_id, hostile in wanted.items()]

    batch = mask_batch(messages[::-1] if backwards else messages, TOKENIZER)

    got = outcomes(batch)
    assert {message_id: expected(hostile) for message_id, hostile in wanted.items()} == got


def test_the_corpus_has_every_reason_and_the_borders() -> None:
    reasons = {hostile.outcome.reason for hostile in CORPUS.values() if isinstance(hostile.outcome, Rejection)}

    # A setting brings the one about, the users' own table the other: see test_message and test_refused_rows.
    assert reasons == set(Reason) - {Reason.UNKNOWN_FIELD, Reason.REFUSED_BY_TABLE}
    assert max(len(hostile.body) for hostile in CORPUS.values() if can_be_sent(hostile.body)) == MIB


# Through real services


def can_be_sent(body: bytes) -> bool:
    """Whether SQS takes the body."""
    try:
        text = body.decode()
    except UnicodeDecodeError:
        return False
    return len(body) <= MIB and OF_SQS.fullmatch(text) is not None


def in_calls(bodies: Sequence[bytes]) -> list[list[str]]:
    """Bodies in tens, and long ones alone: SQS takes 1 MiB a call as well."""
    short = [body.decode() for body in bodies if len(body) < MIB // 10]
    return [short, *([body.decode()] for body in bodies if len(body) >= MIB // 10)]


def rejected(pipeline: Pipeline) -> dict[bytes, tuple[str, str | None]]:
    """Every rejected body, opened, with its reason and field."""
    found = pipeline.query("SELECT message_uuid, reason, field, encrypted_body FROM loginetl.rejected_logins")
    key = pipeline.services.keyring.rejects
    return {decrypt(key, bytes(row.encrypted_body), str(row.message_uuid)): (row.reason, row.field) for row in found}


def test_all_hostile_bodies_together_end_in_postgres_as_they_were_sent(pipeline: Pipeline) -> None:
    by_queue = [hostile.body for hostile in CORPUS.values() if can_be_sent(hostile.body)]
    by_landing = [hostile.body for hostile in CORPUS.values() if not can_be_sent(hostile.body)]
    assert len(by_queue) > 300
    assert len(by_landing) > 20
    pipeline.land([sent(body) for body in by_landing])
    for bodies in in_calls(by_queue):
        pipeline.send(bodies)

    pipeline.process()

    wanted = [hostile.outcome for hostile in CORPUS.values()]
    tokenizer = pipeline.services.keyring.tokenizer
    assert sorted((row[:-1] for row in pipeline.rows()), key=repr) == sorted(
        (expected_row(one, tokenizer) for one in wanted if isinstance(one, Row)), key=repr
    )
    assert rejected(pipeline) == {
        hostile.body: (hostile.outcome.reason, hostile.outcome.field)
        for hostile in CORPUS.values()
        if isinstance(hostile.outcome, Rejection)
    }
    totals = pipeline.totals()
    assert (totals.messages, totals.pending, totals.duplicates) == (len(CORPUS), 0, 0)


# Any mixture

TEXTS = st.sampled_from(VALUES) | st.text(st.characters(exclude_categories=()), max_size=8)
LITERALS = TEXTS.map(json.dumps) | st.sampled_from(
    ["null", "true", "0", "-0", "1e999", "NaN", "[]", "{}", '{"id":"x"}']
)


def flipped(data: st.DataObject, body: bytes) -> bytes:
    place = data.draw(st.integers(0, len(body) - 1))
    return body[:place] + bytes([body[place] ^ 1 << data.draw(st.integers(0, 7))]) + body[place + 1 :]


def cut(data: st.DataObject, body: bytes) -> bytes:
    return body[: data.draw(st.integers(0, len(body)))]


def with_a_pair_more(data: st.DataObject, body: bytes) -> bytes:
    name = data.draw(st.sampled_from([*FIELD_NAMES, "x", "device", "", r"\u0069p", "Type", "Message"]))
    return body[:-1] + f', "{name}": {data.draw(LITERALS)}}}'.encode()


def wrapped(data: st.DataObject, body: bytes) -> bytes:
    return sns(body.decode("utf-8", "replace"))


def put_below(data: st.DataObject, body: bytes) -> bytes:
    return b'{"' + data.draw(st.sampled_from([b"x", b"device", b"Message"])) + b'": ' + body + b"}"


def with_a_part_of_another(data: st.DataObject, body: bytes) -> bytes:
    other = data.draw(st.sampled_from(SHORT)).body
    place, start = data.draw(st.integers(0, len(body))), data.draw(st.integers(0, len(other)))
    return body[:place] + other[start : start + 12] + body[place:]


CHANGES: list[Callable[[st.DataObject, bytes], bytes]] = [
    flipped, cut, with_a_pair_more, wrapped, put_below, with_a_part_of_another,
]  # fmt: skip
SHORT = [hostile for hostile in CORPUS.values() if 0 < len(hostile.body) < 4_000]

# What a message's address and device carry in the batches below, and nothing else does.
DEVICE_MARK, ADDRESS_MARK = "dev-5ee4", "192.0.2."


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """A good login with hostile values, whose text is then damaged up to twice."""
    data = draw(st.data())
    number = draw(st.integers(0, 255))
    fields = FLAT | {"ip": f"{ADDRESS_MARK}{number}", "device_id": f"{DEVICE_MARK}-{number}"}
    for name in draw(st.lists(st.sampled_from(FIELD_NAMES), max_size=2)):
        fields[name] = draw(TEXTS)
    body = json.dumps(fields, ensure_ascii=draw(st.booleans())).encode("utf-8", "surrogatepass")
    for change in draw(st.lists(st.sampled_from(CHANGES), max_size=2)):
        body = change(data, body) if body else body
    return body


def assert_sound(batch: MaskedBatch, messages: Sequence[QueuedMessage]) -> None:
    got = outcomes(batch)
    assert got.keys() == {message.message_id for message in messages}
    for one in batch.rejected:
        assert one.rejection.reason in Reason
        assert one.rejection.field in {None, *FIELD_NAMES}
    assert batch.logins.schema == MASKED_SCHEMA
    for row in batch.logins.iter_rows(named=True):
        assert re.fullmatch(TOKEN_PATTERN[1:-1], row["masked_ip"])
        assert re.fullmatch(TOKEN_PATTERN[1:-1], row["masked_device_id"])
        assert row["app_version"] <= 2_146_999_999
        for column in ("user_id", "device_type", "locale"):
            text = row[column] or "-"
            assert 0 < len(text) <= MAX_LENGTHS[column]
            assert "\0" not in text
            text.encode()  # no lone surrogate
    shown = batch.logins.drop("message_uuid").write_ndjson() + repr(batch)
    assert DEVICE_MARK not in shown
    assert ADDRESS_MARK not in shown


@settings(reproducible, max_examples=150)
@given(st.lists(mutated(), max_size=12), st.lists(st.sampled_from(SHORT), min_size=1, max_size=6))
def test_any_mixture_is_sound_and_hostile_neighbours_change_nothing(
    bodies: list[bytes], neighbours: list[Hostile]
) -> None:
    known = {str(uuid4()): hostile for hostile in neighbours}
    messages = [*map(sent, bodies), *(QueuedMessage(key, NOON, hostile.body) for key, hostile in known.items())]

    batch = mask_batch(messages, TOKENIZER)

    assert_sound(batch, messages)
    got = outcomes(batch)
    assert {key: got[key] for key in known} == {key: expected(hostile) for key, hostile in known.items()}


@settings(reproducible, max_examples=150)
@given(st.lists(mutated(), min_size=1, max_size=8))
def test_a_message_ends_in_a_batch_as_it_does_alone(bodies: list[bytes]) -> None:
    messages = [sent(body) for body in bodies]

    together = outcomes(mask_batch(messages, TOKENIZER))

    for message in messages:
        alone = outcomes(mask_batch([message], TOKENIZER))
        assert alone == {message.message_id: together[message.message_id]}


def test_what_is_mutated_is_accepted_often_and_rejected_for_many_reasons() -> None:
    """Guards the two tests above: a fuzzer whose examples all end alike tests nothing."""
    seen: list[str] = []

    @settings(reproducible, max_examples=300)
    @given(mutated())
    def look(body: bytes) -> None:
        (outcome,) = outcomes(mask_batch([sent(body)], TOKENIZER)).values()
        seen.append(outcome.reason if isinstance(outcome, Rejection) else "row")

    look()
    assert seen.count("row") > 50
    assert len(set(seen)) >= 8


WHOLE = st.fixed_dictionaries(
    {
        field: st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=MAX_LENGTHS[field])
        for field in ("user_id", "device_type", "device_id", "locale")
    }
)


@settings(reproducible, max_examples=12)
@given(st.lists(WHOLE, min_size=1, max_size=30), st.lists(st.sampled_from(SHORT), max_size=20))
def test_any_storable_text_is_read_back_from_postgres_as_it_was_sent(
    pipeline: Pipeline, logins: list[dict[str, str]], neighbours: list[Hostile]
) -> None:
    bodies = [*(good(**fields) for fields in logins), *(hostile.body for hostile in neighbours)]
    messages = [sent(body) for body in bodies]
    masked = mask_batch(messages, TOKENIZER).logins
    pipeline.execute("TRUNCATE user_logins, loginetl.batches CASCADE")
    with pipeline.services.database().transaction() as connection:
        batches.register_batch(
            connection,
            object_path=str(uuid4()),
            landing_key_id=0,
            messages=messages,
            bytes=0,
            run_id=None,
        )
        batch = batches.claim_batch(connection, [BatchState.LANDED])
        assert batch is not None
        assert load_logins(connection, batch, masked) == Loaded(masked.height, refused={})

    stored = pl.DataFrame(
        [tuple(row) for row in pipeline.query("SELECT * FROM user_logins")],
        schema={name: MASKED_SCHEMA[name] for name in COLUMN_NAMES},
        orient="row",
    )
    assert stored.sort(COLUMN_NAMES).equals(masked.select(COLUMN_NAMES).sort(COLUMN_NAMES))


# Time


def seconds(messages: Sequence[QueuedMessage]) -> float:
    started = time.process_time()
    mask_batch(messages, TOKENIZER)
    return time.process_time() - started


@pytest.mark.parametrize("shape", GROWING)
def test_a_body_of_1_mib_costs_what_sixteen_of_64_kib_cost(shape: str) -> None:
    """What takes quadratic time costs sixteen times as much; a busy machine, counted in CPU time, not five."""
    one = [sent(GROWING[shape](MIB))]
    sixteen = [sent(GROWING[shape](MIB // 16 + number)) for number in range(16)]

    assert any(seconds(one) < 5 * seconds(sixteen) for _ in range(3))
