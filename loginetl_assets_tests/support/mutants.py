"""Mutants of the ledger's SQL: each small change to a statement must be noticed by a test.

    python -m loginetl_assets_tests.support.mutants [--only TEXT]

Mutation tools change Python; the ledger's rules are SQL, which to them is a text like any other. So the changes are
made here: a condition is weakened or turned round, a bound moved, a lock or an order left out, one name of a state put
for another. The ledger's tests run against each of these mutants, on one embedded stack.
Prints the mutants that no test noticed.
"""

import argparse
import os
import re
import shutil
import tempfile
import tokenize
from collections.abc import Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import pytest

from loginetl_assets.local.stack import EmbeddedStack
from loginetl_assets.storage import batches as ledger

ROOT = Path(__file__).resolve().parents[1]
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
    (r"(ORDER BY (?:batch_id|key|message_uuid))\b(?! DESC)", r"\1 DESC"),
    (r"'(?:landed|masked|loaded|quarantined|rejected|erased|duplicate)'", "'neither'"),
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


def _passes(source: str) -> bool:
    """Whether the ledger's tests pass with this source of it: in a fork, since imports take longer than the tests."""
    if child := os.fork():
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if code not in {pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED}:
            raise SystemExit(f"the tests of {TESTS} cannot be run (exit code {code})")
        return code == pytest.ExitCode.OK
    code = pytest.ExitCode.INTERNAL_ERROR
    try:
        exec(compile(source, ledger.__file__, "exec"), vars(ledger))  # noqa: S102 - that is what a mutant is
        with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere):
            code = pytest.ExitCode(pytest.main(["-x", "-q", "-p", "no:cacheprovider", str(ROOT / TESTS)]))
    finally:
        os._exit(code)


def main() -> None:
    """Runs the tests against every mutant."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--only", default="", help="only mutants of lines that hold this text")
    only = parser.parse_args().only
    source = Path(ledger.__file__).read_text()
    lines = source.splitlines()
    mutants = [one for one in mutants_of(source) if only in lines[one.line - 1]]
    survived = 0
    home = Path(tempfile.mkdtemp(prefix="loginetl-tests-"))
    os.environ[RUNNING_STACK] = str(home)
    try:
        if not _passes(source):
            raise SystemExit(f"the tests of {TESTS} fail without any change")
        for mutant in mutants:
            if _passes(mutant.apply(source)):
                survived += 1
                change = f"{source[mutant.start : mutant.end].strip()} -> {mutant.new.strip() or 'left out'}"
                print(f"survived: ledger.py:{mutant.line}: {change}: {lines[mutant.line - 1].strip()}", flush=True)  # noqa: T201
    finally:
        EmbeddedStack(home).stop()
        shutil.rmtree(home)
    print(f"{len(mutants)} mutants of the ledger's SQL, {survived} survived")  # noqa: T201


if __name__ == "__main__":
    main()
