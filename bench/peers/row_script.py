"""The script one writes first: one thread receives, masks, inserts and commits row by row, then deletes.

Started as `row_script.py QUEUE_URL DATABASE_URL`.
"""

import json
import sys

import psycopg
from common import INSERT, Queue, row_of


def main(url: str, database_url: str) -> None:
    queue = Queue(url)
    with psycopg.connect(database_url) as connection:
        while received := queue.receive():
            for message in received:
                if row := row_of(json.loads(message["Body"])):
                    connection.execute(INSERT, row)
                    connection.commit()
                queue.delete_one(message["ReceiptHandle"])


if __name__ == "__main__":
    main(*sys.argv[1:])
