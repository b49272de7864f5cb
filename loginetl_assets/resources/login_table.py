"""The table `user_logins`: loading it, and what the checks ask of it, each at the cost of a batch.

The table belongs to its users and stands where their search path has it. We add rows and indexes, nothing else.
"""

import errno
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any
from uuid import UUID

import polars as pl
from sqlalchemy import Connection, text

from loginetl_assets.errors import OperatorError
from loginetl_assets.logins.masking import MASKED_SCHEMA, TABLE_COLUMNS
from loginetl_assets.resources import ledger
from loginetl_assets.resources.database import RowsRefused, attempt, copy_rows
from loginetl_assets.resources.ledger import Batch

TABLE = "user_logins"

_COLUMNS = (
    ("user_id", "character varying"),
    ("device_type", "character varying"),
    ("masked_ip", "character varying"),
    ("masked_device_id", "character varying"),
    ("locale", "character varying"),
    ("app_version", "integer"),
    ("create_date", "date"),
)
_DECLARED = ", ".join(f"{name} {kind}" for name, kind in _COLUMNS)  # of any width, whatever the users' own table has


def check_table(connection: Connection) -> None:
    """Makes sure that `user_logins` is the table this code loads.

    Raises:
        OperatorError: it has other columns, or it is missing.
    """
    columns = tuple(
        (row.name, row.type)
        for row in connection.execute(
            text(
                "SELECT attname AS name, regexp_replace(format_type(atttypid, atttypmod), '\\(.*', '') AS type"
                " FROM pg_attribute WHERE attrelid = to_regclass(:name) AND attnum > 0 AND NOT attisdropped"
                " ORDER BY attnum"
            ),
            {"name": TABLE},
        )
    )
    if columns != _COLUMNS:
        raise OperatorError(
            "table user_logins has other columns than"
            f" {', '.join(name for name, _ in _COLUMNS)}: rename it, or point LOGINETL_DATABASE_URL"
            " at another database or search_path, then run `loginetl migrate`"
        )


def is_filtered(connection: Connection) -> bool:
    """Whether row-level security may hide rows of the table from this session's role."""
    filtered: bool = connection.execute(
        text("SELECT row_security_active(to_regclass(:name))"), {"name": TABLE}
    ).scalar_one()
    return filtered


def require_every_row(connection: Connection) -> None:
    """Makes sure that what the transaction reads and changes of the table is all there is.

    Raises:
        OperatorError: row-level security would leave rows out.
    """
    # A policy that is made from here on is an error of Postgres's own, not a filter.
    connection.execute(text("SET LOCAL row_security = off"))
    if is_filtered(connection):
        role = connection.execute(text("SELECT current_user")).scalar_one()
        raise OperatorError(
            f"row-level security hides rows of {TABLE} from role {role}, and what is decided by the others would be"
            f" wrong: ALTER ROLE {role} BYPASSRLS, or connect as the table's owner without FORCE ROW LEVEL SECURITY"
        )


@dataclass(frozen=True)
class Loaded:
    """What became of a batch's rows: `inserted`, refused, and the rest settled before."""

    inserted: int
    refused: list[str]  # message keys


def load_logins(connection: Connection, batch: Batch, logins: pl.DataFrame) -> Loaded:
    """Loads a batch's masked rows whose message id was not settled before.

    A row that the table refuses, or that a trigger of its own passes over, does not sink the others: what holds it is
    halved until it stands alone, at the cost of two attempts a halving.

    Args:
        connection: in the transaction that holds the batch.
        batch: a masked one.
        logins: its rows, of `MASKED_SCHEMA`.
    """
    connection.execute(
        text(
            f"CREATE TEMP TABLE new_logins (message_key uuid, event_key uuid, {_DECLARED},"
            " position integer GENERATED ALWAYS AS IDENTITY) ON COMMIT DROP"
        )
    )
    inserted, refused = 0, list[str]()
    parts = [logins]
    while parts:
        part = parts.pop()
        try:
            with attempt(connection):
                new = _insert(connection, batch, part)
            inserted += new
        except RowsRefused:
            if part.height == 1:
                refused.append(part["message_key"].item())
            else:
                half = part.height // 2
                parts += [part[half:], part[:half]]  # the first half is next: rows keep their order
    connection.execute(text("DROP TABLE new_logins"))
    return Loaded(inserted, refused)


