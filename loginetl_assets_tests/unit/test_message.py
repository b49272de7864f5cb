import json
import time
from collections.abc import Mapping
from typing import Any
from uuid import UUID

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from loginetl_assets.logins.contract import FIELD_NAMES, FIELDS
from loginetl_assets.logins.message import (
    MAX_DEPTH,
    Login,
    QueuedMessage,
    decode_messages,
    encode_messages,
    read_login,
    read_pointer,
)
from loginetl_assets.logins.rejection import Reason, Rejection
from loginetl_assets_tests.unit.test_masking import VALUES_REJECTED

FLAT = {
    "user_id": "424cdd21-063a-43a7-b91b-7ca1a833afae",
    "app_version": "2.3.0",
    "device_type": "android",
    "ip": "199.172.111.135",
    "locale": "RU",
    "device_id": "593-47-5928",
}
NESTED = {
    "user": {"id": FLAT["user_id"]},
    "app": {"version": FLAT["app_version"]},
    "device": {"type": FLAT["device_type"], "id": FLAT["device_id"]},
    "ip": FLAT["ip"],
    "locale": FLAT["locale"],
}
POINTER = ["software.amazon.payloadoffloading.PayloadS3Pointer", {"s3BucketName": "b", "s3Key": "k"}]
LOGIN = Login(**FLAT, unknown_fields=0)


def body_of(document: object) -> bytes:
    return json.dumps(document).encode()


def flat_with(**fields: object) -> bytes:
    return body_of(FLAT | fields)


def flat_without(*fields: str) -> bytes:
    return body_of({name: value for name, value in FLAT.items() if name not in fields})


def with_raw(name: str, raw: bytes) -> bytes:
    """A login with one more pair, whose value is written as it stands."""
    return body_of(FLAT)[:-1] + b', "' + name.encode() + b'": ' + raw + b"}"


def nested(depth: int, inner: bytes = b"1") -> bytes:
    return b'{"a":' * depth + inner + b"}" * depth


def sns(message: object, **fields: object) -> bytes:
    return body_of({"Type": "Notification", "MessageId": "1", "Message": message} | fields)


