import json
import time
import unicodedata
from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime
from importlib.resources import files
from typing import Any
from uuid import UUID, uuid4

import polars as pl
import pytest
import tink
from hypothesis import given, settings
from hypothesis import strategies as st
from tink import prf

from loginetl_assets.logins.contract import COLUMN_NAMES, FIELD_NAMES, FIELDS, MASKED_FIELDS, MAX_LENGTHS
from loginetl_assets.logins.masking import (
    MASKED_SCHEMA,
    MaskedBatch,
    MaskingRules,
    mask_batch,
    violations,
)
from loginetl_assets.logins.message import QueuedMessage, read_login
from loginetl_assets.logins.rejection import Reason, Rejection
from loginetl_assets.logins.tokens import Tokenizer

prf.register()

LOGIN = {
    "user_id": "424cdd21-063a-43a7-b91b-7ca1a833afae",
    "app_version": "2.3.0",
    "device_type": "android",
    "ip": "199.172.111.135",
    "locale": "RU",
    "device_id": "593-47-5928",
}
NOON = 1_750_939_200_000  # 2025-06-26 12:00 UTC


def new_tokenizer() -> Tokenizer:
    keys = tink.new_keyset_handle(prf.prf_key_templates.HMAC_SHA256).primitive(prf.PrfSet)
    return Tokenizer(keys.primary_id(), keys.primary())


TOKENIZER = new_tokenizer()


def message(body: bytes | None = None, *, sent_at_ms: int = NOON, **fields: object) -> QueuedMessage:
    """A message of its own id: the body as it is given, or the login with some fields replaced."""
    return QueuedMessage(str(uuid4()), sent_at_ms, json.dumps(LOGIN | fields).encode() if body is None else body)


def masked(*messages: QueuedMessage, **options: Any) -> MaskedBatch:
    return mask_batch(messages, TOKENIZER, MaskingRules(**options))


def only_row(batch: MaskedBatch) -> dict[str, Any]:
    assert batch.rejected == []
    return batch.logins.row(0, named=True)


def only_rejection(batch: MaskedBatch) -> Rejection:
    assert batch.logins.is_empty()
    (rejected,) = batch.rejected
    return rejected.rejection


@pytest.fixture(scope="module")
def sample() -> list[QueuedMessage]:
    lines = files("loginetl_assets.sample").joinpath("login_messages.jsonl").read_bytes().splitlines()
    return [message(line) for line in lines]


@pytest.fixture(scope="module")
def masked_sample(sample: Sequence[QueuedMessage]) -> MaskedBatch:
    return masked(*sample)


def test_the_sample_gives_99_logins_and_one_rejected(masked_sample: MaskedBatch) -> None:
    assert masked_sample.logins.height == 99
    assert [rejected.rejection for rejected in masked_sample.rejected] == [Rejection(Reason.NOT_A_LOGIN)]
    assert masked_sample.repeated == 0
    assert masked_sample.unknown_fields == 0
    assert not any(violations(masked_sample.logins).values())


def test_the_columns_are_those_of_the_schema(masked_sample: MaskedBatch) -> None:
    assert masked_sample.logins.schema == MASKED_SCHEMA
    assert masked_sample.logins.columns == ["message_uuid", "event_uuid", *COLUMN_NAMES]
    assert COLUMN_NAMES[:7] == (
        "user_id", "device_type", "masked_ip", "masked_device_id", "locale", "app_version", "create_date",
    )  # fmt: skip


def test_the_sample_s_vault_holds_each_address_and_device_once(masked_sample: MaskedBatch) -> None:
    vault = masked_sample.vault

    assert vault.schema == {"token": pl.String, "field": pl.String, "value": pl.String}
    assert dict(vault.group_by("field").len().iter_rows()) == {"ip": 91, "device_id": 84}
    assert vault["token"].n_unique() == vault.select("field", "value").n_unique() == 175


def test_the_sample_s_vault_leads_back_to_what_was_sent(
    sample: Sequence[QueuedMessage], masked_sample: MaskedBatch
) -> None:
    sent = {str(one.uuid): json.loads(one.body) for one in sample}
    values = {(field, token): value for token, field, value in masked_sample.vault.iter_rows()}
    values |= {(field, None): None for field in MASKED_FIELDS}  # of an optional field

    for row in masked_sample.logins.iter_rows(named=True):
        for field in MASKED_FIELDS:
            assert values[field, row[f"masked_{field}"]] == sent[row["message_uuid"]].get(field)


