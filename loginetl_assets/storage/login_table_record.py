"""Which table the logins are in.

It belongs to its users, and may have been theirs for years. `loginetl migrate` finds it once, by the schema and name
of LOGINETL_TABLE, and records it in `loginetl.installation`. From then on every statement names the recorded table with
its schema, so that no session's search path decides what is loaded, read or erased. The record is a `regclass`: it
follows a table that is renamed or moved, and a dump writes it as a name.
"""

from dataclasses import dataclass

from sqlalchemy import Connection

from loginetl_assets.errors import OperatorError
from loginetl_assets.storage.statements import named
from loginetl_assets.table_name import TableName

_RELATION = (
    "SELECT c.oid, n.nspname AS schema, c.relname AS name, format('%I.%I', n.nspname, c.relname) AS sql,"
    " quote_ident(n.nspname) AS schema_sql, CAST(c.relkind AS text) AS kind, pg_get_userbyid(c.relowner) AS owner,"
    " pg_has_role(c.relowner, 'USAGE') AS is_owner, c.relispartition AS is_partition,"
    " (SELECT format('%I.%I', rn.nspname, r.relname) FROM pg_class r JOIN pg_namespace rn ON rn.oid = r.relnamespace"
    " WHERE r.oid = coalesce(CAST(pg_partition_root(c.oid) AS oid), c.oid)) AS root"
    " FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE "
)
# Partitions of partitions and heirs of heirs, and the table itself.
PARTS = (
    "WITH RECURSIVE part (oid) AS (SELECT CAST(CAST(:table AS regclass) AS oid)"
    " UNION SELECT inhrelid FROM pg_inherits JOIN part ON inhparent = part.oid)"
)


@dataclass(frozen=True)
class Relation:
    """A relation of the catalog; `sql` is its qualified name as statements have it, `schema_sql` its schema."""

    oid: int
    schema: str
    name: str
    sql: str
    schema_sql: str
    kind: str
    owner: str
    is_owner: bool  # whether this session's role may do what its owner may
    is_partition: bool
    root: str  # what can get a column, as statements have it: itself, or the table whose partition it is


def login_table(connection: Connection) -> str:
    """Returns the recorded table's qualified name for statements, or raises as `require_recorded`."""
    return require_recorded(connection).sql


def require_recorded(connection: Connection) -> Relation:
    """Returns the recorded table.

    Raises:
        OperatorError: none is recorded, or it is gone.
    """
    if (found := recorded_table(connection)) is None:
        raise OperatorError("no login table is recorded in schema loginetl: run `loginetl migrate`")
    return found


def recorded_table(connection: Connection) -> Relation | None:
    """Returns the recorded table, None where none is recorded or it is gone."""
    return find_relation(connection, "c.oid = (SELECT login_table FROM loginetl.installation)")


def relation_named(connection: Connection, name: TableName) -> Relation | None:
    """Returns the relation of a name; by the catalog, since to_regclass fails where the role may not use the schema."""
    return find_relation(connection, "n.nspname = :schema AND c.relname = :name", schema=name.schema, name=name.name)


def find_relation(connection: Connection, condition: str, **values: object) -> Relation | None:
    """Returns the one relation for which a condition on pg_class `c` and pg_namespace `n` holds."""
    row = connection.execute(named("find_relation", _RELATION + condition), values).one_or_none()
    return None if row is None else Relation(**row._mapping)
