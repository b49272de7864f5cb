"""A contender, the script one writes first: receives, masks with SHA-256 and base64, inserts and commits row by row.

Started as `python -m bench.row_script QUEUE_URL DATABASE_URL`.
"""

import base64
import hashlib
import json
import sys
import time
from datetime import UTC, datetime

import psycopg

from bench.measure import Span
from bench.sqs import TEN, client_for

_INSERT = (
    "INSERT INTO user_logins (user_id, device_type, masked_ip, masked_device_id, locale, app_version, create_date)"
    " VALUES (%s, %s, %s, %s, %s, %s, %s)"
)


def drain(url: str, database_url: str) -> Span:
    """Empties the queue into the table; a message is deleted from the queue after its row is committed."""
    client = client_for(url)
    with psycopg.connect(database_url) as connection:
        first = last = time.perf_counter()
        messages = 0
        while received := client.receive_message(QueueUrl=url, MaxNumberOfMessages=TEN, WaitTimeSeconds=1).get(
            "Messages"
        ):
            for message in received:
                login = json.loads(message["Body"])
                if "user_id" in login:
                    connection.execute(
                        _INSERT,
                        (
                            login["user_id"],
                            login["device_type"],
                            _masked(login["ip"]),
                            _masked(login["device_id"]),
                            login["locale"],
                            int(login["app_version"].split(".")[0]),
                            datetime.now(UTC).date(),
                        ),
                    )
                    connection.commit()
                client.delete_message(QueueUrl=url, ReceiptHandle=message["ReceiptHandle"])
            messages, last = messages + len(received), time.perf_counter()
    return Span(first, last, messages)


def _masked(value: str) -> str:
    return base64.b64encode(hashlib.sha256(value.encode()).digest()).decode()


if __name__ == "__main__":
    drain(sys.argv[1], sys.argv[2]).write()
