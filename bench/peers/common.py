"""What the scripts share: plain boto3 on a queue's URL, masked values, and the row of a login."""

import base64
import hashlib
import hmac
from datetime import UTC, date, datetime
from typing import Any
from urllib.parse import urlsplit

import boto3
from botocore.config import Config

INSERT = (
    "INSERT INTO user_logins (user_id, device_type, masked_ip, masked_device_id, locale, app_version, create_date)"
    " VALUES (%s, %s, %s, %s, %s, %s, %s)"
)
_KEY = b"a key of the benchmark, as good as any"


class Queue:
    """A queue by plain boto3, safe to use from many threads."""

    def __init__(self, url: str, *, connections: int = 10) -> None:
        parts = urlsplit(url)
        self._url = url
        self._client: Any = boto3.client(
            "sqs",
            endpoint_url=f"{parts.scheme}://{parts.netloc}",
            config=Config(max_pool_connections=connections),
        )

    def receive(self) -> list[dict[str, Any]]:
        """Receives up to ten messages; none after a second of long polling."""
        received = self._client.receive_message(QueueUrl=self._url, MaxNumberOfMessages=10, WaitTimeSeconds=1)
        return list(received.get("Messages", []))

    def delete(self, handles: list[str]) -> None:
        """Deletes up to ten messages."""
        entries = [{"Id": str(number), "ReceiptHandle": handle} for number, handle in enumerate(handles)]
        self._client.delete_message_batch(QueueUrl=self._url, Entries=entries)

    def delete_one(self, handle: str) -> None:
        """Deletes a message."""
        self._client.delete_message(QueueUrl=self._url, ReceiptHandle=handle)


def masked(value: str) -> str:
    """Returns a value's HMAC-SHA256 in base64."""
    return base64.b64encode(hmac.digest(_KEY, value.encode(), hashlib.sha256)).decode()


def row_of(login: dict[str, Any]) -> tuple[str, str, str, str, str | None, int, date] | None:
    """Returns the row, or None where the message is no login."""
    if "user_id" not in login:
        return None
    return (
        login["user_id"],
        login["device_type"],
        masked(login["ip"]),
        masked(login["device_id"]),
        login["locale"],
        int(login["app_version"].split(".")[0]),
        datetime.now(UTC).date(),
    )
