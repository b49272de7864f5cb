"""What libraries may log in a process that handles messages: nothing below INFO.

botocore writes whole responses at DEBUG, SQLAlchemy whole rows, urllib3 the paths of webhooks. A level set on their
loggers would not hold: Dagster, a logging configuration or `boto3.set_stream_logger` sets its own, on parents and
children and at any later time. So the records themselves are stopped, where each of them is made.
"""

import logging
from collections.abc import Callable
from typing import Any

# Whose DEBUG was read and carries no value of a message. What is not named here may say anything.
_TRUSTED = {"dagster", "loginetl", "loginetl_assets"}


def hold_libraries_at_info() -> None:
    """Stops every record below INFO whose logger belongs neither to Dagster nor to this package, for good."""
    logging.setLogRecordFactory(_stopping(logging.getLogRecordFactory()))


def _stopping(make: Callable[..., logging.LogRecord]) -> Callable[..., logging.LogRecord]:
    def make_or_stop(
        name: str | None, level: int, path: str, line: int, message: object, arguments: Any, *rest: Any, **more: Any
    ) -> logging.LogRecord:
        # None: logging.makeLogRecord, which gives a received or copied record its content afterwards.
        if name is None or level >= logging.INFO or name.partition(".")[0] in _TRUSTED:
            return make(name, level, path, line, message, arguments, *rest, **more)
        stopped = make(name, level, path, line, "withheld", (), None)
        stopped.levelno = logging.NOTSET - 1  # below the level of every handler: none takes it
        return stopped

    return make_or_stop
