"""What libraries may log in a process that handles messages: nothing below INFO, some of them still less.

botocore writes whole responses at DEBUG, SQLAlchemy whole rows, urllib3 the paths of webhooks, and their whole URLs in
its warning of a damaged answer. At INFO SQLAlchemy repeats what a trigger sends to the client (RAISE NOTICE), which may
be the row, and logs each statement, those of Dagster's event log too: where those lines go into the event log in
SQLite, it waits for itself, and the run hangs. psycopg warns of errors that it ignores, with the server's whole text:
`COPY …, line 8: "<the row>"`.

A level set on their loggers would not hold: Dagster, a logging configuration or `boto3.set_stream_logger` sets its own,
on parents and children and at any later time. So the records themselves are stopped, where each of them is made.
"""

import logging
from collections.abc import Callable
from typing import Any

# DEBUG of the first three was read and carries no value of a message. What is not named here may log anything.
_LOWEST = {"dagster": logging.NOTSET, "loginetl": logging.NOTSET, "loginetl_assets": logging.NOTSET,
           "sqlalchemy": logging.WARNING, "alembic": logging.WARNING, "psycopg": logging.CRITICAL,
           "urllib3": logging.CRITICAL}  # fmt: skip


def hold_libraries() -> None:
    """Stops every record below the lowest level of its library, INFO where none is named, for good."""
    logging.setLogRecordFactory(_stopping(logging.getLogRecordFactory()))


def _stopping(make: Callable[..., logging.LogRecord]) -> Callable[..., logging.LogRecord]:
    def make_or_stop(
        name: str | None, level: int, path: str, line: int, message: object, arguments: Any, *rest: Any, **more: Any
    ) -> logging.LogRecord:
        # None: logging.makeLogRecord, which fills a received or copied record afterwards.
        if name is None or level >= _LOWEST.get(name.partition(".")[0], logging.INFO):
            return make(name, level, path, line, message, arguments, *rest, **more)
        stopped = make(name, level, path, line, "withheld", (), None)
        stopped.levelno = logging.NOTSET - 1  # below the level of every handler: none takes it
        return stopped

    return make_or_stop
