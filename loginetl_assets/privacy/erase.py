"""Erasure: a person's rows, rejected bodies, landed messages and the vault's values that nobody else shares.

Order, and why: the landing first, batch by batch, so that nothing can be loaded later that the table no longer has;
then rows and rejects; the vault last, while nobody masks, when it is known who else shares a value. This is repeated
until a search of ledger and landing, in the transaction that cleans the vault and while nobody lands either, finds
nothing that was not searched: what was in the landing before that is clean, with all that was made of it, and what
lands later is new data. Each step commits by itself and finds its work again: an erasure that was killed is finished
by running it again. Objects that were replaced are listed in the transaction that replaces them and deleted after it.

What stays: message ids (until retention, so that a redelivery is not loaded), the ledger's counts, the access log, the
erased tokens (so that recovery can say so), and an entry in the list of erasures. A message that the person sends later
is new data and is loaded.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial

import polars as pl
from sqlalchemy import Connection

from loginetl_assets.landing.batch_files import UnreadableError, write_masked, write_messages
from loginetl_assets.logins.tokens import tokens_in
from loginetl_assets.privacy.erasures import ErasureList
from loginetl_assets.privacy.search import Found, SubjectSearch
from loginetl_assets.privacy.subjects import Erased
from loginetl_assets.settings import KeysetRole
from loginetl_assets.steps.batch_objects import delete_pending, pending_logins
from loginetl_assets.steps.totals import StepTotals
from loginetl_assets.steps.unregistered_objects import delete_unneeded, register_objects
from loginetl_assets.steps.vault_sweep import sweep_vault
from loginetl_assets.storage import audit, batches, login_rows, objects, rejections, vault
from loginetl_assets.storage.batches import BatchState
from loginetl_assets.storage.login_table import every_row
from loginetl_assets.storage.token_map import token_pairs

_ANY_TIME = datetime.max.replace(tzinfo=UTC)  # the landing's clock may be ahead of ours

Progress = Callable[[int, int], None]
"""Takes how many batches are searched, and of how many."""


@dataclass(frozen=True)
class ErasureTotals(StepTotals):
    """What an erasure removed, or would remove."""

    rows: int = 0
    rejected_bodies: int = 0
    landed_messages: int = 0
    batches: int = 0
    masked_rows: int = 0
    vault_entries: int = 0
    vault_entries_kept: int = 0  # someone else has the same device or address
    # Whosever they were, no row had their tokens, or only one older than LOGINETL_VAULT_DAYS; not by a dry run:
    unneeded_vault_entries: int = 0
    expired_vault_entries: int = 0
    unreadable_batches: int = 0  # quarantined or damaged: they could not be searched
    # Objects that no batch names, which a dry run does not search for either: masked files, unfinished writes of runs
    # that died, batches that retention had removed before.
    unregistered_objects: int = 0
    kept_versions: int = 0  # deleted objects of which the bucket keeps versions that may not be deleted
    unreadable_objects: int = 0  # they do not decrypt: another's, or written under a key that the keyset lacks

    @property
    def found_anything(self) -> bool:
        """Whether anything of the person was there."""
        of_person = (self.rows, self.rejected_bodies, self.landed_messages, self.masked_rows, self.vault_entries)
        return any((*of_person, self.vault_entries_kept))


@dataclass(eq=False, repr=False)
class Erasure(SubjectSearch):
    """One request to erase: `dry_run` counts, `run` removes."""

    # Tokens that others have in batches this sent back to be masked again:
    _needed: set[str] = field(default_factory=set, init=False)

    def dry_run(self, progress: Progress = lambda done, total: None) -> ErasureTotals:
        """Returns what `run` would remove; changes nothing."""
        totals, batch_ids = ErasureTotals(), self.begin()
        for done, batch_id in enumerate(batch_ids, 1):
            with self.database.transaction() as connection:
                totals += self._search(connection, batch_id)[0]
            progress(done, len(batch_ids))
        with every_row(self.database) as connection:
            for page in self.matching_rejections(connection):
                totals += ErasureTotals(rejected_bodies=len(page))
            rows, tokens = login_rows.count_rows(connection, self.subject.rows)
            self.tokens |= tokens
        with every_row(self.database) as connection:
            vault.lock_exclusive(connection)
            _, _, of_vault = self._divide_tokens(connection)
        return totals + ErasureTotals(rows=rows) + of_vault

    def run(self, reason: str, progress: Progress = lambda done, total: None) -> ErasureTotals:
        """Erases; logged before and, with the totals, after.

        Raises OperatorError without a reason, or where the keysets are another database's, row-level security hides
        rows, or a trigger keeps them.
        """
        log = partial(audit.record, self.database, reason=reason, tokens=self.subject.audit_tokens)
        log(audit.Action.ERASE)
        batch_ids = self.begin()
        if not isinstance(self.subject, Erased):  # these are on the list
            ErasureList(self.database, self.landing, self.keys).record(self.subject)
        totals = self._erase(batch_ids, progress)
        # Values of messages that left no row: nothing shows any more whose they were.
        totals += ErasureTotals(**sweep_vault(self.database, self.landing, keep=self._needed).as_metadata())
        with self.database.transaction() as connection:
            totals += ErasureTotals(kept_versions=len(objects.pending_deletions(connection)))
        log(audit.Action.ERASED, counts={name: count for name, count in totals.as_metadata().items() if count})
        return totals

    def _erase(self, batch_ids: list[int], progress: Progress) -> ErasureTotals:
        totals = ErasureTotals()
        searched: set[int] = set()
        while True:
            for batch_id in batch_ids:
                totals += self._erase_from_batch(batch_id)
                searched.add(batch_id)
                progress(len(searched), len(searched.union(batch_ids)))
            delete_pending(self.database, self.landing)
            totals += self._erase_rejections_and_rows()
            with every_row(self.database) as connection:
                vault.lock_exclusive(connection)
                # Of all searches the last one counts, since what it finds unreadable is still there.
                totals = replace(totals, unreadable_objects=0) + self._clean_unregistered()
                batch_ids = [one for one in batches.batches_in_landing(connection) if one not in searched]
                if not batch_ids:
                    unneeded, needed, of_vault = self._divide_tokens(connection)
                    vault.unmark_tokens(connection, needed)
                    vault.erase(connection, unneeded)
                    return totals + of_vault

    def _clean_unregistered(self) -> ErasureTotals:
        """Registers or deletes what no batch names; only while nobody lands and nobody masks.

        What landed meanwhile may be the person's too, sent before the request, and may have a lower id than what was
        searched: ids are taken before the commit. What no batch names now, nobody is about to name: it was left by a
        run that died, and its messages become a batch that is searched as any other.
        """
        registered, _ = register_objects(self.database, self.landing, self.keys, before=_ANY_TIME)
        deleted = delete_unneeded(self.database, self.landing, before=_ANY_TIME)
        return ErasureTotals(unregistered_objects=deleted, unreadable_objects=registered.unreadable_objects)

    def _search(self, connection: Connection, batch_id: int) -> tuple[ErasureTotals, Found | None]:
        """Locks a batch, looks for what is the subject's, and counts it."""
        try:
            found = self.search_batch(connection, batch_id)
        except UnreadableError:
            return ErasureTotals(unreadable_batches=1), None
        if found is None:
            return ErasureTotals(), None
        masked_rows = 0
        if found.masked is not None:
            masked_rows = found.masked.filter(self.subject.masked()).height
            if found.batch.state is BatchState.MASKED:
                self._needed |= self._tokens_of_others(found.masked)
        return ErasureTotals(batches=1, landed_messages=len(found.matching), masked_rows=masked_rows), found

    def _erase_from_batch(self, batch_id: int) -> ErasureTotals:
        """Encrypts a batch's other messages into a new object, and brings its masked file and its counts in line."""
        with self.database.transaction() as connection:
            totals, found = self._search(connection, batch_id)
            if found is None:
                return totals
            vault.mark_tokens(connection, self.tokens)
            vault.lock_shared(connection)
            batch = found.batch
            object_path, written_bytes = write_messages(self.landing, self.keys.landing, found.others)
            masked_path = None
            if batch.state is BatchState.LOADED and found.masked is not None:
                masked_path, _ = write_masked(self.landing, found.masked.filter(~self.subject.masked()))
            bodies = batches.replace_objects(
                connection,
                batch,
                object_path=object_path,
                landing_key_id=self.keys.key_ids(KeysetRole.LANDING)[0],
                bytes=written_bytes,
                masked_path=masked_path,
                erased=[message.uuid for message in found.matching],
            )
        return totals + ErasureTotals(rejected_bodies=bodies)

    def _erase_rejections_and_rows(self) -> ErasureTotals:
        bodies = 0
        with every_row(self.database) as connection:
            for page in self.matching_rejections(connection):
                bodies += len(page)
                rejections.erase(connection, list(page))
            rows, tokens = login_rows.delete_rows(connection, self.subject.rows)
            self.tokens |= tokens
            vault.mark_tokens(connection, self.tokens)
        return ErasureTotals(rows=rows, rejected_bodies=bodies)

    def _divide_tokens(self, connection: Connection) -> tuple[set[str], set[str], ErasureTotals]:
        """Returns the subject's tokens that nobody else has, those that someone has, and how many values they have."""
        tokens = self.tokens | vault.marked_tokens(connection)  # those of an erasure that was killed among them
        pairs = token_pairs(connection, tokens)
        tokens = tokens.union(*pairs)
        shared = tokens & self._needed
        for masked in pending_logins(connection, self.landing):
            if masked is not None:
                shared |= tokens & self._tokens_of_others(masked)
        unneeded = login_rows.unneeded_tokens(connection, tokens - shared, pairs, self.subject.rows)
        needed = tokens - unneeded
        totals = ErasureTotals(
            vault_entries=len(vault.known_tokens(connection, unneeded)),
            vault_entries_kept=len(vault.known_tokens(connection, needed)),
        )
        return unneeded, needed, totals

    def _tokens_of_others(self, masked: pl.DataFrame) -> set[str]:
        return tokens_in(masked.filter(~self.subject.masked()))
