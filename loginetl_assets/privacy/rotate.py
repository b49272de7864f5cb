"""Rotation: what is under old keys moves to the new ones, in chunks, while the pipeline goes on.

Retoken. A token is made from the value, so moving one needs the officer (to open the vault) and the masking keyset.

1. Every vault value under an old key is opened, sealed again under its new token, and entered in `loginetl.token_map`.
   From the moment the pipeline holds the new key it does the same for every value it meets, before the row is loaded.
   So a value never counts as two in the view `loginetl.logins`, which looks tokens up in that map.
2. Masked files are rewritten; pending ones are masked anew, so that no old token is loaded from here on.
3. The rows of the table of logins are rewritten, by pages of the table, both columns at once.
4. Old vault entries that no row has any more are removed.

Each chunk commits by itself and each step finds what is left, so a retokenize that was killed is finished by another.

Rewrap. The vault's data keys are sealed to a new officer key; values stay as they are.
"""

from collections.abc import Callable
from dataclasses import dataclass

import polars as pl
from sqlalchemy import Connection, text

from loginetl_assets.errors import OperatorError
from loginetl_assets.keys.keyring import Keyring
from loginetl_assets.keys.officer import Officer
from loginetl_assets.landing.batch_files import UnreadableError, read_masked, write_masked
from loginetl_assets.landing.object_store import Landing
from loginetl_assets.logins.encryption import VAULT_KEY_CONTEXT, DecryptionError, VaultEncryptor, decrypt
from loginetl_assets.settings import KeysetRole
from loginetl_assets.steps.batch_objects import delete_pending
from loginetl_assets.storage import audit, batches, installation, vault
from loginetl_assets.storage.adoption import login_table
from loginetl_assets.storage.batches import BatchState
from loginetl_assets.storage.database import LoginDatabase
from loginetl_assets.storage.login_table import require_every_row, table_pages

_VALUES_PER_CHUNK = 5_000
# 512 pages of 8 KiB are some 20 000 rows: a transaction of about a second.
_PAGES_PER_CHUNK = 512
_KEYS_PER_CHUNK = 500
# Nobody lands or masks while a chunk is looked up and removed: about a second, of the 30 s that others wait for a lock.
OLD_ENTRIES_PER_CHUNK = 25_000

Progress = Callable[[str, int, int], None]
"""Told the step, how much of it is done, and of how much."""


@dataclass
class RetokenCounts:
    """What a retokenize moved."""

    values: int = 0
    rows: int = 0
    masked_files: int = 0
    removed_entries: int = 0


def retokenize(
    database: LoginDatabase,
    landing: Landing,
    keys: Keyring,
    officer: Officer,
    *,
    reason: str,
    progress: Progress = lambda step, done, total: None,
) -> RetokenCounts:
    """Moves rows, masked files and vault to the masking keyset's primary key.

    Raises:
        OperatorError: the officer's keyset cannot open the vault, or what would be sealed for it; or a keyset is
            another database's; or, once all else is moved, rows have stayed under old tokens.
    """
    counts = RetokenCounts()
    primary = f"{keys.tokenizer.key_id}."
    with database.transaction() as connection:
        require_every_row(connection)  # here first, before anything is moved
        for role in KeysetRole:
            installation.check_keys(connection, role, keys.check_values(role))
        _check_officer(connection, officer)
        if not officer.opens(keys.vault):
            raise OperatorError(_not_the_officers(keys))
    audit.record(database, audit.Action.RETOKEN, reason, counts={"new_key_id": keys.tokenizer.key_id})
    _move_values(database, keys, officer, primary, counts, progress)
    _move_files(database, landing, counts, progress)
    _move_rows(database, primary, counts, progress)
    if left := _remove_old_entries(database, primary, counts, progress):
        with database.transaction() as connection:
            table = login_table(connection)
        raise OperatorError(
            f"rows of {table} still have {left} old tokens: a trigger of it passes the rows over, or undoes the change"
            " (disable it), or a process that lacks the new key has loaded them since (restart it); then run it again"
        )
    return counts


