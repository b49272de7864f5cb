"""The name of the login table, as LOGINETL_TABLE spells it and SQL reads it."""

import re
from dataclasses import dataclass

_PLAIN = r"[A-Za-z_][A-Za-z0-9_$]*"
# No control characters; no colon either, which SQLAlchemy takes for a parameter.
_QUOTED = r'"(?:[^"\x00-\x1f:]|"")+"'
_QUALIFIED = re.compile(f"({_PLAIN}|{_QUOTED})\\.({_PLAIN}|{_QUOTED})")
_MAX_BYTES = 63  # Postgres cuts longer ones short without an error
OUR_SCHEMA = "loginetl"


@dataclass(frozen=True)
class TableName:
    """A schema and a table in it, as in the catalog; as text, with double quotes where they are needed."""

    schema: str
    name: str

    @classmethod
    def parse(cls, text: str) -> "TableName":
        """Returns the name in a text `schema.table`; without double quotes letters are lower case, as in SQL.

        Raises:
            ValueError: it is not such a name, or in a schema of loginetl or of Postgres itself.
        """
        if not (found := _QUALIFIED.fullmatch(text)):
            raise ValueError
        schema, name = (part[1:-1].replace('""', '"') if part[0] == '"' else part.lower() for part in found.groups())
        is_too_long = any(len(part.encode()) > _MAX_BYTES for part in (schema, name))
        if is_too_long or schema in {OUR_SCHEMA, "information_schema"} or schema.startswith("pg_"):
            raise ValueError
        return cls(schema, name)

    @property
    def schema_sql(self) -> str:
        """The schema, as text."""
        return _quoted(self.schema)

    @property
    def name_sql(self) -> str:
        """The table's own name, as text."""
        return _quoted(self.name)

    def __str__(self) -> str:
        return f"{self.schema_sql}.{self.name_sql}"


def _quoted(identifier: str) -> str:
    if re.fullmatch(_PLAIN, identifier) and identifier == identifier.lower():
        return identifier
    return '"' + identifier.replace('"', '""') + '"'


DEFAULT_TABLE = TableName("public", "user_logins")
