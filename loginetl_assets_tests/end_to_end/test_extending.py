"""docs/extending.md, done as it is written in a copy of the repository."""

# ruff: noqa: S608 - names of our own columns

import json
import re
from pathlib import Path

import pytest

from loginetl_assets.logins.contract import FIELD_NAMES
from loginetl_assets.storage.tables import REVISION
from loginetl_assets_tests.support.checkout import ROOT, Checkout
from loginetl_assets_tests.unit.test_masking import LOGIN

DOCUMENT = ROOT / "docs" / "extending.md"

# What the page has to show: a file's path and a change to it or its content; or commands.
BLOCK = re.compile(r"(?:^`([\w/.]+)`[^\n]*:\n\n)?^```(diff|python|sh)\n(.*?)^```", re.DOTALL | re.MULTILINE)

# The names and numbers of the page, or, where the repository has them already, others.
FOLLOWING = f"v{int(REVISION.removeprefix('v')) + 1:04}"
COUNTRY, EMAIL = (
    next(name for name in (first, f"{first}_too") if name not in FIELD_NAMES) for first in ("country", "email")
)
HERE = {"v0001": REVISION, "v0002": FOLLOWING, "country": COUNTRY, "email": EMAIL}

NAMES = f"{COUNTRY} masked_{EMAIL}"
METADATA = """
import os
from loginetl_assets.definitions import defs
names = os.environ["NAMES"].split()
for spec in defs.resolve_all_asset_specs():
    found = spec.metadata.get("dagster/column_lineage")
    lineage = [one.column_name for name in names for one in (found.deps_by_column.get(name, []) if found else [])]
    columns = {column.name: column.type for column in spec.metadata["dagster/column_schema"].columns}
    print(spec.key.to_user_string(), *map(columns.get, names), lineage)
"""


class Copy(Checkout):
    """A copy of the repository, and what the page does with it."""

    def send(self, user_id: str, **fields: str) -> None:
        (self.path / "messages.jsonl").write_text(json.dumps({**LOGIN, **fields, "user_id": user_id}) + "\n")
        self.run("loginetl send messages.jsonl")

    def materialize(self, selection: str) -> None:
        self.run(f"dagster asset materialize --select '{selection}' -m loginetl_assets.definitions")

    def psql(self, *statements: str) -> list[str]:
        commands = " ".join(f'-c "{statement}"' for statement in statements)
        return self.run(f"loginetl psql -At {commands}").splitlines()

    def apply(self, name: str, kind: str, block: str) -> None:
        """Writes a new file, or makes a change whose lines of before occur once."""
        file = self.path / name
        if kind == "python":
            assert not file.exists()
            file.write_text(block)
            return
        lines = block.splitlines(keepends=True)
        before = "".join(line[1:] for line in lines if line[0] != "+")
        after = "".join(line[1:] for line in lines if line[0] != "-")
        text = file.read_text()
        assert text.count(before) == 1
        file.write_text(text.replace(before, after))


@pytest.mark.timeout(900)
def test_a_field_and_a_masked_field_are_added_as_the_document_says(tmp_path: Path) -> None:
    copy = Copy(tmp_path)
    try:
        copy.send("loaded")
        copy.run("loginetl run")
        copy.send("masked", **{COUNTRY: "XX"})
        copy.materialize("key:raw_login_messages or key:masked_logins or key:rejected_logins or key:pii_vault")
        copy.send("landed", **{COUNTRY: "FR"})
        copy.materialize("key:raw_login_messages")
        copy.send("queued", **{COUNTRY: "DE", EMAIL: "ada@example.org"})

        page = DOCUMENT.read_text(encoding="utf-8")
        for name, kind, block in BLOCK.findall(re.sub("|".join(HERE), lambda found: HERE[found[0]], page)):
            if kind == "sh":
                copy.run(block)
            else:
                copy.apply(name, kind, block)

        rows = copy.psql(
            f"SELECT user_id, {COUNTRY}, masked_{EMAIL} IS NOT NULL FROM loginetl.logins ORDER BY 1",
            f"SELECT user_id, {COUNTRY}, times FROM loginetl.duplicate_rows",
        )
        assert rows == ["landed|FR|f", "loaded||f", "masked||f", "queued|DE|t"]
        described = copy.run(f"NAMES='{NAMES}' python -c '{METADATA}'").splitlines()
        assert "login_queue string None []" in described
        assert f"masked_logins varchar(2) varchar(256) ['{COUNTRY}', '{EMAIL}']" in described
        assert f"user_logins varchar(2) varchar(256) ['{COUNTRY}', 'masked_{EMAIL}']" in described

        (token,) = copy.psql(f"SELECT masked_{EMAIL} FROM loginetl.logins WHERE user_id = 'queued'")
        assert "ada@example.org" in copy.run(f"loginetl recover {token} --reason test")
        copy.run("printf queued | loginetl erase --user-id --reason test --yes")
        left = copy.psql(
            f"SELECT count(*) FROM loginetl.pii_vault WHERE field = '{EMAIL}'",
            f"SELECT count(*) FROM pg_indexes WHERE indexdef LIKE '%(masked_{EMAIL}, user_id)'",
        )
        assert left == ["0", "1"]
    finally:
        copy.run("loginetl down")
