"""Pictures for the documentation of what a command printed."""

import io
import re
from pathlib import Path

from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console
from rich.text import Text


def save_picture(printed: str, file: Path, *, title: str) -> None:
    """Writes what was printed, with its colours, as an SVG that asks nobody for a font."""
    console = Console(record=True, width=80, file=io.StringIO())
    console.print(Text.from_ansi(printed))
    form = re.sub(r"@font-face \{\{.*?\}\}\n", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL)
    file.write_text(console.export_svg(title=title, code_format=form, unique_id="terminal"))
