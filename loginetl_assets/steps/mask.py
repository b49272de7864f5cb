"""Masks pending batches: decrypts, reads, checks, replaces IP addresses and device ids by tokens, writes a new file.

One transaction a batch. The claim is the batch's row lock, so that of a run that dies ends with its session; the masked
file is a new object, so nobody loads what a dead run wrote of it, and retention removes it.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from uuid import UUID

from sqlalchemy import Connection

from loginetl_assets.keys.keyring import Keyring
from loginetl_assets.landing.batch_files import UnreadableError, write_masked
from loginetl_assets.landing.object_store import Landing
from loginetl_assets.logins.encryption import VaultEncryptor
from loginetl_assets.logins.masking import MaskedBatch, MaskingRules, mask_batch, message_uuids
from loginetl_assets.settings import KeysetRole
from loginetl_assets.steps.batch_objects import read_batch
from loginetl_assets.steps.each_batch import each_batch
from loginetl_assets.steps.progress import BatchDone, ignore
from loginetl_assets.steps.totals import BatchTotals
from loginetl_assets.storage import batches, installation, message_ids, rejections, vault
from loginetl_assets.storage.batches import Batch, BatchState, Results
from loginetl_assets.storage.database import LoginDatabase
from loginetl_assets.storage.token_map import map_tokens


@dataclass(frozen=True)
class MaskTotals(BatchTotals):
    """What a run masked; messages = masked + rejected + duplicates + loaded before (and what was erased since)."""

    messages: int = 0
    masked: int = 0
    rejected: int = 0
    duplicates: int = 0
    loaded_before: int = 0  # by the same batch, which was read again
    unknown_fields: int = 0
    new_tokens: int = 0
    bytes: int = 0


def mask_pending(
    database: LoginDatabase,
    landing: Landing,
    keys: Keyring,
    rules: MaskingRules,
    *,
    reprocess: bool = False,
    batch_ids: Sequence[int] = (),
    run_id: str,
    batch_done: BatchDone = ignore,
) -> tuple[MaskTotals, Exception | None]:
    """Masks what is pending, batch by batch, oldest first; parallel runs skip each other's batches.

    All four keysets are used. If any `batch_ids` are given, only these are masked; `reprocess` reads every batch again
    that is still in the landing, lost ones only if `batch_ids` names them.

    Raises:
        OperatorError, TransientError: what concerns all batches, such as a keyset of another database.
    """
    with database.transaction() as connection:
        for role in KeysetRole:
            installation.check_keys(connection, role, keys.check_values(role))
    states = [BatchState.LANDED]
    if reprocess:  # what was given up is not quarantined again by a reprocess of others
        states = [state for state in BatchState if state is not BatchState.LOST or batch_ids]
    mask = partial(_mask, landing, keys, rules, run_id)
    return each_batch(database, states, mask, MaskTotals(), only=batch_ids, batch_done=batch_done)


def _mask(
    landing: Landing, keys: Keyring, rules: MaskingRules, run_id: str, connection: Connection, batch: Batch
) -> MaskTotals:
    """Masks one batch in the transaction that claims it, or quarantines it where it cannot be read."""
    vault.lock_shared(connection)
    try:
        messages = read_batch(landing, keys, batch)
    except UnreadableError as error:
        batches.quarantine(connection, batch, str(error))
        return MaskTotals(quarantined_batches=1)
    rejections.forget_batch(connection, batch)
    ids = message_uuids(messages)
    outcomes = message_ids.outcomes_of(connection, ids)
    loaded_before = sum(end == (batch.batch_id, "loaded") for end in outcomes.values())
    erased_before = sum(end == (batch.batch_id, "erased") for end in outcomes.values())  # on the batch's own count
    # What is settled is not masked again: a redelivered message of an erased person must not fill the vault.
    fresh = [message for message, uuid in zip(messages, ids, strict=True) if uuid not in outcomes]
    masked = mask_batch(fresh, keys.tokenizer, rules)
    masked, known_events = _without_known_events(connection, masked)
    masked_path, written_bytes = write_masked(landing, masked.logins)
    # Locks that other runs may wait for are taken from here on, so that they are held for as short as can be.
    new_tokens = fill_vault(connection, keys, masked.vault.rows())
    message_ids.record_duplicates(connection, batch.batch_id, known_events)
    rejected = rejections.add(connection, batch, keys.rejects, masked.rejected)
    duplicates = (
        masked.repeated
        + len(known_events)
        + (len(masked.rejected) - rejected)
        + (len(messages) - len(fresh) - loaded_before - erased_before)
    )
    batches.mark_masked(
        connection,
        batch,
        Results(loaded=loaded_before, duplicates=duplicates, rejected=rejected),
        masked_path=masked_path,
        unknown_fields=masked.unknown_fields,
        run_id=run_id,
    )
    return MaskTotals(
        messages=len(messages),
        batches=1,
        masked=masked.logins.height,
        rejected=rejected,
        duplicates=duplicates,
        loaded_before=loaded_before,
        unknown_fields=masked.unknown_fields,
        new_tokens=new_tokens,
        bytes=written_bytes,
    )


def fill_vault(
    connection: Connection,
    keys: Keyring,
    values: Collection[tuple[str, str, str]],
    old_tokens: Iterable[tuple[str, str]] = (),
) -> int:
    """Enters what the vault lacks of values (token, field, value), under a new data key; returns how many were new.

    While keys rotate, every value's old tokens are mapped first, before its row is loaded: see the view
    `loginetl.logins`. All writers map before they enter, so neither can wait for another that waits for it. For the
    same reason more pairs to map (old token, new token) come along as `old_tokens`: one statement sorts them all.
    """
    made = ((old.token(field, value), token) for token, field, value in values for old in keys.tokenizers[1:])
    map_tokens(connection, chain(made, old_tokens))
    known = vault.known_tokens(connection, [token for token, _, _ in values])
    new = [entry for entry in values if entry[0] not in known]
    if not new:  # then no data key is generated and encrypted for the officer
        return 0
    encryptor = VaultEncryptor(keys.vault)
    entries = [(token, field, encryptor.encrypt(token, value)) for token, field, value in new]
    return vault.add(connection, encryptor.wrapped_key, keys.key_ids(KeysetRole.VAULT)[0], entries)


def _without_known_events(connection: Connection, masked: MaskedBatch) -> tuple[MaskedBatch, list[UUID]]:
    """Leaves out logins whose event is loaded, by whatever message; returns the ids of their messages too."""
    events = masked.logins["event_uuid"].drop_nulls()
    if events.is_empty():
        return masked, []
    known = message_ids.loaded_events(connection, [UUID(event) for event in events])
    return masked.without_events({str(event) for event in known})
