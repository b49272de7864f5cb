"""Alembic's commands on a scratch database that has all migrations.

    python -m loginetl_assets_tests.support.migrations check
    python -m loginetl_assets_tests.support.migrations revision --autogenerate -m "Add ..."

The database is an embedded Postgres in a temporary directory, and gone when the command ends. A revision has the next
free number, unless --rev-id gives another, and its file is formatted.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from alembic import command
from alembic.config import CommandLine
from sqlalchemy import Connection, NullPool, create_engine, text

from loginetl_assets.local.postgres import PORT, SUPERUSER, Postgres
from loginetl_assets.storage.migrations import alembic_config
from loginetl_assets.storage.tables import REVISION


@contextmanager
def scratch_connection() -> Iterator[Connection]:
    """A connection to an empty database of a server of its own."""
    with TemporaryDirectory(prefix="loginetl-migrations-") as home:
        (Path(home) / "logs").mkdir()
        postgres = Postgres(Path(home))
        server = postgres.ensure(None)
        try:
            url = f"postgresql+psycopg://{SUPERUSER}@/postgres?host={server.address}&port={PORT}"
            with create_engine(url, poolclass=NullPool).connect() as connection:
                yield connection
        finally:
            postgres.stop(server)


# See https://alembic.sqlalchemy.org/en/latest/autogenerate.html#applying-post-processing-and-python-code-formatters
_FORMAT = {
    "hooks": "lint,format",
    "lint.type": "module",
    "lint.module": "ruff",
    "lint.options": "check --fix --quiet REVISION_SCRIPT_FILENAME",
    "format.type": "module",
    "format.module": "ruff",
    "format.options": "format --quiet REVISION_SCRIPT_FILENAME",
}


def next_revision() -> str:
    """Returns the number of the migration after the newest."""
    return f"v{int(REVISION.removeprefix('v')) + 1:04}"


def main() -> None:
    """Runs one of Alembic's commands, as `alembic` would with an ini file."""
    alembic = CommandLine()
    options = alembic.parser.parse_args(sys.argv[1:])
    if not hasattr(options, "cmd"):
        alembic.parser.error("name a command, such as check")
    if options.cmd[0] is command.revision:
        options.rev_id = options.rev_id or next_revision()
    with scratch_connection() as connection:
        connection.execute(text("CREATE SCHEMA loginetl"))
        connection.commit()
        config = alembic_config(connection)
        for name, value in _FORMAT.items():
            config.set_section_option("post_write_hooks", name, value)
        command.upgrade(config, "head")
        config.cmd_opts = options
        alembic.run_cmd(config, options)


if __name__ == "__main__":
    main()
