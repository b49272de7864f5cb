"""Settings: the variables of the environment, read once and checked here, as one typed, immutable value.

A setting is declared once, as a field of `Settings` by `setting(…)`, from which the rest is derived: see
docs/decisions/0021-settings-from-one-declaration.md.

Reading opens nothing: definitions load without a service, key or network. What a run needs and does not find is an
`OperatorError` at that moment, which names the variable.
"""

import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from enum import StrEnum
from pathlib import Path
from typing import Any, NamedTuple, Self

from loginetl_assets.errors import SettingsError
from loginetl_assets.table_name import DEFAULT_TABLE, TableName


class Environment(StrEnum):
    """Where the pipeline runs. Only `LOCAL` starts services and makes keys of its own."""

    LOCAL = "local"
    STAGING = "staging"
    PRODUCTION = "production"


class KeysetRole(StrEnum):
    """What a keyset of the pipeline is for."""

    MASKING = "masking"
    LANDING = "landing"
    REJECTS = "rejects"
    VAULT = "vault"

    @property
    def setting(self) -> str:
        """The variable that names the keyset."""
        return f"LOGINETL_KEYSET_{self.upper()}"


OFFICER_SETTING = "LOGINETL_KEYSET_OFFICER"


# What identifies a login; EVENT_ID: the body's own `event_id` as well, where it has one.
Identity = StrEnum("Identity", ("MESSAGE_ID", "EVENT_ID"))
# What the integer column `app_version` holds; PACKED: major*1_000_000 + minor*1_000 + patch, which keeps the order.
AppVersion = StrEnum("AppVersion", ("PACKED", "MAJOR"))
# What happens to a message with a field that the contract does not have.
UnknownFields = StrEnum("UnknownFields", ("IGNORE", "REJECT"))
# What receives and deletes messages; DIRECT: as boto3 would, without it.
QueueCalls = StrEnum("QueueCalls", ("DIRECT", "BOTO3"))
# Whether sensors and schedules run unless switched in the Dagster UI.
Automation = StrEnum("Automation", ("ON", "OFF"))


class Form(NamedTuple):
    """What the text of a variable must look like."""

    read: Callable[[str], Any]  # raises ValueError
    expected: str = ""  # completes "LOGINETL_X must be …"
    pattern: str = "(?s:.*)"  # of the whole text
    bounds: tuple[float, float] | None = None  # of the value, both included


TEXT = Form(str)


def choice(kind: type[StrEnum]) -> Form:
    """Accepts the values of an enumeration."""
    return Form(kind, f"one of {', '.join(kind)}")


def whole_number(low: int, high: int) -> Form:
    """Accepts decimal digits."""
    return Form(int, f"a whole number from {low} to {high}", "[0-9]+", (low, high))


def number(low: float, high: float) -> Form:
    """Accepts a decimal number."""
    return Form(float, f"a number from {low:g} to {high:g}", bounds=(low, high))


def address(pattern: str, example: str) -> Form:
    """Accepts an address that status, errors and alerts show, and that therefore holds no secret."""
    held = "credentials go into AWS's own variables"
    return Form(str, f"{example}, without user, password, query or fragment: {held}", pattern)


PAGE = Form(
    str,
    "https://HOST/PATH, without user, password, query or fragment: alerts show it",
    r"https?://[^\s/@?#]+(/[^\s@?#]*)?",
)


def _path(text: str) -> Path:
    try:
        return Path(text).expanduser().absolute()
    except RuntimeError:  # ~someone
        raise ValueError from None


PATH = Form(_path, "a path, of a user that this machine knows")


@dataclass(frozen=True)
class Variable:
    """A variable of the environment, as a setting declares it."""

    name: str
    form: Form
    meaning: str  # for docs/settings.md, in Markdown
    default: str = ""  # as the variable would hold it; empty: None
    otherwise: str = "unset"  # what the documentation says where there is no default
    is_required: bool = False  # outside the local environment
    is_inherited: bool = True  # by child processes

    def __call__(self, text: str) -> Any:
        """Returns the value of a text; SettingsError, if it has the wrong form."""
        read, expected, pattern, bounds = self.form
        with suppress(ValueError):
            value = read(text) if re.fullmatch(pattern, text) else None
            if value is not None and (not bounds or bounds[0] <= value <= bounds[1]):
                return value
        raise SettingsError(f"{self.name} must be {expected}")


def setting(name: str, form: Form, meaning: str, *, is_shown: bool = True, **more: Any) -> Any:
    """Returns a dataclass field for the `Variable`; `is_shown` says whether `repr` may show its value."""
    variable = Variable(name, form, meaning, **more)
    return field(
        default_factory=lambda: variable(variable.default) if variable.default else None,
        repr=is_shown,
        metadata={"variables": {None: variable}},
    )


