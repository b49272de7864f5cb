"""The cost of the pipeline compared with an empty Dagster job: 100 samples, and three empty assets."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from bench import database
from bench.failure import BenchmarkError
from bench.measure import Spread
from loginetl_assets.services import Services
from loginetl_assets.settings import Settings

_SAMPLES = Path(__file__).parent.parent / "loginetl_assets" / "sample" / "login_messages.jsonl"

ALLOWED_SECONDS = 2.0  # the difference that is accepted


@dataclass(frozen=True)
class Overhead:
    """Seconds from the start of the command to its end."""

    pipeline: Spread
    empty: Spread
    difference: Spread  # of each pair of consecutive runs


def measure(home: Path, *, repeats: int, say: Callable[[str], None]) -> Overhead:
    """Runs `dagster asset materialize` for both, alternating, on the embedded stack of `home`.

    Raises:
        BenchmarkError: a command failed, or the samples are not in the table after it.
    """
    settings = Settings(home=home)
    services = Services(settings)
    services.database()
    services.keyring.make_missing()
    samples = _SAMPLES.read_text().splitlines()
    url = services.database_url.replace("postgresql+psycopg://", "postgresql://")
    pipeline, empty = [], []
    for repeat in range(repeats):
        say(f"100 samples with the dagster command ({repeat + 1} of {repeats})")
        services.queue().send(samples)
        rows = database.count(url, "user_logins")
        pipeline.append(_materialize("loginetl_assets.definitions", settings))
        if (new := database.count(url, "user_logins") - rows) != len(samples) - 1:
            raise BenchmarkError(f"{new} of the samples were loaded, not {len(samples) - 1}")
        say(f"three empty assets with the dagster command ({repeat + 1} of {repeats})")
        empty.append(_materialize("bench.empty_job", settings))
    differences = [ours - theirs for ours, theirs in zip(pipeline, empty, strict=True)]
    return Overhead(
        Spread.of(pipeline), Spread.of(empty), Spread(median(differences), min(differences), max(differences))
    )


def _materialize(module: str, settings: Settings) -> float:
    dagster = shutil.which("dagster", path=str(Path(sys.executable).parent))
    if dagster is None:
        raise BenchmarkError("the dagster command is not in the directory of this Python")
    environment = {**os.environ, **settings.as_environment()}
    started = time.perf_counter()
    done = subprocess.run(
        [dagster, "asset", "materialize", "--select", "*", "-m", module],
        cwd=_SAMPLES.parents[2],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    seconds = time.perf_counter() - started
    if done.returncode:
        raise BenchmarkError(f"dagster asset materialize of {module} failed:\n{done.stderr[-2_000:]}")
    return seconds
