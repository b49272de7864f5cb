"""Column schemas, lineage and rates, as Dagster's metadata; counts only, never rows."""

from collections.abc import Mapping
from typing import Any

import dagster as dg

from loginetl_assets.logins.contract import COLUMN_NAMES, COLUMNS

QUEUE = dg.AssetKey("login_queue")
RAW = dg.AssetKey("raw_login_messages")
MASKED = dg.AssetKey("masked_logins")
LOADED = dg.AssetKey("user_logins")

NOT_MASKED = "not_masked"  # of masked_logins: which batches failed, and why the first did

OWNERS = ["team:data-engineering"]
PRIVACY_OWNERS = ["team:data-engineering", "team:privacy"]


def column_schema(*columns: tuple[str, str, str]) -> dg.TableSchema:
    """Builds a table schema of name, type, description."""
    return dg.TableSchema([dg.TableColumn(name, kind, description) for name, kind, description in columns])


LOGIN_COLUMNS = tuple((column.name, column.sql_type, column.description) for column in COLUMNS)


# A masked column comes from a field of the raw message, a column of the table from its namesake in the masked file.
_SOURCES = {"message_uuid": "message_id", **{column.name: column.source for column in COLUMNS}}
MASKED_LINEAGE = dg.TableColumnLineage({name: [dg.TableColumnDep(RAW, source)] for name, source in _SOURCES.items()})
TABLE_LINEAGE = dg.TableColumnLineage({name: [dg.TableColumnDep(MASKED, name)] for name in COLUMN_NAMES})


def rejected_by_reason(counts: Mapping[str, int]) -> dict[str, int]:
    """Returns a number for each reason, which the asset's page plots."""
    return {f"rejected {reason}": count for reason, count in counts.items()}


def data_version(context: dg.AssetExecutionContext) -> dg.DataVersion:
    """Returns the run's id. By code version and inputs alone a second drain would be the same data to Dagster."""
    return dg.DataVersion(context.run.run_id)


def rate(count: int, seconds: float) -> dict[str, Any]:
    """Returns seconds and rows per second, rounded for people."""
    return {"seconds": round(seconds, 3), "rows_per_second": round(count / seconds) if seconds > 0 else 0}
