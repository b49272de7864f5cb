"""`loginetl batches`: list, show, give up, and register those that the ledger does not name."""

from dataclasses import asdict
from typing import Annotated

import typer

from loginetl_assets.cli.console import AsJson, Yes, confirm, err, note, print_json, print_record, print_rows
from loginetl_assets.cli.environment import configured_services
from loginetl_assets.errors import SettingsError, counted

app = typer.Typer(no_args_is_help=True, help="List, show, give up and register batches of the landing.")

BatchId = Annotated[int, typer.Argument(help="As `loginetl batches list` shows it.")]


@app.command("list")
def list_batches(
    state: Annotated[str, typer.Option(help="Only this state: landed, masked, loaded, quarantined or lost.")] = "",
    limit: Annotated[int, typer.Option(min=1, help="Show at most this many, newest first.")] = 50,
    as_json: AsJson = False,
) -> None:
    """List batches: id, state, counts, when they landed, and why they are quarantined or lost."""
    from loginetl_assets.storage import batches

    if state and state not in list(batches.BatchState):
        raise SettingsError(f"the states are {', '.join(batches.BatchState)}")
    with configured_services().database().transaction() as connection:
        found = batches.list_batches(connection, batches.BatchState(state) if state else None, newest=True, limit=limit)
    print_rows(found, "batch_id", "state", "messages", "pending", "lost", "landed_at", "reason", as_json=as_json)


@app.command()
def show(batch_id: BatchId, as_json: AsJson = False) -> None:
    """Show what the ledger knows of a batch: objects, counts, runs and times."""
    from loginetl_assets.storage import batches

    with configured_services().database().transaction() as connection:
        found = asdict(batches.get_batch(connection, batch_id))
    (print_json if as_json else print_record)(found)


@app.command()
def give_up(
    batch_id: BatchId,
    reason: Annotated[str, typer.Option("--reason", help="Why; kept with the batch, beside your database user.")] = "",
    yes: Yes = False,
) -> None:
    """Count the pending messages of a quarantined batch as lost: its object is gone for good.

    Should its object be restored before retention removes the batch,
    `loginetl reprocess` with its id reads it again.
    """
    from loginetl_assets.storage import batches

    if not reason.strip():
        raise SettingsError("give --reason: it is kept with the batch")
    database = configured_services().database(application_name="loginetl batches")
    with database.transaction() as connection:
        found = batches.get_batch(connection, batch_id)
    if found.state == batches.BatchState.QUARANTINED:
        question = f"Count {counted(found.pending, 'message')} of batch {batch_id} as lost?"
        confirm(question, yes=yes, otherwise="nothing was given up")
    with database.transaction() as connection:
        lost = batches.give_up(connection, batch_id, reason.strip())
    note(f"gave up batch {batch_id}: {counted(lost, 'message')} lost")


@app.command()
def register() -> None:
    """Register the landing's batches that the ledger does not name: after Postgres was restored to an earlier time.

    Retention does the same once they are a day old. Messages that the ledger
    knows end as duplicates.
    """
    from datetime import UTC, datetime

    from loginetl_assets.steps.unregistered_objects import REGISTER_AGE, register_objects

    services = configured_services()
    database = services.database(application_name="loginetl batches")
    landing = services.bound_landing(database)
    found, _ = register_objects(database, landing, services.keyring, before=datetime.now(UTC) - REGISTER_AGE)
    note(
        f"registered {counted(found.registered_batches, 'batch')} with {counted(found.registered_messages, 'message')};"
        f" objects younger than {REGISTER_AGE.total_seconds() / 3600:g} h are left to the runs that may be writing them"
    )
    if found.registered_batches:
        err.print("next: `loginetl run`, or the queue_depth sensor, loads them")
    if found.unreadable_objects:
        note(
            f"[yellow]{counted(found.unreadable_objects, 'object')} cannot be decrypted:[/] set"
            " LOGINETL_KEYSET_LANDING to the keyset that they were encrypted with, or delete what is not loginetl's"
        )
