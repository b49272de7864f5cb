"""One run of one job in a process of its own, to be killed at any moment.

Settings come from the environment as everywhere, but for the visibility time-out: the environment's least of 30 s is
too long to wait in a test. Ends with 0 where the run succeeded, with 1 where it failed.
"""

import json
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from loginetl_assets.settings import Settings
from loginetl_assets_tests.support.pipeline import Pipeline


def main() -> int:
    """Runs what the first argument says: {"job": "login_etl", "config": {}, "visibility_seconds": 2}."""
    order = json.loads(sys.argv[1])
    settings = replace(Settings.from_environment(), visibility_seconds=order["visibility_seconds"])
    with (
        tempfile.TemporaryDirectory(dir=Path.cwd()) as directory,
        Pipeline.on(settings, Path(directory)) as pipeline,
    ):
        return 0 if pipeline.run(order["config"], order["job"], expect_success=False).success else 1
