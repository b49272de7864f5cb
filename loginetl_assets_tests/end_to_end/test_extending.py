"""docs/extending.md, done as it is written in a copy of the repository."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from loginetl_assets_tests.unit.test_masking import LOGIN

ROOT = Path(__file__).parents[2]
DOCUMENT = ROOT / "docs" / "extending.md"
BIN = Path(sys.executable).parent

# What the page has to show: a file's path and a change to it or its content; or commands.
BLOCK = re.compile(r"(?:^`([\w/.]+)`[^\n]*:\n\n)?^```(diff|python|sh)\n(.*?)^```", re.DOTALL | re.MULTILINE)

METADATA = """
import json
from loginetl_assets.definitions import defs
for spec in defs.resolve_all_asset_specs():
    found = spec.metadata.get("dagster/column_lineage")
    lineage = found.deps_by_column.get("country", []) if found else []
    columns = {column.name: column.type for column in spec.metadata["dagster/column_schema"].columns}
    print(spec.key.to_user_string(), columns.get("country"), [one.column_name for one in lineage])
"""


class Copy:
    """A copy of the repository, whose code the commands run."""

    def __init__(self, path: Path) -> None:
        tracked = subprocess.run(
            ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, check=True
        )
        for name in tracked.stdout.decode().splitlines():
            if (ROOT / name).is_file():
                (path / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / name, path / name)
        (path / ".venv").mkdir()
        (path / ".venv" / "bin").symlink_to(BIN)
        self.path = path

    def run(self, command: str) -> str:
        done = subprocess.run(
            ["bash", "-ec", command],
            cwd=self.path,
            env={
                "PATH": f"{BIN}:{os.environ['PATH']}",
                "HOME": os.environ.get("HOME", "/"),
                "PYTHONPATH": str(self.path),
                "LOGINETL_HOME": str(self.path / "home"),
            },
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def send(self, user_id: str, **fields: str) -> None:
        (self.path / "messages.jsonl").write_text(json.dumps({**LOGIN, **fields, "user_id": user_id}) + "\n")
        self.run("loginetl send messages.jsonl")

    def materialize(self, selection: str) -> None:
        self.run(f"dagster asset materialize --select '{selection}' -m loginetl_assets.definitions")

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
def test_a_seventh_field_is_added_as_the_document_says(tmp_path: Path) -> None:
    copy = Copy(tmp_path)
    try:
        copy.send("loaded")
        copy.run("loginetl run")
        copy.send("masked", country="XX")
        copy.materialize("key:raw_login_messages or key:masked_logins or key:rejected_logins or key:pii_vault")
        copy.send("landed", country="FR")
        copy.materialize("key:raw_login_messages")
        copy.send("queued", country="DE")

        for name, kind, block in BLOCK.findall(DOCUMENT.read_text(encoding="utf-8")):
            if kind == "sh":
                copy.run(block)
            else:
                copy.apply(name, kind, block)

        rows = copy.run(
            'loginetl psql -At -c "SELECT user_id, country FROM loginetl.logins ORDER BY 1" '
            '-c "SELECT user_id, country, times FROM loginetl.duplicate_rows"'
        )
        assert rows.splitlines() == ["landed|FR", "loaded|", "masked|", "queued|DE"]
        described = copy.run(f"python -c '{METADATA}'").splitlines()
        assert "login_queue string []" in described
        assert "masked_logins varchar(2) ['country']" in described
        assert "user_logins varchar(2) ['country']" in described
    finally:
        copy.run("loginetl down")
