"""Recovery: values for tokens, by the privacy officer, logged first; and the token of a value."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from dataclasses import field as dataclass_field
from enum import StrEnum

from sqlalchemy import Connection

from loginetl_assets.errors import SettingsError
from loginetl_assets.keys.keyring import Keyring
from loginetl_assets.keys.officer import Officer
from loginetl_assets.logins.canonical import canonical_values, expected
from loginetl_assets.logins.encryption import DecryptionError
from loginetl_assets.settings import KeysetRole
from loginetl_assets.storage import audit, installation, login_rows, vault
from loginetl_assets.storage.database import LoginDatabase
from loginetl_assets.storage.login_table import every_row
from loginetl_assets.storage.token_map import new_tokens

MAX_TOKENS = 1_000  # of one call, unless it asks for more
_TOKENS_PER_CHUNK = 10_000


class Outcome(StrEnum):
    """The result of recovering a token."""

    RECOVERED = "recovered"
    UNKNOWN = "unknown"  # no such token was ever in the vault, or its key was rotated away
    ERASED = "erased"
    EXPIRED = "expired"  # LOGINETL_VAULT_DAYS after the last login that has it: rows keep the token alone
    OTHER_KEY = "other_key"  # encrypted for an officer key that the given keyset does not hold
    DAMAGED = "damaged"


@dataclass(frozen=True)
class Recovered:
    """A token and its value, if it is available."""

    token: str
    outcome: Outcome
    field: str | None = None
    value: str | None = dataclass_field(default=None, repr=False)


def tokens_of_user(database: LoginDatabase, user_id: str) -> list[str]:
    """Returns a user's distinct tokens, by index; raises OperatorError where row-level security hides rows."""
    with every_row(database) as connection:
        return login_rows.tokens_of_user(connection, user_id)


def recover(
    database: LoginDatabase, officer: Officer, tokens: Iterable[str], *, reason: str, max_tokens: int = MAX_TOKENS
) -> list[Recovered]:
    """Recovers values, each token's once, in the order given; logged before the first is decrypted.

    Raises OperatorError without a reason or a token, with more than `max_tokens`, or where the log could not be
    written: nothing is decrypted then.
    """
    asked = list(dict.fromkeys(tokens))
    if not asked:
        raise SettingsError("no token to recover: name tokens, --user-id or --file")
    if len(asked) > max_tokens:
        raise SettingsError(
            f"{len(asked)} tokens are more than --max-tokens, {max_tokens}: raise it if you need all of them; the log"
            " states it"
        )
    counts = {"tokens": len(asked), "max_tokens": max_tokens}
    audit.record(database, audit.Action.RECOVER, reason, tokens=asked, counts=counts)
    answers: list[Recovered] = []
    for start in range(0, len(asked), _TOKENS_PER_CHUNK):
        with database.transaction() as connection:
            answers += _answers(connection, officer, asked[start : start + _TOKENS_PER_CHUNK])
    return answers


def _answers(connection: Connection, officer: Officer, asked: Sequence[str]) -> Iterator[Recovered]:
    """Answers each token; one that a rotation has replaced is looked up by its new one."""
    new = new_tokens(connection, asked)
    current = {token: new.get(token, token) for token in asked}
    entries = {entry.token: entry for entry in vault.entries_of(connection, current.values())}
    erased = vault.erased_among(connection, current.values())
    in_rows = login_rows.tokens_in_rows(connection, {*current, *current.values()}.difference(entries))
    for token in asked:
        entry = entries.get(current[token])
        if entry is None:
            without_value = Outcome.UNKNOWN if in_rows.isdisjoint((token, current[token])) else Outcome.EXPIRED
            yield Recovered(token, Outcome.ERASED if current[token] in erased else without_value)
            continue
        try:
            value = officer.value(entry.wrapped_key, entry.encrypted_value, entry.token)
            yield Recovered(token, Outcome.RECOVERED, entry.field, value)
        except DecryptionError:
            outcome = Outcome.DAMAGED if entry.officer_key_id in officer.key_ids else Outcome.OTHER_KEY
            yield Recovered(token, outcome, entry.field)


def tokens_of_value(database: LoginDatabase, keys: Keyring, field: str, value: str, *, reason: str) -> list[str]:
    """Returns the tokens of a value, under the primary key first and then under those being rotated away; logged.

    Raises OperatorError without a reason or a valid value, or where the masking keyset is another database's.
    """
    with database.transaction() as connection:
        installation.check_keys(connection, KeysetRole.MASKING, keys.check_values(KeysetRole.MASKING))
    canonical = next(iter(canonical_values(field, [value])), None)
    if canonical is None:
        raise SettingsError(f"the value is not a valid {field}: give {expected(field)}")
    tokens = [tokenizer.token(field, canonical) for tokenizer in keys.tokenizers]
    audit.record(database, audit.Action.TOKEN, reason, tokens=tokens)
    return tokens
