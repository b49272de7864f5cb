"""What is said about a queue's URL before anything is sent."""

import pytest

from loginetl_assets.aws.sqs import open_queue
from loginetl_assets.errors import OperatorError


def test_a_url_that_is_not_a_queues_is_named_before_a_profile_that_is_not_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AWS_PROFILE", "not-there")
    with pytest.raises(OperatorError, match="LOGINETL_QUEUE_URL"):
        open_queue("ftp://queue/logins")
    with pytest.raises(OperatorError, match="AWS_PROFILE"):
        open_queue("https://sqs.eu-west-1.amazonaws.com/1/logins")
