"""What is stored of one user (GDPR, Article 15): rows, recovered values, rejected bodies, messages in the landing.

It is read against the flow of messages, the table first and the landing last: a message that moves on meanwhile is
found twice at most, and never missed. The access log has a row before anything is read, and one more, as for every
recovery, before the vault is decrypted.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any
from uuid import UUID

from loginetl_assets.errors import counted
from loginetl_assets.keys.keyring import Keyring
from loginetl_assets.keys.officer import Officer
from loginetl_assets.landing.batch_files import UnreadableError
from loginetl_assets.landing.object_store import Landing
from loginetl_assets.logins.contract import TOKEN_COLUMNS
from loginetl_assets.logins.message import Login, read_login
from loginetl_assets.logins.versions import version_text
from loginetl_assets.privacy.erasures import ErasureList
from loginetl_assets.privacy.recover import MAX_TOKENS, Outcome, Recovered, recover
from loginetl_assets.privacy.search import SubjectSearch
from loginetl_assets.privacy.subjects import User
from loginetl_assets.settings import AppVersion
from loginetl_assets.storage import audit, batches, login_rows, rejections
from loginetl_assets.storage.batches import BatchState
from loginetl_assets.storage.database import LoginDatabase
from loginetl_assets.storage.login_table import every_row
from loginetl_assets.storage.rejections import Selection


@dataclass(frozen=True, repr=False)
class Use:
    """How many logins have a value, from which day to which."""

    logins: int
    first_day: date | None
    last_day: date | None


@dataclass(frozen=True, repr=False)
class UsedVersion(Use):
    """A version of the app."""

    app_version: str


@dataclass(frozen=True, repr=False)
class UsedValue(Use):
    """The value of a token, such as an address: recovered, or the outcome says why not."""

    field: str
    token: str
    outcome: Outcome
    value: str | None


@dataclass(frozen=True, repr=False)
class StoredMessage:
    """A message as it was sent; bytes that are not UTF-8 are escaped as in Python."""

    message_uuid: UUID
    is_login: bool  # else a text in which the user's id is found, and perhaps someone else's data
    body: str
    sent_at: datetime


@dataclass(frozen=True, repr=False)
class RejectedMessage(StoredMessage):
    """A message that could not be loaded, and why."""

    rejected_at: datetime
    reason: str
    field: str | None


@dataclass(frozen=True, repr=False)
class LandedMessage(StoredMessage):
    """A message in the landing: pending, or loaded or rejected and not removed by retention yet."""

    batch_id: int
    batch_state: BatchState


@dataclass(frozen=True, repr=False)
class SubjectReport:
    """All that was found of a user, and what could not be searched."""

    user_id: str
    made_at: datetime
    logins: Sequence[Mapping[str, Any]]  # rows of the table, and for each masked field its value, or None
    days: Mapping[str, int]  # logins by day (ISO 8601)
    app_versions: Sequence[UsedVersion]
    values: Sequence[UsedValue]
    rejected: Sequence[RejectedMessage]
    landing: Sequence[LandedMessage]
    erasures: Sequence[datetime]  # by user id, which is on the list of erasures since
    unreadable_batches: int  # quarantined or damaged
    undecryptable_bodies: int  # of rejected messages

    @property
    def found_anything(self) -> bool:
        """Whether anything of the user is stored."""
        return bool(self.logins or self.rejected or self.landing or self.erasures)

    @property
    def incomplete(self) -> list[str]:
        """What is missing in the report, in words; empty where nothing is."""
        without_value = sum(one.outcome is not Outcome.RECOVERED for one in self.values)
        missing = {
            "batch": (self.unreadable_batches, "not searched, unreadable: see `loginetl status`"),
            "rejected message": (
                self.undecryptable_bodies,
                "not searched, undecryptable: set LOGINETL_KEYSET_REJECTS to the keyset that encrypted the body",
            ),
            "value": (without_value, "not shown: the outcome says why"),
        }
        return [f"{counted(count, noun)} {what}" for noun, (count, what) in missing.items() if count]


def read_subject(
    database: LoginDatabase,
    landing: Landing,
    keys: Keyring,
    officer: Officer,
    user_id: str,
    *,
    reason: str,
    app_version: AppVersion,
    max_tokens: int = MAX_TOKENS,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> SubjectReport:
    """Reads what is stored of a user; `progress` takes how many batches, of how many, are searched.

    Raises OperatorError without a reason, with more than `max_tokens` tokens to recover, where the log could not be
    written, the keysets are another database's, or row-level security hides rows.
    """
    made_at = datetime.now(UTC)
    search = SubjectSearch(database, landing, keys, User(user_id, keys.tokenizer))
    search.begin()
    audit.record(database, audit.Action.SUBJECT_REPORT, reason, tokens=search.subject.audit_tokens)
    with every_row(database) as connection:
        rows = login_rows.read_rows(connection, search.subject.rows)
    tokens = [row[column] for row in rows for column in TOKEN_COLUMNS.values() if row[column]]
    answers = recover(database, officer, tokens, reason=reason, max_tokens=max_tokens) if tokens else []
    recovered = {answer.token: answer for answer in answers}
    logins = [_login(row, recovered, app_version) for row in rows]
    rejected, batch_ids = _rejected(search)
    landed, unreadable = _landed(search, batch_ids, progress)
    return SubjectReport(
        user_id=user_id,
        made_at=made_at,
        logins=logins,
        days=dict(Counter(str(row["create_date"]) for row in logins if row["create_date"])),
        app_versions=[
            UsedVersion(**_use(of_version), app_version=version)
            for version, of_version in _by(logins, "app_version_text").items()
        ],
        values=_values(logins, recovered),
        rejected=rejected,
        landing=landed,
        erasures=ErasureList(database, landing, keys).of_user(officer, user_id),
        unreadable_batches=unreadable,
        undecryptable_bodies=search.undecryptable_bodies,
    )


def _login(row: dict[str, Any], recovered: Mapping[str, Recovered], app_version: AppVersion) -> dict[str, Any]:
    version = row["app_version"]
    text = None if version is None else str(version) if app_version is AppVersion.MAJOR else version_text(version)
    values = {field: recovered[row[column]].value if row[column] else None for field, column in TOKEN_COLUMNS.items()}
    return {**row, "app_version_text": text, **values}


def _by(rows: Sequence[Mapping[str, Any]], name: str) -> dict[str, list[Mapping[str, Any]]]:
    """Returns the rows by what they have under a name, unless that is null."""
    found: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        if row[name]:
            found.setdefault(row[name], []).append(row)
    return found


def _use(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    days = [row["create_date"] for row in rows if row["create_date"]]
    return {"logins": len(rows), "first_day": min(days, default=None), "last_day": max(days, default=None)}


def _values(rows: Sequence[Mapping[str, Any]], recovered: Mapping[str, Recovered]) -> list[UsedValue]:
    return [
        UsedValue(
            **_use(having), field=field, token=token, outcome=recovered[token].outcome, value=recovered[token].value
        )
        for field, column in TOKEN_COLUMNS.items()
        for token, having in _by(rows, column).items()
    ]


def _rejected(search: SubjectSearch) -> tuple[list[RejectedMessage], list[int]]:
    """Returns the subject's rejected messages, and the batches that are in the landing after these were read.

    A message that is replayed meanwhile is in one of the batches.
    """
    found = []
    with search.database.transaction() as connection:
        for page in search.matching_rejections(connection):
            for row in rejections.newest(connection, Selection(list(page)), limit=len(page)):
                message = _message(row.message_uuid, page[row.message_uuid], row.sent_at)
                found.append(
                    RejectedMessage(**message, rejected_at=row.rejected_at, reason=row.reason, field=row.field)
                )
        return sorted(found, key=lambda one: one.sent_at), batches.batches_in_landing(connection)


def _landed(
    search: SubjectSearch, batch_ids: Sequence[int], progress: Callable[[int, int], None]
) -> tuple[list[LandedMessage], int]:
    """Returns the subject's messages in the landing, and how many batches could not be read."""
    landed, unreadable = [], 0
    for done, batch_id in enumerate(batch_ids, start=1):
        with search.database.transaction() as connection:
            try:
                found = search.search_batch(connection, batch_id)
            except UnreadableError:
                found, unreadable = None, unreadable + 1
        if found:
            for one in found.matching:
                message = _message(one.uuid, one.body, datetime.fromtimestamp(one.sent_at_ms / 1000, UTC))
                landed.append(LandedMessage(**message, batch_id=batch_id, batch_state=found.batch.state))
        progress(done, len(batch_ids))
    return landed, unreadable


def _message(message_uuid: UUID, body: bytes, sent_at: datetime) -> dict[str, Any]:
    return {
        "message_uuid": message_uuid,
        "is_login": isinstance(read_login(body), Login),
        "body": body.decode("utf-8", "backslashreplace"),
        "sent_at": sent_at,
    }
