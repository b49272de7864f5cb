"""The same script, tuned: eight threads, each with its own connection; ten rows a commit by executemany.

Started as `tuned_script.py QUEUE_URL DATABASE_URL`; each thread ends with its first empty receive.
"""

import json
import sys
from concurrent.futures import ThreadPoolExecutor

import psycopg
from common import INSERT, Queue, row_of

_THREADS = 8


def main(url: str, database_url: str) -> None:
    queue = Queue(url, connections=_THREADS)

    def loop(_: int) -> None:
        with psycopg.connect(database_url) as connection, connection.cursor() as cursor:
            while received := queue.receive():
                rows = [row for message in received if (row := row_of(json.loads(message["Body"])))]
                cursor.executemany(INSERT, rows)
                connection.commit()
                queue.delete([message["ReceiptHandle"] for message in received])

    with ThreadPoolExecutor(_THREADS) as pool:
        list(pool.map(loop, range(_THREADS)))


if __name__ == "__main__":
    main(*sys.argv[1:])
