"""The charts, as inline SVG: no script, no font or image from elsewhere; `<title>` and `<desc>` say what each shows.

All are as wide as `WIDTH` units and are scaled to the page, which makes their texts larger on a phone. Colours are
classes, so that the page decides on light or dark: series s0 to s7, `rest` for all other values, `ok`, `bad`, `wait`.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from loginetl_assets.report.activity import Flow
from loginetl_assets.report.numbers import date_ticks, percent, short, ticks

WIDTH = 440
_LEFT, _TOP, _BOTTOM = 46, 14, 28  # the margins of a plot
_HEIGHT = 220
_BAR = 34  # height of a horizontal bar with its label
_LETTER = 8  # width of a letter on a phone, where texts are larger

# Each has a contrast of at least 3 to the background of its scheme (WCAG 2.2, 1.4.11): light, dark.
COLOURS = {
    "s0": ("#0b62a4", "#6db3f2"),
    "s1": ("#c2570c", "#f0985a"),
    "s2": ("#1a7f4b", "#5cc68b"),
    "s3": ("#7b4bb7", "#b99af0"),
    "s4": ("#8a6d00", "#d9b942"),
    "s5": ("#0e7c86", "#4fc4cf"),
    "s6": ("#b3387e", "#ec86bd"),
    "s7": ("#5b6b1e", "#b3c463"),
    "rest": ("#767b85", "#9aa3b0"),
    "ok": ("#1a7f4b", "#5cc68b"),
    "bad": ("#b3303b", "#f2828a"),
    "wait": ("#8a6d00", "#d9b942"),
}
BACKGROUND = ("#ffffff", "#161b22")
TEXT = ("#1c2430", "#e6eaf0")
MUTED = ("#545d6b", "#a5afbd")
LINE = ("#d8dde5", "#313a46")


def style(scheme: int) -> str:
    """Returns the colours of a scheme, 0 for light and 1 for dark, as CSS variables."""
    named = {name: both[scheme] for name, both in COLOURS.items()}
    named |= {"bg": BACKGROUND[scheme], "text": TEXT[scheme], "muted": MUTED[scheme], "line": LINE[scheme]}
    return "".join(f"--{name}:{colour};" for name, colour in named.items())


STYLE = (
    "svg text{font:11.5px system-ui,sans-serif;fill:var(--text)}svg .m{fill:var(--muted)}svg .b{font-weight:600}"
    "svg .e{text-anchor:end}svg .c{text-anchor:middle}svg .g{stroke:var(--line);fill:none}"
    "svg .hit{fill:transparent}svg .hit:hover{fill:var(--text);fill-opacity:.1}svg .flow{fill-opacity:.32}"
    "svg .l{fill:none;stroke-width:2;stroke-linejoin:round}"
    + "".join(f"svg .{name}{{fill:var(--{name})}}svg .l.{name}{{fill:none;stroke:var(--{name})}}" for name in COLOURS)
)


class Series(NamedTuple):
    """What has one colour in a chart: texts are escaped already."""

    name: str
    colour: str
    values: Sequence[float | None]  # None: nothing there


def svg(name: str, title: str, description: str, height: float, body: str) -> str:
    """Returns an SVG element; `name` makes its ids unique in the page."""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {_n(height)}" role="img"'
        f' aria-labelledby="{name}-t {name}-d"><title id="{name}-t">{title}</title>'
        f'<desc id="{name}-d">{description}</desc>{body}</svg>'
    )


def columns(
    name: str,
    title: str,
    description: str,
    series: Sequence[Series],
    *,
    tick_labels: Sequence[str],
    hover: Sequence[str],
    share: bool = False,
) -> str:
    """Returns stacked columns over time.

    Args:
        name: unique in the page.
        title: of the chart.
        description: what it shows, for who cannot see it.
        series: from the bottom to the top; whole numbers, one for each column.
        tick_labels: of the columns, of which some are shown below them.
        hover: the text over each column.
        share: whether each column is as high as all of it, in parts of 100 %.
    """
    sums = [sum(one.values[at] or 0 for one in series) for at in range(len(hover))]
    marks = [0.0, 0.25, 0.5, 0.75, 1.0] if share else ticks(max(sums, default=0))
    plot = _Plot(len(hover), marks[-1])
    parts = [plot.grid(marks, lambda mark: f"{mark:.0%}" if share else short(mark)), plot.dates(tick_labels)]
    below = [0.0] * len(hover)
    for one in series:
        path = []
        for at, value in enumerate(one.values):
            if value:
                part = value / sums[at] if share else value
                top, bottom = plot.y(below[at] + part), plot.y(below[at])
                path.append(f"M{_n(plot.x(at))} {_n(bottom)}h{_n(plot.bar)}V{_n(top)}h-{_n(plot.bar)}z")
                below[at] += part
        if path:
            parts.append(f'<path class="{one.colour}" d="{"".join(path)}"/>')
    parts += plot.hovers(hover)
    return svg(name, title, description, _HEIGHT, "".join(parts))


def lines(
    name: str,
    title: str,
    description: str,
    series: Sequence[Series],
    *,
    tick_labels: Sequence[str],
    hover: Sequence[str],
    marks: Sequence[float],
    mark_label: Callable[[float], str],
) -> str:
    """Returns lines over time, interrupted where there is nothing; the arguments are those of `columns`."""
    plot = _Plot(len(hover), marks[-1])
    parts = [plot.grid(marks, mark_label), plot.dates(tick_labels)]
    for one in series:
        path, before = [], None
        for at, value in enumerate(one.values):
            if value is not None:
                x, y = _n(plot.x(at) + plot.bar / 2), _n(plot.y(value))
                path.append(f"{'M' if before is None else 'L'}{x} {y}")
                parts.append(f'<circle class="{one.colour}" cx="{x}" cy="{y}" r="2.5"/>')
            before = value
        parts.append(f'<path class="l {one.colour}" d="{"".join(path)}"/>')
    parts += plot.hovers(hover)
    return svg(name, title, description, _HEIGHT, "".join(parts))


class Bar(NamedTuple):
    """A horizontal bar; `whole` is what its share is of."""

    label: str
    number: int
    whole: int
    colour: str


def bars(name: str, title: str, description: str, rows: Sequence[Bar]) -> str:
    """Returns horizontal bars, each below its label, number and share."""
    most = max((one.number for one in rows), default=0)
    parts = []
    for at, (label, number, whole, colour) in enumerate(rows):
        top = at * _BAR
        width = max(1.5, number / most * WIDTH) if number else 0
        parts.append(
            f'<text x="0" y="{top + 14}">{label}</text><text class="e m" x="{WIDTH}" y="{top + 14}">'
            f'<tspan class="b">{number:,}</tspan> · {percent(number, whole)}</text>'
            f'<rect class="{colour}" x="0" y="{top + 19}" width="{_n(width)}" height="9" rx="2"/>'
        )
    return svg(name, title, description, max(1, len(rows)) * _BAR, "".join(parts))


# Part of `Flow`, its label, what it means, its colour.
FLOW = (
    ("loaded", "Loaded", "a row in the table", "ok"),
    ("duplicates", "Duplicates", "settled before", "rest"),
    ("rejected", "Rejected", "kept with a reason", "bad"),
    ("erased", "Erased", "on request", "s3"),
    ("lost", "Lost", "given up by a person", "bad"),
    ("landed", "In the landing", "to be masked", "wait"),
    ("masked", "Masked", "to be loaded", "wait"),
    ("quarantined", "Quarantined", "cannot be read now", "bad"),
)


def flow(name: str, title: str, description: str, messages: Flow) -> str:
    """Returns the diagram of where all messages are: bands from what landed to each part, as thick as its share."""
    row, top, trunk, leaf = 40.0, 8.0, (106.0, 12.0), 232.0
    height = row * len(FLOW)
    whole = max(1, messages.messages)
    parts = []
    queued = "not known" if messages.queued is None else f"about {short(messages.queued)}"
    middle = top + height / 2
    parts.append(
        f'<rect class="s0" x="0" y="{_n(middle - 4)}" width="{_n(trunk[0] - 4)}" height="8" rx="2" fill-opacity=".35"/>'
        f'<text x="0" y="{_n(middle - 30)}">On the queue</text>'
        f'<text class="b" x="0" y="{_n(middle - 13)}">{queued}</text>'
        f'<text x="0" y="{_n(middle + 25)}">Landed so far</text>'
        f'<text class="b" x="0" y="{_n(middle + 42)}">{messages.messages:,}</text>'
        f'<rect class="s0" x="{_n(trunk[0])}" y="{_n(top)}" width="{_n(trunk[1])}" height="{_n(height)}" rx="2"/>'
    )
    start = top
    for at, (part, label, meaning, colour) in enumerate(FLOW):
        number = messages.parts[part]
        center = top + row * at + row / 2
        if number > 0 and messages.adds_up:
            thick = number / whole * height
            end = max(2.0, min(row - 10, thick))
            x, bend = trunk[0] + trunk[1], (trunk[0] + trunk[1] + leaf) / 2
            y0, y1 = center - end / 2, center + end / 2
            parts.append(
                f'<path class="flow {colour}" d="M{_n(x)} {_n(start)}C{_n(bend)} {_n(start)} {_n(bend)} {_n(y0)}'
                f" {_n(leaf)} {_n(y0)}V{_n(y1)}C{_n(bend)} {_n(y1)} {_n(bend)} {_n(start + thick)} {_n(x)}"
                f' {_n(start + thick)}z"/><rect class="{colour}" x="{_n(leaf)}" y="{_n(y0)}" width="6"'
                f' height="{_n(end)}" rx="1"/>'
            )
            start += thick
        muted = "" if number else " m"
        parts.append(
            f'<text class="b{muted}" x="{_n(leaf + 13)}" y="{_n(center - 3)}">{label} {number:,}</text>'
            f'<text class="m" x="{_n(leaf + 13)}" y="{_n(center + 13)}">{meaning}</text>'
        )
    return svg(name, title, description, height + 2 * top, "".join(parts))


class _Plot:
    """Where things are in a chart over time."""

    def __init__(self, columns: int, highest: float) -> None:
        self.columns, self.highest = max(1, columns), highest
        self.step = min(64.0, (WIDTH - _LEFT) / self.columns)
        self.left = _LEFT + (WIDTH - _LEFT - self.step * self.columns) / 2  # few columns stand in the middle
        self.bar = self.step - min(3.0, self.step / 5)

    def x(self, at: int) -> float:
        return self.left + self.step * at + (self.step - self.bar) / 2

    def y(self, value: float) -> float:
        return _HEIGHT - _BOTTOM - value / self.highest * (_HEIGHT - _TOP - _BOTTOM)

    def grid(self, marks: Sequence[float], label: Callable[[float], str]) -> str:
        return "".join(
            f'<path class="g" d="M{_LEFT} {_n(self.y(mark))}H{WIDTH}"/>'
            f'<text class="e m" x="{_LEFT - 6}" y="{_n(self.y(mark) + 4)}">{label(mark)}</text>'
            for mark in marks
        )

    def dates(self, labels: Sequence[str]) -> str:
        found = []
        side, offset = ("c m", self.step / 2) if self.step > 40 else ("m", 0.0)
        for at in date_ticks(labels):
            x, anchor = self.left + self.step * at + offset, side
            if x + _LETTER * len(labels[at]) * (0.5 if offset else 1) > WIDTH:
                x, anchor = WIDTH, "e m"  # ends where the chart does, which would cut it
            found.append(f'<text class="{anchor}" x="{_n(x)}" y="{_HEIGHT - 8}">{labels[at]}</text>')
        return "".join(found)

    def hovers(self, texts: Sequence[str]) -> list[str]:
        return [
            f'<rect class="hit" x="{_n(self.left + self.step * at)}" y="{_TOP}" width="{_n(self.step)}"'
            f' height="{_HEIGHT - _TOP - _BOTTOM}"><title>{text}</title></rect>'
            for at, text in enumerate(texts)
        ]


def _n(number: float) -> str:
    """A coordinate, to a tenth."""
    return f"{number:.1f}".removesuffix(".0")
