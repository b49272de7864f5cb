"""Settings: the environment's variables, read once and checked here, as one typed, immutable value.

Nothing is opened or reached: definitions load with no service, key or network at hand. What a run needs and does
not find is an `OperatorError` at the moment of need, naming the variable.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TypeVar

from loginetl_assets.errors import SettingsError

_Choice = TypeVar("_Choice", bound=StrEnum)


class Environment(StrEnum):
    """Where the pipeline runs. Only `LOCAL` starts services and makes keys of its own."""

    LOCAL = "local"
    STAGING = "staging"
    PRODUCTION = "production"


class KeysetRole(StrEnum):
    """The keysets by what they are for; each is named by `LOGINETL_KEYSET_<ROLE>`."""

    MASKING = "masking"  # PRF: value -> token
    LANDING = "landing"  # AEAD: batches of raw messages
    REJECTS = "rejects"  # AEAD: bodies of rejected messages
    VAULT = "vault"  # HPKE public key: the pipeline seals values that it cannot read again


class UnknownFields(StrEnum):
    """What a field outside the six means for its message."""

    IGNORE = "ignore"
    REJECT = "reject"


class Identity(StrEnum):
    """By what a login is known as the same one."""

    MESSAGE_ID = "message_id"
    EVENT_ID = "event_id"  # by the body's own `event_id` too, where it has one


class AppVersion(StrEnum):
    """What the integer column `app_version` holds."""

    PACKED = "packed"  # major*1_000_000 + minor*1_000 + patch: keeps the order and can be read back
    MAJOR = "major"


@dataclass(frozen=True)
class Settings:
    """Everything the environment decides. URLs and keysets stay out of `repr`: they may carry secrets."""

    environment: Environment = Environment.LOCAL
    home: Path = Path(".loginetl")
    queue_url: str | None = field(default=None, repr=False)
    database_url: str | None = field(default=None, repr=False)
    landing_url: str | None = field(default=None, repr=False)
    keysets: Mapping[KeysetRole, str] = field(default_factory=dict, repr=False)
    officer_keyset: str | None = field(default=None, repr=False)  # recovery only; the pipeline goes without
    kms_key_uri: str | None = None
    unknown_fields: UnknownFields = UnknownFields.IGNORE
    app_version: AppVersion = AppVersion.PACKED
    identity: Identity = Identity.MESSAGE_ID
    payload_bucket: str | None = None
    visibility_seconds: int = 120
    max_rejection_rate: float = 0.05
    freshness_hours: float = 24.0
    max_runs_in_flight: int = 2
    messages_per_run: int = 100_000
    retention_days: int = 30
    alert_webhook_url: str | None = field(default=None, repr=False)

    @property
    def is_local(self) -> bool:
        """Whether embedded services and keys of our own making are allowed."""
        return self.environment is Environment.LOCAL

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] = os.environ) -> "Settings":
        """Reads the `LOGINETL_*` variables.

        Raises:
            SettingsError: a value is of the wrong form, or one that staging and production need is missing.
        """
        read = _Reader(environ)
        environment = read.choice("LOGINETL_ENV", Environment, Environment.LOCAL)
        settings = cls(
            environment=environment,
            home=read.path("LOGINETL_HOME", ".loginetl"),
            queue_url=read.text("LOGINETL_QUEUE_URL"),
            database_url=read.text("LOGINETL_DATABASE_URL"),
            landing_url=read.text("LOGINETL_LANDING_URL"),
            keysets={role: value for role in KeysetRole if (value := read.text(f"LOGINETL_KEYSET_{role.upper()}"))},
            officer_keyset=read.text("LOGINETL_KEYSET_OFFICER"),
            kms_key_uri=read.text("LOGINETL_KMS_KEY_URI"),
            unknown_fields=read.choice("LOGINETL_UNKNOWN_FIELDS", UnknownFields, UnknownFields.IGNORE),
            app_version=read.choice("LOGINETL_APP_VERSION", AppVersion, AppVersion.PACKED),
            identity=read.choice("LOGINETL_IDENTITY", Identity, Identity.MESSAGE_ID),
            payload_bucket=read.text("LOGINETL_PAYLOAD_BUCKET"),
            # SQS allows 0 to 43 200 s; below 30 s a batch may not be landed before its messages show again.
            visibility_seconds=read.integer("LOGINETL_VISIBILITY_SECONDS", cls.visibility_seconds, 30, 43_200),
            max_rejection_rate=read.number("LOGINETL_MAX_REJECTION_RATE", cls.max_rejection_rate, 0, 1),
            freshness_hours=read.number("LOGINETL_FRESHNESS_HOURS", cls.freshness_hours, 0.1, 8_760),
            max_runs_in_flight=read.integer("LOGINETL_MAX_RUNS_IN_FLIGHT", cls.max_runs_in_flight, 1, 1_000),
            messages_per_run=read.integer("LOGINETL_MESSAGES_PER_RUN", cls.messages_per_run, 1, 1_000_000_000),
            # Below SQS's own retention of 14 days a message could come again after its ledger row was pruned.
            retention_days=read.integer("LOGINETL_RETENTION_DAYS", cls.retention_days, 15, 3_650),
            alert_webhook_url=read.text("LOGINETL_ALERT_WEBHOOK_URL"),
        )
        if not settings.is_local:
            settings._require_everything()
        return settings

    def as_environment(self) -> dict[str, str]:
        """The variables from which a child process reads these same settings, the officer's keyset left out."""
        named = {
            "LOGINETL_ENV": self.environment,
            "LOGINETL_HOME": self.home,
            "LOGINETL_QUEUE_URL": self.queue_url,
            "LOGINETL_DATABASE_URL": self.database_url,
            "LOGINETL_LANDING_URL": self.landing_url,
            "LOGINETL_KMS_KEY_URI": self.kms_key_uri,
            "LOGINETL_UNKNOWN_FIELDS": self.unknown_fields,
            "LOGINETL_APP_VERSION": self.app_version,
            "LOGINETL_IDENTITY": self.identity,
            "LOGINETL_PAYLOAD_BUCKET": self.payload_bucket,
            "LOGINETL_VISIBILITY_SECONDS": self.visibility_seconds,
            "LOGINETL_MAX_REJECTION_RATE": self.max_rejection_rate,
            "LOGINETL_FRESHNESS_HOURS": self.freshness_hours,
            "LOGINETL_MAX_RUNS_IN_FLIGHT": self.max_runs_in_flight,
            "LOGINETL_MESSAGES_PER_RUN": self.messages_per_run,
            "LOGINETL_RETENTION_DAYS": self.retention_days,
            "LOGINETL_ALERT_WEBHOOK_URL": self.alert_webhook_url,
            **{f"LOGINETL_KEYSET_{role.upper()}": self.keysets.get(role) for role in KeysetRole},
        }
        return {name: "" if value is None else str(value) for name, value in named.items()}

    def _require_everything(self) -> None:
        missing = [
            name
            for name, value in (
                ("LOGINETL_QUEUE_URL", self.queue_url),
                ("LOGINETL_DATABASE_URL", self.database_url),
                ("LOGINETL_LANDING_URL", self.landing_url),
                *((f"LOGINETL_KEYSET_{role.upper()}", self.keysets.get(role)) for role in KeysetRole),
            )
            if not value
        ]
        if missing:
            raise SettingsError(f"LOGINETL_ENV={self.environment} needs {', '.join(missing)} to be set")