REQUIRED = [field.name for field in FIELDS if not field.optional]
REJECTED: dict[str, tuple[bytes, Reason, str | None]] = {
    "nothing": (b"", Reason.NOT_JSON, None),
    "white space": (b" \n", Reason.NOT_JSON, None),
    "text": (b"hello", Reason.NOT_JSON, None),
    "cut short": (body_of(FLAT)[:-1], Reason.NOT_JSON, None),
    "something after the object": (body_of(FLAT) + b"x", Reason.NOT_JSON, None),
    "two objects": (body_of(FLAT) * 2, Reason.NOT_JSON, None),
    "a comma too many": (b'{"ip": "1.1.1.1",}', Reason.NOT_JSON, None),
    "single quotes": (b"{'ip': '1.1.1.1'}", Reason.NOT_JSON, None),
    "a byte order mark": (b"\xef\xbb\xbf" + body_of(FLAT), Reason.NOT_JSON, None),
    "UTF-16": (json.dumps(FLAT).encode("utf-16"), Reason.NOT_JSON, None),
    "bytes that are no UTF-8": (b'{"ip": "\xff"}', Reason.NOT_JSON, None),
    "an overlong NUL": (b'{"ip": "\xc0\x80"}', Reason.NOT_JSON, None),
    "a raw line break in a text": (b'{"ip": "1\n2"}', Reason.NOT_JSON, None),
    "NaN": (with_raw("x", b"NaN"), Reason.NOT_JSON, None),
    "Infinity": (with_raw("x", b"-Infinity"), Reason.NOT_JSON, None),
    "a leading zero": (with_raw("x", b"01"), Reason.NOT_JSON, None),
    "an envelope around text": (sns("hello"), Reason.NOT_JSON, None),
    "null": (b"null", Reason.NOT_AN_OBJECT, None),
    "a number": (b"7", Reason.NOT_AN_OBJECT, None),
    "a huge number": (b"7" * 5_000, Reason.NOT_AN_OBJECT, None),
    "a string": (b'"ip"', Reason.NOT_AN_OBJECT, None),
    "a list": (body_of([FLAT]), Reason.NOT_AN_OBJECT, None),
    "an envelope around a list": (sns("[]"), Reason.NOT_AN_OBJECT, None),
    "a pointer": (body_of(POINTER), Reason.PAYLOAD_UNAVAILABLE, None),
    "an envelope around a pointer": (sns(json.dumps(POINTER)), Reason.PAYLOAD_UNAVAILABLE, None),
    "a pointer of another kind": (body_of(["x.S3Pointer", POINTER[1]]), Reason.NOT_AN_OBJECT, None),
    "a pointer without a key": (body_of([POINTER[0], {"s3BucketName": "b"}]), Reason.NOT_AN_OBJECT, None),
    "objects a level too deep": (with_raw("x", nested(MAX_DEPTH)), Reason.TOO_DEEP, None),
    "lists a level too deep": (b"[" * (MAX_DEPTH + 1) + b"]" * (MAX_DEPTH + 1), Reason.TOO_DEEP, None),
    "objects 100 000 deep": (nested(100_000), Reason.TOO_DEEP, None),
    "lists 100 000 deep": (b"[" * 100_000 + b"]" * 100_000, Reason.TOO_DEEP, None),
    "an unknown field 100 000 deep": (with_raw("x", nested(100_000)), Reason.TOO_DEEP, None),
    "100 000 opened and none closed": (b'{"a":' * 100_000, Reason.TOO_DEEP, None),
    "an envelope around depth": (sns(nested(100_000).decode()), Reason.TOO_DEEP, None),
    "a field twice": (with_raw("ip", b'"10.0.0.1"'), Reason.DUPLICATE_KEY, None),
    "a field twice, equal": (with_raw("ip", body_of(FLAT["ip"])), Reason.DUPLICATE_KEY, None),
    "a field twice, once as a number": (with_raw("ip", b"1"), Reason.DUPLICATE_KEY, None),
    "a field twice, once escaped": (with_raw(r"\u0069p", b'"10.0.0.1"'), Reason.DUPLICATE_KEY, None),
    "an unknown field twice": (with_raw("x", b'1, "x": 1'), Reason.DUPLICATE_KEY, None),
    "a nested field twice": (b'{"device": {"id": "1", "id": "2"}}', Reason.DUPLICATE_KEY, None),
    "an object twice": (b'{"device": {"id": "1"}, "device": {"type": "2"}}', Reason.DUPLICATE_KEY, None),
    "a field twice in an envelope": (sns('{"ip": "1", "ip": "1"}'), Reason.DUPLICATE_KEY, None),
    "flat and nested": (flat_with(device={"id": "x"}), Reason.COLLIDING_KEYS, "device_id"),
    "flat and nested, equal": (
        flat_with(device={"id": FLAT["device_id"]}),
        Reason.COLLIDING_KEYS,
        "device_id",
    ),
    "nested and flat null": (flat_with(app={"version": None}), Reason.COLLIDING_KEYS, "app_version"),
    "another kind": (b'{"foo": "oops_wrong_msg_type", "bar": "123"}', Reason.NOT_A_LOGIN, None),
    "an empty object": (b"{}", Reason.NOT_A_LOGIN, None),
    "another kind, nested": (b'{"foo": {"ip": "1.1.1.1"}}', Reason.NOT_A_LOGIN, None),
    "fields in upper case": (b'{"IP": "1.1.1.1"}', Reason.NOT_A_LOGIN, None),
    "an envelope twice": (sns(sns(json.dumps(FLAT)).decode()), Reason.NOT_A_LOGIN, None),
    "an envelope with an object": (sns(FLAT), Reason.NOT_A_LOGIN, None),
    "an envelope of another type": (
        sns(json.dumps(FLAT), Type="SubscriptionConfirmation"),
        Reason.NOT_A_LOGIN,
        None,
    ),
    **{
        f"no {field}": (flat_without(field), Reason.MISSING_FIELD, field)
        for field in REQUIRED
    },
    **{
        f"{field} null": (flat_with(**{field: None}), Reason.MISSING_FIELD, field)
        for field in REQUIRED
    },
    "a locale alone": (b'{"locale": null}', Reason.MISSING_FIELD, "user_id"),
    **{
        f"{field} a number": (flat_with(**{field: 7}), Reason.WRONG_TYPE, field) for field in FIELD_NAMES
    },
    "an address in a list": (flat_with(ip=["1.1.1.1"]), Reason.WRONG_TYPE, "ip"),
    "true": (flat_with(locale=True), Reason.WRONG_TYPE, "locale"),
    "an integer of 5000 digits": (b'{"user_id": ' + b"9" * 5_000 + b"}", Reason.WRONG_TYPE, "user_id"),
    "a float out of range": (b'{"user_id": 1e999}', Reason.WRONG_TYPE, "user_id"),
    "NUL": (flat_with(device_id="1\0"), Reason.UNSTORABLE_TEXT, "device_id"),
    "an escaped lone surrogate": (flat_with(user_id="\ud800"), Reason.UNSTORABLE_TEXT, "user_id"),
    "a raw lone surrogate": (
        body_of(FLAT).replace(b"RU", b"\xed\xa0\x80"),
        Reason.UNSTORABLE_TEXT,
        "locale",
    ),
    "a pair of raw surrogates": (
        body_of(FLAT).replace(b"RU", b"\xed\xa0\xbd\xed\xb8\x80"),
        Reason.UNSTORABLE_TEXT,
        "locale",
    ),
    "a lone surrogate in an envelope": (
        sns(json.dumps(FLAT | {"ip": "\udfff"}, ensure_ascii=False)),
        Reason.UNSTORABLE_TEXT,
        "ip",
    ),
}  # fmt: skip

