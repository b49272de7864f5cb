"""Receives and deletes with plain boto3, and stores nothing: the upper bound for boto3.

Started as `bare_loop.py QUEUE_URL THREADS`; each thread ends with its first empty receive.
"""

import sys
from concurrent.futures import ThreadPoolExecutor

from common import Queue


def main(url: str, threads: int) -> None:
    queue = Queue(url, connections=threads)

    def loop(_: int) -> None:
        while received := queue.receive():
            queue.delete([message["ReceiptHandle"] for message in received])

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(loop, range(threads)))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
