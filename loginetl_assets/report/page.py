"""The report as one HTML file, and its overview as one picture: everything inline, no script, nothing from outside."""

import re
from base64 import b64encode
from collections.abc import Iterable, Sequence
from html import escape

from loginetl_assets.errors import counted
from loginetl_assets.logins.rejection import Reason
from loginetl_assets.report import charts
from loginetl_assets.report.activity import MIN_LOGINS, Activity, Breakdown, Flow, SharedTokens, Unit
from loginetl_assets.report.charts import Bar, Series
from loginetl_assets.report.numbers import (
    day,
    duration,
    moment,
    percent,
    period_name,
    period_tick,
    rounded,
    seconds_tick,
    seconds_ticks,
    shown,
)

NO_LOGINS = "No logins yet."
OTHER, NOT_SENT = "other", "not sent"

# Should a text ever get past the escaping, the browser runs nothing and asks nobody (Content-Security-Policy 3).
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"

_STYLE = """
*{box-sizing:border-box}
body{margin:0;background:var(--page);color:var(--text);font:.94rem/1.5 system-ui,sans-serif}
main{max-width:1080px;margin:0 auto;padding:24px 16px 48px}
h1{font-size:1.7rem;line-height:1.2;margin:0 0 4px}h2{font-size:1.05rem;margin:0 0 2px}
p{margin:0 0 10px}header p,.m,footer{color:var(--muted)}
.cards{display:grid;grid-template-columns:repeat(auto-fit,minmax(150px,1fr));gap:10px;margin:20px 0 16px}
.cards div,section{background:var(--bg);border:1px solid var(--line);border-radius:8px;padding:12px 14px}
dl,dd{margin:0}dt{color:var(--muted);font-size:.85rem}dd{font-size:1.45rem;font-weight:600;line-height:1.3}
dd small{display:block;font-size:.8rem;font-weight:400;color:var(--muted)}
.charts{columns:2;column-gap:16px}
section{padding:16px;margin:0 0 16px;break-inside:avoid}section p{color:var(--muted);font-size:.9rem}
.split{display:grid;grid-template-columns:minmax(0,1.25fr) minmax(0,1fr);gap:28px}
svg{display:block;width:100%;max-width:600px;height:auto;margin:8px auto 0}
.keys{display:flex;flex-wrap:wrap;gap:2px 14px;list-style:none;margin:6px 0 0;padding:0;font-size:.85rem}
.keys li{overflow-wrap:anywhere}.keys svg{display:inline-block;width:10px;height:10px;margin:0 6px 0 0}
.sum{font-variant-numeric:tabular-nums}.wrong{color:var(--bad)!important;font-weight:600}
details{margin-top:10px;font-size:.85rem}summary{cursor:pointer;color:var(--muted)}
.scroll{overflow-x:auto;max-height:320px;margin-top:6px}
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}
th,td{text-align:right;padding:3px 8px;border-bottom:1px solid var(--line);white-space:nowrap}
th:first-child,td:first-child{text-align:left;padding-left:0}th{color:var(--muted);font-weight:600}
footer{margin-top:24px;font-size:.85rem}
@media(max-width:760px){.charts{columns:1}.split{grid-template-columns:minmax(0,1fr)}main{padding:16px 10px 32px}
section{padding:12px}svg text{font-size:14px}.cards{grid-template-columns:repeat(2,minmax(0,1fr))}}
@media print{@page{margin:12mm}html{font-size:12px}body{background:none}main{max-width:none;padding:0}
details{display:none}.cards{grid-template-columns:repeat(6,minmax(0,1fr));gap:6px}
.cards div{break-inside:avoid;padding:8px}footer{margin-top:8px}}
"""
_SCHEMES = (
    f":root{{color-scheme:light dark;--page:#f4f6f9;{charts.style(0)}}}"
    f"@media screen and (prefers-color-scheme:dark){{:root{{--page:#0d1117;{charts.style(1)}}}}}"
)


