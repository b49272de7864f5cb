"""Mutants of the ledger's SQL: each small change to a statement must be noticed by a test.

    python -m loginetl_assets_tests.mutants [--only TEXT]

Mutation tools change Python; the ledger's rules are SQL, which to them is a text like any other. So the changes are
made here: a condition is weakened or turned round, a bound moved, a lock or an order left out, one name of a state put
for another. Each mutant is a copy of the code with one change; the ledger's tests run against it on one embedded stack.
Prints the mutants that no test noticed.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from loginetl_assets.local.stack import EmbeddedStack

ROOT = Path(__file__).resolve().parents[1]
MODULE = "loginetl_assets/resources/ledger.py"
TESTS = "loginetl_assets_tests/integration/test_ledger.py"
RUNNING_STACK = "TESTS_STACK_HOME"  # the home of a stack that tests use and leave running

_CHANGES = (
    (r" AND ", " OR "),
    (r"\bNOT EXISTS\b", "EXISTS"),
    (r"\bIS NOT NULL\b", "IS NULL"),
    (r"\bIS NULL\b", "IS NOT NULL"),
    (r" < ", " <= "),
    (r" <= ", " < "),
    (r" > ", " >= "),
    (r" <> ", " = "),
    (r" \+ ", " - "),
    (r" - ", " + "),
    (r"\bmin\(", "max("),
    (r"\bmax\(", "min("),
    (r" SKIP LOCKED", ""),
    (r" FOR UPDATE(?: SKIP LOCKED)?", ""),
    (r" ON CONFLICT DO NOTHING", ""),
    (r" DISTINCT ", " "),
    (r" (?:DESC )?LIMIT (?:1|:limit)\b", ""),
    (r" DESC\b", ""),
    (r"(ORDER BY (?:batch_id|key|message_key))\b(?! DESC)", r"\1 DESC"),
    (r"'(?:landed|masked|loaded|set_aside|rejected|erased|duplicate)'", "'neither'"),
    (r"\bFROM loginetl\.batches WHERE batch_id = :batch_id", "FROM loginetl.batches WHERE true"),
    (r" WHERE batch_id = :batch_id", " WHERE true"),
)


@dataclass(frozen=True)
class Mutant:
    """One change: where, of what, into what."""

    line: int
    start: int
    end: int
    new: str

    def apply(self, source: str) -> str:
        """The source with the change made."""
        return source[: self.start] + self.new + source[self.end :]


def mutants_of(source: str) -> Iterator[Mutant]:
    """Every change to a piece of SQL; docstrings and comments stay as they are."""
    offsets = [0]
    for line in source.splitlines(keepends=True):
        offsets.append(offsets[-1] + len(line))
    pieces = {tokenize.STRING, getattr(tokenize, "FSTRING_MIDDLE", tokenize.STRING)}
    for token in tokenize.generate_tokens(iter(source.splitlines(keepends=True)).__next__):
        if token.type not in pieces or token.string.startswith('"""'):
            continue
        begin = offsets[token.start[0] - 1] + token.start[1]
        for pattern, replacement in _CHANGES:
            for found in re.finditer(pattern, token.string):
                new = found.expand(replacement)
                yield Mutant(token.start[0], begin + found.start(), begin + found.end(), new)


def _passes(directory: Path, home: Path) -> bool:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", TESTS],
        cwd=directory,
        env={**os.environ, RUNNING_STACK: str(home)},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode not in {0, 1}:
        raise SystemExit(f"the tests cannot be run:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return done.returncode == 0


def main() -> None:
    """Runs the tests against every mutant."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--only", default="", help="only mutants of lines that hold this text")
    only = parser.parse_args().only
    source = (ROOT / MODULE).read_text()
    lines = source.splitlines()
    mutants = [one for one in mutants_of(source) if only in lines[one.line - 1]]
    survivors = []
    with tempfile.TemporaryDirectory(prefix="loginetl-mutants-") as work:
        directory = Path(work)
        for name in ("loginetl_assets", "loginetl_assets_tests"):
            shutil.copytree(ROOT / name, directory / name, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "pyproject.toml", directory)
        home = Path(tempfile.mkdtemp(prefix="loginetl-tests-"))
        try:
            if not _passes(directory, home):
                raise SystemExit("the tests fail without any change")
            for number, mutant in enumerate(mutants, 1):
                (directory / MODULE).write_text(mutant.apply(source))
                if _passes(directory, home):
                    survivors.append(mutant)
                if sys.stderr.isatty():
                    print(f"\r{number}/{len(mutants)}, survived {len(survivors)}", end="", file=sys.stderr)  # noqa: T201
        finally:
            EmbeddedStack(home).stop()
            shutil.rmtree(home)
    print(f"{len(mutants)} mutants of {MODULE}, {len(survivors)} survived")  # noqa: T201
    for mutant in survivors:
        change = f"{source[mutant.start : mutant.end].strip()} -> {mutant.new.strip() or 'left out'}"
        print(f"{MODULE}:{mutant.line}: {change}: {lines[mutant.line - 1].strip()}")  # noqa: T201


if __name__ == "__main__":
    main()
