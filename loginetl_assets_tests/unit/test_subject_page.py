"""A subject's report as a page: whole, for people, and harmless whatever a producer sent."""

import re
from dataclasses import replace
from datetime import UTC, date, datetime
from html.parser import HTMLParser
from uuid import UUID

import pytest

from loginetl_assets.cli.subject_page import render_subject_page
from loginetl_assets.logins.rejection import Reason
from loginetl_assets.privacy.recover import Outcome
from loginetl_assets.privacy.subject_report import (
    LandedMessage,
    RejectedMessage,
    SubjectReport,
    UsedValue,
    UsedVersion,
)
from loginetl_assets.storage.batches import BatchState

HOSTILE = "<script>alert(1)</script><img src=//x.example/?> \x1b[2J\u202e\" onload='x' &amp;"
AT = datetime(2026, 3, 1, 12, 30, 15, tzinfo=UTC)
DAY = date(2026, 3, 1)
NOTHING = SubjectReport("anna", AT, [], {}, [], [], [], [], [], 0, 0)


def _report(text: str) -> SubjectReport:
    """A report that has the text in every place where a producer's text may be."""
    login = {
        "user_id": text,
        "device_type": text,
        "masked_ip": "1.token",
        "masked_device_id": text,
        "locale": text,
        "app_version": 2_003_000,
        "create_date": DAY,
        "app_version_text": text,
        "ip": text,
        "device_id": None,
    }
    message = {"message_uuid": UUID(int=7), "body": text, "sent_at": AT}
    return SubjectReport(
        user_id=text,
        made_at=AT,
        logins=[login],
        days={"2026-03-01": 1},
        app_versions=[UsedVersion(1, DAY, DAY, text)],
        values=[
            UsedValue(1, DAY, DAY, "ip", "1.token", Outcome.RECOVERED, text),
            UsedValue(1, None, None, "device_id", "1.other", Outcome.ERASED, None),
        ],
        rejected=[RejectedMessage(**message, is_login=False, rejected_at=AT, reason="not_json", field=None)],  # type: ignore[arg-type]
        landing=[LandedMessage(**message, is_login=True, batch_id=3, batch_state=BatchState.LOADED)],  # type: ignore[arg-type]
        erasures=[AT],
        unreadable_batches=2,
        undecryptable_bodies=0,
    )


class _Read(HTMLParser):
    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attributes

    def handle_data(self, data: str) -> None:
        self.text += data


def test_what_a_producer_sent_is_text_on_the_page_and_nothing_else() -> None:
    page = render_subject_page(_report(HOSTILE))
    read, harmless = _Read(page), _Read(render_subject_page(_report("harmless")))
    assert (read.tags, read.attributes) == (harmless.tags, harmless.attributes)
    assert read.text.count("<script>alert(1)</script><img src=//x.example/?> \\x1b[2J\\u202e\" onload='x' &amp;") == 9
    assert not [one for one in page if not (one.isprintable() or one == "\n")]


def test_the_page_runs_no_script_and_asks_nobody() -> None:
    read = _Read(render_subject_page(_report("harmless")))
    assert {"script", "link", "img", "iframe", "object", "a", "form"}.isdisjoint(read.tags)
    assert {"src", "href", "style"}.isdisjoint(name for name, _ in read.attributes)
    assert ("content", "default-src 'none'; style-src 'unsafe-inline'") in read.attributes


def test_the_page_can_be_read_aloud_and_by_the_keyboard() -> None:
    read = _Read(render_subject_page(_report("harmless")))
    assert ("lang", "en") in read.attributes
    assert read.tags.count("h1") == read.tags.count("main") == 1
    assert read.tags.count("table") == read.tags.count("caption") == read.tags.count("thead") == 7
    assert read.attributes.count(("scope", "col")) == read.tags.count("th")
    assert read.attributes.count(("tabindex", "0")) == 7


def test_the_page_says_what_is_missing_and_whose_text_it_may_be() -> None:
    text = _Read(render_subject_page(_report("harmless"))).text
    assert "Not complete." in text
    assert "2 batches not searched, unreadable" in text
    assert "1 value not shown" in text
    assert "(erased)" in text
    assert text.count("it may hold another person's data") == 1
    assert "1 login, 2 encrypted values, 1 rejected message and 1 message as sent." in text


def test_a_page_of_nothing_says_so() -> None:
    text = _Read(render_subject_page(NOTHING)).text
    assert "On 2026-03-01 12:30:15 there were 0 logins, 0 encrypted values, 0 rejected messages" in text
    assert text.count("None.") == 7
    assert "Not complete" not in text


@pytest.mark.parametrize("reason", Reason)
def test_each_reason_is_a_sentence_without_the_marks_of_markdown(reason: Reason) -> None:
    report = replace(_report("harmless"), rejected=[replace(_report("harmless").rejected[0], reason=reason.value)])
    cell = re.findall(r"</time></td><td>([^<]*\.)</td>", render_subject_page(report))
    assert len(cell) == 1
    assert not set(cell[0]) & set("[`]")


def test_no_repr_of_a_report_shows_a_value() -> None:
    report = _report("harmless")
    parts = (report, *report.values, *report.app_versions, *report.rejected, *report.landing)
    assert "harmless" not in "".join(map(repr, parts))
