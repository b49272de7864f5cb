"""A login message: how it is kept in the landing, and how its body is read.

`read_login` returns the fields of a login or a `Rejection`; no other outcome exists and no exception escapes.
Whether the *values* are valid (an address, a version, a length) is decided for whole frames in `masking`.
"""

import json
import re
from typing import TYPE_CHECKING, Any
from uuid import NAMESPACE_URL, UUID, uuid5

import msgspec
from msgspec import UNSET, UnsetType

from loginetl_assets.logins.contract import FIELD_NAMES, FIELDS
from loginetl_assets.logins.rejection import Reason, Rejection

EVENT_ID = "event_id"
_FIELDS_AND_EVENT = (*FIELD_NAMES, EVENT_ID)
_OPTIONAL_FIELDS = tuple(field.name for field in FIELDS if field.optional)
_OPTIONAL = frozenset({EVENT_ID, *_OPTIONAL_FIELDS})
_LONGEST_NAME = max(map(len, FIELD_NAMES))

# Objects and lists inside each other. Far below the interpreter's recursion limit (1 000 frames with the caller's own,
# and counted otherwise from Python 3.12 on), so that a body has the same outcome wherever it is read.
MAX_DEPTH = 512
# Strings, in which brackets mean nothing, and brackets. Nothing is tried twice, so an open string costs no search.
_STRING_OR_BRACKET = re.compile(r'"(?:[^"\\]++|\\.?)*+"?|[\[\]{}]', re.DOTALL)

# Names for message ids that are not UUIDs (AWS's are; the API only promises a string of up to 100 characters).
_MESSAGE_IDS = uuid5(NAMESPACE_URL, "sqs-message-id")
_EVENT_IDS = uuid5(NAMESPACE_URL, "login-event-id")

# How the body of a message begins whose payload the SQS extended client library put into S3.
_POINTERS = (
    "software.amazon.payloadoffloading.PayloadS3Pointer",
    "com.amazon.sqs.javamessaging.MessageS3Pointer",  # until version 1 of that library
)
_MAX_POINTER = 16_384  # a path has 1 024 bytes at most, each escaped at worst, and SNS adds its envelope


class QueuedMessage(msgspec.Struct, array_like=True, frozen=True):
    """One message as the landing keeps it: SQS's attributes of it, and its body, untouched."""

    message_id: str
    sent_at_ms: int  # SQS's SentTimestamp: epoch milliseconds
    body: bytes  # UTF-8; a lone surrogate, which JSON may contain, is kept as its three bytes

    def __repr__(self) -> str:
        """Names the message and omits its body."""
        return f"QueuedMessage({self.message_id})"

    @property
    def uuid(self) -> UUID:
        """The identity of the message in the ledger."""
        try:
            return UUID(self.message_id)
        except ValueError:
            return uuid5(_MESSAGE_IDS, self.message_id)


def encode_messages(messages: list[QueuedMessage]) -> bytes:
    """Packs a batch of messages (MessagePack)."""
    return msgspec.msgpack.encode(messages)


def decode_messages(packed: bytes) -> list[QueuedMessage]:
    """Unpacks what `encode_messages` packed; of other bytes raises ValueError, whose text has no part of them."""
    try:
        return msgspec.msgpack.decode(packed, type=list[QueuedMessage])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise ValueError("not a batch of messages") from None


def read_pointer(body: bytes) -> tuple[str, str] | None:
    """Returns the S3 bucket and path to which a body points, in an SNS envelope or not; None for every other body."""
    if len(body) > _MAX_POINTER or b"S3Pointer" not in body:
        return None
    try:
        match json.loads(body):
            case [name, {"s3BucketName": str(bucket), "s3Key": str(path)}] if name in _POINTERS:
                return bucket, path
            case {"Type": "Notification", "Message": str(inner)}:
                return read_pointer(inner.encode("utf-8", "surrogatepass"))
    except (ValueError, RecursionError):
        pass
    return None


if TYPE_CHECKING:
    _LoginFields = Any  # its attributes are the contract's
else:
    _LoginFields = msgspec.defstruct(
        "_LoginFields",
        [
            *((name, str | None | UnsetType, UNSET) if name in _OPTIONAL else (name, str) for name in FIELD_NAMES),
            ("unknown_fields", int, 0),
            (EVENT_ID, str | None, None),
        ],
        kw_only=True,
        gc=False,
    )


class Login(_LoginFields):  # type: ignore[misc] # a subclass of Any
    """The fields of a login, as they were sent: a str each, or None for an optional one that was not sent.

    `unknown_fields` is the number of others, which were ignored, and `event_id` the producer's own, where it is asked
    for and was sent.
    """

    @property
    def event_uuid(self) -> UUID | None:
        """The identity of the event, whatever messages bring it."""
        return uuid5(_EVENT_IDS, self.event_id) if self.event_id else None

    def __repr__(self) -> str:
        """Shows no field: all of them may be personal data."""
        return "Login(…)"


class _RejectedError(Exception):
    def __init__(self, reason: Reason, field: str | None = None) -> None:
        self.rejection = Rejection(reason, field)


def read_login(body: bytes, *, reject_unknown_fields: bool = False, by_event_id: bool = False) -> Login | Rejection:
    """Reads one message body.

    Nested objects are flattened with `_`, one SNS envelope is unwrapped. Time is linear in the length of the body, and
    nesting is bounded by `MAX_DEPTH`. A field outside the contract is counted, or rejects the message; `event_id` is
    read beside the contract's fields where it is asked for.
    """
    if (login := _read_flat(body, by_event_id)) is not None:
        return login
    try:
        document = _decode(body)
        if document.get("Type") == "Notification" and isinstance(document.get("Message"), str):
            document = _decode(document["Message"].encode("utf-8", "surrogatepass"))
        return _pick_fields(document, _FIELDS_AND_EVENT if by_event_id else FIELD_NAMES, reject_unknown_fields)
    except _RejectedError as error:
        return error.rejection


