import json
import os
import re
import subprocess
import sys
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from enum import EnumType, StrEnum
from pathlib import Path
from typing import cast

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from loginetl_assets.errors import OperatorError, SettingsError
from loginetl_assets.settings import (
    TEXT,
    AppVersion,
    Automation,
    Environment,
    Identity,
    KeysetRole,
    Settings,
    UnknownFields,
    Variable,
    number,
    setting,
    whole_number,
)
from loginetl_assets.table_name import TableName
from loginetl_assets_tests.support.settings import with_table

ROOT = Path(__file__).parents[2]

REQUIRED = {
    "LOGINETL_QUEUE_URL": "https://sqs.eu-central-1.amazonaws.com/123456789012/login-queue",
    "LOGINETL_DATABASE_URL": "postgresql://etl:pass-word@db.internal/logins",
    "LOGINETL_LANDING_URL": "s3://login-landing/raw",
    "LOGINETL_KEYSET_MASKING": '{"key": "masking-material"}',
    "LOGINETL_KEYSET_LANDING": '{"key": "landing-material"}',
    "LOGINETL_KEYSET_REJECTS": "/run/secrets/rejects.json",
    "LOGINETL_KEYSET_VAULT": "file:///run/secrets/vault.json",
}
VARIABLES = {variable.name: variable for one in fields(Settings) for variable in one.metadata["variables"].values()}
ATTRIBUTES = {variable.name: one.name for one in fields(Settings) for variable in one.metadata["variables"].values()}
# Of a form whose values follow from nothing but this; a text may be any.
EXAMPLES = REQUIRED | {
    "LOGINETL_ENV": "production",
    "LOGINETL_HOME": "/var/lib/loginetl",
    "LOGINETL_TABLE": 'sales."User Logins"',
    "LOGINETL_PAYLOAD_BUCKET": "login-payloads",
    "LOGINETL_ALERT_WEBHOOK_URL": "https://hooks.example.com/services/T0/B0/webhook-secret",
    "LOGINETL_DAGSTER_URL": "https://dagster.example.com/logins",
    "LOGINETL_RUNBOOK_URL": "https://example.com/docs/runbook.md",
}


def example(variable: Variable) -> str:
    """What the variable may hold, other than its default."""
    read, expected = variable.form.read, variable.form.expected
    if variable.name in EXAMPLES:
        likely = [EXAMPLES[variable.name]]
    elif isinstance(read, EnumType):
        likely = [str(one.value) for one in cast(Iterable[StrEnum], read)]
    else:
        likely = [str(bound) for bound in variable.form.bounds or (f"text of {variable.name}",)]
    for text in likely:
        with suppress(SettingsError):
            if text != variable.default and (not variable.default or variable(text) != variable(variable.default)):
                variable(text)
                return text
    raise AssertionError(f"EXAMPLES needs one for {variable.name}, which must be {expected}")


EVERYTHING = {name: example(variable) for name, variable in VARIABLES.items() if variable.is_inherited}
NUMBERS = {name: variable.form for name, variable in VARIABLES.items() if variable.form.bounds}


def read(**environ: str) -> Settings:
    return Settings.from_environment(environ)


def refused(**environ: str) -> str:
    with pytest.raises(SettingsError) as raised:
        read(**environ)
    assert raised.value.__cause__ is None
    return str(raised.value)


def test_nothing_set_is_the_local_environment_with_its_defaults() -> None:
    settings = read()

    assert settings == Settings(home=Path(".loginetl").absolute())
    assert settings.is_local
    assert settings.environment is Environment.LOCAL
    assert settings.queue_url is settings.database_url is settings.landing_url is None
    assert settings.keysets == {}
    assert settings.unknown_fields is UnknownFields.IGNORE
    assert settings.app_version is AppVersion.PACKED
    assert settings.identity is Identity.MESSAGE_ID
    assert settings.payload_bucket is None
    assert settings.visibility_seconds == 120
    assert settings.max_rejection_rate == 0.05
    assert settings.freshness_hours == 24
    assert settings.max_runs_in_flight == 2
    assert settings.messages_per_run == 100_000
    assert settings.retention_days == 30
    assert settings.alert_webhook_url is None


