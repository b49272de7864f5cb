"""A proxy in front of Postgres in which statements can be made to fail.

    with PostgresProxy(settings.database_url) as proxy:
        database_url = proxy.through(settings.database_url)
        fault = proxy.add(Rule(statement("COMMIT", after="register_batch"), forward_then_drop()))

It goes in step with the protocol (PostgreSQL documentation, "Frontend/Backend Protocol"): whatever a client sends up
to Sync or a simple Query is one statement, and the server's answer is held until it is whole. So an action sees a
statement before the server does, or its result before the client does. Pipelining is not understood, nor is any
authentication but `trust`.
"""

import re
import socket
import socketserver
import struct
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import IO, NamedTuple

from sqlalchemy import make_url

from loginetl_assets_tests.support.proxy import DroppedError, Proxy, Rule

CONNECT = "<connect>"  # stands for the statement of a client that asks to be let in

_CANCEL, _SSL, _GSS = 80877102, 80877103, 80877104
_ENDS_THE_CONNECTION = ("53300", "57P01", "57P02", "57P03")  # the server says so and closes


@dataclass(frozen=True)
class Statement:
    """What a client asks of the server.

    Attributes:
        sql: its text, or `CONNECT`.
        before: the statements of the same transaction so far, the latest last.
        application_name: as the client gave it when it connected.
    """

    sql: str
    before: tuple[str, ...]
    application_name: str

    @property
    def name(self) -> str:
        """Its name, which stands in it as a comment; its first word where it has none, such as COMMIT."""
        return name_of(self.sql)


class RefusedError(Exception):
    """The client gets an error of this SQLSTATE for its statement."""

    def __init__(self, sqlstate: str, message: str = "refused by the proxy") -> None:
        super().__init__(sqlstate)
        self.sqlstate = sqlstate
        self.message = message


Callback = Callable[[], object]


@dataclass(frozen=True)
class Exchange:
    """One statement on its way.

    Attributes:
        statement: which.
        forward: lets it happen and gives the server's answer. Its argument is called in the midst of a COPY FROM
            STDIN, when the first rows are with the server and the last are not.
    """

    statement: Statement
    forward: Callable[[Callback], bytes]


Action = Callable[[Exchange], bytes]


def name_of(sql: str) -> str:
    """Returns the name that stands in a statement as a comment, or its first word."""
    found = re.search(r"/\* (\w+) \*/", sql)
    return found[1] if found else sql.split(maxsplit=1)[0]


def statement(name: str, *, after: str = "", application_name: str = "") -> Callable[[Statement], bool]:
    """Matches statements by their names.

    Args:
        name: of the statement.
        after: of one before it in the same transaction: `statement("COMMIT", after="register_batch")`.
        application_name: of the connection.
    """

    def matches(candidate: Statement) -> bool:
        return (
            candidate.name == name
            and (not after or after in map(name_of, candidate.before))
            and application_name in {"", candidate.application_name}
        )

    return matches


def nothing() -> None:
    """A callback that does nothing."""


def refuse(sqlstate: str, message: str = "refused by the proxy") -> Action:
    """Answers with an error instead of forwarding; where the server would end the connection with it, so does this.

    The message matters where a client is not let in: libpq gives no SQLSTATE then.
    """

    def act(exchange: Exchange) -> bytes:
        raise RefusedError(sqlstate, message)

    return act


def drop() -> Action:
    """Ends the connection before the server knows the statement."""

    def act(exchange: Exchange) -> bytes:
        raise DroppedError

    return act


def forward_then_drop() -> Action:
    """Lets the statement happen, and ends the connection before the client hears of it."""

    def act(exchange: Exchange) -> bytes:
        exchange.forward(nothing)
        raise DroppedError

    return act


def call_before(callback: Callback) -> Action:
    """Calls back before the server knows the statement."""

    def act(exchange: Exchange) -> bytes:
        callback()
        return exchange.forward(nothing)

    return act


def call_after(callback: Callback) -> Action:
    """Calls back when the statement has happened, before the client hears of it."""

    def act(exchange: Exchange) -> bytes:
        answer = exchange.forward(nothing)
        callback()
        return answer

    return act


def call_during_copy(callback: Callback) -> Action:
    """Calls back when the first rows of a COPY are with the server; it may raise `DroppedError` or `RefusedError`."""
    return lambda exchange: exchange.forward(callback)


