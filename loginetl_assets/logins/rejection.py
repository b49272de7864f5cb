"""Why a message was not loaded: a closed list of reasons."""

from enum import StrEnum
from typing import NamedTuple


class Reason(StrEnum):
    """The reasons for which a message is rejected. They are stored: a name, once released, keeps its meaning."""

    NOT_JSON = "not_json"
    NOT_AN_OBJECT = "not_an_object"
    PAYLOAD_UNAVAILABLE = "payload_unavailable"  # a pointer into S3 whose object is not available
    TOO_DEEP = "too_deep"
    DUPLICATE_KEY = "duplicate_key"
    COLLIDING_KEYS = "colliding_keys"  # two names that flatten to the same field
    NOT_A_LOGIN = "not_a_login"  # no field of the contract: another kind of message altogether
    MISSING_FIELD = "missing_field"  # absent or null
    WRONG_TYPE = "wrong_type"  # present, but not a string
    UNSTORABLE_TEXT = "unstorable_text"  # NUL or a lone surrogate
    UNKNOWN_FIELD = "unknown_field"  # only where LOGINETL_UNKNOWN_FIELDS=reject
    EMPTY = "empty"
    TOO_LONG = "too_long"
    BAD_IP = "bad_ip"
    BAD_VERSION = "bad_version"
    REFUSED_BY_TABLE = "refused_by_table"  # a width, constraint or trigger of an adopted user_logins


class Rejection(NamedTuple):
    """A reason and, where one field is to blame, its name (the contract's or event_id; never the sender's text)."""

    reason: Reason
    field: str | None = None
