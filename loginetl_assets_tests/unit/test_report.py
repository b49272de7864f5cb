"""The report as a file: whole by itself, bounded, readable in both schemes, and deaf to what producers write."""

import re
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest

from loginetl_assets.report import charts, numbers
from loginetl_assets.report.activity import (
    MAX_PERIODS,
    NOTHING,
    Activity,
    Breakdown,
    Flow,
    Loads,
    Period,
    SharedTokens,
    Unit,
    unit_for,
)
from loginetl_assets.report.page import render_markdown, render_page, render_picture

HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "</title></svg><iframe src=//evil>",
    "a\u202eb\x1b[31m\x07",
    "' onmouseover='alert(1)",
    "&lt;b&gt; ]]> <!-- -->",
]
NO_FLOW = Flow(0, 0, {part: 0 for part, *_ in charts.FLOW})
NO_TOKENS = SharedTokens(0, {"2": 0, "3": 0, "4 to 9": 0, "10 or more": 0})
EMPTY = Activity(
    made_at=datetime(2026, 11, 24, 15, 7, tzinfo=UTC),
    table="public.user_logins",
    logins=0,
    logins_on_last_day=0,
    undated=0,
    period=None,
    device_types=NOTHING,
    versions=NOTHING,
    locales=NOTHING,
    devices=NO_TOKENS,
    addresses=NO_TOKENS,
    rejections={},
    flow=NO_FLOW,
    loads=[],
    loads_step=timedelta(hours=1),
)


def full(periods: int = 30, names: list[str | None] | None = None, count: int = 12) -> Activity:
    """A report with something in every chart."""
    names = names or ["android", "ios", "", None]
    counts = Breakdown(names, [[count] * periods for _ in names], [count * periods for _ in names])
    shared = SharedTokens(9_000, {"2": 40, "3": 7, "4 to 9": 2, "10 or more": 1})
    first = date(2026, 11, 1)
    start = datetime(2026, 11, 20, 8, tzinfo=UTC)
    return replace(
        EMPTY,
        logins=count * periods * len(names),
        logins_on_last_day=count * len(names),
        period=Period(first, first + timedelta(days=periods - 1), Unit.DAY),
        device_types=counts,
        versions=counts,
        locales=counts,
        devices=shared,
        addresses=shared,
        rejections={"bad_ip": 3, "not_a_login": 1},
        flow=Flow(7, 125, {"loaded": 99, "duplicates": 2, "rejected": 4, "erased": 1, "lost": 3, "landed": 8,
                           "masked": 5, "quarantined": 3}),
        loads=[Loads(start + timedelta(hours=at), 1_000, 4.2, 61.0) for at in (0, 1, 5)],
    )  # fmt: skip


def test_one_of_anything_is_counted_as_one() -> None:
    one = full(1, ["ios"], 1)
    page = render_page(replace(one, undated=1, loads=[replace(one.loads[0], messages=1)]))
    assert re.findall(r"\b1 (?:logins|messages)\b", page) == []
    assert {"1 login", "1 message"} <= set(re.findall(r"\b1 (?:login|message)\b", page))