class PostgresProxy(Proxy[Statement, Action]):
    """Listens on loopback and forwards to one server, except where a rule says otherwise. The first rule to match wins.

    Attributes:
        statements: all that clients asked, whatever became of it.
    """

    def __init__(self, upstream_url: str, *rules: Rule[Statement, Action]) -> None:
        """Takes a database URL of the server, by socket or by TCP, and the rules to begin with."""
        url = make_url(upstream_url)
        host, port = str(url.query.get("host") or url.host), int(str(url.query.get("port") or url.port or 5432))
        self._upstream: str | tuple[str, int] = f"{host}/.s.PGSQL.{port}" if host.startswith("/") else (host, port)
        super().__init__(*rules)
        self.statements: list[Statement] = []
        proxy = self

        class Handler(_Session):
            connect_upstream, opened, act = proxy._connect, proxy._opened, proxy._act
            failed = proxy._failures.append

        self._server = _Server(("127.0.0.1", 0), Handler)

    def through(self, url: str) -> str:
        """A URL of the server by way of this proxy: same user and database, other address."""
        query = {name: value for name, value in make_url(url).query.items() if name not in {"host", "port"}}
        host, port = self._server.server_address[:2]
        there = make_url(url).set(host=str(host), port=port, query=query)
        return there.render_as_string(hide_password=False)

    def _connect(self) -> socket.socket:
        if isinstance(self._upstream, tuple):
            return socket.create_connection(self._upstream)
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(self._upstream)
        return connection

    def _act(self, statement: Statement, forward: Callable[[Callback], bytes]) -> bytes:
        with self._lock:
            self.statements.append(statement)
            action = next((rule.action for rule in self._rules if rule.takes(statement)), None)
        return action(Exchange(statement, forward)) if action else forward(nothing)


class _Message(NamedTuple):
    kind: bytes
    body: bytes

    def encode(self) -> bytes:
        return self.kind + struct.pack("!i", len(self.body) + 4) + self.body


class _Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = False
    block_on_close = True