def _insert(connection: Connection, batch: Batch, logins: pl.DataFrame) -> int:
    copy_rows(connection, "new_logins", MASKED_SCHEMA.names(), logins.iter_rows())
    columns = ", ".join(TABLE_COLUMNS)
    counts = connection.execute(
        text(
            "WITH fresh AS ("
            "  INSERT INTO loginetl.processed_messages (message_key, batch_id, outcome, event_key)"
            "  SELECT message_key, :batch_id, 'loaded', event_key FROM new_logins"
            "  ORDER BY event_key NULLS LAST, message_key"
            "  ON CONFLICT DO NOTHING RETURNING message_key),"
            f" written AS (INSERT INTO {TABLE} ({columns})"
            f"  SELECT {columns} FROM new_logins JOIN fresh USING (message_key) ORDER BY position RETURNING 1)"
            " SELECT (SELECT count(*) FROM fresh) AS fresh, (SELECT count(*) FROM written) AS written"
        ),
        {"batch_id": batch.batch_id},
    ).one()
    fresh, inserted = int(counts.fresh), int(counts.written)
    if inserted < fresh:
        raise RowsRefused  # a trigger passed rows over without a word
    if inserted < logins.height:  # by its event alone a message may be known, and still has to be settled itself
        of_events = logins.filter(pl.col("event_key").is_not_null())["message_key"]
        ledger.settle_duplicates(connection, batch, [UUID(key) for key in of_events])
    connection.execute(text("TRUNCATE new_logins"))
    return inserted


def table_rows(connection: Connection, table: str = TABLE) -> int:
    """Rows of a table: exact below 100 000, above that the planner's estimate, which costs nothing."""
    estimate: int = connection.execute(
        text("SELECT reltuples::bigint FROM pg_class WHERE oid = to_regclass(:name)"), {"name": table}
    ).scalar_one()
    if estimate >= 100_000:
        return estimate
    exact: int = connection.execute(text(f"SELECT count(*) FROM {table}")).scalar_one()
    return exact


def tokens_of_several_users(connection: Connection, column: str, tokens: Sequence[str]) -> int:
    """How many of the tokens stand beside more than one user; two index look-ups a token.

    Args:
        connection: in a transaction.
        column: `masked_ip` or `masked_device_id`.
        tokens: distinct ones.
    """
    if column not in {"masked_ip", "masked_device_id"}:
        raise ValueError("no masked column")
    first, last = (
        f"(SELECT user_id FROM {TABLE} WHERE {column} = token ORDER BY user_id {order} LIMIT 1)"
        for order in ("ASC", "DESC")
    )
    count: int = connection.execute(
        text(f"SELECT count(*) FROM unnest(CAST(:tokens AS text[])) token WHERE {first} <> {last}"),
        {"tokens": list(tokens)},
    ).scalar_one()
    return count


def repeated_logins(connection: Connection, logins: pl.DataFrame) -> int:
    """How many distinct logins of a frame stand in the table more than once, word for word; by index.

    Args:
        connection: in a transaction.
        logins: of `MASKED_SCHEMA`.
    """
    distinct = logins.select(TABLE_COLUMNS).unique()
    connection.execute(text(f"CREATE TEMP TABLE seen_logins ({_DECLARED}) ON COMMIT DROP"))
    copy_rows(connection, "seen_logins", TABLE_COLUMNS, distinct.iter_rows())
    same = " AND ".join(
        f"u.{name} = s.{name}" if name in {"user_id", "masked_device_id"} else f"u.{name} IS NOT DISTINCT FROM s.{name}"
        for name in TABLE_COLUMNS
    )
    count: int = connection.execute(
        text(
            "SELECT count(*) FROM seen_logins s WHERE"
            f" (SELECT count(*) FROM (SELECT FROM {TABLE} u WHERE {same} LIMIT 2) found) > 1"
        )
    ).scalar_one()
    return count


def export_csv(connection: Connection, stream: IO[bytes]) -> int:
    """Writes the whole table as CSV with a header line (RFC 4180; null is empty); gives back the rows."""
    driver: Any = connection.connection.driver_connection
    with driver.cursor() as cursor:
        with cursor.copy(f"COPY {TABLE} ({', '.join(TABLE_COLUMNS)}) TO STDOUT (FORMAT csv, HEADER)") as copy:
            for chunk in copy:
                stream.write(chunk)
        rows: int = cursor.rowcount
    return rows


def export_parquet(connection: Connection, path: Path) -> int:
    """Writes the whole table as one parquet file, in bounded memory; gives back the rows."""
    with TemporaryFile(dir=path.parent) as spool:
        rows = export_csv(connection, spool)
        spool.seek(0)
        schema = {name: kind for name, kind in MASKED_SCHEMA.items() if name in TABLE_COLUMNS}
        try:
            pl.scan_csv(spool, schema=schema).sink_parquet(path)
        except pl.exceptions.PolarsError as error:
            if "os error 28" not in str(error):  # its text may quote a row
                raise
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) from None
    return rows
