"""The proxy itself: what passes through it unchanged, and each of its faults as a client meets it."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import boto3
import botocore.exceptions
import pytest
from botocore.config import Config

from loginetl_assets.embedded import Addresses
from loginetl_assets.settings import Settings
from loginetl_assets_tests.support.http_proxy import (
    Action,
    Exchange,
    HttpProxy,
    Response,
    alter,
    answer,
    call_after,
    delay,
    drop,
    forward_then_drop,
    operation,
    sqs_error,
)
from loginetl_assets_tests.support.proxy import Rule


@pytest.fixture
def queue_url(proxy: HttpProxy, settings: Settings) -> str:
    assert settings.queue_url is not None
    return proxy.through(settings.queue_url)


def client(proxy: HttpProxy, service: str) -> Any:
    """A client that tries once."""
    once = Config(retries={"total_max_attempts": 1}, s3={"addressing_style": "path"})
    session: Any = boto3.Session()  # typed for services by name only
    return session.client(service, endpoint_url=proxy.url, config=once)


def waiting(proxy: HttpProxy, queue_url: str) -> int:
    answer = client(proxy, "sqs").get_queue_attributes(
        QueueUrl=queue_url, AttributeNames=["ApproximateNumberOfMessages"]
    )
    return int(answer["Attributes"]["ApproximateNumberOfMessages"])


def test_messages_and_objects_pass_unchanged(proxy: HttpProxy, queue_url: str) -> None:
    sqs, s3 = client(proxy, "sqs"), client(proxy, "s3")
    content = bytes(range(256)) * 4096 * 4  # 4 MiB
    bucket = queue_url.rsplit("/", 1)[-1].replace("_", "-")

    for number in range(3):
        sqs.send_message(QueueUrl=queue_url, MessageBody=f"žluťoučký {number}")
    s3.create_bucket(Bucket=bucket)
    s3.put_object(Bucket=bucket, Key="a/b", Body=content)

    got = sqs.receive_message(QueueUrl=queue_url, MaxNumberOfMessages=10)["Messages"]
    assert sorted(message["Body"] for message in got) == [f"žluťoučký {number}" for number in range(3)]
    assert s3.get_object(Bucket=bucket, Key="a/b")["Body"].read() == content
    assert s3.head_object(Bucket=bucket, Key="a/b")["ContentLength"] == len(content)
    s3.delete_object(Bucket=bucket, Key="a/b")
    assert proxy.forwarded == proxy.seen
    assert proxy.forwarded["SendMessage"] == 3
    assert proxy.forwarded[f"PUT /{bucket}/a/b"] == 1


@pytest.mark.parametrize(
    ("action", "error", "arrived"),
    [
        (sqs_error(500, "InternalFailure"), botocore.exceptions.ClientError, 0),
        (answer(503), botocore.exceptions.ClientError, 0),
        (drop(), botocore.exceptions.ConnectionClosedError, 0),
        (drop(reset=True), botocore.exceptions.ConnectionClosedError, 0),
        (forward_then_drop(), botocore.exceptions.ConnectionClosedError, 1),
        (forward_then_drop(reset=True), botocore.exceptions.ConnectionClosedError, 1),
        (alter(lambda response: Response(500)), botocore.exceptions.ClientError, 1),
    ],
    ids=["500", "503", "drop", "reset", "forward_then_drop", "forward_then_reset", "alter"],
)
def test_a_fault_hits_the_call_it_is_set_for(
    action: Action, error: type[Exception], arrived: int, proxy: HttpProxy, queue_url: str
) -> None:
    sqs = client(proxy, "sqs")
    fault = proxy.add(Rule(operation("SendMessage"), action, nth=2))

    sqs.send_message(QueueUrl=queue_url, MessageBody="first")
    with pytest.raises(error):
        sqs.send_message(QueueUrl=queue_url, MessageBody="second")
    sqs.send_message(QueueUrl=queue_url, MessageBody="third")

    assert (fault.matched, fault.acted) == (3, 1)
    assert (proxy.seen["SendMessage"], proxy.forwarded["SendMessage"]) == (3, 2 + arrived)
    assert waiting(proxy, queue_url) == 2 + arrived


def test_a_callback_runs_before_the_client_hears(proxy: HttpProxy, queue_url: str) -> None:
    heard = threading.Event()
    seen: list[tuple[bool, int]] = []
    proxy.add(
        Rule(operation("SendMessage"), call_after(lambda: seen.append((heard.is_set(), waiting(proxy, queue_url)))))
    )

    client(proxy, "sqs").send_message(QueueUrl=queue_url, MessageBody="first")
    heard.set()

    assert seen == [(False, 1)]


def test_a_delayed_call_arrives(proxy: HttpProxy, queue_url: str) -> None:
    proxy.add(Rule(operation("SendMessage"), delay(0.3)))
    started = time.monotonic()

    client(proxy, "sqs").send_message(QueueUrl=queue_url, MessageBody="first")

    assert time.monotonic() - started >= 0.3
    assert waiting(proxy, queue_url) == 1


def test_the_proxy_ends_with_calls_under_way(addresses: Addresses, settings: Settings) -> None:
    assert settings.queue_url is not None
    with ThreadPoolExecutor(2) as pool:
        with HttpProxy(addresses.sqs_endpoint) as proxy:
            sqs, url = client(proxy, "sqs"), proxy.through(settings.queue_url)
            proxy.add(Rule(operation("GetQueueUrl"), delay(60)))
            polling = pool.submit(sqs.receive_message, QueueUrl=url, WaitTimeSeconds=20)
            delayed = pool.submit(sqs.get_queue_url, QueueName="any")
            while proxy.seen.total() < 2:
                time.sleep(0.01)
        for call in (polling, delayed):
            with pytest.raises(botocore.exceptions.ConnectionClosedError):
                call.result(5)


def test_what_a_callback_raises_is_raised_at_the_end(addresses: Addresses, settings: Settings) -> None:
    def fail(exchange: Exchange) -> Response:
        raise AssertionError("seen")

    assert settings.queue_url is not None
    with (
        pytest.raises(AssertionError, match="seen"),
        HttpProxy(addresses.sqs_endpoint, Rule(operation("SendMessage"), fail)) as proxy,
        pytest.raises(botocore.exceptions.ConnectionClosedError),
    ):
        client(proxy, "sqs").send_message(QueueUrl=proxy.through(settings.queue_url), MessageBody="first")


def test_a_server_that_is_away_is_a_dropped_connection(addresses: Addresses) -> None:
    with HttpProxy("http://127.0.0.1:1") as proxy, pytest.raises(botocore.exceptions.ConnectionClosedError):
        client(proxy, "sqs").list_queues()
