"""A contender: receives and deletes with plain boto3, and stores nothing: the upper bound for boto3 in one process.

Started as `python -m bench.bare_loop QUEUE_URL THREADS`.
"""

import sys
import time
from concurrent.futures import ThreadPoolExecutor

from bench.measure import Span
from bench.sqs import TEN, client_for


def drain(url: str, threads: int) -> Span:
    """Empties the queue; each thread ends with its first empty receive (a second of long polling)."""
    client = client_for(url, threads)
    first = time.perf_counter()

    def loop(_: int) -> tuple[int, float]:
        messages, last = 0, first
        while received := client.receive_message(QueueUrl=url, MaxNumberOfMessages=TEN, WaitTimeSeconds=1).get(
            "Messages"
        ):
            client.delete_message_batch(
                QueueUrl=url,
                Entries=[
                    {"Id": str(number), "ReceiptHandle": message["ReceiptHandle"]}
                    for number, message in enumerate(received)
                ],
            )
            messages, last = messages + len(received), time.perf_counter()
        return messages, last

    with ThreadPoolExecutor(threads) as pool:
        loops = list(pool.map(loop, range(threads)))
    return Span(first, max(last for _, last in loops), sum(messages for messages, _ in loops))


if __name__ == "__main__":
    drain(sys.argv[1], int(sys.argv[2])).write()
