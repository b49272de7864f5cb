"""Receives and deletes without boto3: what they send and bring is boto3's, and boto3 does what does not succeed so."""

import json
import ssl
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from bench.run import BenchmarkError
from bench.services import services as benchmark_services
from loginetl_assets.aws.direct_calls import MAX_FAILURES_IN_A_ROW
from loginetl_assets.aws.sqs import LoginQueue, ReceivedMessage, open_queue
from loginetl_assets.embedded import Addresses
from loginetl_assets.errors import OperatorError
from loginetl_assets.services import Services
from loginetl_assets.settings import QueueCalls, Settings
from loginetl_assets_tests.support.http_proxy import (
    Action,
    HttpProxy,
    Request,
    Response,
    alter,
    answer,
    drop,
    forward_then_drop,
    half,
    operation,
    sqs_error,
)
from loginetl_assets_tests.support.pipeline import sqs_client
from loginetl_assets_tests.support.proxy import Rule

BODIES = ["{}", '{"user_id": "žluťoučký ☂"}', "<&>'\" \t\n\\", *(str(number) for number in range(30))]


def is_direct(request: Request) -> bool:
    """Whether boto3 had no part in a receive or delete: it numbers its requests."""
    return HOT(request) and "amz-sdk-invocation-id" not in request.headers


HOT = operation("ReceiveMessage", "DeleteMessageBatch")


def watched(proxy: HttpProxy) -> list[Request]:
    """The receives and deletes that come through the proxy from now on."""
    seen: list[Request] = []

    def keep(request: Request) -> bool:
        if HOT(request):
            seen.append(request)
        return False

    proxy.add(Rule(keep, drop()))
    return seen


@pytest.fixture
def queue(proxy: HttpProxy, settings: Settings) -> LoginQueue:
    """A queue behind the proxy, of which boto3 has received and deleted one message."""
    return acquainted(Services(replace(settings, queue_url=proxy.through(str(settings.queue_url)))).queue())


def acquainted(queue: LoginQueue) -> LoginQueue:
    queue.send(["first"])
    assert emptied(queue) == ["first"]
    return queue


def receive(queue: LoginQueue, *, visibility_seconds: int = 30) -> list[ReceivedMessage]:
    return queue.receive(wait_seconds=0, visibility_seconds=visibility_seconds)


def handles(received: list[ReceivedMessage]) -> list[str]:
    return [one.receipt_handle for one in received]


def bodies(received: list[ReceivedMessage]) -> list[str]:
    return [one.message.body.decode() for one in received]


def emptied(queue: LoginQueue) -> list[str]:
    """The bodies of all messages, each of which is deleted."""
    found: list[str] = []
    while received := receive(queue):
        assert queue.delete(handles(received)) == []
        found += bodies(received)
    return found


# What is sent, and what comes


@pytest.fixture(params=["embedded", "benchmark"])
def endpoint(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Each SQS emulator that the project uses."""
    if request.param == "embedded":
        addresses: Addresses = request.getfixturevalue("addresses")
        yield addresses.sqs_endpoint
        return
    with ExitStack() as stack:
        try:
            services = stack.enter_context(benchmark_services(tmp_path))
        except BenchmarkError as error:
            pytest.skip(str(error))
        yield services.emulator.endpoint


@pytest.mark.parametrize("direct", [True, False])
def test_an_emulator_answers_direct_calls_as_it_answers_boto3(endpoint: str, direct: bool) -> None:
    name = f"direct-{uuid4().hex[:8]}"
    sqs_client(endpoint).create_queue(QueueName=name)
    with HttpProxy(endpoint) as proxy:
        queue = acquainted(open_queue(f"{proxy.url}/000000000000/{name}", direct=direct))
        seen = watched(proxy)
        queue.send(BODIES)
        received = receive(queue)
        assert {one.receives for one in received} == {1}
        assert all(abs(one.message.sent_at_ms / 1000 - datetime.now(UTC).timestamp()) < 60 for one in received)
        queue.make_visible(handles(received))
        assert len({one.message.message_id for one in received}) == len(received) == 10

        assert Counter(emptied(queue)) == Counter(BODIES)

        depth = queue.depth()
        assert (depth.queued, depth.in_flight) == (0, 0)
        assert {is_direct(request) for request in seen} == {direct}


def the_same(direct: Request, by_boto3: Request) -> None:
    """Compares what two requests say and where they went; their numbers, times and signatures differ."""
    varying = {"authorization", "x-amz-date", "content-length", "amz-sdk-invocation-id", "amz-sdk-request"}
    kept = [{name: value for name, value in one.headers.items() if name not in varying} for one in (direct, by_boto3)]
    assert kept[0] == kept[1]
    assert (direct.method, direct.path) == (by_boto3.method, by_boto3.path)
    assert set(direct.headers) == set(by_boto3.headers) - {"amz-sdk-invocation-id", "amz-sdk-request"}
    assert json.loads(direct.body).keys() == json.loads(by_boto3.body).keys()


def assert_signed(request: Request, url: str, credentials: Credentials) -> None:
    """A request has the signature that botocore makes of what arrived."""
    given = dict(part.split("=", 1) for part in request.headers["authorization"].split(" ", 1)[1].split(", "))
    _, _, region, service, _ = given["Credential"].split("/")
    names = given["SignedHeaders"].split(";")
    kept = {name: request.headers[name] for name in names if name != "host"}
    again = AWSRequest("POST", url, kept, request.body)
    again.context["timestamp"] = request.headers["x-amz-date"]
    auth = SigV4Auth(credentials, service, region)
    assert auth.signature(auth.string_to_sign(again, auth.canonical_request(again)), again) == given["Signature"]
    assert {"host", "content-type", "x-amz-date", "x-amz-target"} <= set(names)


@pytest.fixture
def authority(tmp_path: Path) -> tuple[Path, ssl.SSLContext]:
    """The file of a certificate that nobody else trusts, of AWS's hosts, and what a server needs to have it."""
    key, name = ec.generate_private_key(ec.SECP256R1()), x509.Name([])
    now = datetime.now(UTC)
    hosts = [x509.DNSName(f"*.us-east-1.{domain}") for domain in ("amazonaws.com", "api.aws")]
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), 1, now - timedelta(hours=1), now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName(hosts), critical=True)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path / "authority.pem"
    path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (tmp_path / "key.pem").write_bytes(private)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(path, tmp_path / "key.pem")
    return path, server


