"""Machine facts, the rows of each table, and the JSON files that keep the figures."""

import json
import os
import platform
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table

from bench.contenders import CONTENDERS
from bench.targets import TARGETS

_HERE = Path(__file__).parent
MEASURED = _HERE / "measured.json"  # what the documents show
_PACKAGES = ("dagster", "boto3", "polars", "psycopg", "SQLAlchemy", "tink", "msgspec")
BY_CONTENDER = {
    "drained": "first receive to last commit, msg/s",
    "whole": "process start to end, msg/s",
    "cpu": "CPU, µs a message",
}

Results = dict[str, Any]  # machine, counts, parts: each with its readings, or the outcomes of faults
Cells = Sequence[str]


def machine() -> dict[str, Any]:
    """Returns what the figures depend on; nothing that identifies the machine or its owner."""
    model = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return {
        "cores": os.cpu_count(),
        "processor": model[0].partition(":")[2].strip() if model else platform.machine(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        "system": f"{platform.system()} {platform.release().split('-')[0]}",
        "python": platform.python_version(),
        **{name.lower(): version(name) for name in _PACKAGES},
    }


def write(results: Results) -> Path:
    """Writes all figures to a new file in `bench/results`, named by the time, and returns its path."""
    path = _HERE / "results" / f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    return path


def save(results: Results) -> None:
    """Makes the figures those of the documents; parts that were not measured keep theirs."""
    kept = measured()
    saved = {**results, "parts": {**kept["parts"], **results["parts"]}}
    MEASURED.write_text(json.dumps(saved, indent=1) + "\n", encoding="utf-8")


def measured() -> Results:
    """Returns what is saved for the documents."""
    return dict(json.loads(MEASURED.read_text(encoding="utf-8")))


def show(console: Console, results: Results) -> None:
    """Prints every figure, the targets' beside their targets."""
    for title, header, rows in (
        ("Targets", ("", "target", "median (lowest to highest)", "met"), target_rows(results)),
        ("The same queue", ("", *BY_CONTENDER.values()), contender_rows(results)),
        ("Other figures", ("", "median (lowest to highest)"), other_rows(results)),
        ("Faults", fault_header(results), fault_rows(results)),
    ):
        if rows := list(rows):
            table = Table(*header, title=title)
            for row in rows:
                table.add_row(*row)
            console.print(table)


def target_rows(results: Results) -> Iterable[Cells]:
    """Yields a row for each target."""
    for target in TARGETS:
        readings = readings_of(results, target.part)
        wanted = f"{target.bound} {target.shown(target.value)}"
        if values := readings.get(target.reading):
            yield target.what, wanted, _spread(values, target.shown), "yes" if target.is_met(values) else "no"
        else:
            yield target.what, wanted, "not measured", ""


def contender_rows(results: Results) -> Iterable[Cells]:
    """Yields a row for each contender."""
    if readings := readings_of(results, "drain"):
        for one in CONTENDERS:
            yield one.name, *(_spread(readings[f"{one.name}: {figure}"]) for figure in BY_CONTENDER)


def other_rows(results: Results) -> Iterable[Cells]:
    """Yields a row for each figure that is neither a target's nor a contender's."""
    of_targets = {target.reading for target in TARGETS}
    for part in results["parts"]:
        for name, values in readings_of(results, part).items():
            if name not in of_targets and ": " not in name:
                yield name, _spread(values)


def fault_header(results: Results) -> Cells:
    """Returns the names of the tools whose rows `fault_rows` shows."""
    return "", *next(iter(_outcomes(results).values()), {})


def fault_rows(results: Results) -> Iterable[Cells]:
    """Yields a row for each fault, with what it did to each tool."""
    for fault, by_tool in _outcomes(results).items():
        yield fault, *(_said(outcome) for outcome in by_tool.values())


def readings_of(results: Results, part: str) -> dict[str, list[float]]:
    return dict(results["parts"].get(part, {}).get("readings", {}))


def _outcomes(results: Results) -> dict[str, dict[str, dict[str, int]]]:
    return dict(results["parts"].get("faults", {}).get("outcomes", {}))


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _spread(values: Sequence[float], shown: Callable[[float], str] = _number) -> str:
    middle, low, high = shown(median(values)), shown(min(values)), shown(max(values))
    return middle if low == high else f"{middle} ({low} to {high})"


def _said(outcome: Mapping[str, int]) -> str:
    said = [f"{outcome[name]:,} {name}" for name in ("lost", "twice", "stuck") if outcome[name]]
    if outcome["new_columns"]:
        said.append("table changed")
    if outcome["rejected"]:
        said.append(f"{outcome['rejected']:,} kept with a reason")
    return ", ".join(said) or "all loaded once"
