"""Tokens: what the table holds in place of a value.

A token is the masking key's id, a dot, and the base64url HMAC-SHA256 of field and canonical value: at most 54
characters. Equal values of one field have equal tokens under one key; the same text in two fields has unrelated ones.
"""

from base64 import urlsafe_b64encode
from collections.abc import Iterable
from typing import TYPE_CHECKING

import polars as pl

from loginetl_assets.logins.contract import TOKEN_COLUMNS

if TYPE_CHECKING:
    from tink import prf

TOKEN_PATTERN = r"^[0-9]{1,10}\.[A-Za-z0-9_-]{43}$"  # noqa: S105 - a shape, not a secret

_BYTES = 32


class Tokenizer:
    """Makes tokens under one masking key."""

    def __init__(self, key_id: int, function: "prf.Prf") -> None:
        """Takes the key's id in its keyset (unsigned 32 bit) and its pseudorandom function."""
        self.key_id = key_id
        self._prf = function

    def token(self, field: str, value: str) -> str:
        """Returns the token of one canonical value."""
        mac = self._prf.compute(f"{field}\0{value}".encode(), _BYTES)
        return f"{self.key_id}.{urlsafe_b64encode(mac)[:-1].decode()}"

    def tokens(self, field: str, values: Iterable[str]) -> pl.DataFrame:
        """Returns the distinct values with their tokens: columns `value`, `token` (both String), in no set order."""
        distinct, start = list(dict.fromkeys(values)), f"{field}\0".encode()
        compute = self._prf.compute
        # All at once: a zero byte makes each a multiple of the three bytes that base64 takes together.
        macs = b"".join([compute(start + value.encode(), _BYTES) + b"\0" for value in distinct])
        encoded = urlsafe_b64encode(macs).decode()
        tokens = [f"{self.key_id}.{encoded[at : at + 43]}" for at in range(0, len(encoded), 44)]
        return pl.DataFrame({"value": distinct, "token": tokens}, schema={"value": pl.String, "token": pl.String})


def is_token(column: pl.Expr) -> pl.Expr:
    """Returns whether a value has the shape of a token (which no IP address or short id has)."""
    return column.str.contains(TOKEN_PATTERN)


def tokens_in(masked: pl.DataFrame) -> set[str]:
    """Returns the tokens of masked rows."""
    return {token for column in TOKEN_COLUMNS.values() for token in masked[column].drop_nulls()}
