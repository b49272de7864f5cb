"""`python -m bench [PART]…`: measures, and prints every figure beside its target; see docs/benchmarks.md."""

import argparse
import os
import sys
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console

from bench import contenders, drains, inside, report, services
from bench.faults import faults
from bench.guard import guarded
from bench.run import BenchmarkError, Say
from bench.services import Services
from bench.start import start
from bench.targets import PARTS, QUICK, Counts, Readings
from loginetl_assets.errors import OperatorError, TransientError

_READINGS: dict[str, Callable[[Services, Counts, Say], Readings]] = {
    "drain": drains.end_to_end,
    "client": inside.client,
    "latency": drains.latency,
    "workers": drains.workers,
    "transform": inside.transform,
    "load": inside.load,
    "memory": drains.memory,
    "start": start,
}


def main() -> int:
    """Measures; returns exit code 1 if a part could not be measured or what it measured did something wrong."""
    arguments = _arguments()
    return guarded(lambda home: _measure(arguments, home))


def _measure(arguments: argparse.Namespace, home: Path) -> int:
    console = Console(width=None if sys.stdout.isatty() else 140)

    def say(text: str) -> None:
        console.print(text, style="dim", highlight=False)

    for name in [name for name in os.environ if name.startswith(("AWS_", "LOGINETL_", "DAGSTER_", "PG"))]:
        del os.environ[name]
    os.environ.update(services.ENVIRONMENT)
    counts = QUICK if arguments.quick else Counts()
    results: report.Results = {"counts": asdict(counts), "parts": {}}
    failed = False
    try:
        contenders.install(say)
        with services.services(home) as opened:
            results["machine"] = report.machine() | {"postgres": opened.postgres_version}
            results["machine"] |= services.versions() | contenders.versions()
            for part in arguments.parts or PARTS:
                try:
                    results["parts"][part] = _part(part, opened, counts, say)
                except (BenchmarkError, OperatorError, TransientError) as error:
                    console.print(f"{part}: {error}", style="red", markup=False, soft_wrap=True)
                    failed = True
    except BenchmarkError as error:
        console.print(f"error: {error}", style="red", markup=False, soft_wrap=True)
        return 1
    report.show(console, results)
    console.print(f"All figures: bench/results/{report.write(results).name}")
    if arguments.save:
        report.save(results)
        console.print("`make docs` writes them into the documents.")
    return int(failed)


def _part(name: str, opened: Services, counts: Counts, say: Say) -> dict[str, Any]:
    load, at = round(os.getloadavg()[0], 2), datetime.now(UTC)
    if load > 0.5:
        say(f"the machine is busy (load {load}): trust ratios, not figures")
    if name == "faults":
        found: dict[str, Any] = {"outcomes": faults(opened, counts, say)}
    else:
        found = {"readings": _READINGS[name](opened, counts, say)}
    return {"measured_at": f"{at:%Y-%m-%dT%H:%MZ}", "load_before": load, **found}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"any of {', '.join(PARTS)}; all by default")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--quick", action="store_true", help="small counts, once: to try it")
    how.add_argument("--save", action="store_true", help="keep the figures for the documents")
    arguments = parser.parse_args()
    if unknown := set(arguments.parts).difference(PARTS):
        parser.error(f"no such part: {', '.join(sorted(unknown))}; choose from {', '.join(PARTS)}")
    return arguments


if __name__ == "__main__":
    sys.exit(main())
