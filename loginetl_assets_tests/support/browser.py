"""The browser that drives the Dagster UI in tests.

    python -m loginetl_assets_tests.support.browser

installs it where no one has to be asked: as root on a Debian system, as in CI. Elsewhere it names the command, and the
tests that need the browser are skipped with the same words.
"""

import os
import shutil
import subprocess
import sys

COMMAND = "apt-get install --no-install-recommends chromium"
MISSING = f"no chromium, chromium-browser or google-chrome on PATH: as root, {COMMAND}"


def find_browser() -> str | None:
    """Returns the path of an installed Chromium or Chrome, or None."""
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def main() -> None:
    """Installs Chromium, or names the command that does.

    Raises:
        CalledProcessError: apt-get failed.
    """
    if find_browser():
        return
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        sys.stderr.write(f"The tests of the Dagster UI will be skipped: {MISSING}\n")
        return
    for command in (["apt-get", "update"], [*COMMAND.split(), "--yes"]):
        subprocess.run([*command, "-qq"], stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL, check=True)


if __name__ == "__main__":
    main()
