"""The documents agree with the repository: links, named files, tests, settings and make targets exist."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from loginetl_assets.cli.main import app

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob(".github/*.md")])
NAMES = [str(path.relative_to(ROOT)) for path in DOCUMENTS]

# Where a document's `unit/test_x.py` or `steps/mask.py` may be.
BASES = (ROOT, ROOT / "loginetl_assets", ROOT / "loginetl_assets_tests", ROOT / "docs", ROOT / "docs/decisions")
# Named as files that are written, or as examples of others' files.
NOT_OF_THE_REPOSITORY = {
    "bench/results/soak.md",
    "deploy/.env",
    "installation.json",
    "keys/officer-private.json",
    "loginetl_assets/storage/migrations/versions/v0002_country.py",
    "loginetl_assets_tests/unit/test_country.py",
    "loginetl_assets_tests/unit/test_email.py",
    "officer-private.json",
    "queue.py",
    "subject-report.json",
    "v0002_what_it_does.py",
}
# Superseded records name what was there before.
SUPERSEDED = {"docs/design.md"}


def text_of(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def code_spans(text: str) -> Iterator[str]:
    yield from re.findall(r"`([^`\n]+)`", text)


def headings(path: Path) -> set[str]:
    """The anchors of a document, as GitHub makes them from headings."""
    lines = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", line.lower()).replace(" ", "-") for line in lines}


@pytest.mark.parametrize("name", NAMES)
def test_every_relative_link_names_a_file_and_a_heading(name: str) -> None:
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", text_of(name)):
        if re.match(r"[a-z]+:", target):
            continue
        file, _, anchor = target.partition("#")
        path = (ROOT / name).parent / file if file else ROOT / name
        if not path.exists() or (anchor and anchor not in headings(path)):
            broken.append(target)

    assert broken == []


@pytest.mark.parametrize("name", NAMES)
def test_every_file_that_a_document_names_exists(name: str) -> None:
    missing = []
    for span in code_spans(text_of(name)):
        if not re.fullmatch(r"[\w.\-/]+\.(?:py|md|ya?ml|toml|sql|mjs|conf|json|jsonl|txt|svg|example)", span):
            continue
        if span in NOT_OF_THE_REPOSITORY | SUPERSEDED or span.startswith("."):
            continue
        if not any((base / span).exists() for base in BASES):
            missing.append(span)

    assert missing == []


@pytest.mark.parametrize("name", NAMES)
def test_every_test_that_a_document_names_exists(name: str) -> None:
    missing = []
    file = ""
    for named_file, test in re.findall(r"`((?:[\w/]+\.py)?)::(test_\w+)`", text_of(name)):
        file = named_file or file  # "`a.py::test_x`, `::test_y`": the second is in the same file
        path = ROOT / "loginetl_assets_tests" / file
        if not path.is_file() or f"def {test}(" not in path.read_text(encoding="utf-8"):
            missing.append(f"{file}::{test}")

    assert missing == []


@pytest.mark.parametrize("name", NAMES)
def test_every_setting_that_a_document_names_is_declared(name: str) -> None:
    declared = set(re.findall(r"LOGINETL_[A-Z_]+", text_of("docs/settings.md")))
    declared |= set(re.findall(r"LOGINETL_[A-Z_]+", text_of("deploy/compose.env.example")))
    examples = {"LOGINETL_ENVIRONMENT", "LOGINETL_"}  # a misspelt one, and the prefix

    assert set(re.findall(r"LOGINETL_[A-Z_]*", text_of(name))) - declared - examples - {"LOGINETL_KEYSET_"} == set()


@pytest.mark.parametrize("name", NAMES)
def test_every_make_target_that_a_document_names_exists(name: str) -> None:
    targets = set(re.findall(r"^([a-z0-9]+):", text_of("Makefile"), flags=re.MULTILINE))
    named = set(re.findall(r"(?:^    |`)(?:[A-Z]+=\S+ )?make ([a-z0-9]+)", text_of(name), flags=re.MULTILINE))

    assert named - targets - {"docs", "dist"} == set()


@pytest.mark.parametrize("name", NAMES)
def test_no_document_has_the_marks_of_a_conflict(name: str) -> None:
    assert re.findall(r"^(?:<{7}|={7}|>{7})(?: .*)?$", text_of(name), flags=re.MULTILINE) == []


def test_every_pytest_command_of_contributing_selects_a_test() -> None:
    commands = re.findall(r"^    \.venv/bin/pytest (\S+)(?: -k (\w+))?", text_of("CONTRIBUTING.md"), flags=re.MULTILINE)

    assert commands
    for path, word in commands:
        names = re.findall(r"^def (test_\w+)", text_of(path), flags=re.MULTILINE)
        assert any(word in name for name in names), (path, word)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "CHANGELOG.md"])
def test_every_loginetl_command_and_option_that_a_document_names_exists(name: str) -> None:
    for line in re.findall(r"(?:^    (?:\.venv/bin/)?|`)(loginetl [a-z][^`\n#;]*)", text_of(name), flags=re.MULTILINE):
        command: Any = typer.main.get_command(app)
        options = {"--help"}
        for word in line.split()[1:]:
            if word in getattr(command, "commands", {}):
                command = command.commands[word]
                options |= {option for one in command.params for option in one.opts}
            else:
                assert not hasattr(command, "commands") or word.startswith("-") or not word.isalpha(), line
        assert set(re.findall(r"(?<=\s)--[a-z-]+", line)) <= options, line
