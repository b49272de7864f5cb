"""Erasure: a person's rows, rejected bodies, landed messages and the vault's values that nobody else shares.

Order, and why: the landing first, batch by batch, so that nothing can be loaded later that the table no longer has;
then rows and rejects; the vault last, while nobody masks, when it can be told who else shares a value. This goes round
until a look at ledger and landing, in the transaction that cleans the vault and while nobody lands either, finds
nothing that was not searched: what was in the landing before that look is clean, with all that was made of it, and what
lands later is new data. Every step commits by itself and finds its work anew, so an erasure that was killed is finished
by asking again. Objects that were replaced are listed in the transaction that replaces them and deleted after it.

What stays: message ids (until retention, so that a redelivery is not loaded), the ledger's counts, the access log, and
the erased tokens (so that recovery can say so). A message that the person sends later is new data and is loaded.
"""

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Protocol
from uuid import UUID

import polars as pl
from sqlalchemy import Connection, text

from loginetl_assets.errors import OperatorError, SettingsError
from loginetl_assets.keys.keyring import Keyring
from loginetl_assets.landing.batch_files import (
    UnreadableError,
    read_masked,
    write_masked,
    write_messages,
)
from loginetl_assets.landing.object_store import Landing
from loginetl_assets.logins.canonical import canonical_values
from loginetl_assets.logins.contract import MASKED_FIELDS
from loginetl_assets.logins.encryption import DecryptionError, decrypt
from loginetl_assets.logins.message import Login, is_storable, read_login
from loginetl_assets.logins.strings import strings_in
from loginetl_assets.logins.tokens import Tokenizer
from loginetl_assets.settings import KeysetRole
from loginetl_assets.steps.batch_objects import delete_pending, pending_logins, read_batch
from loginetl_assets.steps.unregistered_objects import delete_purged, delete_unnamed_masked, register_unnamed
from loginetl_assets.steps.vault_sweep import sweep_vault
from loginetl_assets.storage import audit, batches, installation, objects, rejections, vault
from loginetl_assets.storage.adoption import login_table
from loginetl_assets.storage.batches import Batch, BatchState
from loginetl_assets.storage.database import LoginDatabase
from loginetl_assets.storage.login_table import require_every_row

# Of rejected bodies: one may have a MiB, or eight where payloads come from a bucket.
_PAGE_MESSAGES = 1_000
_PAGE_BYTES = 16 * 1024 * 1024

_ANY_TIME = datetime.max.replace(tzinfo=UTC)  # the landing's clock may be ahead of ours


@dataclass
class ErasureCounts:
    """What an erasure removed, or would remove."""

    rows: int = 0
    rejected_bodies: int = 0
    landed_messages: int = 0
    batches: int = 0
    masked_rows: int = 0
    vault_entries: int = 0
    vault_entries_kept: int = 0  # somebody else has the same device or address
    unneeded_vault_entries: int = 0  # whosever they were, nothing had their tokens any more; a dry run does not look
    unreadable_batches: int = 0  # set aside or damaged: they could not be searched
    # Nor does a dry run look for what no batch names:
    unnamed_objects: int = 0  # masked files, unfinished writes of runs that died; batches retention had removed before
    kept_versions: int = 0  # deleted objects of which the bucket keeps versions that may not be deleted
    unreadable_objects: int = 0  # they do not open: another's, or written under a key that the keyset lacks

    @property
    def found_anything(self) -> bool:
        """Whether anything of the person was there."""
        of_person = (self.rows, self.rejected_bodies, self.landed_messages, self.masked_rows, self.vault_entries)
        return any((*of_person, self.vault_entries_kept))


class Subject(Protocol):
    """Whom an erasure is about."""

    audit_tokens: list[str]
    condition: str  # on the table of logins
    values: dict[str, object]  # bound in it

    def is_meant(self, body: bytes) -> bool:
        """Whether a message body, good or bad, is the subject's."""
        ...

    def masked(self) -> pl.Expr:
        """Whether a masked row is the subject's."""
        ...


