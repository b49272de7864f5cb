"""What Dagster's catalog shows of each asset besides its declaration: tags, kinds, code version, source, meanings."""

import warnings
from collections.abc import Iterable, Mapping
from dataclasses import fields
from importlib.metadata import version
from typing import Any
from urllib.parse import urlsplit

import dagster as dg

from loginetl_assets.settings import Settings
from loginetl_assets.steps.drain.engine import DrainTotals
from loginetl_assets.steps.load import LoadTotals
from loginetl_assets.steps.mask import MaskTotals

# In which form an asset holds IP addresses and device ids.
PII = {
    "login_queue": "plaintext",
    "raw_login_messages": "encrypted",
    "masked_logins": "tokens",
    "rejected_logins": "encrypted",
    "pii_vault": "encrypted",
    "user_logins": "tokens",
    "login_activity": "none",
}
_IN_LANDING = {"raw_login_messages", "masked_logins"}
_RATES = ("seconds", "rows_per_second")
_MASKING = (*(one.name for one in fields(MaskTotals)), *_RATES)
# Metadata of a materialization: numbers, which the asset's page plots.
NUMBERS: Mapping[str, tuple[str, ...]] = {
    "raw_login_messages": (
        *(one.name for one in fields(DrainTotals)),
        *("processes", "queue_depth_before", "queue_depth_after", "queue_in_flight_after"),
        *_RATES,
    ),
    "masked_logins": _MASKING,
    "rejected_logins": _MASKING,
    "pii_vault": _MASKING,
    "user_logins": (*(one.name for one in fields(LoadTotals)), "lag_seconds", *_RATES),
}
MEANINGS = {
    "messages": "messages that this run worked on",
    "batches": "batches that it finished",
    "bytes": "size of the objects that it wrote",
    "undeleted": "landed messages that SQS did not delete: they are redelivered and change nothing",
    "postponed": "messages whose payload could not be read for now: they are redelivered",
    "stopped_reason": "why the drain ended",
    "processes": "processes that drained in parallel",
    "queue_depth_before": "messages that waited on the queue at the start",
    "queue_depth_after": "messages that waited on the queue at the end",
    "queue_in_flight_after": "messages in flight at the end: received and not deleted",
    "quarantined_batches": "batches that cannot be read: `loginetl status` says why",
    "masked": "logins in the masked files",
    "rejected": "messages that were kept with a reason instead of loaded",
    "duplicates": "messages whose id was in the ledger already",
    "loaded_before": "messages that were loaded before their batch was read again",
    "unknown_fields": "fields that are not in the contract",
    "new_tokens": "values that are new in the vault",
    "rows": "rows of the masked files",
    "loaded": "rows inserted into the table",
    "batches_to_mask_again": "batches whose masked file is gone or damaged",
    "lag_seconds": "from SentTimestamp of the oldest message that this run loaded to its load; absent if none",
    "seconds": "duration of the step",
    "rows_per_second": "messages per second, in user_logins rows per second",
}


def in_catalog(assets: Iterable[dg.AssetsDefinition | dg.AssetSpec], settings: Settings) -> list[Any]:
    """Returns the assets with what the catalog shows of them.

    The code version is the release that wrote an asset. In the local environment each links to its source file.
    """
    landing = "s3" if settings.landing_url and urlsplit(settings.landing_url).scheme == "s3" else "file"
    release = version("loginetl")

    def shown(spec: dg.AssetSpec) -> dg.AssetSpec:
        name = spec.key.to_user_string()
        numbers = "".join(f"\n- `{one}`: {MEANINGS[one]}" for one in NUMBERS.get(name, ()))
        return spec.replace_attributes(
            code_version=None if name == "login_queue" else release,
            description=f"{spec.description}\n\nMetadata of each run:\n{numbers}" if numbers else spec.description,
        ).merge_attributes(
            tags={"domain": "logins", "pii": PII[name]}, kinds={landing} if name in _IN_LANDING else set()
        )

    found = [one.map_asset_specs(shown) if isinstance(one, dg.AssetsDefinition) else shown(one) for one in assets]
    if settings.is_local:
        with warnings.catch_warnings(action="ignore", category=dg.BetaWarning):
            return list(dg.with_source_code_references(found))
    return found
