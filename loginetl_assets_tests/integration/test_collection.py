"""The tests are independent of the environment's settings from the moment they are collected."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_exported_settings_do_not_end_the_collection_of_tests() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", "loginetl_assets_tests"],
        cwd=ROOT,
        env={**os.environ, "LOGINETL_ENV": "production", "LOGINETL_MAX_RUNS_IN_FLIGHT": "many"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2_000:]
    assert "test_exported_settings_do_not_end_the_collection_of_tests" in done.stdout