class User:
    """A person by user id."""

    condition = "user_id = :user_id"

    def __init__(self, user_id: str, tokenizer: Tokenizer) -> None:
        """Takes the id as it stands in the table."""
        self._user_id = user_id
        self.values: dict[str, object] = {"user_id": user_id}
        # The log must not name whom it helped to forget; with the masking key the row can still be found.
        self.audit_tokens = [tokenizer.token("user_id", user_id)]
        self._spellings = {
            json.dumps(user_id, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")
            for ascii_only in (True, False)
        }
        # As a number, or cut short before the quote that ends it.
        bare = re.escape(user_id.encode("utf-8", "surrogatepass"))
        self._bare = re.compile(rb'id\\*"\s*:\s*\\*"?' + bare + rb'(?=[\s"\\,}\]]|$)')

    def is_meant(self, body: bytes) -> bool:
        """By the field where the body can be read, else by the id standing anywhere in it as a string, or as an id."""
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

    condition = "(masked_ip = ANY(:tokens) OR masked_device_id = ANY(:tokens))"

    def __init__(self, tokens: list[str], tokenizers: Iterable[Tokenizer]) -> None:
        """Takes the tokens, and the tokenizers of every key they may be under."""
        self._tokens = set(tokens)
        self._tokenizers = list(tokenizers)
        self.values: dict[str, object] = {"tokens": sorted(self._tokens)}
        self.audit_tokens = sorted(self._tokens)

    def add(self, tokens: Iterable[str]) -> None:
        """Takes further tokens of the same values: while keys rotate, a value has several."""
        self._tokens |= set(tokens)
        self.values["tokens"] = sorted(self._tokens)

    def is_meant(self, body: bytes) -> bool:
        """By the two fields where the body can be read, else by any string in it that would give the token."""
        login = read_login(body)
        if isinstance(login, Login):
            values = _values_of([login])
        else:
            # After any quote, too: where one is missing, strings are not what they seem.
            strings = {found.decode(errors="replace") for found in re.findall(rb'"([^"\\]{1,256})', body)}
            strings |= set(filter(is_storable, strings_in(body)))  # no other text was ever given a token
            values = dict.fromkeys(MASKED_FIELDS, strings)
        return not self._tokens.isdisjoint(_tokens(self._tokenizers, values))

    def masked(self) -> pl.Expr:
        """By either token."""
        return pl.col("masked_ip").is_in(self._tokens) | pl.col("masked_device_id").is_in(self._tokens)


class Erasure:
    """One request to erase."""

    def __init__(self, database: LoginDatabase, landing: Landing, keys: Keyring, subject: Subject) -> None:
        """Takes the open services and whom it is about; nothing is read yet."""
        self._database = database
        self._landing = landing
        self._keys = keys
        self._subject = subject
        self._shared: set[str] = set()  # tokens that others have in batches this sent back to be masked anew

    def dry_run(self) -> ErasureCounts:
        """Counts what `run` would remove; changes nothing."""
        return self._go(remove=False)

    def run(self, reason: str, progress: Callable[[int, int], None] = lambda done, total: None) -> ErasureCounts:
        """Erases; logged before and, with the counts, after.

        Args:
            reason: why; logged.
            progress: told how many batches of how many were searched.

        Raises:
            SettingsError: no reason was given.
        """
        audit.record(self._database, audit.Action.ERASE, reason, tokens=self._subject.audit_tokens)
        counts = self._go(remove=True, progress=progress)
        # Values of messages that came to nothing: by no row or message can anybody tell any more whose they were.
        swept = sweep_vault(self._database, self._landing, keep=self._shared)
        counts.unneeded_vault_entries = swept.unneeded_vault_entries
        counts.unreadable_batches += swept.unreadable_batches
        with self._database.transaction() as connection:
            counts.kept_versions = len(objects.pending_deletions(connection))
        audit.record(
            self._database,
            audit.Action.ERASED,
            reason,
            tokens=self._subject.audit_tokens,
            counts={name: count for name, count in asdict(counts).items() if count},
        )
        return counts

    def _go(self, *, remove: bool, progress: Callable[[int, int], None] = lambda done, total: None) -> ErasureCounts:
        counts = ErasureCounts()
        tokens: set[str] = set()
        seen: set[int] = set()
        with self._database.transaction() as connection:
            require_every_row(connection)  # here first, before anything is removed
            for role in (KeysetRole.MASKING, KeysetRole.LANDING, KeysetRole.REJECTS):
                installation.check_keys(connection, role, self._keys.check_values(role))
            if isinstance(self._subject, Tokens):
                pairs = vault.token_pairs(connection, self._subject.audit_tokens)
                self._subject.add(token for pair in pairs for token in pair)
            batch_ids = batches.batches_in_landing(connection)
        while True:
            for batch_id in batch_ids:
                with self._database.transaction() as connection:
                    batch = batches.lock_batch(connection, batch_id)
                    if batch is not None:
                        self._clean_batch(connection, batch, counts, tokens, remove=remove)
                seen.add(batch_id)
                progress(len(seen), len(seen.union(batch_ids)))
            if remove:
                delete_pending(self._database, self._landing)
            with self._database.transaction() as connection:
                require_every_row(connection)
                self._clean_rejected(connection, counts, tokens, remove=remove)
                self._clean_rows(connection, counts, tokens, remove=remove)
            with self._database.transaction() as connection:
                require_every_row(connection)
                vault.lock_exclusive(connection)
                batch_ids = self._batches_not_in(seen, connection, counts) if remove else []
                if not batch_ids:
                    self._clean_vault(connection, counts, tokens, remove=remove)
                    return counts

    def _batches_not_in(self, seen: set[int], connection: Connection, counts: ErasureCounts) -> list[int]:
        """Looks once more while nobody lands and nobody masks: what is to be searched still, ledger and landing alike.

        What landed meanwhile may be the person's too, sent before the request, and may have a lower id than what was
        seen: ids are taken before the commit. What no batch names now, nobody is about to name: it was left by a run
        that died, and its messages become a batch that is searched as any other.
        """
        now = datetime.now(UTC)
        unnamed = register_unnamed(self._database, self._landing, self._keys, before=_ANY_TIME)
        counts.unreadable_objects = unnamed.unreadable_objects
        counts.unnamed_objects += self._landing.delete_unfinished(now)
        counts.unnamed_objects += delete_unnamed_masked(self._database, self._landing, before=_ANY_TIME)
        counts.unnamed_objects += delete_purged(self._database, self._landing, before=_ANY_TIME)
        return [batch_id for batch_id in batches.batches_in_landing(connection) if batch_id not in seen]

    def _clean_batch(
        self, connection: Connection, batch: Batch, counts: ErasureCounts, tokens: set[str], *, remove: bool
    ) -> None:
        """Seals a batch's other messages anew, and brings its masked file and its counts in line."""
        try:
            messages = read_batch(self._landing, self._keys, batch)
        except UnreadableError:
            counts.unreadable_batches += 1
            return
        meant = [message for message in messages if self._subject.is_meant(message.body)]
        if not meant:
            return
        try:
            masked = read_masked(self._landing, batch.masked_path) if batch.masked_path else None
        except UnreadableError:
            masked = None  # a file that nobody can read goes with the messages
        counts.batches += 1
        counts.landed_messages += len(meant)
        of_batch = self._tokens_of(message.body for message in meant)
        tokens |= of_batch
        if masked is not None:
            counts.masked_rows += masked.filter(self._subject.masked()).height
            if batch.state is BatchState.MASKED:
                others = masked.filter(~self._subject.masked())
                self._shared |= {*others["masked_ip"], *others["masked_device_id"]}
        if not remove:
            return
        vault.mark_tokens(connection, of_batch)
        vault.lock_shared(connection)
        pending_deletion = [batch.object_path, *([batch.masked_path] if batch.masked_path else [])]
        gone = {id(message) for message in meant}
        kept = [message for message in messages if id(message) not in gone]
        object_path, size = write_messages(self._landing, self._keys.landing, kept)
        masked_path = None
        if batch.state is BatchState.LOADED and masked is not None:
            masked_path, _ = write_masked(self._landing, masked.filter(~self._subject.masked()))
        counts.rejected_bodies += batches.replace_objects(
            connection,
            batch,
            object_path=object_path,
            landing_key_id=self._keys.key_ids(KeysetRole.LANDING)[0],
            size=size,
            masked_path=masked_path,
            erased=[message.uuid for message in meant],
            pending_deletion=pending_deletion,
        )

    def _tokens_of(self, bodies: Iterable[bytes]) -> set[str]:
        logins = [login for body in bodies if isinstance(login := read_login(body), Login)]
        return _tokens(self._keys.tokenizers, _values_of(logins))

    def _clean_rejected(self, connection: Connection, counts: ErasureCounts, tokens: set[str], *, remove: bool) -> None:
        """Opens every rejected body, in pages by key, and removes those that are meant."""
        last = UUID(int=0)
        while page := rejections.page(connection, after=last, messages=_PAGE_MESSAGES, size=_PAGE_BYTES):
            last = page[-1][0]
            meant = {key: body for key, sealed in page if (body := self._opened(sealed, key)) is not None}
            meant = {key: body for key, body in meant.items() if self._subject.is_meant(body)}
            counts.rejected_bodies += len(meant)
            # One that the table refused was masked before: its values are in the vault.
            of_page = self._tokens_of(meant.values())
            tokens |= of_page
            if remove and meant:
                rejections.erase(connection, list(meant))
                vault.mark_tokens(connection, of_page)

    def _opened(self, sealed: bytes, key: UUID) -> bytes | None:
        try:
            return decrypt(self._keys.rejects, sealed, str(key))
        except DecryptionError:
            return None  # nobody can read it, ourselves included

    def _clean_rows(self, connection: Connection, counts: ErasureCounts, tokens: set[str], *, remove: bool) -> None:
        table, values = login_table(connection), self._subject.values
        theirs = f"FROM {table} WHERE {self._subject.condition}"
        found = f"SELECT masked_ip, masked_device_id {theirs}"
        rows = connection.execute(text(f"{found} FOR UPDATE" if remove else found), values).all()
        if remove:
            meant = len(rows)
            rows = connection.execute(text(f"DELETE {theirs} RETURNING masked_ip, masked_device_id"), values).all()
            if len(rows) < meant:  # they were locked: nobody else has removed them
                raise OperatorError(
                    f"{meant - len(rows)} rows of {table} were not deleted, since a trigger of it passes them over:"
                    " disable it, then erase again; rows and vault are as they were"
                )
        counts.rows += len(rows)
        tokens |= {token for row in rows for token in row if token}
        if isinstance(self._subject, Tokens):
            tokens |= set(self._subject.audit_tokens)
        if remove:
            vault.mark_tokens(connection, tokens)

    def _clean_vault(self, connection: Connection, counts: ErasureCounts, tokens: set[str], *, remove: bool) -> None:
        """Removes the values that no other row and no pending batch has; nobody masks meanwhile."""
        tokens |= vault.marked_tokens(connection)  # those of an erasure that was killed among them
        pairs = vault.token_pairs(connection, tokens)
        tokens |= {token for pair in pairs for token in pair}
        shared = tokens & self._shared
        for _, logins in pending_logins(connection, self._landing):
            if logins is not None:
                others = logins.filter(~self._subject.masked())
                shared |= tokens & {*others["masked_ip"], *others["masked_device_id"]}
        alone = vault.unneeded(connection, tokens - shared, pairs, self._subject.condition, self._subject.values)
        counts.vault_entries += vault.count(connection, sorted(alone))
        counts.vault_entries_kept += vault.count(connection, sorted(tokens - alone))
        if remove:
            vault.unmark_tokens(connection, tokens - alone)
            vault.erase(connection, sorted(alone))


def _values_of(logins: list[Login]) -> dict[str, set[str]]:
    return {field: {getattr(login, field) for login in logins} - {None} for field in MASKED_FIELDS}


def _tokens(tokenizers: Iterable[Tokenizer], values: Mapping[str, set[str]]) -> set[str]:
    """The tokens, under every key, of texts by field; each field's in one frame, since a body may hold 100 000."""
    return {
        tokenizer.token(field, canonical)
        for field, texts in values.items()
        for canonical in canonical_values(field, texts)
        for tokenizer in tokenizers
    }


def subject_of(user_id: str | None, tokens: list[str], keys: Keyring) -> Subject:
    """Whom the command names.

    Raises:
        SettingsError: nobody, or both ways at once.
    """
    if bool(user_id) == bool(tokens):
        raise SettingsError("name whom to erase: --user-id, or one or more --token")
    if user_id:
        return User(user_id, keys.tokenizer)
    return Tokens(tokens, keys.tokenizers)
