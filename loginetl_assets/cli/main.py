"""The `loginetl` command: composes the sub-apps, one per subject.

Dagster, polars and the drivers are imported by the commands that need them, so that `--help` answers at once.
"""

import sys

import typer

from loginetl_assets.cli import alerts, batches, database, keys, local, privacy, rejected, run, status
from loginetl_assets.cli.console import EXIT_CODES, exit_code_of

app = typer.Typer(
    name="loginetl",
    help="Login events from SQS into Postgres, with the personal data masked.",
    epilog=EXIT_CODES,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,  # they print local variables, and those are personal data
)
for commands in (local, run, status, database, privacy):
    app.add_typer(commands.app)
app.add_typer(batches.app, name="batches")
app.add_typer(rejected.app, name="rejected")
app.add_typer(keys.app, name="keys")
app.add_typer(alerts.app, name="alerts")


def main() -> None:
    """Runs the command."""
    try:
        app()
    except Exception as error:  # noqa: BLE001 - a bug too; see `withheld`
        sys.exit(exit_code_of(error))


if __name__ == "__main__":
    main()
