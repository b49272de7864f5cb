"""The commands that run the pipeline, and what they share: services, a Dagster instance, progress, the final table."""

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from loginetl_assets.errors import NeedsAttentionError, OperatorError, SettingsError
from loginetl_assets.settings import Settings

if TYPE_CHECKING:
    from loginetl_assets.cli.running import RunSummary
    from loginetl_assets.services import Services

out = Console()
err = Console(stderr=True)


def register(app: typer.Typer) -> None:
    """Adds the commands to the main one."""
    app.command()(run)
    app.command()(reprocess)


def run(
    queue_url: Annotated[str | None, typer.Option(help="Drain this queue instead of the configured one.")] = None,
    max_messages: Annotated[
        int | None,
        typer.Option(min=1, help="Stop after this many messages (default: until the queue is empty)."),
    ] = None,
) -> None:
    """Drain the queue until it is empty: mask, load, check; then show what came of it.

    Exit code 3: it ran to its end, and a batch was set aside, the table refused rows, more was rejected than
    LOGINETL_MAX_REJECTION_RATE allows, or payloads could not be read. 1: it failed.
    """
    settings = Settings.from_environment()
    if queue_url:
        settings = replace(settings, queue_url=queue_url)
    with err.status("starting"):
        from loginetl_assets.build import build_definitions
        from loginetl_assets.cli.running import run_until_empty

        services = _opened(settings)
        definitions = build_definitions(settings)
    with dagster_instance(services) as instance, _Progress(services):
        summary = run_until_empty(
            definitions,
            services,
            instance,
            messages_per_run=settings.messages_per_run,
            max_messages=max_messages,
        )
    conclude(services, summary)


def reprocess(
    batches: Annotated[
        list[int] | None, typer.Argument(help="Ids of batches, as `loginetl status` shows them; none: those set aside.")
    ] = None,
) -> None:
    """Read batches again that are still in the landing, once what was wrong is mended; nothing is loaded twice.

    Exit codes as of `loginetl run`; 1 too where the landing has no such batch.
    """
    from loginetl_assets.storage.batches import batches_in_landing, quarantined_batches

    services = _opened(Settings.from_environment())
    if not batches:
        with services.database().transaction() as connection:
            batches = [one.batch_id for one in quarantined_batches(connection)]
        if not batches:
            err.print("no batch is set aside")
            return
    else:
        with services.database().transaction() as connection:
            unknown = sorted(set(batches).difference(batches_in_landing(connection)))
        if unknown:
            raise OperatorError(
                f"the landing holds no batch {', '.join(map(str, unknown))}: it never did, or retention has removed it"
            )
    process_landed(services, {"reprocess": True, "batch_ids": batches})


def process_landed(services: "Services", masking: dict[str, object]) -> None:
    """Masks and loads what has landed, and shows what came of it.

    Args:
        services: the opened ones.
        masking: the config of masked_logins.
    """
    with err.status("starting"):
        from loginetl_assets.build import build_definitions
        from loginetl_assets.cli.running import run_landed

        definitions = build_definitions(services.settings)
    with dagster_instance(services) as instance:
        summary = run_landed(definitions, services, instance, masking)
    conclude(services, summary)


def conclude(services: "Services", summary: "RunSummary") -> None:
    """Shows what runs did.

    Raises:
        NeedsAttentionError: a person should look at it.
    """
    print_summary(services, summary)
    if found := summary.for_a_person():
        raise NeedsAttentionError("; ".join(found))


