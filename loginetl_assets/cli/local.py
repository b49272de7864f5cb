"""The commands that start and stop: the embedded services, and the Dagster UI."""

import os
import socket
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from loginetl_assets.cli.console import err
from loginetl_assets.cli.environment import configured_services, dagster_home
from loginetl_assets.cli.status import print_status, read_status
from loginetl_assets.errors import OperatorError, SettingsError

if TYPE_CHECKING:
    from loginetl_assets.services import Services

app = typer.Typer()


@app.command()
def ui(
    port: Annotated[int, typer.Option(min=1, max=65_535, help="The port of the Dagster UI, on 127.0.0.1.")] = 3000,
) -> None:
    """Serve the Dagster UI and run the Dagster daemon; sensors are on in the local environment."""
    services = configured_services()
    with socket.socket() as probe:  # `dagster dev` would go on without its UI, for ever
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise OperatorError(f"port {port} is not available ({error.strerror}): name another with --port") from None
    with err.status("starting"):
        services.keyring.make_missing()
        services.database()
        home = dagster_home(services)
    err.print(f"http://127.0.0.1:{port}")
    # From Dagster's home, so that neither another dagster.yaml nor a .env of the current directory is picked up. The
    # warning says that `dg dev`, a development dependency, has taken the command's place.
    os.chdir(home)
    quiet = ["-W", "ignore:Function `dev_command` is superseded"]
    arguments = ["-m", "dagster", "dev", "-w", "workspace.yaml", "-h", "127.0.0.1", "-p", str(port)]
    environment = {**os.environ, **services.settings.as_environment(), "DAGSTER_HOME": str(home)}
    os.execve(sys.executable, [sys.executable, *quiet, *arguments], environment)  # noqa: S606 - our own interpreter


@app.command()
def up() -> None:
    """Start the embedded Postgres and SQS, create local keys, migrate the schema."""
    services = local_services("up")
    services.keyring.make_missing()
    if services.needs_stack:
        services.stack.start()
    services.database()
    print_status(read_status(services))


@app.command()
def down() -> None:
    """Stop the embedded services, and the Dagster UI that needs them; tables and queued messages are kept."""
    stack = local_services("down").stack
    with err.status("stopping"):
        ui_was_up = stack.stop()
    err.print("stopped, and the Dagster UI with it" if ui_was_up else "stopped")


def local_services(command: str) -> "Services":
    """Returns the services, which the command starts or stops; SettingsError outside LOGINETL_ENV=local."""
    services = configured_services()
    if not services.settings.is_local:
        raise SettingsError(f"`loginetl {command}` is for LOGINETL_ENV=local: it stops and starts embedded services")
    return services
