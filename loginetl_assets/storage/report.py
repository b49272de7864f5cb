"""What else the report reads: how fast messages were loaded, and how many tokens are shared.

Both cost little however large the login table is: loads are those of a week, and of many tokens a sample is counted.
"""

from datetime import datetime, timedelta
from typing import NamedTuple

from sqlalchemy import Connection, Interval, func, literal, select

from loginetl_assets.settings import KeysetRole
from loginetl_assets.storage.login_table_record import login_table
from loginetl_assets.storage.statements import named
from loginetl_assets.storage.table_sizes import table_rows
from loginetl_assets.storage.tables import batches, keys

WEEK = timedelta(days=7)
_STEPS = tuple(timedelta(minutes=minutes) for minutes in (1, 5, 15, 60, 180))
_MAX_STEPS = 60

_SAMPLED_ROWS = 100_000  # about, of a table that has more
_LETTERS = 64  # of base64url, which the letters of a token are one of
_USERS = {"2": "users = 2", "3": "users = 3", "4 to 9": "users BETWEEN 4 AND 9", "10 or more": "users >= 10"}


class Loads(NamedTuple):
    """What was loaded within a step of time; seconds from the arrival of a batch's oldest message to its load."""

    start: datetime
    messages: int
    typical_seconds: float  # the median
    slow_seconds: float  # the 95th percentile


def read_loads(connection: Connection) -> tuple[timedelta, list[Loads]]:
    """Returns the loads of the last week that had any, by index, and into which steps they are divided."""
    loaded_at, newest = batches.c.loaded_at, select(func.max(batches.c.loaded_at)).scalar_subquery()
    recent = loaded_at > newest - literal(WEEK, Interval)
    ends = select(func.min(loaded_at), func.max(loaded_at)).where(recent)
    first, last = connection.execute(named("read_span_of_loads", ends)).one()
    if first is None:
        return _STEPS[0], []
    step = next((one for one in _STEPS if (last - first) / one < _MAX_STEPS), _STEPS[-1])
    start = func.date_bin(literal(step, Interval), loaded_at, func.to_timestamp(0))
    seconds = func.greatest(0, func.extract("epoch", loaded_at - batches.c.oldest_sent_at))
    statement = (
        select(
            start.label("start"),
            func.sum(batches.c.messages),
            *(func.percentile_cont(share).within_group(seconds) for share in (0.5, 0.95)),
        )
        .where(recent)
        .group_by("start")
        .order_by("start")
    )
    rows = connection.execute(named("read_loads", statement))
    return step, [Loads(at, int(messages), float(typical), float(slow)) for at, messages, typical, slow in rows]


class TokenCounts(NamedTuple):
    """How many tokens there are, and how many have 2, 3, … users; all times `one_in`, if not each was counted."""

    tokens: int
    by_users: dict[str, int]
    one_in: int


def read_shared(connection: Connection, column: str) -> TokenCounts:
    """Returns how many tokens of a column are shared.

    Tokens are keyed hashes, so those that begin alike are a fair sample of all. In a large table only these are looked
    up, by index; the sample is such that it has some ten thousand rows.
    """
    table = login_table(connection)
    letters, rows = 0, table_rows(connection, table)
    while rows > _SAMPLED_ROWS * _LETTERS**letters:
        letters += 1
    condition, values = f"{column} IS NOT NULL", dict[str, str]()
    if letters:
        ids = select(keys.c.key_id).where(keys.c.role == KeysetRole.MASKING)
        ranges = []
        for at, key_id in enumerate(connection.execute(named("list_masking_keys", ids)).scalars()):
            values |= {f"from_{at}": f"{key_id}.{'A' * letters}", f"to_{at}": f"{key_id}.{'A' * (letters - 1)}B"}
            # A range, which an index of any collation finds, and of it what really begins so.
            ranges.append(f"{column} >= :from_{at} AND {column} < :to_{at} AND starts_with({column}, :from_{at})")
        condition = " OR ".join(ranges) or "false"
    counted = ", ".join(f"count(*) FILTER (WHERE {users})" for users in _USERS.values())
    statement = (
        f"SELECT count(*), {counted} FROM (SELECT count(DISTINCT user_id) AS users FROM {table}"
        f" LEFT JOIN loginetl.token_map ON old_token = {column} WHERE {condition}"
        f" GROUP BY coalesce(new_token, {column})) by_token"
    )
    one_in = _LETTERS**letters
    tokens, *shared = (
        count * one_in for count in connection.execute(named("read_shared_tokens", statement), values).one()
    )
    return TokenCounts(tokens, dict(zip(_USERS, shared, strict=True)), one_in)
