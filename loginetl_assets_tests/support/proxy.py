"""What the proxies share: rules that say which requests fail how, and a server that ends with all its connections."""

import socket
import socketserver
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Generic, Self, TypeVar


class DroppedError(Exception):
    """The client's connection ends here, without an answer."""

    def __init__(self, *, reset: bool = False) -> None:
        super().__init__()
        self.reset = reset


_Request = TypeVar("_Request")
_Action = TypeVar("_Action")


@dataclass
class Rule(Generic[_Request, _Action]):
    """Acts on the `nth` request that matches and on those after it, `times` in all (None: for ever).

    Attributes:
        matches: which requests.
        action: what happens to them.
        nth: the first that it happens to, counted from one.
        times: how many it happens to.
        matched: how many requests matched so far.
        acted: how many of them it happened to.
    """

    matches: Callable[[_Request], bool]
    action: _Action
    nth: int = 1
    times: int | None = 1
    matched: int = 0
    acted: int = 0

    def takes(self, request: _Request) -> bool:
        """Whether this request is one to act on; counts it. The caller keeps other threads out."""
        if not self.matches(request):
            return False
        self.matched += 1
        if self.matched < self.nth or (self.times is not None and self.acted >= self.times):
            return False
        self.acted += 1
        return True


class Proxy(Generic[_Request, _Action]):
    """Listens while it is entered, and acts on requests by its rules. The first rule to match wins."""

    _server: socketserver.TCPServer

    def __init__(self, *rules: Rule[_Request, _Action]) -> None:
        """Takes the rules to begin with; who inherits sets `_server`."""
        self._rules = list(rules)
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._sockets: set[socket.socket] = set()
        self._failures: list[BaseException] = []
        self._thread = threading.Thread(target=self._serve, name=type(self).__name__)

    def add(self, rule: Rule[_Request, _Action]) -> Rule[_Request, _Action]:
        """Appends a rule and returns it, so that a test can ask whether it acted."""
        with self._lock:
            self._rules.append(rule)
        return rule

    def clear(self) -> None:
        """Takes all rules away."""
        with self._lock:
            self._rules.clear()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Ends every connection.

        Raises:
            BaseException: what a rule raised, such as a failed assertion of a callback, if nothing else is under way.
        """
        self._closing.set()
        self._server.shutdown()
        with self._lock:
            for connection in self._sockets:
                shut(connection)
        self._server.server_close()  # waits for the threads of the connections
        self._thread.join()
        if self._failures and error is None:
            raise self._failures[0]

    def _serve(self) -> None:
        self._server.serve_forever(0.05)

    @contextmanager
    def _opened(self, connection: socket.socket) -> Iterator[None]:
        """Keeps a socket, while it is open, among those that end with the proxy."""
        with self._lock:
            self._sockets.add(connection)
        try:
            yield
        finally:
            with self._lock:
                self._sockets.discard(connection)


def shut(connection: socket.socket) -> None:
    """Ends a connection for both sides."""
    try:
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:
        return  # the other side was first