def test_every_variable_is_read() -> None:
    settings = read(**EVERYTHING)

    for name, text in EVERYTHING.items():
        if name not in {role.setting for role in KeysetRole}:
            assert getattr(settings, ATTRIBUTES[name]) == VARIABLES[name](text), name
    unlike_the_default = {
        field.name for field in fields(Settings) if getattr(settings, field.name) != getattr(read(), field.name)
    }
    assert unlike_the_default == {field.name for field in fields(Settings)} - {
        "officer_keyset"
    }  # else the example proves less


def test_each_form_is_read_as_its_type() -> None:
    settings = read(
        **EVERYTHING | {"LOGINETL_VISIBILITY_SECONDS": "300", "LOGINETL_FRESHNESS_HOURS": "6.5"},
    )

    assert settings.environment is Environment.PRODUCTION
    assert settings.home == Path("/var/lib/loginetl")
    assert settings.queue_url == REQUIRED["LOGINETL_QUEUE_URL"]
    assert settings.keysets == {role: REQUIRED[f"LOGINETL_KEYSET_{role.upper()}"] for role in KeysetRole}
    assert settings.unknown_fields is UnknownFields.REJECT
    assert settings.app_version is AppVersion.MAJOR
    assert settings.identity is Identity.EVENT_ID
    assert settings.login_table == TableName("sales", "User Logins")
    assert settings.visibility_seconds == 300
    assert settings.freshness_hours == 6.5
    assert settings.automation is Automation.ON
    assert settings.kms_key_uri == "text of LOGINETL_KMS_KEY_URI"


@pytest.mark.parametrize("name", ["prod", "Local", "PRODUCTION", "dev", "local,staging"])
def test_an_unknown_environment_is_an_error_that_lists_the_known(name: str) -> None:
    assert refused(LOGINETL_ENV=name) == "LOGINETL_ENV must be one of local, staging, production"


@pytest.mark.parametrize("name", ["LOGINETL_UNKNOWN_FIELDS", "LOGINETL_APP_VERSION"])
def test_an_unknown_choice_is_an_error_that_lists_the_known(name: str) -> None:
    assert refused(**{name: "other"}).startswith(f"{name} must be one of ")


@pytest.mark.parametrize("name", NUMBERS)
def test_a_number_may_be_at_its_bounds(name: str) -> None:
    for bound in NUMBERS[name].bounds or ():
        value = getattr(read(**{name: f" {bound}\n"}), ATTRIBUTES[name])

        assert value == bound
        assert type(value) is NUMBERS[name].read


@pytest.mark.parametrize("name", NUMBERS)
def test_a_number_beyond_its_bounds_is_an_error_that_names_the_variable(name: str) -> None:
    low, high = NUMBERS[name].bounds or (0, 0)
    step = 1 if NUMBERS[name].read is int else 0.001

    for text in (str(low - step), str(high + step), "-1", "inf", "-inf", "nan", "1e99"):
        assert refused(**{name: text}).startswith(f"{name} must be a ")


@pytest.mark.parametrize(
    ("name", "beyond"),
    [
        ("LOGINETL_VISIBILITY_SECONDS", "29"),  # a batch would not be landed before its messages show again
        ("LOGINETL_VISIBILITY_SECONDS", "43201"),  # SQS's own limit
        ("LOGINETL_RETENTION_DAYS", "14"),  # as long as SQS may deliver a message again
        ("LOGINETL_MAX_REJECTION_RATE", "1.001"),
        ("LOGINETL_MESSAGES_PER_RUN", "0"),
        ("LOGINETL_MAX_RUNS_IN_FLIGHT", "0"),
        ("LOGINETL_FRESHNESS_HOURS", "0.09"),
    ],
)
def test_a_number_that_a_promise_or_sqs_rules_out_is_refused(name: str, beyond: str) -> None:
    assert refused(**{name: beyond}).startswith(f"{name} must be a ")


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("text", ["ten", "0x20", "1,5", "30s", "1 2", "--1"])
def test_what_is_no_number_is_an_error_that_names_the_variable(name: str, text: str) -> None:
    assert refused(**{name: text}).startswith(f"{name} must be a ")


