"""One payload out of order beside good logins: it is decided by itself, and no other message pays for it."""

import json
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import boto3
import pytest

from loginetl_assets.embedded import Addresses
from loginetl_assets.errors import OperatorError, TransientError
from loginetl_assets.settings import Settings
from loginetl_assets.steps.drain.engine import DrainTotals
from loginetl_assets.steps.replay import ReplayTotals, replay_rejected
from loginetl_assets.storage.rejections import Selection
from loginetl_assets_tests.support.http_proxy import HttpProxy, Request, alter, answer, drop, half
from loginetl_assets_tests.support.pipeline import Pipeline, login, metadata, sqs_client
from loginetl_assets_tests.support.proxy import Rule

LOGINS = 39


def pointer(bucket: str, key: str) -> str:
    return json.dumps(["software.amazon.payloadoffloading.PayloadS3Pointer", {"s3BucketName": bucket, "s3Key": key}])


def reading(key: str) -> Any:
    """Matches the read of one object, whatever the bucket."""

    def matches(request: Request) -> bool:
        return request.method == "GET" and request.path.partition("?")[0].endswith(f"/{key}")

    return matches


def reading_any(request: Request) -> bool:
    return request.method == "GET" and not request.headers.get("x-amz-target")


def s3_error(status: int, code: str) -> Any:
    body = f"<?xml version='1.0' encoding='UTF-8'?><Error><Code>{code}</Code><Message>injected</Message></Error>"
    return answer(status, body.encode(), {"Content-Type": "application/xml"})


@pytest.fixture
def proxy(proxy: HttpProxy, monkeypatch: pytest.MonkeyPatch) -> HttpProxy:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", proxy.url)
    return proxy


@pytest.fixture
def s3(addresses: Addresses) -> Any:
    return boto3.client("s3", endpoint_url=addresses.sqs_endpoint, region_name="us-east-1")


@pytest.fixture
def following(settings: Settings, proxy: HttpProxy, s3: Any, tmp_path: Path) -> Iterator[Pipeline]:
    """A pipeline with a payload bucket behind the proxy; 39 logins wait, and one pointer at the object `odd`."""
    bucket = f"payloads-{uuid4().hex[:12]}"
    s3.create_bucket(Bucket=bucket)
    s3.put_object(Bucket=bucket, Key="odd", Body=login(user_id="of the payload").encode())
    with Pipeline.on(replace(settings, payload_bucket=bucket), tmp_path / "following") as following:
        following.send([*(login(user_id=f"u-{number:02}") for number in range(LOGINS)), pointer(bucket, "odd")])
        yield following


def rejected(pipeline: Pipeline) -> list[str]:
    return [row.reason for row in pipeline.query("SELECT reason FROM loginetl.rejected_logins")]


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (301, "PermanentRedirect"),
        (400, "InvalidRequest"),
        (400, "KeyTooLongError"),
        (403, "AccessDenied"),
        (403, "InvalidObjectState"),  # in an archive
        (403, "SignatureDoesNotMatch"),  # a store or a proxy that reads the key otherwise than it was signed
        (404, "NoSuchKey"),
        (412, "PreconditionFailed"),
        (416, "InvalidRange"),
    ],
)
def test_an_object_that_s3_refuses_is_rejected_alone(
    following: Pipeline, proxy: HttpProxy, status: int, code: str
) -> None:
    refused = proxy.add(Rule(reading("odd"), s3_error(status, code), times=None))
    following.process()
    assert refused.acted
    assert len(following.rows()) == LOGINS
    assert rejected(following) == ["payload_unavailable"]


@pytest.mark.parametrize(
    "fault",
    [s3_error(503, "SlowDown"), s3_error(500, "InternalError"), answer(429), drop(reset=True), alter(half)],
    ids=["slow-down", "internal-error", "too-many-requests", "reset", "cut-short"],
)
def test_an_object_that_fails_in_passing_costs_no_other_message_its_load(
    following: Pipeline, proxy: HttpProxy, fault: Any
) -> None:
    failing = proxy.add(Rule(reading("odd"), fault, times=None))
    result = following.run()
    assert failing.acted
    assert metadata(result, "raw_login_messages")["postponed"] == 1
    assert len(following.rows()) == LOGINS
    assert rejected(following) == []
    assert following.services.queue().depth().in_flight == 1, "it left the queue, or would be received at once again"


def test_an_object_that_failed_in_passing_is_loaded_once_it_answers(following: Pipeline, proxy: HttpProxy) -> None:
    failing = proxy.add(Rule(reading("odd"), s3_error(503, "SlowDown"), times=None))
    assert following.drain(visibility_seconds=5).postponed
    failing.times = 0
    following.run_until_empty(seconds=60)
    assert len(following.rows()) == LOGINS + 1


def test_an_object_that_goes_on_failing_is_rejected_before_a_redrive_policy_takes_its_message(
    following: Pipeline, proxy: HttpProxy
) -> None:
    proxy.add(Rule(reading("odd"), s3_error(503, "SlowDown"), times=None))
    drains: list[DrainTotals] = []
    while not drains or drains[-1].postponed:
        drains.append(following.drain(visibility_seconds=1))
        while following.services.queue().depth().in_flight:
            time.sleep(0.1)
    following.process()
    assert sum(one.postponed for one in drains) <= 3, "docs/reliability.md asks for a maxReceiveCount of 5"
    assert rejected(following) == ["payload_unavailable"]
    assert len(following.rows()) == LOGINS


