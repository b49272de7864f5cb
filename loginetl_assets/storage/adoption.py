"""The table of logins: which one it is, whether it can be loaded, and what is added to it.

It belongs to its users, and may have been theirs for years. `loginetl migrate` looks it up once, by the schema and name
of LOGINETL_TABLE, and records it in `loginetl.installation`. From then on every statement names the recorded table with
its schema, so that no session's search path decides what is loaded, read or erased. The record is a `regclass`: it
follows a table that is renamed or moved, and a dump writes it as a name.

Only what `Adoption.make` says is made; whether it can be is looked at before anything is.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, text

from loginetl_assets.errors import OperatorError
from loginetl_assets.logins.contract import ADOPTED_COLUMNS, COLUMN_NAMES, COLUMNS, TOKEN_COLUMNS
from loginetl_assets.storage.views import create_views, missing_views
from loginetl_assets.table_name import DEFAULT_TABLE, OUR_SCHEMA, TableName

_NEW_TABLE = ", ".join(f"{column.name} {column.sql_type}" for column in COLUMNS)

_LATER_COLUMNS = frozenset(COLUMN_NAMES).difference(ADOPTED_COLUMNS)

# What checks and erasure look up costs what it finds, not what the table holds.
_INDEXES = {
    "user_logins_by_user": ("user_id",),
    **{f"user_logins_by_{field.removesuffix('_id')}": (column, "user_id") for field, column in TOKEN_COLUMNS.items()},
}

_FOUND = (
    "SELECT c.oid, n.nspname AS schema, c.relname AS name, format('%I.%I', n.nspname, c.relname) AS sql,"
    " CAST(c.relkind AS text) AS kind, pg_get_userbyid(c.relowner) AS owner,"
    " pg_has_role(c.relowner, 'USAGE') AS is_owner, c.relispartition AS is_partition"
    " FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
)
# Partitions of partitions and heirs of heirs, and the table itself.
PARTS = (
    "WITH RECURSIVE part (oid) AS (SELECT CAST(CAST(:table AS regclass) AS oid)"
    " UNION SELECT inhrelid FROM pg_inherits JOIN part ON inhparent = part.oid)"
)
_KINDS = {
    "v": "a view",
    "m": "a materialized view",
    "f": "a foreign table",
    "i": "an index",
    "I": "an index",
    "S": "a sequence",
    "c": "a type",
}


@dataclass(frozen=True)
class Relation:
    """A relation of the catalog; `sql` is its qualified name as statements have it."""

    oid: int
    schema: str
    name: str
    sql: str
    kind: str
    owner: str
    is_owner: bool  # whether this session's role may do what its owner may
    is_partition: bool  # of another table, which alone can get a column


def login_table(connection: Connection) -> str:
    """The recorded table's name for statements: qualified, and quoted where that is needed.

    Raises:
        OperatorError: none is recorded, or it is gone.
    """
    return _recorded(connection).sql


def login_schema(connection: Connection) -> str:
    """The recorded table's schema, quoted where that is needed."""
    found = _recorded(connection)
    schema: str = connection.execute(text("SELECT quote_ident(:schema)"), {"schema": found.schema}).scalar_one()
    return schema


def check_table(connection: Connection, wanted: TableName) -> None:
    """Makes sure that the recorded table is the one the settings mean, and that it can be loaded.

    Raises:
        OperatorError: it is another, it is gone, there is a second one, or its shape is wrong.
    """
    recorded = _recorded(connection)
    _refuse_ours(connection, wanted)
    _refuse_another(recorded, wanted)
    _refuse_shape(connection, recorded)


