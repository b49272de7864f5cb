"""The soak's report: a page to read and the same as JSON; no host, path or value in either."""

import json
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from math import ceil
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from loginetl_assets_tests.support.soak import Outcome

_BARS = " ▁▂▃▄▅▆▇█"
_WIDTH = 80


def figures(outcome: "Outcome") -> dict[str, Any]:
    """What the page shows, by name."""
    samples, memory, runs = outcome.samples, outcome.memory, outcome.runs
    sent = sum(outcome.kinds.values())
    return {
        "messages sent": sent,
        "of them bad": sent - outcome.kinds.get("good", 0),
        "seconds of arrival": round(outcome.seconds, 1),
        "messages a second": round(sent / outcome.seconds, 1),
        "workers": outcome.plan.workers,
        "kills": outcome.kills,
        "freezes": outcome.freezes,
        "runs that ended": len(runs),
        "of them reprocessing": sum(run.reprocess for run in runs),
        "of them with no visibility time-out": sum(run.hasty for run in runs),
        "median seconds a run": round(median([run.seconds for run in runs] or [0]), 2),
        "longest run, seconds": max((run.seconds for run in runs), default=0),
        "steps tried again": _counted(outcome.retries),
        "steps failed for good": _counted(outcome.failures),
        "failed checks": _counted(outcome.failed_checks),
        "workers that ended by themselves": len(outcome.crashes),
        "deadlocks (Postgres's count)": samples[-1].deadlocks,
        "batches": outcome.verdict.totals["batches"],
        "messages landed": outcome.verdict.totals["messages"],
        "loaded": outcome.verdict.totals["loaded"],
        "rejected": outcome.verdict.totals["rejected"],
        "duplicates by redelivery": outcome.verdict.totals["duplicates"],
        "pending at the end": outcome.verdict.totals["pending"],
        "objects replaced by reprocessing": outcome.verdict.objects["replaced"],
        "unregistered objects in the landing": outcome.verdict.objects["unregistered_objects"],
        "largest lag, messages": max(one.lag for one in samples),
        "oldest pending message, seconds": max(one.pending_seconds for one in samples),
        "seconds to run dry after the last message": outcome.drained_after and round(outcome.drained_after, 1),
        "most connections to Postgres": max(one.connections for one in samples),
        "memory of the worker never struck, MB: start": round(memory.start, 1),
        "memory, MB: end": round(memory.end, 1),
        "memory, MB: largest": round(memory.largest, 1),
        "memory, MB a minute": round(memory.slope_per_minute, 2),
        "memory, MB: largest of any worker": max(one.largest_mb for one in samples),
    }


def as_markdown(outcome: "Outcome") -> str:
    """The page."""
    samples = outcome.samples
    over_time: dict[str, list[float]] = {
        "lag, messages": [one.lag for one in samples],
        "in flight": [one.in_flight for one in samples],
        "pending, seconds": [one.pending_seconds for one in samples],
        "memory, MB": [one.survivor_mb for one in samples],
    }
    problems = [f"- {problem}" for problem in outcome.problems] or ["Nothing lost, nothing twice, every count adds up."]
    return "\n".join(
        [
            "# Soak",
            "",
            *problems,
            "",
            "| | |",
            "| --- | ---: |",
            *(
                f"| {name} | {value:,} |" if isinstance(value, int) else f"| {name} | {value} |"
                for name, value in figures(outcome).items()
            ),
            "",
            "Over time, arrival and draining:",
            "",
            *(f"    {name:<18} {sparkline(values)} up to {max(values):,.0f}" for name, values in over_time.items()),
            "",
        ]
    )


def write(outcome: "Outcome", directory: Path) -> None:
    """Writes soak.md and soak.json."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "soak.md").write_text(as_markdown(outcome))
    content = {
        "plan": asdict(outcome.plan),
        "machine": {
            "cores": os.cpu_count(),
            "system": platform.system(),
            "architecture": platform.machine(),
            "python": platform.python_version(),
        },
        "problems": outcome.problems,
        "figures": figures(outcome),
        "kinds": outcome.kinds,
        "totals": outcome.verdict.totals,
        "samples": [{**asdict(one), "lag": one.lag} for one in outcome.samples],
        "runs": msgspec.to_builtins(outcome.runs),
    }
    (directory / "soak.json").write_text(json.dumps(content, indent=1) + "\n")


def sparkline(values: Sequence[float]) -> str:
    """The values as a line of bars, the largest of each stretch."""
    step = max(1, -(-len(values) // _WIDTH))
    peaks = [max(values[start : start + step]) for start in range(0, len(values), step)]
    top = max(peaks) or 1
    return "".join(_BARS[ceil(peak / top * (len(_BARS) - 1))] for peak in peaks)


def _counted(kinds: Mapping[str, int]) -> str | int:
    return ", ".join(f"{count} × {kind}" for kind, count in sorted(kinds.items())) or 0
