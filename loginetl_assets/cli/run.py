"""The commands that move messages: send, run, reprocess."""

import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from loginetl_assets.cli.console import confirm, err, note, print_counts, progress, text_of
from loginetl_assets.cli.environment import configured_services
from loginetl_assets.errors import NeedsAttentionError, OperatorError, SettingsError, counted

if TYPE_CHECKING:
    from loginetl_assets.cli.running import RunSummary
    from loginetl_assets.services import Services

app = typer.Typer()


@app.command()
def send(
    file: Annotated[Path | None, typer.Argument(help="JSON lines, one message body a line; - for stdin.")] = None,
    sample: Annotated[bool, typer.Option("--sample", help="Send the 100 sample messages.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask before samples go to a queue of real logins.")] = False,
) -> None:
    """Send message bodies to the queue."""
    if sample == (file is not None):
        raise SettingsError("name a file (or - for stdin), or give --sample")
    # Not splitlines: JSON takes U+2028 and others as they are between quotes.
    text = "" if file is None else sys.stdin.read() if file == Path("-") else text_of(file)
    bodies = sample_bodies() if file is None else [line for line in text.split("\n") if line.strip()]
    services = configured_services()
    if sample and not services.settings.is_local:
        question = f"Send the 100 sample messages to the queue of {services.settings.environment}?"
        confirm(question, yes=yes, otherwise="nothing was sent: --yes sends samples outside LOGINETL_ENV=local")
    send_bodies(services, bodies)


def sample_bodies() -> list[str]:
    """Returns the bodies of the 100 sample messages."""
    return (files("loginetl_assets") / "sample" / "login_messages.jsonl").read_text().splitlines()


def send_bodies(services: "Services", bodies: list[str]) -> None:
    """Sends message bodies to the queue, and says how many."""
    queue = services.queue()
    with progress() as show:

        def shown() -> Iterator[str]:
            for done, body in enumerate(bodies):
                show("messages sent", done, len(bodies))
                yield body

        sent = queue.send(shown())
    err.print(f"sent {counted(sent, 'message')}")


@app.command()
def run(
    queue_url: Annotated[str | None, typer.Option(help="Drain this queue instead of the configured one.")] = None,
    max_messages: Annotated[
        int | None, typer.Option(min=1, help="Stop after this many messages (default: until the queue is empty).")
    ] = None,
) -> None:
    """Drain the queue until it is empty: mask, load, check; then show the results.

    Exit code 3: done, and a batch was quarantined, the table refused rows,
    payloads could not be read, or more messages were rejected than
    LOGINETL_MAX_REJECTION_RATE allows. 1: failed.
    """
    services = configured_services(queue_url)
    _conclude(services, run_until_empty(services, max_messages))


def run_until_empty(services: "Services", max_messages: int | None = None) -> "RunSummary":
    """Drains the queue until it is empty, masks and loads, and shows how far that has come."""
    with err.status("starting"):
        from loginetl_assets.cli import running

        services.database()
        definitions, instance = running.prepare(services)
    with instance, _load_progress(services):
        return running.run_until_empty(definitions, services, instance, max_messages)


@app.command()
def reprocess(
    batches: Annotated[
        list[int] | None,
        typer.Argument(help="Ids of batches, as `loginetl status` shows them; none: the quarantined ones."),
    ] = None,
) -> None:
    """Read batches again that are still in the landing, once the cause is fixed; nothing is loaded twice.

    Exit codes as of `loginetl run`; 1 also where the landing has no such batch.
    """
    from loginetl_assets.storage.batches import BatchState, batches_in_landing, list_batches

    services = configured_services()
    with services.database().transaction() as connection:
        if not batches:
            batches = [one.batch_id for one in list_batches(connection, BatchState.QUARANTINED)]
        elif unknown := sorted(set(batches).difference(batches_in_landing(connection))):
            raise OperatorError(
                f"the landing holds no batch {', '.join(map(str, unknown))}: it never did, or retention has removed it;"
                " `loginetl batches list` shows those that are known"
            )
    if not batches:
        err.print("no batch is quarantined")
        return
    process_landed(services, {"reprocess": True, "batch_ids": batches})


def process_landed(services: "Services", masking: dict[str, object]) -> None:
    """Masks and loads what has landed, by the given config of masked_logins, and shows the results.

    Raises:
        NeedsAttentionError: a person should look at the results.
    """
    with err.status("starting"):
        from loginetl_assets.cli import running

        definitions, instance = running.prepare(services)
    with instance:
        summary = running.run_landed(definitions, services, instance, masking)
    _conclude(services, summary)


def _conclude(services: "Services", summary: "RunSummary") -> None:
    if summary.is_empty:
        note("nothing was there: the queue is empty, and no batch waits in the landing")
    else:
        print_counts("Results", summary.counts(services.settings.table))
    tell_problems(summary)


def tell_problems(summary: "RunSummary") -> None:
    """Shows what did not go as it should.

    Raises:
        NeedsAttentionError: a person should look at the results.
    """
    if summary.steps_retried:
        note(
            f"[yellow]steps retried:[/] {summary.steps_retried}; the counts above are of their last attempt,"
            " `loginetl status` has the totals"
        )
    for warning in dict.fromkeys(summary.warnings):
        note(f"[yellow]check did not pass:[/] {warning}")
    if found := summary.needs_attention():
        raise NeedsAttentionError("; ".join(found))


@contextmanager
def _load_progress(services: "Services") -> Iterator[None]:
    """Shows, from the database, how far the runs under way have come."""
    from loginetl_assets.storage.batches import totals

    done = threading.Event()

    def watch() -> None:
        database = services.database(application_name="loginetl progress")
        queued = services.queue().depth().queued
        with database.transaction() as connection:
            before = totals(connection)
        while not done.wait(0.5):
            with database.transaction() as connection:
                now = totals(connection)
            landed = now.messages - before.messages
            expected = max(queued, landed)
            show("messages drained", landed, expected)
            show("messages settled", landed - now.pending + before.pending, expected + before.pending)

    with progress() as show, ThreadPoolExecutor(1) as pool:
        pool.submit(watch)  # nobody asks for its errors: the run itself meets and reports them
        try:
            yield
        finally:
            done.set()
