"""dlt with a boto3 resource: receives with eight threads, loads one package, merges by message id, then deletes.

Started as `dlt_pipeline.py QUEUE_URL DATABASE_URL DIRECTORY`.
"""

import json
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import dlt
from common import Queue, masked

_THREADS = 8


def main(url: str, database_url: str, directory: str) -> None:
    queue = Queue(url, connections=_THREADS)
    handles: list[str] = []

    @dlt.resource(name="user_logins", write_disposition="merge", primary_key="message_id")
    def logins() -> Iterator[list[dict[str, Any]]]:
        with ThreadPoolExecutor(_THREADS) as pool:
            while any(pages := list(pool.map(lambda _: queue.receive(), range(_THREADS)))):
                received = [message for page in pages for message in page]
                handles.extend(message["ReceiptHandle"] for message in received)
                yield [_row_of(message) for message in received]

    pipeline = dlt.pipeline(
        "bench", destination=dlt.destinations.postgres(database_url), dataset_name="dlt", pipelines_dir=directory
    )
    pipeline.run(logins()).raise_on_failed_jobs()
    with ThreadPoolExecutor(_THREADS) as pool:
        list(pool.map(queue.delete, (handles[start : start + 10] for start in range(0, len(handles), 10))))


def _row_of(message: dict[str, Any]) -> dict[str, Any]:
    row = {"message_id": message["MessageId"], **json.loads(message["Body"])}
    for name in ("ip", "device_id"):
        if name in row:
            row[f"masked_{name}"] = masked(row.pop(name))
    return row


if __name__ == "__main__":
    main(*sys.argv[1:])
