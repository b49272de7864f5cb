"""The `loginetl` command, run as its users run it, but for its imports."""

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO

from loginetl_assets.settings import Settings
from loginetl_assets_tests.support import warm

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
    done = run_warm(arguments, cwd=cwd, environment={**os.environ, **environment}, stdin=stdin or "")
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


def run_warm(
    arguments: Sequence[str], *, cwd: Path, environment: Mapping[str, str], stdin: str = ""
) -> subprocess.CompletedProcess[str]:
    """Runs the command to its end, with nothing but that environment."""
    with TemporaryFile() as given, TemporaryFile() as out, TemporaryFile() as err:
        given.write(stdin.encode())
        given.seek(0)
        process = warm.start(
            "loginetl_assets.cli.main:main",
            [str(LOGINETL), *arguments],
            cwd=cwd,
            environment=environment,
            streams=(given, out, err),
        )
        code = process.wait(timeout=120)
        said = [_text(stream) for stream in (out, err)]
    return subprocess.CompletedProcess([str(LOGINETL), *arguments], code, *said)


def _text(stream: IO[bytes]) -> str:
    stream.seek(0)
    return stream.read().decode()
