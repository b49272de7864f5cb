"""Counts of logins by day and value, in place of the login table: what the report reads.

Whatever adds or deletes rows adds the change of the counts in the same statement, to `loginetl.activity_changes`: no
transaction waits for another, and counts and rows are committed together. Readers add the changes to
`loginetl.activity`; `fold` does so for good. The rows of a table that is adopted are counted when it is recorded, and
`recount` counts all of them again after its owner has changed rows himself.

A day is that of `create_date`; of a rejection, that on which it was rejected.
"""

from collections.abc import Sequence
from datetime import date
from typing import Literal, NamedTuple

import polars as pl
from sqlalchemy import Connection

from loginetl_assets.storage.copying import copy_frame
from loginetl_assets.storage.login_table_record import login_table
from loginetl_assets.storage.statements import named
from loginetl_assets.storage.tables import Dimension

# By what the rows of the login table are counted, one dimension at a time: counts of all of them together would be
# nearly as many as the rows, and most of them one person's.
_DIMENSIONS = (Dimension.DEVICE_TYPE, Dimension.LOCALE, Dimension.APP_VERSION)
COUNTED_COLUMNS = ", ".join(["create_date", *_DIMENSIONS])
_VALUES = ", ".join(f"('{one}', CAST({one} AS text))" for one in _DIMENSIONS)
_NO_DATE = "0001-01-01"
_MAX_LENGTH = 64  # an adopted table may have longer texts, and an index does not take any

# From the day that no login can be older than, to tomorrow: a clock may be ahead.
_IS_DATED = "day BETWEEN '1970-01-01' AND CAST(now() AT TIME ZONE 'UTC' AS date) + 1"
_COUNTS = (
    "(SELECT day, dimension, value, logins FROM loginetl.activity"
    " UNION ALL SELECT day, dimension, value, logins FROM loginetl.activity_changes) counts"
)

_ONE_AT_A_TIME = named("lock_activity", "LOCK TABLE loginetl.activity IN SHARE UPDATE EXCLUSIVE MODE")
_FOLD = named(
    "fold_activity",
    "WITH changes AS (DELETE FROM loginetl.activity_changes RETURNING day, dimension, value, logins)"
    " INSERT INTO loginetl.activity AS a (day, dimension, value, logins)"
    " SELECT day, dimension, value, sum(logins) FROM changes GROUP BY 1, 2, 3"
    " ON CONFLICT (day, dimension, value) DO UPDATE SET logins = a.logins + excluded.logins",
)
_DROP_ZEROES = named("drop_zero_activity", "DELETE FROM loginetl.activity WHERE logins = 0")
_WAIT_FOR_LOADS = named("lock_activity_changes", "LOCK TABLE loginetl.activity_changes IN SHARE ROW EXCLUSIVE MODE")
_NO_TIMEOUT = named("wait_for_recount", "SET LOCAL statement_timeout = 0")
_FORGET = tuple(
    named(f"forget_{table}", f"DELETE FROM loginetl.{table} WHERE dimension <> '{Dimension.REJECTION}'")
    for table in ("activity", "activity_changes")
)
_IS_EMPTY = named(
    "is_activity_empty", f"SELECT NOT EXISTS (SELECT FROM {_COUNTS} WHERE dimension <> '{Dimension.REJECTION}')"
)
_READ_DAYS = named(
    "read_activity_days",
    f"WITH days AS (SELECT day, sum(logins) AS logins, {_IS_DATED} AS dated FROM {_COUNTS}"
    f" WHERE dimension = '{Dimension.DEVICE_TYPE}' GROUP BY day HAVING sum(logins) > 0)"
    " SELECT CAST(coalesce(sum(logins), 0) AS bigint) AS logins,"
    " CAST(coalesce(sum(logins) FILTER (WHERE NOT dated), 0) AS bigint) AS undated,"
    " min(day) FILTER (WHERE dated) AS first, max(day) FILTER (WHERE dated) AS last,"
    " CAST((array_agg(logins ORDER BY day DESC) FILTER (WHERE dated))[1] AS bigint) AS last_day FROM days",
)
_READ_REJECTIONS = named(
    "read_rejection_counts",
    f"SELECT value, CAST(sum(logins) AS bigint) AS logins FROM {_COUNTS}"
    f" WHERE dimension = '{Dimension.REJECTION}' GROUP BY value HAVING sum(logins) > 0 ORDER BY logins DESC, value",
)


