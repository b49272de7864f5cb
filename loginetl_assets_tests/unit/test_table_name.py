"""How LOGINETL_TABLE is read, and that no statement leaves the schema to a search path."""

import ast
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import loginetl_assets
from loginetl_assets.table_name import TableName

PACKAGE = Path(loginetl_assets.__file__).parent
# What follows one of these words is a table; the temporary ones are ours, and a search path may hide them too.
UNQUALIFIED = re.compile(
    r"\b(FROM|JOIN|INTO|UPDATE|USING|(?<!TEMP )TABLE|COPY|TRUNCATE)\s+(user_logins|new_\w+s|new_vault|seen_\w+)\b"
)


@pytest.mark.parametrize(
    ("text", "schema", "name"),
    [
        ("public.user_logins", "public", "user_logins"),
        ("Sales.User_Logins", "sales", "user_logins"),
        ('"Sales"."User Logins"', "Sales", "User Logins"),
        ('sales."a.b"', "sales", "a.b"),
        ('"a.b".c', "a.b", "c"),
        ('x."say ""logins"""', "x", 'say "logins"'),
        ('"Größe".logins', "Größe", "logins"),
        ('x."50% off"', "x", "50% off"),
        (f"x.{'y' * 63}", "x", "y" * 63),
    ],
)
def test_a_name_is_read_as_sql_reads_it(text: str, schema: str, name: str) -> None:
    assert TableName.parse(text) == TableName(schema, name)


@pytest.mark.parametrize(
    "text",
    ["", "user_logins", "a.b.c", "public.", ".logins", "public.user logins", "public.1st", 'x.""', 'x."a', "x.y;",
     'x."a:b"', 'x."a\0b"', 'x."a\nb"', "x.größe", f"x.{'y' * 64}", f'x."{"ü" * 32}"',
     "loginetl.user_logins", "LoginETL.user_logins", "pg_temp.logins", "pg_catalog.logins", "information_schema.logins",
     'x."\udcff"'],
)  # fmt: skip
def test_what_is_no_name_of_a_table_of_its_users_is_refused(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - the setting says what is expected
        TableName.parse(text)


@given(st.text(st.characters(exclude_characters=":", exclude_categories=["Cc", "Cs"]), min_size=1, max_size=15))
def test_the_text_of_a_name_is_read_as_the_same_name(name: str) -> None:
    assert TableName.parse(str(TableName("x", name))) == TableName("x", name)


def test_no_statement_leaves_the_schema_of_a_table_to_a_search_path() -> None:
    statements = {
        f"{path.name}:{node.lineno}": node.value
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    assert any("FROM loginetl." in statement for statement in statements.values())
    assert [where for where, statement in statements.items() if UNQUALIFIED.search(statement)] == []
