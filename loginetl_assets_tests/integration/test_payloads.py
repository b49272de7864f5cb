"""Messages whose body the SQS extended client library put into S3."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import boto3
import pytest

from loginetl_assets.aws.payloads import MAX_BYTES
from loginetl_assets.embedded import Addresses
from loginetl_assets.errors import TransientError
from loginetl_assets.logins.message import QueuedMessage
from loginetl_assets.steps.replay import replay_rejected
from loginetl_assets.storage.rejections import Selection
from loginetl_assets_tests.support.pipeline import Pipeline, login

OLD_NAME = "com.amazon.sqs.javamessaging.MessageS3Pointer"
NAME = "software.amazon.payloadoffloading.PayloadS3Pointer"


def _pointer(bucket: str, key: str, name: str = NAME) -> str:
    return json.dumps([name, {"s3BucketName": bucket, "s3Key": key}], separators=(",", ":"))


def _enveloped(message: str) -> str:
    return json.dumps({"Type": "Notification", "MessageId": "m", "TopicArn": "arn:aws:sns:…", "Message": message})


def _message(body: str) -> QueuedMessage:
    return QueuedMessage(str(uuid4()), 1_700_000_000_000, body.encode("utf-8", "surrogatepass"))


@pytest.fixture
def s3(addresses: Addresses, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", addresses.sqs_endpoint)
    return boto3.client("s3", endpoint_url=addresses.sqs_endpoint, region_name="us-east-1")


@pytest.fixture
def bucket(s3: Any) -> str:
    name = f"payloads-{uuid4().hex[:12]}"
    s3.create_bucket(Bucket=name)
    return name


@pytest.fixture
def following(pipeline: Pipeline, bucket: str, tmp_path: Path) -> Iterator[Pipeline]:
    with Pipeline.on(replace(pipeline.settings, payload_bucket=bucket), tmp_path / "following") as following:
        yield following


def _rejected(pipeline: Pipeline) -> list[str]:
    return [row[0] for row in pipeline.query("SELECT reason FROM loginetl.rejected_logins")]


@pytest.mark.parametrize("processes", [1, 2])
def test_a_payload_is_read_and_loaded(following: Pipeline, s3: Any, bucket: str, processes: int) -> None:
    s3.put_object(Bucket=bucket, Key="a", Body=login(user_id="new").encode())
    s3.put_object(Bucket=bucket, Key="b/c", Body=login(user_id="old").encode())
    following.send([_pointer(bucket, "a"), _enveloped(_pointer(bucket, "b/c", OLD_NAME)), login(user_id="plain")])
    following.run({"raw_login_messages": {"processes": processes}})
    assert [row[0] for row in following.rows()] == ["new", "old", "plain"]
    assert s3.get_object(Bucket=bucket, Key="a")["Body"].read(), "deleting it is the bucket's own rule"


def test_a_payload_that_cannot_be_had_is_rejected_and_replayed_once_it_can(
    following: Pipeline, s3: Any, bucket: str
) -> None:
    s3.put_object(Bucket=bucket, Key="large", Body=login().encode().ljust(MAX_BYTES + 1))
    s3.create_bucket(Bucket=f"{bucket}-foreign")
    s3.put_object(Bucket=f"{bucket}-foreign", Key="a", Body=login(user_id="foreign").encode())
    s3.put_object(Bucket=bucket, Key="a", Body=login(user_id="of the same name").encode())
    following.send([_pointer(bucket, "gone"), _pointer(bucket, "large"), _pointer(f"{bucket}-foreign", "a")])
    following.run()
    assert following.rows() == []
    assert _rejected(following) == ["payload_unavailable"] * 3

    s3.put_object(Bucket=bucket, Key="gone", Body=login(user_id="came later").encode())
    services = following.services
    replay_rejected(services.database(), services.landing(), services.payloads(), services.keyring, Selection())
    following.run()
    assert [row[0] for row in following.rows()] == ["came later"]
    assert _rejected(following) == ["payload_unavailable"] * 2


KEYS = [
    "ok", "/ok", "ok/", "day//u1", "//", "../x", "a/./b", "a/../ok", ".", "..", "nul\0", "new\nline", "tab\t", " room ",
    "per%20cent%2e", "a+b", "who?#&", "back\\slash", "{x}", "d\u00e9j\u00e0", "\U0001f600", "k" * 1_024,
]  # fmt: skip


def test_every_key_that_s3_takes_reads_its_own_object(following: Pipeline, s3: Any, bucket: str) -> None:
    for number, key in enumerate(KEYS):
        s3.put_object(Bucket=bucket, Key=key, Body=login(user_id=f"u-{number:02}").encode())
    for number, key in enumerate(KEYS):
        assert json.loads(following.services.payloads().resolve(_message(_pointer(bucket, key))).body) == json.loads(
            login(user_id=f"u-{number:02}")
        )


def test_a_key_that_leads_nowhere_costs_no_other_message_its_load(following: Pipeline, bucket: str) -> None:
    bad = [*KEYS, "", "\ud800", "k" * 2_000]
    following.send(
        [*(login(user_id=f"u-{number:02}") for number in range(39)), *(_pointer(bucket, key) for key in bad)]
    )
    following.run()
    assert [row[0] for row in following.rows()] == [f"u-{number:02}" for number in range(39)]
    assert _rejected(following) == ["payload_unavailable"] * len(bad)
    assert following.totals().pending == 0


def test_large_payloads_are_replayed_in_batches_that_fit_into_memory(following: Pipeline, s3: Any, bucket: str) -> None:
    following.send(_pointer(bucket, f"late-{number}") for number in range(5))
    following.run()
    for number in range(5):
        large = login(user_id=f"u-{number}", filling="x" * (7 * 1024 * 1024))
        s3.put_object(Bucket=bucket, Key=f"late-{number}", Body=large.encode())
    one = following.services
    counts = replay_rejected(one.database(), one.landing(), one.payloads(), one.keyring, Selection())
    assert (counts.messages, counts.batches) == (5, 2), "three of 7 MiB are more than 16"
    following.run()
    assert len(following.rows()) == 5


def test_a_bucket_that_does_not_answer_stops_the_run_before_it_receives(
    following: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    following.services.database()
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9")
    with pytest.raises(TransientError, match="LOGINETL_PAYLOAD_BUCKET"):
        following.services.payloads().check_reachable()
    following.send([login()])
    assert not following.run(expect_success=False).success
    assert following.services.queue().depth().queued == 1


# The second is one that boto3 does not even ask for.
@pytest.mark.parametrize("bucket", ["no-such-bucket-anywhere", "a" * 256], ids=["missing", "too long"])
def test_a_bucket_that_is_not_there_stops_the_run_before_it_receives(following: Pipeline) -> None:
    following.send([login()])
    failed = following.run(expect_success=False)
    assert "LOGINETL_PAYLOAD_BUCKET" in str([event.step_failure_data for event in failed.get_step_failure_events()])
    assert following.services.queue().depth().queued == 1


def test_without_a_bucket_no_pointer_is_followed(pipeline: Pipeline, s3: Any, bucket: str) -> None:
    s3.put_object(Bucket=bucket, Key="a", Body=login().encode())
    pipeline.send([_pointer(bucket, "a"), json.dumps(["something", {"else": 1}])])
    pipeline.process()
    assert sorted(_rejected(pipeline)) == ["not_an_object", "payload_unavailable"]