_KEYSETS = {
    KeysetRole.MASKING: "PRF keyset (HMAC-SHA256): value to token",
    KeysetRole.LANDING: "AEAD keyset (AES-256-GCM): batches of raw messages",
    KeysetRole.REJECTS: "AEAD keyset (AES-256-GCM): bodies of rejected messages",
    KeysetRole.VAULT: "*public* HPKE keyset; the private half stays with the privacy officer and is refused here",
}


@dataclass(frozen=True)
class Settings:
    """Everything that the environment decides. URLs and keysets stay out of `repr`: they may carry secrets."""

    environment: Environment = setting(
        "LOGINETL_ENV",
        choice(Environment),
        "`local`, `staging` or `production`. Only `local` starts services and makes keys. It must be set, if only to"
        " `local`, where `LOGINETL_DATABASE_URL` or `LOGINETL_LANDING_URL` is set: if it were forgotten, real logins"
        " would be masked with keys that were just made",
        default="local",
    )
    home: Path = setting(
        "LOGINETL_HOME",
        PATH,
        "state of the local environment: services, landing, keys, Dagster's home. It is refused unless it belongs to"
        " the user of the process, no other user may write to it, and it contains no symbolic link",
        default=".loginetl",
    )
    queue_url: str | None = setting(
        "LOGINETL_QUEUE_URL",
        address(r"https?://[^\s/@?#]+(/[^\s@?#]*)?", "https://HOST/ACCOUNT/NAME"),
        "the queue's URL. An AWS queue's URL also names its region, an emulator's its endpoint",
        otherwise="embedded",
        is_required=True,
        is_shown=False,
    )
    database_url: str | None = setting(
        "LOGINETL_DATABASE_URL",
        TEXT,
        "Postgres 15 or newer, in any common spelling of the URL",
        otherwise="embedded",
        is_required=True,
        is_shown=False,
    )
    login_table: TableName | None = setting(
        "LOGINETL_TABLE",
        Form(
            TableName.parse,
            'schema.table (in double quotes what is not lower case: sales."User Logins"), in no schema of loginetl or'
            " Postgres itself, without colons",
        ),
        'the table that logins are loaded into, as `schema.table`, each part as in SQL (`sales."User Logins"`).'
        " `loginetl migrate` adopts it, or creates it, and records it in the database; from then on the setting must"
        " name the recorded one. `search_path` has no effect, and schema `loginetl` is refused",
        otherwise=f"`{DEFAULT_TABLE}`",
    )
    landing_url: str | None = setting(
        "LOGINETL_LANDING_URL",
        address(
            r"file://(localhost)?/[^?#]*|s3://[A-Za-z0-9._-]+(/[^?#]*)?", "file:///absolute/path or s3://bucket/prefix"
        ),
        "`file:///absolute/path` or `s3://bucket/prefix`; belongs to one database, to which it is bound on first use. A"
        " directory must be closed to all but its owner (mode 0700, as a new one is made), and is refused otherwise",
        otherwise="`LOGINETL_HOME/landing`",
        is_required=True,
        is_shown=False,
    )
    keysets: Mapping[KeysetRole, str] = field(
        default_factory=dict,
        repr=False,
        metadata={
            "variables": {
                role: Variable(role.setting, TEXT, meaning, otherwise="made", is_required=True)
                for role, meaning in _KEYSETS.items()
            }
        },
    )
    officer_keyset: str | None = setting(
        OFFICER_SETTING,
        TEXT,
        "the privacy officer's *private* HPKE keyset: for `recover`, `subject-report`, `keys retokenize` and `keys"
        " reencrypt` only, never for the pipeline or its child processes",
        otherwise="made in local, else unset",
        is_inherited=False,
        is_shown=False,
    )
    kms_key_uri: str | None = setting(
        "LOGINETL_KMS_KEY_URI",
        TEXT,
        "`aws-kms://arn:aws:kms:…`: opens keysets that are wrapped, and wraps those that are rotated",
    )
    unknown_fields: UnknownFields = setting(
        "LOGINETL_UNKNOWN_FIELDS",
        choice(UnknownFields),
        "`ignore` counts fields that the contract does not have, `reject` rejects the message",
        default="ignore",
    )
    app_version: AppVersion = setting(
        "LOGINETL_APP_VERSION",
        choice(AppVersion),
        "`packed`: major·1 000 000 + minor·1 000 + patch; `major`: the major version alone",
        default="packed",
    )
    identity: Identity = setting(
        "LOGINETL_IDENTITY",
        choice(Identity),
        "`event_id`: one event is loaded once, whatever messages bring it, by the body's own field `event_id` where it"
        " has one (see [reliability.md](reliability.md)). It must not be personal data: its name-based UUID is kept",
        default="message_id",
    )
    payload_bucket: str | None = setting(
        "LOGINETL_PAYLOAD_BUCKET",
        address(r"[A-Za-z0-9._-]+", "a bucket's name alone"),
        "the S3 bucket into which the SQS extended client library puts payloads; pointers into another are not"
        " followed. Needs `s3:GetObject`",
    )
    visibility_seconds: int = setting(
        "LOGINETL_VISIBILITY_SECONDS",
        # SQS allows 0 to 43 200 s; below 30 s a batch may not be landed before its messages show again.
        whole_number(30, 43_200),
        "how long a received message stays hidden; a killed run's messages are delivered again after it, a failed run"
        " makes them visible again at once",
        default="120",
    )
    queue_calls: QueueCalls = setting(
        "LOGINETL_QUEUE_CALLS",
        choice(QueueCalls),
        "`direct`: the drain's receives and deletes are sent as boto3 would send them, for a quarter of its CPU, and"
        " boto3 does what does not succeed so; `boto3`: it sends all",
        default="direct",
    )
    max_rejection_rate: float = setting(
        "LOGINETL_MAX_REJECTION_RATE",
        number(0, 1),
        "above this share of rejected messages the checks `rejection_rate` (of a run) and `health` (of a day) warn;"
        " from 90 % on `rejection_rate` is an error",
        default="0.05",
    )
    max_duplicate_rate: float = setting(
        "LOGINETL_MAX_DUPLICATE_RATE",
        number(0, 1),
        "above this share of rows that the table has more than once (of a run's distinct rows) the check `duplicates`"
        " warns. A user who logs in twice on one day, from one device and address, is such a row: so the default is no"
        " limit",
        default="1",
    )
    freshness_hours: float = setting(
        "LOGINETL_FRESHNESS_HOURS",
        number(0.1, 8_760),
        "how old `user_logins` may grow before Dagster calls it stale, and how long messages may wait before `health`"
        " warns",
        default="24",
    )
    messages_per_run: int = setting(
        "LOGINETL_MESSAGES_PER_RUN",
        whole_number(1, 10**9),
        "how many messages one run drains at most",
        default="100000",
    )
    max_runs_in_flight: int = setting(
        "LOGINETL_MAX_RUNS_IN_FLIGHT", whole_number(1, 1_000), "how many drains the sensor allows at once", default="2"
    )
    retention_days: int = setting(
        "LOGINETL_RETENTION_DAYS",
        # Below SQS's own retention of 14 days a message could come again after its ledger row was pruned.
        whole_number(15, 3_650),
        "how long landing, masked files and Dagster's runs are kept (at least 15: SQS keeps 14); message ids 15 days"
        " longer",
        default="30",
    )
    vault_days: int | None = setting(
        "LOGINETL_VAULT_DAYS",
        whole_number(1, 36_500),
        "how many days after the last login that has it a value leaves the vault: its token stays, and `recover`"
        " answers `expired`. `loginetl migrate` records it, since who loads must not decide it; retention applies it",
        otherwise="as long as a row has the token",
    )
    automation: Automation | None = setting(
        "LOGINETL_AUTOMATION",
        choice(Automation),
        "whether sensors (the alerting ones too) and schedules run unless switched in the Dagster UI."
        " `status` and `health` warn where it is on and the daemon has no heartbeat, and where a daemon runs and"
        " sensors are off; an explicit `off` turns these warnings off (runs started by cron)",
        otherwise="`on` in local, else off",
    )
    alert_webhook_url: str | None = setting(
        "LOGINETL_ALERT_WEBHOOK_URL",
        TEXT,
        "where failed runs and degraded health are posted as JSON ([alerts.md](alerts.md)), such as an incoming webhook"
        " of Slack; unset, they are logged. `loginetl alerts test` sends one",
        is_shown=False,
    )
    dagster_url: str | None = setting(
        "LOGINETL_DAGSTER_URL",
        PAGE,
        "the Dagster UI's address for those who read alerts: these then link to the run",
    )
    runbook_url: str | None = setting(
        "LOGINETL_RUNBOOK_URL",
        PAGE,
        "the runbook's address for those who read alerts: these then link to the section of their condition"
        " (`#queue_unreachable`)",
    )

    def __post_init__(self) -> None:
        for at, item, variable in self.variables():
            # Whatever it comes from: `run --queue-url` replaces a value without a variable.
            if item is None and isinstance(value := getattr(self, at), str):
                variable(value)

    @property
    def is_local(self) -> bool:
        """Whether embedded services, and keys that loginetl makes, are allowed."""
        return self.environment is Environment.LOCAL

    @property
    def table(self) -> TableName:
        """The table that logins are loaded into."""
        return self.login_table or DEFAULT_TABLE

    @property
    def is_automatic(self) -> bool:
        """Whether sensors and schedules run by default; unset, in the local environment alone."""
        return self.is_local if self.automation is None else self.automation is Automation.ON

    @property
    def thresholds(self) -> dict[str, float]:
        """Those of the conditions of `Health`."""
        return {"max_rejection_rate": self.max_rejection_rate, "freshness_hours": self.freshness_hours}

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] = os.environ) -> Self:
        """Reads the `LOGINETL_*` variables; an empty one counts as unset, as compose files and CI leave them.

        Raises:
            SettingsError: a name is unknown, a value has the wrong form, one that staging and production need is
                missing, or LOGINETL_ENV is unset where rows or batches would go to services outside LOGINETL_HOME.
        """
        variables = list(cls.variables())
        names = {variable.name for _, _, variable in variables}
        _refuse_unknown_names(environ, names)
        given = {name: text for name in names & environ.keys() if (text := environ[name].strip())}
        values: dict[str, Any] = {}
        for at, item, variable in variables:
            if variable.name in given:
                value = variable(given[variable.name])
                values[at] = value if item is None else {**values.get(at, {}), item: value}
        settings = cls(**values)
        # Forgotten, not intended: real logins would be masked and encrypted with keys just made in LOGINETL_HOME.
        if "environment" not in values and (settings.database_url or settings.landing_url):
            which = "LOGINETL_DATABASE_URL" if settings.database_url else "LOGINETL_LANDING_URL"
            raise SettingsError(
                f"{which} is set and LOGINETL_ENV is not: set LOGINETL_ENV=production, or staging, with the keysets;"
                " or LOGINETL_ENV=local to use keys that are made in LOGINETL_HOME"
            )
        missing = [one.name for _, _, one in variables if one.is_required and one.name not in given]
        if missing and not settings.is_local:
            raise SettingsError(f"LOGINETL_ENV={settings.environment} needs {', '.join(missing)} to be set")
        return settings

    def as_environment(self) -> dict[str, str]:
        """Returns the variables from which a child process reads these same settings, the officer's keyset empty.

        They override this process's own, so what a child must not have is among them.
        """
        found = {}
        for at, item, variable in self.variables():
            value = getattr(self, at) if item is None else getattr(self, at).get(item)
            found[variable.name] = "" if value is None or not variable.is_inherited else str(value)
        return found

    @classmethod
    def variables(cls) -> Iterator[tuple[str, Any, Variable]]:
        """Each with its field, and its item where the field is a mapping."""
        for one in fields(cls):
            for item, variable in one.metadata["variables"].items():
                yield one.name, item, variable


