"""Whether a table can be loaded, as its users have it: columns, storage, rules and indexes. Changes nothing."""

from collections.abc import Collection, Sequence

from sqlalchemy import Connection

from loginetl_assets.errors import OperatorError
from loginetl_assets.logins.contract import COLUMNS, TOKEN_COLUMNS
from loginetl_assets.storage.login_table_record import PARTS, Relation, relation_named
from loginetl_assets.storage.statements import named
from loginetl_assets.table_name import TableName

# What checks and erasure look up costs what it finds, not what the table holds.
INDEXES = {
    "user_logins_by_user": ("user_id",),
    **{f"user_logins_by_{field.removesuffix('_id')}": (column, "user_id") for field, column in TOKEN_COLUMNS.items()},
}
_KINDS = {"v": "a view", "m": "a materialized view", "f": "a foreign table", "i": "an index", "I": "an index",
          "S": "a sequence", "c": "a type"}  # fmt: skip

_READ_COLUMNS = named(
    "read_columns",
    "SELECT attname AS name, regexp_replace(format_type(atttypid, atttypmod), '\\(.*', '') AS type,"
    " attgenerated <> '' OR attidentity = 'a' AS is_generated,"
    " attnotnull AND NOT atthasdef AND attidentity = '' AS needs_value"
    " FROM pg_attribute WHERE attrelid = :oid AND attnum > 0 AND NOT attisdropped ORDER BY attnum",
)
_LIST_RULES = named(
    "list_rules",
    "SELECT rulename FROM pg_rewrite WHERE ev_class = :oid AND ev_type IN ('2', '3', '4')"
    " AND ev_enabled <> 'D' ORDER BY 1",
)
_LIST_UNSAFE_PARTS = named(
    "list_unsafe_parts",
    f"{PARTS} SELECT format('%I.%I', nspname, relname) AS name, relkind = 'f' AS is_foreign"
    " FROM part JOIN pg_class c USING (oid) JOIN pg_namespace n ON n.oid = relnamespace"
    " WHERE relpersistence = 'u' OR relkind = 'f' ORDER BY 1",
)
_LIST_INDEXES = named(
    "list_indexes",
    "SELECT ARRAY(SELECT CAST(a.attname AS text) FROM unnest(CAST(i.indkey AS int2[])) WITH ORDINALITY"
    " k (attnum, place) JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum"
    " WHERE place <= i.indnkeyatts ORDER BY place) AS columns"
    " FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_am m ON m.oid = c.relam"
    " WHERE i.indrelid = :oid AND i.indisvalid AND m.amname = 'btree' AND i.indpred IS NULL"
    " AND i.indexprs IS NULL",
)
_IS_UNFINISHED = named(
    "is_index_unfinished",
    "SELECT EXISTS (SELECT FROM pg_index WHERE indexrelid = :index AND indrelid = :table AND NOT indisvalid)",
)
_MAY_CREATE = named("may_create", "SELECT has_schema_privilege(:schema, 'CREATE'), current_user")


def refuse_shape(connection: Connection, table: Relation, *, to_be_added: Collection[str] = ()) -> None:
    """Refuses a table whose rows could be lost or changed silently, or that has no place for ours."""
    if table.kind in _KINDS:
        raise OperatorError(
            f"{table.sql} is {_KINDS[table.kind]}: rename it, or set LOGINETL_TABLE to a table that can be loaded"
        )
    rules = connection.scalars(_LIST_RULES, {"oid": table.oid})
    problems = [
        *_column_problems(connection, table, to_be_added),
        *_storage_problems(connection, table),
        *(
            f"rule {rule} rewrites what is loaded or erased: `DROP RULE {rule} ON {table.sql}`, a trigger does the same"
            for rule in rules
        ),
    ]
    if problems:
        raise OperatorError(
            f"{table.sql} cannot be loaded: {'; '.join(problems)}. Or, before a first `loginetl migrate`, set"
            " LOGINETL_TABLE to another table"
        )


def _column_problems(connection: Connection, table: Relation, to_be_added: Collection[str]) -> list[str]:
    columns = {row.name: row for row in connection.execute(_READ_COLUMNS, {"oid": table.oid})}
    problems = []
    for wanted in COLUMNS:
        if (column := columns.pop(wanted.name, None)) is None:
            if wanted.name not in to_be_added:
                added = f"ALTER TABLE {table.root} ADD COLUMN {wanted.name} {wanted.sql_type}"
                problems.append(f"it has no column {wanted.name}: run `{added}`")
        elif column.type != wanted.base_type:
            changed = f"ALTER TABLE {table.root} ALTER COLUMN {wanted.name} TYPE {wanted.sql_type}"
            problems.append(f"its column {wanted.name} is {column.type} and not {wanted.base_type}: run `{changed}`")
        elif column.is_generated:
            changed = f"ALTER TABLE {table.root} ALTER COLUMN {wanted.name} DROP EXPRESSION (or DROP IDENTITY)"
            problems.append(f"its column {wanted.name} is generated and takes no value of ours: run `{changed}`")
    problems += [
        f"its column {name} must have a value, and we have none: give it a default, by `ALTER TABLE {table.root} ALTER"
        f" COLUMN {name} SET DEFAULT …`, or DROP NOT NULL"
        for name, column in columns.items()
        if column.needs_value
    ]
    return problems


def _storage_problems(connection: Connection, table: Relation) -> list[str]:
    return [
        f"{part.name} is on another server, outside our transactions: detach it"
        if part.is_foreign
        else f"{part.name} is unlogged, and empty after a crash: ALTER TABLE {part.name} SET LOGGED"
        for part in connection.execute(_LIST_UNSAFE_PARTS, {"table": table.sql})
    ]


def missing_indexes(connection: Connection, table: Relation) -> list[str]:
    """Returns which of our indexes are neither there nor replaced by a complete one of the users' own."""
    complete = [tuple(columns) for columns in connection.scalars(_LIST_INDEXES, {"oid": table.oid})]
    return [name for name, columns in INDEXES.items() if not any(one[: len(columns)] == columns for one in complete)]


def refuse_indexing(connection: Connection, table: Relation, missing: Sequence[str]) -> None:
    """Refuses a table that the role cannot index, with the statements that the table's owner can run instead."""
    wanted = "; ".join(f"CREATE INDEX {name} ON {table.sql} ({', '.join(INDEXES[name])})" for name in missing)
    may_create, role = connection.execute(_MAY_CREATE, {"schema": table.schema}).one()
    if not (table.is_owner and may_create):
        raise OperatorError(
            f"{table.sql} belongs to {table.owner}, and role {role} may not index it: run `loginetl migrate` as"
            f" its owner, with the right to create in its schema, or let the owner run `{wanted}` first"
        )
    for name in missing:
        taken = relation_named(connection, TableName(table.schema, name))
        # One whose building was interrupted is dropped: no query uses it, and IF NOT EXISTS finds it.
        if taken and not connection.scalars(_IS_UNFINISHED, {"index": taken.oid, "table": table.oid}).one():
            raise OperatorError(
                f"{taken.sql} exists, and is not the index of {table.sql} that loginetl needs: rename it, or index"
                f" {', '.join(INDEXES[name])} under another name, then run `loginetl migrate`"
            )
