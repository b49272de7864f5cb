"""What the commands print with, and how they end: consoles, tables, one progress display, errors and exit codes.

Text that others wrote is made safe to display: a producer chooses user and device ids, see docs/privacy.md.
"""

import errno
import io
import json
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from textwrap import wrap
from types import MappingProxyType
from typing import Annotated, Any, TextIO

import typer
from rich.console import Console
from rich.markup import escape
from rich.measure import Measurement
from rich.table import Column, Table
from typer.core import TyperCommand

from loginetl_assets.errors import NeedsAttentionError, OperatorError, SettingsError, TransientError, withheld
from loginetl_assets.steps.progress import SECONDS_BETWEEN_LINES

EXIT_CODES = "Exit codes: 0 done, 1 failed, 2 wrong usage or settings, 3 done, and a person has to look."

out = Console()
err = Console(stderr=True)

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]

_WHOLE_WORDS: Mapping[str, Any] = {"break_long_words": False, "break_on_hyphens": False}
_FORMULA = tuple("=+-@＝＋－＠")  # noqa: RUF001 - spreadsheets take the full-width ones too


class _UnlessClosed(io.FileIO):
    """A file that takes what is written once its reader has left, as `head` does, and drops it."""

    def write(self, content: Any) -> int:
        try:
            return super().write(content)
        except BrokenPipeError:
            return len(content)


def unless_closed(stream: TextIO) -> TextIO:
    """Returns standard output or standard error such that a closed pipe is no error."""
    file = io.BufferedWriter(_UnlessClosed(stream.fileno(), "w", closefd=False))
    return io.TextIOWrapper(file, stream.encoding, stream.errors, line_buffering=bool(stream.line_buffering))


def program() -> str:
    """Returns how this program is called from where the caller is: by its name if that finds it, else as it was."""
    found = shutil.which("loginetl")
    return "loginetl" if found and Path(sys.argv[0]).exists() and Path(found).samefile(sys.argv[0]) else sys.argv[0]


def note(text: str) -> None:
    """Prints a line for people, on stderr; rich's markup is obeyed."""
    err.print(text, highlight=False, soft_wrap=True)


def print_json(value: object) -> None:
    """Prints JSON for programs, as `as_json`."""
    print(as_json(value), end="", flush=True)  # noqa: T201 - at exit nobody would name a full disk


def as_json(value: object) -> str:
    """Returns JSON with a line break at its end; what JSON does not have, such as a time, as text."""
    return f"{json.dumps(value, default=str, indent=2)}\n"


def print_record(record: Mapping[str, object]) -> None:
    """Prints names and values, each value beside its name or, where the line is too short for a word of it, below.

    No word is broken, so that an id or a URL can be copied. None and empty values are left out.
    """
    names = {name: "DAGSTER_HOME" if name == "dagster_home" else name.replace("_", " ") for name in record}
    room = out.width - (indent := max(map(len, names.values()), default=0) + 2)
    for name, value in record.items():
        lines = [] if value is None else for_terminal(str(value), keep="\n").split("\n")
        lines = [part for line in lines for part in wrap(line, room, **_WHOLE_WORDS)]
        is_long = any(len(line) > room for line in lines)
        for number, line in enumerate(lines):
            shown = "" if number else names[name]
            between = "\n  " if is_long and not number else " " * (2 if is_long else indent - len(shown))
            out.print(f"[bold]{escape(shown)}[/]{between}{escape(line)}", highlight=False, soft_wrap=True)


def print_counts(title: str, counts: Mapping[str, float], meanings: Mapping[str, str] = MappingProxyType({})) -> None:
    """Prints a table of numbers by name, with what they mean where that is told."""
    table = Table(Column(style="bold"), Column(justify="right"), "", box=None, show_header=False, padding=(0, 2, 0, 0))
    for name, count in counts.items():
        shown = name.replace("_", " ") if name.isidentifier() else name  # but not in the name of a table
        table.add_row(escape(shown), f"{count:,}", escape(meanings.get(name, "")))
    out.print(f"[bold]{escape(title)}[/]", table, sep="\n")


def print_rows(rows: Sequence[Any], *names: str, as_json: bool) -> None:
    """Prints dataclasses by the fields named, times in UTC; or as JSON, with all their fields.

    As a table where the terminal is wide enough; else as lines that are broken between fields and never within one.
    """
    if as_json:
        print_json([asdict(row) for row in rows])
        return
    titles = [name.replace("_", " ") for name in names]
    cells = [[for_terminal(_cell(getattr(row, name))) for name in names] for row in rows]
    table = Table(*titles)
    for row in cells:
        table.add_row(*map(escape, row))
    if Measurement.get(out, out.options.update(max_width=sys.maxsize), table).maximum <= out.width:
        out.print(table)
        return
    for row in cells:
        # Spaces within a field are none for `wrap`: `for_terminal` has left no other \xa0.
        shown = (f"{title}: {cell}".replace(" ", "\xa0") for title, cell in zip(titles, row, strict=True) if cell)
        for line in wrap("  ".join(shown), out.width, subsequent_indent="  ", **_WHOLE_WORDS):
            out.print(line.replace("\xa0", " "), markup=False, highlight=False, soft_wrap=True)


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


class ReadsValue(TyperCommand):
    """A command that reads a value: one on the command line, where every user of the machine sees it, is refused."""

    allow_extra_args = True  # click would repeat them

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Raises SettingsError, which does not repeat the value; `-` stands for stdin."""
        is_in_option = any(one.startswith("--user-id=") for one in args)
        if is_in_option or {*super().parse_args(ctx, args)} - {"-"}:
            raise SettingsError(
                "a value on the command line is in the list of processes and in the shell's history, so it was not"
                " used: delete it there, and type it at the prompt or pipe it to standard input"
            )
        return []


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
def progress(clock: Callable[[], float] = time.monotonic) -> Iterator[Callable[[str, int, int], None]]:
    """Shows a bar for each step; the function that it yields takes the step's name, what is done and the total.

    Where stderr is no terminal, such as in cron, a line every ten seconds stands for each bar.
    """
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as bars:
        tasks = {}
        written_at: dict[str, float] = {}

        def show(step: str, done: int, total: int) -> None:
            if step not in tasks:
                tasks[step] = bars.add_task(step)
            bars.update(tasks[step], completed=done, total=total)
            is_due = clock() - written_at.setdefault(step, clock()) >= SECONDS_BETWEEN_LINES
            if total and is_due and not err.is_terminal:
                written_at[step] = clock()
                err.print(f"{step}: {done:,} of {total:,}")

        yield show


def exit_code_of(error: Exception) -> int:
    """Prints an error in one line, with only the words that are known to carry no personal data; returns its code."""
    if isinstance(error, NeedsAttentionError):
        note(f"[yellow]needs attention:[/] {escape(for_terminal(str(error)))}")
        return error.exit_code
    if isinstance(error, OperatorError | TransientError):
        text = str(error)
    elif isinstance(error, OSError) and error.errno in {errno.ENOSPC, errno.EDQUOT}:
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
