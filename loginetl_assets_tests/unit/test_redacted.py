import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loginetl_assets.logins.redacted import MAX_CHARACTERS, redacted_shape


@pytest.mark.parametrize(
    ("body", "shown"),
    [
        (
            b'{"user_id": "Ann-7", "ip": "198.51.100.7", "locale": null}',
            '{"user_id": "xxx-9", "ip": "999.99.999.9", "locale": null}',
        ),
        (b'{"foo": "oops", "device": {"id": 12}}', '{"xxx": "xxxx", "device": {"id": 99}}'),
        (b'{"ip": "user_id"}', '{"ip": "xxxx_xx"}'),
        (b'{"null": NaN, "a": "true"}', '{"xxxx": NaN, "x": "xxxx"}'),
        (b'\xef\xbb\xbf{"ip": 1', '\\ufeff{"ip": 9'),
        (b"\xff\xfe{", "\\xff\\xfe{"),
        ('{"user_id": "Иван é"}'.encode("cp1251", "replace"), '{"user_id": "' + "\\x··" * 4 + ' ?"}'),
        ('{"ip": "a\U000e0041\ue000"}'.encode(), '{"ip": "x··"}'),
        ('{"ip": "١.٢ \u202e\u200b ж"}'.encode(), '{"ip": "9.9 \\u202e\\u200b x"}'),
        (b'{"ip": "a\\u0000b"}', '{"ip": "x\\x9999x"}'),
        (b'{"ip": "\x80\xff"}', '{"ip": "\\x··\\x··"}'),  # the first and the last byte that can fail to decode
        ('{"ip": "a\u00a0b\u2028\u2029"}'.encode(), '{"ip": "x\\u00a0x\\u2028\\u2029"}'),
        (b'{"ip": "X Y"}', '{"ip": "x x"}'),
        (b"", ""),
        (b"a\r\n\tb\x00", "x\\u000d\n\tx\\u0000"),
    ],
)
def test_a_redacted_shape_shows_the_form_and_no_value(body: bytes, shown: str) -> None:
    assert redacted_shape(body) == shown


def test_a_body_that_is_shown_whole_names_no_length() -> None:
    assert redacted_shape(b"a" * MAX_CHARACTERS) == "x" * MAX_CHARACTERS


def test_a_long_body_is_cut_and_its_length_named() -> None:
    shown = redacted_shape(b"a" * 100_000)
    assert shown == "x" * MAX_CHARACTERS + "… (100000 bytes)"


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_no_body_breaks_it_and_no_letter_or_digit_of_a_value_gets_through(body: bytes) -> None:
    shown = redacted_shape(b'{"ip": "' + body.replace(b'"', b"") + b'"}').removeprefix('{"ip": "').removesuffix('"}')
    rest = re.sub(r"\\x··|\\u[0-9a-f]{4}", "", shown)  # counted bytes, and named controls
    assert {character for character in rest if character.isalnum()} <= {"x", "9"}


@settings(deadline=None)
@given(st.text(st.characters(categories=["L", "N"]), min_size=1, max_size=50))
def test_every_letter_and_digit_of_a_value_is_masked(value: str) -> None:
    shown = redacted_shape(f'{{"device_id": "{value}"}}'.encode())
    assert set(shown.removeprefix('{"device_id": "').removesuffix('"}')) <= {"x", "9"}
