"""A Postgres database as someone else set it up, and what the tests do on it by hand."""

# ruff: noqa: S608 - names of our own tables

from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import NullPool, create_engine, make_url, text

from loginetl_assets.cli.keys import RotatingRole, rotate
from loginetl_assets.logins import contract
from loginetl_assets.privacy.erase import Erasure, ErasureTotals
from loginetl_assets.privacy.subjects import subject_of
from loginetl_assets.services import Services
from loginetl_assets.settings import Settings
from loginetl_assets.storage.database import LoginDatabase
from loginetl_assets.table_name import TableName

COLUMNS = ", ".join(f"{column.name} {column.sql_type}" for column in contract.COLUMNS)


class Server:
    """A database without our schema, owned by a role called as deploy/postgres/init.sql calls it."""

    def __init__(self, settings: Settings, superuser_url: str, name: str) -> None:
        self.url = make_url(superuser_url).set(drivername="postgresql+psycopg", database=name)
        self._settings = settings

    def settings(self, *, user: str = "loginetl", search_path: str | None = None, **changes: Any) -> Settings:
        url = self.url.set(username=user)
        if search_path is not None:
            url = url.update_query_dict({"options": f"-csearch_path={search_path}"})
        return replace(self._settings, database_url=url.render_as_string(hide_password=False), **changes)

    def execute(self, *statements: str, user: str = "loginetl") -> list[Any]:
        """Runs statements in one transaction; returns the last one's rows."""
        engine = create_engine(self.url.set(username=user), poolclass=NullPool)
        with engine.begin() as connection:
            for statement in statements:
                result = connection.execute(text(statement))
            return [tuple(row) for row in result] if result.returns_rows else []

    def execute_alone(self, statement: str) -> None:
        """Runs a statement that no transaction takes, on the session's own database."""
        engine = create_engine(self.url.set(database="loginetl"), isolation_level="AUTOCOMMIT", poolclass=NullPool)
        with engine.connect() as connection:
            connection.execute(text(statement))

    def migrate(self, *, table: TableName | None = None, **named: Any) -> None:
        LoginDatabase(str(self.settings(**named).database_url)).migrate(table)


def indexes(server: Server) -> list[Any]:
    return server.execute(
        "SELECT indexrelid::regclass::text, indisvalid FROM pg_index"
        " WHERE indrelid = 'public.user_logins'::regclass ORDER BY 1"
    )


def erased(services: Services, user_id: str) -> ErasureTotals:
    subject = subject_of(user_id, [], services.keyring)
    return Erasure(services.database(), services.landing(), services.keyring, subject).run("test")


def keys_rotated(settings: Settings) -> None:
    """As the command does, which reads its settings from the environment."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in settings.as_environment().items():
            patch.setenv(name, value)
        rotate(RotatingRole.MASKING)
