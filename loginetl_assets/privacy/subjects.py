"""Whom an erasure is about: a user, whoever has one of some devices or addresses, or those of earlier erasures."""

import json
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import UTC, date, datetime
from typing import Any

import polars as pl

from loginetl_assets.errors import SettingsError
from loginetl_assets.keys.keyring import Keyring
from loginetl_assets.logins.canonical import canonical_values
from loginetl_assets.logins.contract import MASKED_FIELDS, TOKEN_COLUMNS
from loginetl_assets.logins.message import Login, is_storable, read_login
from loginetl_assets.logins.rejection import Rejection
from loginetl_assets.logins.strings import strings_in
from loginetl_assets.logins.tokens import Tokenizer
from loginetl_assets.storage.login_rows import RowFilter, any_of, rows_of_user, rows_until, rows_with_tokens

PairsOf = Callable[[Collection[str]], Iterable[tuple[str, str]]]
"""Takes tokens and returns the pairs (old, new) of the same values."""


class User:
    """A person by user id."""

    def __init__(self, user_id: str, tokenizer: Tokenizer) -> None:
        """Takes the id as the table has it."""
        self._user_id = user_id
        self.tokens: set[str] = set()  # it is not asked for by token
        self.rows = rows_of_user(user_id)
        # The log must not name whom it helped to forget; with the masking key the row can still be found.
        self.audit_tokens = [tokenizer.token("user_id", user_id)]
        self._spellings = {
            json.dumps(user_id, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")
            for ascii_only in (True, False)
        }
        # As a number, or cut short before the quote that ends it.
        bare = re.escape(user_id.encode("utf-8", "surrogatepass"))
        self._bare = re.compile(rb'id\\*"\s*:\s*\\*"?' + bare + rb'(?=[\s"\\,}\]]|$)')

    def as_record(self) -> dict[str, Any]:
        """Returns what the list of erasures keeps, encrypted."""
        return {"user_id": self._user_id}

    def add_pairs(self, pairs_of: PairsOf) -> None:
        """Does nothing: the person is not asked for by token."""

    def matches(self, body: bytes, sent_at_ms: int = 0) -> bool:
        """Whether a message is the person's, whenever it was sent."""
        return self.has(read_login(body), body)

    def has(self, login: Login | Rejection, body: bytes) -> bool:
        """By the field where the body can be read, else by the id anywhere in it as a string, or as an id."""
        if isinstance(login, Login):
            return bool(login.user_id == self._user_id)
        if self._user_id in strings_in(body):
            return True
        # Where a quote is missing, strings are not what they seem.
        # An SNS envelope escapes the quotes of the message inside it.
        return bool(self._bare.search(body)) or any(
            spelling in body or spelling.replace(b'"', b'\\"') in body for spelling in self._spellings
        )

    def masked(self) -> pl.Expr:
        """By user id."""
        return pl.col("user_id") == self._user_id


class Tokens:
    """Whoever has one of some devices or addresses, by token."""

    def __init__(self, tokens: Iterable[str], tokenizers: Sequence[Tokenizer]) -> None:
        """Takes the tokens, and the tokenizers of every key they may be under."""
        self.tokens = set(tokens)  # and the others that their values have while keys rotate, once these are found
        self.audit_tokens = sorted(self.tokens)
        self._tokenizers = tokenizers

    @property
    def rows(self) -> RowFilter:
        """By either token."""
        return rows_with_tokens(self.tokens)

    def as_record(self) -> dict[str, Any]:
        """Returns what the list of erasures keeps: the tokens of the values under every key, as far as known."""
        return {"tokens": sorted(self.tokens)}

    def add_pairs(self, pairs_of: PairsOf) -> None:
        """Adds the other tokens that the values have while keys rotate."""
        self.tokens.update(*pairs_of(self.tokens))

    def matches(self, body: bytes, sent_at_ms: int = 0) -> bool:
        """Whether a message has one of the values, whenever it was sent."""
        return self.has(read_login(body), body)

    def has(self, login: Login | Rejection, body: bytes) -> bool:
        """By the two fields where the body can be read, else by any string in it that would have the token."""
        if isinstance(login, Login):
            values = values_of([login])
        else:
            # After any quote, too: where one is missing, strings are not what they seem.
            strings = {found.decode(errors="replace") for found in re.findall(rb'"([^"\\]{1,256})', body)}
            strings |= set(filter(is_storable, strings_in(body)))  # no other text was ever given a token
            values = dict.fromkeys(MASKED_FIELDS, strings)
        return not self.tokens.isdisjoint(tokens_of(self._tokenizers, values))

    def masked(self) -> pl.Expr:
        """By either token."""
        return pl.any_horizontal(pl.col(*TOKEN_COLUMNS.values()).is_in(self.tokens).fill_null(False))


class Erased:
    """Those whom earlier erasures were about, each with all that was sent until the end of that day (UTC).

    What came later is new data. By the day, as the rows of the login table have no time.
    """

    def __init__(self, parts: Sequence[tuple[User | Tokens, date]]) -> None:
        self._parts = parts
        self.audit_tokens = sorted({token for one, _ in parts for token in one.audit_tokens})

    @property
    def tokens(self) -> set[str]:
        """Those of all that are asked for by token."""
        return set().union(*(one.tokens for one, _ in self._parts))

    @property
    def rows(self) -> RowFilter:
        """Of any of them, of the day or before, or without a date."""
        return any_of([rows_until(one.rows, day) for one, day in self._parts])

    def add_pairs(self, pairs_of: PairsOf) -> None:
        """As each of them."""
        for one, _ in self._parts:
            one.add_pairs(pairs_of)

    def matches(self, body: bytes, sent_at_ms: int = 0) -> bool:
        """Whether a message is of any of them, and of the day or before."""
        login, sent_on = read_login(body), datetime.fromtimestamp(sent_at_ms / 1000, UTC).date()
        return any(sent_on <= day and one.has(login, body) for one, day in self._parts)

    def masked(self) -> pl.Expr:
        """As `rows`."""
        is_old = (one.masked() & (pl.col("create_date") <= day).fill_null(True) for one, day in self._parts)
        return pl.any_horizontal(pl.lit(False), *is_old)


Subject = User | Tokens | Erased


def subject_of(user_id: str | None, tokens: list[str], keys: Keyring) -> User | Tokens:
    """Returns whom the command names; raises SettingsError where it names nobody, or does so both ways at once."""
    if bool(user_id) == bool(tokens):
        raise SettingsError("name whom to erase: --user-id, one or more --token, or --reapply")
    if user_id:
        return User(user_id, keys.tokenizer)
    return Tokens(tokens, keys.tokenizers)


def values_of(logins: Collection[Login]) -> dict[str, set[str]]:
    """Returns the values of the masked fields, by field."""
    return {field: {getattr(login, field) for login in logins} - {None} for field in MASKED_FIELDS}


def tokens_of(tokenizers: Iterable[Tokenizer], values: Mapping[str, set[str]]) -> set[str]:
    """Returns the tokens, by every tokenizer, of texts by field; a body may hold 100 000."""
    return {
        tokenizer.token(field, canonical)
        for field, texts in values.items()
        for canonical in canonical_values(field, texts)
        for tokenizer in tokenizers
    }
