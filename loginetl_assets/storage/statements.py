"""What SQL statements share: a name as a comment, by which logs and tests find them; and lists bound as arrays."""

from collections.abc import Collection
from typing import Any, TypeVar, overload

from sqlalchemy import ColumnElement, TextClause, any_, literal, text
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.sql.expression import HasPrefixes

_Statement = TypeVar("_Statement", bound=HasPrefixes)


@overload
def named(name: str, statement: str) -> TextClause: ...
@overload
def named(name: str, statement: _Statement) -> _Statement: ...
def named(name: str, statement: Any) -> Any:
    """Returns the statement, as text or built, with `/* name */` in it."""
    comment = f"/* {name} */"
    return text(f"{comment} {statement}") if isinstance(statement, str) else statement.prefix_with(comment)


def among(column: ColumnElement[Any], values: Collection[Any]) -> ColumnElement[bool]:
    """Returns the condition that a column is one of the values, bound as one array however many there are."""
    return column == any_(literal(list(values), ARRAY(column.type)))
