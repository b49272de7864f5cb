"""Prints the results as tables, and writes all figures as JSON to `bench/results/`."""

import json
import os
import platform
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from bench.drain import PIPELINE, Contender
from bench.measure import Spread
from bench.overhead import ALLOWED_SECONDS, Overhead

_RESULTS = Path(__file__).parent / "results"
_PACKAGES = ("dagster", "boto3", "polars", "psycopg", "SQLAlchemy", "tink", "msgspec")


def machine() -> dict[str, Any]:
    """Returns what the figures depend on; nothing that identifies the machine or its owner."""
    return {
        "cores": os.cpu_count(),
        "load_before": round(os.getloadavg()[0], 2),  # other work lowers the rates
        "system": platform.system(),
        "architecture": platform.machine(),
        "python": platform.python_version(),
        **{name.lower(): version(name) for name in _PACKAGES},
    }


def drained(console: Console, contenders: Mapping[str, Contender], messages: int) -> None:
    """Prints the drains; the ratios are those of this run's medians."""
    ours = contenders[PIPELINE]
    table = Table(title=f"{messages:,} messages drained")
    table.add_column("")
    table.add_column("msg/s, first receive\nto last commit", justify="right")
    table.add_column("loginetl ÷ this", justify="right")
    table.add_column("msg/s, start to end\nof the process", justify="right")
    table.add_column("loginetl ÷ this", justify="right")
    for name, one in contenders.items():
        table.add_row(
            name,
            _shown(one.drained),
            f"{ours.drained.median / one.drained.median:.2f}",
            _shown(one.with_process),
            f"{ours.with_process.median / one.with_process.median:.2f}",
        )
    console.print(table)
    for details in ours.details:
        steps = details["steps"]
        rates = ", ".join(
            f"{name} {steps[name]['seconds']:.1f} s ({steps[name]['rows_per_second']:,} per second)"
            for name in ("raw_login_messages", "masked_logins", "user_logins")
        )
        console.print(f"Of the job's {details['job_seconds']:.1f} s: {rates}.")


def rates(console: Console, title: str, found: Mapping[str, float]) -> None:
    """Prints rates by name."""
    table = Table("", "per second", title=title)
    table.columns[1].justify = "right"
    for name, rate in found.items():
        table.add_row(name, f"{rate:,.0f}")
    console.print(table)


def overhead(console: Console, found: Overhead) -> None:
    """Prints the cost compared with an empty Dagster job."""
    table = Table("", "seconds", title="`dagster asset materialize`, fresh process to exit")
    table.add_row("100 sample messages", _shown(found.pipeline, ".2f"))
    table.add_row("three empty assets", _shown(found.empty, ".2f"))
    table.add_row(f"difference (target: at most {ALLOWED_SECONDS:g})", _shown(found.difference, ".2f"))
    console.print(table)


def write(results: Mapping[str, Any]) -> Path:
    """Writes all figures to a new file, named by the time, and returns its path."""
    _RESULTS.mkdir(exist_ok=True)
    path = _RESULTS / f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}.json"
    path.write_text(json.dumps(results, indent=2, default=asdict) + "\n")
    return path


def ratios(contenders: Mapping[str, Contender]) -> dict[str, float]:
    """Returns the pipeline's rate divided by that of each other contender, from first receive to last commit."""
    ours = contenders[PIPELINE].drained.median
    return {name: round(ours / one.drained.median, 3) for name, one in contenders.items() if name != PIPELINE}


def _shown(spread: Spread, form: str = ",.0f") -> str:
    middle = format(spread.median, form)
    if spread.low == spread.high:
        return middle
    return f"{middle} ({format(spread.low, form)} to {format(spread.high, form)})"
