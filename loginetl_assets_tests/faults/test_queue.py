"""What SQS does to its clients: delivers messages again, keeps deleted ones, throttles, falls silent, keeps order."""

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any
from uuid import uuid4

import pytest

from loginetl_assets.aws.sqs import MAX_BYTES_PER_CALL
from loginetl_assets.embedded import Addresses
from loginetl_assets.errors import OperatorError, TransientError
from loginetl_assets.logins.message import QueuedMessage
from loginetl_assets.steps.batch_objects import read_batch
from loginetl_assets.steps.drain.policy import DrainLimits
from loginetl_assets.storage.batches import list_batches
from loginetl_assets_tests.support.http_proxy import (
    Action,
    Exchange,
    HttpProxy,
    Latency,
    Response,
    alter,
    call_before,
    drop,
    operation,
    sqs_error,
)
from loginetl_assets_tests.support.pipeline import Pipeline, checks, login, metadata, sqs_client
from loginetl_assets_tests.support.proxy import Rule

NOON = 1_750_939_200_000


@pytest.fixture
def faulty(pipeline: Pipeline, proxy: HttpProxy, tmp_path: Path) -> Iterator[Pipeline]:
    """The pipeline with its queue behind the proxy; what a run leaves in flight comes again after two seconds."""
    assert pipeline.settings.queue_url is not None
    settings = replace(pipeline.settings, queue_url=proxy.through(pipeline.settings.queue_url), visibility_seconds=2)
    with Pipeline.on(settings, tmp_path / "faulty") as faulty:
        yield faulty


def users(count: int) -> list[str]:
    return [f"u-{number:03}" for number in range(count)]


def send_users(pipeline: Pipeline, count: int) -> None:
    pipeline.send(login(user_id=user) for user in users(count))


def loaded_users(pipeline: Pipeline) -> list[str]:
    return sorted(row.user_id for row in pipeline.query("SELECT user_id FROM user_logins"))


# Messages that come again


def test_messages_that_come_again_in_any_subset_and_in_parallel_runs_change_no_row(
    pipeline: Pipeline, tmp_path: Path
) -> None:
    chance = Random(20)  # noqa: S311 - reproducible on purpose
    bodies = [login(user_id=user).encode() for user in users(40)] + [b"{}", b"[]", login(ip="x").encode()] * 3
    messages = [QueuedMessage(str(uuid4()), NOON, body) for body in bodies]
    landed: list[QueuedMessage] = []

    for round_number in range(3):
        for _ in range(4):
            batch = chance.choices(messages, k=chance.randint(1, 60))  # some of them more than once
            pipeline.land(batch)
            landed += batch

        def run(number: int) -> None:
            with Pipeline.on(pipeline.settings, tmp_path / f"{round_number}-{number}") as other:  # noqa: B023
                other.process()

        with ThreadPoolExecutor(2) as pool:
            list(pool.map(run, range(2)))

    result = pipeline.run()
    distinct = {message.message_id: message.body for message in landed}
    wanted = sorted(body for body in distinct.values() if body.startswith(b'{"user_id"') and b'"x"' not in body)
    assert loaded_users(pipeline) == sorted(json.loads(body)["user_id"] for body in wanted)
    totals = pipeline.totals()
    assert (totals.messages, totals.loaded, totals.pending) == (len(landed), len(wanted), 0)
    assert totals.rejected == len(distinct) - len(wanted)
    assert totals.duplicates == len(landed) - len(distinct)
    assert checks(result)["counts_reconcile"]
    assert checks(result)["no_message_loaded_twice"]


def refuse_some(endpoint: str, chance: Random, share: float) -> Action:
    """Deletes some of a call's messages and says `Failed` of the others."""

    def act(exchange: Exchange) -> Response:
        asked = json.loads(exchange.request.body)
        refused = {entry["Id"] for entry in asked["Entries"] if chance.random() < share}
        taken = [entry for entry in asked["Entries"] if entry["Id"] not in refused]
        if taken:
            sqs_client(endpoint).delete_message_batch(QueueUrl=asked["QueueUrl"], Entries=taken)
        failed = [{"Id": one, "Code": "InternalError", "SenderFault": False} for one in refused]
        answered = {"Successful": [{"Id": entry["Id"]} for entry in taken], "Failed": failed}
        return Response(200, {"Content-Type": "application/x-amz-json-1.0"}, json.dumps(answered).encode())

    return act


