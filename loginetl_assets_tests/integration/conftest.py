"""A database that is not migrated yet, for the tests of how it is."""

from collections.abc import Iterator
from uuid import uuid4

import pytest
from sqlalchemy import NullPool, create_engine, text

from loginetl_assets.embedded import Addresses
from loginetl_assets.settings import Settings
from loginetl_assets_tests.support.server import Server


@pytest.fixture
def server(settings: Settings, addresses: Addresses) -> Iterator[Server]:
    name = f"fresh_{uuid4().hex[:12]}"
    owner = create_engine(addresses.database_url, isolation_level="AUTOCOMMIT", poolclass=NullPool)
    with owner.connect() as connection:
        connection.execute(text("CREATE ROLE loginetl LOGIN"))
        connection.execute(text(f"CREATE DATABASE {name} OWNER loginetl"))
    yield Server(settings, addresses.database_url, name)
    with owner.connect() as connection:
        connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))
        connection.execute(text("DROP ROLE loginetl"))