def test_the_defaults_are_of_the_form_that_is_declared() -> None:
    for name, variable in VARIABLES.items():
        if variable.default:
            assert getattr(read(), ATTRIBUTES[name]) == variable(variable.default), name


@pytest.mark.parametrize("environment", ["staging", "production"])
def test_everything_that_is_missing_is_named_in_one_message(environment: str) -> None:
    assert refused(LOGINETL_ENV=environment) == (
        f"LOGINETL_ENV={environment} needs LOGINETL_QUEUE_URL, LOGINETL_DATABASE_URL, LOGINETL_LANDING_URL, "
        "LOGINETL_KEYSET_MASKING, LOGINETL_KEYSET_LANDING, LOGINETL_KEYSET_REJECTS, LOGINETL_KEYSET_VAULT "
        "to be set"
    )


@pytest.mark.parametrize("environment", ["staging", "production"])
@pytest.mark.parametrize("missing", REQUIRED)
@pytest.mark.parametrize("blank", [None, "", " \n"])
def test_only_what_is_missing_is_named(environment: str, missing: str, blank: str | None) -> None:
    environ = REQUIRED | {"LOGINETL_ENV": environment, missing: blank or ""}
    if blank is None:
        del environ[missing]

    assert refused(**environ) == f"LOGINETL_ENV={environment} needs {missing} to be set"


@pytest.mark.parametrize("environment", ["staging", "production"])
def test_with_everything_set_staging_and_production_are_not_local(environment: str) -> None:
    assert not read(**REQUIRED, LOGINETL_ENV=environment).is_local


@pytest.mark.parametrize("name", EVERYTHING)
@pytest.mark.parametrize("blank", ["", " ", "\t\n"])
def test_a_blank_variable_counts_as_unset(name: str, blank: str) -> None:
    assert read(**{name: blank}) == read()


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("LOGINETL_ENVIRONMENT", "LOGINETL_ENV"),
        ("LOGINETL_DATABSE_URL", "LOGINETL_DATABASE_URL"),
        ("LOGINETL_KEYSET_MASK", "LOGINETL_KEYSET_MASKING"),
        ("LOGINETL_KEYSETS_VAULT", "LOGINETL_KEYSET_VAULT"),
        ("LOGINETL_RETENTION", "LOGINETL_RETENTION_DAYS"),
        ("LOGINETL_QUEUE", "LOGINETL_QUEUE_URL"),
        ("LOGINETL_OFFICER_KEYSET", "LOGINETL_KEYSET_OFFICER"),
        ("loginetl_env", "LOGINETL_ENV"),
        ("LOGINETL_", ""),
    ],
)
@pytest.mark.parametrize("value", ["production", "pass-word", ""])
def test_an_unknown_name_is_an_error_that_names_the_nearest_setting_and_no_value(
    name: str, nearest: str, value: str
) -> None:
    said = refused(**EVERYTHING, **{name: value})

    assert said.startswith(f"no such setting: {name} (the nearest is LOGINETL_{nearest.removeprefix('LOGINETL_')}")
    assert not value or value not in said


def test_every_unknown_name_is_reported_at_once_and_before_anything_else() -> None:
    said = refused(LOGINETL_ENV="prod", LOGINETL_B="1", LOGINETL_A="2")

    assert said.startswith("no such setting: LOGINETL_A (")
    assert "LOGINETL_B (" in said


@pytest.mark.parametrize(
    "name",
    [
        "LOGINETL_SERVICE_HOST",
        "LOGINETL_SERVICE_PORT",
        "LOGINETL_SERVICE_PORT_HTTP",
        "LOGINETL_PORT",
        "LOGINETL_PORT_5432_TCP",
        "LOGINETL_PORT_5432_TCP_PROTO",
        "LOGINETL_PORT_53_UDP_ADDR",
        "LOGINETL_WEB_PAGE_SERVICE_HOST",
        "LOGINETL_WEB_PAGE_PORT_3000_TCP_PORT",
    ],
)
def test_what_kubernetes_puts_into_a_container_is_no_error(name: str) -> None:
    assert read(**{name: "tcp://10.0.0.1:5432"}) == read()


