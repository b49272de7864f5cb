import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loginetl_assets.cli.console import TerminalStream, for_spreadsheet, for_terminal


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b]0;owned\x07", "\\x1b]0;owned\\x07"),
        ("\x9b2J", "\\x9b2J"),  # CSI in one character
        ("a\r\n\tb\x7f", "a\\r\\n\\tb\\x7f"),
        ("user\u202etxt.exe\u2066", "user\\u202etxt.exe\\u2066"),
        ("\u200b\u2028\ufeff\U000e0041", "\\u200b\\u2028\\ufeff\\U000e0041"),
        ("\ud800", "\\ud800"),
        ("Жук é 名 \\x1b", "Жук é 名 \\x1b"),
    ],
)
def test_what_could_steer_a_terminal_is_spelt_out(text: str, shown: str) -> None:
    assert for_terminal(text) == shown


@given(st.text())
def test_what_is_shown_prints(text: str) -> None:
    assert for_terminal(text).isprintable()
    assert all(one == "\n" or one.isprintable() for one in for_terminal(text, keep="\n"))
    assert for_terminal(for_terminal(text)) == for_terminal(text)


@pytest.mark.parametrize("start", [*"=+-@", *"＝＋－＠"])
def test_a_spreadsheet_finds_no_formula(start: str) -> None:
    assert for_spreadsheet(f"{start}1+1") == f"'{start}1+1"


@pytest.mark.parametrize("start", ["\t", "\r", "\n"])
def test_no_white_space_stands_before_a_formula(start: str) -> None:
    assert for_spreadsheet(f"{start}=1+1").startswith("\\")


@pytest.mark.parametrize("text", ["198.51.100.7", "2001:db8::1", "593-47-5928", "a=b", ""])
def test_a_missing_value_is_left_as_it_is_for_a_spreadsheet(text: str) -> None:
    assert for_spreadsheet(text) == text


def test_a_stream_keeps_the_ends_of_lines() -> None:
    terminal = io.StringIO()
    TerminalStream(terminal).write('u-1,"a\x1b[2J"\nä\udc80\n'.encode("utf-8", "surrogateescape"))

    assert terminal.getvalue() == 'u-1,"a\\x1b[2J"\nä\\x80\n'
