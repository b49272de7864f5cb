"""masked_logins, with rejected_logins and pii_vault: pending batches opened, read, checked, masked.

One transaction a batch. The claim is the batch's row lock, so a run that dies gives it back by dying; the masked file
is a new object, so what a dead run wrote of it is an orphan that nobody loads and retention removes.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from uuid import UUID

import dagster as dg
from pydantic import Field
from sqlalchemy import Connection

from loginetl_assets.assets.metadata import (
    LOADED,
    LOGIN_COLUMNS,
    NOT_MASKED,
    OWNERS,
    PRIVACY_OWNERS,
    column_schema,
    masked_lineage,
    rate,
)
from loginetl_assets.keys.keyring import Keyring
from loginetl_assets.landing.batch_files import Unreadable, read_messages, write_masked
from loginetl_assets.landing.object_store import Landing
from loginetl_assets.logins.encryption import VaultEncryptor
from loginetl_assets.logins.masking import MaskedBatch, mask_batch
from loginetl_assets.resources.configured import (
    KeyringResource,
    LandingResource,
    LoginDatabaseResource,
    RulesResource,
)
from loginetl_assets.resources.failures import failures_without_values, retries_left
from loginetl_assets.settings import KeysetRole
from loginetl_assets.steps.each_batch import each_batch
from loginetl_assets.storage import batches as ledger
from loginetl_assets.storage import rejections, vault
from loginetl_assets.storage.batches import Batch, BatchState
from loginetl_assets.storage.login_table import table_rows
from loginetl_assets.storage.rejections import encrypted_rejection


class MaskingConfig(dg.Config):
    """Which batches to mask."""

    reprocess: bool = Field(
        default=False,
        description="Read every batch again that is still in the landing, loaded and set-aside ones too (a mended"
        " rule, another key), and lost ones that `batch_ids` names. A message that was loaded stays loaded and is not"
        " loaded twice.",
    )
    batch_ids: list[int] = Field(
        default_factory=list, description="Only these batches of `loginetl.batches`; empty for all."
    )


@dataclass
class MaskingTotals:
    """What a run masked; landed = masked + rejected + duplicates + loaded before (and what was erased since)."""

    batches: int = 0
    quarantined: int = 0
    messages: int = 0
    masked: int = 0
    rejected: int = 0
    duplicates: int = 0
    loaded_before: int = 0
    unknown_fields: int = 0
    new_tokens: int = 0
    bytes: int = 0

    def add(self, other: "MaskingTotals") -> None:
        """Adds a batch's."""
        for name, count in vars(other).items():
            setattr(self, name, getattr(self, name) + count)


