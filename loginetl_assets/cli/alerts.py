"""`loginetl alerts`: whether alerts arrive."""

import typer

from loginetl_assets.cli.console import err
from loginetl_assets.settings import Settings

app = typer.Typer(no_args_is_help=True, help="Alerts of failed runs and degraded health.")


@app.command()
def test() -> None:
    """Send one alert as the sensors do, and print the response."""
    from loginetl_assets.automation.notifiers import Alerts, configured_notifier

    settings = Settings.from_environment()
    err.print(Alerts(settings, configured_notifier(settings)).test(), markup=False, highlight=False)