@pytest.mark.parametrize("share", [0.5, 1.0])
def test_messages_that_sqs_once_failed_to_delete_are_deleted_at_the_second_try(
    faulty: Pipeline, proxy: HttpProxy, addresses: Addresses, share: float
) -> None:
    send_users(faulty, 30)
    fault = proxy.add(
        Rule(operation("DeleteMessageBatch"), refuse_some(addresses.sqs_endpoint, Random(1), share), times=2)  # noqa: S311
    )

    drained = metadata(faulty.run(), "raw_login_messages")

    assert fault.acted == 2
    assert (drained["messages"], drained["undeleted"]) == (30, 0)
    assert (drained["queue_depth_after"], drained["queue_in_flight_after"]) == (0, 0)
    assert loaded_users(faulty) == users(30)


def test_messages_that_sqs_does_not_delete_are_counted_and_come_again_as_duplicates(
    faulty: Pipeline, proxy: HttpProxy, addresses: Addresses
) -> None:
    send_users(faulty, 25)
    fault = proxy.add(
        Rule(operation("DeleteMessageBatch"), refuse_some(addresses.sqs_endpoint, Random(2), 1.0), times=None)  # noqa: S311
    )

    drained = metadata(faulty.run(), "raw_login_messages")

    # At most as many as there are: those that come again meanwhile are counted each time.
    assert drained["undeleted"] == drained["messages"] >= 25
    assert fault.acted >= 3 * 3
    assert loaded_users(faulty) == users(25)
    proxy.clear()
    faulty.run_until_empty(seconds=30)
    totals = faulty.totals()
    assert loaded_users(faulty) == users(25)
    assert (totals.loaded, totals.duplicates, totals.pending) == (25, totals.messages - 25, 0)
    assert totals.messages >= 50


def test_receipts_that_have_expired_are_no_error_of_the_run(
    faulty: Pipeline, proxy: HttpProxy, addresses: Addresses
) -> None:
    send_users(faulty, 8)
    other = sqs_client(addresses.sqs_endpoint)

    def received_by_another() -> None:
        deadline = time.monotonic() + 10
        taken = 0
        while taken < 8 and time.monotonic() < deadline:  # once they are visible again
            answered = other.receive_message(
                QueueUrl=faulty.settings.queue_url, MaxNumberOfMessages=10, WaitTimeSeconds=1, VisibilityTimeout=1
            )
            taken += len(answered.get("Messages", []))
        assert taken == 8

    fault = proxy.add(Rule(operation("DeleteMessageBatch"), call_before(received_by_another)))

    drained = metadata(faulty.run(), "raw_login_messages")

    assert fault.acted == 1
    assert drained["undeleted"] == 8
    faulty.run_until_empty(seconds=30)
    totals = faulty.totals()
    assert loaded_users(faulty) == users(8)
    assert (totals.loaded, totals.duplicates) == (8, totals.messages - 8)


# Calls that fail

BUSY = [(400, "RequestThrottled"), (503, "ServiceUnavailable"), (500, "InternalFailure")]


@pytest.mark.parametrize(("status", "code"), BUSY)
def test_throttling_that_passes_is_no_failure(faulty: Pipeline, proxy: HttpProxy, status: int, code: str) -> None:
    send_users(faulty, 12)
    faults = [
        proxy.add(Rule(operation(name), sqs_error(status, code), times=times))
        for name, times in {"ReceiveMessage": 2, "DeleteMessageBatch": 1, "GetQueueAttributes": 1}.items()
    ]

    result = faulty.run()

    assert [fault.acted for fault in faults] == [2, 1, 1]
    assert metadata(result, "raw_login_messages")["messages"] == 12
    assert loaded_users(faulty) == users(12)
    assert faulty.totals().duplicates == 0


@pytest.mark.parametrize(
    ("call", "status", "code"),
    [("ReceiveMessage", 400, "RequestThrottled"), *(("DeleteMessageBatch", *busy) for busy in BUSY[:2])],
)
def test_throttling_that_stays_is_reported_and_loses_nothing(
    faulty: Pipeline, proxy: HttpProxy, call: str, status: int, code: str
) -> None:
    send_users(faulty, 12)
    proxy.add(Rule(operation(call), sqs_error(status, code), times=None))

    with pytest.raises(TransientError, match=rf"SQS at 127\.0\.0\.1:\d+ answered {code} after every retry"):
        faulty.drain()

    proxy.clear()
    faulty.run_until_empty(seconds=30)
    assert loaded_users(faulty) == users(12)
    totals = faulty.totals()
    assert (totals.loaded, totals.pending) == (12, 0)


