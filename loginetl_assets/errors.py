"""The errors a person is meant to read: one line, naming the setting or the command that mends it."""

import traceback
from pathlib import Path


class OperatorError(Exception):
    """A precondition is not met and no retry will mend it; the message says what will.

    Its text never carries a value of a message, a key or a password, so it may be shown and logged anywhere.
    """

    exit_code = 1


class SettingsError(OperatorError):
    """A setting is missing, misspelt or at odds with another."""

    exit_code = 2


class TransientError(Exception):
    """The outside world failed in a way that usually passes: a restart, a timeout, a deadlock, a throttled call.

    Its text is as clean as an `OperatorError`'s.
    """


class NeedsAttention(OperatorError):  # noqa: N818 - says what happened
    """A command did its work to the end, and what came of it is for a person to look at."""

    exit_code = 3


class BatchError(OperatorError):
    """One batch, or one transaction, failed for a reason that others need not share."""


class BatchConflict(TransientError):  # noqa: N818 - says what happened
    """One transaction failed in passing, and not because the service did: by a conflict, a lock or a time-out."""


def withheld(error: BaseException) -> str:
    """Says of an unforeseen error what may be shown: its kind and where it came up, never its text.

    Any text may carry a value of a message: polars, msgspec, psycopg and others quote what they could not take.
    """
    package = Path(__file__).parent
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if Path(frame.filename).is_relative_to(package)] or frames
    where = f" at {Path(own[-1].filename).name}:{own[-1].lineno}" if own else ""
    return f"unexpected {type(error).__name__}{where} (its text is withheld, since it may carry personal data)"
