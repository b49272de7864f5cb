"""Rotation: what is under old keys moves to the new ones, in chunks, while the pipeline runs.

Re-tokenizing. A token is made from the value, so moving one needs the officer (to decrypt the vault) and the masking
keyset.

1. Every vault value under an old key is decrypted, encrypted again under its new token, and entered in
   `loginetl.token_map`. From the moment the pipeline holds the new key it does the same for every value it meets,
   before the row is loaded. So a value never counts as two in the view `loginetl.logins`, which uses that map.
2. Tokens in rows whose value has left the vault (LOGINETL_VAULT_DAYS) get a new token that is made of the old one, so
   that their rows still have equal tokens. A login that has the value again gets another one.
3. Masked files are rewritten; pending ones are masked again, so that no old token is loaded from here on.
4. The rows of the login table are rewritten, by pages of the table, both columns at once.
5. Old vault entries that no row has any more are removed.

Each chunk commits by itself and each step finds what is left, so a retokenize that was killed is finished by another.

Re-encrypting data keys. The vault's data keys are encrypted for a new officer key; values stay as they are.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

import polars as pl
from sqlalchemy import Connection, Row

from loginetl_assets.errors import OperatorError
from loginetl_assets.keys.keyring import Keyring
from loginetl_assets.keys.officer import Officer
from loginetl_assets.landing.batch_files import UnreadableError, read_masked, write_masked
from loginetl_assets.landing.object_store import Landing
from loginetl_assets.logins.contract import TOKEN_COLUMNS
from loginetl_assets.logins.encryption import VAULT_KEY_CONTEXT, DecryptionError
from loginetl_assets.logins.tokens import tokens_in
from loginetl_assets.settings import KeysetRole
from loginetl_assets.steps.batch_objects import delete_pending
from loginetl_assets.steps.mask import fill_vault
from loginetl_assets.steps.totals import StepTotals
from loginetl_assets.storage import audit, batches, installation, login_rows, vault
from loginetl_assets.storage.batches import BatchState
from loginetl_assets.storage.database import LoginDatabase
from loginetl_assets.storage.login_table import every_row
from loginetl_assets.storage.login_table_record import login_table
from loginetl_assets.storage.table_sizes import table_pages
from loginetl_assets.storage.token_map import map_tokens, new_tokens, shorten_chains

VALUES_PER_CHUNK = 5_000
# 512 pages of 8 KiB are some 20 000 rows: a transaction of about a second.
PAGES_PER_CHUNK = 512
DATA_KEYS_PER_CHUNK = 500
# Nobody lands or masks while a chunk is looked up and removed: about a second, of the 30 s that others wait for a lock.
OLD_ENTRIES_PER_CHUNK = 25_000

Progress = Callable[[str, int, int], None]
"""Takes the step, how much of it is done, and of how much."""


@dataclass(frozen=True)
class RetokenizeTotals(StepTotals):
    """What a retokenize moved."""

    values: int = 0
    expired_tokens: int = 0  # of which the vault has no value any more
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
) -> RetokenizeTotals:
    """Moves rows, masked files and vault to the masking keyset's primary key; logged before.

    Raises OperatorError where the officer's keyset cannot decrypt the vault, or what would be encrypted for it; where a
    keyset is another database's; or where, once all else is moved, rows have stayed under old tokens.
    """
    with every_row(database) as connection:  # before anything is moved
        for role in KeysetRole:
            installation.check_keys(connection, role, keys.check_values(role))
        _require_whole_vault(connection, officer)
        if not officer.opens(keys.vault):
            raise OperatorError(_not_the_officers(keys))
    audit.record(database, audit.Action.RETOKENIZE, reason, counts={"new_key_id": keys.tokenizer.key_id})
    move = _Retokenizing(database, landing, keys, officer, progress)
    return RetokenizeTotals(
        values=move.values(),  # fills the map by which files and rows are moved
        expired_tokens=move.expired_tokens(),
        masked_files=move.masked_files(),
        rows=move.rows(),  # after the files: one that is loaded behind this walk must hold no old token
        removed_entries=move.remove_old_entries(),
    )


def walk_rows(
    database: LoginDatabase, work: Callable[[Connection, int, int], int], progress: Callable[[int, int], None]
) -> int:
    """Does some work on the login table, chunk by chunk, each in a transaction; returns the sum of its results.

    From the first page to the last, those that grow meanwhile included. `work` takes the first page and the one behind
    the last; `progress`, how many pages are done, of how many.
    """
    results = first = 0
    while True:
        with every_row(database) as connection:
            pages, partitions = table_pages(connection)
            beyond = first + max(1, PAGES_PER_CHUNK // partitions)
            if first >= pages:
                return results
            results += work(connection, first, beyond)
        first = beyond
        progress(min(first, pages), pages)


@dataclass(frozen=True)
class _Retokenizing:
    """The five steps of one move to the primary masking key, each to be done once the one before it is."""

    database: LoginDatabase
    landing: Landing
    keys: Keyring
    officer: Officer
    progress: Progress

    @property
    def prefix(self) -> str:
        """What the new tokens start with."""
        return f"{self.keys.tokenizer.key_id}."

    def values(self) -> int:
        """Enters the vault's values under their new tokens; returns how many."""
        with self.database.transaction() as connection:
            total = vault.count_unmoved(connection, self.prefix)
        moved, after = 0, ""
        while True:
            with self.database.transaction() as connection:
                vault.lock_shared(connection)
                page = vault.unmoved_entries(connection, self.prefix, after=after, limit=VALUES_PER_CHUNK)
                if page:
                    self._move_entries(connection, page)
                elif not after:
                    return moved
            # An empty page starts again: entries may be committed behind this walk, and what is moved is not met again.
            after = page[-1].token if page else ""
            if page:
                moved += len(page)
                self.progress("vault", moved, total)

    def _move_entries(self, connection: Connection, entries: Iterable[Row[Any]]) -> None:
        moved, old_tokens = [], []
        for entry in entries:
            try:
                value = self.officer.value(entry.wrapped_key, entry.encrypted_value, entry.token)
            except DecryptionError:
                raise OperatorError(
                    f"data key {entry.data_key_id} of the vault, or a value under it, does not decrypt: nothing was"
                    " moved in this chunk; restore it from a backup"
                ) from None
            token = self.keys.tokenizer.token(entry.field, value)
            moved.append((token, entry.field, value))
            old_tokens.append((entry.token, token))  # its key may have left the keyset
        fill_vault(connection, self.keys, moved, old_tokens)

    def expired_tokens(self) -> int:
        """Enters new tokens for those whose value has left the vault; returns for how many."""

        def renew(connection: Connection, first: int, beyond: int) -> int:
            expired = login_rows.tokens_without_value(connection, self.prefix, first, beyond)
            map_tokens(connection, [(token, self.keys.tokenizer.token(field, token)) for field, token in expired])
            return len(expired)

        renewed = walk_rows(self.database, renew, partial(self.progress, "expired tokens"))
        with self.database.transaction() as connection:
            # Tokens of keys that are no longer held still point to what they became in an earlier rotation.
            shorten_chains(connection)
        return renewed

    def masked_files(self) -> int:
        """Rewrites masked files that are loaded and drops those that are not; returns how many."""
        with self.database.transaction() as connection:
            batch_ids = batches.batches_in_landing(connection)
        moved = 0
        for done, batch_id in enumerate(batch_ids, 1):
            with self.database.transaction() as connection:
                moved += self._move_file(connection, batch_id)
            self.progress("masked files", done, len(batch_ids))
        delete_pending(self.database, self.landing)
        return moved

    def _move_file(self, connection: Connection, batch_id: int) -> bool:
        batch = batches.lock_batch(connection, batch_id)
        if batch is None or batch.masked_path is None:
            return False
        try:
            logins = read_masked(self.landing, batch.masked_path)
        except UnreadableError:
            return False
        if not (new := new_tokens(connection, tokens_in(logins))):
            return False
        masked_path = None  # it is masked again
        if batch.state is BatchState.LOADED:
            vault.lock_shared(connection)
            rewritten = logins.with_columns(pl.col(*TOKEN_COLUMNS.values()).replace(new))
            masked_path, _ = write_masked(self.landing, rewritten)
        batches.replace_masked(connection, batch, masked_path)
        return True

    def rows(self) -> int:
        """Rewrites the rows; returns how many."""

        def move(connection: Connection, first: int, beyond: int) -> int:
            return login_rows.retokenize_pages(connection, self.prefix, first, beyond)

        return walk_rows(self.database, move, partial(self.progress, "rows"))

    def remove_old_entries(self) -> int:
        """Removes moved vault entries; returns how many, or raises OperatorError where rows still have some of them."""
        with self.database.transaction() as connection:
            total = login_rows.count_moved_entries(connection, self.prefix)
        done = removed = 0
        after: str | None = ""
        while after is not None:
            with every_row(self.database) as connection:
                vault.lock_exclusive(connection)
                after, entries, gone = login_rows.remove_moved_entries(
                    connection, self.prefix, after=after, limit=OLD_ENTRIES_PER_CHUNK
                )
                if after is None:
                    vault.drop_empty_data_keys(connection)
            done += entries
            removed += gone
            if entries:
                self.progress("old entries", done, total)
        if left := done - removed:
            with self.database.transaction() as connection:
                table = login_table(connection)
            raise OperatorError(
                f"rows of {table} still have {left} old tokens: a trigger of it passes the rows over, or undoes the"
                " change (disable it), or a process that lacks the new key has loaded them since (restart it); then"
                " run `loginetl keys retokenize` again"
            )
        return removed