@pytest.mark.parametrize(
    ("status", "code", "says"),
    [
        (400, "QueueDoesNotExist", "there is no queue .* check LOGINETL_QUEUE_URL"),
        (403, "AccessDenied", "grant them sqs:ReceiveMessage"),
        (403, "InvalidClientTokenId", "check AWS_PROFILE"),
        (400, "InvalidParameterValue", "answered InvalidParameterValue"),
    ],
)
def test_what_a_person_must_fix_is_not_retried(
    faulty: Pipeline, proxy: HttpProxy, status: int, code: str, says: str
) -> None:
    refused = proxy.add(Rule(operation("ReceiveMessage"), sqs_error(status, code), times=None))

    with pytest.raises(OperatorError, match=says):
        faulty.services.queue().receive(wait_seconds=0, visibility_seconds=0)

    assert refused.acted == 1


def half(response: Response) -> Response:
    middle = len(response.body) // 2
    return replace(response, body=response.body[:middle], cut=len(response.body) - middle)


def garbled(response: Response) -> Response:
    return replace(response, body=response.body[: len(response.body) // 2])


@pytest.mark.parametrize("damage", [half, garbled])
def test_messages_whose_answer_was_cut_off_come_again(faulty: Pipeline, proxy: HttpProxy, damage: Any) -> None:
    send_users(faulty, 10)
    fault = proxy.add(Rule(operation("ReceiveMessage"), alter(damage)))

    faulty.process()

    assert fault.acted == 1
    faulty.run_until_empty(seconds=30)
    assert loaded_users(faulty) == users(10)
    assert faulty.totals().duplicates == 0


def test_an_outage_of_several_runs_is_caught_up_with(faulty: Pipeline, proxy: HttpProxy) -> None:
    send_users(faulty, 15)
    outage = proxy.add(Rule(lambda request: True, drop(), times=4))
    proxy.add(Rule(lambda request: True, drop(reset=True), times=None))
    for _ in range(3):
        with pytest.raises(TransientError, match=r"the queue at 127\.0\.0\.1:\d+ cannot be reached"):
            faulty.drain()
    assert outage.acted == 4

    proxy.clear()
    send_users(faulty, 15)

    faulty.process()
    assert loaded_users(faulty) == sorted(users(15) * 2)


def test_a_queue_created_again_under_its_name_is_drained_like_the_one_before(
    pipeline: Pipeline, addresses: Addresses
) -> None:
    client = sqs_client(addresses.sqs_endpoint)
    send_users(pipeline, 5)
    pipeline.process()
    send_users(pipeline, 3)  # lost with their queue, as they must be

    client.delete_queue(QueueUrl=pipeline.settings.queue_url)
    client.create_queue(QueueName=str(pipeline.settings.queue_url).rsplit("/", 1)[-1])
    pipeline.process()
    send_users(pipeline, 7)
    pipeline.process()

    assert loaded_users(pipeline) == sorted(users(5) + users(7))


# Large ones, and those that SNS sent


def test_bodies_of_1_mib_and_notifications_of_sns_are_drained_together(pipeline: Pipeline) -> None:
    empty = len(login(user_id="u-000", x=""))
    pipeline.send(login(user_id=user, x="x" * (MAX_BYTES_PER_CALL - empty)) for user in users(12))
    pipeline.send(
        json.dumps({"Type": "Notification", "Message": login(user_id=f"sns-{number}")}) for number in range(10)
    )

    pipeline.process()

    assert loaded_users(pipeline) == sorted([*users(12), *(f"sns-{number}" for number in range(10))])


def test_a_call_carries_no_more_bodies_than_sqs_takes_in_one(faulty: Pipeline, proxy: HttpProxy) -> None:
    empty = len(login(x=""))
    third, whole = MAX_BYTES_PER_CALL // 3, MAX_BYTES_PER_CALL
    sizes = [whole, third, third, third + 1, 2 * third + 1, third + 1, *[empty] * 11]

    faulty.send(login(x="x" * (size - empty)) for size in sizes)

    # One; three that fit to the byte; one, as the next is a byte too many; that one and nine small ones; the last two.
    assert proxy.seen["SendMessageBatch"] == 5


# Queues that keep an order


@contextmanager
def fifo(pipeline: Pipeline, endpoint: str, home: Path) -> Iterator[Pipeline]:
    """The pipeline on a FIFO queue of this test alone."""
    name = f"ordered-{uuid4().hex[:8]}.fifo"
    sqs_client(endpoint).create_queue(QueueName=name, Attributes={"FifoQueue": "true"})
    settings = replace(pipeline.settings, queue_url=f"{endpoint}/000000000000/{name}", visibility_seconds=2)
    with Pipeline.on(settings, home) as ordered:
        yield ordered


def send_in_groups(pipeline: Pipeline, endpoint: str, bodies: list[tuple[str, str]]) -> None:
    """Sends bodies, each with its group, in their order."""
    client = sqs_client(endpoint)
    for start in range(0, len(bodies), 10):
        client.send_message_batch(
            QueueUrl=pipeline.settings.queue_url,
            Entries=[
                {
                    "Id": str(number),
                    "MessageBody": body,
                    "MessageGroupId": group,
                    "MessageDeduplicationId": uuid4().hex,
                }
                for number, (group, body) in enumerate(bodies[start : start + 10])
            ],
        )


def in_order_of_landing(pipeline: Pipeline) -> list[str]:
    """The users of all landed logins, batch after batch."""
    landing, keys = pipeline.services.landing(), pipeline.services.keyring
    with pipeline.services.database().transaction() as connection:
        landed = list_batches(connection)
    bodies = [one.body for batch in landed for one in read_batch(landing, keys, batch)]
    return [json.loads(body)["user_id"] for body in bodies if body.startswith(b'{"user_id"')]


def of_group(group: str, found: list[str]) -> list[str]:
    return [user for user in found if user.startswith(f"{group}-")]


def test_each_group_of_a_fifo_queue_is_landed_and_loaded_in_its_order_past_what_is_rejected(
    pipeline: Pipeline, addresses: Addresses, tmp_path: Path
) -> None:
    groups, each = ("a", "b", "c"), 12
    bodies = [(group, login(user_id=f"{group}-{number:03}")) for number in range(each) for group in groups]
    bodies.insert(4, ("b", "{}"))
    bodies.insert(9, ("c", login(ip="no address")))
    with fifo(pipeline, addresses.sqs_endpoint, tmp_path / "fifo") as ordered:
        send_in_groups(ordered, addresses.sqs_endpoint, bodies)
        ordered.run_until_empty(seconds=30)

        wanted = {group: [f"{group}-{number:03}" for number in range(each)] for group in groups}
        landed = in_order_of_landing(ordered)
        loaded = [row.user_id for row in ordered.query("SELECT user_id FROM user_logins ORDER BY ctid")]
        assert {group: of_group(group, landed) for group in groups} == wanted
        assert {group: of_group(group, loaded) for group in groups} == wanted
        totals = ordered.totals()
        assert (totals.loaded, totals.rejected, totals.duplicates) == (3 * each, 2, 0)


def test_one_run_drains_the_groups_of_a_fifo_queue_to_their_ends(
    pipeline: Pipeline, addresses: Addresses, tmp_path: Path
) -> None:
    """The emulator delivers no more of a group before what it delivered is deleted, as AWS does."""
    bodies = [(group, login(user_id=f"{group}-{number:03}")) for number in range(30) for group in ("a", "b")]
    with fifo(pipeline, addresses.sqs_endpoint, tmp_path / "fifo") as ordered:
        send_in_groups(ordered, addresses.sqs_endpoint, bodies)

        drained = metadata(ordered.run(), "raw_login_messages")

        assert (drained["messages"], drained["queue_depth_after"], drained["queue_in_flight_after"]) == (60, 0, 0)
        assert ordered.totals().duplicates == 0


# Latency


def test_where_each_call_takes_long_more_of_them_are_under_way_with_no_setting_changed(
    faulty: Pipeline, proxy: HttpProxy
) -> None:
    latencies = {one: Latency(0.1) for one in ("ReceiveMessage", "DeleteMessageBatch")}
    for name, latency in latencies.items():
        proxy.add(Rule(operation(name), latency, times=None))
    send_users(faulty, 900)
    totals = faulty.drain(visibility_seconds=30)
    assert (totals.messages, totals.undeleted) == (900, 0)
    few = DrainLimits(1, 1).receivers
    assert {name: latency.peak > 2 * few for name, latency in latencies.items()} == dict.fromkeys(latencies, True)
