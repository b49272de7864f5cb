"""The commands for the database: migrate, psql, export."""

import os
import shutil
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from loginetl_assets.cli.console import TerminalStream, err, note
from loginetl_assets.cli.environment import configured_services
from loginetl_assets.errors import OperatorError, SettingsError, counted

app = typer.Typer()


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
    file: Annotated[Path, typer.Argument(help="Where to write: FILE.csv, FILE.parquet, or - for CSV to stdout.")],
) -> None:
    """Write the masked login table to a file, as CSV or as Parquet by the file's suffix."""
    from loginetl_assets.storage.login_table import export_csv, export_parquet

    if file.suffix not in {".csv", ".parquet"} and file != Path("-"):
        raise SettingsError(f"{file} ends in neither .csv nor .parquet: name such a file, or - for CSV to stdout")
    with configured_services().database().transaction() as connection:
        try:
            if file.suffix == ".parquet":
                rows = export_parquet(connection, file)
            elif file.suffix == ".csv":
                with file.open("wb") as stream:
                    rows = export_csv(connection, stream)
            elif (
                sys.stdout.isatty()
            ):  # a file or pipe gets the table's own bytes; a person's terminal must not obey them
                rows = export_csv(connection, TerminalStream(sys.stdout))
            else:
                with open(sys.stdout.fileno(), "wb", closefd=False) as stream:  # not `sys.stdout`: see `unless_closed`
                    rows = export_csv(connection, stream)
        except BrokenPipeError:  # the reader has left, as `head` does, and nobody else wants the rest
            raise typer.Exit from None
        except OSError as error:
            raise OperatorError(f"cannot write {file} ({error.strerror})") from None
    err.print(f"wrote {counted(rows, 'row')}")


@app.command()
def migrate() -> None:
    """Create schema `loginetl` in Postgres, or upgrade it to this version."""
    from loginetl_assets.storage.database import LoginDatabase

    services = configured_services()
    database = LoginDatabase(services.database_url, application_name="loginetl migrate")
    database.migrate(services.settings.login_table, services.settings.vault_days)
    note(f"schema loginetl is up to date; logins are loaded into {escape(str(services.settings.table))}")