def render_page(activity: Activity) -> str:
    """Returns the HTML document: at most 300 kB, however many logins and values there are."""
    title = "Login activity"
    sections = (
        _logins(activity),
        _versions(activity),
        _locales(activity.locales),
        _shared(activity),
        _rejections(activity),
        _throughput(activity),
        _lag(activity),
    )
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        '<meta name="viewport" content="width=device-width,initial-scale=1"><meta name="color-scheme"'
        f' content="light dark"><title>{title}</title><style>{_SCHEMES}{charts.STYLE}{_STYLE}</style></head>'
        "<body><main>"
        f"<header><h1>{title}</h1><p>{_heading(activity)}</p></header>{_cards(activity)}{_flow(activity.flow)}"
        f'<div class="charts">{"".join(sections)}</div><footer>{_footer(activity)}</footer></main></body></html>\n'
    )


def render_picture(activity: Activity) -> str:
    """Returns where all messages are, as an SVG of its own with a light background.

    It shows no value of a message: the Dagster UI keeps what it shows in its event log, which no erasure reaches.
    """
    light = f"svg{{{charts.style(0)}background:var(--bg)}}"
    drawn = charts.flow("flow", "Where all messages are", _sum(activity.flow), activity.flow)
    return drawn.replace("<title", f"<style>{light}{charts.STYLE}</style><title", 1).replace(
        'role="img"', f'width="{charts.WIDTH * 1.4:.0f}" role="img"', 1
    )


def render_markdown(activity: Activity) -> str:
    """Returns the picture and its sum in Markdown: the Dagster UI takes images as data in it, and no markup of SVG."""
    picture = b64encode(render_picture(activity).encode()).decode()
    return f"![Where all messages are](data:image/svg+xml;base64,{picture})\n\n{_sum(activity.flow)}"


# Sections, each with a heading, one sentence, a chart and its table.


def _heading(activity: Activity) -> str:
    days = activity.period
    span = ""
    if days is not None:
        span = f", logins from {day(days.first)} to {day(days.last)}"
        if days.first == days.last:
            span = f", logins of {day(days.last)}"
    return f"Table {escape(activity.table)}{span}. Made on {moment(activity.made_at)} UTC."


def _cards(activity: Activity) -> str:
    last = activity.loads[-1] if activity.loads else None
    cards = [("Logins", f"{activity.logins:,}", "rows in the table")]
    if activity.period is not None:
        cards.append(("On the last day", f"{activity.logins_on_last_day:,}", day(activity.period.last)))
    for name, tokens in (("Shared devices", activity.devices), ("Shared addresses", activity.addresses)):
        cards.append((name, _tokens(tokens, tokens.shared), f"of {_tokens(tokens, tokens.tokens)}"))
    rejected = activity.flow.parts["rejected"]
    read = rejected + activity.flow.parts["loaded"]
    cards.append(("Rejected", f"{rejected:,}", f"{percent(rejected, read)} of those read"))
    if last is not None:
        cards.append(("From queue to row", duration(last.typical_seconds), f"typical, {moment(last.start)}"))
    drawn = "".join(f"<div><dt>{name}</dt><dd>{value}<small>{text}</small></dd></div>" for name, value, text in cards)
    return f'<dl class="cards">{drawn}</dl>'


def _sum(flow: Flow) -> str:
    parts = " + ".join(f"{flow.parts[part]:,} {label.lower()}" for part, label, _, _ in charts.FLOW)
    return f"{flow.messages:,} landed = {parts}"


def _flow(flow: Flow) -> str:
    title, description = "Where all messages are", "Each message that has landed is in exactly one of these places."
    drawn = charts.flow("flow", title, _sum(flow), flow)
    total = f'<p class="sum">{_sum(flow)}.</p>'
    if not flow.adds_up:
        total += '<p class="wrong">These numbers do not add up: this is a bug, report it with `loginetl status`.</p>'
    queue = (
        "The queue was not asked, or did not answer."
        if flow.queued is None
        else "The number on the queue is SQS's own approximate count; a message can be counted there for a moment after"
        " it has landed."
    )
    rows = [(label, f"{flow.parts[part]:,}", meaning) for part, label, meaning, _ in charts.FLOW]
    table = _table(("place", "messages", ""), [*rows, ("all that landed", f"{flow.messages:,}", "")])
    return (
        f'<section><h2>{title}</h2><div class="split"><div>{drawn}</div><div><p>{description}</p>{total}'
        f"<p>{queue}</p>{table}</div></div></section>"
    )


def _logins(activity: Activity) -> str:
    each = _each(activity)
    title = f"Logins a {each}, by device type"
    text = f"How many logins there were each {each}, and with which type of device."
    return _over_time("logins", title, text, activity, activity.device_types)


