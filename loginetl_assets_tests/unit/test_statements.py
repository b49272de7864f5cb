"""How statements are named, and how lists are bound."""

import ast
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import ClauseElement, delete, select, update
from sqlalchemy.dialects import postgresql

from loginetl_assets import storage
from loginetl_assets.storage.statements import among, array_of, named
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


def test_a_text_with_a_nul_is_no_item_of_an_array() -> None:
    with pytest.raises(ValueError, match="a text has a NUL") as raised:
        array_of(["seen", "un\0seen"])
    assert "seen" not in str(raised.value)


def _names(module: ast.Module) -> Iterator[str]:
    """Yields the names of a module's statements: what `named` takes, and what functions take that hand it on."""
    position = {"named": 0}
    for function in (node for node in ast.walk(module) if isinstance(node, ast.FunctionDef)):
        arguments = [one.arg for one in function.args.args]
        if "name" in arguments and re.search(r"(named\(|\(connection, )name,", ast.unparse(function)):
            position[function.name] = arguments.index("name")
    for call in (node for node in ast.walk(module) if isinstance(node, ast.Call)):
        if isinstance(call.func, ast.Name) and call.func.id in position:
            name = call.args[position[call.func.id]]
            if isinstance(name, ast.Constant):
                yield str(name.value)


def test_no_name_is_that_of_two_statements() -> None:
    modules = [ast.parse(path.read_text()) for path in Path(storage.__path__[0]).rglob("*.py")]
    names = Counter(name for module in modules for name in _names(module))
    assert {"claim_batch", "delete_rows", "mark_masked", "erase_rejections"} <= set(names), "each way is found"
    assert [name for name, uses in names.items() if uses > 1] == []