@dataclass(frozen=True)
class Adoption:
    """The table that a migration has found or is to make, and the indexes it lacks."""

    wanted: TableName
    missing: Sequence[str]

    @classmethod
    def plan(cls, connection: Connection, wanted: TableName | None) -> "Adoption":
        """Looks at everything and changes nothing.

        Args:
            connection: of the role that is to migrate; nothing of ours need be there yet.
            wanted: what LOGINETL_TABLE says, None where it is not set.

        Raises:
            OperatorError: the table cannot be told for certain, cannot be made, or cannot be loaded or indexed.
        """
        name = wanted or DEFAULT_TABLE
        _refuse_ours(connection, name)
        found = _named(connection, name)
        if (recorded := _record(connection)) is not None:
            if (current := _by_oid(connection, recorded)) is not None:
                _refuse_another(current, name)
            elif found is None:
                raise OperatorError(
                    f"{name} is gone, and with it the rows that schema loginetl counts as loaded: restore it from a"
                    " backup, or create it anew, then run `loginetl migrate`"
                )
        elif wanted is None:
            _refuse_ambiguous(connection, found)
        if found is None:
            _refuse_schema(connection, name)
            return cls(name, tuple(_INDEXES))
        can_add = found.is_owner and not found.is_partition
        _refuse_shape(connection, found, to_be_added=_LATER_COLUMNS if can_add else ())
        missing = _missing_indexes(connection, found)
        if missing:
            _refuse_indexing(connection, found, missing)
        return cls(name, missing)

    def make(self, connection: Connection) -> None:
        """Makes the table if it is not there, the indexes and views it lacks, and the record.

        Ended in between, it is finished by the next migration.

        Args:
            connection: in autocommit, since an index is built beside whoever uses the table.
        """
        found = _named(connection, self.wanted) or _new_table(connection, self.wanted)
        add_columns(connection, found.sql)
        for index in self.missing:
            _build_index(connection, found, index)
        create_views(connection, found.sql, missing_views(connection))
        connection.execute(
            text("UPDATE loginetl.installation SET login_table = CAST(:name AS regclass)"), {"name": found.sql}
        )


def _named(connection: Connection, name: TableName) -> Relation | None:
    # By the catalog: to_regclass fails where the role may not use the schema.
    return _one(connection, "n.nspname = :schema AND c.relname = :name", schema=name.schema, name=name.name)


def _by_oid(connection: Connection, oid: int) -> Relation | None:
    return _one(connection, "c.oid = :oid", oid=oid)


def _one(connection: Connection, condition: str, **values: object) -> Relation | None:
    row = connection.execute(text(f"{_FOUND} WHERE {condition}"), values).one_or_none()
    return None if row is None else Relation(**row._mapping)


def _new_table(connection: Connection, name: TableName) -> Relation:
    sql = connection.execute(
        text("SELECT format('%I.%I', CAST(:schema AS text), CAST(:name AS text))"), vars(name)
    ).scalar_one()
    connection.execute(text(f"CREATE TABLE {sql} ({_NEW_TABLE})"))
    row = connection.execute(text(f"{_FOUND} WHERE c.oid = CAST(:table AS regclass)"), {"table": sql}).one()
    return Relation(**row._mapping)


def recorded_table(connection: Connection) -> Relation | None:
    """Returns the recorded table, None where none is recorded or it is gone."""
    return _one(connection, "c.oid = (SELECT login_table FROM loginetl.installation)")


def add_columns(connection: Connection, table: str) -> None:
    """Adds the contract's columns that a table lacks, null in its rows; its partitions and heirs get them with it."""
    names = text("SELECT attname FROM pg_attribute WHERE attrelid = CAST(:table AS regclass) AND NOT attisdropped")
    there = set(connection.execute(names, {"table": table}).scalars())
    for column in COLUMNS:
        if column.name not in there:
            connection.execute(text(f"ALTER TABLE {table} ADD COLUMN {column.name} {column.sql_type}"))


def _recorded(connection: Connection) -> Relation:
    if (found := recorded_table(connection)) is None:
        raise OperatorError("no table of logins is recorded in schema loginetl: run `loginetl migrate`")
    return found


def _record(connection: Connection) -> int | None:
    """The recorded table; of a schema from before there was a record, the one its views read."""
    has_record = connection.execute(
        text(
            "SELECT FROM pg_attribute WHERE attrelid = to_regclass('loginetl.installation') AND attname = 'login_table'"
        )
    ).one_or_none()
    if has_record is not None:
        recorded = connection.execute(text("SELECT CAST(login_table AS oid) FROM loginetl.installation")).scalar()
        if recorded is not None:
            return int(recorded)
    read = connection.execute(
        text(
            "SELECT DISTINCT refobjid FROM pg_depend d JOIN pg_rewrite r ON r.oid = d.objid"
            " WHERE d.classid = 'pg_rewrite'::regclass AND d.refclassid = 'pg_class'::regclass"
            " AND r.ev_class = to_regclass('loginetl.logins') AND d.refobjid <> r.ev_class"
            " AND d.refobjid <> to_regclass('loginetl.token_map')"
        )
    ).scalar()
    return None if read is None else int(read)


