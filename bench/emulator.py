"""fauxqs, the SQS emulator that the drains are measured on: its drain stays linear where others slow with the queue."""

import json
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.failure import BenchmarkFailed
from bench.sqs import client_for

_HERE = Path(__file__).parent
_PACKAGE = _HERE / "node_modules" / "fauxqs" / "package.json"


def versions() -> dict[str, str]:
    """The versions of Node.js and fauxqs."""
    node = subprocess.run([_node(), "--version"], capture_output=True, text=True, check=True)
    return {"node": node.stdout.strip(), "fauxqs": str(json.loads(_PACKAGE.read_text())["version"])}


@contextmanager
def running() -> Iterator[str]:
    """A fauxqs on a free port of 127.0.0.1, in memory, ended with the block; gives its endpoint.

    Raises:
        BenchmarkFailed: Node.js or fauxqs is not installed, or it did not start.
    """
    node = _node()
    if not _PACKAGE.exists():
        raise BenchmarkFailed("fauxqs is not installed: run `npm ci --prefix bench`")
    with subprocess.Popen(
        [node, str(_HERE / "emulator.mjs")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as server:
        try:
            port = server.stdout.readline().strip() if server.stdout else ""
            if not port:
                raise BenchmarkFailed("fauxqs did not start: what it said is above")
            yield f"http://127.0.0.1:{port}"
        finally:
            server.kill()


@contextmanager
def queue(endpoint: str, name: str) -> Iterator[str]:
    """A fresh queue, deleted with the block; gives its URL."""
    client = client_for(endpoint)
    # As the pipeline asks for with each receive: nothing comes again while a contender works.
    client.create_queue(QueueName=name, Attributes={"VisibilityTimeout": "120"})
    # The URL it answers with is on sqs.us-east-1.localhost, which not every machine resolves; it reads the path alone.
    url = f"{endpoint}/000000000000/{name}"
    try:
        yield url
    finally:
        client.delete_queue(QueueUrl=url)


def _node() -> str:
    node = shutil.which("node")
    if node is None:
        raise BenchmarkFailed("node is not installed: install Node.js 20.6 or newer with npm (nodejs.org)")
    return node
