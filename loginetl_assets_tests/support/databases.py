"""Databases on the session's embedded Postgres, each a copy of one migrated template."""

from collections.abc import Iterator
from contextlib import contextmanager
from uuid import uuid4

from sqlalchemy import create_engine, text

from loginetl_assets.embedded import Addresses
from loginetl_assets.storage.database import LoginDatabase

_TEMPLATE = "loginetl_template"


def make_template(addresses: Addresses) -> None:
    """Makes the migrated database that the others are copied from, unless it is there."""
    if not _execute(addresses.database_url, f"SELECT FROM pg_database WHERE datname = '{_TEMPLATE}'"):
        _execute(addresses.database_url, f"CREATE DATABASE {_TEMPLATE}")
        LoginDatabase(_with_database(addresses.database_url, _TEMPLATE)).migrate()


@contextmanager
def new_database(addresses: Addresses) -> Iterator[str]:
    """Yields the URL of a migrated database, which is dropped afterwards."""
    name = f"test_{uuid4().hex[:12]}"
    _execute(addresses.database_url, f"CREATE DATABASE {name} TEMPLATE {_TEMPLATE}")
    yield _with_database(addresses.database_url, name)
    _execute(addresses.database_url, f"DROP DATABASE {name} WITH (FORCE)")


def _execute(url: str, statement: str) -> int:
    """Runs a statement; returns its number of rows."""
    engine = create_engine(url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        rows = connection.execute(text(statement)).rowcount
    engine.dispose()
    return rows


def _with_database(url: str, name: str) -> str:
    return url.replace("/loginetl?", f"/{name}?")