def test_no_masked_value_of_the_sample_stands_in_the_frame(masked_sample: MaskedBatch) -> None:
    text = masked_sample.logins.write_csv()

    assert [value for value in masked_sample.vault["value"] if value in text] == []


def test_a_login_is_masked() -> None:
    one = message()

    assert only_row(masked(one)) == {
        **dict.fromkeys(MASKED_SCHEMA),  # null, unless it is one of these
        "message_uuid": one.message_id,
        "user_id": LOGIN["user_id"],
        "device_type": "android",
        "masked_ip": TOKENIZER.token("ip", "199.172.111.135"),
        "masked_device_id": TOKENIZER.token("device_id", "593-47-5928"),
        "locale": "RU",
        "app_version": 2_003_000,
        "create_date": date(2025, 6, 26),
    }


OPTIONAL = [field.column.name for field in FIELDS if field.optional]
REQUIRED = [field.name for field in FIELDS if not field.optional]
VALUES_REJECTED: dict[str, tuple[dict[str, Any], Reason, str]] = {
    **{f"{field} empty": ({field: ""}, Reason.EMPTY, field) for field in REQUIRED},
    **{f"{field} white space": ({field: " \t\u00a0"}, Reason.EMPTY, field) for field in REQUIRED},
    **{f"{field} too long": ({field: "x" * (most + 1)}, Reason.TOO_LONG, field) for field, most in MAX_LENGTHS.items()},
    "no address": ({"ip": "localhost"}, Reason.BAD_IP, "ip"),
    "octal": ({"ip": "010.0.0.1"}, Reason.BAD_IP, "ip"),
    "a long address": ({"ip": "1" * 10_000}, Reason.BAD_IP, "ip"),
    "no version": ({"app_version": "2.3.0-beta"}, Reason.BAD_VERSION, "app_version"),
    "a version out of range": ({"app_version": "2147.0.0"}, Reason.BAD_VERSION, "app_version"),
    "the first fault": ({"device_id": "", "ip": "x", "app_version": "x"}, Reason.EMPTY, "device_id"),
}


@pytest.mark.parametrize(("fields", "reason", "field"), VALUES_REJECTED.values(), ids=VALUES_REJECTED)
def test_a_bad_value_is_rejected_for_its_reason(fields: dict[str, Any], reason: Reason, field: str) -> None:
    one = message(**fields)

    batch = masked(one)

    assert only_rejection(batch) == Rejection(reason, field)
    assert batch.rejected[0].message is one
    assert batch.vault.is_empty()  # a rejected message's values are encrypted with its body, not here


@pytest.mark.parametrize(
    "fields",
    [
        *({field: "é" * most} for field, most in MAX_LENGTHS.items()),
        {"device_id": f"  {'x' * 256}  "},
        {"device_id": "e\u0301" * 256},
    ],
)
def test_a_value_may_be_as_long_as_its_column_in_characters(fields: dict[str, Any]) -> None:
    assert only_row(masked(message(**fields)))


def test_the_widths_are_those_of_the_table() -> None:
    assert MAX_LENGTHS.items() >= {"user_id": 128, "device_type": 32, "locale": 32, "device_id": 256}.items()


@pytest.mark.parametrize(("locale", "stored"), [("", None), (None, None), ("RU", "RU"), (" ", " ")])
def test_an_empty_or_null_locale_is_null(locale: str | None, stored: str | None) -> None:
    assert only_row(masked(message(locale=locale)))["locale"] == stored


@pytest.mark.parametrize(
    ("field", "spellings"),
    [
        ("ip", ["2001:db8::1", " 2001:DB8:0:0:0:0:0:1 ", "2001:0db8::0:0001"]),
        ("ip", ["10.0.0.1", "::ffff:10.0.0.1", "::FFFF:a00:1\n"]),
        ("device_id", ["café", " cafe\u0301\t"]),
    ],
)
def test_every_spelling_of_a_value_has_one_token_and_one_vault_entry(field: str, spellings: list[str]) -> None:
    batch = masked(*(message(json.dumps(LOGIN | {field: spelling}).encode()) for spelling in spellings))

    assert batch.logins[f"masked_{field}"].to_list() == [TOKENIZER.token(field, spellings[0])] * len(spellings)
    assert batch.vault.filter(field=field)["value"].to_list() == [spellings[0]]