def change_of(rows: str, sign: Literal["", "-"] = "") -> str:
    """Returns the part of a statement that counts `rows`: a query's name that has `COUNTED_COLUMNS`."""
    return (
        "INSERT INTO loginetl.activity_changes (day, dimension, value, logins)"
        f" SELECT coalesce(create_date, '{_NO_DATE}'), dimension, left(coalesce(value, ''), {_MAX_LENGTH}),"
        f" {sign}count(*) FROM {rows}, LATERAL (VALUES {_VALUES}) counted (dimension, value) GROUP BY 1, 2, 3"
    )


def count(connection: Connection, logins: pl.DataFrame) -> None:
    """Counts rows as `change_of` does, before they are in the table; each has a date."""
    counts = pl.concat(
        logins.group_by(
            pl.col("create_date").alias("day"),
            pl.lit(one.value).alias("dimension"),
            pl.col(one.value).cast(pl.String).fill_null("").str.head(_MAX_LENGTH).alias("value"),
        ).len("logins")
        for one in _DIMENSIONS
    )
    copy_frame(connection, "copy_activity_changes", "loginetl.activity_changes", counts)


def fold(connection: Connection) -> None:
    """Adds the changes to the counts, and removes what is at zero: of an erased person no value stays."""
    connection.execute(_ONE_AT_A_TIME)
    connection.execute(_FOLD)
    connection.execute(_DROP_ZEROES)


def recount(connection: Connection) -> None:
    """Counts the rows of the recorded table again, all of them; loads wait until the transaction ends."""
    for statement in (_NO_TIMEOUT, _ONE_AT_A_TIME, _WAIT_FOR_LOADS, *_FORGET):
        connection.execute(statement)
    connection.execute(named("recount_activity", change_of(login_table(connection))))
    fold(connection)


def is_empty(connection: Connection) -> bool:
    """Whether no row of the login table was ever counted."""
    found: bool = connection.execute(_IS_EMPTY).scalar_one()
    return found


class Days(NamedTuple):
    """How many logins there are, and on which days; first, last and last_day are None where no login has a date."""

    logins: int
    undated: int
    first: date | None
    last: date | None
    last_day: int | None


def read_days(connection: Connection) -> Days:
    """Returns how many logins there are, and their first and last day."""
    return Days(*connection.execute(_READ_DAYS).one())


def read_counts(
    connection: Connection,
    dimension: Dimension,
    *,
    unit: str,
    most: int,
    at_least: int,
    divisor: int = 1,
) -> Sequence[tuple[date | None, str | None, int]]:
    """Returns logins by period and value: first day of the period (None: undated), value (None: all others), logins.

    Args:
        connection: in a transaction.
        dimension: by which values.
        unit: of Postgres's date_trunc.
        most: at most so many values have their name, those with the most logins.
        at_least: and only values of so many logins.
        divisor: of versions, which are integers: how many of them are one value.
    """
    value = "value"
    if dimension is Dimension.APP_VERSION:
        value = "CASE WHEN value = '' THEN '' ELSE CAST(CAST(value AS integer) / :divisor AS text) END"
    statement = (
        f"WITH found AS MATERIALIZED (SELECT day, {value} AS value, logins FROM {_COUNTS}"
        "  WHERE dimension = :dimension),"
        " frequent AS (SELECT value FROM found GROUP BY value HAVING sum(logins) >= :at_least"
        "  ORDER BY sum(logins) DESC, value LIMIT :most)"
        f" SELECT CASE WHEN {_IS_DATED} THEN CAST(date_trunc(:unit, CAST(day AS timestamp)) AS date) END AS start,"
        " CASE WHEN value IN (SELECT value FROM frequent) THEN value END AS value,"
        " CAST(sum(logins) AS bigint) AS logins"
        " FROM found GROUP BY 1, 2 HAVING sum(logins) > 0 ORDER BY 1, 2"
    )
    values = {"dimension": dimension, "unit": unit, "most": most, "at_least": at_least, "divisor": divisor}
    if dimension is not Dimension.APP_VERSION:
        del values["divisor"]
    return [tuple(row) for row in connection.execute(named("read_activity_counts", statement), values)]


def read_rejections(connection: Connection) -> dict[str, int]:
    """Returns how many messages are rejected for each reason, the most frequent first."""
    return {row.value: row.logins for row in connection.execute(_READ_REJECTIONS)}