def _check_officer(connection: Connection, officer: Officer) -> None:
    """Makes sure that the officer's keyset opens the whole vault."""
    needed = set(
        connection.execute(
            text("SELECT DISTINCT officer_key_id FROM loginetl.vault_data_keys WHERE NOT officer_key_id = ANY(:held)"),
            {"held": list(officer.key_ids)},
        ).scalars()
    )
    if needed:
        raise OperatorError(
            "LOGINETL_KEYSET_OFFICER does not hold every key that the vault is sealed to (missing:"
            f" {', '.join(map(str, sorted(needed)))}): set the keyset that does"
        )


def _not_the_officers(keys: Keyring) -> str:
    key_id = keys.key_ids(KeysetRole.VAULT)[0]
    return (
        f"LOGINETL_KEYSET_OFFICER does not open what is sealed to the primary key {key_id} of LOGINETL_KEYSET_VAULT:"
        " set the two that belong together"
    )


def _move_values(
    database: LoginDatabase,
    keys: Keyring,
    officer: Officer,
    primary: str,
    counts: RetokenCounts,
    progress: Progress,
) -> None:
    unmoved = (
        "FROM loginetl.pii_vault v WHERE NOT starts_with(token, :primary) AND token > :after AND NOT EXISTS"
        " (SELECT FROM loginetl.token_map WHERE old_token = v.token AND starts_with(new_token, :primary))"
    )
    with database.transaction() as connection:
        total = connection.execute(
            text(f"SELECT count(*) {unmoved}"),
            {"primary": primary, "after": ""},
        ).scalar_one()
    after = ""
    while True:
        with database.transaction() as connection:
            vault.lock_shared(connection)
            entries = connection.execute(
                text(
                    "SELECT v.token, v.field, v.encrypted_value, v.data_key_id, k.wrapped_key"
                    " FROM (SELECT token, field, encrypted_value, data_key_id"
                    f" {unmoved} ORDER BY token LIMIT :limit) v JOIN loginetl.vault_data_keys k USING (data_key_id)"
                    " ORDER BY v.token"
                ),
                {"primary": primary, "after": after, "limit": _VALUES_PER_CHUNK},
            ).all()
            if not entries and after:
                after = ""  # entries that were committed behind this walk: what is moved is not met again
                continue
            if not entries:
                # Tokens of keys that are no longer held still point at what they became in an earlier rotation.
                vault.shorten_token_map(connection)
                return
            after = entries[-1].token
            by_key: dict[int, list[tuple[str, bytes]]] = {}
            wrapped = {entry.data_key_id: entry.wrapped_key for entry in entries}
            for entry in entries:
                by_key.setdefault(entry.data_key_id, []).append((entry.token, entry.encrypted_value))
            values: dict[str, str] = {}
            for data_key_id, sealed in by_key.items():
                try:
                    data_key = officer.data_key(wrapped[data_key_id])
                    values |= {token: decrypt(data_key, encrypted, token).decode() for token, encrypted in sealed}
                except DecryptionError:
                    raise OperatorError(
                        f"data key {data_key_id} of the vault, or a value under it, does not open: nothing was moved"
                        " in this chunk; restore it from a backup"
                    ) from None
            encryptor = VaultEncryptor(keys.vault)
            moved = {entry.token: keys.tokenizer.token(entry.field, values[entry.token]) for entry in entries}
            # A value's tokens under every old key at once, and the map before the vault, as the pipeline does: it
            # waits for us or we for it, and never each for the other.
            vault.map_tokens(
                connection,
                (
                    (old, moved[entry.token])
                    for entry in entries
                    for old in (
                        entry.token,
                        *(one.token(entry.field, values[entry.token]) for one in keys.old_tokenizers),
                    )
                ),
            )
            vault.add(
                connection,
                encryptor.wrapped_key,
                keys.key_ids(KeysetRole.VAULT)[0],
                [
                    (moved[entry.token], entry.field, encryptor.encrypt(moved[entry.token], values[entry.token]))
                    for entry in entries
                ],
            )
        counts.values += len(entries)
        progress("vault", counts.values, total)


