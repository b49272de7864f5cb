"""Retiring: old keys are removed from their keyset permanently, once counts show that nothing is under them.

First the primary key is made known to the database, then all that may be under the old ones is counted: in tables, in
the landing, in objects that no batch names. An error says what is left, and the command that moves it.
"""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from sqlalchemy import Connection

from loginetl_assets.keys.keyring import Keyring
from loginetl_assets.keys.officer import Officer
from loginetl_assets.landing.batch_files import UnreadableError, read_masked
from loginetl_assets.landing.object_store import BATCHES, Landing, may_be_ours
from loginetl_assets.logins.encryption import key_id_of
from loginetl_assets.logins.tokens import tokens_in
from loginetl_assets.privacy.erasures import ErasureList
from loginetl_assets.privacy.rotate import walk_rows
from loginetl_assets.settings import KeysetRole
from loginetl_assets.storage import batches, installation, login_rows, objects, rejections, vault
from loginetl_assets.storage.database import LoginDatabase

MOVED_BY = {
    KeysetRole.MASKING: "`loginetl keys retokenize` moves them",
    KeysetRole.LANDING: "retention deletes batches LOGINETL_RETENTION_DAYS after they are loaded or given up, and"
    " `loginetl batches register` registers objects",
    KeysetRole.REJECTS: "`loginetl rejected replay` encrypts what is rejected again with the new key,"
    " `loginetl rejected drop` removes it",
    KeysetRole.VAULT: "`loginetl keys reencrypt` moves them",
}


@dataclass(frozen=True)
class Retirement:
    """One retirement of the old keys of a keyset; `officer` holds those of the vault's."""

    database: LoginDatabase
    landing: Landing
    keys: Keyring
    role: KeysetRole
    officer: Officer | None = None
    progress: Callable[[str, int, int], None] = lambda step, done, total: None

    @property
    def key_ids(self) -> tuple[int, ...]:
        """The ids of the keyset's old keys."""
        return (self.officer.key_ids if self.officer else self.keys.key_ids(self.role))[1:]

    def count(self) -> dict[str, int]:
        """Returns how much is under the old keys, by what it is.

        Raises OperatorError where the keyset is another database's, or its primary key is not in use yet.
        """
        with self.database.transaction() as connection:
            check_values = self.keys.check_values(self.role)
            installation.check_keys(connection, self.role, check_values)
        count = {
            KeysetRole.MASKING: self._of_masking,
            KeysetRole.LANDING: self._of_landing,
            KeysetRole.REJECTS: self._of_rejects,
            KeysetRole.VAULT: self._of_officer,
        }
        return count[self.role]()

    def record(self) -> None:
        """Records the keys as retired, and forgets the old tokens of the masking keyset's."""
        with self.database.transaction() as connection:
            installation.retire_keys(connection, self.role, self.key_ids)
            if self.role is KeysetRole.MASKING:
                vault.forget_tokens_under(connection, self.key_ids)

    def _of_masking(self) -> dict[str, int]:
        def count_rows(connection: Connection, first: int, beyond: int) -> int:
            return login_rows.count_rows_under(connection, self.key_ids, first, beyond)

        with self.database.transaction() as connection:
            batch_ids = batches.batches_in_landing(connection)
        masked_files = 0
        for done, batch_id in enumerate(batch_ids, 1):  # before the rows: a file that is loaded meanwhile is met there
            with self.database.transaction() as connection, suppress(UnreadableError):
                tokens = tokens_in(read_masked(self.landing, batches.get_batch(connection, batch_id).masked_path))
                masked_files += any(token.startswith(f"{key_id}.") for token in tokens for key_id in self.key_ids)
            self.progress("masked files", done, len(batch_ids))
        rows = walk_rows(self.database, count_rows, lambda done, total: self.progress("rows", done, total))
        with self.database.transaction() as connection:
            values = vault.count_values_under(connection, self.key_ids)
        return {"rows": rows, "masked_files": masked_files, "vault_entries": values}

    def _of_landing(self) -> dict[str, int]:
        with self.database.transaction() as connection:
            vault.lock_exclusive(connection)  # so that nobody is about to name an object
            in_batches = batches.count_under(connection, self.key_ids)
            paths = [path for path, _ in self.landing.list(BATCHES) if may_be_ours(path)]
            unregistered = objects.unregistered_objects(connection, paths)
            under = sum(key_id_of(self.landing.get(path)) in self.key_ids for path in unregistered)
        return {"batches": in_batches, "unregistered_objects": under}

    def _of_rejects(self) -> dict[str, int]:
        with self.database.transaction() as connection:
            return {"rejected_bodies": rejections.count_under(connection, self.key_ids)}

    def _of_officer(self) -> dict[str, int]:
        with self.database.transaction() as connection:
            data_keys = vault.count_data_keys_under(connection, self.key_ids)
        by_key = ErasureList(self.database, self.landing, self.keys).count_by_key()
        return {"data_keys": data_keys, "erasures": sum(by_key[key_id] for key_id in self.key_ids)}
