"""A subject's report as one HTML file for people: no script, nothing from outside, every value escaped."""

import re
from collections.abc import Iterable, Sequence
from datetime import date, datetime
from html import escape

from loginetl_assets.cli.console import for_terminal
from loginetl_assets.logins.contract import CREATE_DATE, FIELDS, Kind
from loginetl_assets.logins.rejection import Reason
from loginetl_assets.privacy.subject_report import StoredMessage, SubjectReport, Use

# Should a text ever get past the escaping, the browser runs nothing and asks nobody (Content-Security-Policy 3).
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"

# Contrast of text at least 4.5 to 1 on either background (WCAG 2.2, 1.4.3).
_STYLE = """
:root{color-scheme:light dark;--page:#fff;--text:#1b1f24;--muted:#57606a;--line:#d0d7de;--note:#fff4d6}
@media screen and (prefers-color-scheme:dark){
:root{--page:#0d1117;--text:#e6edf3;--muted:#9198a1;--line:#3d444d;--note:#3a2d00}}
body{margin:0 auto;max-width:1000px;padding:24px 16px 48px;background:var(--page);color:var(--text);
font:16px/1.5 system-ui,sans-serif}
h1{font-size:1.7em;line-height:1.2;margin:0 0 8px}h2{font-size:1.2em;margin:32px 0 4px}p{margin:0 0 10px}
.muted,caption,footer{color:var(--muted)}.note{background:var(--note);padding:10px 14px;border-radius:6px}
.scroll{overflow-x:auto}
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}caption{text-align:left;padding:0 0 4px}
th,td{text-align:left;vertical-align:top;padding:4px 14px 4px 0;border-bottom:1px solid var(--line)}
td,pre,h1+p{overflow-wrap:anywhere}td{min-width:6.5em}time{white-space:nowrap}pre{margin:0;min-width:16em;white-space:pre-wrap;font-size:.85em}footer{margin-top:40px}
@media print{@page{margin:12mm}body{max-width:none;padding:0;font-size:11px}.scroll{overflow:visible}
tr{break-inside:avoid}h2{break-after:avoid}}
"""

_FOOTER = (
    "All times are UTC. Not searched: messages that are still on the queue, backups, exports and other copies. Made by"
    " loginetl."
)
_COLUMNS = [field for field in FIELDS if field.name != "user_id"]


def render_subject_page(report: SubjectReport) -> str:
    """Returns the HTML document."""
    parts = (_values, _versions, _days, _logins, _rejected, _landing, _erasures)
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        '<meta name="viewport" content="width=device-width,initial-scale=1"><meta name="robots" content="noindex">'
        f"<title>Stored data of one user</title><style>{_STYLE}</style></head><body><main>"
        f"<h1>Stored data of one user</h1><p>User id: <strong>{_text(report.user_id)}</strong></p>{_summary(report)}"
        f"{''.join(part(report) for part in parts)}</main><footer><p>{_FOOTER}</p></footer></body></html>\n"
    )


def _summary(report: SubjectReport) -> str:
    counts = (
        f"{_count(len(report.logins), 'login')}, {_count(len(report.values), 'encrypted value')},"
        f" {_count(len(report.rejected), 'rejected message')} and {_count(len(report.landing), 'message')} as sent."
    )
    missing = "".join(f"<br>{_text(what)}" for what in report.incomplete)
    note = f'<p class="note"><strong>Not complete.</strong>{missing}</p>' if missing else ""
    return f"<p>On {_text(report.made_at)} there were {counts}</p>{note}"


def _values(report: SubjectReport) -> str:
    rows = [(one.field.replace("_", " "), one.value or f"({one.outcome})", *_use(one)) for one in report.values]
    text = "Such as addresses and devices. They are stored encrypted; the logins have a token in their place."
    return _section("Encrypted values", text, ("kind", "value", *_USE), rows)


def _versions(report: SubjectReport) -> str:
    rows = [(one.app_version, *_use(one)) for one in report.app_versions]
    return _section("App versions", "The versions of the app that logged in.", ("version", *_USE), rows)


def _days(report: SubjectReport) -> str:
    return _section("Days", "How many logins there were on which day.", ("day", "logins"), report.days.items())


def _logins(report: SubjectReport) -> str:
    names = [CREATE_DATE.name, *("app_version_text" if one.kind is Kind.VERSION else one.name for one in _COLUMNS)]
    rows = [[login[name] for name in names] for login in report.logins]
    return _section("Logins", "Each login as the table has it.", ("day", *(one.name for one in _COLUMNS)), rows)


def _rejected(report: SubjectReport) -> str:
    rows = [(one.sent_at, one.rejected_at, _meaning(one.reason), one.field, one) for one in report.rejected]
    text = "Messages that could not be loaded, with the reason. They are stored encrypted."
    return _section("Rejected messages", text, ("sent", "rejected", "reason", "field", "message"), rows)


def _landing(report: SubjectReport) -> str:
    rows = [(one.sent_at, one.batch_state, one) for one in report.landing]
    text = (
        "Messages as they were sent, in the store that they are loaded from. They are stored encrypted, and removed"
        " some time after they were loaded."
    )
    return _section("Messages as sent", text, ("sent", "state of its batch", "message"), rows)


def _erasures(report: SubjectReport) -> str:
    text = "The user id is stored encrypted since, so that the erasure can be repeated after a backup is restored."
    return _section("Earlier erasures", text, ("erased",), [(at,) for at in report.erasures])


def _meaning(reason: str) -> str:
    """Returns what a reason means, without the marks of Markdown."""
    return re.sub(r"\[(.*?)\]\(.*?\)", r"\1", Reason(reason).meaning).replace("`", "")


_USE = ("logins", "first day", "last day")


def _use(one: Use) -> tuple[object, ...]:
    return one.logins, one.first_day, one.last_day


def _count(number: int, one: str) -> str:
    return f"{number:,} {one if number == 1 else f'{one}s'}"


def _section(title: str, text: str, heads: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    body = "".join(f"<tr>{''.join(f'<td>{_text(cell)}</td>' for cell in row)}</tr>" for row in rows)
    if not body:
        return f'<section><h2>{title}</h2><p class="muted">None.</p></section>'
    head = "".join(f'<th scope="col">{name.replace("_", " ")}</th>' for name in heads)
    return (
        f'<section><h2>{title}</h2><div class="scroll" tabindex="0" role="region" aria-label="{title}"><table>'
        f"<caption>{text}</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div></section>"
    )


def _text(value: object) -> str:
    """Returns a cell's text: what does not print is spelt out, and what is markup is escaped."""
    if isinstance(value, StoredMessage):
        doubt = "" if value.is_login else "Not a login: it may hold another person's data, too."
        return f"<pre>{escape(for_terminal(value.body, keep=chr(10)))}</pre>{doubt}"
    if isinstance(value, datetime):
        return f"<time>{value:%Y-%m-%d %H:%M:%S}</time>"
    if isinstance(value, date):
        return f"<time>{value}</time>"
    return "" if value is None else escape(for_terminal(str(value)))