def _refuse_ours(connection: Connection, name: TableName) -> None:
    """Refuses a second table in our own schema, where the usual search path puts one for a role called loginetl."""
    ours = _named(connection, TableName(OUR_SCHEMA, DEFAULT_TABLE.name))
    if ours is None or ours.kind not in {"r", "p"}:
        return
    if _named(connection, name) is None:
        move = [f"ALTER TABLE {ours.sql} SET SCHEMA {name.schema_sql}"]
        if name.name != ours.name:
            move.append(f"ALTER TABLE {name.schema_sql}.{ours.name} RENAME TO {name.name_sql}")
    else:
        columns = ", ".join(COLUMN_NAMES)
        move = [
            "BEGIN",
            f"INSERT INTO {name} ({columns}) SELECT {columns} FROM {ours.sql}",
            f"DROP TABLE {ours.sql} CASCADE",
            "COMMIT",
        ]
    raise OperatorError(
        f"there are logins in {ours.sql}, where a search path had put them, and not in {name}: move them"
        f" (`{'; '.join(move)}`), then run `loginetl migrate`"
    )


def _refuse_another(recorded: Relation, wanted: TableName) -> None:
    if (recorded.schema, recorded.name) == (wanted.schema, wanted.name):
        return
    raise OperatorError(
        f"this database's table of logins is {recorded.sql}, and LOGINETL_TABLE says {wanted}: set"
        f" LOGINETL_TABLE={TableName(recorded.schema, recorded.name)}, or make it that table by ALTER TABLE"
        f" {recorded.sql} RENAME or SET SCHEMA, once no other has that name"
    )


def _refuse_ambiguous(connection: Connection, found: Relation | None) -> None:
    """Refuses the default where this session finds another table by the bare name."""
    seen = _one(
        connection,
        "c.oid = (SELECT c.oid FROM unnest(current_schemas(false)) WITH ORDINALITY path (schema, place)"
        " JOIN pg_namespace n ON n.nspname = path.schema JOIN pg_class c ON c.relnamespace = n.oid"
        " WHERE c.relname = :name AND c.relkind IN ('r', 'p', 'v', 'm', 'f') AND path.schema <> :ours"
        " ORDER BY place LIMIT 1)",
        name=DEFAULT_TABLE.name,
        ours=OUR_SCHEMA,
    )
    if seen is not None and seen != found:
        raise OperatorError(
            f"{DEFAULT_TABLE.name} is {seen.sql} to this session, by its search_path: set LOGINETL_TABLE to"
            f" {TableName(seen.schema, seen.name)} or to {DEFAULT_TABLE}, whichever is meant"
        )


def _refuse_schema(connection: Connection, name: TableName) -> None:
    """Refuses to make a table where the role cannot."""
    row = connection.execute(
        text(
            "SELECT has_schema_privilege(oid, 'CREATE') AS may_create, current_user AS role"
            " FROM pg_namespace WHERE nspname = :schema"
        ),
        {"schema": name.schema},
    ).one_or_none()
    if row is None:
        raise OperatorError(
            f"there is no schema {name.schema_sql} for {name}: CREATE SCHEMA, or set LOGINETL_TABLE to a table"
            " elsewhere"
        )
    if not row.may_create:
        raise OperatorError(
            f"{name} is not there, and role {row.role} may not create it: GRANT CREATE ON SCHEMA"
            f" {name.schema_sql} TO it, create the table as somebody who may, or set LOGINETL_TABLE to one elsewhere"
        )


def _refuse_shape(connection: Connection, table: Relation, *, to_be_added: Collection[str] = ()) -> None:
    """Refuses a table whose rows could be lost or changed without a word, or that has no room for ours."""
    if table.kind in _KINDS:
        raise OperatorError(
            f"{table.sql} is {_KINDS[table.kind]}: rename it, or set LOGINETL_TABLE to a table that can be loaded"
        )
    problems = [*_column_problems(connection, table, to_be_added), *_storage_problems(connection, table)]
    rules = connection.execute(
        text(
            "SELECT rulename FROM pg_rewrite WHERE ev_class = :oid AND ev_type IN ('2', '3', '4')"
            " AND ev_enabled <> 'D' ORDER BY 1"
        ),
        {"oid": table.oid},
    ).scalars()
    problems += [f"rule {rule} rewrites what is loaded or erased: drop it, a trigger can do the same" for rule in rules]
    if problems:
        raise OperatorError(
            f"{table.sql} cannot be loaded: {'; '.join(problems)}. Or, before a first `loginetl migrate`, name another"
            " table by LOGINETL_TABLE"
        )


