"""The installed `loginetl` command, run as its users run it."""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from loginetl_assets.settings import Settings

LOGINETL = Path(sys.executable).parent / "loginetl"


def run_loginetl(
    *arguments: str,
    cwd: Path,
    environment: Mapping[str, str],
    stdin: str | None = None,
    exit_code: int | None = 0,
) -> subprocess.CompletedProcess[str]:
    """Runs the command to its end, which must be with the exit code.

    Args:
        arguments: What follows `loginetl`.
        cwd: Where it runs: a directory that has nothing to do with the project.
        environment: Variables on top of this process's own.
        stdin: What it reads.
        exit_code: How it must end; None: as it does.
    """
    done = subprocess.run(
        [LOGINETL, *arguments],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=120,
        cwd=cwd,
        env={**os.environ, **environment},
        check=False,
    )
    assert exit_code in {None, done.returncode}, done.stderr
    return done


def run_cli(
    settings: Settings,
    *arguments: str,
    stdin: str | None = None,
    exit_code: int = 0,
    environment: Mapping[str, str] = {},
) -> subprocess.CompletedProcess[str]:
    """Runs the command with the settings as its variables and a wide terminal."""
    variables = {**settings.as_environment(), "COLUMNS": "200", **environment}
    return run_loginetl(*arguments, cwd=settings.home.parent, environment=variables, stdin=stdin, exit_code=exit_code)
