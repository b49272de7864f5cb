"""Databases on the session's embedded Postgres, each a copy of one migrated template."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

from sqlalchemy import create_engine, make_url, text

from loginetl_assets.embedded import Addresses
from loginetl_assets.local.postgres import binaries
from loginetl_assets.settings import Settings
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


class Backup:
    """A dump of a database by pg_dump, which `restore` puts in the database's place."""

    def __init__(self, settings: Settings, file: Path) -> None:
        self._url, self._file = make_url(str(settings.database_url)), file
        self._run("pg_dump", "-Fc", "-f", file, str(self._url.database))

    def restore(self) -> None:
        """Drops the database as it is, and makes it again as it was."""
        server = self._url.set(database="postgres").render_as_string(hide_password=False)
        _execute(server, f"DROP DATABASE {self._url.database} WITH (FORCE)")
        _execute(server, f"CREATE DATABASE {self._url.database}")
        self._run("pg_restore", "-d", str(self._url.database), self._file)

    def _run(self, program: str, *arguments: str | Path) -> None:
        place = ["-h", str(self._url.query["host"]), "-p", str(self._url.query["port"]), "-U", "postgres"]
        subprocess.run([binaries() / program, *place, *arguments], check=True)


def _execute(url: str, statement: str) -> int:
    """Runs a statement; returns its number of rows."""
    engine = create_engine(url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        rows = connection.execute(text(statement)).rowcount
    engine.dispose()
    return rows


def _with_database(url: str, name: str) -> str:
    return url.replace("/loginetl?", f"/{name}?")
