"""COPY, in the connection's transaction: its errors are psycopg's own, which the transaction explains."""

import io
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import polars as pl
from sqlalchemy import Connection


def copy_rows(connection: Connection, table: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Copies rows into a table (COPY FROM STDIN), in the connection's transaction; named `copy_` and the table."""
    name = f"copy_{table.removeprefix('pg_temp.')}"
    statement = f"/* {name} */ COPY {table} ({', '.join(columns)}) FROM STDIN"
    with _cursor(connection) as cursor, cursor.copy(statement) as copy:
        for row in rows:
            copy.write_row(row)


def copy_frame(connection: Connection, name: str, table: str, rows: pl.DataFrame) -> int:
    """Copies a frame into a table's columns of the same names; returns how many rows no trigger passed over.

    As `copy_rows`, but polars writes all rows at once, as CSV.
    """
    written = io.BytesIO()
    rows.write_csv(written, include_header=False, quote_style="non_numeric")
    statement = f"/* {name} */ COPY {table} ({', '.join(rows.columns)}) FROM STDIN (FORMAT csv)"
    with _cursor(connection) as cursor:
        with cursor.copy(statement) as copy:
            copy.write(written.getvalue())
        copied: int = cursor.rowcount
    return copied


@contextmanager
def _cursor(connection: Connection) -> Iterator[Any]:
    """Yields psycopg's own cursor; an interrupt gives the connection up, as SQLAlchemy does in its own statements.

    Else the rollback would fail in the middle of the command, and its error would take the interrupt's place: the step
    of a cancelled run would be tried again.
    """
    driver: Any = connection.connection.driver_connection
    try:
        with driver.cursor() as cursor:
            yield cursor
    except Exception:
        raise
    except BaseException:
        connection.invalidate()
        raise
