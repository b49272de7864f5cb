"""How a queue is opened: what is said about its URL before anything is sent, and which options reach the client."""

from pathlib import Path

import pytest
from botocore.stub import Stubber

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


@pytest.mark.parametrize("option", ["use_ssl", "verify"])
def test_a_queue_resource_refuses_what_would_turn_tls_off(option: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=option):
        LoginQueueResource(services=Services(Settings(home=tmp_path)), **{option: False})  # type: ignore[arg-type]
