"""The commands for the database: migrate, psql, export."""

import os
import shutil
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from loginetl_assets.cli.console import TerminalStream, err, note
from loginetl_assets.cli.environment import configured_services
from loginetl_assets.errors import OperatorError, SettingsError

app = typer.Typer()

ExportFormat = StrEnum("ExportFormat", ("CSV", "PARQUET"))


@app.command()
def migrate() -> None:
    """Bring schema `loginetl` in Postgres to this version's state."""
    from loginetl_assets.storage.database import LoginDatabase

    services = configured_services()
    database = LoginDatabase(services.database_url, application_name="loginetl migrate")
    database.migrate(services.settings.login_table, services.settings.vault_days)
    note(f"schema loginetl is up to date; logins go to {escape(str(services.settings.table))}")


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def psql(context: typer.Context) -> None:
    """Open psql on the database; further arguments go to psql."""
    from loginetl_assets.storage.database import LoginDatabase

    services = configured_services()
    database = LoginDatabase(services.database_url)
    address = database.address_for_psql()
    program = shutil.which("psql") or (str(services.stack.psql()) if services.settings.is_local else None)
    if program is None:
        raise OperatorError("psql is not installed: install PostgreSQL's client")
    # It has no use for keysets, and whatever it starts would have them.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("LOGINETL_")}
    if database.url.password:
        environment["PGPASSWORD"] = str(database.url.password)
    os.execve(program, [program, address, *context.args], environment)  # noqa: S606 - a program found above


@app.command()
def export(
    file: Annotated[Path, typer.Argument(help="Where to write; - for stdout (csv only).")],
    file_format: Annotated[ExportFormat, typer.Option("--format", help="csv or parquet.")] = ExportFormat.CSV,
) -> None:
    """Write the masked login table to a file."""
    from loginetl_assets.storage.login_table import export_csv, export_parquet

    with configured_services().database().transaction() as connection:
        try:
            if file == Path("-"):
                if file_format is not ExportFormat.CSV:
                    raise SettingsError("stdout takes csv only: name a file for parquet")
                # A file or pipe gets the table's own bytes; a person's terminal must not obey them.
                stream = TerminalStream(sys.stdout) if sys.stdout.isatty() else sys.stdout.buffer
                rows = export_csv(connection, stream)
            elif file_format is ExportFormat.CSV:
                with file.open("wb") as stream:
                    rows = export_csv(connection, stream)
            else:
                rows = export_parquet(connection, file)
        except OSError as error:
            raise OperatorError(f"cannot write {file} ({error.strerror})") from None
    err.print(f"wrote {rows:,} rows")
