"""Column schemas, lineage and rates, as Dagster's metadata; counts only, never rows."""

from typing import Any

import dagster as dg

RAW = dg.AssetKey("raw_login_messages")
MASKED = dg.AssetKey("masked_logins")
LOADED = dg.AssetKey("user_logins")

NOT_MASKED = "not_masked"  # of masked_logins: which batches failed, and why the first did

OWNERS = ["team:data-engineering"]
PRIVACY_OWNERS = ["team:data-engineering", "team:privacy"]

_SOURCES = {
    "user_id": ("user_id",),
    "device_type": ("device_type",),
    "masked_ip": ("ip",),
    "masked_device_id": ("device_id",),
    "locale": ("locale",),
    "app_version": ("app_version",),
}


def column_schema(*columns: tuple[str, str, str]) -> dg.TableSchema:
    """Builds a table schema of name, type, description."""
    return dg.TableSchema([dg.TableColumn(name, kind, description) for name, kind, description in columns])


LOGIN_COLUMNS = (
    ("user_id", "varchar(128)", "As sent."),
    ("device_type", "varchar(32)", "As sent."),
    ("masked_ip", "varchar(256)", "Token of the IP address: key id, dot, base64url HMAC-SHA256."),
    ("masked_device_id", "varchar(256)", "Token of the device id; equal devices have equal tokens."),
    ("locale", "varchar(32)", "As sent; null where it was missing."),
    ("app_version", "integer", "`major*1_000_000 + minor*1_000 + patch` (or the major version, by setting)."),
    ("create_date", "date", "UTC date on which SQS took the message."),
)


def masked_lineage() -> dg.TableColumnLineage:
    """Which field of the raw message each masked column comes from."""
    return dg.TableColumnLineage(
        {
            column: [dg.TableColumnDep(RAW, source) for source in sources]
            for column, sources in {
                **_SOURCES,
                "create_date": ("sent_at",),
                "message_uuid": ("message_id",),
            }.items()
        }
    )


def table_lineage() -> dg.TableColumnLineage:
    """Each column of the table comes from its namesake in the masked file."""
    return dg.TableColumnLineage({name: [dg.TableColumnDep(MASKED, name)] for name, _, _ in LOGIN_COLUMNS})


def rate(count: int, seconds: float) -> dict[str, Any]:
    """Seconds and rows a second, rounded for people."""
    return {"seconds": round(seconds, 3), "rows_per_second": round(count / seconds) if seconds > 0 else 0}
