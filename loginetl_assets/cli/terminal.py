"""Text that others wrote, made fit to be looked at: in a terminal, in a spreadsheet.

A producer chooses user and device ids. Printed as they are, a control sequence in one could rename the window, move the
cursor or write to the clipboard, and a bidirectional mark could show another order than there is; opened in a
spreadsheet, `=HYPERLINK(…)` is a formula.
"""

from typing import TextIO

_FORMULA = tuple("=+-@＝＋－＠")  # noqa: RUF001 - spreadsheets take the full-width ones too


def for_terminal(text: str, *, keep: str = "") -> str:
    """The text with each character that does not print, but for those to keep, spelt by its code as Python does."""
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() or one in keep else one.encode("unicode_escape").decode() for one in text)


def for_spreadsheet(text: str) -> str:
    """The text as `for_terminal`, a single quote in front of what would be a formula."""
    shown = for_terminal(text)
    return f"'{shown}" if shown.startswith(_FORMULA) else shown


class TerminalStream:
    """Takes the bytes of UTF-8 text, whole lines at a time, and writes them to a terminal by `for_terminal`."""

    def __init__(self, terminal: TextIO) -> None:
        """Takes the terminal."""
        self._terminal = terminal

    def write(self, content: bytes) -> int:
        """Writes."""
        text = str(content, "utf-8", "backslashreplace")  # psycopg brings a memoryview, which has no `decode`
        return self._terminal.write(for_terminal(text, keep="\n"))
