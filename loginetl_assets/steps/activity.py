"""Reads the report's numbers, each at the cost of what is new or of a bounded part: never a scan of the login table."""

from collections.abc import Callable
from datetime import UTC, date, datetime
from typing import Any

from sqlalchemy import Connection

from loginetl_assets.aws.sqs import LoginQueue
from loginetl_assets.errors import OperatorError, TransientError
from loginetl_assets.logins.contract import TOKEN_COLUMNS
from loginetl_assets.report.activity import (
    MAX_VALUES,
    MIN_LOGINS,
    NOTHING,
    Activity,
    Breakdown,
    Flow,
    Loads,
    Period,
    SharedTokens,
    unit_for,
)
from loginetl_assets.report.numbers import rounded
from loginetl_assets.storage import activity, batches, report
from loginetl_assets.storage.database import LoginDatabase
from loginetl_assets.storage.login_table_record import require_recorded
from loginetl_assets.storage.tables import Dimension

_MAX_LOCALES = 12
# Of how many parts a version is shown, and by what its integer is divided for it.
_DIVISORS = ((3, 1), (2, 1_000), (1, 1_000_000))
_ENOUGH = 0.8  # of the logins, which the named versions should have


def fold_activity(database: LoginDatabase) -> None:
    """Adds what loads and erasures changed to the counts."""
    with database.transaction() as connection:
        activity.fold(connection)


def recount_activity(database: LoginDatabase) -> None:
    """Counts all rows of the login table again."""
    with database.transaction() as connection:
        activity.recount(connection)


def queued_messages(open_queue: Callable[[], LoginQueue | None]) -> int | None:
    """Returns how many messages are on the queue, by SQS's approximate count; None where it does not answer."""
    try:
        queue = open_queue()
        depth = queue and queue.depth()
    except (OperatorError, TransientError):  # the report is of the table: a queue that is gone does not keep it
        return None
    return depth.queued + depth.in_flight + depth.delayed if depth else None


def read_activity(database: LoginDatabase, queued: int | None, *, major_only: bool) -> Activity:
    """Reads the whole report in one snapshot.

    Args:
        database: any role that may read what the report needs: the analyst's, or the loader's.
        queued: what `queued_messages` returned.
        major_only: whether versions are stored as major versions alone.
    """
    with database.snapshot() as connection:
        days = activity.read_days(connection)
        period = None
        if days.first is not None and days.last is not None:
            period = Period(days.first, days.last, unit_for(days.first, days.last))
        steps, loads = report.read_loads(connection)
        shared = {field: _shared(connection, column) for field, column in TOKEN_COLUMNS.items()}
        recorded, places = require_recorded(connection), batches.places(connection)
        return Activity(
            made_at=datetime.now(UTC),
            table=f"{recorded.schema}.{recorded.name}",
            logins=days.logins,
            logins_on_last_day=days.last_day or 0,
            undated=days.undated,
            period=period,
            device_types=_breakdown(connection, Dimension.DEVICE_TYPE, period),
            versions=_versions(connection, period, major_only=major_only),
            locales=_breakdown(connection, Dimension.LOCALE, period, most=_MAX_LOCALES),
            devices=shared["device_id"],
            addresses=shared["ip"],
            rejections=activity.read_rejections(connection),
            flow=Flow(queued, places.pop("messages"), places),
            loads=[Loads(*one) for one in loads],
            loads_step=steps,
        )


def _shared(connection: Connection, column: str) -> SharedTokens:
    tokens, by_users, one_in = report.read_shared(connection, column)
    if one_in > 1:
        tokens, by_users = rounded(tokens), {users: rounded(count) for users, count in by_users.items()}
    return SharedTokens(tokens, by_users, one_in)


def _breakdown(
    connection: Connection, dimension: Dimension, period: Period | None, *, most: int = MAX_VALUES, divisor: int = 1
) -> Breakdown:
    """Reads the counts of a dimension, the value with the most logins first, all others last."""
    if period is None:
        return NOTHING
    counts = activity.read_counts(
        connection, dimension, unit=period.unit, most=most, at_least=MIN_LOGINS, divisor=divisor
    )
    by_value: dict[str | None, dict[date | None, int]] = {}
    for start, value, logins in counts:
        by_value.setdefault(value, {})[start] = logins
    totals = {value: sum(found.values()) for value, found in by_value.items()}
    names = sorted(totals, key=lambda value: (value is None, -totals[value], value or ""))
    return Breakdown(
        names,
        [[by_value[name].get(start, 0) for start in period.starts] for name in names],
        [totals[name] for name in names],
    )


def _versions(connection: Connection, period: Period | None, *, major_only: bool) -> Breakdown:
    """Reads versions, oldest first: whole ones, if a few have nearly all logins; else by minor or major version."""
    if major_only:
        return _in_order(_breakdown(connection, Dimension.APP_VERSION, period), 1)
    found = {parts: _breakdown(connection, Dimension.APP_VERSION, period, divisor=by) for parts, by in _DIVISORS}
    return next(
        (_in_order(versions, parts) for parts, versions in found.items() if _named_share(versions) >= _ENOUGH),
        _in_order(found[1], 1),
    )


def _named_share(found: Breakdown) -> float:
    named = sum(total for name, total in zip(found.names, found.totals, strict=True) if name is not None)
    return named / max(1, sum(found.totals))


def _in_order(versions: Breakdown, parts: int) -> Breakdown:
    """Sorts by version, the others last, and writes versions of so many parts as people do."""

    def place(at: int) -> tuple[bool, int]:
        name = versions.names[at]
        return name is None, int(name or -1)

    order = sorted(range(len(versions.names)), key=place)
    return Breakdown(
        [_version_text(versions.names[at], parts) for at in order],
        [versions.counts[at] for at in order],
        [versions.totals[at] for at in order],
    )


def _version_text(name: str | None, parts: int) -> str | None:
    if not name:
        return name
    numbers, left = [], int(name)
    for _ in range(parts - 1):
        left, part = divmod(left, 1_000)
        numbers.append(str(part))
    return ".".join([str(left), *reversed(numbers)]) + ".x" * (parts < 3)


def as_metadata(read: Activity) -> dict[str, Any]:
    """Returns the numbers that the Dagster UI shows and plots: counts, and no value of a message."""
    flow = read.flow
    return {
        "logins": read.logins,
        "logins_on_last_day": read.logins_on_last_day,
        "shared_devices": read.devices.shared,
        "shared_ips": read.addresses.shared,
        "messages": flow.messages,
        **flow.parts,
        "adds_up": flow.adds_up,
        **({"typical_seconds": round(read.loads[-1].typical_seconds, 1)} if read.loads else {}),
    }
