"""The search for a person's data: in the landing, batch by batch, and in the rejected bodies.

An erasure removes what it finds, and a subject's report shows it, so both find the same.
"""

from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple
from uuid import UUID

import polars as pl
from sqlalchemy import Connection

from loginetl_assets.keys.keyring import Keyring
from loginetl_assets.landing.batch_files import UnreadableError, read_masked
from loginetl_assets.landing.object_store import Landing
from loginetl_assets.logins.encryption import DecryptionError, decrypt
from loginetl_assets.logins.message import Login, QueuedMessage, read_login
from loginetl_assets.privacy.subjects import Subject, tokens_of, values_of
from loginetl_assets.settings import KeysetRole
from loginetl_assets.steps.batch_objects import read_batch
from loginetl_assets.storage import batches, installation, rejections
from loginetl_assets.storage.batches import Batch
from loginetl_assets.storage.database import LoginDatabase
from loginetl_assets.storage.login_table import every_row
from loginetl_assets.storage.token_map import token_pairs

# Of rejected bodies: one may have a MiB, or eight where payloads come from a bucket.
MAX_PAGE_MESSAGES = 1_000
MAX_PAGE_BYTES = 16 * 1024 * 1024


class Found(NamedTuple):
    """What of a batch is the subject's."""

    batch: Batch
    matching: list[QueuedMessage]
    others: list[QueuedMessage]
    masked: pl.DataFrame | None  # all rows of the masked file, if there is one that can be read


@dataclass(eq=False, repr=False)
class SubjectSearch:
    """One search; `begin` comes first."""

    database: LoginDatabase
    landing: Landing
    keys: Keyring
    subject: Subject
    tokens: set[str] = field(default_factory=set, init=False)  # of the subject's values, as they are found
    undecryptable_bodies: int = field(default=0, init=False)  # rejected ones that no key of ours decrypts

    def begin(self) -> list[int]:
        """Checks what could fail later, and returns the batches to search.

        Raises OperatorError where the keysets are another database's, or row-level security hides rows.
        """
        with every_row(self.database) as connection:
            for role in (KeysetRole.MASKING, KeysetRole.LANDING, KeysetRole.REJECTS):
                installation.check_keys(connection, role, self.keys.check_values(role))
            self.subject.add_pairs(partial(token_pairs, connection))
            self.tokens |= self.subject.tokens
            return batches.batches_in_landing(connection)

    def search_batch(self, connection: Connection, batch_id: int) -> Found | None:
        """Locks a batch and looks for what is the subject's; None where nothing is, or retention was first.

        Raises UnreadableError where the batch cannot be read.
        """
        batch = batches.lock_batch(connection, batch_id)
        if batch is None:
            return None
        matching: list[QueuedMessage] = []
        others: list[QueuedMessage] = []
        for message in read_batch(self.landing, self.keys, batch):
            (matching if self.subject.matches(message.body, message.sent_at_ms) else others).append(message)
        if not matching:
            return None
        masked = None
        with suppress(UnreadableError):  # a file that nobody can read goes with the messages
            masked = read_masked(self.landing, batch.masked_path)
        self._note_tokens(message.body for message in matching)
        return Found(batch, matching, others, masked)

    def matching_rejections(self, connection: Connection) -> Iterator[dict[UUID, bytes]]:
        """Decrypts every rejected body, in pages by id; notes the subject's tokens, yields their bodies by page.

        A body that the table refused was masked before: its values are in the vault.
        """
        last = UUID(int=0)
        while page := rejections.page(connection, after=last, max_messages=MAX_PAGE_MESSAGES, max_bytes=MAX_PAGE_BYTES):
            last = page[-1].message_uuid
            matching = {}
            for row in page:
                try:
                    body = decrypt(self.keys.rejects, row.encrypted_body, str(row.message_uuid))
                except DecryptionError:  # nobody can read it, ourselves included
                    self.undecryptable_bodies += 1
                    continue
                if self.subject.matches(body, row.sent_at_ms):
                    matching[row.message_uuid] = body
            if matching:
                self._note_tokens(matching.values())
                yield matching

    def _note_tokens(self, bodies: Iterable[bytes]) -> None:
        logins = [login for body in bodies if isinstance(login := read_login(body), Login)]
        self.tokens |= tokens_of(self.keys.tokenizers, values_of(logins))
