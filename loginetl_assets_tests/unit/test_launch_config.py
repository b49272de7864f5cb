"""What run config, and so the launchpad, may change for one run: bounds of the work, and no rule of it."""

from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from loginetl_assets.automation.jobs import LOGIN_ETL, RETENTION
from loginetl_assets.build import build_definitions
from loginetl_assets.resources import LoginQueueResource, RulesResource
from loginetl_assets.services import Services
from loginetl_assets.settings import Environment, KeysetRole, Settings

RULES = {name: getattr(Settings(), name) for name in RulesResource.model_fields}
QUEUE = {
    "endpoint_url": "http://127.0.0.1:1",
    "region_name": "eu-west-1",
    "profile_name": "someone",
    "aws_access_key_id": "k",
    "aws_secret_access_key": "k",
    "max_attempts": 0,
    "use_ssl": False,
    "verify": False,
}


@pytest.fixture
def definitions(tmp_path: Path) -> dg.Definitions:
    return build_definitions(Settings(home=tmp_path / "home", visibility_seconds=77))


@pytest.mark.parametrize(
    ("resource", "field", "value"),
    [*(("rules", *item) for item in RULES.items()), *(("queue", *item) for item in QUEUE.items())],
)
def test_a_resource_is_as_the_settings_have_it_whatever_the_launchpad_says(
    definitions: dg.Definitions, resource: str, field: str, value: object
) -> None:
    config = {"resources": {resource: {"config": {field: value}}}}
    with pytest.raises(dg.DagsterInvalidConfigError, match=f'unexpected config entry "{field}"'):
        dg.validate_run_config(definitions.resolve_job_def(LOGIN_ETL), config)


def test_a_resource_s_page_shows_where_it_is_and_the_rules_and_no_secret(tmp_path: Path) -> None:
    secret = "hunter2"
    settings = Settings(
        environment=Environment.PRODUCTION,
        home=tmp_path / "home",
        visibility_seconds=77,
        queue_url="https://sqs.eu-central-1.amazonaws.com/1/login-queue",
        database_url=f"postgresql://loader:{secret}@db.example:5433/logins?sslpassword={secret}",
        landing_url="s3://landing-bucket/prefix",
        payload_bucket="payload-bucket",
        keysets=dict.fromkeys(KeysetRole, secret),
    )
    definitions = build_definitions(settings, resource_overrides={
        "queue": LoginQueueResource(services=Services(settings), aws_secret_access_key=secret)
    })  # fmt: skip
    pages = {name: str(resource.description) for name, resource in (definitions.resources or {}).items()}
    assert "https://sqs.eu-central-1.amazonaws.com/1/login-queue" in pages["queue"]
    assert "db.example:5433/logins" in pages["database"]
    assert "s3://landing-bucket/prefix" in pages["landing"]
    assert "payload-bucket" in pages["payloads"]
    assert "visibility_seconds: 77" in pages["rules"]
    assert secret not in str(pages)


def test_the_page_of_an_embedded_service_says_so(definitions: dg.Definitions, tmp_path: Path) -> None:
    for name in ("queue", "database", "landing"):
        assert "embedded in LOGINETL_HOME" in str((definitions.resources or {})[name].description)
    assert not (tmp_path / "home").exists()


def test_the_page_of_a_database_whose_url_is_malformed_says_so_without_it(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, environment=Environment.STAGING, database_url="hunter2")
    page = str((build_definitions(settings).resources or {})["database"].description)
    assert "LOGINETL_DATABASE_URL must be" in page
    assert "hunter2" not in page


@pytest.mark.parametrize("days", [-1, 0, 14, 3_651])
def test_retention_keeps_what_sqs_may_deliver_again(definitions: dg.Definitions, days: int, tmp_path: Path) -> None:
    config: dict[str, Any] = {"ops": {"purge": {"config": {"days": days}}}}
    result = definitions.resolve_job_def(RETENTION).execute_in_process(run_config=config, raise_on_error=False)
    assert not result.success
    assert not (tmp_path / "home").exists(), "it opened something"