class _Reader:
    """Reads single variables; an empty one counts as unset, as compose files and CI leave them."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ

    def text(self, name: str) -> str | None:
        return self._environ.get(name, "").strip() or None

    def path(self, name: str, default: str) -> Path:
        try:
            return Path(self.text(name) or default).expanduser().absolute()
        except RuntimeError:
            raise SettingsError(f"{name} starts with the home of a user that this machine does not know") from None

    def choice(self, name: str, kind: type[_Choice], default: _Choice) -> _Choice:
        text = self.text(name)
        if text is None:
            return default
        try:
            return kind(text)
        except ValueError:
            raise SettingsError(f"{name} must be one of {', '.join(kind)}") from None

    def integer(self, name: str, default: int, low: int, high: int) -> int:
        text = self.text(name)
        if text is None:
            return default
        if not (text.isascii() and text.isdigit() and low <= int(text) <= high):
            raise SettingsError(f"{name} must be a whole number from {low} to {high}")
        return int(text)

    def number(self, name: str, default: float, low: float, high: float) -> float:
        text = self.text(name)
        if text is None:
            return default
        try:
            number = float(text)
        except ValueError:
            number = float("nan")
        if not low <= number <= high:
            raise SettingsError(f"{name} must be a number from {low:g} to {high:g}")
        return number