UNKNOWN: dict[str, tuple[bytes, int]] = {
    "a text": (flat_with(x="1"), 1),
    "null": (flat_with(x=None), 1),
    "two": (flat_with(x=1, y=[1]), 2),
    "a name of an envelope": (flat_with(Type="Notification"), 1),
    "beside nested fields": (body_of(NESTED | {"x": 1}), 1),
    "inside a nested object": (body_of(NESTED | {"user": {"id": FLAT["user_id"], "name": "n"}}), 1),
    "an object": (flat_with(x={"a": 1, "b": 2}), 2),
    "a list of objects": (flat_with(x=[{"a": 1}]), 1),
    "an empty object": (flat_with(x={}), 1),
    "an object below a long name": (flat_with(**{"a name longer than any field": {"a": 1, "b": 2}}), 1),
    "a lone surrogate and a NUL": (flat_with(**{"\ud800": "\udfff\0"}), 1),
    "a huge integer": (with_raw("x", b"9" * 5_000), 1),
    "a float out of range": (with_raw("x", b"1e999"), 1),
    "100 objects deep": (with_raw("x", nested(100)), 1),
    "objects as deep as can be": (with_raw("x", nested(MAX_DEPTH - 1)), 1),
    "brackets in a text": (with_raw("x", b'"' + rb"[{\"" * MAX_DEPTH + b'"'), 1),
    "many lists side by side": (with_raw("x", b"[" + b"[[]]," * MAX_DEPTH + b"1]"), 1),
    "100 lists deep": (with_raw("x", b"[" * 100 + b"]" * 100), 1),
}


@pytest.mark.parametrize(("body", "reason", "field"), REJECTED.values(), ids=REJECTED)
def test_a_body_is_rejected_for_its_reason(body: bytes, reason: Reason, field: str | None) -> None:
    assert read_login(body) == Rejection(reason, field)


def test_every_reason_of_reading_and_of_values_has_an_example() -> None:
    seen = {reason for _, reason, _ in REJECTED.values()}
    seen |= {Reason.UNKNOWN_FIELD}  # in the tests of UNKNOWN, which ask for it
    of_values = {reason for _, reason, _ in VALUES_REJECTED.values()}  # decided for whole frames, in `mask_batch`

    assert not seen & of_values
    assert seen | of_values == set(Reason) - {Reason.REFUSED_BY_TABLE}


@pytest.mark.parametrize(("body", "count"), UNKNOWN.values(), ids=UNKNOWN)
def test_unknown_fields_are_counted(body: bytes, count: int) -> None:
    assert read_login(body) == replace(LOGIN, unknown_fields=count)


