"""Where alerts go. A notifier of your own needs one method, `notify`; pass it to `build_definitions`."""

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import requests

from loginetl_assets.errors import TransientError

_TIMEOUT_SECONDS = 10
_RETRIED = (429, 500, 502, 503, 504)
PAUSES_SECONDS = (0, 1, 2)
_LONGEST_PAUSE_SECONDS = 20  # whatever the server asks for: the daemon's other sensors wait meanwhile


@dataclass(frozen=True)
class Alert:
    """One line for people, and the same in parts for programs. Neither carries a value of a message."""

    text: str
    details: Mapping[str, str | list[str] | bool] = field(default_factory=dict)


def run_failed(job: str, run_id: str, failed_steps: list[str]) -> Alert:
    """Returns the alert of a failed run; the error's text stays on the run's page."""
    steps = ", ".join(failed_steps) or "no step (the run itself)"
    return Alert(
        f"loginetl: job {job} failed at {steps}; run {run_id}",
        {"job": job, "run_id": run_id, "failed_steps": failed_steps},
    )


def condition_changed(condition: str, text: str, *, active: bool) -> Alert:
    """Returns the alert of a condition of the pipeline's health that started, or is resolved."""
    return Alert(
        f"loginetl: {condition}: {text}" if active else f"loginetl: {condition} is resolved",
        {"condition": condition, "active": active},
    )


class Notifier(Protocol):
    """Takes alerts somewhere."""

    def notify(self, alert: Alert) -> None:
        """Delivers one alert."""


class LogNotifier:
    """Writes alerts to the log of the process that evaluates the sensor."""

    def notify(self, alert: Alert) -> None:
        """Logs at ERROR."""
        logging.getLogger("loginetl").error(alert.text)


class WebhookNotifier:
    """Posts alerts as JSON: `text`, as chat tools want it, and the details apart."""

    def __init__(self, url: str) -> None:
        """Takes the URL, which may itself be a secret and is never logged."""
        self._url = url

    def notify(self, alert: Alert) -> None:
        """Posts, up to three times more (at once, after 1 s, after 2 s, or when a number in Retry-After says).

        Raises:
            TransientError: not delivered; the tick fails and shows it.
        """
        body = {"text": alert.text, **alert.details}
        for pause in (*PAUSES_SECONDS, None):
            try:
                requests.post(self._url, json=body, timeout=_TIMEOUT_SECONDS).raise_for_status()
                return
            except (requests.RequestException, ValueError) as error:  # the latter by urllib3: not a valid URL
                response, asked = getattr(error, "response", None), ""
                may_pass = isinstance(error, (requests.ConnectionError, requests.Timeout))
                if response is not None:
                    may_pass, asked = response.status_code in _RETRIED, response.headers.get("Retry-After", "")
                if pause is None or not may_pass:
                    raise TransientError(
                        f"the alert was not delivered ({type(error).__name__}): check LOGINETL_ALERT_WEBHOOK_URL"
                    ) from None
            time.sleep(min(int(asked), _LONGEST_PAUSE_SECONDS) if asked.isdecimal() else pause)
