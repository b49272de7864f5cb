"""Who is told of a failed run. A notifier of your own needs one method; name it in `build_definitions`."""

import logging
from dataclasses import dataclass
from typing import Protocol

import requests

from loginetl_assets.errors import TransientError

_TIMEOUT_SECONDS = 10


@dataclass(frozen=True)
class Alert:
    """What is told; the error's text stays on the run's page."""

    job: str
    run_id: str
    failed_steps: tuple[str, ...]

    @property
    def text(self) -> str:
        """One line for people."""
        steps = ", ".join(self.failed_steps) or "no step (the run itself)"
        return f"loginetl: job {self.job} failed at {steps}; run {self.run_id}"


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
    """Posts alerts as JSON: `text`, as chat tools want it, and the fields apart."""

    def __init__(self, url: str) -> None:
        """Takes the URL, which may itself be a secret and is never logged."""
        self._url = url

    def notify(self, alert: Alert) -> None:
        """Posts once.

        Raises:
            TransientError: not delivered; the tick fails and shows it.
        """
        body = {
            "text": alert.text,
            "job": alert.job,
            "run_id": alert.run_id,
            "failed_steps": list(alert.failed_steps),
        }
        try:
            requests.post(self._url, json=body, timeout=_TIMEOUT_SECONDS).raise_for_status()
        except requests.RequestException as error:
            raise TransientError(
                f"the alert was not delivered ({type(error).__name__}): check LOGINETL_ALERT_WEBHOOK_URL"
            ) from None
