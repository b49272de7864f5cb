"""Whom an erasure is about: a user, or whoever has one of some devices or addresses."""

import json
import re
from collections.abc import Collection, Iterable, Mapping, Sequence

import polars as pl

from loginetl_assets.errors import SettingsError
from loginetl_assets.keys.keyring import Keyring
from loginetl_assets.logins.canonical import canonical_values
from loginetl_assets.logins.contract import MASKED_FIELDS, TOKEN_COLUMNS
from loginetl_assets.logins.message import Login, is_storable, read_login
from loginetl_assets.logins.strings import strings_in
from loginetl_assets.logins.tokens import Tokenizer
from loginetl_assets.storage.login_rows import RowFilter, rows_of_user, rows_with_tokens


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

    def matches(self, body: bytes) -> bool:
        """By the field where the body can be read, else by the id anywhere in it as a string, or as an id."""
        login = read_login(body)
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

    def matches(self, body: bytes) -> bool:
        """By the two fields where the body can be read, else by any string in it that would have the token."""
        login = read_login(body)
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


Subject = User | Tokens


def subject_of(user_id: str | None, tokens: list[str], keys: Keyring) -> Subject:
    """Returns whom the command names; raises SettingsError where it names nobody, or does so both ways at once."""
    if bool(user_id) == bool(tokens):
        raise SettingsError("name whom to erase: --user-id, or one or more --token")
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
