"""masked_logins, with rejected_logins and pii_vault: one step writes all three, so they are materialized together."""

import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import dagster as dg
from pydantic import Field

from loginetl_assets.assets.metadata import (
    LOADED,
    LOGIN_COLUMNS,
    MASKED_LINEAGE,
    NOT_MASKED,
    OWNERS,
    PRIVACY_OWNERS,
    RAW,
    column_schema,
    data_version,
    rate,
    rejected_by_reason,
)
from loginetl_assets.failures import check_batches, failures_without_values
from loginetl_assets.logins.contract import MASKED_FIELDS
from loginetl_assets.logins.rejection import Reason
from loginetl_assets.resources import KeyringResource, LandingResource, LoginDatabaseResource, RulesResource
from loginetl_assets.steps.mask import mask_pending
from loginetl_assets.steps.progress import Progress
from loginetl_assets.storage.batches import batches_of_run
from loginetl_assets.storage.rejections import Selection, by_reason
from loginetl_assets.storage.table_sizes import table_rows

# A plot needs a number from each run, zeros too. Rows that the table refuses are counted by user_logins.
_NO_REJECTIONS = {reason.value: 0 for reason in Reason if reason is not Reason.REFUSED_BY_TABLE}


class MaskingConfig(dg.Config):
    """Which batches to mask."""

    reprocess: bool = Field(
        default=False,
        description="Read every batch in the landing again, also loaded and quarantined ones (after a rule or a key was"
        " changed), and lost ones that `batch_ids` names. A loaded message stays loaded and is not loaded twice.",
    )
    batch_ids: list[int] = Field(
        default_factory=list, description="Only these batches of `loginetl.batches`; empty for all."
    )


_spec = partial(dg.AssetSpec, deps=[RAW], group_name="logins")


@dg.multi_asset(
    name="masked_logins",
    specs=[
        _spec(
            "masked_logins",
            kinds={"polars", "parquet"},
            owners=OWNERS,
            description="One parquet file per batch: logins with `ip` and `device_id` replaced by tokens.",
            metadata={
                "dagster/column_schema": column_schema(("message_uuid", "uuid", "The message's id."), *LOGIN_COLUMNS),
                "dagster/column_lineage": MASKED_LINEAGE,
            },
        ),
        _spec(
            "rejected_logins",
            kinds={"postgres"},
            owners=PRIVACY_OWNERS,
            description="Messages that could not be loaded: the reason in plaintext, the body encrypted.",
            metadata={
                "dagster/table_name": "loginetl.rejected_logins",
                "dagster/column_schema": column_schema(
                    ("message_uuid", "uuid", "The message's id."),
                    ("batch_id", "bigint", "The batch it came with."),
                    ("sent_at", "timestamptz", "SQS's SentTimestamp."),
                    ("rejected_at", "timestamptz", "When it was rejected."),
                    ("reason", "text", "One of the list in docs/reasons.md."),
                    ("field", "text", "The invalid field, if it is one field."),
                    ("sqlstate", "text", "Of a row that the table refused: Postgres's error code."),
                    ("constraint_name", "text", "Of such a row: the violated constraint or unique index, if any."),
                    ("encrypted_body", "bytea", "The body, encrypted with the rejects key."),
                ),
            },
        ),
        _spec(
            "pii_vault",
            kinds={"postgres"},
            owners=PRIVACY_OWNERS,
            description="Tokens and their encrypted values. The pipeline adds to it, and only the officer reads it.",
            metadata={
                "dagster/table_name": "loginetl.pii_vault",
                "dagster/column_schema": column_schema(
                    ("token", "text", "The token, as in the login table."),
                    ("field", "text", f"One of {', '.join(MASKED_FIELDS)}."),
                    ("encrypted_value", "bytea", "The value, encrypted with a data key."),
                    ("data_key_id", "bigint", "The data key; each is encrypted for the officer's public key."),
                    ("first_seen_at", "timestamptz", "When the value was first received."),
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
    """Masks what is pending, batch by batch, oldest first; parallel runs skip each other's batches."""
    with failures_without_values(retried=context):
        started = time.monotonic()
        opened = database.get_client()
        totals, failed = mask_pending(
            opened,
            landing.get_client(opened),
            keyring.get_client(),
            rules.masking,
            reprocess=config.reprocess,
            batch_ids=config.batch_ids,
            run_id=context.run.run_id,
            batch_done=Progress(context.log.info, "masked"),
        )
        check_batches(context, failed, totals.quarantined_batches)
        shown = {**totals.as_metadata(), **rate(totals.messages, time.monotonic() - started)}
        with opened.transaction() as connection:
            rejected, vault = (table_rows(connection, f"loginetl.{name}") for name in ("rejected_logins", "pii_vault"))
            masked = [batch.batch_id for batch in batches_of_run(connection, context.run.run_id, "masked")]
            reasons = _NO_REJECTIONS | by_reason(connection, Selection(batch_ids=masked))
        rows = {"masked_logins": totals.masked, "rejected_logins": rejected, "pii_vault": vault}
        for asset, count in rows.items():
            more: dict[str, Any] = rejected_by_reason(reasons) if asset == "rejected_logins" else {}
            if failed and asset == "masked_logins":
                more = {NOT_MASKED: str(failed)}
            yield dg.MaterializeResult(
                asset_key=asset,
                data_version=data_version(context),
                metadata={"dagster/row_count": count, **shown, **more},
            )
        if failed:
            context.log.error(str(failed))
            if not _load_follows(context):
                raise failed


def _load_follows(context: dg.AssetExecutionContext) -> bool:
    """Whether user_logins comes later in this run; it is skipped where this step fails, and so fails for both."""
    steps = context.run.step_keys_to_execute
    return LOADED in context.job_def.asset_layer.selected_asset_keys and (
        steps is None or LOADED.to_python_identifier() in steps
    )
