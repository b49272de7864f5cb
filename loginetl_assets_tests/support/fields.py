"""Writes docs/fields.md from the contract: python -m loginetl_assets_tests.support.fields."""

from pathlib import Path

from loginetl_assets.logins.contract import COLUMNS, FIELDS

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "fields.md"

_TEXT = """# The fields of a login

Written by `make docs` from `loginetl_assets/logins/contract.py`; [extending.md](extending.md) adds a field.

A message's body is a JSON object with these strings. Objects inside it are flattened: `{{"device": {{"id": …}}}}` is
`device_id`.

| field | kind | at most | optional | masked | meaning |
| --- | --- | --- | --- | --- | --- |
{fields}

The login table, `user_logins`, has a column for each, and the date:

| column | type | made from | meaning |
| --- | --- | --- | --- |
{columns}
"""


def as_markdown() -> str:
    """Returns the document."""
    fields = (
        f"| `{field.name}` | {field.kind.name.lower()} |"
        f" {f'{field.max_length} characters' if field.max_length else ''} | {'yes' if field.optional else ''} |"
        f" {'yes' if field.masked else ''} | {field.description} |"
        for field in FIELDS
    )
    columns = (
        f"| `{column.name}` | {column.sql_type} | `{column.source}` | {column.description} |" for column in COLUMNS
    )
    return _TEXT.format(fields="\n".join(fields), columns="\n".join(columns))


if __name__ == "__main__":
    DOCUMENT.write_text(as_markdown(), encoding="utf-8")
