"""Why a message was not loaded: a closed list of reasons. docs/reasons.md is written from it."""

from enum import StrEnum
from typing import NamedTuple, Self


class Reason(StrEnum):
    """The reasons for which a message is rejected, each with what it means.

    They are stored: a name, once released, keeps its meaning.
    """

    meaning: str

    def __new__(cls, name: str, meaning: str = "") -> Self:
        """Makes a member of a name and one sentence, or two, in Markdown."""
        member = str.__new__(cls, name)
        member._value_ = name
        member.meaning = meaning
        return member

    NOT_JSON = "not_json", "The body is not JSON."
    NOT_AN_OBJECT = "not_an_object", "The body is JSON, and not an object."
    PAYLOAD_UNAVAILABLE = (
        "payload_unavailable",
        "The body points to a payload in S3 that is not available: restore the object, grant `s3:GetObject` on it, or"
        " name its bucket in `LOGINETL_PAYLOAD_BUCKET`, then replay.",
    )
    TOO_DEEP = "too_deep", "More than 512 objects and lists are inside each other."
    DUPLICATE_KEY = "duplicate_key", "An object has one name twice."
    COLLIDING_KEYS = "colliding_keys", "Two names become the same field when nested objects are flattened."
    NOT_A_LOGIN = "not_a_login", "The body has no field of a login: it is another kind of message."
    MISSING_FIELD = "missing_field", "A field that is not optional is missing or null."
    WRONG_TYPE = "wrong_type", "A field is not a string."
    UNSTORABLE_TEXT = "unstorable_text", "A field has a NUL or half of a surrogate pair, which Postgres cannot store."
    UNKNOWN_FIELD = (
        "unknown_field",
        "The body has a field outside the contract: set `LOGINETL_UNKNOWN_FIELDS=ignore`, or"
        " [add the field](extending.md), then replay.",
    )
    EMPTY = "empty", "A field that is not optional is empty or white space."
    TOO_LONG = "too_long", "A field has more characters than [the contract](fields.md) allows."
    BAD_IP = "bad_ip", "A field is not an IPv4 or IPv6 address."
    BAD_VERSION = "bad_version", "A field is not a version of one to three numbers, or its numbers are too large."
    REFUSED_BY_TABLE = (
        "refused_by_table",
        "The login table refuses the row: widen the column, or change the constraint, trigger or policy, then replay.",
    )


class Rejection(NamedTuple):
    """A reason and, where one field is to blame, its name (the contract's or event_id; never the sender's text).

    Of a row that the table refused: what Postgres said, as far as that names no value.
    """

    reason: Reason
    field: str | None = None
    sqlstate: str | None = None
    constraint_name: str | None = None
