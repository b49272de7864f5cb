"""Recovery: values for tokens, by the privacy officer, logged first. And the way back: a value's token."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from sqlalchemy import Connection, text

from loginetl_assets.errors import SettingsError
from loginetl_assets.keys.keyring import Keyring
from loginetl_assets.keys.officer import Officer
from loginetl_assets.logins.canonical import canonical_value
from loginetl_assets.logins.encryption import DecryptionError, decrypt
from loginetl_assets.settings import KeysetRole
from loginetl_assets.storage import audit, installation, vault
from loginetl_assets.storage.adoption import login_table
from loginetl_assets.storage.database import LoginDatabase
from loginetl_assets.storage.login_table import require_every_row

_CHUNK = 10_000


class Outcome(StrEnum):
    """What became of a token."""

    RECOVERED = "recovered"
    UNKNOWN = "unknown"  # no such token was ever in the vault, or its key was rotated away
    ERASED = "erased"
    OTHER_KEY = "other_key"  # sealed to an officer key that the given keyset does not hold
    DAMAGED = "damaged"


@dataclass(frozen=True)
class Recovered:
    """A token and its value, if it could be had. Its repr keeps the value to itself."""

    token: str
    outcome: Outcome
    field: str | None = None
    value: str | None = None

    def __repr__(self) -> str:
        return f"Recovered({self.token}, {self.outcome})"


def tokens_of_user(database: LoginDatabase, user_id: str) -> list[str]:
    """The distinct tokens of a user's rows, by index.

    Raises:
        OperatorError: row-level security hides rows.
    """
    with database.transaction() as connection:
        require_every_row(connection)
        table = login_table(connection)
        return list(
            connection.execute(
                text(
                    f"SELECT masked_ip FROM {table} WHERE user_id = :user_id AND masked_ip IS NOT NULL UNION"
                    f" SELECT masked_device_id FROM {table} WHERE user_id = :user_id"
                    " AND masked_device_id IS NOT NULL"
                ),
                {"user_id": user_id},
            ).scalars()
        )


def recover(database: LoginDatabase, officer: Officer, tokens: Iterable[str], *, reason: str) -> list[Recovered]:
    """Recovers values; the log's row is committed before the first is opened.

    Args:
        database: as a role that may read the vault and add to the log.
        officer: holds the private key.
        tokens: which ones; each is answered once, in the order given.
        reason: why; logged.

    Raises:
        SettingsError: no reason or no token was given.
        OperatorError: the log could not be written; nothing was opened then.
    """
    wanted = list(dict.fromkeys(tokens))
    if not wanted:
        raise SettingsError("no token to recover: name tokens, --user-id or --file")
    audit.record(database, audit.Action.RECOVER, reason, tokens=wanted, counts={"tokens": len(wanted)})
    answers: list[Recovered] = []
    for start in range(0, len(wanted), _CHUNK):
        with database.transaction() as connection:
            answers += _answers(connection, officer, wanted[start : start + _CHUNK])
    return answers


def _answers(connection: Connection, officer: Officer, asked: Sequence[str]) -> list[Recovered]:
    """Answers each token; one that a rotation has replaced is looked up under its new one."""
    new = vault.mapped_tokens(connection, asked)
    tokens = [new.get(token, token) for token in asked]
    entries = connection.execute(
        text(
            "SELECT token, field, encrypted_value, data_key_id, wrapped_key, officer_key_id FROM loginetl.pii_vault"
            " JOIN loginetl.vault_data_keys USING (data_key_id) WHERE token = ANY(:tokens) ORDER BY data_key_id"
        ),
        {"tokens": list(tokens)},
    ).all()
    erased = set(
        connection.execute(
            text("SELECT token FROM loginetl.erased_tokens WHERE token = ANY(:tokens)"), {"tokens": list(tokens)}
        ).scalars()
    )
    found: dict[str, Recovered] = {}
    by_key: dict[int, list[tuple[str, bytes]]] = {}
    fields, wrapped, officer_key = {}, {}, {}
    for entry in entries:
        fields[entry.token] = entry.field
        wrapped[entry.data_key_id] = entry.wrapped_key
        officer_key[entry.data_key_id] = entry.officer_key_id
        by_key.setdefault(entry.data_key_id, []).append((entry.token, entry.encrypted_value))
    for data_key_id, sealed in by_key.items():
        try:
            data_key = officer.data_key(wrapped[data_key_id])
        except DecryptionError:
            held = officer_key[data_key_id] in officer.key_ids
            outcome = Outcome.DAMAGED if held else Outcome.OTHER_KEY
            found |= {token: Recovered(token, outcome, fields[token]) for token, _ in sealed}
            continue
        for token, encrypted in sealed:
            try:
                value = decrypt(data_key, encrypted, token).decode()
                found[token] = Recovered(token, Outcome.RECOVERED, fields[token], value)
            except DecryptionError:
                found[token] = Recovered(token, Outcome.DAMAGED, fields[token])
    answers = []
    for token, current in zip(asked, tokens, strict=True):
        answer = found.get(current, Recovered(current, Outcome.ERASED if current in erased else Outcome.UNKNOWN))
        answers.append(replace(answer, token=token))
    return answers


def tokens_of_value(database: LoginDatabase, keys: Keyring, field: str, value: str, *, reason: str) -> list[str]:
    """The tokens of a value, under the primary key first and then under those being rotated away; logged.

    Raises:
        SettingsError: the value is none of its field, or no reason was given.
        OperatorError: the masking keyset is another database's.
    """
    with database.transaction() as connection:
        installation.check_keys(connection, KeysetRole.MASKING, keys.check_values(KeysetRole.MASKING))
    canonical = canonical_value(field, value)
    if not canonical:
        raise SettingsError(f"that is no {field}")
    tokens = [tokenizer.token(field, canonical) for tokenizer in keys.tokenizers]
    audit.record(database, audit.Action.TOKEN, reason, tokens=tokens)
    return tokens
