"""Settings: the environment's variables, read once and checked here, as one typed, immutable value.

A variable is declared once, at its field: reading it, passing it on to a child process and knowing its name follow.
Nothing is opened or reached: definitions load with no service, key or network at hand. What a run needs and does
not find is an `OperatorError` at the moment of need, naming the variable.
"""

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from enum import StrEnum
from pathlib import Path
from typing import Any

from loginetl_assets.errors import SettingsError
from loginetl_assets.table_name import DEFAULT_TABLE, TableName


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


class Automation(StrEnum):
    """Whether sensors and schedules run unless somebody switches one on the page; unset, in the local environment."""

    ON = "on"
    OFF = "off"


@dataclass(frozen=True)
class _Variable:
    """The environment's variable of a setting."""

    name: str
    read: Callable[[str], Any]  # raises ValueError
    expected: str = ""  # what it must be, for errors
    is_required: bool = False  # outside the local environment
    is_inherited: bool = True  # by child processes

    def __call__(self, text: str) -> Any:
        try:
            return self.read(text)
        except ValueError:
            raise SettingsError(f"{self.name} must be {self.expected}") from None


# Each returns a dataclass field, and `Any` for the type checker, as `dataclasses.field` does.


def _text(name: str, *, is_required: bool = False, is_inherited: bool = True, is_shown: bool = True) -> Any:
    variable = _Variable(name, str, is_required=is_required, is_inherited=is_inherited)
    return field(default=None, repr=is_shown, metadata={"variable": variable})


def _address(name: str, pattern: str, form: str, *, is_required: bool = True) -> Any:
    """An address that status, errors and alerts show, and that so may hold no secret."""

    def read(text: str) -> str:
        if not re.fullmatch(pattern, text):
            raise ValueError
        return text

    expected = f"{form}, without user, password, query or fragment: credentials go into AWS's own variables"
    variable = _Variable(name, read, expected, is_required=is_required)
    return field(default=None, repr=False, metadata={"variable": variable})


def _parsed(name: str, default: object, read: Callable[[str], object], expected: str) -> Any:
    return field(default=default, metadata={"variable": _Variable(name, read, expected)})


def _choice(name: str, default: StrEnum) -> Any:
    kind = type(default)
    return _parsed(name, default, kind, f"one of {', '.join(kind)}")


def _whole_number(name: str, default: int, low: int, high: int) -> Any:
    def read(text: str) -> int:
        if not (text.isascii() and text.isdigit() and low <= int(text) <= high):
            raise ValueError
        return int(text)

    return _parsed(name, default, read, f"a whole number from {low} to {high}")


def _number(name: str, default: float, low: float, high: float) -> Any:
    def read(text: str) -> float:
        if not low <= float(text) <= high:
            raise ValueError
        return float(text)

    return _parsed(name, default, read, f"a number from {low:g} to {high:g}")


def _path(text: str) -> Path:
    try:
        return Path(text).expanduser().absolute()
    except RuntimeError:  # ~somebody
        raise ValueError from None