_PREFIX = "LOGINETL_"
# Not settings: deploy/dagster.yaml reads the one, docker-compose.yml the other.
_OF_OTHERS = {"LOGINETL_DAGSTER_DATABASE_URL", "LOGINETL_PASSWORD"}
# Kubernetes gives every container the addresses of its namespace's services, under names such as these where one is
# called loginetl, or loginetl-something: https://kubernetes.io/docs/concepts/services-networking/service/
_OF_KUBERNETES = re.compile(
    r"LOGINETL(_\w+)?_(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT(_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?)", re.ASCII
)


def _refuse_unknown_names(environ: Mapping[str, str], names: set[str]) -> None:
    """Refuses names that nobody reads, whatever they hold: a misspelt one would count as not set."""
    unknown = sorted(
        name
        for name in environ
        if name.upper().startswith(_PREFIX) and name not in names | _OF_OTHERS and not _OF_KUBERNETES.fullmatch(name)
    )
    if unknown:
        # Compared without the common prefix, which would make any two look alike.
        known = {name.removeprefix(_PREFIX): name for name in sorted(names)}
        nearest = (get_close_matches(name.upper().removeprefix(_PREFIX), known, 1, 0.0)[0] for name in unknown)
        said = (f"{name} (the nearest is {known[near]})" for name, near in zip(unknown, nearest, strict=True))
        raise SettingsError(f"no such setting: {', '.join(said)}; docs/settings.md lists all of them")
