"""The analysts' views of the login table. Their columns are the contract's: those of later fields are the last ones."""

from collections.abc import Iterable

from sqlalchemy import Connection

from loginetl_assets.logins.contract import ADOPTED_COLUMNS, COLUMN_NAMES, COLUMNS, FIELDS, TOKEN_COLUMNS, Kind
from loginetl_assets.storage.statements import named

_VERSIONS = {field.column.name for field in FIELDS if field.kind is Kind.VERSION}


def _select_logins() -> str:
    selected = []
    for column in COLUMNS:
        name = column.name
        selected.append(f"coalesce(by_{name}.new_token, u.{name}) AS {name}" if column.masked else f"u.{name}")
        if name in _VERSIONS:
            selected.append(f"loginetl.version_text(u.{name}) AS {name}_text")
    joins = (f" LEFT JOIN loginetl.token_map by_{name} ON by_{name}.old_token = u.{name}" for name in _TOKENS)
    return f"SELECT {', '.join(selected)} FROM {{table}} u{''.join(joins)}"


def _select_duplicate_rows() -> str:
    names = [f"{name}_text" if name in _VERSIONS else name for name in COLUMN_NAMES]
    first, later = names[: len(ADOPTED_COLUMNS)], names[len(ADOPTED_COLUMNS) :]
    selected = ", ".join((*first, "count(*) AS times", *later))
    return f"SELECT {selected} FROM loginetl.logins GROUP BY {', '.join(names)} HAVING count(*) > 1"


def _select_shared(column: str) -> str:
    return (
        f"SELECT {column}, count(DISTINCT user_id) AS users, count(*) AS logins,"
        " min(create_date) AS first_seen, max(create_date) AS last_seen"
        f" FROM loginetl.logins GROUP BY {column} HAVING count(DISTINCT user_id) > 1"
    )


_TOKENS = TOKEN_COLUMNS.values()
VIEWS = {
    "logins": (
        _select_logins(),
        "The login table with readable versions and, while keys rotate, with every value under one token.",
    ),
    "shared_devices": (_select_shared("masked_device_id"), "Devices that more than one user has logged in from."),
    "shared_ips": (_select_shared("masked_ip"), "IP addresses that more than one user has logged in from."),
    "duplicate_rows": (
        _select_duplicate_rows(),
        "Logins that were sent more than once on one day, as exact duplicates.",
    ),
    "daily_activity": (
        "SELECT create_date, count(*) AS logins, count(DISTINCT user_id) AS users,"
        " count(DISTINCT masked_device_id) AS devices, count(DISTINCT masked_ip) AS ips"
        " FROM loginetl.logins GROUP BY create_date",
        "Logins, users, devices and addresses a day.",
    ),
}


def missing_views(connection: Connection) -> list[str]:
    """Returns which views are not there."""
    listed = named("list_views", "SELECT viewname FROM pg_views WHERE schemaname = 'loginetl'")
    there = set(connection.scalars(listed))
    return [view for view in VIEWS if view not in there]


def create_views(connection: Connection, table: str, views: Iterable[str] = VIEWS) -> None:
    """Creates views of a table, named as statements have it, or replaces them: grants, and what is built on them, stay.

    Of all of them, in the order of `VIEWS`, each finds those it reads. The connection is their owner's.
    """
    for view in views:
        query, comment = VIEWS[view]
        # With the rights of who asks, else the policies of a table with row-level security would not hold.
        view_of = f"CREATE OR REPLACE VIEW loginetl.{view} WITH (security_invoker = true)"
        connection.execute(named("create_view", f"{view_of} AS {query.format(table=table)}"))
        connection.execute(named("comment_view", f"COMMENT ON VIEW loginetl.{view} IS '{comment}'"))
