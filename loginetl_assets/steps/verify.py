"""Compares what is stored with what is promised: masked files before the load; batches, message ids and rows after it.

Results are counts, never values.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

import polars as pl
from sqlalchemy import Connection

from loginetl_assets.landing.object_store import Landing
from loginetl_assets.logins.masking import MASKED_SCHEMA, violations
from loginetl_assets.steps.batch_objects import pending_logins, readable_logins
from loginetl_assets.steps.totals import StepTotals
from loginetl_assets.storage import message_ids, rejections
from loginetl_assets.storage.batches import Batch, Results, touched_by_run
from loginetl_assets.storage.database import LoginDatabase
from loginetl_assets.storage.login_table import duplicate_rows, is_filtered, tokens_of_several_users
from loginetl_assets.storage.tables import COUNTS


@dataclass(frozen=True)
class Read(StepTotals):
    """Which masked files were read."""

    batches: int = 0
    rows: int = 0
    unreadable_batches: int = 0


def verify_masked(database: LoginDatabase, landing: Landing) -> tuple[Read, Counter[str]]:
    """Reads every masked file that is not loaded yet; returns how many rows break each rule of `violations`, too."""
    read, broken = Read(), Counter(violations(pl.DataFrame(schema=MASKED_SCHEMA)))  # each rule is named, if by 0 rows
    with database.transaction() as connection:
        for logins in pending_logins(connection, landing):
            if logins is None:  # a parallel run may just have replaced it; the load quarantines it if it stays so
                read += Read(unreadable_batches=1)
            else:
                read += Read(batches=1, rows=logins.height)
                broken.update(violations(logins))
    return read, broken


@dataclass(frozen=True)
class Repeats(StepTotals):
    """Messages that were loaded more than once, or of which nothing is known."""

    loaded_twice: int = 0
    messages_without_outcome: int = 0


@dataclass(frozen=True)
class Sums(Results, StepTotals):
    """The counts of the batches; messages = loaded + duplicates + rejected + erased + lost."""

    messages: int = 0
    mismatched_batches: int = 0
    mismatched_rejections: int = 0  # rejected message ids without a body, or bodies without such an id


@dataclass(frozen=True)
class Duplicates(StepTotals):
    """What the table has more than once, of the rows of some batches."""

    distinct_rows: int = 0  # of the batches
    duplicate_rows: int = 0  # of these, those that the table has more than once
    shared_devices: int = 0
    shared_ips: int = 0
    filtered_by_row_level_security: int = 0  # 1 where rows may be hidden from the counts above

    @property
    def rate(self) -> float:
        """The share of distinct rows that the table has more than once."""
        return self.duplicate_rows / self.distinct_rows if self.distinct_rows else 0.0


def verify_loaded(database: LoginDatabase, landing: Landing, run_id: str) -> tuple[Read, Repeats, Sums, Duplicates]:
    """Compares the batches that a run loaded (if none: the one loaded last), their masked files, message ids and rows.

    It costs what those batches cost: look-ups by index, never a scan of the table.
    """
    with database.snapshot() as connection:
        batches = touched_by_run(connection, run_id, "loaded")
        ids = [batch.batch_id for batch in batches]
        settled = message_ids.count_by_outcome(connection, ids)
        encrypted_rejections = rejections.count(connection, ids)
        read, logins = _read_all(landing, batches)
        ids_read = [UUID(one) for one in logins["message_uuid"].unique()]
        with_outcome, rejected = message_ids.count_ended(connection, ids_read)
        # A row that the table refused may hold what is not even a text to Postgres.
        accepted = logins.filter(~pl.col("message_uuid").is_in([str(one) for one in rejected]))
        distinct_rows, repeated = duplicate_rows(connection, accepted)
        duplicates = Duplicates(
            distinct_rows=distinct_rows,
            duplicate_rows=repeated,
            shared_devices=_shared(connection, logins, "masked_device_id"),
            shared_ips=_shared(connection, logins, "masked_ip"),
            filtered_by_row_level_security=int(is_filtered(connection)),
        )
    repeats = Repeats(
        loaded_twice=sum(max(0, batch.loaded - settled.get((batch.batch_id, "loaded"), 0)) for batch in batches),
        messages_without_outcome=len(ids_read) - with_outcome,
    )
    rejected_ids = sum(count for (_, outcome), count in settled.items() if outcome == "rejected")
    mismatched = Sums(mismatched_rejections=abs(rejected_ids - encrypted_rejections))
    sums = sum((_sums(batch, settled) for batch in batches), mismatched)
    return read, repeats, sums, duplicates


def _sums(batch: Batch, settled: dict[tuple[int, str], int]) -> Sums:
    loaded, rejected = (settled.get((batch.batch_id, outcome), 0) for outcome in ("loaded", "rejected"))
    counts = {name: getattr(batch, name) for name in ("messages", *COUNTS)}
    return Sums(**counts, mismatched_batches=(batch.pending, batch.loaded, batch.rejected) != (0, loaded, rejected))


def _read_all(landing: Landing, batches: Sequence[Batch]) -> tuple[Read, pl.DataFrame]:
    frames = [logins for batch in batches if (logins := readable_logins(landing, batch)) is not None]
    logins = pl.concat([pl.DataFrame(schema=MASKED_SCHEMA), *frames])
    return Read(len(batches), logins.height, len(batches) - len(frames)), logins


def _shared(connection: Connection, logins: pl.DataFrame, column: str) -> int:
    return tokens_of_several_users(connection, column, logins[column].unique().to_list())
