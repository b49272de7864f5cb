"""Rows of the login table by person and by token, and which values of the vault no row needs.

The table may be its users' own, so the statements are text over its recorded name. They read and change what they see:
the caller's transaction has to see every row (`login_table.every_row`).
"""

import re
from collections.abc import Collection, Mapping, Sequence
from datetime import date
from typing import Any, NamedTuple

from sqlalchemy import Connection

from loginetl_assets.errors import OperatorError, counted
from loginetl_assets.logins.contract import COLUMN_NAMES, TOKEN_COLUMNS
from loginetl_assets.storage import activity
from loginetl_assets.storage.login_table_record import login_table
from loginetl_assets.storage.statements import named

_COLUMNS = tuple(TOKEN_COLUMNS.values())
_TOKENS = ", ".join(_COLUMNS)


class RowFilter(NamedTuple):
    """Rows of the login table, by a condition and the values bound in it."""

    condition: str
    values: Mapping[str, object]


def rows_of_user(user_id: str) -> RowFilter:
    """Returns the filter of a user's rows."""
    return RowFilter("user_id = :user_id", {"user_id": user_id})


def rows_with_tokens(tokens: Collection[str]) -> RowFilter:
    """Returns the filter of rows that have one of the tokens, in any column."""
    condition = " OR ".join(f"{column} = ANY(:tokens)" for column in _COLUMNS)
    return RowFilter(f"({condition})", {"tokens": sorted(tokens)})


def rows_until(which: RowFilter, day: date) -> RowFilter:
    """Returns the filter of those of some rows that are of a day or before, or have no date."""
    return RowFilter(f"({which.condition} AND (create_date <= :until) IS NOT FALSE)", {**which.values, "until": day})


def any_of(filters: Sequence[RowFilter]) -> RowFilter:
    """Returns the filter of the rows of all of them."""
    conditions, values = [], {}
    for number, one in enumerate(filters):
        conditions.append(re.sub(r"(?<!:):(\w+)", rf":\1_{number}", one.condition))
        values.update({f"{name}_{number}": value for name, value in one.values.items()})
    return RowFilter(f"({' OR '.join(conditions) or 'false'})", values)


NO_ROWS = RowFilter("false", {})
# For which the vault keeps no value any more; none where LOGINETL_VAULT_DAYS is not recorded.
EXPIRED_ROWS = RowFilter(
    "create_date < CAST(now() AT TIME ZONE 'UTC' AS date) - (SELECT vault_days FROM loginetl.installation)", {}
)


def _in_no_row(table: str, token: str, condition: str = "true") -> str:
    return " AND ".join(f"NOT EXISTS (SELECT FROM {table} WHERE {one} = {token} AND {condition})" for one in _COLUMNS)


def tokens_of_user(connection: Connection, user_id: str) -> list[str]:
    """Returns the distinct tokens of a user's rows, by index."""
    table = login_table(connection)
    tokens = " UNION ".join(
        f"SELECT {column} FROM {table} WHERE user_id = :user_id AND {column} IS NOT NULL" for column in _COLUMNS
    )
    return list(connection.scalars(named("tokens_of_user", tokens), {"user_id": user_id}))


def tokens_in_rows(connection: Connection, tokens: Collection[str]) -> set[str]:
    """Returns which of the tokens a row has, by index."""
    statement = (
        "SELECT token FROM unnest(CAST(:tokens AS text[])) token"
        f" WHERE NOT ({_in_no_row(login_table(connection), 'token')})"
    )
    return set(connection.scalars(named("tokens_in_rows", statement), {"tokens": list(tokens)}))


def read_rows(connection: Connection, which: RowFilter, *, limit: int | None = None) -> list[dict[str, Any]]:
    """Returns rows in the order of their days, a value for each column of the contract."""
    rows = (
        f"SELECT {', '.join(COLUMN_NAMES)} FROM {login_table(connection)} WHERE {which.condition}"
        " ORDER BY create_date, app_version LIMIT :limit"
    )
    found = connection.execute(named("read_rows", rows), {**which.values, "limit": limit})
    return [dict(row) for row in found.mappings()]


