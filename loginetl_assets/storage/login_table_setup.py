"""Finds or creates the login table, adds what it lacks, and records it.

Whether all of it can be done is decided before anything is changed.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection

from loginetl_assets.errors import OperatorError
from loginetl_assets.logins.contract import ADOPTED_COLUMNS, COLUMN_NAMES, COLUMNS
from loginetl_assets.storage import activity
from loginetl_assets.storage.login_table_record import Relation, find_relation, relation_named, require_recorded
from loginetl_assets.storage.login_table_shape import INDEXES, missing_indexes, refuse_indexing, refuse_shape
from loginetl_assets.storage.statements import named
from loginetl_assets.storage.views import create_views, missing_views
from loginetl_assets.table_name import DEFAULT_TABLE, OUR_SCHEMA, TableName

_NEW_TABLE = ", ".join(f"{column.name} {column.sql_type}" for column in COLUMNS)
_LATER_COLUMNS = frozenset(COLUMN_NAMES).difference(ADOPTED_COLUMNS)

_IS_THERE = named("find_installation", "SELECT to_regclass('loginetl.installation') IS NOT NULL")
_READ_RECORD = named("read_login_table", "SELECT CAST(login_table AS oid) FROM loginetl.installation")
_RECORD = named(
    "record_login_table",
    "UPDATE loginetl.installation SET login_table = CAST(:name AS regclass), vault_days = :vault_days",
)
_QUALIFY = named("qualify_name", "SELECT format('%I.%I', CAST(:schema AS text), CAST(:name AS text))")
_LIST_COLUMNS = named(
    "list_columns", "SELECT attname FROM pg_attribute WHERE attrelid = CAST(:table AS regclass) AND NOT attisdropped"
)
_READ_SCHEMA = named(
    "read_schema",
    "SELECT has_schema_privilege(oid, 'CREATE') AS may_create, current_user AS role"
    " FROM pg_namespace WHERE nspname = :schema",
)
_FIRST_ON_SEARCH_PATH = (
    "c.oid = (SELECT c.oid FROM unnest(current_schemas(false)) WITH ORDINALITY path (schema, place)"
    " JOIN pg_namespace n ON n.nspname = path.schema JOIN pg_class c ON c.relnamespace = n.oid"
    " WHERE c.relname = :name AND c.relkind IN ('r', 'p', 'v', 'm', 'f') AND path.schema <> :ours"
    " ORDER BY place LIMIT 1)"
)


def check_table(connection: Connection, wanted: TableName) -> None:
    """Makes sure that the recorded table is the one of the settings, and that it can be loaded.

    Raises:
        OperatorError: it is another, it is gone, there is a second one, or its shape is wrong.
    """
    recorded = require_recorded(connection)
    _refuse_ours(connection, wanted)
    _refuse_another(recorded, wanted)
    refuse_shape(connection, recorded)


@dataclass(frozen=True)
class Setup:
    """What a migration has to do about the login table: find or create it, and build the indexes it lacks."""

    wanted: TableName
    missing: Sequence[str]

    @classmethod
    def plan(cls, connection: Connection, wanted: TableName | None) -> "Setup":
        """Checks everything as the role that is to migrate, and changes nothing.

        Raises:
            OperatorError: it is not certain which table it is, or it cannot be created, loaded or indexed.
        """
        name = wanted or DEFAULT_TABLE
        _refuse_ours(connection, name)
        found = relation_named(connection, name)
        if (recorded := _recorded_oid(connection)) is not None:
            if (current := find_relation(connection, "c.oid = :oid", oid=recorded)) is not None:
                _refuse_another(current, name)
            elif found is None:
                raise OperatorError(
                    f"{name} is gone, and with it the rows that schema loginetl counts as loaded: restore it from a"
                    " backup, or create it again, then run `loginetl migrate`"
                )
        elif wanted is None:
            _refuse_ambiguous(connection, found)
        if found is None:
            _refuse_schema(connection, name)
            return cls(name, tuple(INDEXES))
        can_add = found.is_owner and not found.is_partition
        refuse_shape(connection, found, to_be_added=_LATER_COLUMNS if can_add else ())
        if missing := missing_indexes(connection, found):
            refuse_indexing(connection, found, missing)
        return cls(name, missing)

    def build(self, connection: Connection) -> None:
        """Creates the table if it is not there, and the columns and indexes it lacks.

        In autocommit, since an index is built while others use the table. Interrupted, the next migration finishes it.
        """
        if relation_named(connection, self.wanted) is None:
            sql = connection.scalars(_QUALIFY, vars(self.wanted)).one()
            connection.execute(named("create_login_table", f"CREATE TABLE {sql} ({_NEW_TABLE})"))
        found = _require_table(connection, self.wanted)
        add_columns(connection, found.sql)
        for index in self.missing:
            _build_index(connection, found, index)

    def record(self, connection: Connection, vault_days: int | None) -> None:
        """Records what was decided, creates the views that are missing, and counts rows that were there before.

        In one transaction, so that they read it.
        """
        found = _require_table(connection, self.wanted)
        create_views(connection, found.sql, missing_views(connection))
        is_another = _recorded_oid(connection) != found.oid
        connection.execute(_RECORD, {"name": found.sql, "vault_days": vault_days})
        if is_another or activity.is_empty(connection):  # its rows were never counted, unless there are none
            activity.recount(connection)


def add_columns(connection: Connection, table: str) -> None:
    """Adds the contract's columns that a table lacks, null in its rows; its partitions and heirs get them with it."""
    there = set(connection.scalars(_LIST_COLUMNS, {"table": table}))
    for column in COLUMNS:
        if column.name not in there:
            added = f"ALTER TABLE {table} ADD COLUMN {column.name} {column.sql_type}"
            connection.execute(named("add_login_column", added))


