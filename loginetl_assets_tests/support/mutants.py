"""Mutants of the rules of storage: each small change to a statement must be noticed by a test.

    python -m loginetl_assets_tests.support.mutants [--only TEXT]

Mutation tools change Python and know no service; these rules are SQL, or build it, and run on one embedded stack. A
condition is weakened or inverted, a bound moved, a lock or an order left out, one state replaced by another. Prints the
mutants that no test noticed.
"""

import argparse
import os
import re
import shutil
import tempfile
import tokenize
from collections.abc import Iterable, Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pytest

from loginetl_assets.local.stack import EmbeddedStack
from loginetl_assets.storage import batches, message_ids, objects

ROOT = Path(__file__).resolve().parents[2]
TESTS = "loginetl_assets_tests/integration/test_batches.py"
MODULES = (message_ids, objects, batches)
RUNNING_STACK = "TESTS_STACK_HOME"  # the home of a stack that tests use and leave running

_IN_SQL = (
    (r" AND ", " OR "),
    (r"\bNOT EXISTS\b", "EXISTS"),
    (r"\bIS NOT NULL\b", "IS NULL"),
    (r"\bIS NULL\b", "IS NOT NULL"),
    (r" < ", " <= "),
    (r" <= ", " < "),
    (r" \+ ", " - "),
    (r"\bmin\(", "max("),
    (r" ON CONFLICT DO NOTHING", ""),
    (r" DISTINCT ", " "),
    (r"(ORDER BY message_uuid)\b", r"\1 DESC"),
    (r"'(?:loaded|lost|erased|duplicate)'", "'neither'"),
)
_IN_CODE = (
    (r" == ", " != "),
    (r" != ", " == "),
    (r" < ", " <= "),
    (r" > ", " >= "),
    (r" \+ ", " - "),
    (r" - ", " + "),
    (r"\bis not None\b", "is None"),
    (r"\bis None\b", "is not None"),
    (r"\.is_not\(None\)", ".is_(None)"),
    (r"\.is_\(None\)", ".is_not(None)"),
    (r"\bor_\(", "and_("),
    (r"\band_\(", "or_("),
    (r"\.desc\(\)", ""),
    (r"\.order_by\([^()]*\)", ""),
    (r"\.limit\([^()]*\)", ""),
    (r"\bskip_locked=True", ""),
    (r"\.with_for_update\([^()]*\)", ""),
    (r"\bmax\(", "min("),
    (r"\bBatchState\.[A-Z]+", '"neither"'),
    (r"\btable\.c\.batch_id == batch_id", "table.c.batch_id > 0"),
)
_TEXT = {tokenize.STRING, tokenize.COMMENT, getattr(tokenize, "FSTRING_MIDDLE", tokenize.STRING)}


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
    """Every change to a piece of SQL or to the code that builds it; docstrings and comments stay as they are."""
    lines = source.splitlines(keepends=True)
    offsets = [0]
    for line in lines:
        offsets.append(offsets[-1] + len(line))
    code = source
    for token in tokenize.generate_tokens(iter(lines).__next__):
        if token.type not in _TEXT:
            continue
        begin, end = (offsets[row - 1] + column for row, column in (token.start, token.end))
        code = code[:begin] + "\0" * (end - begin) + code[end:]
        if token.type != tokenize.COMMENT and not token.string.startswith('"""'):
            yield from _changes(token.string, _IN_SQL, source, begin)
    yield from _changes(code, _IN_CODE, source, 0)


def _changes(piece: str, changes: Iterable[tuple[str, str]], source: str, begin: int) -> Iterator[Mutant]:
    for pattern, replacement in changes:
        for found in re.finditer(pattern, piece):
            line = source.count("\n", 0, begin + found.start()) + 1
            yield Mutant(line, begin + found.start(), begin + found.end(), found.expand(replacement))


def _passes(module: ModuleType, source: str) -> bool:
    """Whether the tests pass with this source of a module: in a fork, since imports take longer than the tests."""
    if child := os.fork():
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if code not in {pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED}:
            raise SystemExit(f"the tests of {TESTS} cannot be run (exit code {code})")
        return code == pytest.ExitCode.OK
    code = pytest.ExitCode.INTERNAL_ERROR
    try:
        with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere):
            try:
                exec(compile(source, str(module.__file__), "exec"), vars(module))  # noqa: S102 - that is a mutant
            except Exception:  # noqa: BLE001 - one that cannot even be imported is noticed
                code = pytest.ExitCode.TESTS_FAILED
            else:
                code = pytest.ExitCode(pytest.main(["-x", "-q", "-p", "no:cacheprovider", str(ROOT / TESTS)]))
    finally:
        os._exit(code)


def main() -> None:
    """Runs the tests against every mutant."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--only", default="", help="only mutants of lines that hold this text")
    only = parser.parse_args().only
    tried = survived = 0
    home = Path(tempfile.mkdtemp(prefix="loginetl-tests-"))
    os.environ[RUNNING_STACK] = str(home)
    try:
        for module in MODULES:
            path = Path(str(module.__file__))
            source = path.read_text()
            lines = source.splitlines()
            if not _passes(module, source):
                raise SystemExit(f"the tests of {TESTS} fail without any change")
            for mutant in mutants_of(source):
                line = lines[mutant.line - 1].strip()
                if only not in line:
                    continue
                tried += 1
                if _passes(module, mutant.apply(source)):
                    survived += 1
                    change = f"{source[mutant.start : mutant.end].strip()} -> {mutant.new.strip() or 'left out'}"
                    print(f"survived: {path.name}:{mutant.line}: {change}: {line}", flush=True)  # noqa: T201
    finally:
        EmbeddedStack(home).stop()
        shutil.rmtree(home)
    print(f"{tried} mutants of storage's rules, {survived} survived")  # noqa: T201


if __name__ == "__main__":
    main()