def count_rows(connection: Connection, which: RowFilter) -> tuple[int, set[str]]:
    """Returns how many rows there are, and their tokens."""
    rows = f"SELECT {_TOKENS} FROM {login_table(connection)} WHERE {which.condition}"
    return _found(connection, "count_matching_rows", rows, which)


def delete_rows(connection: Connection, which: RowFilter) -> tuple[int, set[str]]:
    """Deletes rows; returns how many, and their tokens.

    Raises:
        OperatorError: a trigger of the table skips rows.
    """
    table = login_table(connection)
    rows = f"FROM {table} WHERE {which.condition}"
    matching, _ = _found(connection, "lock_rows", f"SELECT {_TOKENS} {rows} FOR UPDATE", which)
    delete = (
        f"WITH deleted AS (DELETE {rows} RETURNING {_TOKENS}, {activity.COUNTED_COLUMNS}),"
        f" counted AS ({activity.change_of('deleted', '-')}) SELECT {_TOKENS} FROM deleted"
    )
    deleted, tokens = _found(connection, "delete_rows", delete, which)
    if deleted < matching:  # they were locked: nobody else has removed them
        raise OperatorError(
            f"not deleted from {table}: {counted(matching - deleted, 'row')}, which a trigger of it skips: disable it,"
            " then erase again; rows and vault are as they were"
        )
    activity.fold(connection)
    return deleted, tokens


def _found(connection: Connection, name: str, statement: str, which: RowFilter) -> tuple[int, set[str]]:
    rows = connection.execute(named(name, statement), which.values).all()
    return len(rows), {token for row in rows for token in row if token}


_OF_PAGES = "ctid >= CAST(:first AS tid) AND ctid < CAST(:beyond AS tid)"


def _pages(first: int, beyond: int) -> dict[str, str]:
    return {"first": f"({first},0)", "beyond": f"({beyond},0)"}


def retokenize_pages(connection: Connection, prefix: str, first: int, beyond: int) -> int:
    """Replaces old tokens by new ones, which start with `prefix`; returns how many rows changed.

    In the pages from `first` to the one before `beyond`, of all partitions at once.
    """
    new = {name: f"(SELECT new_token FROM loginetl.token_map WHERE old_token = u.{name})" for name in _COLUMNS}
    statement = (
        f"UPDATE {login_table(connection)} u"
        f" SET {', '.join(f'{name} = coalesce({token}, {name})' for name, token in new.items())}"
        f" WHERE {_OF_PAGES}"
        # What is under the new key already (moved rows stand on new pages) needs no look-up.
        f" AND ({' OR '.join(f'NOT starts_with({name}, :prefix)' for name in new)})"
        f" AND ({' OR '.join(f'EXISTS {token}' for token in new.values())})"
    )
    return connection.execute(
        named("retokenize_pages", statement), {"prefix": prefix, **_pages(first, beyond)}
    ).rowcount


def count_rows_under(connection: Connection, key_ids: Collection[int], first: int, beyond: int) -> int:
    """Returns how many rows have a token under one of the masking keys, in pages as for `retokenize_pages`."""
    under = " OR ".join(f"split_part({column}, '.', 1) = ANY(:key_ids)" for column in _COLUMNS)
    statement = f"SELECT count(*) FROM {login_table(connection)} WHERE {_OF_PAGES} AND ({under})"
    values = {"key_ids": list(map(str, key_ids)), **_pages(first, beyond)}
    return int(connection.scalars(named("count_rows_under_keys", statement), values).one())


def tokens_without_value(connection: Connection, prefix: str, first: int, beyond: int) -> list[tuple[str, str]]:
    """Returns fields and old tokens of rows whose value has left the vault unmoved, in pages as above."""
    table = login_table(connection)
    statement = " UNION ".join(
        f"SELECT '{field}', {column} FROM {table} WHERE {_OF_PAGES} AND NOT starts_with({column}, :prefix)"
        f" AND split_part({column}, '.', 1) IN (SELECT CAST(key_id AS text) FROM loginetl.keys WHERE role = 'masking')"
        f" AND NOT EXISTS (SELECT FROM loginetl.token_map WHERE old_token = {column})"
        f" AND NOT EXISTS (SELECT FROM loginetl.pii_vault WHERE token = {column})"
        for field, column in TOKEN_COLUMNS.items()
    )
    values = {"prefix": prefix, **_pages(first, beyond)}
    return list(connection.execute(named("tokens_without_value", statement), values).tuples())