@pytest.mark.parametrize(("body", "count"), UNKNOWN.values(), ids=UNKNOWN)
def test_unknown_fields_reject_where_that_is_asked_for(body: bytes, count: int) -> None:
    assert read_login(body, reject_unknown_fields=True) == Rejection(Reason.UNKNOWN_FIELD, None)


@pytest.mark.parametrize("document", [FLAT, NESTED])
def test_a_login_without_unknown_fields_passes_where_they_reject(document: dict[str, Any]) -> None:
    assert read_login(body_of(document), reject_unknown_fields=True) == LOGIN


def test_another_fault_is_named_before_an_unknown_field() -> None:
    assert read_login(flat_with(x=1, ip=None), reject_unknown_fields=True) == Rejection(Reason.MISSING_FIELD, "ip")


def test_a_flat_login_is_read() -> None:
    assert read_login(body_of(FLAT)) == LOGIN


def test_a_nested_login_is_flattened() -> None:
    assert read_login(body_of(NESTED)) == LOGIN


def test_a_field_may_be_nested_below_each_part_of_its_name() -> None:
    document = FLAT | {"device": {"": {"x": 1}}, "": {"ip": "not the field: it is _ip"}}

    assert read_login(body_of(document)) == replace(LOGIN, unknown_fields=2)


@pytest.mark.parametrize("body", [flat_with(locale=None), flat_without("locale")])
def test_the_locale_may_be_null_or_missing(body: bytes) -> None:
    assert read_login(body) == replace(LOGIN, locale=None)


def test_values_are_left_as_they_were_sent() -> None:
    body = flat_with(user_id="  ", app_version="", ip=" 1 ", device_id="e\u0301", locale="")

    reading = read_login(body)

    assert isinstance(reading, Login)
    assert tuple(getattr(reading, name) for name in FIELD_NAMES) == ("  ", "", "android", " 1 ", "", "e\u0301")


@pytest.mark.parametrize(
    "raw",
    [rb'"\ud83d\ude00"', '"😀"'.encode()],
)
def test_a_character_beyond_the_basic_plane_is_read_however_it_is_written(raw: bytes) -> None:
    body = flat_without("device_id")[:-1] + b', "device_id": ' + raw + b"}"

    assert read_login(body) == replace(LOGIN, device_id="😀")


@pytest.mark.parametrize("document", [FLAT, NESTED])
def test_one_sns_envelope_is_unwrapped(document: dict[str, Any]) -> None:
    assert read_login(sns(json.dumps(document))) == LOGIN


def test_the_fields_of_the_envelope_are_not_counted_as_unknown() -> None:
    assert read_login(sns(json.dumps(FLAT), TopicArn="arn", x={"y": 1}), reject_unknown_fields=True) == LOGIN


def test_a_long_literal_or_a_hostile_depth_takes_no_long_time() -> None:
    started = time.process_time()  # a busy machine takes several times as long by the clock on the wall
    for body in (
        with_raw("x", b"9" * 2_000_000),
        with_raw("x", b"[" + b"{}," * 300_000 + b"{}]"),
        with_raw("x", b'{"' + b"k" * 1_000_000 + b'":' + nested(500) + b"}"),
        body_of(FLAT | {f"x{i}": {"y": 1} for i in range(50_000)}),
    ):
        assert isinstance(read_login(body), Login)

    assert time.process_time() - started < 5  # 0.5 s measured


@settings(deadline=None)
@given(
    st.fixed_dictionaries(
        {field: st.text(st.characters(codec="utf-8", exclude_characters="\0")) for field in FIELD_NAMES}
    )
)
def test_any_storable_text_is_read_as_it_was_written(fields: Mapping[str, str]) -> None:
    nested_fields = {
        "user": {"id": fields["user_id"]},
        "app": {"version": fields["app_version"]},
        "device": {"type": fields["device_type"], "id": fields["device_id"]},
        **{name: text for name, text in fields.items() if not name.startswith(("user_", "app_", "device_"))},
    }

    expected = Login(**fields, unknown_fields=0)

    assert read_login(body_of(fields)) == expected
    assert read_login(json.dumps(fields, ensure_ascii=False).encode()) == expected
    assert read_login(body_of(nested_fields)) == expected
    assert read_login(sns(json.dumps(fields))) == expected


