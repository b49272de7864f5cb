"""How a queue is opened: what is said about its URL before anything is sent, and which options reach the client."""

from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import boto3
import pytest
from botocore.hooks import HierarchicalEmitter
from botocore.stub import ANY, Stubber

from loginetl_assets.aws.direct_calls import DirectCalls
from loginetl_assets.aws.session import open_session
from loginetl_assets.aws.sqs import LoginQueue, open_queue
from loginetl_assets.errors import OperatorError, TransientError
from loginetl_assets.resources import LoginQueueResource
from loginetl_assets.services import Services
from loginetl_assets.settings import Settings


def test_a_url_that_is_not_a_queues_is_named_before_a_profile_that_is_not_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AWS_PROFILE", "not-there")
    with pytest.raises(OperatorError, match="LOGINETL_QUEUE_URL"):
        open_queue("ftp://queue/logins")
    with pytest.raises(OperatorError, match="AWS_PROFILE"):
        open_queue("https://sqs.eu-west-1.amazonaws.com/1/logins")


def test_a_drain_process_tries_a_call_as_often_as_the_queue_resource_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    services = Services(Settings(home=tmp_path, queue_url="http://127.0.0.1:9/0/logins"))
    resource = LoginQueueResource(services=services, max_attempts=1, aws_access_key_id="k", aws_secret_access_key="k")
    for name, value in resource.as_environment().items():
        monkeypatch.setenv(name, value)
    session, sent = open_session(), list[object]()
    session.events.register("before-send.sqs", lambda request, **_: sent.append(request))

    with pytest.raises(TransientError):
        Services(Settings.from_environment()).queue(session=session).depth()

    assert len(sent) == 1


@pytest.mark.parametrize(
    ("url", "embedded", "remedy"),
    [
        ("http://127.0.0.1:9/000000000000/login-queue", True, "`loginetl down`, then `loginetl up`"),
        ("http://127.0.0.1:9/000000000000/login-queue", False, "AWS_DEFAULT_REGION"),
        ("https://sqs.eu-west-1.amazonaws.com/1/login-queue", False, "of its account"),
    ],
)
def test_a_queue_that_is_not_there_is_named_with_what_fixes_it_where_it_was(
    url: str, embedded: bool, remedy: str
) -> None:
    client = open_session().client("sqs", region_name="eu-west-1")
    with Stubber(client) as stub, pytest.raises(OperatorError, match="there is no queue login-queue") as raised:
        stub.add_client_error("get_queue_attributes", "AWS.SimpleQueueService.NonExistentQueue")
        LoginQueue(client, url, embedded=embedded).depth()
    assert remedy in str(raised.value)
    assert ("LOGINETL_QUEUE_URL" in str(raised.value)) is not embedded


def test_the_age_of_the_oldest_message_is_cloudwatchs_newest_number() -> None:
    cloudwatch = boto3.client("cloudwatch", "eu-west-1", aws_access_key_id="k", aws_secret_access_key="k")
    sqs = boto3.client("sqs", "eu-west-1", aws_access_key_id="k", aws_secret_access_key="k")
    queue = LoginQueue(sqs, "https://sqs.eu-west-1.amazonaws.com/1/logins", open_metrics=lambda: cloudwatch)
    asked = {
        "Namespace": "AWS/SQS",
        "MetricName": "ApproximateAgeOfOldestMessage",
        "Dimensions": [{"Name": "QueueName", "Value": "logins"}],
        **dict.fromkeys(("StartTime", "EndTime", "Period", "Statistics"), ANY),
    }
    points = [
        {"Timestamp": datetime(2026, 1, 1, 0, minute, tzinfo=UTC), "Maximum": 60.0 * minute} for minute in (1, 3, 2)
    ]
    with Stubber(cloudwatch) as stubbed:
        stubbed.add_response("get_metric_statistics", {"Datapoints": points}, asked)
        assert queue.oldest_message_seconds() == 180
        stubbed.add_response("get_metric_statistics", {"Datapoints": []}, asked)
        assert queue.oldest_message_seconds() is None
        stubbed.add_client_error("get_metric_statistics", "AccessDenied")
        assert queue.oldest_message_seconds() is None, "who may not ask goes without"


def test_only_a_queue_of_aws_itself_has_an_age(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "k")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "k")
    monkeypatch.setenv("AWS_ENDPOINT_URL_CLOUDWATCH", "http://127.0.0.1:9")
    session, asked = open_session(), list[object]()
    session.events.register("before-send.monitoring", lambda request, **_: asked.append(request))
    assert open_queue("http://127.0.0.1:9/0/logins", session=session).oldest_message_seconds() is None
    assert asked == []
    assert open_queue("https://sqs.us-east-1.amazonaws.com/1/logins", session=session).oldest_message_seconds() is None
    assert len(asked) == 1


@pytest.mark.parametrize("option", ["use_ssl", "verify"])
def test_a_queue_resource_refuses_what_would_turn_tls_off(option: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=option):
        LoginQueueResource(services=Services(Settings(home=tmp_path)), **{option: False})  # type: ignore[arg-type]


@pytest.mark.parametrize("event", ["before-sign", "needs-retry"])
def test_what_a_later_botocore_passes_to_direct_calls_is_no_error_of_boto3_s_own(event: str) -> None:
    client: Any = SimpleNamespace(meta=SimpleNamespace(events=HierarchicalEmitter()))
    direct = DirectCalls(client)

    client.meta.events.emit(f"{event}.sqs.ReceiveMessage", response=(object(),), request=object())

    assert direct.call("ReceiveMessage") is None