def _move_rows(database: LoginDatabase, primary: str, counts: RetokenCounts, progress: Progress) -> None:
    """Rewrites the table from its first page to its last, those that grow meanwhile included.

    Each statement takes a range of pages from all of its partitions at once.
    """
    first = 0
    while True:
        with database.transaction() as connection:
            require_every_row(connection)
            pages, partitions = table_pages(connection)
            beyond = first + max(1, _PAGES_PER_CHUNK // partitions)
            if first >= pages:
                return
            counts.rows += connection.execute(
                text(
                    f"UPDATE {login_table(connection)} u SET"
                    " masked_ip = coalesce("
                    "   (SELECT new_token FROM loginetl.token_map WHERE old_token = u.masked_ip), masked_ip),"
                    " masked_device_id = coalesce("
                    "   (SELECT new_token FROM loginetl.token_map WHERE old_token = u.masked_device_id),"
                    "   masked_device_id)"
                    " WHERE ctid >= CAST(:first AS tid) AND ctid < CAST(:beyond AS tid)"
                    # What is under the new key already (moved rows stand on new pages) is told without a look-up.
                    " AND (NOT starts_with(masked_ip, :primary) OR NOT starts_with(masked_device_id, :primary))"
                    " AND (EXISTS (SELECT FROM loginetl.token_map WHERE old_token = u.masked_ip)"
                    "   OR EXISTS (SELECT FROM loginetl.token_map WHERE old_token = u.masked_device_id))"
                ),
                {"first": f"({first},0)", "beyond": f"({beyond},0)", "primary": primary},
            ).rowcount
        first = beyond
        progress("rows", min(first, pages), pages)


def _move_files(database: LoginDatabase, landing: Landing, counts: RetokenCounts, progress: Progress) -> None:
    with database.transaction() as connection:
        batch_ids = batches.batches_in_landing(connection)
    for done, batch_id in enumerate(batch_ids, 1):
        with database.transaction() as connection:
            batch = batches.lock_batch(connection, batch_id)
            if batch is None or batch.masked_path is None:
                continue
            try:
                logins = read_masked(landing, batch.masked_path)
            except UnreadableError:
                continue
            new = vault.mapped_tokens(connection, [*logins["masked_ip"], *logins["masked_device_id"]])
            if not new:
                continue
            if batch.state is BatchState.LOADED:
                vault.lock_shared(connection)
                masked_path, _ = write_masked(
                    landing, logins.with_columns(pl.col("masked_ip", "masked_device_id").replace(new))
                )
                batches.replace_masked(connection, batch, masked_path)
            else:
                batches.replace_masked(connection, batch, None)
            counts.masked_files += 1
        progress("masked files", done, len(batch_ids))
    delete_pending(database, landing)


def _remove_old_entries(database: LoginDatabase, primary: str, counts: RetokenCounts, progress: Progress) -> int:
    """Removes moved vault entries that no row has any more; returns how many there are that rows still have."""
    moved = (
        "FROM loginetl.pii_vault v WHERE NOT starts_with(token, :primary) AND token > :after"
        " AND EXISTS (SELECT FROM loginetl.token_map WHERE old_token = v.token)"
    )
    with database.transaction() as connection:
        total = connection.execute(text(f"SELECT count(*) {moved}"), {"primary": primary, "after": ""}).scalar_one()
    after, done, left = "", 0, 0
    while True:
        with database.transaction() as connection:
            require_every_row(connection)
            vault.lock_exclusive(connection)
            table = login_table(connection)
            chunk = connection.execute(
                text(
                    f"WITH chunk AS (SELECT token {moved} ORDER BY token LIMIT :limit),"
                    " gone AS (DELETE FROM loginetl.pii_vault v USING chunk WHERE v.token = chunk.token"
                    f" AND NOT EXISTS (SELECT FROM {table} WHERE masked_ip = v.token)"
                    f" AND NOT EXISTS (SELECT FROM {table} WHERE masked_device_id = v.token) RETURNING v.token)"
                    " SELECT max(token) AS last, count(*) AS entries, (SELECT count(*) FROM gone) AS gone FROM chunk"
                ),
                {"primary": primary, "after": after, "limit": OLD_ENTRIES_PER_CHUNK},
            ).one()
            if chunk.last is None:
                vault.drop_empty_data_keys(connection)
                return left
        after = chunk.last
        done += chunk.entries
        left += chunk.entries - chunk.gone
        counts.removed_entries += chunk.gone
        progress("old entries", done, total)


def reencrypt_data_keys(
    database: LoginDatabase,
    keys: Keyring,
    officer: Officer,
    *,
    reason: str,
    to_another_officer: bool = False,
    progress: Progress = lambda step, done, total: None,
) -> int:
    """Seals the vault's data keys to the vault keyset's primary key; gives back how many were moved.

    From then on the pipeline may use that key.

    Args:
        database: as a role that may change the vault.
        keys: holds the new public key.
        officer: holds the private keys that the data keys are sealed to now.
        reason: why; logged.
        to_another_officer: the new public key's private half is elsewhere, so that nothing here can show that anybody
            has it; logged.
        progress: told how far it is.

    Raises:
        OperatorError: the officer's keyset lacks a key that the vault is sealed to, or the new one.
    """
    check_values = keys.check_values(KeysetRole.VAULT)
    new_key_id = next(iter(check_values))
    with database.transaction() as connection:
        _check_officer(connection, officer)
        foreign = not officer.opens(keys.vault)
        if foreign and not to_another_officer:
            raise OperatorError(
                f"{_not_the_officers(keys)}; if it is another officer's, say so with --to-another-officer: only who"
                " holds its private half can then recover anything"
            )
        total = connection.execute(
            text("SELECT count(*) FROM loginetl.vault_data_keys WHERE officer_key_id <> :new"), {"new": new_key_id}
        ).scalar_one()
        # What would be sealed with is looked at, where the officer has another key under its id.
        installation.check_belonging(connection, KeysetRole.VAULT, {**officer.check_values(), **check_values})
    counts = {"new_key_id": new_key_id, "data_keys": total, **({"to_another_officer": 1} if foreign else {})}
    audit.record(database, audit.Action.REWRAP, reason, counts=counts)
    with database.transaction() as connection:
        installation.remember_key(connection, KeysetRole.VAULT, new_key_id, check_values[new_key_id])
    moved = 0
    while True:
        with database.transaction() as connection:
            rows = connection.execute(
                text(
                    "SELECT data_key_id, wrapped_key FROM loginetl.vault_data_keys WHERE officer_key_id <> :new"
                    " ORDER BY data_key_id LIMIT :limit FOR UPDATE"
                ),
                {"new": new_key_id, "limit": _KEYS_PER_CHUNK},
            ).all()
            if not rows:
                return moved
            for row in rows:
                try:
                    data_key = officer.unwrap(row.wrapped_key)
                except DecryptionError:
                    raise OperatorError(f"data key {row.data_key_id} of the vault does not open: restore it") from None
                connection.execute(
                    text(
                        "UPDATE loginetl.vault_data_keys SET wrapped_key = :wrapped, officer_key_id = :new"
                        " WHERE data_key_id = :data_key_id"
                    ),
                    {
                        "wrapped": keys.vault.encrypt(data_key, VAULT_KEY_CONTEXT),
                        "new": new_key_id,
                        "data_key_id": row.data_key_id,
                    },
                )
        moved += len(rows)
        progress("data keys", moved, total)