class _Session(socketserver.BaseRequestHandler):
    """One client's connection."""

    request: socket.socket
    connect_upstream: Callable[[], socket.socket]
    opened: Callable[[socket.socket], AbstractContextManager[None]]
    act: Callable[[Statement, Callable[[Callback], bytes]], bytes]
    failed: Callable[[BaseException], None]

    def handle(self) -> None:
        """Lets the client in and serves it statement by statement, until one side ends."""
        try:
            with self.opened(self.request), self.request.makefile("rb") as self.from_client:
                self._converse()
        except (DroppedError, EOFError, OSError):
            return  # a client that was killed, a server that went away, or a rule
        except BaseException as error:  # noqa: BLE001 - a failed assertion in a callback is the test's to see
            self.failed(error)

    def _converse(self) -> None:
        startup = self._read_startup()
        with (
            self.connect_upstream() as self.upstream,
            self.opened(self.upstream),
            self.upstream.makefile("rb") as self.from_server,
        ):
            if _number(startup, 4) == _CANCEL:
                self.upstream.sendall(startup)
                return
            texts = startup[8:].split(b"\0")
            parameters = dict(zip(texts[::2], texts[1::2], strict=False))
            self.application_name = parameters.get(b"application_name", b"").decode()
            self.status = b"I"
            self.prepared: dict[bytes, str] = {}
            self.transaction: list[str] = []
            self._answer(CONNECT, startup, extended=False)
            while self._serve_statement():
                pass

    def _serve_statement(self) -> bool:
        """Serves one statement; False where the client says good-bye."""
        messages, bound, executes = b"", "", False
        while True:
            message = _read(self.from_client)
            messages += message.encode()
            match message.kind:
                case b"X":
                    self.upstream.sendall(messages)
                    return False
                case b"P":
                    name, sql, _ = message.body.split(b"\0", 2)
                    self.prepared[name] = sql.decode()
                case b"B":
                    bound = self.prepared.get(message.body.split(b"\0", 2)[1], "")
                case b"E":
                    executes = True
                case b"S":
                    if executes:
                        self._answer(bound, messages, extended=True)
                    else:  # only prepared or described
                        self.request.sendall(self._forward(messages, nothing, extended=True))
                    return True
                case b"Q":
                    self._answer(message.body.rstrip(b"\0").decode(), messages, extended=False)
                    return True

    def _answer(self, sql: str, messages: bytes, *, extended: bool) -> None:
        asked = Statement(sql, tuple(self.transaction), self.application_name)
        try:
            answer = self.act(asked, lambda during_copy: self._forward(messages, during_copy, extended=extended))
        except RefusedError as refused:
            answer = self._refusal(sql, refused)
        self.transaction = [] if self.status == b"I" else [*self.transaction, sql]
        self.request.sendall(answer)

    def _forward(self, messages: bytes, during_copy: Callback, *, extended: bool) -> bytes:
        """Sends a statement and gives the whole answer to it, up to ReadyForQuery."""
        self.upstream.sendall(messages)
        answer = b""
        while True:
            try:
                message = _read(self.from_server)
            except (EOFError, OSError):  # the server ended; what it said about that is passed on
                self.request.sendall(answer)
                raise DroppedError from None
            answer += message.encode()
            if message.kind == b"Z":
                self.status = message.body
                return answer
            if message.kind == b"G":
                self.request.sendall(answer)
                answer = b""
                self._copy_in(during_copy, extended=extended)

    def _copy_in(self, during_copy: Callback, *, extended: bool) -> None:
        """Passes the client's rows on, to CopyDone or CopyFail (and the Sync that follows it, but after a Query)."""
        ending = [b"c", b"f"]
        first = True
        while True:
            message = _read(self.from_client)
            try:
                self.upstream.sendall(message.encode())
            except OSError:
                if message.kind not in ending:
                    continue  # the server is gone; the client hears of it when it has sent all
            if message.kind in ending:
                if extended and ending != [b"S"]:
                    ending = [b"S"]
                    continue
                return
            if message.kind == b"d" and first:
                first = False
                try:
                    during_copy()
                except RefusedError:
                    self._fail_copy(extended=extended)
                    raise

    def _fail_copy(self, *, extended: bool) -> None:
        """Ends a COPY in an error on the server, and reads the rest of what the client has to say."""
        self.upstream.sendall(
            _Message(b"f", b"refused\0").encode() + (_Message(b"S", b"").encode() if extended else b"")
        )
        self._read_to_ready()
        while _read(self.from_client).kind not in {b"c", b"f"}:
            pass
        if extended:
            _read(self.from_client)

    def _refusal(self, sql: str, refused: RefusedError) -> bytes:
        fatal = sql == CONNECT or refused.sqlstate in _ENDS_THE_CONNECTION
        severity = b"FATAL" if fatal else b"ERROR"
        fields = {b"S": severity, b"V": severity, b"C": refused.sqlstate.encode(), b"M": refused.message.encode()}
        error = _Message(b"E", b"".join(name + text + b"\0" for name, text in fields.items()) + b"\0").encode()
        if fatal:
            self.request.sendall(error)
            raise DroppedError
        if sql.upper().startswith("COMMIT"):  # a commit that fails ends its transaction all the same
            self.upstream.sendall(_Message(b"Q", b"ROLLBACK\0").encode())
            self._read_to_ready()
        # The server knows of no error; what may follow inside the transaction is a ROLLBACK, which suits both.
        return error + _Message(b"Z", b"I" if self.status == b"I" else b"E").encode()

    def _read_to_ready(self) -> None:
        while (message := _read(self.from_server)).kind != b"Z":
            pass
        self.status = message.body

    def _read_startup(self) -> bytes:
        while True:
            head = _exactly(self.from_client, 4)
            startup = head + _exactly(self.from_client, _number(head, 0) - 4)
            if _number(startup, 4) not in {_SSL, _GSS}:
                return startup
            self.request.sendall(b"N")  # no TLS, so that it can be read here


def _read(stream: IO[bytes]) -> _Message:
    head = _exactly(stream, 5)
    return _Message(head[:1], _exactly(stream, _number(head, 1) - 4))


def _exactly(stream: IO[bytes], count: int) -> bytes:
    got = stream.read(count)
    if len(got) < count:
        raise EOFError
    return got


def _number(content: bytes, at: int) -> int:
    number: int = struct.unpack_from("!i", content, at)[0]
    return number
