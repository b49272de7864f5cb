"""CPU time per byte for reading hostile bodies at two lengths, which must be about the same."""

import time
from pathlib import Path
from uuid import UUID

from rich.console import Console
from rich.table import Table

from loginetl_assets.keys.keyring import Keyring
from loginetl_assets.logins.masking import mask_batch
from loginetl_assets.logins.message import QueuedMessage
from loginetl_assets.logins.tokens import Tokenizer
from loginetl_assets_tests.support.corpus import GROWING, MIB

LONG, SHORT = MIB, 64 * 1024  # 1 MiB is the maximum of SQS
_REPEATS = 3


def measure(home: Path) -> dict[str, dict[str, float]]:
    """Returns nanoseconds per byte for each shape, in bodies of 64 KiB and 1 MiB, and their ratio; the best of three.

    Sixteen short bodies make a batch, so that the fixed cost of a batch is the same for both lengths; all differ,
    since equal values are processed only once.
    """
    tokenizer = Keyring({}, home / "keys").tokenizer
    readings = {}
    for name, shape in GROWING.items():
        short = _nanoseconds(tokenizer, [shape(SHORT + number) for number in range(LONG // SHORT)])
        long = _nanoseconds(tokenizer, [shape(LONG)])
        readings[name] = {"short": short, "long": long, "ratio": long / short}
    return readings


def show(console: Console, readings: dict[str, dict[str, float]]) -> None:
    """Prints the table; a shape with quadratic time would have a ratio near sixteen."""
    table = Table("", "ns per byte, 64 KiB", "ns per byte, 1 MiB", "ratio", title="Reading hostile bodies (CPU time)")
    for column in table.columns[1:]:
        column.justify = "right"
    for name, one in readings.items():
        table.add_row(name, f"{one['short']:.1f}", f"{one['long']:.1f}", f"{one['ratio']:.2f}")
    console.print(table)


def _nanoseconds(tokenizer: Tokenizer, bodies: list[bytes]) -> float:
    messages = [QueuedMessage(str(UUID(int=number)), 0, body) for number, body in enumerate(bodies)]
    best = float("inf")
    for _ in range(_REPEATS):
        started = time.process_time_ns()
        mask_batch(messages, tokenizer)
        best = min(best, time.process_time_ns() - started)
    return best / sum(map(len, bodies))
