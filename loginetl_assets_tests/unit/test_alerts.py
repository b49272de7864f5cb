"""Alerts: what they say, and what a webhook is sent and answers. The webhook is a real HTTP server of this process."""

import json
import logging
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import fields, replace
from datetime import datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from typer.testing import CliRunner

from loginetl_assets.automation import notifiers
from loginetl_assets.automation.notifiers import (
    Alert,
    Alerts,
    LogNotifier,
    Notifier,
    WebhookNotifier,
    configured_notifier,
)
from loginetl_assets.cli.main import app
from loginetl_assets.conditions import Condition
from loginetl_assets.errors import TransientError
from loginetl_assets.settings import Environment, Settings


class _Recorder:
    def __init__(self) -> None:
        self.alerts: list[Alert] = []

    def notify(self, alert: Alert) -> None:
        self.alerts.append(alert)


@contextmanager
def _webhook(*statuses: int, body: str = "") -> Iterator[tuple[str, list[dict[str, object]]]]:
    got: list[dict[str, object]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            got.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            status = statuses[min(len(got), len(statuses)) - 1]
            if not status:  # the connection breaks
                return
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("No colon\r\nX", "")  # damaged: urllib3 warns of that, with the URL
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/secret-path", got
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


PAGES = Settings(
    environment=Environment.PRODUCTION,
    queue_url="https://sqs.eu-west-1.amazonaws.com/1/logins",
    dagster_url="https://dagster.example/",
    runbook_url="https://example.com/runbook.md",
)


def _fail_a_job(notifier: Notifier) -> str | None:
    """Has an installation tell of a failed run; returns what came back."""
    return Alerts(PAGES, notifier).run_failed("login_etl", "r-1", ["user_logins"])


def test_the_webhook_gets_the_alert_as_json() -> None:
    with _webhook(200) as (url, got):
        assert _fail_a_job(WebhookNotifier(url)) == "HTTP 200"
    (body,) = got
    at = datetime.fromisoformat(str(body.pop("time")))
    assert at.utcoffset() == timedelta()
    assert body == {
        "text": "loginetl (production) error: run_failed: job login_etl failed at user_logins;"
        " the page of run r-1 says why\nrun: https://dagster.example/runs/r-1"
        "\nrunbook: https://example.com/runbook.md#run_failed",
        "condition": "run_failed",
        "active": True,
        "severity": "error",
        "environment": "production",
        "dedup_key": "loginetl/production/sqs.eu-west-1.amazonaws.com/1/logins/run_failed/login_etl",
        "run_url": "https://dagster.example/runs/r-1",
        "runbook_url": "https://example.com/runbook.md#run_failed",
        "job": "login_etl",
        "run_id": "r-1",
        "failed_steps": ["user_logins"],
    }


def test_beginning_and_end_of_a_condition_have_one_deduplication_key_and_nothing_else_has_it() -> None:
    recorder = _Recorder()
    elsewhere = replace(PAGES, queue_url="https://sqs.eu-west-1.amazonaws.com/1/other-logins")
    for alerts in (Alerts(PAGES, recorder), Alerts(elsewhere, recorder)):
        alerts.run_failed("login_etl", "r-1", [])
        alerts.run_succeeded("login_etl", "r-2")
        alerts.run_failed("retention", "r-3", [])
        for active in (True, False):
            alerts.condition_changed(Condition.QUEUE_UNREACHABLE, "why", active=active)
    keys = [alert.dedup_key for alert in recorder.alerts]
    assert [keys.index(key) for key in keys] == [0, 0, 2, 3, 3, 5, 5, 7, 8, 8]
    assert [alert.active for alert in recorder.alerts][:5] == [True, False, True, True, False]


def test_an_alert_has_no_links_where_no_page_is_named() -> None:
    recorder = _Recorder()
    Alerts(Settings(), recorder).run_failed("login_etl", "r-1", [])
    (alert,) = recorder.alerts
    assert (alert.run_url, alert.runbook_url) == (None, None)
    assert "outside its steps" in alert.text
    assert "\n" not in alert.text


@pytest.mark.parametrize(
    ("status", "body", "said"),
    [
        (200, "ok", "HTTP 200 ok"),
        (404, "no_service", "HTTP 404 no_service"),
        (404, "Nothing is at /secret-path", "HTTP 404"),
        (400, "secret", "HTTP 400"),
    ],
)
def test_a_test_alert_says_what_came_back_and_no_part_of_the_url(status: int, body: str, said: str) -> None:
    with _webhook(status, body=body) as (url, got):
        settings = replace(PAGES, alert_webhook_url=url)
        alerts = Alerts(settings, configured_notifier(settings))
        if status == 200:
            assert alerts.test() == said
        else:
            with pytest.raises(TransientError, match=rf"\({said}\): check LOGINETL_ALERT_WEBHOOK_URL"):
                alerts.test()
    assert [(one["condition"], one["severity"], one["active"]) for one in got] == [("test", "info", True)]


def test_a_webhook_that_fails_in_passing_gets_the_alert_once_it_is_back() -> None:
    with _webhook(503, 200) as (url, got):
        assert _fail_a_job(WebhookNotifier(url)) == "HTTP 200"
    assert len(got) == 2


def test_a_webhook_that_refuses_is_an_error_that_keeps_the_url_to_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notifiers, "PAUSES_SECONDS", (0, 0, 0))
    with _webhook(500) as (url, _), pytest.raises(TransientError, match="LOGINETL_ALERT_WEBHOOK_URL") as raised:
        _fail_a_job(WebhookNotifier(url))
    assert "secret-path" not in str(raised.value)