def _versions(activity: Activity) -> str:
    title = "App versions in use"
    text = f"The share of each version in the logins of a {_each(activity)}; newer versions are further up."
    return _over_time("versions", title, text, activity, activity.versions, share=True)


def _each(activity: Activity) -> str:
    return activity.period.unit.value if activity.period else Unit.DAY.value


def _over_time(
    name: str, title: str, text: str, activity: Activity, breakdown: Breakdown, *, share: bool = False
) -> str:
    days = activity.period
    if days is None:
        return _section(title, text, None)
    starts, unit = days.starts, days.unit
    labels = [period_name(start, unit) for start in starts]
    named = _named(breakdown)
    series = [Series(*named[at], counts) for at, counts in enumerate(breakdown.counts)]
    hover = [f"{label}: {counted(total, 'login')}" for label, total in zip(labels, breakdown.by_start, strict=True)]
    tick_labels = [period_tick(start, unit) for start in starts]
    drawn = charts.columns(name, title, text, series, tick_labels=tick_labels, hover=hover, share=share)
    rows = [
        (label, f"{total:,}", *(f"{counts[at]:,}" for counts in breakdown.counts))
        for at, (label, total) in enumerate(zip(labels, breakdown.by_start, strict=True))
    ]
    table = _table((unit.value, "logins", *(shown_name for shown_name, _ in named)), rows)
    return _section(title, text, drawn, table, keys=named)


def _named(breakdown: Breakdown) -> list[tuple[str, str]]:
    """Each name as it is shown, and its colour."""
    return [
        (OTHER, "rest") if name is None else (shown(name) or NOT_SENT, f"s{at % 8}")
        for at, name in enumerate(breakdown.names)
    ]


def _locales(locales: Breakdown) -> str:
    title, text = "Locales", "How many logins came with which locale."
    if not locales.names:
        return _section(title, text, None)
    rows = [
        Bar(label, total, sum(locales.totals), "rest" if label == OTHER else "s0")
        for (label, _), total in zip(_named(locales), locales.totals, strict=True)
    ]
    table = _table(("locale", "logins"), [(one.label, f"{one.number:,}") for one in rows])
    return _section(title, text, charts.bars("locales", title, text, rows), table)


def _shared(activity: Activity) -> str:
    title = "Shared devices and addresses"
    text = "How many devices and IP addresses were used by two or more users; none of them is named."
    both = (("devices", activity.devices, "s0"), ("addresses", activity.addresses, "s1"))
    if not any(tokens.tokens for _, tokens, _ in both):
        return _section(title, text, None)
    if any(tokens.one_in > 1 for _, tokens, _ in both):
        sampled = max(tokens.one_in for _, tokens, _ in both)
        text += f" Estimates: one token in {sampled:,} was counted."
    rows = [
        Bar(f"{kind} of {users} users", number, tokens.tokens, colour)
        for kind, tokens, colour in both
        for users, number in tokens.by_users.items()
    ]
    found = [one for one in rows if one.number]
    drawn = charts.bars("shared", title, text, found) if found else '<p class="m">None is shared.</p>'
    totals = [(f"all {kind}", _tokens(tokens, tokens.tokens)) for kind, tokens, _ in both]
    table = _table(("", "number"), [*((one.label, f"{one.number:,}") for one in rows), *totals])
    return _section(title, text, drawn, table)


def _tokens(of: SharedTokens, number: int) -> str:
    return f"≈ {rounded(number):,}" if of.one_in > 1 else f"{number:,}"


def _rejections(activity: Activity) -> str:
    title = "Rejected messages"
    text = "Why messages are rejected that have not been replayed, dropped or erased since."
    if not activity.rejections:
        return _section(title, text, '<p class="m">No message is rejected.</p>')
    whole = sum(activity.rejections.values())
    rows = [Bar(escape(reason), number, whole, "bad") for reason, number in activity.rejections.items()]
    # Without the marks of Markdown.
    meanings = {reason.value: escape(re.sub(r"\[(.*?)\]\(.*?\)|`", r"\1", reason.meaning)) for reason in Reason}
    table = _table(
        ("reason", "messages", "meaning"),
        [(one.label, f"{one.number:,}", meanings.get(one.label, "")) for one in rows],
    )
    return _section(title, text, charts.bars("rejections", title, text, rows), table)