def unneeded_tokens(
    connection: Connection, tokens: Collection[str], pairs: Sequence[tuple[str, str]], passed_over: RowFilter = NO_ROWS
) -> set[str]:
    """Returns which of tokens that nothing else needs are neither in a row nor pair with one that is; by index.

    Rows that are `passed_over` need no token. A token of `pairs`, those of `token_pairs`, that is not among the tokens
    is needed.
    """
    # Not NOT: a row of an older table whose user_id is null is someone else's too.
    in_no_other = _in_no_row(login_table(connection), "token", f"({passed_over.condition}) IS NOT TRUE")
    statement = f"SELECT token FROM unnest(CAST(:candidates AS text[])) token WHERE {in_no_other}"
    values = {"candidates": sorted(tokens), **passed_over.values}
    unneeded = set(connection.scalars(named("tokens_without_other_rows", statement), values))
    for pair in (*pairs, *pairs):  # twice, since a new token may have several old ones
        if not unneeded.issuperset(pair):
            unneeded.difference_update(pair)
    return unneeded


def tokens_without_rows(connection: Connection, *, after: str, limit: int) -> tuple[str | None, set[str]]:
    """Looks for the vault's next tokens, after one, in the table, by index.

    Returns the last token that was looked for, None where there were no more; and those that no row has but
    `EXPIRED_ROWS`.
    """
    table = login_table(connection)
    is_there = " ".join(
        f"WHEN '{field}' THEN EXISTS (SELECT FROM {table} WHERE {column} = token"
        f" AND ({EXPIRED_ROWS.condition}) IS NOT TRUE)"
        for field, column in TOKEN_COLUMNS.items()
    )
    statement = (
        "SELECT max(token) AS last, coalesce(array_agg(token) FILTER (WHERE NOT is_there), '{}') AS unused FROM ("
        f"  SELECT token, CASE field {is_there} END AS is_there"
        "  FROM (SELECT token, field FROM loginetl.pii_vault WHERE token > :after ORDER BY token LIMIT :limit)"
        "    page) looked_for"
    )
    row = connection.execute(named("tokens_without_rows", statement), {"after": after, "limit": limit}).one()
    return row.last, set(row.unused)


_MOVED = (
    "FROM loginetl.pii_vault v WHERE NOT starts_with(token, :prefix) AND token > :after"
    " AND EXISTS (SELECT FROM loginetl.token_map WHERE old_token = v.token)"
)


def count_moved_entries(connection: Connection, prefix: str) -> int:
    """Returns how many vault entries there are whose value was moved to the new masking key."""
    statement = named("count_moved_entries", f"SELECT count(*) {_MOVED}")
    return int(connection.scalars(statement, {"prefix": prefix, "after": ""}).one())


def remove_moved_entries(connection: Connection, prefix: str, *, after: str, limit: int) -> tuple[str | None, int, int]:
    """Removes the next vault entries, after a token, that were moved and whose old token no row has any more.

    Requires the exclusive lock. Returns the last entry's token (None where there were no more), how many there were and
    how many were removed.
    """
    statement = (
        f"WITH chunk AS (SELECT token {_MOVED} ORDER BY token LIMIT :limit),"
        " gone AS (DELETE FROM loginetl.pii_vault v USING chunk WHERE v.token = chunk.token"
        f" AND {_in_no_row(login_table(connection), 'v.token')} RETURNING v.token)"
        " SELECT max(token), count(*), (SELECT count(*) FROM gone) FROM chunk"
    )
    values = {"prefix": prefix, "after": after, "limit": limit}
    last, entries, removed = connection.execute(named("remove_moved_entries", statement), values).one()
    return last, entries, removed