@settings(deadline=None, max_examples=300)
@given(st.one_of(st.binary(), st.text().map(str.encode)), st.booleans())
def test_any_bytes_have_an_answer(body: bytes, reject: bool) -> None:
    assert isinstance(read_login(body, reject_unknown_fields=reject), Login | Rejection)


# JSON as text, not as values: what a serialiser never writes (a key twice, odd numbers, raw surrogates) comes in too.
NAMES = st.sampled_from([*FIELD_NAMES, "user", "app", "device", "id", "type", "version", "Type", "Message", "x", ""])
SPACE = st.sampled_from(["", " ", "\n\t"])
NUMBERS = st.sampled_from(["0", "-0", "7", "1.5", "1e5", "1E400", "9" * 30, "9" * 5_000, "01", "NaN"])
TEXTS = st.one_of(
    st.sampled_from(["10.0.0.1", "2.3.0", "Notification", ""]),
    st.text(st.characters(exclude_categories=()), max_size=4),
)


@st.composite
def string_literals(draw: st.DrawFn, texts: st.SearchStrategy[str]) -> str:
    return json.dumps(draw(texts), ensure_ascii=draw(st.booleans()))


@st.composite
def object_literals(draw: st.DrawFn, values: st.SearchStrategy[str]) -> str:
    pairs = draw(st.lists(st.tuples(string_literals(NAMES), SPACE, values), max_size=7))
    return "{" + ",".join(f"{name}:{space}{value}" for name, space, value in pairs) + "}"


