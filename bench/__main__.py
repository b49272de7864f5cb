"""`python -m bench [PART]…`: measures each part, verifies the work, writes the figures.

docs/benchmarks.md describes what is measured.
"""

import argparse
import os
import signal
import sys
import tempfile
from pathlib import Path
from types import FrameType
from typing import Any

from rich.console import Console

from bench import database, drain, emulator, hostile, overhead, privacy, report, sqs, stages
from bench.failure import BenchmarkError
from loginetl_assets.errors import OperatorError, TransientError
from loginetl_assets.local.stack import EmbeddedStack

_PARTS = ("drain", "stages", "overhead", "privacy", "hostile")


def main() -> int:
    """Runs the requested parts; returns exit code 1 if one cannot run or a result is wrong."""
    arguments = _arguments()
    console = Console()
    # Stops its servers when it is terminated, too.
    signal.signal(signal.SIGTERM, _leave)
    for name in [name for name in os.environ if name.startswith(("AWS_", "LOGINETL_", "DAGSTER_", "PG"))]:
        del os.environ[name]
    os.environ.update(sqs.ENVIRONMENT)
    try:
        with tempfile.TemporaryDirectory(prefix="bench-") as home:
            results = _measure(console, arguments, Path(home))
    except (BenchmarkError, OperatorError, TransientError) as error:
        console.print(f"error: {error}", style="red", markup=False, soft_wrap=True)
        return 1
    except KeyboardInterrupt:
        console.print("interrupted; every server is stopped")
        return 130
    console.print(f"All figures: bench/results/{report.write(results).name}")
    return 0


def _measure(console: Console, arguments: argparse.Namespace, home: Path) -> dict[str, Any]:
    parts: list[str] = arguments.parts or list(_PARTS)
    results: dict[str, Any] = {"machine": report.machine(), "repeats": arguments.repeats}
    if (load := results["machine"]["load_before"]) > 0.5:
        console.print(
            f"The machine is busy (load {load}): trust the ratios of one run, not the figures.", style="yellow"
        )
    if "drain" in parts:
        results["machine"] |= emulator.versions()

    def say(text: str) -> None:
        console.print(text, style="dim", highlight=False)

    stack = EmbeddedStack(home / "stack")
    try:
        server_url = stack.start().database_url
        results["machine"]["postgres"] = database.version(server_url)
        if "drain" in parts:
            contenders = drain.compare(
                home, server_url, messages=arguments.messages, repeats=arguments.repeats, say=say
            )
            results["drain"] = {
                "messages": arguments.messages,
                "ours_by": report.ratios(contenders),
                "contenders": contenders,
            }
            report.drained(console, contenders, arguments.messages)
        if "stages" in parts:
            say("the stages of masking, in memory")
            results["masking"] = stages.in_memory(home)
            report.rates(console, "Masking in memory, every value new: messages", results["masking"])
            say("loading into Postgres")
            results["loading"] = stages.loading(home, server_url)
            report.rates(console, "Loading: rows", results["loading"])
        if "overhead" in parts:
            results["overhead"] = overhead.measure(home / "stack", repeats=max(3, arguments.repeats), say=say)
            report.overhead(console, results["overhead"])
        if "privacy" in parts:
            results["privacy"] = privacy.measure(home / "privacy", server_url, say)
            privacy.show(console, results["privacy"])
        if "hostile" in parts:
            say("hostile bodies, in memory")
            results["hostile"] = hostile.measure(home)
            hostile.show(console, results["hostile"])
    finally:
        stack.stop()
    return results


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument(
        "parts", nargs="*", type=_part, metavar="PART", help=f"any of {', '.join(_PARTS)}; all by default"
    )
    parser.add_argument(
        "--messages", type=_positive, default=20_000, help="number of messages to drain (default 20000)"
    )
    parser.add_argument(
        "--repeats", type=_positive, default=1, help="runs of each contender; tables show median and spread"
    )
    return parser.parse_args()


def _part(text: str) -> str:
    if text not in _PARTS:
        raise argparse.ArgumentTypeError(f"must be one of {', '.join(_PARTS)}")
    return text


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return number


def _leave(_signal: int, _frame: FrameType | None) -> None:
    sys.exit(143)


if __name__ == "__main__":
    sys.exit(main())
