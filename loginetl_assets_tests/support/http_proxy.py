"""A reverse proxy in front of the SQS and S3 emulator, in which calls can be made to fail.

    with HttpProxy(addresses.sqs_endpoint) as proxy:
        queue_url = proxy.through(settings.queue_url)
        fault = proxy.add(Rule(operation("DeleteMessageBatch"), forward_then_drop(), nth=2))
        ...
        assert fault.acted == 1
        assert proxy.forwarded["ReceiveMessage"] == 3

An action is a function from an `Exchange` to the response that the client gets; it forwards the request, or does not.
"""

import socket
import ssl
import struct
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from http.client import HTTPConnection, HTTPException
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

from loginetl_assets_tests.support.proxy import DroppedError, Proxy, Rule, shut

_UPSTREAM_SECONDS = 60  # above SQS's longest poll of 20 s
_HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "te", "trailer", "upgrade", "expect"}


@dataclass(frozen=True)
class Request:
    """What a client asked; header names are in lower case."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def operation(self) -> str:
        """Such as `ReceiveMessage` for SQS, `PUT /bucket/key` for S3."""
        target = self.headers.get("x-amz-target", "")
        return target.rpartition(".")[2] or f"{self.method} {self.path}"


@dataclass(frozen=True)
class Response:
    """What a client is told.

    Attributes:
        status: HTTP's.
        headers: all but those of the connection itself; the length is told of the body.
        body: whole.
        cut: how many bytes more the header promises than come before the connection ends.
    """

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    cut: int = 0


@dataclass(frozen=True)
class Exchange:
    """One request on its way; `wait` sleeps, and says so if the proxy ended meanwhile."""

    request: Request
    forward: Callable[[], Response]
    wait: Callable[[float], bool]


Action = Callable[[Exchange], Response]


def operation(*names: str) -> Callable[[Request], bool]:
    """Matches requests by the beginning of their operation: `operation("ReceiveMessage")`, `operation("PUT /")`."""
    return lambda request: request.operation.startswith(names)


def answer(status: int, body: bytes = b"", headers: Mapping[str, str] | None = None) -> Action:
    """Answers instead of forwarding."""
    return lambda exchange: Response(status, headers or {}, body)


def sqs_error(status: int, code: str) -> Action:
    """Answers as SQS does when it fails, in its JSON protocol: `sqs_error(500, "InternalFailure")`."""
    body = f'{{"__type":"com.amazonaws.sqs#{code}","message":"injected"}}'.encode()
    return answer(status, body, {"Content-Type": "application/x-amz-json-1.0"})


def drop(*, reset: bool = False) -> Action:
    """Ends the connection before anything is forwarded; with `reset` by an RST instead of a FIN."""

    def act(exchange: Exchange) -> Response:
        raise DroppedError(reset=reset)

    return act


def forward_then_drop(*, reset: bool = False) -> Action:
    """Lets the call happen, and ends the connection before the client hears of it."""

    def act(exchange: Exchange) -> Response:
        exchange.forward()
        raise DroppedError(reset=reset)

    return act


def alter(change: Callable[[Response], Response]) -> Action:
    """Lets the call happen and answers with something else."""
    return lambda exchange: change(exchange.forward())


def half(response: Response) -> Response:
    """The first half of a body whose length was announced whole; for `alter`."""
    middle = len(response.body) // 2
    return replace(response, body=response.body[:middle], cut=len(response.body) - middle)


def call_before(callback: Callable[[], object]) -> Action:
    """Calls back before the request is forwarded."""

    def act(exchange: Exchange) -> Response:
        callback()
        return exchange.forward()

    return act


def call_after(callback: Callable[[], object]) -> Action:
    """Calls back when the server has answered, before the client hears of it."""

    def act(exchange: Exchange) -> Response:
        response = exchange.forward()
        callback()
        return response

    return act


def delay(seconds: float) -> Action:
    """Forwards later."""

    def act(exchange: Exchange) -> Response:
        if exchange.wait(seconds):
            raise DroppedError
        return exchange.forward()

    return act


class Latency:
    """Forwards later, as a network does; `peak` is how many calls waited at once."""

    def __init__(self, seconds: float) -> None:
        self._seconds, self._lock = seconds, threading.Lock()
        self._waiting = self.peak = 0

    def __call__(self, exchange: Exchange) -> Response:
        """Is the rule's action."""
        with self._lock:
            self._waiting += 1
            self.peak = max(self.peak, self._waiting)
        try:
            return delay(self._seconds)(exchange)
        finally:
            with self._lock:
                self._waiting -= 1


