"""Writes docs/fields.md and docs/reasons.md from the code: python -m loginetl_assets_tests.support.documents."""

from pathlib import Path

from loginetl_assets.logins.contract import COLUMNS, FIELDS
from loginetl_assets.logins.rejection import Reason

DOCS = Path(__file__).resolve().parents[2] / "docs"

_FIELDS = """# The fields of a login

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

_REASONS = """# The reasons of rejected messages

Written by `make docs` from `loginetl_assets/logins/rejection.py`;
[CONTRIBUTING.md](../CONTRIBUTING.md#a-rejection-reason) adds a reason.

A rejected message is in `loginetl.rejected_logins` with one of these reasons and, where one field is the cause, its
name; a row that the table refused, with the SQLSTATE of Postgres's error and the name of the constraint or unique
index, never with the row. `loginetl rejected summary` counts by these, `loginetl rejected list` shows them, and the
Dagster UI plots each reason: on `rejected_logins`, those of the table on `user_logins`, all of them at the check
`rejection_rate`. Where a meaning says what to change here, `loginetl rejected replay` with `--reason` then loads the
messages. All others are for the sender to correct and to send again; `loginetl rejected drop` deletes their bodies.

| reason | meaning |
| --- | --- |
{reasons}
"""


def fields_as_markdown() -> str:
    """Returns docs/fields.md."""
    fields = (
        f"| `{field.name}` | {field.kind.name.lower()} |"
        f" {f'{field.max_length} characters' if field.max_length else ''} | {'yes' if field.optional else ''} |"
        f" {'yes' if field.masked else ''} | {field.description} |"
        for field in FIELDS
    )
    columns = (
        f"| `{column.name}` | {column.sql_type} | `{column.source}` | {column.description} |" for column in COLUMNS
    )
    return _FIELDS.format(fields="\n".join(fields), columns="\n".join(columns))


def reasons_as_markdown() -> str:
    """Returns docs/reasons.md."""
    return _REASONS.format(reasons="\n".join(f"| `{reason}` | {reason.meaning} |" for reason in Reason))


DOCUMENTS = {DOCS / "fields.md": fields_as_markdown, DOCS / "reasons.md": reasons_as_markdown}


if __name__ == "__main__":
    for path, written in DOCUMENTS.items():
        path.write_text(written(), encoding="utf-8")