@dg.multi_asset(
    name="masked_logins",
    can_subset=True,  # any one of the three brings all that is pending
    specs=[
        dg.AssetSpec(
            "masked_logins",
            deps=["raw_login_messages"],
            group_name="logins",
            kinds={"polars", "parquet"},
            owners=OWNERS,
            skippable=True,
            description="One parquet file per batch: logins with `ip` and `device_id` replaced by tokens.",
            metadata={
                "dagster/column_schema": column_schema(("message_uuid", "uuid", "The message's id."), *LOGIN_COLUMNS),
                "dagster/column_lineage": masked_lineage(),
            },
        ),
        dg.AssetSpec(
            "rejected_logins",
            deps=["raw_login_messages"],
            group_name="logins",
            kinds={"postgres"},
            owners=PRIVACY_OWNERS,
            skippable=True,
            description="Messages that could not be loaded: the reason in the clear, the body sealed.",
            metadata={
                "dagster/table_name": "loginetl.rejected_logins",
                "dagster/column_schema": column_schema(
                    ("message_uuid", "uuid", "The message's id."),
                    ("batch_id", "bigint", "The batch it came with."),
                    ("sent_at", "timestamptz", "When SQS took it."),
                    ("rejected_at", "timestamptz", "When it was read."),
                    ("reason", "text", "One of a closed list."),
                    ("field", "text", "Which of the six fields is to blame, if one is."),
                    ("encrypted_body", "bytea", "The body, sealed with the rejects key."),
                ),
            },
        ),
        dg.AssetSpec(
            "pii_vault",
            deps=["raw_login_messages"],
            group_name="logins",
            kinds={"postgres"},
            owners=PRIVACY_OWNERS,
            skippable=True,
            description="Token to sealed value. The pipeline can add to it; only the privacy officer can read it.",
            metadata={
                "dagster/table_name": "loginetl.pii_vault",
                "dagster/column_schema": column_schema(
                    ("token", "text", "As in the table of logins."),
                    ("field", "text", "ip or device_id."),
                    ("sealed", "bytea", "The value, sealed with a data key."),
                    ("data_key_id", "bigint", "Which data key; each is sealed to the privacy officer."),
                    ("first_seen_at", "timestamptz", "When the value first came."),
                ),
            },
        ),
    ],
)
def masked_logins(
    context: dg.AssetExecutionContext,
    config: MaskingConfig,
    landing: LandingResource,
    database: LoginDatabaseResource,
    keyring: KeyringResource,
    rules: RulesResource,
) -> Iterator[dg.MaterializeResult[None]]:
    """Masks what is pending, batch by batch, oldest first; runs in parallel pass over each other's batches."""
    with failures_without_values(retried=context):
        started = time.monotonic()
        totals = MaskingTotals()
        open_database = database.open()
        masker = _Masker(landing.open(open_database), keyring.open(), rules, context.run.run_id)
        with open_database.transaction() as connection:
            for role in KeysetRole:
                ledger.check_keys(connection, role, masker.keys.check_values(role))
        states = _states(config)
        failed = each_batch(open_database, states, masker.mask, totals.add, only=config.batch_ids)
        if failed.may_pass and retries_left(context):
            raise failed.error()
        if totals.quarantined:
            context.log.warning(
                f"{totals.quarantined} batches could not be read and were set aside: see `loginetl status`"  # noqa: G004 - a count
            )
        with open_database.transaction() as connection:
            rejected_rows = table_rows(connection, "loginetl.rejected_logins")
            vault_rows = table_rows(connection, "loginetl.pii_vault")
        speed = rate(totals.messages, time.monotonic() - started)
        counts = {
            "messages": totals.messages,
            "batches": totals.batches,
            "quarantined_batches": totals.quarantined,
            "masked": totals.masked,
            "rejected": totals.rejected,
            "duplicates": totals.duplicates,
            "loaded_before": totals.loaded_before,
        }
        results = {
            "masked_logins": {
                "dagster/row_count": totals.masked,
                **counts,
                "unknown_fields": totals.unknown_fields,
                "bytes": totals.bytes,
                **speed,
                **({NOT_MASKED: str(failed)} if failed else {}),
            },
            "rejected_logins": {"dagster/row_count": rejected_rows, **counts, **speed},
            "pii_vault": {"dagster/row_count": vault_rows, "new_tokens": totals.new_tokens, **speed},
        }
        for key, metadata in results.items():
            if dg.AssetKey(key) in context.selected_asset_keys:
                yield dg.MaterializeResult(asset_key=key, metadata=metadata)
            else:  # it was written all the same, and its history should say so
                context.log_event(dg.AssetMaterialization(key, metadata=metadata))
        if failed:
            context.log.error(str(failed))
            if not _load_follows(context):
                raise failed.error()


def _load_follows(context: dg.AssetExecutionContext) -> bool:
    """Whether user_logins comes later in this run; it is skipped where this step fails, and so fails for both."""
    steps = context.run.step_keys_to_execute
    return LOADED in context.job_def.asset_layer.selected_asset_keys and (
        steps is None or LOADED.to_python_identifier() in steps
    )


def _states(config: MaskingConfig) -> list[BatchState]:
    if not config.reprocess:
        return [BatchState.LANDED]
    # What was given up is not quarantined again by a reprocess that means others.
    return [state for state in BatchState if state is not BatchState.LOST or config.batch_ids]


