"""Nothing that a benchmark started outlives it, whichever of its processes is ended and how."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from bench.guard import guarded
from loginetl_assets_tests.support.waiting import eventually

GUARDED = [sys.executable, "-m", "loginetl_assets_tests.support.guarded"]


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("which", ["started", "guard", "measuring"])
def test_nothing_is_left_of_a_benchmark_whichever_process_is_ended(
    which: str, how: signal.Signals, tmp_path: Path
) -> None:
    report = tmp_path / "report.json"
    with subprocess.Popen([*GUARDED, str(report)], stderr=subprocess.DEVNULL) as benchmark:
        eventually("the benchmark has started its servers", report.exists, seconds=20)
        found: dict[str, Any] = json.loads(report.read_text())
        processes = [benchmark.pid, found["guard"], found["measuring"], *found["started"]]
        assert all(is_running(pid) for pid in processes)

        os.kill(benchmark.pid if which == "started" else found[which], how)
        benchmark.wait(20)

        eventually("its processes have ended", lambda: not any(map(is_running, processes)), seconds=20)
        eventually("its directory is gone", lambda: not Path(found["home"]).exists(), seconds=20)


def test_a_benchmark_that_comes_to_its_end_returns_its_exit_code_and_leaves_nothing(tmp_path: Path) -> None:
    program = f"import sys; from {guarded.__module__} import guarded; sys.exit(guarded(lambda home: print(home) or 3))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)

    assert done.returncode == 3, done.stderr
    assert not Path(done.stdout.strip()).exists()


def is_running(pid: int) -> bool:
    """Whether a process runs; one that has ended and that nobody has collected does not."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
