"""The list of erasures, by which they are repeated after a restore from a backup brought back what they removed.

An entry says whom and when, and is encrypted for the privacy officer's public key: who reads database, landing or the
pipeline's keys does not learn who asked to be forgotten. It is in Postgres and in the landing, because either can be
put back to a moment before the erasure; reading the list writes to each what only the other has. Where both were put
back, a copy of the landing's `erasures/` that was kept elsewhere, put into its place, is enough.
"""

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

from loginetl_assets.errors import OperatorError
from loginetl_assets.keys.keyring import Keyring
from loginetl_assets.keys.officer import Officer
from loginetl_assets.landing.object_store import ERASURES, Landing
from loginetl_assets.logins.encryption import DecryptionError, key_id_of
from loginetl_assets.privacy.subjects import Erased, Tokens, User, subject_of
from loginetl_assets.settings import OFFICER_SETTING, KeysetRole
from loginetl_assets.storage import erasures, installation
from loginetl_assets.storage.database import LoginDatabase

_PATH = re.compile(rf"{ERASURES}/([0-9a-f]{{8}}(?:-[0-9a-f]{{4}}){{3}}-[0-9a-f]{{12}})")


def _path(erasure_id: UUID) -> str:
    return f"{ERASURES}/{erasure_id}"


@dataclass(frozen=True)
class ErasureList:
    """The list in its two places."""

    database: LoginDatabase
    landing: Landing
    keys: Keyring

    def record(self, subject: User | Tokens) -> None:
        """Adds an erasure that is about to be made."""
        with self.database.transaction() as connection:
            installation.check_keys(connection, KeysetRole.VAULT, self.keys.check_values(KeysetRole.VAULT))
        self._add({**subject.as_record(), "erased_at": datetime.now(UTC).isoformat()})

    def subject(self, officer: Officer) -> Erased:
        """Returns those whom the erasures were about, once both places have the whole list.

        Raises OperatorError where an entry does not decrypt.
        """
        parts = []
        for _, _, record in self._complete(officer):
            part = subject_of(record.get("user_id"), record.get("tokens", []), self.keys)
            parts.append((part, datetime.fromisoformat(record["erased_at"]).date()))
        return Erased(parts)

    def of_user(self, officer: Officer, user_id: str) -> list[datetime]:
        """Returns when a user was erased by id; completes the list and raises as above."""
        records = (record for _, _, record in self._complete(officer))
        return sorted(datetime.fromisoformat(one["erased_at"]) for one in records if one.get("user_id") == user_id)

    def reencrypt(self, officer: Officer) -> int:
        """Encrypts the list for the vault keyset's primary key; returns how many entries were not; errors as above."""
        (primary, *_), moved = self.keys.key_ids(KeysetRole.VAULT), 0
        for erasure_id, encrypted, record in self._complete(officer):
            if key_id_of(encrypted) != primary:
                self._add(record)  # first, under a new id: of one that is there twice nothing is erased twice
                self.landing.delete([_path(erasure_id)])
                with self.database.transaction() as connection:
                    erasures.remove(connection, erasure_id)
                moved += 1
        return moved

    def count_by_key(self) -> Counter[int | None]:
        """Returns how many entries, in Postgres and in the landing, are encrypted for which key of the officer's."""
        of_database, of_landing = self._read()
        return Counter(key_id_of(encrypted) for encrypted in (*of_database.values(), *of_landing.values()))

    def _add(self, record: Mapping[str, Any]) -> None:
        erasure_id, erased_at = uuid4(), datetime.fromisoformat(record["erased_at"])
        encrypted = self.keys.vault.encrypt(json.dumps(record).encode(), _path(erasure_id).encode())
        self.landing.put(_path(erasure_id), encrypted)
        with self.database.transaction() as connection:
            erasures.add(connection, erasure_id, erased_at, encrypted)

    def _read(self) -> tuple[Mapping[UUID, bytes], Mapping[UUID, bytes]]:
        """Returns the entries of Postgres and those of the landing, encrypted, by their ids."""
        with self.database.transaction() as connection:
            of_database = erasures.encrypted_subjects(connection)
        found = (_PATH.fullmatch(path) for path, _ in self.landing.list(ERASURES))
        return of_database, {UUID(one[1]): self.landing.get(one[0]) for one in found if one}

    def _complete(self, officer: Officer) -> Iterator[tuple[UUID, bytes, dict[str, Any]]]:
        """Yields each entry, encrypted and decrypted, once both places have it."""
        of_database, of_landing = self._read()
        for erasure_id, encrypted in {**of_landing, **of_database}.items():
            try:
                record = json.loads(officer.decrypt(encrypted, _path(erasure_id).encode()))
            except DecryptionError:
                raise OperatorError(
                    f"the erasure {erasure_id} on the list of erasures does not decrypt: set {OFFICER_SETTING} to the"
                    f" keyset that has the key {key_id_of(encrypted)}, or restore the object {_path(erasure_id)} of the"
                    " landing and its row in loginetl.erasures"
                ) from None
            if erasure_id not in of_landing:
                self.landing.put(_path(erasure_id), encrypted)
            if erasure_id not in of_database:
                with self.database.transaction() as connection:
                    erasures.add(connection, erasure_id, datetime.fromisoformat(record["erased_at"]), encrypted)
            yield erasure_id, encrypted, record
