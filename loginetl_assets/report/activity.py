"""What the report shows, as numbers: the records that `steps.activity` fills and the other modules here draw.

Nothing here is a value that was masked, and no value stands for fewer than `MIN_LOGINS` logins.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from enum import StrEnum

# A value of fewer logins could identify a person, so it is counted as one of the others. See docs/privacy.md.
MIN_LOGINS = 5
MAX_PERIODS = 120  # columns of a chart over time: more cannot be distinguished
MAX_VALUES = 8  # colours: more cannot be distinguished


class Unit(StrEnum):
    """How long a column of a chart over time is."""

    DAY = "day"
    WEEK = "week"
    MONTH = "month"
    QUARTER = "quarter"
    YEAR = "year"

    def start(self, day: date) -> date:
        """Returns the first day of the period that a day is in; of a week its Monday."""
        if self is Unit.DAY:
            return day
        if self is Unit.WEEK:
            return day - timedelta(days=day.weekday())
        months = {Unit.MONTH: 1, Unit.QUARTER: 3, Unit.YEAR: 12}[self]
        return date(day.year, (day.month - 1) // months * months + 1, 1)

    def starts(self, first: date, last: date) -> list[date]:
        """Returns the first days of all periods from the one of a day to that of another."""
        found, at = [], self.start(first)
        while at <= last:
            found.append(at)
            at = self.start(at + timedelta(days={"day": 1, "week": 7, "month": 31, "quarter": 92, "year": 366}[self]))
        return found


def unit_for(first: date, last: date) -> Unit:
    """Returns the shortest unit that divides the time into at most `MAX_PERIODS`."""
    return next((unit for unit in Unit if len(unit.starts(first, last)) <= MAX_PERIODS), Unit.YEAR)


@dataclass(frozen=True)
class Period:
    """The days with logins, and the unit in which they are shown."""

    first: date
    last: date
    unit: Unit

    @property
    def starts(self) -> list[date]:
        """The first days of its units; at most `MAX_PERIODS`, the last ones."""
        return self.unit.starts(self.first, self.last)[-MAX_PERIODS:]


@dataclass(frozen=True)
class Breakdown:
    """Logins by a value, and over time: one row of `counts` for each name, one column for each start of the period."""

    names: Sequence[str | None]  # None: all other values
    counts: Sequence[Sequence[int]]
    totals: Sequence[int]  # of each name, with those logins that have no date

    def __post_init__(self) -> None:
        if not len(self.names) == len(self.counts) == len(self.totals):
            raise ValueError("each name has its counts and a total")

    @property
    def by_start(self) -> list[int]:
        """The logins of all names, by start."""
        return [sum(column) for column in zip(*self.counts, strict=True)]


NOTHING = Breakdown((), (), ())


@dataclass(frozen=True)
class SharedTokens:
    """How many devices, or addresses, there are, and how many have several users; no token is named."""

    tokens: int
    by_users: Mapping[str, int]  # "2", "3", "4 to 9", "10 or more": users -> tokens
    one_in: int = 1  # of how many tokens one was counted; above 1 all numbers are estimates

    @property
    def shared(self) -> int:
        """Those with several users."""
        return sum(self.by_users.values())


@dataclass(frozen=True)
class Flow:
    """Where all messages are that ever landed, and how many wait on the queue: see `adds_up`."""

    queued: int | None  # None: the queue was not asked, or did not answer
    messages: int
    parts: Mapping[str, int]  # by the names of `charts.FLOW`; each message is in one of them

    @property
    def adds_up(self) -> bool:
        """Whether each message is in exactly one part."""
        return min(self.parts.values()) >= 0 and sum(self.parts.values()) == self.messages


@dataclass(frozen=True)
class Loads:
    """What was loaded within some minutes or hours."""

    start: datetime
    messages: int
    typical_seconds: float  # the median, over batches, from the oldest message's arrival on the queue to its load
    slow_seconds: float  # 19 of 20 batches took no longer


@dataclass(frozen=True)
class Activity:
    """The whole report."""

    made_at: datetime
    table: str
    logins: int
    logins_on_last_day: int
    undated: int  # of these, without a date or with an impossible one
    period: Period | None  # None: no logins yet
    device_types: Breakdown
    versions: Breakdown
    locales: Breakdown
    devices: SharedTokens
    addresses: SharedTokens
    rejections: Mapping[str, int]  # by reason, most frequent first
    flow: Flow
    loads: Sequence[Loads]
    loads_step: timedelta

    @property
    def load_starts(self) -> list[datetime]:
        """The starts of all steps from the first load to the last."""
        if not self.loads:
            return []
        first, last = self.loads[0].start, self.loads[-1].start
        return [first + self.loads_step * number for number in range((last - first) // self.loads_step + 1)]