@pytest.mark.parametrize(
    ("statuses", "tries"), [((200,), 1), ((0,), 4), ((0, 0, 0, 200), 4), ((503,), 4), ((429, 200), 2), ((404,), 1)]
)
def test_the_path_of_a_webhook_is_in_no_log_whatever_it_answers(
    statuses: tuple[int, ...], tries: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(notifiers, "PAUSES_SECONDS", (0, 0, 0))
    caplog.set_level(logging.DEBUG)
    with _webhook(*statuses) as (url, got), nullcontext() if statuses[-1] == 200 else pytest.raises(TransientError):
        _fail_a_job(WebhookNotifier(url))
    assert len(got) == tries
    assert "secret-path" not in caplog.text


@pytest.mark.parametrize(
    "url",
    [
        "secret-path",
        "https://secret-path[/",
        "https://127.0.0.1:secret-path/",
        f"https://{'secret-path' * 10}.example/",  # no label of a host's name is that long
    ],
)
def test_a_webhook_that_is_no_url_is_an_error_that_keeps_it_to_itself(url: str) -> None:
    with pytest.raises(TransientError, match="LOGINETL_ALERT_WEBHOOK_URL") as raised:
        _fail_a_job(WebhookNotifier(url))
    assert "secret-path" not in "".join(traceback.format_exception(raised.value))


def test_a_webhook_that_nobody_listens_at_is_in_no_log(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(notifiers, "PAUSES_SECONDS", (0, 0, 0))
    caplog.set_level(logging.DEBUG)
    with _webhook(200) as (url, _):
        pass
    with pytest.raises(TransientError, match="ConnectionError"):
        _fail_a_job(WebhookNotifier(url))
    assert "secret-path" not in caplog.text


def test_the_default_notifier_logs(caplog: pytest.LogCaptureFixture) -> None:
    _fail_a_job(LogNotifier())
    assert "login_etl failed at user_logins" in caplog.text


def test_the_command_sends_one_and_prints_what_came_back(monkeypatch: pytest.MonkeyPatch) -> None:
    with _webhook(200, body="ok") as (url, got):
        monkeypatch.setenv("LOGINETL_ALERT_WEBHOOK_URL", url)
        done = CliRunner().invoke(app, ["alerts", "test"])
    assert (done.exit_code, done.stderr) == (0, "HTTP 200 ok\n")
    assert len(got) == 1


def test_the_end_of_a_condition_is_logged_as_no_error(caplog: pytest.LogCaptureFixture) -> None:
    Alerts(PAGES, LogNotifier()).condition_changed(Condition.QUEUE_UNREACHABLE, "", active=False)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "\n" not in record.message


def test_the_document_names_every_field_and_the_severity_of_every_condition() -> None:
    text = (Path(__file__).parents[2] / "docs/alerts.md").read_text(encoding="utf-8")
    for field in fields(Alert):
        assert f"| `{field.name}` |" in text
    for condition in Condition:
        if condition is not Condition.NEVER_DRAINED:
            assert f"| `{condition}` | {condition.severity} |" in text
