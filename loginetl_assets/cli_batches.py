"""The commands for batches of the landing: register those that the ledger does not name."""

import typer
from rich.console import Console

from loginetl_assets.cli_run import configured_services

batches_app = typer.Typer(no_args_is_help=True, help="Batches of messages in the landing.")

out = Console()
err = Console(stderr=True)


@batches_app.command()
def register() -> None:
    """Register the landing's batches that the ledger does not name: after Postgres was put back to an earlier moment.

    Retention does the same once they are a day old. Messages that the ledger knows end as duplicates.
    """
    from datetime import UTC, datetime

    from loginetl_assets.resources.unnamed_objects import REGISTER_AGE, register_unnamed

    services = configured_services()
    database = services.database(application_name="loginetl batches")
    landing = services.bound_landing(database)
    found = register_unnamed(database, landing, services.keyring, before=datetime.now(UTC) - REGISTER_AGE)
    err.print(
        f"registered {found.registered_batches} batches with {found.registered_messages} messages; objects younger than"
        f" {REGISTER_AGE.total_seconds() / 3600:g} h are left to the runs that may be writing them",
        highlight=False,
        soft_wrap=True,
    )
    if found.registered_batches:
        err.print("next: `loginetl run`, or the queue_depth sensor, loads them")
    if found.unreadable_objects:
        err.print(
            f"[yellow]{found.unreadable_objects} objects do not open and are left:[/] set LOGINETL_KEYSET_LANDING to"
            " the keyset that they were sealed with, or delete what is not loginetl's",
            soft_wrap=True,
        )