def list_literals(values: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.lists(values, max_size=3).map(lambda items: f"[{','.join(items)}]")


SCALARS = st.one_of(string_literals(TEXTS), NUMBERS, st.sampled_from(["true", "false", "null"]))
VALUES = st.recursive(SCALARS, lambda inner: object_literals(inner) | list_literals(inner), max_leaves=8)
# A whole login with something done to it, so that not every example ends as "not a login".
LOGINS = st.tuples(st.sampled_from([json.dumps(FLAT), json.dumps(NESTED)]), string_literals(NAMES), VALUES).map(
    lambda parts: f"{parts[0][:-1]}, {parts[1]}: {parts[2]}}}"
)
OBJECTS = st.one_of(
    object_literals(SCALARS),
    object_literals(VALUES),
    LOGINS,
    st.one_of(object_literals(VALUES), LOGINS).map(lambda text: sns(text).decode()),
)


def read_exactly(body: bytes, reject: bool, *, by_event_id: bool = False) -> Login | Rejection:
    """Reads with the fast decoder gone, so that all is read by the exact one."""

    def gone(_body: bytes, **_options: object) -> None:
        raise msgspec.DecodeError("gone")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("loginetl_assets.logins.message.msgspec.json.decode", gone)
        return read_login(body, reject_unknown_fields=reject, by_event_id=by_event_id)


@settings(deadline=None, max_examples=400)
@given(OBJECTS, st.booleans())
def test_the_fast_and_the_exact_reading_agree(text: str, reject: bool) -> None:
    body = text.encode("utf-8", "surrogatepass")

    assert read_login(body, reject_unknown_fields=reject) == read_exactly(body, reject)


# The contract's names, in any order, with one or two too many, twice or too few.
FLAT_NAMES = st.permutations([*FIELD_NAMES, "event_id"]).flatmap(
    lambda names: st.lists(st.sampled_from([*names, "x"]), max_size=2).map(lambda more: [*names, *more])
)


@settings(deadline=None, max_examples=400)
@given(st.data(), FLAT_NAMES, st.integers(0, 2), st.booleans(), st.booleans())
def test_the_readings_of_flat_bodies_agree(
    data: st.DataObject, names: list[str], fewer: int, reject: bool, by_event_id: bool
) -> None:
    literals = string_literals(TEXTS) | st.just("null")
    members = (f"{json.dumps(name)}: {data.draw(literals)}" for name in names[fewer:])
    body = f"{{{', '.join(members)}}}".encode("utf-8", "surrogatepass")

    read = read_login(body, reject_unknown_fields=reject, by_event_id=by_event_id)

    assert read == read_exactly(body, reject, by_event_id=by_event_id)


@settings(deadline=None, max_examples=400)
@given(st.data())
def test_the_two_readings_agree_on_damaged_bodies(data: st.DataObject) -> None:
    body = bytearray(data.draw(st.sampled_from([body_of(FLAT), flat_with(x=1), body_of(NESTED)])))
    start = data.draw(st.integers(0, len(body)))
    end = start + data.draw(st.integers(0, 3))
    body[start:end] = data.draw(
        st.one_of(st.binary(max_size=3), st.sampled_from([b'"', b"\\", b'\\"', b'":"', b'","', b"{", b"}"]))
    )

    assert read_login(bytes(body)) == read_exactly(bytes(body), reject=False)


@pytest.mark.parametrize(("body", "reason", "field"), REJECTED.values(), ids=REJECTED)
def test_the_reason_is_the_same_at_the_end_of_a_long_stack(body: bytes, reason: Reason, field: str | None) -> None:
    def called_by(callers: int) -> Login | Rejection:
        return called_by(callers - 1) if callers else read_login(body)

    assert called_by(300) == Rejection(reason, field)  # Dagster's own calls are some 150


@pytest.mark.parametrize("body", [case[0] for case in REJECTED.values()] + [case[0] for case in UNKNOWN.values()])
def test_the_two_readings_agree_on_the_examples(body: bytes) -> None:
    assert read_login(body) == read_exactly(body, reject=False)


def test_a_message_id_that_is_a_uuid_is_the_key() -> None:
    message_id = "5fea7756-0ea4-451a-a703-a558b933e274"

    assert QueuedMessage(message_id, 0, b"").uuid == UUID(message_id)
    assert QueuedMessage(message_id.upper(), 1, b"{}").uuid == UUID(message_id)


@pytest.mark.parametrize(
    ("message_id", "key"),
    [
        ("message-1", "d14c7da4-020a-5419-9368-c15ae208c9f5"),
        ("", "67823201-c49d-5097-9ca4-bd6acb805cce"),
    ],
)
def test_a_message_id_that_is_no_uuid_has_the_same_key_in_every_release(message_id: str, key: str) -> None:
    assert QueuedMessage(message_id, 0, b"").uuid == UUID(key)


@settings(deadline=None)
@given(st.sets(st.text(max_size=100).map(lambda text: f"-{text}"), min_size=2))
def test_different_message_ids_have_different_keys(message_ids: set[str]) -> None:
    keys = {QueuedMessage(message_id, 0, b"").uuid for message_id in message_ids}

    assert len(keys) == len(message_ids)


MESSAGES = st.lists(
    st.builds(
        QueuedMessage,
        message_id=st.text(max_size=100),
        sent_at_ms=st.integers(-(2**63), 2**63 - 1),
        body=st.binary(max_size=200),
    )
)


@settings(deadline=None)
@given(MESSAGES)
def test_a_packed_batch_is_unpacked_as_it_was(messages: list[QueuedMessage]) -> None:
    assert decode_messages(encode_messages(messages)) == messages


@pytest.mark.parametrize(
    "packed",
    [
        b"",
        b"\xc0",
        b"secret",
        b"\x91\x93\xa6secret",  # cut short
        b"\x91\x93\xa6secret\x01\xc4\x01a\x00",  # something after it
        b"\x91\x92\xa6secret\x01",  # a field less
        b"\x91\x93\xa6secret\xa6secret\xc4\x01a",  # text for a time
        b"\x91\x93\xa7secret\xff\x01\xc4\x01a",  # no UTF-8
        b"\xdd\xff\xff\xff\xff",  # four thousand million messages
        b"\x91\x94\xa6secret\x01\xc4\x01a" + b"\x91" * 100_000 + b"\x01",  # too deep
    ],
)
def test_what_is_no_batch_is_an_error_that_shows_none_of_it(packed: bytes) -> None:
    with pytest.raises(ValueError, match="^not a batch of messages$") as raised:
        decode_messages(packed)

    assert raised.value.__cause__ is None
    assert raised.value.__suppress_context__


@settings(deadline=None, max_examples=300)
@given(st.binary())
def test_any_bytes_are_a_batch_or_the_error(packed: bytes) -> None:
    try:
        messages = decode_messages(packed)
    except ValueError as error:
        assert error.args == ("not a batch of messages",)
    else:
        assert all(isinstance(message, QueuedMessage) for message in messages)


POINTER = ["software.amazon.payloadoffloading.PayloadS3Pointer", {"s3BucketName": "bucket", "s3Key": "key"}]


def enveloped(text: str) -> bytes:
    return json.dumps({"Type": "Notification", "Message": text}).encode()


@pytest.mark.parametrize("name", [POINTER[0], "com.amazon.sqs.javamessaging.MessageS3Pointer"])
def test_a_pointer_is_read_in_an_sns_envelope_or_without(name: str) -> None:
    text = json.dumps([name, POINTER[1]])
    for body in (text.encode(), enveloped(text)):
        assert read_pointer(body) == ("bucket", "key")


def test_a_pointer_to_a_key_that_no_object_can_have_is_one_all_the_same() -> None:
    """What it points to is not there, which is another fault than being no login."""
    text = json.dumps([POINTER[0], {"s3BucketName": "bucket", "s3Key": "\ud800"}], ensure_ascii=False)
    assert read_pointer(enveloped(text)) == ("bucket", "\ud800")


@pytest.mark.parametrize(
    "body",
    [
        b"{}",
        b"S3Pointer",
        json.dumps(POINTER[1]).encode(),
        json.dumps(["another.S3Pointer", POINTER[1]]).encode(),
        json.dumps([POINTER[0], {"s3BucketName": 1, "s3Key": "key"}]).encode(),
        json.dumps({"Type": "Other", "Message": json.dumps(POINTER)}).encode(),
        json.dumps({"Type": "Notification", "Text": json.dumps(POINTER)}).encode(),
        enveloped("S3Pointer \ud800"),
        b"[" * 15_000 + b"S3Pointer",
    ],
)
def test_what_is_not_a_pointer_is_not_read_as_one(body: bytes) -> None:
    assert read_pointer(body) is None


def test_a_pointer_of_the_greatest_length_is_read_and_a_longer_text_is_not() -> None:
    text = json.dumps(POINTER).encode()
    assert read_pointer(text.ljust(16_384)) == ("bucket", "key")
    assert read_pointer(text.ljust(16_385)) is None


def test_a_login_shows_no_field() -> None:
    login = read_login(json.dumps(FLAT).encode())
    assert repr(login) == f"{login}" == "Login(…)"


@pytest.mark.parametrize(
    ("value", "too_deep"),
    [
        ("[" * (MAX_DEPTH - 1) + "]" * (MAX_DEPTH - 1), False),
        ("[" * (MAX_DEPTH - 2) + "[],[]" + "]" * (MAX_DEPTH - 2), False),
        ("[" * MAX_DEPTH + "]" * MAX_DEPTH, True),
        ("[" + "[]," * 2 * MAX_DEPTH + "1]", False),
        ("[" * 400 + "[]," * 200 + "[" * 150 + "]" * 550, True),
    ],
)
def test_nesting_is_counted_to_its_bound(value: str, too_deep: bool) -> None:
    body = json.dumps(FLAT)[:-1] + f', "other": {value}}}'
    reading = read_login(body.encode())
    assert isinstance(reading, Rejection) is too_deep
    assert not too_deep or reading == Rejection(Reason.TOO_DEEP)


@pytest.mark.parametrize("field", REQUIRED)
def test_an_object_in_the_place_of_a_field_is_opened_whatever_the_length_of_its_name(field: str) -> None:
    without = {name: value for name, value in FLAT.items() if name != field}
    opened = read_login(json.dumps({**FLAT, field: {"other": "x"}}).encode())
    assert opened == read_login(json.dumps(without).encode()) == Rejection(Reason.MISSING_FIELD, field)


def test_an_event_id_is_a_field_like_any_other_unless_it_is_asked_for() -> None:
    body = json.dumps({**FLAT, "event_id": "e-1"}).encode()
    plain, asked = read_login(body), read_login(body, by_event_id=True)
    assert isinstance(plain, Login)
    assert isinstance(asked, Login)
    assert (plain.event_id, plain.unknown_fields) == (None, 1)
    assert (asked.event_id, asked.unknown_fields) == ("e-1", 0)
