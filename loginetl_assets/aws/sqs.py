"""The SQS login queue: receive, delete, send, depth; each failure is sorted and explained here.

Receives and deletes are sent directly where they can be, and everything else, and what fails, by boto3.

Limits are SQS's own: ten messages a call, 1 MiB a message (Amazon SQS Developer Guide, "message quotas").
"""

import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import SplitResult, urlsplit

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError

from loginetl_assets.aws import session as aws
from loginetl_assets.aws.direct_calls import DirectCalls
from loginetl_assets.errors import OperatorError, TransientError, counted
from loginetl_assets.logins.message import QueuedMessage

if TYPE_CHECKING:
    from mypy_boto3_sqs import SQSClient
    from mypy_boto3_sqs.literals import QueueAttributeNameType
    from mypy_boto3_sqs.type_defs import SendMessageBatchRequestEntryTypeDef

MAX_PER_CALL = 10
MAX_BYTES_PER_CALL = 1024 * 1024  # for a message alone, and for all of a call together

_AWS_HOST = re.compile(r"^(?:sqs[.-](?P<region>[a-z0-9-]+)|(?P<legacy>[a-z0-9-]+)\.queue)\.amazonaws\.com")
_MISSING = {"AWS.SimpleQueueService.NonExistentQueue", "QueueDoesNotExist", "InvalidAddress"}
_REFUSED = {"AccessDenied", "AccessDeniedException", "KMS.AccessDeniedException"}
_CREDENTIALS = {"InvalidClientTokenId", "SignatureDoesNotMatch", "ExpiredToken", "UnrecognizedClientException",
                "InvalidAccessKeyId", "IncompleteSignature"}  # fmt: skip


@dataclass(frozen=True)
class ReceivedMessage:
    """A message in flight to this receiver, and the handle that deletes it."""

    message: QueuedMessage
    receipt_handle: str
    receives: int = 1  # how often SQS delivered it, this time included


@dataclass(frozen=True)
class QueueDepth:
    """SQS's approximate counts."""

    queued: int  # a receiver gets them now
    in_flight: int  # received, and invisible until they are deleted or their time-out ends
    delayed: int  # sent with a delay (the queue's, or their own) that has not passed: no receiver gets them