def test_the_same_text_as_address_and_device_has_two_tokens_and_two_entries() -> None:
    batch = masked(message(ip="10.0.0.1", device_id="10.0.0.1"))

    assert batch.vault["token"].n_unique() == 2
    assert batch.vault.select("field", "value").rows() == [("ip", "10.0.0.1"), ("device_id", "10.0.0.1")]


@pytest.fixture
def far_ahead(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A machine whose clock shows 14 hours more than UTC."""
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "Pacific/Kiritimati")
        time.tzset()
        yield
    time.tzset()


@pytest.mark.usefixtures("far_ahead")
@pytest.mark.parametrize(
    ("sent_at", "create_date"),
    [
        ("2025-06-25T23:59:59.999+00:00", date(2025, 6, 25)),
        ("2025-06-26T00:00:00.000+00:00", date(2025, 6, 26)),
        ("2025-06-26T23:59:59.999+00:00", date(2025, 6, 26)),
        ("2025-06-27T00:00:00.000+00:00", date(2025, 6, 27)),
        ("2024-02-29T12:00:00.000+00:00", date(2024, 2, 29)),
        ("2025-01-01T03:00:00.000+14:00", date(2024, 12, 31)),
        ("1970-01-01T00:00:00.000+00:00", date(1970, 1, 1)),
        ("1969-12-31T23:59:59.999+00:00", date(1969, 12, 31)),
    ],
)
def test_the_date_is_the_day_of_sending_in_utc(sent_at: str, create_date: date) -> None:
    sent_at_ms = round(datetime.fromisoformat(sent_at).timestamp() * 1_000)

    assert only_row(masked(message(sent_at_ms=sent_at_ms)))["create_date"] == create_date


@settings(deadline=None, max_examples=50)
@given(st.lists(st.datetimes(datetime(2000, 1, 1), datetime(2100, 1, 1)), min_size=1, max_size=20))  # noqa: DTZ001
def test_each_date_is_its_own_message_s(moments: list[datetime]) -> None:
    moments = [moment.replace(tzinfo=UTC) for moment in moments]

    batch = masked(*(message(sent_at_ms=int(moment.timestamp() * 1_000)) for moment in moments))

    assert batch.logins["create_date"].to_list() == [moment.date() for moment in moments]


def test_the_major_version_alone_is_an_option() -> None:
    assert only_row(masked(message(app_version="12.3.4"), major_only=True))["app_version"] == 12
    assert masked(message(), major_only=True).logins.schema == MASKED_SCHEMA
    assert not any(violations(masked(message(), major_only=True).logins).values())


def test_a_version_out_of_range_is_rejected_where_only_the_major_one_is_kept_too() -> None:
    batch = masked(message(app_version="1.1000"), major_only=True)

    assert only_rejection(batch) == Rejection(Reason.BAD_VERSION, "app_version")


def test_unknown_fields_are_counted_over_all_messages() -> None:
    batch = masked(message(x=1), message(), message(y=1, z={"a": 1, "b": 2}), message(b"{}"))

    assert batch.unknown_fields == 4
    assert batch.logins.height == 3


def test_unknown_fields_reject_their_message_where_that_is_asked_for() -> None:
    stranger, known = message(x=1), message()

    batch = masked(stranger, known, reject_unknown_fields=True)

    assert [one.message for one in batch.rejected] == [stranger]
    assert batch.rejected[0].rejection == Rejection(Reason.UNKNOWN_FIELD)
    assert batch.logins["message_uuid"].to_list() == [known.message_id]
    assert batch.unknown_fields == 0


def test_the_same_login_under_another_id_stays_a_row_of_its_own() -> None:
    batch = masked(message(), message())

    assert batch.logins.height == 2
    assert batch.logins.select(COLUMN_NAMES).n_unique() == 1
    assert batch.repeated == 0
    assert batch.vault.height == 2


def test_an_id_that_comes_again_is_passed_over() -> None:
    first = message(user_id="first")
    again = QueuedMessage(first.message_id.upper(), NOON + 1, message(user_id="again").body)

    batch = masked(first, again, again)

    assert only_row(batch)["user_id"] == "first"
    assert batch.logins.height == 1
    assert batch.repeated == 2


def test_a_rejected_message_that_comes_again_is_rejected_once() -> None:
    bad = message(b"{}")

    batch = masked(bad, bad)

    assert len(batch.rejected) == 1
    assert batch.repeated == 1


def test_a_message_id_that_is_no_uuid_is_kept_under_its_key() -> None:
    one = QueuedMessage("message-1", NOON, message().body)

    assert only_row(masked(one))["message_uuid"] == str(one.uuid)


@pytest.mark.parametrize("options", [{}, {"major_only": True}, {"reject_unknown_fields": True}])
@pytest.mark.parametrize("messages", [[], [message(b"{}")], [message(ip="x")]])
def test_a_batch_without_logins_has_empty_frames_of_the_same_columns(
    messages: list[QueuedMessage], options: dict[str, bool]
) -> None:
    batch = masked(*messages, **options)

    assert batch.logins.schema == MASKED_SCHEMA
    assert batch.logins.height == batch.vault.height == batch.repeated == 0
    assert batch.vault.schema == {"token": pl.String, "field": pl.String, "value": pl.String}
    assert len(batch.rejected) == len(messages)
    assert not any(violations(batch.logins).values())


def test_the_order_of_the_messages_is_kept() -> None:
    messages = [message(user_id=f"u{i}", ip=f"10.0.{i % 7}.1", locale=None) for i in range(500)]
    messages[100:100] = [message(b"{}"), message(ip="x")]

    logins = masked(*messages).logins

    assert logins["user_id"].to_list() == [f"u{i}" for i in range(500)]
    assert logins["message_uuid"].to_list() == [m.message_id for m in messages if m not in messages[100:102]]


# Few ids, so that they come again; any text in any field, so that polars meets what the world sends.
TEXTS = st.text(max_size=40)
ADDRESSES = st.ip_addresses().map(str)
BODIES = st.one_of(
    st.fixed_dictionaries({}, optional={"ip": ADDRESSES, "user_id": TEXTS, "device_id": TEXTS}),
    st.fixed_dictionaries({}, optional={"ip": ADDRESSES, "device_type": TEXTS, "locale": TEXTS}),
    st.fixed_dictionaries({}, optional={field: st.none() | TEXTS | st.integers() for field in (*FIELD_NAMES, "x")}),
).map(lambda fields: json.dumps(LOGIN | fields).encode())  # fmt: skip
MESSAGES = st.lists(
    st.builds(
        QueuedMessage,
        message_id=st.sampled_from([str(UUID(int=i)) for i in range(40)] + ["a", "b"]),
        sent_at_ms=st.integers(0, 4_102_444_800_000),
        body=BODIES | st.binary(max_size=40),
    ),
    max_size=40,
)


@settings(deadline=None, max_examples=150)
@given(MESSAGES, st.booleans(), st.booleans())
def test_every_message_of_any_mixture_is_accounted_for_once(
    messages: list[QueuedMessage], reject_unknown_fields: bool, major_only: bool
) -> None:
    batch = masked(*messages, reject_unknown_fields=reject_unknown_fields, major_only=major_only)

    loaded = [UUID(key) for key in batch.logins["message_uuid"]]
    rejected = [one.message.uuid for one in batch.rejected]
    assert len(loaded) + len(rejected) + batch.repeated == len(messages)
    assert set(loaded) | set(rejected) == {one.uuid for one in messages}
    assert len({*loaded, *rejected}) == len(loaded) + len(rejected)
    order = list(dict.fromkeys(one.uuid for one in messages))
    assert loaded == sorted(loaded, key=order.index)


@settings(deadline=None, max_examples=150)
@given(MESSAGES)
def test_every_frame_of_any_mixture_is_sound(messages: list[QueuedMessage]) -> None:
    batch = masked(*messages)

    assert batch.logins.schema == MASKED_SCHEMA
    assert batch.logins.drop("event_uuid", *OPTIONAL).null_count().sum_horizontal().item() == 0
    assert not any(violations(batch.logins).values())
    tokens = {token for field in MASKED_FIELDS for token in batch.logins[f"masked_{field}"].drop_nulls()}
    assert sorted(batch.vault["token"]) == sorted(tokens)
    for token, field, value in batch.vault.iter_rows():
        assert token == TOKENIZER.token(field, value)


@settings(deadline=None, max_examples=100)
@given(st.lists(st.tuples(st.ip_addresses(), st.uuids()), min_size=1, max_size=10))
def test_no_address_and_no_device_stands_in_the_masked_frame(pairs: list[tuple[object, UUID]]) -> None:
    batch = masked(*(message(user_id="u", ip=str(ip), device_id=f"é{device}") for ip, device in pairs))

    text = batch.logins.drop("message_uuid").write_csv()
    assert batch.logins.height == len(pairs)
    assert not any(str(ip) in text or str(device) in text for ip, device in pairs)


@settings(deadline=None, max_examples=100)
@given(TEXTS)
def test_any_device_id_is_masked_in_its_canonical_spelling(text: str) -> None:
    batch = masked(message(device_id=text))

    if batch.rejected:
        assert "\0" in text or not text.strip()
    else:
        (value,) = batch.vault.filter(field="device_id")["value"]
        assert unicodedata.is_normalized("NFC", value)
        assert value == value.strip(" \t\r\n\u00a0\u2003")


def test_every_rejection_of_reading_is_passed_on_as_it_is() -> None:
    bodies = [b"", b"[]", b"{}", b'{"ip": 1}', b'{"ip": "1", "ip": "2"}', b"[" * 100_000]

    batch = masked(*map(message, bodies))

    assert [one.rejection for one in batch.rejected] == [read_login(body) for body in bodies]


@pytest.mark.parametrize(
    ("column", "value", "rule"),
    [
        ("masked_ip", "199.172.111.135", "ip_not_masked"),
        ("masked_ip", "2001:db8::1", "ip_not_masked"),
        ("masked_ip", "", "ip_not_masked"),
        ("masked_ip", None, "ip_not_masked"),
        ("masked_device_id", "593-47-5928", "device_id_not_masked"),
        ("masked_device_id", None, "device_id_not_masked"),
        ("app_version", -1, "version_out_of_range"),
        ("app_version", 2_147_000_000, "version_out_of_range"),
        ("app_version", None, "version_out_of_range"),
    ],
)
def test_each_kind_of_violation_is_counted(column: str, value: object, rule: str) -> None:
    logins = masked(message(), message(), message()).logins
    two_broken = logins[column].head(1).append(pl.Series([value, value], dtype=MASKED_SCHEMA[column]))

    counts = violations(logins.with_columns(two_broken))

    assert counts == dict.fromkeys(violations(logins), 0) | {rule: 2}


def events(*bodies: dict[str, Any], **options: Any) -> MaskedBatch:
    tokenizer = Tokenizer(7, tink.new_keyset_handle(prf.prf_key_templates.HMAC_SHA256).primitive(prf.PrfSet).primary())
    messages = [
        QueuedMessage(str(UUID(int=number)), NOON, json.dumps({**LOGIN, **body}).encode())
        for number, body in enumerate(bodies)
    ]
    return mask_batch(messages, tokenizer, MaskingRules(**options))


def test_an_event_is_known_by_its_own_id_only_where_that_is_asked_for() -> None:
    bodies: list[dict[str, Any]] = [{"event_id": "e-1"}, {}]
    assert events(*bodies).logins["event_uuid"].to_list() == [None, None]
    found = events(*bodies, by_event_id=True).logins["event_uuid"].to_list()
    login = read_login(json.dumps({**LOGIN, "event_id": "e-1"}).encode(), by_event_id=True)
    assert not isinstance(login, Rejection)
    assert found == [str(login.event_uuid), None]


def test_a_batch_without_some_events_has_neither_their_logins_nor_values_that_only_those_have() -> None:
    batch = events(
        {"event_id": "e-1", "ip": "192.0.2.1", "device_id": "shared"},
        {"event_id": "e-2", "ip": "192.0.2.2", "device_id": "shared"},
        {"ip": "192.0.2.3", "device_id": "own"},
        by_event_id=True,
    )
    known = batch.logins["event_uuid"][0]
    rest, dropped = batch.without_events([known])
    assert dropped == [UUID(batch.logins["message_uuid"][0])]
    assert rest.logins["message_uuid"].to_list() == batch.logins["message_uuid"][1:].to_list()
    assert sorted(rest.vault["value"]) == ["192.0.2.2", "192.0.2.3", "own", "shared"]
    assert (rest.rejected, rest.repeated, rest.unknown_fields) == (batch.rejected, batch.repeated, batch.unknown_fields)
    unchanged, none = batch.without_events([])
    assert (unchanged.logins.equals(batch.logins), len(unchanged.vault), none) == (True, len(batch.vault), [])


def test_the_smallest_version_and_the_greatest_are_no_violation() -> None:
    logins = events({}).logins
    for version, wrong in ((-1, 1), (0, 0), (2_146_999_999, 0)):
        frame = logins.with_columns(app_version=pl.lit(version, pl.Int32))
        assert violations(frame)["version_out_of_range"] == wrong, version