def _require_table(connection: Connection, name: TableName) -> Relation:
    if (found := relation_named(connection, name)) is None:
        raise OperatorError(f"{name} was dropped meanwhile: run `loginetl migrate` again")
    return found


def _recorded_oid(connection: Connection) -> int | None:
    """The recorded table's, which may be gone; None where none is recorded."""
    return connection.scalars(_READ_RECORD).first() if connection.scalars(_IS_THERE).one() else None


def _refuse_ours(connection: Connection, name: TableName) -> None:
    """Refuses a second table in our own schema, where the usual search path puts one for a role called loginetl."""
    ours = relation_named(connection, TableName(OUR_SCHEMA, DEFAULT_TABLE.name))
    if ours is None or ours.kind not in {"r", "p"}:
        return
    if relation_named(connection, name) is None:
        move = [f"ALTER TABLE {ours.sql} SET SCHEMA {name.schema_sql}"]
        if name.name != ours.name:
            move.append(f"ALTER TABLE {name.schema_sql}.{ours.name} RENAME TO {name.name_sql}")
    else:
        # Those of before a field was added have none for it.
        there = set(connection.scalars(_LIST_COLUMNS, {"table": ours.sql}))
        columns = ", ".join(column for column in COLUMN_NAMES if column in there)
        copied = f"INSERT INTO {name} ({columns}) SELECT {columns} FROM {ours.sql}"
        move = ["BEGIN", copied, f"DROP TABLE {ours.sql} CASCADE", "COMMIT"]
    raise OperatorError(
        f"there are logins in {ours.sql}, where a search path had put them, and not in {name}: move them"
        f" (`{'; '.join(move)}`), then run `loginetl migrate`"
    )


def _refuse_another(recorded: Relation, wanted: TableName) -> None:
    if (name := TableName(recorded.schema, recorded.name)) != wanted:
        raise OperatorError(
            f"this database's login table is {recorded.sql}, and LOGINETL_TABLE says {wanted}: set"
            f" LOGINETL_TABLE={name}, or make it that table by ALTER TABLE {recorded.sql} RENAME or SET SCHEMA, once"
            " no other has that name"
        )


def _refuse_ambiguous(connection: Connection, found: Relation | None) -> None:
    """Refuses the default where this session finds another table by the bare name."""
    seen = find_relation(connection, _FIRST_ON_SEARCH_PATH, name=DEFAULT_TABLE.name, ours=OUR_SCHEMA)
    if seen is not None and seen != found:
        raise OperatorError(
            f"by its search_path this session takes {seen.sql} for {DEFAULT_TABLE.name}: set LOGINETL_TABLE to"
            f" {TableName(seen.schema, seen.name)} or to {DEFAULT_TABLE}, whichever holds the logins"
        )


def _refuse_schema(connection: Connection, name: TableName) -> None:
    """Refuses to create a table where the role cannot."""
    row = connection.execute(_READ_SCHEMA, {"schema": name.schema}).one_or_none()
    if row is None:
        raise OperatorError(
            f"there is no schema {name.schema_sql} for {name}: CREATE SCHEMA, or set LOGINETL_TABLE to one elsewhere"
        )
    if not row.may_create:
        raise OperatorError(
            f"{name} is not there, and role {row.role} may not create it: GRANT CREATE ON SCHEMA"
            f" {name.schema_sql} TO it, create the table as a role that may, or set LOGINETL_TABLE to one elsewhere"
        )


def _build_index(connection: Connection, table: Relation, name: str) -> None:
    # Postgres builds none concurrently on a partitioned table: its writers wait for as long as it takes.
    concurrently = "" if table.kind == "p" else "CONCURRENTLY"
    if (unfinished := relation_named(connection, TableName(table.schema, name))) is not None:
        connection.execute(named("drop_unfinished_index", f"DROP INDEX {concurrently} {unfinished.sql}"))
    columns = ", ".join(INDEXES[name])
    connection.execute(named("build_index", f"CREATE INDEX {concurrently} {name} ON {table.sql} ({columns})"))