def test_on_a_fifo_queue_nothing_overtakes_a_message_whose_payload_fails_in_passing(
    following: Pipeline, proxy: HttpProxy, addresses: Addresses, tmp_path: Path
) -> None:
    client = sqs_client(addresses.sqs_endpoint)
    name = f"{uuid4().hex[:12]}.fifo"
    client.create_queue(QueueName=name, Attributes={"FifoQueue": "true", "ContentBasedDeduplication": "true"})
    settings = replace(following.settings, queue_url=f"{addresses.sqs_endpoint}/000000000000/{name}")
    failing = proxy.add(Rule(reading("odd"), s3_error(503, "SlowDown"), times=None))
    with Pipeline.on(settings, tmp_path / "fifo") as fifo:
        fifo.send([login(user_id="u-0"), pointer(str(settings.payload_bucket), "odd"), login(user_id="u-1")])
        assert fifo.drain(visibility_seconds=5).messages == 1
        failing.times = 0
        fifo.run_until_empty(seconds=60)
        users = [row.user_id for row in fifo.query("SELECT user_id FROM user_logins ORDER BY ctid")]
        assert users == ["u-0", "of the payload", "u-1"]


@pytest.mark.parametrize("processes", [1, 2])
def test_a_bucket_that_goes_away_during_a_drain_makes_the_messages_visible_at_once(
    following: Pipeline, proxy: HttpProxy, processes: int
) -> None:
    # The run looks whether it is there, and so does each drain process: after that it is gone.
    proxy.add(Rule(reading_any, s3_error(404, "NoSuchBucket"), nth=2, times=None))
    following.services.database()
    failed = following.run({"raw_login_messages": {"processes": processes}}, expect_success=False)
    assert "LOGINETL_PAYLOAD_BUCKET" in str([event.step_failure_data for event in failed.get_step_failure_events()])
    depth = following.services.queue().depth()
    assert depth.in_flight == 0, "what was received waits for its visibility time-out"
    assert depth.queued >= 1


def test_a_store_that_fails_during_a_drain_lands_what_it_can(following: Pipeline, proxy: HttpProxy) -> None:
    proxy.add(Rule(reading_any, drop(), nth=1, times=None))
    with pytest.raises(TransientError, match="LOGINETL_PAYLOAD_BUCKET"):
        following.drain(visibility_seconds=600)
    depth = following.services.queue().depth()
    assert depth.in_flight == 0
    assert following.totals().messages + depth.queued == LOGINS + 1


@pytest.mark.parametrize(
    ("status", "code", "words"),
    [
        (404, "NoSuchBucket", "there is no bucket"),
        (301, "PermanentRedirect", "PermanentRedirect"),
        (403, "InvalidAccessKeyId", "InvalidAccessKeyId"),
        (400, "ExpiredToken", "ExpiredToken"),
    ],
)
def test_a_bucket_that_is_set_wrong_stops_the_run_before_it_receives(
    following: Pipeline, proxy: HttpProxy, status: int, code: str, words: str
) -> None:
    proxy.add(Rule(reading_any, s3_error(status, code), times=None))
    with pytest.raises(OperatorError, match=words) as raised:
        following.services.payloads().check_reachable()
    assert "LOGINETL_PAYLOAD_BUCKET" in str(raised.value)
    following.run(expect_success=False)
    assert following.services.queue().depth().queued == LOGINS + 1


@pytest.mark.parametrize(("status", "code"), [(403, "AccessDenied"), (404, "NoSuchKey")])
def test_a_bucket_without_the_right_to_list_is_one_that_can_be_read(
    following: Pipeline, proxy: HttpProxy, status: int, code: str
) -> None:
    proxy.add(Rule(reading_any, s3_error(status, code), times=None))
    following.services.payloads().check_reachable()


def test_a_replay_resolves_each_message_by_itself(following: Pipeline, proxy: HttpProxy, s3: Any) -> None:
    bucket = str(following.settings.payload_bucket)
    following.send([pointer(bucket, "refused"), pointer(bucket, "fails"), pointer(bucket, "\ud800")])
    s3.delete_object(Bucket=bucket, Key="odd")
    following.process()
    assert rejected(following) == ["payload_unavailable"] * 4
    for key in ("odd", "refused", "fails"):
        s3.put_object(Bucket=bucket, Key=key, Body=login(user_id=key).encode())
    proxy.add(Rule(reading("refused"), s3_error(416, "InvalidRange"), times=None))
    proxy.add(Rule(reading("fails"), s3_error(503, "SlowDown"), times=None))
    one = following.services
    counts = replay_rejected(one.database(), one.landing(), one.payloads(), one.keyring, Selection())
    assert counts == ReplayTotals(messages=3, batches=1, postponed=1)
    following.process()
    assert "odd" in [row[0] for row in following.rows()]
    assert rejected(following) == ["payload_unavailable"] * 3
