"""fauxqs, the SQS emulator of the benchmark: its drain time is linear, others slow down with the queue."""

import json
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.failure import BenchmarkError
from bench.sqs import client_for

_HERE = Path(__file__).parent
_PACKAGE = _HERE / "node_modules" / "fauxqs" / "package.json"


def versions() -> dict[str, str]:
    """Returns the versions of Node.js and fauxqs."""
    node = subprocess.run([_node(), "--version"], capture_output=True, text=True, check=True)
    return {"node": node.stdout.strip(), "fauxqs": str(json.loads(_PACKAGE.read_text())["version"])}


@contextmanager
def running() -> Iterator[str]:
    """Yields the endpoint of a fauxqs on a free port of 127.0.0.1, in memory, which is stopped at the end.

    Raises:
        BenchmarkError: Node.js or fauxqs is not installed, or it did not start.
    """
    node = _node()
    if not _PACKAGE.exists():
        raise BenchmarkError("fauxqs is not installed: run `npm ci --prefix bench`")
    with subprocess.Popen(
        [node, str(_HERE / "emulator.mjs")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as server:
        try:
            port = server.stdout.readline().strip() if server.stdout else ""
            if not port:
                raise BenchmarkError("fauxqs did not start: its output is above")
            yield f"http://127.0.0.1:{port}"
        finally:
            server.kill()


@contextmanager
def queue(endpoint: str, name: str) -> Iterator[str]:
    """Yields the URL of a fresh queue, which is deleted at the end."""
    client = client_for(endpoint)
    # As the pipeline requests with each receive: nothing is redelivered while a contender works.
    client.create_queue(QueueName=name, Attributes={"VisibilityTimeout": "120"})
    # The returned URL is on sqs.us-east-1.localhost, which not every machine resolves; the server reads the path only.
    url = f"{endpoint}/000000000000/{name}"
    try:
        yield url
    finally:
        client.delete_queue(QueueUrl=url)


def _node() -> str:
    node = shutil.which("node")
    if node is None:
        raise BenchmarkError("node is not installed: install Node.js 20.6 or newer with npm (nodejs.org)")
    return node