class LoginQueue:
    """One queue; safe to use from many threads."""

    def __init__(
        self,
        client: "SQSClient",
        url: str,
        *,
        direct: bool = False,
        embedded: bool = False,
        open_metrics: Callable[[], Any] | None = None,
    ) -> None:
        """Takes a client for the queue's region or endpoint, its URL, and where there is CloudWatch, how to open it.

        With `direct`, receives and deletes are sent without boto3 where they succeed.
        """
        self._client = client
        self._direct = DirectCalls(client) if direct else None
        self._embedded = embedded
        self.url = url
        self._open_metrics = open_metrics

    def receive(
        self, *, max_messages: int = MAX_PER_CALL, wait_seconds: int, visibility_seconds: int
    ) -> list[ReceivedMessage]:
        """Receives up to `max_messages` (at most ten), waiting up to `wait_seconds` for the first (long polling)."""
        response = self._call(
            "ReceiveMessage",
            self._client.receive_message,
            MaxNumberOfMessages=min(max_messages, MAX_PER_CALL),
            WaitTimeSeconds=wait_seconds,
            VisibilityTimeout=visibility_seconds,
            MessageSystemAttributeNames=["SentTimestamp", "ApproximateReceiveCount"],
        )
        return [
            ReceivedMessage(
                QueuedMessage(
                    raw["MessageId"],
                    int(raw["Attributes"]["SentTimestamp"]),
                    raw["Body"].encode("utf-8", "surrogatepass"),
                ),
                raw["ReceiptHandle"],
                int(raw["Attributes"]["ApproximateReceiveCount"]),
            )
            for raw in response.get("Messages") or []
        ]

    def delete(self, receipt_handles: Sequence[str]) -> list[str]:
        """Deletes up to ten messages; returns the handles of those that SQS did not delete."""
        response = self._call(
            "DeleteMessageBatch",
            self._client.delete_message_batch,
            Entries=[{"Id": str(number), "ReceiptHandle": handle} for number, handle in enumerate(receipt_handles)],
        )
        return [receipt_handles[int(failed["Id"])] for failed in response.get("Failed") or []]

    def make_visible(self, receipt_handles: Sequence[str]) -> None:
        """Makes up to ten received messages visible again; one whose receipt has expired is visible already."""
        with self._failures_explained():
            self._client.change_message_visibility_batch(
                QueueUrl=self.url,
                Entries=[
                    {"Id": str(number), "ReceiptHandle": handle, "VisibilityTimeout": 0}
                    for number, handle in enumerate(receipt_handles)
                ],
            )

    @property
    def is_fifo(self) -> bool:
        """Whether the queue keeps order: it then delivers no more of a group until what it delivered is deleted."""
        return self.url.endswith(".fifo")

    def send(self, bodies: Iterable[str]) -> int:
        """Sends message bodies, ten a call or fewer large ones; returns how many were accepted.

        Raises OperatorError where SQS refused a body (empty, too long, or with characters that it does not take).
        """
        sent = 0
        for chunk in _in_calls(bodies):
            with self._failures_explained():
                response = self._client.send_message_batch(
                    QueueUrl=self.url,
                    Entries=[self._entry(number, body) for number, body in enumerate(chunk)],
                )
            sent += len(response.get("Successful", []))
            if failed := response.get("Failed"):
                place = sent + len(failed)
                raise OperatorError(
                    f"the queue accepted {counted(sent, 'message')} and refused {len(failed):,} of the first {place:,}"
                    f" ({failed[0].get('Code', 'no code')}): remove those that are empty, too long or"
                    " have control characters, and send the rest again"
                )
        return sent

    def _call(self, operation: str, by_boto3: Callable[..., Any], **parameters: Any) -> Any:
        """Returns the answer to a call on this queue, from boto3 where the direct one did not succeed."""
        parameters["QueueUrl"] = self.url
        response = self._direct and self._direct.call(operation, **parameters)
        if response is not None:
            return response
        with self._failures_explained():
            return by_boto3(**parameters)

    @contextmanager
    def _failures_explained(self) -> Iterator[None]:
        try:
            yield
        except (*aws.AWS_ERRORS, ValueError) as error:  # ValueError: an endpoint that is no URL, with all it says
            raise _explained(error, self.url, embedded=self._embedded) from None

    def _entry(self, number: int, body: str) -> "SendMessageBatchRequestEntryTypeDef":
        if self.is_fifo:
            return {"Id": str(number), "MessageBody": body, "MessageGroupId": "logins"}
        return {"Id": str(number), "MessageBody": body}

    def depth(self) -> QueueDepth:
        """Returns SQS's approximate counts."""
        names: list[QueueAttributeNameType] = [
            "ApproximateNumberOfMessages",
            "ApproximateNumberOfMessagesNotVisible",
            "ApproximateNumberOfMessagesDelayed",
        ]
        with self._failures_explained():
            response = self._client.get_queue_attributes(QueueUrl=self.url, AttributeNames=names)
        return QueueDepth(*(int(response["Attributes"].get(name, 0)) for name in names))

    def dead_letters(self) -> int | None:
        """Returns how many messages wait on the queue that the redrive policy names; None if unknown, or none does."""
        with suppress(*aws.AWS_ERRORS):
            found = self._client.get_queue_attributes(QueueUrl=self.url, AttributeNames=["RedrivePolicy"])
            if policy := found.get("Attributes", {}).get("RedrivePolicy"):
                account, name = json.loads(policy)["deadLetterTargetArn"].split(":")[-2:]
                named = self._client.get_queue_url(QueueName=name, QueueOwnerAWSAccountId=account)
                return LoginQueue(self._client, named["QueueUrl"]).depth().queued
        return None

    def oldest_message_seconds(self) -> int | None:
        """Returns the age of the oldest message, as CloudWatch has it from a minute or two ago; None if unknown."""
        if self._open_metrics is None:
            return None
        now = datetime.now(UTC)
        with suppress(*aws.AWS_ERRORS):
            found = self._open_metrics().get_metric_statistics(
                Namespace="AWS/SQS",
                MetricName="ApproximateAgeOfOldestMessage",
                Dimensions=[{"Name": "QueueName", "Value": self.url.rsplit("/", 1)[-1]}],
                StartTime=now - timedelta(minutes=10),
                EndTime=now,
                Period=60,
                Statistics=["Maximum"],
            )
            if points := found["Datapoints"]:
                return int(max(points, key=lambda one: one["Timestamp"])["Maximum"])
        return None


def _in_calls(bodies: Iterable[str]) -> Iterator[list[str]]:
    """Yields bodies by calls: at most ten, and no more than one call may carry."""
    chunk, size = list[str](), 0
    for body in bodies:
        length = len(body.encode("utf-8", "surrogatepass"))
        if chunk and (len(chunk) == MAX_PER_CALL or size + length > MAX_BYTES_PER_CALL):
            yield chunk
            chunk, size = [], 0
        chunk.append(body)
        size += length
    if chunk:
        yield chunk