def reencrypt_data_keys(
    database: LoginDatabase,
    keys: Keyring,
    officer: Officer,
    *,
    reason: str,
    to_another_officer: bool = False,
    progress: Progress = lambda step, done, total: None,
) -> int:
    """Encrypts the vault's data keys for the vault keyset's primary key; returns how many were moved.

    From then on the pipeline may use that key. `keys` holds the new public key, `officer` the private keys that the
    data keys are encrypted for now. With `to_another_officer` the new key's private half is elsewhere, so that nothing
    here can show that anybody has it; logged. Raises OperatorError where the officer's keyset lacks a key that the
    vault is encrypted for, or the new one.
    """
    check_values = keys.check_values(KeysetRole.VAULT)
    new_key_id = next(iter(check_values))
    with database.transaction() as connection:
        _require_whole_vault(connection, officer)
        is_foreign = not officer.opens(keys.vault)
        if is_foreign and not to_another_officer:
            raise OperatorError(
                f"{_not_the_officers(keys)}; if it is another officer's, say so with --to-another-officer: only the"
                " holder of its private half can then recover anything"
            )
        total = vault.count_data_keys_of_others(connection, new_key_id)
        # The new key is checked too, where the officer has another key under its id.
        installation.check_belonging(connection, KeysetRole.VAULT, {**officer.check_values(), **check_values})
    counts = {"new_key_id": new_key_id, "data_keys": total, **({"to_another_officer": 1} if is_foreign else {})}
    audit.record(database, audit.Action.REENCRYPT, reason, counts=counts)
    with database.transaction() as connection:
        installation.remember_key(connection, KeysetRole.VAULT, new_key_id, check_values[new_key_id])
    moved = 0
    while True:
        with database.transaction() as connection:
            data_keys = vault.lock_data_keys_of_others(connection, new_key_id, limit=DATA_KEYS_PER_CHUNK)
            for data_key_id, wrapped_key in data_keys:
                try:
                    wrapped = keys.vault.encrypt(officer.unwrap(wrapped_key), VAULT_KEY_CONTEXT)
                except DecryptionError:
                    raise OperatorError(f"data key {data_key_id} of the vault does not decrypt: restore it") from None
                vault.replace_data_key(connection, data_key_id, wrapped, new_key_id)
        if not data_keys:
            return moved
        moved += len(data_keys)
        progress("data keys", moved, total)


def _require_whole_vault(connection: Connection, officer: Officer) -> None:
    if missing := vault.officer_key_ids(connection).difference(officer.key_ids):
        raise OperatorError(
            "LOGINETL_KEYSET_OFFICER does not hold every key that the vault is encrypted for (missing:"
            f" {', '.join(map(str, sorted(missing)))}): set the keyset that does"
        )


def _not_the_officers(keys: Keyring) -> str:
    key_id = keys.key_ids(KeysetRole.VAULT)[0]
    return (
        f"LOGINETL_KEYSET_OFFICER does not decrypt what is encrypted for the primary key {key_id} of"
        " LOGINETL_KEYSET_VAULT: set the two that belong together"
    )
