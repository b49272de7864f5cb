"""How statements are named, and how lists are bound."""

import pytest
from sqlalchemy import ClauseElement, delete, select, update
from sqlalchemy.dialects import postgresql

from loginetl_assets.storage.statements import among, named
from loginetl_assets.storage.tables import token_map

STATEMENTS = {
    "text": "SELECT 1",
    "select": select(token_map),
    "insert": token_map.insert(),
    "update": update(token_map),
    "delete": delete(token_map),
}


def sql(statement: ClauseElement) -> str:
    return str(statement.compile(dialect=postgresql.dialect()))  # type: ignore[no-untyped-call]


@pytest.mark.parametrize("kind", STATEMENTS)
def test_a_statement_of_any_kind_carries_its_name(kind: str) -> None:
    assert "/* find_me */" in sql(named("find_me", STATEMENTS[kind]))  # type: ignore[call-overload]


def test_a_list_of_any_length_is_one_parameter() -> None:
    for length in (0, 1, 100_000):
        statement = select(token_map).where(among(token_map.c.old_token, {str(n) for n in range(length)}))
        (bound,) = statement.compile().params.values()
        assert len(bound) == length
        assert sql(statement).endswith("token_map.old_token = ANY (%(param_1)s::TEXT[])")