def open_queue(
    url: str,
    *,
    session: boto3.Session | None = None,
    endpoint_url: str | None = None,
    max_attempts: int | None = None,
    connections: int = 10,
    direct: bool = True,
    emulator: bool = False,
    placeholder_credentials: bool = False,
) -> LoginQueue:
    """Opens a queue by its URL; nothing is sent yet.

    Credentials and region are those of the session, by default of boto3's own chain; `endpoint_url` overrides
    AWS_ENDPOINT_URL_SQS. A call is tried `max_attempts` times, by default AWS_MAX_ATTEMPTS or five, the first included,
    by boto3; before that, `direct` receives and deletes are tried once without it, unless one attempt is all.
    Our own `emulator` has a region of its own and takes any credentials. `placeholder_credentials` are for other
    emulators, where the environment names none. Raises OperatorError where the URL is not a queue's or is in another
    region.
    """
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise OperatorError("LOGINETL_QUEUE_URL must be a queue's URL, such as https://sqs.REGION.amazonaws.com/…")
    session = session or aws.open_session()
    region, endpoint = _place(parts, None if emulator else session.region_name)
    # Not asked of boto3, whose search ends at the network: the instance's metadata.
    named = bool(os.environ.get("AWS_ACCESS_KEY_ID") or os.environ.get("AWS_PROFILE"))
    placeholder = "local" if emulator or (placeholder_credentials and not named) else None
    try:
        attempts = max_attempts or int(os.environ.get("AWS_MAX_ATTEMPTS", "5"))
        client = session.client(
            "sqs",
            region_name=region,
            endpoint_url=endpoint_url or endpoint,
            config=Config(
                retries={"total_max_attempts": attempts, "mode": "standard"},
                max_pool_connections=connections,
                connect_timeout=5,
                read_timeout=30,  # above SQS's longest poll of 20 s
                proxies={} if emulator else None,  # a proxy has no business on loopback
            ),
            aws_access_key_id=placeholder,
            aws_secret_access_key=placeholder,
        )
    except (*aws.AWS_ERRORS, ValueError) as error:
        raise _explained(error, url, embedded=emulator) from None
    once = Config(retries={"total_max_attempts": 1}, connect_timeout=5, read_timeout=5)
    metrics = partial(session.client, "cloudwatch", region_name=region, config=once)
    return LoginQueue(
        client,
        url,
        direct=direct and attempts > 1,
        embedded=emulator,
        open_metrics=None if endpoint_url or endpoint else metrics,
    )


def _place(url: SplitResult, region: str | None) -> tuple[str, str | None]:
    """Returns a queue's region and endpoint, None for AWS's own.

    Both come from AWS's own variables and profiles; where those are silent, from the URL itself, since an AWS queue's
    URL names its region and an emulator's its endpoint.
    """
    of_aws = _AWS_HOST.match(url.hostname or "")
    if of_aws is None:  # emulators keep queues by region: our own has its queue in the default one
        return region or aws.DEFAULT_REGION, aws.endpoint_of("SQS") or f"{url.scheme}://{url.netloc}"
    of_url = str(of_aws["region"] or of_aws["legacy"])
    if region and region != of_url:
        raise OperatorError(
            f"the queue's URL is in {of_url} but the AWS region is set to {region}: correct AWS_DEFAULT_REGION"
            " (or the profile's region) or LOGINETL_QUEUE_URL"
        )
    return of_url, None


def _explained(error: Exception, url: str, *, embedded: bool) -> Exception:
    """Returns the error that names what fixes a failure of boto3, whose own text may carry bodies and keys."""
    parts = urlsplit(url)
    name, host = parts.path.rsplit("/", 1)[-1], parts.netloc
    if isinstance(error, aws.CREDENTIAL_ERRORS):
        return OperatorError(aws.NO_CREDENTIALS)
    if isinstance(error, aws.NETWORK_ERRORS):
        remedy = "`loginetl up` starts it" if embedded else "is it up, and is LOGINETL_QUEUE_URL right?"
        return TransientError(f"the queue at {host} cannot be reached: {remedy}")
    if not isinstance(error, ClientError):
        return OperatorError(
            f"boto3 refused queue {name} at {host} ({type(error).__name__}): check LOGINETL_QUEUE_URL and"
            " AWS_ENDPOINT_URL_SQS"
        )
    code = aws.error_code(error)
    if code in _MISSING or code.endswith("NonExistentQueue"):
        if embedded:
            remedy = "`loginetl down`, then `loginetl up`, makes it again, without the messages that it had"
        elif _AWS_HOST.match(parts.hostname or ""):
            remedy = "create it, or check LOGINETL_QUEUE_URL, and that AWS_PROFILE or AWS_* keys are of its account"
        else:
            remedy = (
                "create it, or check LOGINETL_QUEUE_URL and, as emulators keep queues by region, AWS_DEFAULT_REGION"
            )
        return OperatorError(f"there is no queue {name} at {host}: {remedy}")
    if code in _REFUSED:
        return OperatorError(
            f"AWS denies these credentials queue {name}: grant them sqs:ReceiveMessage, sqs:DeleteMessage,"
            " sqs:ChangeMessageVisibility and sqs:GetQueueAttributes (and kms:Decrypt on an encrypted queue)"
        )
    if code in _CREDENTIALS:
        return OperatorError(f"AWS does not accept these credentials ({code}): check AWS_PROFILE or AWS_* keys")
    if aws.is_transient(error):
        return TransientError(f"SQS at {host} answered {code} after every retry: run again later")
    return OperatorError(f"SQS at {host} answered {code} for queue {name}: check the queue's settings and policy")
