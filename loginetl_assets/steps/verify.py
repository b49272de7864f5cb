"""Compares what is stored with what is promised: masked files before the load; batches, message ids and rows after it.

Results are counts, never values.
"""

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import polars as pl
from sqlalchemy import Connection

from loginetl_assets.landing.object_store import Landing
from loginetl_assets.logins.contract import COLUMN_NAMES, TOKEN_COLUMNS
from loginetl_assets.logins.masking import MASKED_SCHEMA, violations
from loginetl_assets.steps.batch_objects import pending_logins, readable_logins
from loginetl_assets.steps.totals import StepTotals
from loginetl_assets.storage import message_ids, rejections
from loginetl_assets.storage.batches import Batch, Results, touched_by_run
from loginetl_assets.storage.database import LoginDatabase
from loginetl_assets.storage.login_table import duplicate_rows, is_filtered, tokens_of_several_users
from loginetl_assets.storage.tables import COUNTS, Outcome

LOOKED_UP = 10_000  # of a run's rows, and of the tokens of each field: about so many, or all if there are no more
_LOOKED_UP_BY = (COLUMN_NAMES, *((column,) for column in TOKEN_COLUMNS.values()))


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
    """What the table has more than once, of the rows of some batches; all times `one_in`, where not all are counted."""

    distinct_rows: int = 0  # of the batches
    duplicate_rows: int = 0  # of these, those that the table has more than once
    shared_devices: int = 0
    shared_ips: int = 0
    one_in: int = 1
    filtered_by_row_level_security: int = 0  # 1 where rows may be hidden from the counts above

    @property
    def rate(self) -> float:
        """The share of distinct rows that the table has more than once."""
        return self.duplicate_rows / self.distinct_rows if self.distinct_rows else 0.0


class _Sample:
    """Distinct rows and tokens of frames, one in so many; equal ones are chosen together, whichever frame has them."""

    def __init__(self, one_in: int) -> None:
        self.one_in = one_in
        empty = pl.DataFrame(schema=MASKED_SCHEMA)
        self._chosen = {columns: [empty.select(columns)] for columns in _LOOKED_UP_BY}

    def add(self, logins: pl.DataFrame) -> None:
        for columns, chosen in self._chosen.items():
            distinct = logins.select(columns).unique()
            chosen.append(distinct.filter(distinct.hash_rows() % self.one_in == 0))

    def look_up(self, connection: Connection) -> Duplicates:
        rows, *tokens = (pl.concat(chosen).unique() for chosen in self._chosen.values())
        shared = {
            column: tokens_of_several_users(connection, column, one[column].drop_nulls().to_list())
            for one in tokens
            for column in one.columns
        }
        return Duplicates(
            distinct_rows=rows.height * self.one_in,
            duplicate_rows=duplicate_rows(connection, rows) * self.one_in,
            shared_devices=shared["masked_device_id"] * self.one_in,
            shared_ips=shared["masked_ip"] * self.one_in,
            one_in=self.one_in,
            filtered_by_row_level_security=int(is_filtered(connection)),
        )


def verify_loaded(database: LoginDatabase, landing: Landing, run_id: str) -> tuple[Read, Repeats, Sums, Duplicates]:
    """Compares the batches that a run loaded (if none: the one loaded last), their masked files, message ids and rows.

    It costs what those batches cost, and the memory of one of them: never a scan of the table, and of many rows about
    `LOOKED_UP` are looked up in it.
    """
    read, repeats, sums = Read(), Repeats(), Sums()
    with database.snapshot() as connection:
        batches = touched_by_run(connection, run_id, "loaded")
        sample = _Sample(max(1, sum(batch.messages for batch in batches) // LOOKED_UP))
        rejected_ids = 0
        for batch in batches:
            ids = message_ids.ids_by_outcome(connection, batch.batch_id)
            rejected = ids.get(Outcome.REJECTED, set())
            rejected_ids += len(rejected)
            sums += _sums(batch, ids)
            repeats += Repeats(loaded_twice=max(0, batch.loaded - len(ids.get(Outcome.LOADED, ()))))
            logins = readable_logins(landing, batch)
            read += Read(batches=1, rows=0 if logins is None else logins.height, unreadable_batches=logins is None)
            if logins is None:
                continue
            of_others = set(logins["message_uuid"]).difference(*ids.values())
            settled = message_ids.outcomes_of(connection, of_others)
            repeats += Repeats(messages_without_outcome=len(of_others) - len(settled))
            # A row that the table refused may hold what is not even a text to Postgres.
            refused = rejected.union(uuid for uuid, (_, outcome) in settled.items() if outcome == Outcome.REJECTED)
            sample.add(logins.filter(~pl.col("message_uuid").is_in(refused)))
        bodies = rejections.count(connection, [batch.batch_id for batch in batches])
        duplicates = sample.look_up(connection)
    sums += Sums(mismatched_rejections=abs(rejected_ids - bodies))
    return read, repeats, sums, duplicates


def _sums(batch: Batch, ids: Mapping[str, Collection[str]]) -> Sums:
    loaded, rejected = (len(ids.get(outcome, ())) for outcome in (Outcome.LOADED, Outcome.REJECTED))
    counts = {name: getattr(batch, name) for name in ("messages", *COUNTS)}
    return Sums(**counts, mismatched_batches=(batch.pending, batch.loaded, batch.rejected) != (0, loaded, rejected))