@pytest.mark.parametrize(
    ("switches", "host"),
    [
        ([], "sqs.us-east-1.amazonaws.com"),
        (["FIPS"], "sqs-fips.us-east-1.amazonaws.com"),
        (["DUALSTACK"], "sqs.us-east-1.api.aws"),
        (["FIPS", "DUALSTACK"], "sqs-fips.us-east-1.api.aws"),
    ],
)
def test_aws_s_own_endpoints_are_met_as_by_boto3_through_a_proxy_and_with_another_authority(
    switches: list[str],
    host: str,
    authority: tuple[Path, ssl.SSLContext],
    settings: Settings,
    addresses: Addresses,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    certificate, tls = authority
    for switch in switches:
        monkeypatch.setenv(f"AWS_USE_{switch}_ENDPOINT", "true")
    monkeypatch.setenv("AWS_CA_BUNDLE", str(certificate))
    path = "/".join(str(settings.queue_url).rsplit("/", 2)[1:])
    with HttpProxy(addresses.sqs_endpoint, tls=tls) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        seen = watched(proxy)
        queue = acquainted(open_queue(f"https://sqs.us-east-1.amazonaws.com/{path}"))
        queue.send(["second"])
        assert emptied(queue) == ["second"]

    assert {request.headers["host"] for request in seen} == {host}
    assert [is_direct(request) for request in seen] == [False, False, True, True, True, True]
    for direct in seen[2:]:
        the_same(direct, next(request for request in seen if request.operation == direct.operation))
        assert_signed(direct, f"https://{host}/", Credentials("local", "local"))


def test_a_proxy_of_http_gets_direct_calls_as_it_gets_boto3_s(
    settings: Settings, proxy: HttpProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", proxy.url)
    path = "/".join(str(settings.queue_url).rsplit("/", 2)[1:])
    url, seen = "http://queues.example:8080/", watched(proxy)
    messages = [
        {"MessageId": "1", "ReceiptHandle": "h", "Body": "{}", "Attributes": {"SentTimestamp": "1",
         "ApproximateReceiveCount": "1"}}
    ]  # fmt: skip
    proxy.add(Rule(HOT, answer(200, json.dumps({"Messages": messages}).encode()), times=None))

    queue = open_queue(url + path)
    for _ in range(2):
        assert bodies(receive(queue)) == ["{}"]

    assert [is_direct(request) for request in seen] == [False, True]
    assert {request.path for request in seen} == {url}
    the_same(seen[1], seen[0])
    assert_signed(seen[1], url, Credentials("local", "local"))


def test_credentials_that_expire_are_those_of_the_moment(
    settings: Settings, proxy: HttpProxy, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    program, number = tmp_path / "credentials", tmp_path / "number"
    expires = (datetime.now(UTC) + timedelta(minutes=5)).isoformat()  # refreshed in their last ten minutes
    program.write_text(
        f"#!/bin/sh\necho x >> {number}; n=$(wc -l < {number})\n"
        f'echo "{{\\"Version\\": 1, \\"AccessKeyId\\": \\"key-$n\\", \\"SecretAccessKey\\": \\"secret-$n\\",'
        f' \\"SessionToken\\": \\"token-$n\\", \\"Expiration\\": \\"{expires}\\"}}"\n'
    )
    program.chmod(0o700)
    (tmp_path / "config").write_text(f"[default]\ncredential_process = {program}\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_PROFILE", "default")
    seen = watched(proxy)

    queue = open_queue(proxy.through(str(settings.queue_url)))
    for _ in range(4):
        receive(queue)

    assert [is_direct(request) for request in seen] == [False, True, True, True]
    keys = [request.headers["authorization"].split("Credential=")[1].split("/")[0] for request in seen]
    assert len(set(keys)) == 4
    for key, request in list(zip(keys, seen, strict=True))[1:]:
        count = key.removeprefix("key-")
        assert request.headers["x-amz-security-token"] == f"token-{count}"
        assert_signed(request, f"{proxy.url}/", Credentials(key, f"secret-{count}", f"token-{count}"))


# What does not succeed


def garbled(response: Response) -> Response:
    return replace(response, body=response.body[: len(response.body) // 2])


FAULTS: dict[str, Action] = {
    "throttled": sqs_error(400, "RequestThrottled"),
    "unavailable": answer(503),
    "redirected": answer(307, headers={"Location": "http://127.0.0.1:9/"}),
    "no JSON": answer(200, b"<ReceiveMessageResponse/>", {"Content-Type": "text/xml"}),
    "no object": answer(200, b"[]"),
    "dropped": drop(),
    "reset": drop(reset=True),
    "unheard": forward_then_drop(),
    "cut off": alter(half),
    "garbled": alter(garbled),
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=[name.replace(" ", "-") for name in FAULTS])
def test_what_does_not_succeed_is_asked_again_by_boto3(queue: LoginQueue, proxy: HttpProxy, fault: Action) -> None:
    queue.send(BODIES[:5])
    seen = watched(proxy)
    rules = [proxy.add(Rule(operation(name), fault)) for name in ("ReceiveMessage", "DeleteMessageBatch")]

    # What an unheard receive brought comes again after its visibility time-out, as where boto3 itself tries again.
    received = receive(queue, visibility_seconds=1)
    received = received or queue.receive(wait_seconds=5, visibility_seconds=30)
    queue.delete(handles(received))

    assert [rule.acted for rule in rules] == [1, 1]
    assert Counter(bodies(received)) == Counter(BODIES[:5])
    assert (queue.depth().queued, queue.depth().in_flight) == (0, 0)
    assert [is_direct(request) for request in seen][:2] == [True, False]
    assert [is_direct(request) for request in seen][-2:] == [True, False]


def test_a_failure_that_stays_is_boto3_s_to_explain(queue: LoginQueue, proxy: HttpProxy) -> None:
    proxy.add(Rule(HOT, sqs_error(403, "AccessDenied"), times=None))
    with pytest.raises(OperatorError, match="grant them sqs:ReceiveMessage"):
        receive(queue)


def test_a_message_with_half_a_surrogate_pair_is_received_once_and_whole(queue: LoginQueue, proxy: HttpProxy) -> None:
    seen, body = watched(proxy), '{"user_id": "\ud83d"}'

    def with_half_a_pair(response: Response) -> Response:
        answered = json.loads(response.body)
        answered["Messages"][0]["Body"] = body
        return replace(response, body=json.dumps(answered).encode())

    proxy.add(Rule(operation("ReceiveMessage"), alter(with_half_a_pair)))
    queue.send(["{}"])

    received = receive(queue)

    assert [one.message.body for one in received] == [body.encode("utf-8", "surrogatepass")]
    assert [is_direct(request) for request in seen] == [True]


def test_a_server_that_takes_only_boto3_s_calls_soon_gets_no_others(queue: LoginQueue, proxy: HttpProxy) -> None:
    seen = watched(proxy)
    refused = proxy.add(Rule(is_direct, answer(400), times=None))

    for _ in range(MAX_FAILURES_IN_A_ROW + 5):
        receive(queue)

    assert refused.acted == MAX_FAILURES_IN_A_ROW
    assert len(seen) == 2 * MAX_FAILURES_IN_A_ROW + 5


@pytest.mark.parametrize("off", ["by the setting", "as one attempt is all"])
def test_direct_calls_are_switched_off(settings: Settings, proxy: HttpProxy, off: str) -> None:
    client = QueueCalls.BOTO3 if off == "by the setting" else QueueCalls.DIRECT
    named = replace(settings, queue_url=proxy.through(str(settings.queue_url)), queue_calls=client)
    seen = watched(proxy)

    acquainted(acquainted(Services(named).queue(max_attempts=1 if off == "as one attempt is all" else None)))

    assert len(seen) == 6
    assert not any(map(is_direct, seen))
