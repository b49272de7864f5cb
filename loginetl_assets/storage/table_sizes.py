"""How large tables are: from the planner, or by counting what is small."""

from dataclasses import dataclass

from sqlalchemy import Connection

from loginetl_assets.storage.login_table_record import PARTS, login_table
from loginetl_assets.storage.statements import named

_ESTIMATE_ROWS = named(  # of a table in partitions each has an estimate of its own
    "estimate_rows",
    f"{PARTS} SELECT coalesce(sum(greatest(reltuples, 0)) FILTER (WHERE relkind <> 'p'), 0)::bigint"
    " FROM part JOIN pg_class USING (oid)",
)
_COUNT_PAGES = named(
    "count_pages",
    f"{PARTS} SELECT max(pg_relation_size(oid)) / current_setting('block_size')::int, count(*)"
    " FROM part JOIN pg_class USING (oid) WHERE relkind <> 'p'",
)
_READ_BYTES = named("read_table_bytes", "SELECT pg_total_relation_size(to_regclass(:table))")
_GROWING = ["loginetl.pii_vault", "loginetl.processed_messages", "loginetl.rejected_logins"]


@dataclass(frozen=True)
class TableSize:
    """A table with its indexes."""

    rows: int  # see `table_rows`
    bytes: int


def table_sizes(connection: Connection) -> dict[str, TableSize]:
    """Returns the sizes of the ledger's tables that grow, by name."""
    return {
        name: TableSize(table_rows(connection, name), connection.scalars(_READ_BYTES, {"table": name}).one())
        for name in _GROWING
    }


def table_rows(connection: Connection, table: str) -> int:
    """Returns the rows of a table: exact below 100 000, above that the planner's estimate, which costs nothing."""
    estimate = int(connection.scalars(_ESTIMATE_ROWS, {"table": table}).one())
    if estimate >= 100_000:
        return estimate
    return int(connection.scalars(named("count_rows", f"SELECT count(*) FROM {table}")).one())


def table_pages(connection: Connection) -> tuple[int, int]:
    """Returns the pages of the login table, or of its longest partition; and how many partitions it has, 1 if none."""
    pages, partitions = connection.execute(_COUNT_PAGES, {"table": login_table(connection)}).one()
    return pages or 0, max(partitions, 1)