def print_summary(services: "Services", summary: "RunSummary") -> None:
    """Shows what runs did."""
    table = Table(title="This run", title_justify="left", show_header=False, min_width=44)
    table.add_column(style="bold")
    table.add_column(justify="right")
    table.add_row("messages drained", f"{summary.messages:,}")
    table.add_row(f"rows loaded into {escape(str(services.settings.table))}", f"{summary.loaded:,}")
    table.add_row("duplicates (came before)", f"{summary.duplicates:,}")
    table.add_row("rejected", f"{summary.rejected:,}")
    for reason, count in summary.rejections.items():
        table.add_row(f"  {reason}", f"{count:,}")
    if summary.quarantined_batches:
        table.add_row("[red]batches set aside[/]", f"{summary.quarantined_batches:,}")
    table.add_row("duplicate rows", f"{summary.duplicate_rows:,}")
    table.add_row("shared devices", f"{summary.shared_devices:,}")
    table.add_row("shared IPs", f"{summary.shared_ips:,}")
    table.add_row("seconds", f"{summary.seconds:.1f}")
    table.add_row("messages a second", f"{summary.messages / summary.seconds:,.0f}")
    out.print(table)
    if summary.steps_tried_again:
        err.print(
            f"[yellow]steps tried again:[/] {summary.steps_tried_again}; the counts above are of their last try,"
            " `loginetl status` has them all",
            soft_wrap=True,
        )
    for warning in summary.warnings:
        err.print(f"[yellow]check did not pass:[/] {warning}", soft_wrap=True)
    if services.settings.is_local:
        err.print(
            "Look further: `loginetl status`, `loginetl rejected list`, `loginetl psql`, and `make ui` for the page.",
            soft_wrap=True,
        )


def configured_services() -> "Services":
    """The services of the environment's settings; nothing is opened yet."""
    from loginetl_assets.services import Services

    return Services(Settings.from_environment())


def _opened(settings: Settings) -> "Services":
    from loginetl_assets.services import Services

    services = Services(settings)
    services.database()
    return services


def dagster_environment(services: "Services") -> dict[str, str]:
    """DAGSTER_HOME; where it is not set, in the local environment the instance that lives in the embedded Postgres.

    Raises:
        SettingsError: it is needed, or no directory that Dagster takes.
    """
    import os
    from pathlib import Path

    if named := os.environ.get("DAGSTER_HOME"):
        directory = Path(os.path.expanduser(named))  # noqa: PTH111 - as Dagster does: an unknown ~user is no error
        if not (directory.is_absolute() and directory.is_dir()):
            raise SettingsError("DAGSTER_HOME must be the absolute path of a directory that exists")
        return {"DAGSTER_HOME": str(directory)}
    if not services.settings.is_local:
        raise SettingsError(f"LOGINETL_ENV={services.settings.environment} needs DAGSTER_HOME to be set")
    return {"DAGSTER_HOME": str(services.stack.dagster_home())}


def dagster_instance(services: "Services"):  # type: ignore[no-untyped-def] # naming the type would import Dagster
    """The instance of DAGSTER_HOME; in the local environment one on the embedded Postgres where that is not set."""
    import os

    import dagster as dg

    os.environ.update(dagster_environment(services))
    return dg.DagsterInstance.get()


class _Progress:
    """Shows, from the ledger, how far the runs under way have come."""

    def __init__(self, services: "Services") -> None:
        import threading

        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

        self._services = services
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            console=err,
            transient=True,
            disable=not err.is_terminal,
        )
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> None:
        self._progress.start()
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()
        self._progress.stop()

    def _watch(self) -> None:
        from loginetl_assets.storage.batches import totals

        try:
            database, queue = (
                self._services.database(application_name="loginetl progress"),
                self._services.queue(),
            )
            with database.transaction() as connection:
                before = totals(connection)
            waiting = queue.depth().waiting
            drained = self._progress.add_task("drained", total=waiting)
            settled = self._progress.add_task("loaded", total=waiting + before.pending)
            while not self._done.wait(0.5):
                with database.transaction() as connection:
                    now = totals(connection)
                landed = now.messages - before.messages
                self._progress.update(drained, completed=landed, total=max(waiting, landed))
                done = now.messages - now.pending - (before.messages - before.pending)
                self._progress.update(settled, completed=done, total=max(waiting, landed) + before.pending)
        except Exception:  # noqa: BLE001 - a display; the run itself meets the same and says so
            return
