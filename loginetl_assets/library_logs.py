"""What libraries may log in a process that handles messages: nothing below INFO, some of them still less.

Whatever level anybody sets: the records themselves are stopped, where each of them is made. What the libraries would
say, and why no level holds, is in docs/privacy.md and docs/decisions/0024-log-record-factory.md.
"""

import logging
from typing import Any

# DEBUG of the first three was read and carries no value of a message. What is not named here may log anything.
_LOWEST = {"dagster": logging.NOTSET, "loginetl": logging.NOTSET, "loginetl_assets": logging.NOTSET,
           "sqlalchemy": logging.WARNING, "alembic": logging.WARNING, "psycopg": logging.CRITICAL,
           "urllib3": logging.CRITICAL}  # fmt: skip


def hold_libraries() -> None:
    """Stops every record below the lowest level of its library, INFO where none is named, for good."""
    make = logging.getLogRecordFactory()

    def make_or_stop(
        name: str | None, level: int, path: str, line: int, message: object, arguments: Any, *rest: Any, **more: Any
    ) -> logging.LogRecord:
        # None: logging.makeLogRecord, which fills a received or copied record afterwards.
        if name is None or level >= _LOWEST.get(name.partition(".")[0], logging.INFO):
            return make(name, level, path, line, message, arguments, *rest, **more)
        stopped = make(name, level, path, line, "withheld", (), None)
        stopped.levelno = logging.NOTSET - 1  # below the level of every handler: none takes it
        return stopped

    logging.setLogRecordFactory(make_or_stop)
