"""One voice: no word that has a term in its place (docs/glossary.md) is in any text, or in the name of a test."""

import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PLACES = (
    *("loginetl_assets", "loginetl_assets_tests", "docs", "deploy", "bench", ".github"),
    *("*.md", "*.yml", "*.yaml", "*.toml", "Dockerfile", "Makefile"),
)
SUFFIXES = {".py", ".md", ".yml", ".yaml", ".sql", ".conf", ".toml", ".mjs", ".svg", ".example", ""}

# What is not written, and the term in its place.
INSTEAD = {
    r"seal(?:s|ed|ing)?": "encrypt",
    r"sets? (?:it )?aside|setting aside": "quarantine",
    r"mend(?:s|ed|ing)?": "fix",
    r"g[ia]ve(?:s|n)? (?:\w+ )?back|giving back": "return; make visible again (SQS)",
    r"word for word": "exact duplicate",
    r"stands? there twice": "duplicate row",
    r"what c[ao]me of|what it came to": "results",
    r"in the clear": "in plaintext",
    r"outlines?": "redacted shape",
    r"(?:rules )?as they are now": "current validation rules",
    r"retoken": "retokenize",
    r"rewrap(?:s|ped)?": "reencrypt",
    r"doom(?:s|ed)?": "pending deletion",
    r"told once": "alerts once",
    r"(?:it|condition) is over": "is resolved",
    r"declining health": "degraded",
    r"all is well": "healthy",
    r"found by halving|halved": "bisected",
    r"in a circle": "deadlock",
    r"commit unheard|answer lost": "acknowledgement lost",
    r"overdrawn|counts_disagree": "count mismatch",
    r"way of the data|rooms? of the house": "data flow, repository layout",
    r"web page": "Dagster UI",
    r"materialis\w+": "materialize",
    r"leads? (?:in)?to": "points to",
    r"can be had": "is available",
    r"go(?:es)? by": "uses",
    r"anew": "again",
    r"made[- ]up": "placeholder, invented",
    r"(?:is|are) meant": "is selected, is used",
    r"second look|by one look": "reading",
    r"can(?:not)? be told": "is known",
    r"somebody": "someone, or the role",
    r"tables? of logins": "login table",
    r"(?-i:is none)": "is not a valid …",
    r"install (?:--upgrade )?'?loginetl\[local\]": "'.[local]', as nothing of that name is published",
    r"of more than one user": "shared",
    r"most_[a-z]+": "max_…",
}


def texts() -> Iterator[tuple[str, str]]:
    files = {
        file
        for place in PLACES
        for found in ROOT.glob(place)
        for file in ([found] if found.is_file() else found.rglob("*"))
        if file.is_file() and file.suffix in SUFFIXES and {"node_modules", "results", ".venv"}.isdisjoint(file.parts)
    }
    for file in sorted(files - {Path(__file__)}):
        text = file.read_text(encoding="utf-8")
        if file.name == "CHANGELOG.md":  # whose list of renamed words has the old ones
            text = re.sub(r"### Renamed\n.*?(?=\n### )", "", text, flags=re.DOTALL)
        if file.suffix == ".py":
            text += "\n".join(name.replace("_", " ") for name in re.findall(r"def (test_\w+)", text))
        yield str(file.relative_to(ROOT)), text


def test_no_text_uses_a_word_that_has_a_term_in_its_place() -> None:
    words = {re.compile(rf"(?<![\w\-])(?:{word})(?![\w\-])", re.IGNORECASE): term for word, term in INSTEAD.items()}
    found = [
        f"{name}: {match[0]!r}: write {term!r}"
        for name, text in texts()
        for word, term in words.items()
        for match in word.finditer(text)
    ]

    assert found == []
