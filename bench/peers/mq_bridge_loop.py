"""mq-bridge, a client in Rust: receives and deletes, and stores nothing; the floor of a client's cost.

Started as `mq_bridge_loop.py QUEUE_URL ENDPOINT`; ends once two seconds bring nothing.
"""

import sys

from mq_bridge import Consumer


def main(url: str, endpoint: str) -> None:
    queue = {"queue_url": url, "endpoint_url": endpoint, "region": "us-east-1", "access_key": "local"}
    consumer = Consumer.from_config({"aws": {**queue, "secret_key": "local", "wait_time_seconds": 1}})
    while consumer.poll(max=500, timeout_ms=2_000):
        consumer.commit()
    consumer.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
