"""The `loginetl` command: composes the sub-apps, one per subject.

Dagster, polars and the drivers are imported by the commands that need them, so that `--help` answers at once.
"""

import sys
from typing import Annotated

import typer

from loginetl_assets.cli import alerts, batches, database, demo, keys, local, privacy, rejected, report, run, status
from loginetl_assets.cli.console import EXIT_CODES, exit_code_of, out, unless_closed

app = typer.Typer(
    name="loginetl",
    help="Load login events from SQS into Postgres, with IP addresses and device ids masked.",
    epilog=EXIT_CODES,
    no_args_is_help=True,
    rich_markup_mode="markdown",  # else the second paragraph of a help is broken where its source is
    add_completion=False,
    pretty_exceptions_enable=False,  # they print local variables, and those are personal data
)
for commands in (demo, local, status, run, report, database, privacy):  # `--help` has them in this order
    app.add_typer(commands.app)
app.add_typer(rejected.app, name="rejected")
app.add_typer(batches.app, name="batches")
app.add_typer(keys.app, name="keys")
app.add_typer(alerts.app, name="alerts")


def _print_version(is_asked: bool) -> None:
    if is_asked:
        from importlib import metadata

        out.print(f"loginetl {metadata.version('loginetl')}", highlight=False)
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None: ...


def main() -> None:
    """Runs the command."""
    sys.stdout, sys.stderr = (stream and unless_closed(stream) for stream in (sys.stdout, sys.stderr))
    try:
        app()
    except Exception as error:  # noqa: BLE001 - a bug too; see `withheld`
        sys.exit(exit_code_of(error))


if __name__ == "__main__":
    main()