def _throughput(activity: Activity) -> str:
    title = "Throughput"
    each = duration(activity.loads_step.total_seconds())
    text = f"How many messages the loaded batches had, in steps of {each}, in the last week with loads."
    if not activity.loads:
        return _section(title, text, None)
    labels, tick_labels = _load_labels(activity)
    by_start = {one.start: one.messages for one in activity.loads}
    counts = [by_start.get(start, 0) for start in activity.load_starts]
    hover = [f"{label}: {counted(count, 'message')}" for label, count in zip(labels, counts, strict=True)]
    series = [Series("messages", "s0", counts)]
    drawn = charts.columns("throughput", title, text, series, tick_labels=tick_labels, hover=hover)
    rows = [(label, f"{count:,}") for label, count in zip(labels, counts, strict=True) if count]
    return _section(title, text, drawn, _table(("from (UTC)", "messages"), rows))


def _lag(activity: Activity) -> str:
    title = "From the queue to the table"
    text = (
        "How long the oldest message of each batch took from its arrival on the queue to its row; a replayed message"
        " counts from its first arrival."
    )
    if not activity.loads:
        return _section(title, text, None)
    labels, tick_labels = _load_labels(activity)
    by_start = {one.start: one for one in activity.loads}
    loads = [by_start.get(start) for start in activity.load_starts]
    series = [
        Series("typical (median)", "s0", [one.typical_seconds if one else None for one in loads]),
        Series("slow (1 batch in 20 took longer)", "s1", [one.slow_seconds if one else None for one in loads]),
    ]
    texts = [
        f"typical {duration(one.typical_seconds)}, slow {duration(one.slow_seconds)}" if one else "" for one in loads
    ]
    hover = [f"{label}: {text or 'no loads'}" for label, text in zip(labels, texts, strict=True)]
    marks = seconds_ticks(max(one.slow_seconds for one in activity.loads))
    drawn = charts.lines(
        "lag",
        title,
        text,
        series,
        tick_labels=tick_labels,
        hover=hover,
        marks=marks,
        mark_label=lambda mark: seconds_tick(mark, marks[1]),
    )
    rows = [(moment(one.start), duration(one.typical_seconds), duration(one.slow_seconds)) for one in activity.loads]
    keys = [(one.name, one.colour) for one in series]
    return _section(title, text, drawn, _table(("from (UTC)", "typical", "slow"), rows), keys=keys)


def _load_labels(activity: Activity) -> tuple[list[str], list[str]]:
    """Labels of all steps from the first load to the last, and shorter ones for the axis."""
    starts = activity.load_starts
    is_one_day = starts[0].date() == starts[-1].date()
    return [moment(at) for at in starts], [f"{at:%H:%M}" if is_one_day else f"{at.day} {at:%b}" for at in starts]


def _footer(activity: Activity) -> str:
    undated = f" Without a possible date: {counted(activity.undated, 'login')}." if activity.undated else ""
    return (
        f"A value of fewer than {MIN_LOGINS} logins is counted as {OTHER}, so that no number identifies a person; no"
        f" user, device or address is named. All times are UTC.{undated} Made by loginetl."
    )


def _section(title: str, text: str, drawn: str | None, table: str = "", *, keys: Sequence[tuple[str, str]] = ()) -> str:
    """A heading, a sentence, the names of the colours, the chart (None: there is nothing to show) and its table."""
    listed = "".join(f"<li>{_key(colour)}{name}</li>" for name, colour in keys)
    legend = f'<ul class="keys">{listed}</ul>' if listed else ""
    chart = f'<p class="m">{NO_LOGINS}</p>' if drawn is None else drawn
    return f"<section><h2>{title}</h2><p>{text}</p>{legend}{chart}{table}</section>"


def _key(colour: str) -> str:
    return f'<svg viewBox="0 0 10 10" aria-hidden="true"><rect class="{colour}" width="10" height="10" rx="2"/></svg>'


def _table(heads: Iterable[str], rows: Iterable[Sequence[str]]) -> str:
    head = "".join(f'<th scope="col">{one}</th>' for one in heads)
    body = "".join(f"<tr>{''.join(f'<td>{one}</td>' for one in row)}</tr>" for row in rows)
    return (
        f'<details><summary>The numbers</summary><div class="scroll" tabindex="0"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div></details>"
    )