class _Masker:
    """Masks claimed batches, each in the transaction that claims it."""

    def __init__(self, landing: Landing, keys: Keyring, rules: RulesResource, run_id: str) -> None:
        self.keys = keys
        self._landing = landing
        self._rules = rules
        self._run_id = run_id

    def mask(self, connection: Connection, batch: Batch) -> MaskingTotals:
        """Masks one batch, or sets it aside where it cannot be read."""
        vault.lock_shared(connection)
        try:
            messages = read_messages(self._landing, self.keys, batch)
        except Unreadable as error:
            ledger.quarantine(connection, batch, str(error))
            return MaskingTotals(quarantined=1)
        rejections.forget_batch(connection, batch)
        settled = ledger.settled(connection, [message.key for message in messages])
        loaded_before = sum(end == (batch.batch_id, "loaded") for end in settled.values())
        erased_before = sum(end == (batch.batch_id, "erased") for end in settled.values())  # on the batch's own count
        # What is settled is not masked again: a redelivered message of somebody erased must not fill the vault.
        unsettled = [message for message in messages if message.key not in settled]
        masked = mask_batch(
            unsettled,
            self.keys.tokenizer,
            reject_unknown_fields=self._rules.reject_unknown_fields,
            major_only=self._rules.major_version_only,
            by_event_id=self._rules.by_event_id,
        )
        masked, known_events = self._without_known_events(connection, masked)
        masked_path, size = write_masked(self._landing, masked.logins)
        # Locks that other runs may wait for are taken from here on, so that they are held for as short as can be.
        new_tokens = self._fill_vault(connection, masked)
        ledger.settle_duplicates(connection, batch, known_events)
        rejected = rejections.add(
            connection,
            batch,
            (encrypted_rejection(self.keys.rejects, one.message, one.rejection) for one in masked.rejected),
        )
        duplicates = (
            masked.repeated
            + len(known_events)
            + (len(masked.rejected) - rejected)
            + (len(messages) - len(unsettled) - loaded_before - erased_before)
        )
        ledger.mark_masked(
            connection,
            batch,
            masked_path=masked_path,
            rejected=rejected,
            duplicates=duplicates,
            loaded=loaded_before,
            unknown_fields=masked.unknown_fields,
            run_id=self._run_id,
        )
        return MaskingTotals(
            batches=1,
            messages=len(messages),
            masked=masked.logins.height,
            rejected=rejected,
            duplicates=duplicates,
            loaded_before=loaded_before,
            unknown_fields=masked.unknown_fields,
            new_tokens=new_tokens,
            bytes=size,
        )

    def _without_known_events(self, connection: Connection, masked: MaskedBatch) -> tuple[MaskedBatch, list[UUID]]:
        """Leaves out logins whose event is loaded, by whatever message; and gives their messages."""
        events = masked.logins["event_uuid"].drop_nulls()
        if events.is_empty():
            return masked, []
        known = ledger.settled_events(connection, [UUID(event) for event in events])
        return masked.without_events({str(event) for event in known})

    def _fill_vault(self, connection: Connection, masked: MaskedBatch) -> int:
        known = vault.known_tokens(connection, masked.vault["token"].to_list())
        new = [entry for entry in masked.vault.iter_rows() if entry[0] not in known]
        # While keys rotate, every value is entered under both before its row is loaded: see the view loginetl.logins.
        vault.map_tokens(
            connection,
            (
                (old.token(field, value), token)
                for token, field, value in masked.vault.iter_rows()
                for old in self.keys.old_tokenizers
            ),
        )
        if not new:
            return 0
        encryptor = VaultEncryptor(self.keys.vault)
        return vault.add(
            connection,
            encryptor.wrapped_key,
            self.keys.key_ids(KeysetRole.VAULT)[0],
            ((token, field, encryptor.encrypt(token, value)) for token, field, value in new),
        )
