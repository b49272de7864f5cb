"""Numbers, times and texts as people read them, and the ticks of axes."""

import math
from collections.abc import Sequence
from datetime import date, datetime
from html import escape

from loginetl_assets.report.activity import Unit

MAX_TEXT = 32  # characters of a value
MAX_TICKS = 5

_SECONDS = (1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200, 14400, 28800, 43200)
_DAY = 86_400


def shown(text: str) -> str:
    """Returns a producer's text for HTML and SVG: printable, short and escaped."""
    printable = "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)
    return escape(printable if len(printable) <= MAX_TEXT else f"{printable[: MAX_TEXT - 1]}…")


def short(number: float) -> str:
    """Returns a number for an axis: 950, 1.5k, 20M."""
    for size, letter in ((1_000_000_000, "G"), (1_000_000, "M"), (1_000, "k")):
        if abs(number) >= size:
            return f"{number / size:.1f}".removesuffix(".0") + letter
    return f"{number:g}"


def rounded(estimate: int) -> int:
    """Returns an estimate without the digits that mean nothing: two are left."""
    return round(estimate, min(0, 2 - len(str(estimate))))


def percent(part: int, whole: int) -> str:
    """Returns a share; what is there is never 0%, and what is missing leaves no 100%."""
    if not whole or not part:
        return "0%"
    share = 100 * part / whole
    if part == whole or 1 <= share <= 99:
        return f"{share:.0f}%"
    return "under 1%" if share < 1 else "over 99%"


def duration(seconds: float) -> str:
    """Returns a time in its largest unit, with the next one where that matters: 4 s, 12 min, 3 h 20 min, 2 d 4 h."""
    if seconds < 1:
        return "0 s" if seconds <= 0 else "under 1 s"
    for size, name, smaller, smaller_name in ((_DAY, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if seconds >= size:
            whole, rest = int(seconds // size), int(seconds % size // smaller)
            return f"{whole} {name} {rest} {smaller_name}" if rest and whole < 10 else f"{whole} {name}"
    return f"{seconds:.0f} s"


def ticks(highest: float) -> list[float]:
    """Returns the ticks of an axis of whole numbers, from 0 to the first one that is not below the highest number."""
    step = 1.0
    for power in range(19):
        for factor in (1, 2, 5):
            step = float(factor * 10**power)
            if highest / step <= MAX_TICKS - 1:
                return _up_to(highest, step)
    return _up_to(highest, step)


def seconds_ticks(highest: float) -> list[float]:
    """Returns the ticks of an axis of seconds: whole seconds, minutes, hours or days."""
    for step in _SECONDS:
        if highest / step <= MAX_TICKS - 1:
            return _up_to(highest, step)
    return [days * _DAY for days in ticks(highest / _DAY)]


def seconds_tick(seconds: float, step: float) -> str:
    """Returns the label of a tick of `seconds_ticks`, in the unit of their step: 30 s, 60 s, 90 s."""
    size, unit = next(
        ((size, unit) for size, unit in ((_DAY, "d"), (3600, "h"), (60, "min")) if step >= size), (1, "s")
    )
    return f"{seconds / size:g} {unit}"


def _up_to(highest: float, step: float) -> list[float]:
    return [step * number for number in range(max(1, math.ceil(highest / step)) + 1)]


def date_ticks(starts: Sequence[object]) -> list[int]:
    """Returns the positions of the columns that have a label: evenly apart, and at most `MAX_TICKS`."""
    every = max(1, math.ceil(len(starts) / MAX_TICKS))
    return list(range(0, len(starts), every))


def day(at: date) -> str:
    """Returns a date: 3 Nov 2026."""
    return f"{at.day} {at:%b %Y}"


def period_name(start: date, unit: Unit) -> str:
    """Returns the name of a period: 3 Nov 2026, week of 2 Nov 2026, Nov 2026, Q4 2026, 2026."""
    if unit is Unit.QUARTER:
        return f"Q{(start.month + 2) // 3} {start.year}"
    texts = {Unit.DAY: day(start), Unit.WEEK: f"week of {day(start)}", Unit.MONTH: f"{start:%b %Y}"}
    return texts.get(unit, str(start.year))


def period_tick(start: date, unit: Unit) -> str:
    """Returns the label of a column of a chart over time; the chart's text has the year of days."""
    return (
        f"{start.day} {start:%b}" if unit is Unit.DAY else period_name(start, Unit.MONTH if unit is Unit.WEEK else unit)
    )


def moment(at: datetime) -> str:
    """Returns a time in UTC, to the minute."""
    return f"{at.day} {at:%b %Y, %H:%M}"