@dataclass(frozen=True)
class Settings:
    """Everything the environment decides. URLs and keysets stay out of `repr`: they may carry secrets."""

    environment: Environment = _choice("LOGINETL_ENV", Environment.LOCAL)
    home: Path = field(
        default_factory=lambda: _path(".loginetl"),
        metadata={"variable": _Variable("LOGINETL_HOME", _path, "a path, of a user that this machine knows")},
    )
    queue_url: str | None = _address(
        "LOGINETL_QUEUE_URL", r"https?://[^\s/@?#]+(/[^\s@?#]*)?", "https://HOST/ACCOUNT/NAME"
    )
    database_url: str | None = _text("LOGINETL_DATABASE_URL", is_required=True, is_shown=False)
    login_table: TableName | None = _parsed(
        "LOGINETL_TABLE",
        None,
        TableName.parse,
        'schema.table (in double quotes what is not lower case: sales."User Logins"), in no schema of ours or'
        " Postgres's own, without colons",
    )
    landing_url: str | None = _address(
        "LOGINETL_LANDING_URL",
        r"file://(localhost)?/[^?#]*|s3://[A-Za-z0-9._-]+(/[^?#]*)?",
        "file:///absolute/path or s3://bucket/prefix",
    )
    keysets: Mapping[KeysetRole, str] = field(default_factory=dict, repr=False)  # LOGINETL_KEYSET_<ROLE>, all required
    # For recovery only; the pipeline and its processes go without.
    officer_keyset: str | None = _text("LOGINETL_KEYSET_OFFICER", is_inherited=False, is_shown=False)
    kms_key_uri: str | None = _text("LOGINETL_KMS_KEY_URI")
    unknown_fields: UnknownFields = _choice("LOGINETL_UNKNOWN_FIELDS", UnknownFields.IGNORE)
    app_version: AppVersion = _choice("LOGINETL_APP_VERSION", AppVersion.PACKED)
    identity: Identity = _choice("LOGINETL_IDENTITY", Identity.MESSAGE_ID)
    payload_bucket: str | None = _address(
        "LOGINETL_PAYLOAD_BUCKET", r"[A-Za-z0-9._-]+", "a bucket's name alone", is_required=False
    )
    # SQS allows 0 to 43 200 s; below 30 s a batch may not be landed before its messages show again.
    visibility_seconds: int = _whole_number("LOGINETL_VISIBILITY_SECONDS", 120, 30, 43_200)
    max_rejection_rate: float = _number("LOGINETL_MAX_REJECTION_RATE", 0.05, 0, 1)
    freshness_hours: float = _number("LOGINETL_FRESHNESS_HOURS", 24.0, 0.1, 8_760)
    max_runs_in_flight: int = _whole_number("LOGINETL_MAX_RUNS_IN_FLIGHT", 2, 1, 1_000)
    messages_per_run: int = _whole_number("LOGINETL_MESSAGES_PER_RUN", 100_000, 1, 1_000_000_000)
    # Below SQS's own retention of 14 days a message could come again after its ledger row was pruned.
    retention_days: int = _whole_number("LOGINETL_RETENTION_DAYS", 30, 15, 3_650)
    automation: Automation | None = _parsed("LOGINETL_AUTOMATION", None, Automation, "one of on, off")
    alert_webhook_url: str | None = _text("LOGINETL_ALERT_WEBHOOK_URL", is_shown=False)

    def __post_init__(self) -> None:
        for at in (
            "queue_url",
            "landing_url",
            "payload_bucket",
        ):  # wherever they came from: `run --queue-url` has no variable
            if (address := getattr(self, at)) is not None:
                _VARIABLES[at](address)

    @property
    def is_local(self) -> bool:
        """Whether embedded services and keys of our own making are allowed."""
        return self.environment is Environment.LOCAL

    @property
    def table(self) -> TableName:
        """The table that logins are loaded into."""
        return self.login_table or DEFAULT_TABLE

    @property
    def is_automatic(self) -> bool:
        """Whether sensors and schedules run by default: elsewhere once the settings were seen to be right."""
        return self.is_local if self.automation is None else self.automation is Automation.ON

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] = os.environ) -> "Settings":
        """Reads the `LOGINETL_*` variables; an empty one counts as unset, as compose files and CI leave them.

        Raises:
            SettingsError: a name is unknown, a value is of the wrong form, one that staging and production need is
                missing, or LOGINETL_ENV is where rows or batches would go to services of somebody's own.
        """
        _refuse_unknown_names(environ)
        given = {name: text for name in environ if name in _NAMES and (text := environ[name].strip())}
        values = {at: variable(given[variable.name]) for at, variable in _VARIABLES.items() if variable.name in given}
        keysets = {role: given[name] for role, name in _KEYSETS.items() if name in given}
        settings = cls(**values, keysets=keysets)
        # Forgotten, not meant: real logins would be masked and sealed with keys that were made up in LOGINETL_HOME.
        if "environment" not in values and (settings.database_url or settings.landing_url):
            which = "LOGINETL_DATABASE_URL" if settings.database_url else "LOGINETL_LANDING_URL"
            raise SettingsError(
                f"{which} is set and LOGINETL_ENV is not: set LOGINETL_ENV=production, or staging, with the keysets;"
                " or LOGINETL_ENV=local if keys made in LOGINETL_HOME are meant"
            )
        if not settings.is_local:
            required = [one.name for one in _VARIABLES.values() if one.is_required]
            if missing := [name for name in (*required, *_KEYSETS.values()) if name not in given]:
                raise SettingsError(f"LOGINETL_ENV={settings.environment} needs {', '.join(missing)} to be set")
        return settings

    def as_environment(self) -> dict[str, str]:
        """The variables from which a child process reads these same settings, the officer's keyset empty.

        They are laid over this process's own, so what a child must not have is among them.
        """
        named = {one.name: getattr(self, at) if one.is_inherited else None for at, one in _VARIABLES.items()}
        named |= {name: self.keysets.get(role) for role, name in _KEYSETS.items()}
        return {name: "" if value is None else str(value) for name, value in named.items()}


_PREFIX = "LOGINETL_"
_VARIABLES: Mapping[str, _Variable] = {
    one.name: one.metadata["variable"] for one in fields(Settings) if "variable" in one.metadata
}
_KEYSETS: Mapping[KeysetRole, str] = {role: f"LOGINETL_KEYSET_{role.upper()}" for role in KeysetRole}
_NAMES = {*(one.name for one in _VARIABLES.values()), *_KEYSETS.values()}
# Not settings: deploy/dagster.yaml reads the one, docker-compose.yml the other.
_OF_OTHERS = {"LOGINETL_DAGSTER_DATABASE_URL", "LOGINETL_PASSWORD"}
# Kubernetes gives every container the addresses of its namespace's services, under names such as these where one is
# called loginetl, or loginetl-something: https://kubernetes.io/docs/concepts/services-networking/service/
_OF_KUBERNETES = re.compile(
    r"LOGINETL(_\w+)?_(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT(_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?)", re.ASCII
)


def _refuse_unknown_names(environ: Mapping[str, str]) -> None:
    """Refuses names that nobody reads, whatever they hold: one that is misspelt would be as if it were not set."""
    unknown = sorted(
        name
        for name in environ
        if name.upper().startswith(_PREFIX) and name not in _NAMES | _OF_OTHERS and not _OF_KUBERNETES.fullmatch(name)
    )
    if unknown:
        # Without what all have in common, which would make any two look alike.
        known = {name.removeprefix(_PREFIX): name for name in _NAMES}
        nearest = (get_close_matches(name.upper().removeprefix(_PREFIX), known, 1, 0.0)[0] for name in unknown)
        said = (f"{name} (the nearest is {known[near]})" for name, near in zip(unknown, nearest, strict=True))
        raise SettingsError(f"no such setting: {', '.join(said)}; docs/settings.md lists all of them")
