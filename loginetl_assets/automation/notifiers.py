"""Who is told of what needs a person. A notifier of your own needs one method; name it in `build_definitions`."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import requests
from requests.adapters import HTTPAdapter
from urllib3.util import Retry

from loginetl_assets.errors import TransientError

_TIMEOUT_SECONDS = 10
_RETRIED = (429, 500, 502, 503, 504)


@dataclass(frozen=True)
class Alert:
    """What is told: one line for people, and the same in parts for programs. Neither carries a value of a message."""

    text: str
    details: Mapping[str, str | list[str] | bool] = field(default_factory=dict)


def run_failed(job: str, run_id: str, failed_steps: list[str]) -> Alert:
    """A run failed; the error's text stays on the run's page."""
    steps = ", ".join(failed_steps) or "no step (the run itself)"
    return Alert(
        f"loginetl: job {job} failed at {steps}; run {run_id}",
        {"job": job, "run_id": run_id, "failed_steps": failed_steps},
    )


def condition_changed(condition: str, text: str, *, holds: bool) -> Alert:
    """Something about the pipeline's health began or ceased to be wrong."""
    return Alert(
        f"loginetl: {condition}: {text}" if holds else f"loginetl: {condition} is over",
        {"condition": condition, "holds": holds},
    )


class Notifier(Protocol):
    """Takes alerts somewhere."""

    def notify(self, alert: Alert) -> None:
        """Delivers one alert."""
        ...


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
        """Posts, again after 1, 2 and 4 s where that fails: Dagster moves on from a failed run though its tick failed.

        Raises:
            TransientError: not delivered; the tick fails and shows it.
        """
        body = {"text": alert.text, **alert.details}
        retry = Retry(total=3, backoff_factor=0.5, status_forcelist=_RETRIED, allowed_methods=None)
        try:
            with requests.Session() as session:
                for scheme in ("http://", "https://"):
                    session.mount(scheme, HTTPAdapter(max_retries=retry))
                session.post(self._url, json=body, timeout=_TIMEOUT_SECONDS).raise_for_status()
        except requests.RequestException as error:
            raise TransientError(
                f"the alert was not delivered ({type(error).__name__}): check LOGINETL_ALERT_WEBHOOK_URL"
            ) from None
