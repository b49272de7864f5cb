import io
from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loginetl_assets.cli.console import TerminalStream, for_spreadsheet, for_terminal, out, print_record, print_rows
from loginetl_assets.errors import counted


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


@dataclass
class Row:
    message_uuid: UUID
    sent_at: datetime
    reason: str
    field: str | None


ROW = Row(UUID(int=1), datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC), "missing_field", None)


def test_a_narrow_terminal_breaks_lines_between_fields(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(out, "width", 60)
    print_rows([ROW], "message_uuid", "sent_at", "reason", "field", as_json=False)

    assert capsys.readouterr().out.splitlines() == [
        "message uuid: 00000000-0000-0000-0000-000000000001",
        "  sent at: 2026-01-02 03:04:05  reason: missing_field",
    ]


def test_a_wide_terminal_has_a_table(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(out, "width", 100)
    print_rows([ROW], "message_uuid", "sent_at", "reason", "field", as_json=False)

    assert "│ 00000000-0000-0000-0000-000000000001 │ 2026-01-02 03:04:05 │" in capsys.readouterr().out


def test_no_word_of_a_record_is_broken(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(out, "width", 30)
    print_record({"queue_url": f"https://{'x' * 40}", "dagster_home": "/home", "in_flight": None, "why": "a [b] " * 6})

    assert capsys.readouterr().out.splitlines() == [
        "queue url",
        f"  https://{'x' * 40}",
        "DAGSTER_HOME  /home",
        "why           a [b] a [b] a",
        "              [b] a [b] a [b]",
        "              a [b]",
    ]


@pytest.mark.parametrize(
    ("count", "noun", "said"),
    [(0, "row", "0 rows"), (1, "batch", "1 batch"), (2_000, "batch", "2,000 batches"), (2, "message", "2 messages")],
)
def test_a_count_has_its_noun_in_the_form_that_it_needs(count: int, noun: str, said: str) -> None:
    assert counted(count, noun) == said
