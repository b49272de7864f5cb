"""The login table: loading it, what the checks read of it, each at the cost of a batch, and exports.

Every statement names the recorded table with its schema, and a temporary one with `pg_temp`: what a search path
finds may be another.
"""

import errno
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, Any
from uuid import UUID

import polars as pl
from sqlalchemy import Connection, func, select

from loginetl_assets.errors import OperatorError
from loginetl_assets.logins.contract import COLUMN_NAMES, COLUMNS
from loginetl_assets.logins.masking import MASKED_SCHEMA
from loginetl_assets.logins.rejection import Reason, Rejection
from loginetl_assets.storage import activity, message_ids
from loginetl_assets.storage.batches import Batch
from loginetl_assets.storage.copying import copy_frame
from loginetl_assets.storage.database import LoginDatabase, RowsRefusedError, attempt
from loginetl_assets.storage.login_table_record import PARTS, login_table
from loginetl_assets.storage.statements import array_of, named

if TYPE_CHECKING:
    from _typeshed import SupportsWrite

_DECLARED = ", ".join(f"{column.name} {column.base_type}" for column in COLUMNS)  # no width: the table itself refuses
_CREATE_NEW_LOGINS = named(
    "create_new_logins",
    f"CREATE TEMP TABLE new_logins (message_uuid uuid, event_uuid uuid, {_DECLARED},"
    " position integer GENERATED ALWAYS AS IDENTITY) ON COMMIT DROP",
)
_EMPTY_NEW_LOGINS = named("empty_new_logins", "TRUNCATE pg_temp.new_logins")
_DROP_NEW_LOGINS = named("drop_new_logins", "DROP TABLE pg_temp.new_logins")
# COPY has no answer to row-level security, and says neither which rows a trigger changed nor whose words it has.
_TAKES_COPIES = named(
    "takes_copies",
    f"{PARTS} SELECT NOT row_security_active(CAST(:table AS regclass))"
    " AND NOT EXISTS (SELECT FROM pg_trigger JOIN part ON tgrelid = part.oid WHERE NOT tgisinternal)",
)
_CREATE_SEEN_LOGINS = named("create_seen_logins", f"CREATE TEMP TABLE seen_logins ({_DECLARED}) ON COMMIT DROP")
_COLUMNS = ", ".join(COLUMN_NAMES)
_INSERT = (
    "WITH fresh AS ("
    "  INSERT INTO loginetl.processed_messages (message_uuid, batch_id, outcome, event_uuid)"
    "  SELECT message_uuid, :batch_id, 'loaded', event_uuid FROM pg_temp.new_logins"
    "  ORDER BY event_uuid NULLS LAST, message_uuid"
    "  ON CONFLICT DO NOTHING RETURNING message_uuid),"
    f" written AS (INSERT INTO {{table}} ({_COLUMNS})"
    f"  SELECT {_COLUMNS} FROM pg_temp.new_logins JOIN fresh USING (message_uuid) ORDER BY position"
    f"  RETURNING {activity.COUNTED_COLUMNS}),"
    f" counted AS ({activity.change_of('written')})"
    " SELECT (SELECT count(*) FROM fresh) AS fresh, (SELECT count(*) FROM written) AS written"
)


def is_filtered(connection: Connection) -> bool:
    """Whether row-level security may hide rows of the table from this session's role."""
    active = select(func.row_security_active(func.to_regclass(login_table(connection))))
    return bool(connection.scalars(named("is_filtered", active)).one())


@contextmanager
def every_row(database: LoginDatabase) -> Iterator[Connection]:
    """A transaction in which what is read and changed of the table is all there is.

    Raises:
        OperatorError: row-level security would leave rows out.
    """
    with database.transaction() as connection:
        # A policy that is made from here on is an error of Postgres's own, not a filter.
        connection.execute(named("require_every_row", "SET LOCAL row_security = off"))
        if is_filtered(connection):
            role = connection.scalars(named("read_role", select(func.current_user()))).one()
            raise OperatorError(
                f"row-level security hides rows of {login_table(connection)} from role {role}, and the result would be"
                f" wrong without them: ALTER ROLE {role} BYPASSRLS, or connect as the table's owner without"
                " FORCE ROW LEVEL SECURITY"
            )
        yield connection


@dataclass(frozen=True)
class Loaded:
    """How many of a batch's rows were inserted, and which were refused; the rest were settled before."""

    inserted: int
    refused: dict[str, Rejection]  # by message id