def _read_flat(body: bytes, by_event_id: bool) -> Login | None:
    """Reads an object of a login's fields and no others, in a quarter of the time; None where it may be anything else.

    A name and a text bring two quotes each: a body with another name, or with one twice, has more than were read.
    """
    try:
        login = msgspec.json.decode(body, type=Login)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    quotes = 4 * len(FIELD_NAMES)
    for name in _OPTIONAL_FIELDS:
        if (value := getattr(login, name)) is UNSET:
            quotes -= 4
            setattr(login, name, None)
        elif value is None:
            quotes -= 2
    if login.event_id is not None:
        quotes += 4
        if not by_event_id:
            return None
    if body.count(b'"') != quotes:
        return None
    if b"\\u" in body and not all(is_storable(getattr(login, name) or "") for name in _FIELDS_AND_EVENT):
        return None
    return login


def _decode(body: bytes) -> dict[str, Any]:
    """Decodes a JSON object whose names are each there once."""
    try:
        document = msgspec.json.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return _decode_exactly(body)
    if not isinstance(document, dict):
        return _decode_exactly(body)
    # msgspec keeps the last of two equal names without an error. Every name and every string value brings at least two
    # quotes, so a text with no more of them than what was read accounts for hides none (50 ns against 3 µs).
    quotes = 0
    for value in document.values():
        if isinstance(value, (dict, list)):
            return _decode_exactly(body)
        quotes += 4 if isinstance(value, str) else 2
    return document if body.count(b'"') == quotes else _decode_exactly(body)


def _decode_exactly(body: bytes) -> dict[str, Any]:
    """Decodes with the standard library, which sees every pair; numbers are read as 0, since none is ever used."""
    try:
        text = body.decode("utf-8", "surrogatepass")
        if _is_too_deep(text):
            raise _RejectedError(Reason.TOO_DEEP)
        document = json.loads(
            text,
            object_pairs_hook=_object_of_unique_names,
            parse_int=lambda _: 0,  # linear, where int() of a long literal is not
            parse_float=lambda _: 0,
            parse_constant=_reject_constant,
        )
    except ValueError:
        raise _RejectedError(Reason.NOT_JSON) from None
    except RecursionError:  # the caller's stack left less room than that
        raise _RejectedError(Reason.TOO_DEEP) from None
    if not isinstance(document, dict):
        raise _RejectedError(Reason.PAYLOAD_UNAVAILABLE if read_pointer(body) else Reason.NOT_AN_OBJECT)
    return document


def _is_too_deep(text: str) -> bool:
    if text.count("{") + text.count("[") <= MAX_DEPTH:
        return False
    depth = 0
    for found in _STRING_OR_BRACKET.finditer(text):
        if found[0] in "{[":
            depth += 1
            if depth > MAX_DEPTH:
                return True
        elif found[0] in "}]":
            depth -= 1
    return False


def _object_of_unique_names(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    document = dict(pairs)
    if len(document) != len(pairs):
        raise _RejectedError(Reason.DUPLICATE_KEY)
    return document


def _reject_constant(_literal: str) -> None:
    raise _RejectedError(Reason.NOT_JSON)  # NaN and Infinity are not JSON (RFC 8259, section 6)


def _pick_fields(document: dict[str, Any], fields: tuple[str, ...], reject_unknown_fields: bool) -> Login | Rejection:
    if any(isinstance(value, dict) for value in document.values()):
        document, unknown = _flatten(document, fields)
    else:
        unknown = len(document.keys() - fields)
    values = []
    for field in fields:
        value = document.get(field)
        if value is None:
            if field not in _OPTIONAL:
                is_login = any(name in document for name in FIELD_NAMES)
                return Rejection(Reason.MISSING_FIELD, field) if is_login else Rejection(Reason.NOT_A_LOGIN)
        elif not isinstance(value, str):
            return Rejection(Reason.WRONG_TYPE, field)
        elif not is_storable(value):
            return Rejection(Reason.UNSTORABLE_TEXT, field)
        values.append(value)
    if unknown and reject_unknown_fields:
        return Rejection(Reason.UNKNOWN_FIELD)  # the field's name is the sender's text and may be personal data
    event_id = values.pop() if len(values) > len(FIELD_NAMES) else None
    return Login(**dict(zip(FIELD_NAMES, values, strict=True)), unknown_fields=unknown, event_id=event_id)


def _flatten(document: dict[str, Any], fields: tuple[str, ...]) -> tuple[dict[str, Any], int]:
    """Joins the names of nested objects with `_`; keeps the known ones and counts the others."""
    flat: dict[str, Any] = {}
    unknown = 0
    stack: list[tuple[str, Any]] = list(document.items())
    while stack:
        name, value = stack.pop()
        # An object below a name that is already longer than any field's can hold no field: it counts as one unknown, so
        # that a hostile depth costs nothing.
        if isinstance(value, dict) and value and len(name) <= _LONGEST_NAME:
            stack.extend((f"{name}_{inner_name}", inner) for inner_name, inner in value.items())
        elif name not in fields:
            unknown += 1
        elif name in flat:
            raise _RejectedError(Reason.COLLIDING_KEYS, name)
        else:
            flat[name] = value
    return flat, unknown


def is_storable(text: str) -> bool:
    """Returns whether Postgres can store the text: no NUL, no lone surrogate."""
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            return False
    return "\0" not in text
