"""Tiers by directory, and real services: one embedded stack a session, a database, queue and landing of its own a test.

What only a service needs is imported by its fixture: the unit tests then start without Dagster and the stack.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from shutil import rmtree
from tempfile import mkdtemp
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest

if TYPE_CHECKING:
    from loginetl_assets.embedded import Addresses
    from loginetl_assets.settings import Settings
    from loginetl_assets_tests.support.pipeline import Pipeline

TIERS = {"unit": "unit", "integration": "integration", "faults": "faults", "end_to_end": "e2e"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks each test with its tier, and those of the browser.

    Raises:
        UsageError: A unit test asks for a service.
    """
    for item in items:
        tier = TIERS[item.path.relative_to(Path(__file__).parent).parts[0]]
        item.add_marker(tier)
        fixtures = getattr(item, "fixturenames", ())
        if tier == "unit" and "stack_home" in fixtures:
            raise pytest.UsageError(f"{item.nodeid} needs a service: it belongs in integration/")
        if "page" in fixtures:
            item.add_marker("browser")
        if "cli" in fixtures:  # one worker runs them: they share a stack
            item.add_marker(pytest.mark.xdist_group("cli"))


@pytest.fixture(scope="session", autouse=True)
def _no_settings_from_outside() -> Iterator[None]:
    """Keeps the developer's own environment from the tests, and the tests from AWS."""
    with pytest.MonkeyPatch.context() as patch:
        for name in list(os.environ):
            if name.startswith(("LOGINETL_", "AWS_", "DAGSTER_", "PG")):
                patch.delenv(name)
        # Coverage is that of the tests' own processes: in the commands and servers that they start, which run what
        # other tests run in process, it costs a third more CPU (`loginetl run`: 3.8 s against 2.9 s).
        patch.delenv("COVERAGE_PROCESS_CONFIG", raising=False)
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
    from loginetl_assets.local.stack import EmbeddedStack
    from loginetl_assets_tests.support.mutants import RUNNING_STACK

    if running := os.environ.get(RUNNING_STACK):
        yield Path(running)
        return
    home = Path(mkdtemp(prefix="loginetl-tests-"))
    yield home
    EmbeddedStack(home).stop()
    rmtree(home)


@pytest.fixture(scope="session")
def addresses(stack_home: Path) -> "Addresses":
    """The session's embedded stack, with a migrated database to copy."""
    from loginetl_assets.local.stack import EmbeddedStack
    from loginetl_assets_tests.support.databases import make_template

    addresses = EmbeddedStack(stack_home).start()
    make_template(addresses)
    return addresses


@pytest.fixture
def settings(addresses: "Addresses", tmp_path: Path) -> Iterator["Settings"]:
    """Settings with an empty queue, a migrated database and a landing of this test alone."""
    from loginetl_assets.settings import Environment, Settings
    from loginetl_assets_tests.support.databases import new_database
    from loginetl_assets_tests.support.pipeline import sqs_client

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
def pipeline(settings: "Settings", tmp_path: Path) -> Iterator["Pipeline"]:
    """The whole pipeline on real services, with a Dagster instance of its own."""
    from loginetl_assets_tests.support.pipeline import Pipeline

    with Pipeline.on(settings, tmp_path / "dagster") as pipeline:
        yield pipeline
