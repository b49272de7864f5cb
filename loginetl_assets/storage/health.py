"""What the health report reads: ages, recent rejections, sizes; by index or from the planner, never a scan."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Connection, func, select

from loginetl_assets.storage.batches import PENDING
from loginetl_assets.storage.statements import named
from loginetl_assets.storage.tables import batches, installation

# Exact counts of these tables would cost what the tables hold.
_TABLES = ("loginetl.pii_vault", "loginetl.processed_messages", "loginetl.rejected_logins")


@dataclass(frozen=True)
class Unfinished:
    """The batches that are not loaded."""

    oldest_sent_at: datetime | None  # when SQS took the oldest message that is not settled
    oldest_landed_at: datetime | None  # when the oldest batch landed that has pending messages
    mismatched_batches: int  # batches with more settled messages than messages; must be 0


@dataclass(frozen=True)
class TableSize:
    """A table with its indexes."""

    rows: int  # the planner's estimate
    bytes: int


def unfinished(connection: Connection) -> Unfinished:
    """Returns ages and mismatches of the batches that are not loaded."""
    landed_at = func.coalesce(batches.c.registered_again_at, batches.c.landed_at)
    statement = select(
        func.min(batches.c.oldest_sent_at).filter(PENDING > 0),
        func.min(landed_at).filter(PENDING > 0),
        func.count().filter(PENDING < 0),
    ).where(batches.c.state != "loaded")
    return Unfinished(*connection.execute(named("read_unfinished", statement)).one())


def read_and_rejected(connection: Connection, window: timedelta) -> tuple[int, int]:
    """Returns how many messages were read, and how many of them rejected, in the batches masked within a time."""
    counts = (func.coalesce(func.sum(column), 0) for column in (batches.c.messages, batches.c.rejected))
    statement = select(*counts).where(batches.c.masked_at > func.now() - window)
    messages, rejected = connection.execute(named("read_rejection_rate", statement)).one()
    return int(messages), int(rejected)


def installed_at(connection: Connection) -> datetime:
    """Returns when the schema was created."""
    found: datetime = connection.execute(named("read_installed_at", select(installation.c.installed_at))).scalar_one()
    return found


def table_sizes(connection: Connection) -> dict[str, TableSize]:
    """Returns the sizes of the tables that grow, by name."""
    rows = connection.execute(
        named(
            "read_table_sizes",
            "SELECT name, greatest(reltuples, 0)::bigint, pg_total_relation_size(oid)"
            " FROM unnest(CAST(:tables AS text[])) name JOIN pg_class ON oid = to_regclass(name)",
        ),
        {"tables": list(_TABLES)},
    )
    return {name: TableSize(rows=estimate, bytes=size) for name, estimate, size in rows}
