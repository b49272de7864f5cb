"""A copy of the repository, as a fresh clone has it: without a `.env`, which Dagster's commands prefer to variables."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent


class Checkout:
    """A copy of the repository, whose code the commands run."""

    def __init__(self, path: Path) -> None:
        """Copies what git tracks or would track."""
        tracked = subprocess.run(
            ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, check=True
        )
        for name in tracked.stdout.decode().splitlines():
            if (ROOT / name).is_file():
                (path / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / name, path / name)
        (path / ".venv").mkdir()
        (path / ".venv" / "bin").symlink_to(BIN)
        self.path = path
        self.home = path / ".loginetl"

    def run(self, command: str, **environment: str) -> str:
        """Runs a command that must succeed; returns its output."""
        done = subprocess.run(
            ["bash", "-ec", command],
            cwd=self.path,
            env={
                "PATH": f"{BIN}:{os.environ['PATH']}",
                "HOME": os.environ.get("HOME", "/"),
                "PYTHONPATH": str(self.path),
                "LOGINETL_HOME": str(self.home),
                **environment,
            },
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        return done.stdout
