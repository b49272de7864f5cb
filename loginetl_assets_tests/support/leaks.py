"""Searching what was written for values that must not be there."""

import base64
from collections.abc import Iterable, Iterator
from pathlib import Path
from urllib.parse import quote


def spellings(value: str) -> Iterator[bytes]:
    """A value in plain, reversed, hex, URL-encoded and base64; base64 at each offset it can have in a longer text."""
    plain = value.encode()
    yield plain
    yield plain[::-1]
    yield plain.hex().encode()
    yield plain.hex().upper().encode()
    yield quote(value, safe="").encode()
    yield "".join(f"%{byte:02X}" for byte in plain).encode()
    for before in range(3):
        encoded = base64.b64encode(b"\0" * before + plain)
        # The first and last group also depend on what stands beside the value.
        inner = encoded[4 if before else 0 : len(encoded) - 4]
        if len(inner) >= 8:
            yield inner
            yield inner.translate(bytes.maketrans(b"+/", b"-_"))


def holds(content: bytes, values: Iterable[str]) -> list[str]:
    """Which of the values stand in the bytes, in any spelling."""
    return [value for value in values if any(spelling in content for spelling in spellings(value))]


def find_leaks(values: Iterable[str], roots: Iterable[Path], *, leave_out: Iterable[Path] = ()) -> list[str]:
    """Reads every file below the roots; names each that holds a value in any spelling (and not which value)."""
    needles = {spelling for value in values for spelling in spellings(value)}
    left_out = tuple(leave_out)
    leaks = []
    for root in roots:
        for path in sorted(root.rglob("*")):
            if path.is_file() and not path.is_symlink() and not any(path.is_relative_to(one) for one in left_out):
                content = path.read_bytes()
                leaks += [str(path) for needle in needles if needle in content][:1]
    return leaks
