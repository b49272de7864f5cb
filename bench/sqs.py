"""Plain boto3 on the emulator's queues, shared by the contenders; nothing of the pipeline."""

import os
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import boto3
from botocore.config import Config

if TYPE_CHECKING:
    from mypy_boto3_sqs import SQSClient

# The AWS settings of every process of a benchmark; no profile, endpoint, proxy or real key of the caller.
ENVIRONMENT = {
    "AWS_CONFIG_FILE": os.devnull,
    "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    "NO_PROXY": "127.0.0.1",
    "no_proxy": "127.0.0.1",
    "AWS_ACCESS_KEY_ID": "local",
    "AWS_SECRET_ACCESS_KEY": "local",
    "AWS_REGION": "us-east-1",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}
TEN = 10  # SQS's maximum for one call
_SENDERS, _SENDER_THREADS = 2, 4


def client_for(url: str, connections: int = TEN) -> "SQSClient":
    """Returns a client for the server of a queue's URL."""
    parts = urlsplit(url)
    return boto3.client(
        "sqs",
        endpoint_url=f"{parts.scheme}://{parts.netloc}",
        config=Config(max_pool_connections=connections),
    )


def fill(url: str, bodies: list[str]) -> None:
    """Sends all bodies with several processes and threads.

    Raises:
        RuntimeError: the emulator refused a message.
    """
    parts = [bodies[number::_SENDERS] for number in range(_SENDERS)]
    with ProcessPoolExecutor(_SENDERS, mp_context=get_context("spawn")) as processes:
        list(processes.map(_send, [url] * _SENDERS, parts))


def depth(url: str) -> tuple[int, int]:
    """Returns the numbers of messages waiting and in flight; exact on the emulator."""
    found = client_for(url).get_queue_attributes(
        QueueUrl=url,
        AttributeNames=["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"],
    )["Attributes"]
    return int(found["ApproximateNumberOfMessages"]), int(found["ApproximateNumberOfMessagesNotVisible"])


def _send(url: str, bodies: list[str]) -> None:
    client = client_for(url, _SENDER_THREADS)

    def send(ten: list[str]) -> None:
        response = client.send_message_batch(
            QueueUrl=url,
            Entries=[{"Id": str(number), "MessageBody": body} for number, body in enumerate(ten)],
        )
        if response.get("Failed"):
            raise RuntimeError("the emulator refused a message")

    with ThreadPoolExecutor(_SENDER_THREADS) as threads:
        list(threads.map(send, (bodies[start : start + TEN] for start in range(0, len(bodies), TEN))))