@pytest.mark.parametrize("name", ["LOGINETL_PORT_TCP", "LOGINETL_SERVICE", "LOGINETL_SERVICEHOST", "LOGINETL_PORT_1_X"])
def test_what_only_resembles_a_name_of_kubernetes_is_one(name: str) -> None:
    assert name in refused(**{name: "1"})


def test_the_documentation_is_written_from_the_declarations() -> None:
    page = (ROOT / "docs" / "settings.md").read_text()
    rows = re.findall(r"^\| `(\w+)` ", page, re.MULTILINE)

    assert with_table(page) == page, "run `make docs`"
    assert sorted(rows) == sorted({*EVERYTHING, "LOGINETL_KEYSET_OFFICER"})


@dataclass(frozen=True)
class WithOneMore(Settings):
    greeting: int = setting("LOGINETL_GREETING", whole_number(1, 9), "how often to greet", is_required=True)
    patience: float | None = setting("LOGINETL_PATIENCE", number(0, 1), "a number without a default")


def test_one_declaration_is_all_that_a_setting_needs() -> None:
    given = EVERYTHING | {"LOGINETL_GREETING": "3"}
    settings = WithOneMore.from_environment(given)

    assert (settings.greeting, settings.patience) == (3, None)
    assert WithOneMore.from_environment(given | {"LOGINETL_PATIENCE": "0.5"}).patience == 0.5
    with pytest.raises(SettingsError, match="^LOGINETL_GREETING must be a whole number from 1 to 9$"):
        WithOneMore.from_environment(given | {"LOGINETL_GREETING": "10"})
    with pytest.raises(SettingsError, match="^LOGINETL_ENV=production needs LOGINETL_GREETING to be set$"):
        WithOneMore.from_environment(EVERYTHING)
    with pytest.raises(SettingsError, match="nearest is LOGINETL_GREETING"):
        WithOneMore.from_environment(given | {"LOGINETL_GREETINGS": "3"})
    assert WithOneMore.from_environment(settings.as_environment()) == settings
    page = with_table("before\n\n| variable | default | meaning |\n\nafter", WithOneMore)
    assert "| `LOGINETL_GREETING` | unset in local, else required | how often to greet |\n" in page
    assert "| `LOGINETL_PATIENCE` | unset | a number without a default |\n\nafter" in page


def test_what_the_files_of_a_deployment_set_is_known() -> None:
    files = [ROOT / "docker-compose.yml", ROOT / "Dockerfile", *(ROOT / "deploy").glob("**/*")]
    text = "".join(path.read_text() for path in files if path.is_file())
    names = set(re.findall(r"\bLOGINETL_[A-Z_]+", text))

    assert {"LOGINETL_ENV", "LOGINETL_PASSWORD", "LOGINETL_DAGSTER_DATABASE_URL"} < names
    assert read(**dict.fromkeys(names, "")) == read()


@pytest.mark.parametrize("name", ["LOGINETL_DATABASE_URL", "LOGINETL_LANDING_URL"])
@pytest.mark.parametrize("environment", [{}, {"LOGINETL_ENV": ""}])
def test_a_forgotten_environment_is_an_error_that_names_both_ways_out(name: str, environment: dict[str, str]) -> None:
    said = refused(**environment, **{name: REQUIRED[name]})

    assert said.startswith(f"{name} is set and LOGINETL_ENV is not: ")
    assert "LOGINETL_ENV=production" in said
    assert "LOGINETL_ENV=local" in said
    assert "pass-word" not in said


@pytest.mark.parametrize("name", ["LOGINETL_DATABASE_URL", "LOGINETL_LANDING_URL"])
def test_services_elsewhere_may_be_local_in_so_many_words(name: str) -> None:
    assert read(**{name: REQUIRED[name]}, LOGINETL_ENV="local").is_local


def test_a_queue_elsewhere_alone_is_for_trying_it_on_the_embedded_database() -> None:
    assert read(LOGINETL_QUEUE_URL=REQUIRED["LOGINETL_QUEUE_URL"]).is_local


