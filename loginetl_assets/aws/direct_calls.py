"""SQS calls as boto3 sends them, for a third of its CPU: the hot path of the queue, which knows success only.

boto3's own calls are watched: once it has had an answer to an operation, the same request (address, headers, signer;
pool of connections, and so its proxy, certificates and timeouts) is sent again with another body. Any other answer
than success, and anything that is not as known here, is None: then boto3 asks, which owns retries and failures.
"""

import json
import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

if TYPE_CHECKING:
    from botocore.awsrequest import AWSRequest
    from botocore.credentials import ReadOnlyCredentials
    from botocore.signers import RequestSigner
    from mypy_boto3_sqs import SQSClient
    from urllib3 import HTTPConnectionPool

# A server that takes boto3's calls and none of ours would get each of them twice.
MAX_FAILURES_IN_A_ROW = 10


class _Template(NamedTuple):
    """A request of boto3, without what differs from call to call."""

    url: str
    headers: dict[str, str]
    signer: "RequestSigner"
    signing: tuple[str, str]  # service and region


class _Way(NamedTuple):
    """A template that was answered, and how it got there."""

    template: _Template
    pool: "HTTPConnectionPool"
    target: str  # the request line's: a path, or the URL where a proxy forwards it


@dataclass(repr=False)  # it has the session's token
class _Request:
    """What botocore's signer reads of an `AWSRequest`, whose headers cost 50 µs a call."""

    url: str
    body: bytes
    headers: dict[str, str]
    method: str = "POST"
    params: None = None
    context: dict[str, Any] = field(default_factory=dict)


class _Signed(NamedTuple):
    """A body's headers, which hold for calls within the same second."""

    second: int
    body: bytes
    credentials: "ReadOnlyCredentials"
    headers: dict[str, str]


class DirectCalls:
    """The direct calls of one boto3 client; safe to use from many threads."""

    def __init__(self, client: "SQSClient") -> None:
        """Takes the client whose calls are watched."""
        self._templates: dict[str, _Template] = {}
        self._ways: dict[str, _Way] = {}
        self._signed: dict[str, _Signed] = {}
        self._failures_in_a_row = 0
        client.meta.events.register("before-sign.sqs", self._before_sign)
        client.meta.events.register("needs-retry.sqs", self._answered)

    def call(self, operation: str, **parameters: Any) -> dict[str, Any] | None:
        """Returns the answer to a call; None where boto3 has to ask.

        Of a receive that is asked again, SQS may have answered the first: those messages come again after their
        visibility timeout, as where boto3 tries again. Deletes may be repeated.
        """
        way = self._ways.get(operation)
        if way is None or self._failures_in_a_row >= MAX_FAILURES_IN_A_ROW:
            return None
        try:
            body = msgspec.json.encode(parameters)
            response = way.pool.urlopen(
                "POST",
                way.target,
                body,
                self._headers(operation, way.template, body),
                retries=False,
                redirect=False,
                assert_same_host=False,
                decode_content=False,
            )
            if response.status == 200:
                answer = _read(response.data)
                self._failures_in_a_row = 0
                return answer
        except Exception:  # noqa: BLE001, S110 - whatever it is, boto3 meets it as well, and has the words for it
            pass
        self._failures_in_a_row += 1
        return None

    def _headers(self, operation: str, template: _Template, body: bytes) -> dict[str, str]:
        """Returns headers with botocore's signature, by the credentials of this moment: getting them refreshes them."""
        auth = template.signer.get_auth_instance(*template.signing, "v4")
        second, last = int(time.time()), self._signed.get(operation)
        if last and last[:3] == (second, body, auth.credentials):
            return last.headers  # a signature has the time in seconds: this one would be the same
        request = _Request(template.url, body, template.headers.copy())
        auth.add_auth(request)
        self._signed[operation] = _Signed(second, body, auth.credentials, request.headers)
        return request.headers

    # An error of a handler would end boto3's call: what a later botocore passes may differ, and is then not kept.

    def _before_sign(self, **event: Any) -> None:
        """Keeps a request of the JSON protocol; botocore's event."""
        with suppress(Exception):
            request: AWSRequest = event["request"]
            headers = {
                name: value for name, value in request.headers.items() if not name.lower().startswith("amz-sdk-")
            }
            if event["signature_version"] == "v4" and headers["Content-Type"].startswith("application/x-amz-json-"):
                signing = request.context.get("signing", {})
                service = signing.get("signing_name", event["signing_name"])
                region = signing.get("region", event["region_name"])
                self._templates[event["operation_name"]] = _Template(
                    str(request.url), headers, event["request_signer"], (service, region)
                )

    def _answered(self, **event: Any) -> None:
        """Keeps the way of a request that succeeded; botocore's event, to which None says nothing about a retry."""
        with suppress(Exception):
            operation, response = event["operation"].name, event["response"][0]
            if response.status_code == 200:
                self._ways[operation] = _Way(self._templates[operation], response.raw._pool, response.raw.url)  # noqa: SLF001


def _read(body: bytes) -> dict[str, Any]:
    """Returns a JSON object; raises ValueError where boto3 would fail, too."""
    try:
        answer = msgspec.json.decode(body)
    except msgspec.DecodeError:  # half a surrogate pair, which boto3 takes: these messages are received, and not lost
        answer = json.loads(body)
    if isinstance(answer, dict):
        return answer
    raise ValueError
