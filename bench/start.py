"""How long commands take to start."""

import sys
from collections import defaultdict
from pathlib import Path
from shutil import copy

from bench.pipeline import DAGSTER, LOGINETL, installed, materialize
from bench.run import ROOT, Say, run
from bench.services import Services
from bench.targets import Counts, Readings

_SAMPLES = ROOT / "loginetl_assets" / "sample" / "login_messages.jsonl"


def start(services: Services, counts: Counts, say: Say) -> Readings:
    """Alternates each command with what it is compared with."""
    readings = defaultdict[str, list[float]](list)
    samples = _SAMPLES.read_text().splitlines()
    for number in range(counts.commands):
        say(f"the start of commands ({number + 1} of {counts.commands})")
        with services.emulator.queue(samples) as queue, installed(services, queue.url) as settings:
            ours = materialize(settings).run.seconds
            queue.require_empty("loginetl")
        empty = _seconds([DAGSTER, "asset", "materialize", "--select", "*", "-m", "bench.empty_job"], services)
        readings["samples"].append(ours / empty)
        readings["seconds of 100 samples"].append(ours)
        readings["seconds of three empty assets"].append(empty)
        readings["help"].append(_seconds([LOGINETL, "--help"], services))
        definitions, dagster = (
            _seconds([sys.executable, "-c", f"import {module}"], services)
            for module in ("loginetl_assets.definitions", "dagster")
        )
        readings["definitions"].append(definitions / dagster)
        readings["seconds of `import dagster`"].append(dagster)
    return readings


def _seconds(command: list[str | Path], services: Services) -> float:
    home = services.directory()
    copy(ROOT / "dagster.yaml", home)
    done = run(command, {"DAGSTER_HOME": str(home), "LOGINETL_HOME": str(home)})
    return done.require_success(str(command[0])).seconds
