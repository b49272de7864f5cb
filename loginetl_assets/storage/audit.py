"""The access log: who asked for what, when and why. A row is committed before anything is shown or removed.

Who (the database login), from where and when is set by the database. It is this software that writes before it shows:
whoever holds the officer's key and may read the vault can decrypt values without it, and without a row.
"""

import getpass
import os
from collections.abc import Mapping, Sequence
from enum import StrEnum

from loginetl_assets.errors import SettingsError
from loginetl_assets.storage.database import LoginDatabase
from loginetl_assets.storage.statements import named
from loginetl_assets.storage.tables import pii_access_log

# What is logged. The names are stored, in lower case.
Action = StrEnum("Action", ("RECOVER", "TOKEN", "ERASE", "ERASED", "RETOKENIZE", "REENCRYPT", "SUBJECT_REPORT"))


def record(
    database: LoginDatabase,
    action: Action,
    reason: str,
    *,
    tokens: Sequence[str] = (),
    counts: Mapping[str, int] | None = None,
) -> None:
    """Commits one row about what is about to happen or, for `ERASED`, has; `reason` in the words of who asks.

    Raises:
        SettingsError: no reason was given.
        OperatorError: the row could not be written; nothing may be shown then.
    """
    if not reason.strip():
        raise SettingsError("give --reason: it is logged beside your name")
    row = {"claimed_user": _system_user(), "action": action.value, "reason": reason.strip(), "tokens": list(tokens)}
    with database.transaction() as connection:
        inserted = pii_access_log.insert().values(**row, counts=dict(counts or {})).inline()
        connection.execute(named("record_access", inserted))


def _system_user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # no name for the uid (`docker run --user 54321`); OSError from Python 3.13 on
        return f"uid {os.getuid()}"
