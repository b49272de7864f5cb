"""The errors that a person reads: one line, which names the setting or the command that fixes it."""

import traceback
from pathlib import Path


class OperatorError(Exception):
    """A precondition is not met and no retry will fix it; the message says what will.

    Its text never carries a value of a message, a key or a password, so it may be shown and logged anywhere.
    """

    exit_code = 1


class SettingsError(OperatorError):
    """A setting is missing, misspelt or at odds with another."""

    exit_code = 2


class EmbeddedStackError(OperatorError):
    """LOGINETL_HOME, or an embedded service in it, cannot be used."""


class TransientError(Exception):
    """An external service failed in a way that usually passes: a restart, a timeout, a deadlock, a throttled call.

    Its text is as clean as an `OperatorError`'s.
    """


class NeedsAttentionError(OperatorError):
    """A command ran to its end, and a person should look at its results."""

    exit_code = 3


class BatchError(OperatorError):
    """One batch, or one transaction, failed for a reason that others need not share."""


class BatchConflictError(TransientError):
    """One transaction failed by a conflict, a lock or a timeout, not because the service did; it may be retried."""


def counted(count: int, noun: str) -> str:
    """Returns a number with its noun, such as '1 batch' or '2,000 batches'."""
    ending = "" if count == 1 else "es" if noun.endswith(("ch", "s")) else "s"
    return f"{count:,} {noun}{ending}"


def withheld(error: BaseException) -> str:
    """Returns what may be shown of an unexpected error: its class and where it was raised, never its text.

    Any text may carry a value of a message: polars, msgspec, psycopg and others quote what they could not take.
    """
    package = Path(__file__).parent
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if Path(frame.filename).is_relative_to(package)] or frames
    where = f" at {Path(own[-1].filename).name}:{own[-1].lineno}" if own else ""
    return (
        f"unexpected {type(error).__name__}{where} (its text is withheld, since it may carry personal data):"
        " a bug, report it with this line"
    )