@pytest.mark.parametrize(
    ("name", "url"),
    [
        ("LOGINETL_QUEUE_URL", "https://AKIA:pass-word@sqs.eu-central-1.amazonaws.com/1/q"),
        ("LOGINETL_QUEUE_URL", "https://AKIA:pa/pass-word@sqs.eu-central-1.amazonaws.com/1/q"),
        ("LOGINETL_QUEUE_URL", "https://pass-word@localhost:4566/0/q"),
        ("LOGINETL_QUEUE_URL", "etl:pass-word@localhost/0/q"),
        ("LOGINETL_QUEUE_URL", "https://localhost/0/q?X-Amz-Signature=pass-word"),
        ("LOGINETL_QUEUE_URL", "https://localhost/0/q#pass-word"),
        ("LOGINETL_LANDING_URL", "s3://AKIA:pass-word@bucket/prefix"),
        ("LOGINETL_LANDING_URL", "s3://AKIA:pa/pass-word@bucket/prefix"),
        ("LOGINETL_LANDING_URL", "s3://pass-word@bucket/prefix"),
        ("LOGINETL_LANDING_URL", "s3://bucket/prefix?secret_access_key=pass-word"),
        ("LOGINETL_LANDING_URL", "s3://bucket#pass-word"),
        ("LOGINETL_LANDING_URL", "file://etl:pass-word@localhost/landing"),
        ("LOGINETL_LANDING_URL", "file:///landing?pass-word"),
        ("LOGINETL_LANDING_URL", "AKIA:pass-word@bucket"),
        ("LOGINETL_PAYLOAD_BUCKET", "s3://AKIA:pass-word@bucket"),
        ("LOGINETL_PAYLOAD_BUCKET", "bucket?pass-word"),
    ],
)
def test_an_address_that_is_shown_takes_no_credentials(name: str, url: str) -> None:
    attribute = name.removeprefix("LOGINETL_").lower()
    said = refused(**REQUIRED | {"LOGINETL_ENV": "local", name: url})
    with pytest.raises(SettingsError) as raised:
        replace(read(), **{attribute: url})  # type: ignore[arg-type] # as an option of the command line does

    assert said == str(raised.value)
    assert said.startswith(f"{name} must be ")
    assert "AWS" in said
    assert "pass-word" not in said


@pytest.mark.parametrize(
    ("name", "url"),
    [
        ("LOGINETL_QUEUE_URL", "http://[::1]:4566/000000000000/login-queue.fifo"),
        ("LOGINETL_QUEUE_URL", "http://localhost:9324/000000000000/login-queue"),
        ("LOGINETL_LANDING_URL", "file:///srv/with%20space/and space/a@b"),
        ("LOGINETL_LANDING_URL", "file://localhost/srv"),
        ("LOGINETL_LANDING_URL", "s3://bucket.with-dots"),
        ("LOGINETL_LANDING_URL", "s3://bucket/prefix/a@b:c"),
        ("LOGINETL_PAYLOAD_BUCKET", "bucket.with-dots"),
    ],
)
def test_an_address_without_credentials_is_taken_as_it_is(name: str, url: str) -> None:
    settings = read(**{"LOGINETL_ENV": "local", name: url})

    assert getattr(settings, name.removeprefix("LOGINETL_").lower()) == url


def test_white_space_around_a_value_is_no_part_of_it() -> None:
    local = {"LOGINETL_ENV": "local"}
    assert read(**local, **{name: f" {value}\n" for name, value in REQUIRED.items()}) == read(**local, **REQUIRED)
    assert read(LOGINETL_ENV=" local ").is_local


def test_the_home_is_absolute_wherever_a_child_process_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/someone")

    assert read(LOGINETL_HOME="state").home == Path.cwd() / "state"
    assert read(LOGINETL_HOME="~/state").home == Path("/home/someone/state")


def test_a_home_of_an_unknown_user_is_an_error_that_names_the_variable() -> None:
    assert "LOGINETL_HOME" in refused(LOGINETL_HOME="~no-such-user-here/state")