class Page(HTMLParser):
    """What a browser makes of a page: its tags, their attributes and its texts."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: set[str] = set()
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_data(self, data: str) -> None:
        self.text += data


def drawings(page: str) -> list[ElementTree.Element]:
    """The charts of a page, each read as XML."""
    return [ElementTree.fromstring(one) for one in re.findall(r"<svg xmlns.*?</svg>", page)]  # noqa: S314 - our own


@pytest.mark.parametrize("activity", [EMPTY, full()], ids=["empty", "full"])
def test_the_page_needs_nothing_from_outside_and_no_script(activity: Activity) -> None:
    page = render_page(activity)
    parsed = Page(page)
    assert not {"script", "link", "iframe", "img", "object", "base", "form"} & set(parsed.tags)
    assert not {name for name in parsed.attributes if name in {"src", "href", "style"} or name.startswith("on")}
    assert set(re.findall(r"https?://[^\s\"'<]*", page)) <= {"http://www.w3.org/2000/svg"}
    assert not re.search(r"url\(|@import|@font-face", page)
    assert "default-src 'none'" in page


def test_without_logins_each_chart_says_so_and_nothing_is_divided_by_zero() -> None:
    text = Page(render_page(EMPTY)).text
    assert text.count("No logins yet.") == 6
    assert "No message is rejected." in text
    assert "0 landed = 0 loaded + 0 duplicates" in text


def test_each_chart_has_a_title_a_description_and_a_table_behind_it() -> None:
    page = render_page(full())
    found = drawings(page)
    assert len(found) == 8
    for one in found:
        title, description = one[0], one[1]
        assert (title.tag.endswith("title"), description.tag.endswith("desc")) == (True, True)
        assert title.text
        assert description.text
        assert one.attrib["aria-labelledby"] == f"{title.attrib['id']} {description.attrib['id']}"
    assert Page(page).tags.count("table") == len(found)
    ids = re.findall(r' id="([^"]+)"', page)
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize("text", HOSTILE)
def test_what_a_producer_wrote_is_shown_as_text_and_runs_nowhere(text: str) -> None:
    page = render_page(full(names=[text, None]))
    parsed = Page(page)
    assert set(parsed.tags) == set(Page(render_page(full())).tags)
    assert not [name for name in parsed.attributes if name.startswith("on")]
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f\u202a-\u202e\u2066-\u2069]", page.replace("\n", ""))
    assert len(drawings(page)) == 8
    printable = "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)
    assert printable[:31] in parsed.text


def test_the_page_stays_below_300_kb_however_much_there_is() -> None:
    longest: list[str | None] = ["&" * 64 + str(number) for number in range(8)]
    activity = full(MAX_PERIODS, [*longest, None], count=123_456_789_012)
    start = datetime(2026, 11, 20, 8, tzinfo=UTC)
    activity = replace(
        activity,
        rejections={f"reason_{number:02}_of_some_length": 10**12 for number in range(20)},
        loads=[Loads(start + timedelta(hours=at), 10**12, 1e6, 1e7) for at in range(60)],
    )
    assert len(render_page(activity).encode()) < 300_000
    assert len(render_markdown(activity)) < 20_000


@pytest.mark.parametrize("count", [1, 2, 5, 13, 21, 60, MAX_PERIODS])
def test_no_date_is_cut_where_its_chart_ends(count: int) -> None:
    series = [charts.Series("n", "s0", [1] * count)]
    drawn = charts.columns("n", "t", "d", series, tick_labels=["24 Nov 2026"] * count, hover=["h"] * count)
    ends = [
        float(x) + {"e": 0, "c": 0.5, "m": 1}[side[0]] * 6.5 * 11
        for side, x in re.findall(r'<text class="([^"]+)" x="([\d.]+)" y="212">', drawn)
    ]
    assert ends
    assert max(ends) <= charts.WIDTH


def test_the_flow_says_its_sum_and_reports_one_that_does_not_add_up() -> None:
    right = full()
    text = Page(render_page(right)).text
    expected = "125 landed = 99 loaded + 2 duplicates + 4 rejected + 1 erased + 3 lost + 8 in the landing + 5 masked"
    assert f"{expected} + 3 quarantined" in text
    assert "add up" not in text
    for parts in ({"loaded": 98}, {"loaded": 104, "lost": -2}):
        wrong = replace(right.flow, parts={**right.flow.parts, **parts})
        assert not wrong.adds_up
        assert "These numbers do not add up" in Page(render_page(replace(right, flow=wrong))).text


def test_the_bands_of_the_flow_leave_the_trunk_side_by_side_and_fill_it() -> None:
    drawn = charts.flow("flow", "t", "d", full().flow)
    edges = [
        (float(path[1]), float(path[2]))
        for path in re.finditer(r'class="flow \w+" d="M118 ([\d.]+)C.* ([\d.]+)z"', drawn.replace("/>", "/>\n"))
    ]
    assert len(edges) == 8
    assert edges[0][0] == 8
    assert all(before[1] == pytest.approx(after[0], abs=0.11) for before, after in zip(edges, edges[1:], strict=False))
    assert edges[-1][1] == pytest.approx(8 + 40 * 8, abs=0.11)


def test_stacked_columns_are_as_high_as_their_numbers() -> None:
    series = [charts.Series("a", "s0", [10, 0]), charts.Series("b", "s1", [30, 20])]
    drawn = charts.columns("c", "t", "d", series, tick_labels=["x", "y"], hover=["x", "y"])
    heights = [
        abs(float(bottom) - float(top)) for bottom, top in re.findall(r"M[\d.]+ ([\d.]+)h[\d.]+V([\d.]+)h", drawn)
    ]
    assert heights == pytest.approx([heights[0], heights[0] * 3, heights[0] * 2], abs=0.3)


def test_the_picture_for_the_dagster_ui_shows_counts_and_no_value_of_a_message() -> None:
    picture = render_picture(full(names=["secret-type", None]))
    assert "secret-type" not in picture
    ElementTree.fromstring(picture)  # noqa: S314 - our own
    assert "Loaded 99" in picture


def _luminance(colour: str) -> float:
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    red, green, blue = (one / 12.92 if one <= 0.04045 else ((one + 0.055) / 1.055) ** 2.4 for one in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def _contrast(one: str, other: str) -> float:
    low, high = sorted((_luminance(one), _luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_colours_and_texts_stand_out_from_the_background(scheme: int) -> None:
    background = charts.BACKGROUND[scheme]
    assert min(_contrast(both[scheme], background) for both in charts.COLOURS.values()) >= 3
    assert min(_contrast(both[scheme], background) for both in (charts.TEXT, charts.MUTED)) >= 4.5


@pytest.mark.parametrize(
    ("first", "last", "unit"),
    [
        (date(2026, 11, 24), date(2026, 11, 24), Unit.DAY),
        (date(2026, 8, 1), date(2026, 11, 24), Unit.DAY),
        (date(2025, 1, 1), date(2026, 11, 24), Unit.WEEK),
        (date(2023, 11, 24), date(2026, 11, 24), Unit.MONTH),
        (date(2010, 1, 1), date(2026, 11, 24), Unit.QUARTER),
        (date(1970, 1, 1), date(2026, 11, 24), Unit.YEAR),
    ],
)
def test_long_times_are_shown_in_longer_units_from_the_first_day_to_the_last(
    first: date, last: date, unit: Unit
) -> None:
    assert unit_for(first, last) is unit
    starts = Period(first, last, unit).starts
    assert len(starts) <= MAX_PERIODS
    assert starts[0] <= first
    assert starts[-1] <= last
    assert [unit.start(one) for one in starts] == starts
    assert unit.start(last) == starts[-1]
    assert len(set(starts)) == len(starts)


@pytest.mark.parametrize(
    ("highest", "expected"),
    [(0, [0, 1]), (1, [0, 1]), (4, [0, 1, 2, 3, 4]), (99, [0, 50, 100]), (1234, [0, 500, 1000, 1500])],
)
def test_ticks_are_whole_round_numbers_that_reach_the_highest(highest: int, expected: list[float]) -> None:
    assert numbers.ticks(highest) == expected


def test_ticks_of_times_are_seconds_minutes_hours_or_days() -> None:
    shown = {
        most: [numbers.seconds_tick(tick, marks[1]) for tick in marks]
        for most in (3, 100, 7_000, 400_000)
        for marks in [numbers.seconds_ticks(most)]
    }
    assert shown == {
        3: ["0 s", "1 s", "2 s", "3 s"],
        100: ["0 s", "30 s", "60 s", "90 s", "120 s"],
        7_000: ["0 min", "30 min", "60 min", "90 min", "120 min"],
        400_000: ["0 d", "2 d", "4 d", "6 d"],
    }


def test_shares_never_hide_what_is_there_nor_what_is_missing() -> None:
    shares = [numbers.percent(part, 10_000) for part in (0, 1, 100, 5_000, 9_999, 10_000)]
    assert shares == ["0%", "under 1%", "1%", "50%", "over 99%", "100%"]
    assert numbers.percent(0, 0) == "0%"
