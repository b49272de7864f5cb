"""A guarded benchmark that starts servers and waits; run as `python -m loginetl_assets_tests.support.guarded FILE`.

Writes to the file, as JSON, the directory that it works in and the ids of its processes: the guard, itself, a plain
child, one in a session of its own, and one that has detached itself as the embedded servers do.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

from bench.guard import guarded

_DETACHED = '"$@" </dev/null >/dev/null 2>&1 & echo $!'


def wait_for_ever(report: Path, home: Path) -> int:
    sleep = ["sleep", "1000"]
    child = subprocess.Popen(sleep)
    apart = subprocess.Popen(sleep, start_new_session=True)
    detached = subprocess.run(
        ["/bin/sh", "-c", _DETACHED, "sh", *sleep], stdout=subprocess.PIPE, start_new_session=True, check=True
    )
    started = [child.pid, apart.pid, int(detached.stdout)]
    draft = report.with_suffix(".draft")
    draft.write_text(
        json.dumps({"home": str(home), "guard": os.getppid(), "measuring": os.getpid(), "started": started})
    )
    draft.rename(report)
    time.sleep(1000)
    return 0


if __name__ == "__main__":
    sys.exit(guarded(lambda home: wait_for_ever(Path(sys.argv[1]), home)))
