"""What the commands print with, and how they end: consoles, tables, one progress display, errors and exit codes.

Text that others wrote is made safe to display: a producer chooses user and device ids, see docs/privacy.md.
"""

import errno
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, TextIO

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from loginetl_assets.errors import NeedsAttentionError, OperatorError, SettingsError, TransientError, withheld

EXIT_CODES = "Exit codes: 0 done, 1 failed, 2 wrong usage or settings, 3 done and something needs a person."

out = Console()
err = Console(stderr=True)

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]

_FORMULA = tuple("=+-@＝＋－＠")  # noqa: RUF001 - spreadsheets take the full-width ones too


def note(text: str) -> None:
    """Prints a line for people, on stderr; rich's markup is obeyed."""
    err.print(text, highlight=False, soft_wrap=True)


def print_json(value: object) -> None:
    """Prints JSON for programs, as `as_json`."""
    print(as_json(value), end="")  # noqa: T201


def as_json(value: object) -> str:
    """Returns JSON with a line break at its end; what JSON does not have, such as a time, as text."""
    return f"{json.dumps(value, default=str, indent=2)}\n"


def print_record(record: Mapping[str, object], show: Callable[[Any], str] = str, *, title: str | None = None) -> None:
    """Prints a table of names and values; None as a dash, and a field's name with spaces."""
    table = Table(Column(style="bold"), Column(overflow="fold"), title=title, title_justify="left", show_header=False)
    for name, value in record.items():
        text = "-" if value is None else for_terminal(show(value), keep="\n")
        table.add_row(escape(name.replace("_", " ") if name.isidentifier() else name), escape(text))
    out.print(table)


def print_counts(title: str, counts: Mapping[str, float]) -> None:
    """Prints a table of numbers by name."""
    print_record(counts, "{:,}".format, title=title)


def print_rows(rows: Sequence[Any], *names: str, as_json: bool) -> None:
    """Prints dataclasses as a table of the fields named, times in UTC; or as JSON, with all their fields."""
    if as_json:
        print_json([asdict(row) for row in rows])
        return
    table = Table(*(Column(name.replace("_", " "), overflow="fold") for name in names))
    for row in rows:
        values = (getattr(row, name) for name in names)
        table.add_row(*(escape(for_terminal(_cell(one))) for one in values))
    out.print(table)


def _cell(value: object) -> str:
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%d %H:%M:%S}"
    return "" if value is None else str(value)


def confirm(question: str, *, yes: bool, otherwise: str) -> None:
    """Asks, unless it is `yes`; OperatorError, saying `otherwise`, where the answer is no or stdin is closed."""
    with suppress(typer.Abort):
        if yes or typer.confirm(question, err=True):
            return
    raise OperatorError(otherwise)


def text_of(file: Path) -> str:
    """Returns the text of a file that a person named; SettingsError, if it cannot be read."""
    try:
        return file.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"cannot read {file} ({type(error).__name__})") from None


# The settings of a command that reads a value, so that one on its command line is refused by `refuse_values`.
READS_VALUES = {"allow_extra_args": True}


def refuse_values(context: typer.Context) -> None:
    """Refuses what was put where every user of the machine sees it, and does not repeat it; `-` stands for stdin."""
    if {*context.args} - {"-"}:
        raise SettingsError(
            "a value on the command line is in the list of processes and in the shell's history, so it was not used:"
            " delete it there, and type it at the prompt or pipe it to standard input"
        )


def read_value(name: str) -> str:
    """Reads a value that must be no argument: at a prompt, which shows it, or as all of standard input.

    One line break at its end is not part of it. Raises SettingsError where nothing was entered, or no UTF-8.
    """
    entered = b""
    if sys.stdin is not None and sys.stdin.isatty():
        err.print(f"{name}: ", end="")
        entered = sys.stdin.buffer.readline()
    elif sys.stdin is not None:
        entered = sys.stdin.buffer.read()
    try:
        value = entered.decode().removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError:
        raise SettingsError(f"the {name} is not UTF-8") from None
    if not value:
        raise SettingsError(f"no {name} was given: type it at the prompt, or pipe it to standard input")
    return value


@contextmanager
def progress() -> Iterator[Callable[[str, int, int], None]]:
    """Shows a bar for each step; the function that it yields takes the step's name, what is done and the total."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as bars:
        tasks = {}

        def show(step: str, done: int, total: int) -> None:
            if step not in tasks:
                tasks[step] = bars.add_task(step)
            bars.update(tasks[step], completed=done, total=total)

        yield show


def exit_code_of(error: Exception) -> int:
    """Prints an error in one line, with only the words that are known to carry no personal data; returns its code."""
    if isinstance(error, NeedsAttentionError):
        note(f"[yellow]needs attention:[/] {escape(for_terminal(str(error)))}")
        return error.exit_code
    if isinstance(error, OperatorError | TransientError):
        text = str(error)
    elif isinstance(error, OSError) and error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EPIPE}:
        sys.stdout = None  # stdout cannot be written; else the interpreter tries once more and complains
        text = f"cannot write the output ({error.strerror})"
    else:
        text = withheld(error)
    # Escaped: paths, and IPv6 addresses in URLs, have brackets, which rich takes for markup.
    note(f"[red]error:[/] {escape(for_terminal(text))}")
    return error.exit_code if isinstance(error, OperatorError) else 1


def for_terminal(text: str, *, keep: str = "") -> str:
    """Returns the text with each character that does not print, except those to keep, as Python's escape of it."""
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() or one in keep else one.encode("unicode_escape").decode() for one in text)


def for_spreadsheet(text: str) -> str:
    """Returns the text as `for_terminal`, with a single quote in front of what would be a formula."""
    shown = for_terminal(text)
    return f"'{shown}" if shown.startswith(_FORMULA) else shown


@dataclass(frozen=True)
class TerminalStream:
    """Takes the bytes of UTF-8 text, whole lines at a time, and writes them to a terminal by `for_terminal`."""

    terminal: TextIO

    def write(self, content: bytes) -> int:
        """Writes whole lines."""
        text = str(content, "utf-8", "backslashreplace")  # psycopg brings a memoryview, which has no `decode`
        return self.terminal.write(for_terminal(text, keep="\n"))