def load_logins(connection: Connection, batch: Batch, logins: pl.DataFrame) -> Loaded:
    """Loads those of a batch's masked rows whose message was not settled before.

    Masking leaves out what was settled by then, so hardly ever is a message among them that another batch has brought
    meanwhile: at first all are copied straight into ledger and table, of which either both take all, or neither any.

    A row that the table refuses, or that one of its triggers skips, keeps no other from loading: the batch is bisected
    until the row is alone, at the cost of two attempts each time. The frame is of `MASKED_SCHEMA`.
    """
    if connection.scalars(_TAKES_COPIES, {"table": login_table(connection)}).one():
        with suppress(RowsRefusedError), attempt(connection, has_another_way=True):
            _copy(connection, batch, logins)
            return Loaded(logins.height, {})
    connection.execute(_CREATE_NEW_LOGINS)
    inserted, refused = 0, dict[str, Rejection]()
    parts = [logins]
    while parts:
        part = parts.pop()
        try:
            with attempt(connection):
                new = _insert(connection, batch, part)
            inserted += new  # only what stayed
        except RowsRefusedError as error:
            if part.height == 1:
                refused[part["message_uuid"].item()] = Rejection(
                    Reason.REFUSED_BY_TABLE, sqlstate=error.sqlstate, constraint_name=error.constraint_name
                )
            else:
                half = part.height // 2
                parts += [part[half:], part[:half]]  # the first half is next: rows keep their order
    connection.execute(_DROP_NEW_LOGINS)
    return Loaded(inserted, refused)


def _copy(connection: Connection, batch: Batch, logins: pl.DataFrame) -> None:
    """Copies rows and message ids; fails where one of either is not taken."""
    ids = logins.select(
        "message_uuid", pl.lit(batch.batch_id).alias("batch_id"), pl.lit("loaded").alias("outcome"), "event_uuid"
    )
    in_order = ids.sort("event_uuid", "message_uuid", nulls_last=True)  # as runs that insert the same have to
    copy_frame(connection, "copy_message_ids", "loginetl.processed_messages", in_order)
    copied = copy_frame(connection, "copy_logins", login_table(connection), logins.select(COLUMN_NAMES))
    if copied < logins.height:
        raise RowsRefusedError
    activity.count(connection, logins)


def _insert(connection: Connection, batch: Batch, logins: pl.DataFrame) -> int:
    copy_frame(connection, "copy_new_logins", "pg_temp.new_logins", logins)
    insert = named("insert_logins", _INSERT.format(table=login_table(connection)))
    counts = connection.execute(insert, {"batch_id": batch.batch_id}).one()
    inserted = int(counts.written)
    if inserted < counts.fresh:
        raise RowsRefusedError  # a trigger skipped rows silently
    if inserted < logins.height:  # where only its event is known, a message is to be recorded itself
        of_events = logins.filter(pl.col("event_uuid").is_not_null())["message_uuid"]
        message_ids.record_duplicates(connection, batch.batch_id, [UUID(one) for one in of_events])
    connection.execute(_EMPTY_NEW_LOGINS)
    return inserted


def tokens_of_several_users(connection: Connection, column: str, tokens: Sequence[str]) -> int:
    """Returns how many distinct tokens of a column have more than one user; two index look-ups a token."""
    table = login_table(connection)
    first, last = (
        f"(SELECT user_id FROM {table} WHERE {column} = token ORDER BY user_id {order} LIMIT 1)"
        for order in ("ASC", "DESC")
    )
    shared = f"SELECT count(*) FROM unnest(CAST(:tokens AS text[])) token WHERE {first} <> {last}"
    return int(connection.scalars(named("count_shared_tokens", shared), {"tokens": array_of(tokens)}).one())


def duplicate_rows(connection: Connection, distinct: pl.DataFrame) -> int:
    """Returns how many of distinct logins the table has more than once; by index."""
    connection.execute(_CREATE_SEEN_LOGINS)
    copy_frame(connection, "copy_seen_logins", "pg_temp.seen_logins", distinct)
    same = " AND ".join(
        f"u.{name} = s.{name}" if name in {"user_id", "masked_device_id"} else f"u.{name} IS NOT DISTINCT FROM s.{name}"
        for name in COLUMN_NAMES
    )
    repeated = (
        "SELECT count(*) FROM pg_temp.seen_logins s WHERE"
        f" (SELECT count(*) FROM (SELECT FROM {login_table(connection)} u WHERE {same} LIMIT 2) found) > 1"
    )
    return int(connection.scalars(named("count_duplicate_rows", repeated)).one())


def export_csv(connection: Connection, stream: "SupportsWrite[bytes]") -> int:
    """Writes the whole table as CSV with a header line (RFC 4180; null is empty); returns how many rows."""
    driver: Any = connection.connection.driver_connection
    # Of a query: COPY of a table fails where it has partitions, and skips what its heirs hold.
    rows_of_table = f"SELECT {', '.join(COLUMN_NAMES)} FROM {login_table(connection)}"
    with driver.cursor() as cursor:
        with cursor.copy(f"/* export_logins */ COPY ({rows_of_table}) TO STDOUT (FORMAT csv, HEADER)") as copy:
            for chunk in copy:
                stream.write(chunk)
        rows: int = cursor.rowcount
    return rows


def export_parquet(connection: Connection, path: Path) -> int:
    """Writes the whole table as one parquet file, in bounded memory; returns how many rows."""
    with TemporaryFile(dir=path.parent) as spool:
        rows = export_csv(connection, spool)
        spool.seek(0)
        schema = {name: kind for name, kind in MASKED_SCHEMA.items() if name in COLUMN_NAMES}
        try:
            pl.scan_csv(spool, schema=schema).sink_parquet(path)
        except pl.exceptions.PolarsError as error:
            if "os error 28" not in str(error):  # its text may quote a row
                raise
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) from None
    return rows
