"""Replays rejected messages: they land again, in batches of their own, and are read with the current validation rules.

Their ids are forgotten in the transaction that registers the new batch, so each is decided again exactly once; a run
that dies before leaves an unregistered object in the landing and the rejections as they were. The batch they came with
counts them as duplicates from then on: it is no longer the one that decides about them.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Row

from loginetl_assets.aws.payloads import Payloads, PayloadUnavailableError
from loginetl_assets.errors import SettingsError
from loginetl_assets.keys.keyring import Keyring
from loginetl_assets.landing.object_store import Landing
from loginetl_assets.logins.encryption import DecryptionError, decrypt
from loginetl_assets.logins.message import QueuedMessage
from loginetl_assets.logins.rejection import Reason
from loginetl_assets.settings import KeysetRole
from loginetl_assets.steps.batch_objects import land
from loginetl_assets.steps.totals import StepTotals
from loginetl_assets.storage import installation, rejections, vault
from loginetl_assets.storage.database import LoginDatabase
from loginetl_assets.storage.rejections import Selection

_BATCH_MESSAGES = 500
_BATCH_SECONDS = 60  # payloads are read one by one while the transaction waits: 500 at 60 ms are half a minute
_BATCH_BYTES = 16 * 1024 * 1024


@dataclass(frozen=True)
class ReplayTotals(StepTotals):
    """What a replay did."""

    messages: int = 0
    batches: int = 0
    undecryptable: int = 0  # encrypted with a key that the rejects keyset does not hold; they stay rejected
    postponed: int = 0  # their payload cannot be read just now; they stay rejected too


def selection(message_ids: Sequence[str], reason: str = "", since: str = "", until: str = "") -> Selection:
    """Returns the selection of rejected messages that the texts describe; an empty text selects any.

    Raises:
        SettingsError: not a valid id, reason or time.
    """
    try:
        uuids = [UUID(one) for one in message_ids]
    except ValueError:
        raise SettingsError("a message id is a UUID, as `loginetl rejected list` shows them") from None
    if reason and reason not in list(Reason):
        raise SettingsError(f"the reasons are {', '.join(Reason)}")
    return Selection(uuids, Reason(reason) if reason else None, _moment(since), _moment(until))


def _moment(text: str) -> datetime | None:
    if not text:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise SettingsError("a time is ISO 8601, such as 2026-01-31 or 2026-01-31T12:00:00+00:00") from None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def replay_rejected(
    database: LoginDatabase,
    landing: Landing,
    payloads: Payloads,
    keys: Keyring,
    which: Selection,
    *,
    run_id: str | None = None,
) -> ReplayTotals:
    """Lands the selected rejected messages again; to mask and load them is the next run's task, as with any batch.

    Raises:
        OperatorError, TransientError: a keyset is another database's, or a service cannot be reached.
    """
    with database.transaction() as connection:
        for role in (KeysetRole.LANDING, KeysetRole.REJECTS):
            installation.check_keys(connection, role, keys.check_values(role))
    payloads.check_reachable()
    totals, after = ReplayTotals(), UUID(int=0)
    while True:
        with database.transaction() as connection:
            claimed = rejections.claim(
                connection, which, after=after, max_messages=_BATCH_MESSAGES, max_bytes=_BATCH_BYTES
            )
            if not claimed:
                return totals
            messages, after, done = _read(claimed, payloads, keys)
            if messages:
                vault.lock_shared(connection)
                land(connection, landing, keys, messages, run_id)
                rejections.hand_over(connection, [message.uuid for message in messages])
        totals += done


def _read(
    claimed: Sequence[Row[Any]], payloads: Payloads, keys: Keyring
) -> tuple[list[QueuedMessage], UUID, ReplayTotals]:
    """Returns as many of the messages as a batch takes, the id of the last one that was looked at, and the totals."""
    messages: list[QueuedMessage] = []
    gathered = undecryptable = postponed = 0
    started, after = time.monotonic(), UUID(int=0)
    for one in claimed:
        # Payloads are larger than the pointers that were claimed, and take their time.
        if gathered >= _BATCH_BYTES or time.monotonic() - started > _BATCH_SECONDS:
            break
        after = one.message_uuid
        try:
            body = decrypt(keys.rejects, one.encrypted_body, str(one.message_uuid))
            messages.append(payloads.resolve(QueuedMessage(str(one.message_uuid), one.sent_at_ms, body)))
        except DecryptionError:
            undecryptable += 1
        except PayloadUnavailableError:
            postponed += 1
        else:
            gathered += len(messages[-1].body)
    return messages, after, ReplayTotals(len(messages), int(bool(messages)), undecryptable, postponed)