def _column_problems(connection: Connection, table: Relation, to_be_added: Collection[str]) -> list[str]:
    columns = {
        row.name: row
        for row in connection.execute(
            text(
                "SELECT attname AS name, regexp_replace(format_type(atttypid, atttypmod), '\\(.*', '') AS type,"
                " attgenerated <> '' OR attidentity = 'a' AS is_generated,"
                " attnotnull AND NOT atthasdef AND attidentity = '' AS needs_value"
                " FROM pg_attribute WHERE attrelid = :oid AND attnum > 0 AND NOT attisdropped ORDER BY attnum"
            ),
            {"oid": table.oid},
        )
    }
    problems = []
    for wanted in COLUMNS:
        if (column := columns.pop(wanted.name, None)) is None:
            if wanted.name not in to_be_added:
                problems.append(f"it has no column {wanted.name} ({wanted.base_type})")
        elif column.type != wanted.base_type:
            problems.append(f"its column {wanted.name} is {column.type} and not {wanted.base_type}")
        elif column.is_generated:
            problems.append(f"its column {wanted.name} is generated and takes no value of ours")
    problems += [
        f"its column {name} must have a value, and we have none: give it a default"
        for name, column in columns.items()
        if column.needs_value
    ]
    return problems


def _storage_problems(connection: Connection, table: Relation) -> list[str]:
    parts = connection.execute(
        text(
            f"{PARTS} SELECT format('%I.%I', nspname, relname) AS name, relkind = 'f' AS is_foreign"
            " FROM part JOIN pg_class c USING (oid) JOIN pg_namespace n ON n.oid = relnamespace"
            " WHERE relpersistence = 'u' OR relkind = 'f' ORDER BY 1"
        ),
        {"table": table.sql},
    )
    return [
        f"{part.name} is on another server, outside our transactions: detach it"
        if part.is_foreign
        else f"{part.name} is unlogged, and empty after a crash: ALTER TABLE {part.name} SET LOGGED"
        for part in parts
    ]


def _missing_indexes(connection: Connection, table: Relation) -> list[str]:
    """Which of our indexes neither stand there nor have a whole one that can take their place."""
    rows = connection.execute(
        text(
            "SELECT ARRAY(SELECT CAST(a.attname AS text) FROM unnest(CAST(i.indkey AS int2[])) WITH ORDINALITY"
            " k (attnum, place) JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum"
            " WHERE place <= i.indnkeyatts ORDER BY place) AS columns"
            " FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_am m ON m.oid = c.relam"
            " WHERE i.indrelid = :oid AND i.indisvalid AND m.amname = 'btree' AND i.indpred IS NULL"
            " AND i.indexprs IS NULL"
        ),
        {"oid": table.oid},
    )
    whole = [tuple(row.columns) for row in rows]
    return [name for name, columns in _INDEXES.items() if not any(have[: len(columns)] == columns for have in whole)]


def _refuse_indexing(connection: Connection, table: Relation, missing: Sequence[str]) -> None:
    wanted = "; ".join(f"CREATE INDEX {name} ON {table.sql} ({', '.join(_INDEXES[name])})" for name in missing)
    may_create, role = connection.execute(
        text("SELECT has_schema_privilege(:schema, 'CREATE'), current_user"), {"schema": table.schema}
    ).one()
    if not (table.is_owner and may_create):
        raise OperatorError(
            f"{table.sql} is {table.owner}'s, and role {role} may not index it: run `loginetl migrate` as"
            f" its owner, with the right to create in its schema, or let the owner run `{wanted}` first"
        )
    for name in missing:
        taken = _named(connection, TableName(table.schema, name))
        if taken is not None and not _is_unfinished(connection, table, taken):
            raise OperatorError(
                f"{taken.sql} is there already, and no index of {table.sql} as we need it: rename it, or index"
                f" {', '.join(_INDEXES[name])} under another name, then run `loginetl migrate`"
            )


def _is_unfinished(connection: Connection, table: Relation, index: Relation) -> bool:
    """Whether it is an index of the table whose building was ended: no query uses it, and IF NOT EXISTS takes it."""
    unfinished: bool = connection.execute(
        text("SELECT EXISTS (SELECT FROM pg_index WHERE indexrelid = :index AND indrelid = :table AND NOT indisvalid)"),
        {"index": index.oid, "table": table.oid},
    ).scalar_one()
    return unfinished


def _build_index(connection: Connection, table: Relation, name: str) -> None:
    # Postgres builds none beside the writers of a partitioned table: those wait for as long as it takes.
    beside = "" if table.kind == "p" else "CONCURRENTLY"
    if (unfinished := _named(connection, TableName(table.schema, name))) is not None:
        connection.execute(text(f"DROP INDEX {beside} {unfinished.sql}"))
    connection.execute(text(f"CREATE INDEX {beside} {name} ON {table.sql} ({', '.join(_INDEXES[name])})"))