@pytest.mark.parametrize(
    "name",
    [
        "LOGINETL_QUEUE_URL",
        "LOGINETL_DATABASE_URL",
        "LOGINETL_LANDING_URL",
        "LOGINETL_ALERT_WEBHOOK_URL",
        *(f"LOGINETL_KEYSET_{role.upper()}" for role in KeysetRole),
    ],
)
def test_neither_a_url_nor_a_keyset_is_shown(name: str) -> None:
    settings = read(**EVERYTHING)

    assert EVERYTHING[name] not in repr(settings) + str(settings)


def test_no_error_repeats_what_was_set() -> None:
    for name in ("LOGINETL_ENV", "LOGINETL_APP_VERSION", *NUMBERS):
        assert "pass-word" not in refused(**{name: "pass-word"})
    assert "pass-word" not in refused(**REQUIRED, LOGINETL_ENV="staging", LOGINETL_RETENTION_DAYS="1")


def test_a_settings_error_is_for_the_operator_and_means_wrong_usage() -> None:
    assert issubclass(SettingsError, OperatorError)
    assert SettingsError.exit_code == 2
    assert OperatorError.exit_code == 1


def test_settings_do_not_change() -> None:
    with pytest.raises(AttributeError):
        read().home = Path("/elsewhere")  # type: ignore[misc]


TEXTS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20)
OF_A_PATTERN = {
    "LOGINETL_QUEUE_URL": ["http://[::1]:4566/0/q"],
    "LOGINETL_LANDING_URL": ["file:///with space/ä"],
    "LOGINETL_HOME": ["state", "with space", "../up"],
    "LOGINETL_TABLE": ["sales.logins", "Sales.Logins", '"Sales"."a.b ""c"""'],
}


def values(variable: Variable) -> st.SearchStrategy[str]:
    """What the variable may hold."""
    form = variable.form
    if form is TEXT:
        return TEXTS
    if form.bounds:
        low, high = form.bounds
        return (st.integers(int(low), int(high)) if form.read is int else st.floats(low, high)).map(str)
    choices = [str(one.value) for one in cast(Iterable[StrEnum], form.read)] if isinstance(form.read, EnumType) else []
    return st.sampled_from(["", example(variable), *choices, *OF_A_PATTERN.get(variable.name, [])])


ENVIRONMENTS = st.fixed_dictionaries(
    {"LOGINETL_ENV": st.just("local")},
    optional={
        name: values(variable)
        for name, variable in VARIABLES.items()
        if variable.is_inherited and name != "LOGINETL_ENV"
    },
)


@hypothesis_settings(deadline=None)
@given(ENVIRONMENTS)
def test_a_child_process_reads_the_same_settings(environ: dict[str, str]) -> None:
    settings = Settings.from_environment(environ)

    assert Settings.from_environment(settings.as_environment()) == settings


@pytest.mark.parametrize("environ", [{}, EVERYTHING, REQUIRED | {"LOGINETL_ENV": "staging"}])
def test_the_environment_of_a_child_overrides_every_inherited_variable(environ: dict[str, str]) -> None:
    settings = Settings.from_environment(environ)

    officers = {"LOGINETL_KEYSET_OFFICER": "/officer.json"}
    inherited = EVERYTHING | officers | {"LOGINETL_ENV": "staging"} | settings.as_environment()

    assert set(settings.as_environment()) == set(EVERYTHING | officers)
    assert Settings.from_environment(inherited) == settings


def test_the_officers_keyset_is_read_and_given_to_no_child() -> None:
    settings = read(LOGINETL_KEYSET_OFFICER="/officer.json")

    assert settings.officer_keyset == "/officer.json"
    assert settings.as_environment()["LOGINETL_KEYSET_OFFICER"] == ""


def test_a_real_child_process_reads_the_same_settings() -> None:
    settings = read(**EVERYTHING)
    program = (
        "from loginetl_assets.settings import Settings; import json;"
        "print(json.dumps(Settings.from_environment().as_environment()))"
    )

    child = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | settings.as_environment(),
        capture_output=True,
        check=True,
        timeout=60,
    )

    assert json.loads(child.stdout) == settings.as_environment()
