"""The strings that an erasure compares: however a body spells them, and whatever else is wrong with it."""

import json
import time

import pytest

from loginetl_assets.logins.strings import strings_in


@pytest.mark.parametrize(
    ("body", "found"),
    [
        (b'{"a": "b"}', {"a", "b"}),
        (rb'{"a": "\u0062\n"}', {"a", "b\n"}),
        (rb'"\ud800"', {"\ud800"}),  # a lone surrogate stays one
        (b'"\xed\xa0\x80"', {"\ud800"}),  # also where its bytes stand in the body
        (b'"\xff"', {"\ufffd"}),
        (rb'"a\x"', {r"a\x"}),  # no JSON escape: as it stands
        (b'"not ended', {"not ended"}),
        (b"no quote", set()),
        (b'"line\nbreak" "x"', {"line\nbreak", "x"}),
        (b'"line\n\\u0062"', {"line\nb"}),  # escapes beside a control character that JSON forbids
        (b'{"user_id": 17, "id" : -2.5e3, "count": 4}', {"user_id", "17", "id", "-2.5e3", "count"}),
        (b'{"user_id": "17"}', {"user_id", "17"}),
        (b'["id", 5]', {"id"}),
    ],
)
def test_every_string_is_found_and_a_number_that_is_an_id(body: bytes, found: set[str]) -> None:
    assert strings_in(body) == found


def test_strings_in_texts_that_stand_in_strings_are_found_to_the_fourth_level() -> None:
    text, levels = "u-1", []
    for level in range(6):
        text = json.dumps({f"level-{level}": text})
        levels.append(strings_in(text.encode()))
    assert [("u-1" in found) for found in levels] == [True, True, True, True, False, False]
    assert {"level-0", "level-1", "level-2", "level-3"} <= levels[3]


def test_time_is_linear_in_the_body() -> None:
    started = time.process_time()
    for body in (b'"' * 1_000_000, b'\\"' * 500_000, b'{"id":' * 200_000, b'"a\\' * 300_000):
        strings_in(body)
    assert time.process_time() - started < 60