class HttpProxy(Proxy[Request, Action]):
    """Listens on loopback and forwards to one server, except where a rule says otherwise. The first rule to match wins.

    As a client's HTTP_PROXY or HTTPS_PROXY it stands for every host: with `tls`, what goes through CONNECT ends here.

    Attributes:
        seen: requests by operation, whatever became of them.
        forwarded: those of them that the server answered.
    """

    def __init__(self, upstream_url: str, *rules: Rule[Request, Action], tls: ssl.SSLContext | None = None) -> None:
        """Takes the server's URL (host and port of it), the rules to begin with, and a certificate of the hosts."""
        parts = urlsplit(upstream_url)
        self._upstream = (parts.hostname or "127.0.0.1", parts.port or 80)
        super().__init__(*rules)
        self.seen: Counter[str] = Counter()
        self.forwarded: Counter[str] = Counter()
        proxy = self

        class Handler(_Handler):
            tunnel = tls

            def answer_to(self, request: Request) -> Response:
                return proxy._answer(request)

        self._server = _Server(("127.0.0.1", 0), Handler)
        self._server.opened, self._server.failed = self._opened, self._failures.append

    @property
    def url(self) -> str:
        """Where clients find it, without a slash at the end."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def through(self, url: str) -> str:
        """A URL of the server by way of this proxy: same path, other address."""
        return urlsplit(url)._replace(netloc=urlsplit(self.url).netloc).geturl()

    def _answer(self, request: Request) -> Response:
        with self._lock:
            self.seen[request.operation] += 1
            action = next((rule.action for rule in self._rules if rule.takes(request)), None)
        exchange = Exchange(request, lambda: self._forward(request), self._closing.wait)
        return action(exchange) if action else exchange.forward()

    def _forward(self, request: Request) -> Response:
        connection = HTTPConnection(*self._upstream, timeout=_UPSTREAM_SECONDS)
        try:
            connection.connect()
            with self._opened(connection.sock):
                connection.putrequest(request.method, request.path, skip_host=True, skip_accept_encoding=True)
                for name, value in request.headers.items():
                    if name not in _HOP_BY_HOP | {"content-length"}:
                        connection.putheader(name, value)
                if request.body or request.method in {"POST", "PUT"}:
                    connection.putheader("content-length", str(len(request.body)))
                connection.endheaders(request.body or None)
                raw = connection.getresponse()
                response = Response(raw.status, dict(raw.getheaders()), raw.read())
        except (OSError, HTTPException):
            raise DroppedError from None  # as a client without this proxy would see it
        finally:
            connection.close()
        with self._lock:
            self.forwarded[request.operation] += 1
        return response


class _Server(ThreadingHTTPServer):
    daemon_threads = False
    block_on_close = True
    opened: Callable[[socket.socket], AbstractContextManager[None]]
    failed: Callable[[BaseException], None]

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        with self.opened(request):
            super().process_request_thread(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """Closes without the FIN that socketserver sends first: a reset would come behind it."""
        self.close_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Says nothing: clients that are killed leave broken pipes, and what else may come up is kept by `_Handler`."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server
    tunnel: ssl.SSLContext | None = None

    def answer_to(self, request: Request) -> Response:
        raise NotImplementedError

    def _handle(self) -> None:
        request = Request(
            self.command, self.path, {name.lower(): value for name, value in self.headers.items()}, self._body()
        )
        try:
            response = self.answer_to(request)
        except DroppedError as dropped:
            self._drop(reset=dropped.reset)
            return
        except BaseException as error:  # noqa: BLE001 - a failed assertion in a callback is the test's to see
            self.server.failed(error)
            self._drop(reset=False)
            return
        self.send_response_only(response.status)
        for name, value in response.headers.items():
            if name.lower() not in _HOP_BY_HOP and (name.lower() != "content-length" or self.command == "HEAD"):
                self.send_header(name, value)
        if self.command != "HEAD" and response.status not in {204, 304}:
            self.send_header("Content-Length", str(len(response.body) + response.cut))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(response.body)
        if response.cut:
            self._drop(reset=False)

    do_GET = do_POST = do_PUT = do_DELETE = do_HEAD = _handle  # noqa: N815 - http.server's names

    def do_CONNECT(self) -> None:  # noqa: N802 - http.server's name
        """Answers the requests that come through the tunnel itself."""
        assert self.tunnel is not None
        self.send_response_only(200)
        self.end_headers()
        with self.tunnel.wrap_socket(self.connection, server_side=True) as self.connection:
            self.rfile, self.wfile = self.connection.makefile("rb"), self.connection.makefile("wb", 0)
            self.close_connection = False
            with self.server.opened(self.connection):
                while not self.close_connection:
                    self.handle_one_request()

    def _body(self) -> bytes:
        if "chunked" not in self.headers.get("Transfer-Encoding", "").lower():
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = []
        while size := int(self.rfile.readline().partition(b";")[0], 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        while self.rfile.readline().strip():
            pass  # trailers
        return b"".join(parts)

    def _drop(self, *, reset: bool) -> None:
        self.close_connection = True
        if reset:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        else:
            shut(self.connection)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the signature of http.server
        """Says nothing."""
