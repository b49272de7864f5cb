"""Where alerts go, and what they say: docs/alerts.md.

A notifier of your own needs one method, `notify`; pass it to `build_definitions`.
"""

import logging
import re
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Protocol
from urllib.parse import urlsplit

import requests

from loginetl_assets.conditions import Condition, Severity
from loginetl_assets.errors import TransientError
from loginetl_assets.settings import Settings

_TIMEOUT_SECONDS = 10
_RETRIED = (429, 500, 502, 503, 504)
PAUSES_SECONDS = (0, 1, 2)
_LONGEST_PAUSE_SECONDS = 20  # whatever the server asks for: the daemon's other sensors wait meanwhile
_WEBHOOK = "LOGINETL_ALERT_WEBHOOK_URL"


@dataclass(frozen=True)
class Alert:
    """What is posted, under these names: docs/alerts.md. None of it is a value of a message."""

    text: str  # for people; its further lines are links
    condition: Condition
    active: bool  # False: the condition is resolved
    severity: Severity
    environment: str
    time: str  # ISO 8601, UTC
    dedup_key: str  # of the beginning and the end of one condition the same
    run_url: str | None = None
    runbook_url: str | None = None
    job: str | None = None
    run_id: str | None = None
    failed_steps: Sequence[str] = ()


class Notifier(Protocol):
    """Takes alerts somewhere."""

    def notify(self, alert: Alert) -> str | None:
        """Delivers one alert; returns what came back, if anything, for `loginetl alerts test`."""


class LogNotifier:
    """Writes alerts to the log of the process that evaluates the sensor."""

    def notify(self, alert: Alert) -> str:
        """Logs in one line: at ERROR, the end of a condition at WARNING."""
        level = logging.ERROR if alert.active else logging.WARNING
        logging.getLogger("loginetl").log(level, alert.text.replace("\n", " | "))
        return f"logged: {_WEBHOOK} is not set"


class WebhookNotifier:
    """Posts alerts as JSON. Chat tools show its `text` and ignore names that they do not know."""

    def __init__(self, url: str) -> None:
        """Takes the URL, which may itself be a secret and is never logged."""
        self._url = url

    def notify(self, alert: Alert) -> str:
        """Posts, up to three times more (at once, after 1 s, after 2 s, or when a number in Retry-After says).

        Raises:
            TransientError: not delivered; the tick fails and shows it.
        """
        pauses = iter(PAUSES_SECONDS)
        while True:
            try:
                answer = requests.post(self._url, json=asdict(alert), timeout=_TIMEOUT_SECONDS)
                answer.raise_for_status()
                return self._words_of(answer)
            except (requests.RequestException, ValueError) as error:  # the latter by urllib3: not a valid URL
                response, asked, said = getattr(error, "response", None), "", type(error).__name__
                may_pass = isinstance(error, (requests.ConnectionError, requests.Timeout))
                if response is not None:
                    may_pass, asked = response.status_code in _RETRIED, response.headers.get("Retry-After", "")
                    said = self._words_of(response)
                if (pause := next(pauses, None)) is None or not may_pass:
                    raise TransientError(f"the alert was not delivered ({said}): check {_WEBHOOK}") from None
            time.sleep(min(int(asked), _LONGEST_PAUSE_SECONDS) if asked.isdecimal() else pause)

    def _words_of(self, answer: requests.Response) -> str:
        """Returns the status, and the body where it is one of Slack's words, such as `no_service`: others may quote."""
        word = answer.text if re.fullmatch("[a-z_]{2,40}", answer.text) and answer.text not in self._url else ""
        return f"HTTP {answer.status_code} {word}".rstrip()


def configured_notifier(settings: Settings) -> Notifier:
    """Returns the one that the settings name: a webhook, else the log."""
    url = settings.alert_webhook_url
    return WebhookNotifier(url) if url else LogNotifier()


@dataclass(frozen=True)
class Alerts:
    """Writes the alerts of one installation and hands them to its notifier; each method returns what came back."""

    settings: Settings
    notifier: Notifier

    def condition_changed(self, condition: Condition, text: str, *, active: bool) -> str | None:
        """Alerts that a condition of the pipeline's health began, or is resolved."""
        return self._send(condition, text, active=active)

    def run_failed(self, job: str, run_id: str, failed_steps: Sequence[str]) -> str | None:
        """Alerts that a run failed; the error's text stays on the run's page."""
        at = f"at {', '.join(failed_steps)}" if failed_steps else "outside its steps: its process died or did not start"
        text = f"job {job} failed {at}; the page of run {run_id} says why"
        return self._send(
            Condition.RUN_FAILED, text, active=True, job=job, run_id=run_id, failed_steps=list(failed_steps)
        )

    def run_succeeded(self, job: str, run_id: str) -> str | None:
        """Alerts that a job's first run after a failed one succeeded."""
        text = f"job {job} succeeded; run {run_id}"
        return self._send(Condition.RUN_FAILED, text, active=False, job=job, run_id=run_id)

    def test(self) -> str | None:
        """Sends a test alert."""
        return self._send(Condition.TEST, "alerts of this installation arrive here", active=True)

    def _send(
        self,
        condition: Condition,
        text: str,
        *,
        active: bool,
        job: str | None = None,
        run_id: str | None = None,
        failed_steps: Sequence[str] = (),
    ) -> str | None:
        settings = self.settings
        # By its queue: an environment may have several installations.
        queue = urlsplit(settings.queue_url or "//embedded")
        of_installation = f"loginetl/{settings.environment}/{queue.netloc}{queue.path}"
        run_url = f"{settings.dagster_url.rstrip('/')}/runs/{run_id}" if settings.dagster_url and run_id else None
        runbook_url = f"{settings.runbook_url}#{condition}" if settings.runbook_url else None
        state = f"{condition.severity}: {condition}" if active else f"{condition} is resolved"
        lines = [f"loginetl ({settings.environment}) {state}{text and ': '}{text}"]
        lines += [f"{name}: {url}" for name, url in (("run", run_url), ("runbook", runbook_url)) if url]
        return self.notifier.notify(
            Alert(
                text="\n".join(lines),
                condition=condition,
                active=active,
                severity=condition.severity,
                environment=settings.environment,
                time=datetime.now(UTC).isoformat(timespec="seconds"),
                dedup_key="/".join(filter(None, [of_installation, condition, job])),
                run_url=run_url,
                runbook_url=runbook_url,
                job=job,
                run_id=run_id,
                failed_steps=failed_steps,
            )
        )
