"""What SQL statements share: a name as a comment, by which logs and tests find them; and lists bound as arrays."""

from collections.abc import Callable, Collection, Iterable
from typing import Any, TypeVar, overload
from uuid import UUID

from sqlalchemy import ColumnElement, Dialect, Text, TextClause, Uuid, any_, literal, text
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.sql.expression import HasPrefixes
from sqlalchemy.types import UserDefinedType

_Statement = TypeVar("_Statement", bound=HasPrefixes)


@overload
def named(name: str, statement: str) -> TextClause: ...
@overload
def named(name: str, statement: _Statement) -> _Statement: ...
def named(name: str, statement: Any) -> Any:
    """Returns the statement, as text or built, with `/* name */` in it."""
    comment = f"/* {name} */"
    return text(f"{comment} {statement}") if isinstance(statement, str) else statement.prefix_with(comment)


def array_of(values: Iterable[str | UUID]) -> str:
    """Returns an array as Postgres writes one. psycopg makes the same of a list, item by item: 25 times as slowly.

    Raises ValueError, which names no value, of a NUL: no text of Postgres has one.
    """
    texts = list(map(str, values))
    if not texts:
        return "{}"
    joined = "\0".join(texts)
    if joined.count("\0") >= len(texts):
        raise ValueError("a text has a NUL")
    escaped = joined.replace("\\", "\\\\").replace('"', '\\"').replace("\0", '","')
    return f'{{"{escaped}"}}'


class _Array(UserDefinedType[Collection[str | UUID]]):
    cache_ok = True
    render_bind_cast = True

    def __init__(self, item_type: str) -> None:
        self.item_type = item_type

    def get_col_spec(self, **_: Any) -> str:
        return f"{self.item_type}[]"

    def bind_processor(self, dialect: Dialect) -> Callable[[Any], str]:
        return array_of


def among(column: ColumnElement[Any], values: Collection[Any]) -> ColumnElement[bool]:
    """Returns the condition that a column is one of the values, bound as one array however many there are."""
    kind = column.type
    array = _Array(str(kind)) if isinstance(kind, (Text, Uuid)) else ARRAY(kind)
    return column == any_(literal(list(values), array))
