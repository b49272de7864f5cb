"""Real services for the tests: one embedded stack a session, a database, queue and landing of its own a test."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from shutil import rmtree
from tempfile import mkdtemp
from uuid import uuid4

import pytest
from sqlalchemy import create_engine, text

from loginetl_assets.local.stack import Addresses, EmbeddedStack
from loginetl_assets.settings import Environment, Settings
from loginetl_assets.storage.database import LoginDatabase
from loginetl_assets_tests.support.mutants import RUNNING_STACK
from loginetl_assets_tests.support.pipeline import Pipeline, sqs_client

TEMPLATE = "loginetl_template"


@pytest.fixture(scope="session", autouse=True)
def _no_settings_from_outside() -> Iterator[None]:
    """Nothing of the developer's own environment reaches a test, and no test reaches AWS."""
    with pytest.MonkeyPatch.context() as patch:
        for name in list(os.environ):
            if name.startswith(("LOGINETL_", "AWS_", "DAGSTER_", "PG")):
                patch.delenv(name)
        patch.setenv("AWS_ACCESS_KEY_ID", "local")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "local")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        patch.setenv("DAGSTER_DISABLE_TELEMETRY", "yes")
        yield


@pytest.fixture(scope="session")
def stack_home() -> Iterator[Path]:
    """The home of the session's embedded stack, stopped at the end.

    Not below pytest's own directory: every pytest that starts takes the others' right to walk through that, and as root
    PostgreSQL runs as another user. `make mutants` names a home whose stack it stops itself.
    """
    if running := os.environ.get(RUNNING_STACK):
        yield Path(running)
        return
    home = Path(mkdtemp(prefix="loginetl-tests-"))
    yield home
    EmbeddedStack(home).stop()
    rmtree(home)


@pytest.fixture(scope="session")
def addresses(stack_home: Path) -> Addresses:
    """The session's embedded stack, with a migrated database to copy."""
    addresses = EmbeddedStack(stack_home).start()
    if not _execute(addresses.database_url, f"SELECT FROM pg_database WHERE datname = '{TEMPLATE}'"):
        _execute(addresses.database_url, f"CREATE DATABASE {TEMPLATE}")
        LoginDatabase(_with_database(addresses.database_url, TEMPLATE)).migrate()
    return addresses


@pytest.fixture
def settings(addresses: Addresses, tmp_path: Path) -> Iterator[Settings]:
    """Settings with an empty queue, a migrated database and a landing of this test alone."""
    name = f"test_{uuid4().hex[:12]}"
    queue_url = sqs_client(addresses.sqs_endpoint).create_queue(QueueName=name)["QueueUrl"]
    with new_database(addresses) as database_url:
        yield Settings(
            environment=Environment.LOCAL,
            home=tmp_path / "home",
            queue_url=f"{addresses.sqs_endpoint}/{'/'.join(queue_url.rsplit('/', 2)[1:])}",
            database_url=database_url,
        )


@pytest.fixture
def pipeline(settings: Settings, tmp_path: Path) -> Iterator[Pipeline]:
    """The whole pipeline on real services, with a Dagster instance of its own."""
    with Pipeline.on(settings, tmp_path / "dagster") as pipeline:
        yield pipeline


@contextmanager
def new_database(addresses: Addresses) -> Iterator[str]:
    """A migrated database of its own, by its URL; gone afterwards."""
    name = f"test_{uuid4().hex[:12]}"
    _execute(addresses.database_url, f"CREATE DATABASE {name} TEMPLATE {TEMPLATE}")
    yield _with_database(addresses.database_url, name)
    _execute(addresses.database_url, f"DROP DATABASE {name} WITH (FORCE)")


def _execute(url: str, statement: str) -> int:
    """Runs a statement; gives how many rows it has."""
    engine = create_engine(url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        rows = connection.execute(text(statement)).rowcount
    engine.dispose()
    return rows


def _with_database(url: str, name: str) -> str:
    return url.replace("/loginetl?", f"/{name}?")
