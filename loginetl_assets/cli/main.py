"""The `loginetl` command. Thin: every command opens the rooms it needs and calls them.

Dagster, polars and the drivers are imported by the commands that need them, so that `--help` answers at once.
Exit codes: 0 done, 1 failed, 2 wrong usage or settings, 3 done and something needs a person.
"""

import errno
import json
import sys
from dataclasses import asdict
from datetime import timedelta
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from loginetl_assets.cli import batches as cli_batches
from loginetl_assets.cli import keys as cli_keys
from loginetl_assets.cli import privacy as cli_privacy
from loginetl_assets.cli import rejected as cli_rejected
from loginetl_assets.cli import run as cli_run
from loginetl_assets.cli.run import configured_services, dagster_environment
from loginetl_assets.cli.terminal import TerminalStream, for_terminal
from loginetl_assets.errors import NeedsAttentionError, OperatorError, SettingsError, TransientError, withheld

if TYPE_CHECKING:
    from loginetl_assets.services import Services
    from loginetl_assets.settings import Settings

app = typer.Typer(
    name="loginetl",
    help="Login events from SQS into Postgres, with the personal data masked.",
    epilog="Exit codes: 0 done, 1 failed, 2 wrong usage or settings, 3 done and something needs a person.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,  # they print local variables, and those are personal data
)
cli_run.register(app)
app.add_typer(cli_batches.batches_app, name="batches")
app.add_typer(cli_rejected.rejected_app, name="rejected")
cli_privacy.register(app)
app.add_typer(cli_keys.app, name="keys")

out = Console()
err = Console(stderr=True)


class ExportFormat(StrEnum):
    """What `export` writes."""

    CSV = "csv"
    PARQUET = "parquet"


def main() -> None:
    """Runs the command; an error is one line, and only its own words are shown."""
    try:
        app()
    except NeedsAttentionError as found:
        err.print(f"[yellow]needs attention:[/] {escape(str(found))}", highlight=False, soft_wrap=True)
        sys.exit(found.exit_code)
    except OperatorError as error:
        _fail(str(error), error.exit_code)
    except TransientError as error:
        _fail(str(error))
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EPIPE}:  # what the output was redirected to
            sys.stdout = None  # else the interpreter tries once more and complains
            _fail(f"cannot write the output ({error.strerror})")
        _fail(withheld(error))
    except Exception as error:  # noqa: BLE001 - a bug; see `withheld`
        _fail(withheld(error))


def _fail(text: str, exit_code: int = 1) -> NoReturn:
    # Escaped: paths, and IPv6 addresses in URLs, have brackets, which rich takes for markup.
    err.print(f"[red]error:[/] {escape(for_terminal(text))}", highlight=False, soft_wrap=True)
    sys.exit(exit_code)


@app.command()
def up() -> None:
    """Start the embedded Postgres and SQS, make local keys, bring the schema up to date."""
    services = _local_services("up")
    services.keyring.make_missing()
    if services.needs_stack:
        services.stack.start()
    services.database()
    _print_status(_status(services))


@app.command()
def down() -> None:
    """Stop the embedded services; tables and queued messages are kept."""
    _local_services("down").stack.stop()
    err.print("stopped")


def _local_services(command: str) -> "Services":
    services = configured_services()
    if not services.settings.is_local:
        raise SettingsError(f"`loginetl {command}` is for LOGINETL_ENV=local; elsewhere the services are yours")
    return services


@app.command()
def migrate() -> None:
    """Bring schema `loginetl` in Postgres to this version's state."""
    from loginetl_assets.storage.database import LoginDatabase

    services = configured_services()
    database = LoginDatabase(services.database_url, application_name="loginetl migrate")
    database.migrate(services.settings.login_table)
    err.print(f"schema loginetl is up to date; logins go to {escape(str(services.settings.table))}", highlight=False)


@app.command()
def status(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Show addresses and counts; starts nothing and changes nothing."""
    services = configured_services()
    report = _status(services)
    if as_json:
        print(json.dumps(report, default=str, indent=2))  # noqa: T201 - for programs, not for people
    else:
        _print_status(report)
    if reason := (report["conditions"] or {}).get("queue_unreachable"):
        raise OperatorError(reason)


@app.command()
def send(
    file: Annotated[Path | None, typer.Argument(help="JSON lines, one message body a line; - for stdin.")] = None,
    sample: Annotated[bool, typer.Option("--sample", help="Send the 100 sample messages.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask before samples go to a queue of real logins.")] = False,
) -> None:
    """Send message bodies to the queue."""
    from importlib.resources import files

    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    if sample == (file is not None):
        raise SettingsError("name a file (or - for stdin), or give --sample")
    if sample:
        text = (files("loginetl_assets") / "sample" / "login_messages.jsonl").read_text()
    elif file == Path("-"):
        text = sys.stdin.read()
    else:
        try:
            text = file.read_text() if file else ""
        except (OSError, UnicodeDecodeError) as error:
            raise SettingsError(f"cannot read {file} ({type(error).__name__})") from None
    # Not splitlines: JSON takes U+2028 and others as they are between quotes.
    bodies = [line for line in text.split("\n") if line.strip()]
    services = configured_services()
    if sample and not (services.settings.is_local or yes or _confirmed(services.settings.environment)):
        raise OperatorError("nothing was sent: --yes sends samples outside LOGINETL_ENV=local")
    queue = services.queue()
    with Progress(
        TextColumn("sending"),
        BarColumn(),
        MofNCompleteColumn(),
        console=err,
        transient=True,
        disable=not err.is_terminal,
    ) as progress:
        sent = queue.send(progress.track(bodies))
    err.print(f"sent {sent} messages")


def _confirmed(environment: str) -> bool:
    try:
        return typer.confirm(f"Send the 100 sample messages to the queue of {environment}?", err=True)
    except typer.Abort:  # nobody there to answer
        return False


@app.command()
def export(
    file: Annotated[Path, typer.Argument(help="Where to write; - for stdout (csv only).")],
    file_format: Annotated[ExportFormat, typer.Option("--format", help="csv or parquet.")] = ExportFormat.CSV,
) -> None:
    """Write the masked table of logins to a file."""
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


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def psql(context: typer.Context) -> None:
    """Open psql on the database; further arguments go to psql."""
    import os
    import shutil

    from loginetl_assets.storage.database import LoginDatabase

    services = configured_services()
    database = LoginDatabase(services.database_url)
    address = database.address_for_psql()
    program = shutil.which("psql")
    if program is None and services.settings.is_local:
        program = str(services.stack.psql())
    if program is None:
        raise OperatorError("psql is not installed: install PostgreSQL's client")
    # It has no use for keysets, and whatever it starts would have them.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("LOGINETL_")}
    if database.url.password:
        environment["PGPASSWORD"] = str(database.url.password)
    os.execve(program, [program, address, *context.args], environment)  # noqa: S606 - a program looked up above


@app.command()
def ui(
    port: Annotated[int, typer.Option(min=1, max=65_535, help="The web page's port, on 127.0.0.1.")] = 3000,
) -> None:
    """Open Dagster's web page with its daemon; sensors are on in the local environment."""
    import os
    import socket

    services = configured_services()
    with socket.socket() as probe:  # `dagster dev` would go on without its page, for ever
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise OperatorError(f"port {port} cannot be had ({error.strerror}): name another with --port") from None
    with err.status("starting"):
        services.keyring.make_missing()
        services.database()
        environment = {**os.environ, **services.settings.as_environment(), **dagster_environment(services)}
    err.print(f"http://127.0.0.1:{port}")
    # From Dagster's home, so that neither another dagster.yaml nor a .env of the current directory is picked up. The
    # warning says that `dg dev`, a development dependency, has taken the command's place.
    os.chdir(environment["DAGSTER_HOME"])
    quiet = ["-W", "ignore:Function `dev_command` is superseded"]
    where = ["-w", "workspace.yaml", "-h", "127.0.0.1", "-p", str(port)]
    arguments = [*quiet, "-m", "dagster", "dev", *where]
    os.execve(sys.executable, [sys.executable, *arguments], environment)  # noqa: S606 - our own interpreter


def _status(services: "Services") -> dict[str, Any]:
    from loginetl_assets.steps.health import look

    settings = services.settings
    addresses = services.stack.find() if services.needs_stack else None
    counts: dict[str, object] = dict.fromkeys(
        ("queued", "delayed", "in_flight", "landed", "pending_batches", "pending", "quarantined_batches", "loaded",
         "rejected", "erased", "lost", "duplicates", "last_loaded_at", "oldest_pending_seconds", "rejection_rate",
         "quarantined", "automation", "runs_at_work", "runs_without_worker", "sizes", "conditions")
    )  # fmt: skip
    report: dict[str, object] = {
        "environment": settings.environment,
        "running": not services.needs_stack or addresses is not None,
        "home": str(services.stack.home) if settings.is_local else None,
        "queue_url": settings.queue_url or (addresses and addresses.queue_url),
        "sqs_endpoint": addresses and addresses.sqs_endpoint,
        "database_url": None,
        "table": None,
        "landing_url": settings.landing_url or (settings.home / "landing").as_uri(),
        **counts,
    }
    if not report["running"]:
        return report
    database = services.unchanged_database()
    seen = look(database, services.queue())
    totals = seen.totals
    automation, conditions = _automation(settings)
    return report | {
        "database_url": database.address,
        "table": str(settings.table),
        "queued": seen.depth and seen.depth.waiting,
        "delayed": seen.depth and seen.depth.delayed,
        "in_flight": seen.depth and seen.depth.in_flight,
        "landed": totals.messages,
        "pending_batches": totals.pending_batches,
        "pending": totals.pending,
        "quarantined_batches": totals.quarantined_batches,
        "loaded": totals.loaded,
        "rejected": totals.rejected,
        "erased": totals.erased,
        "lost": totals.lost,
        "duplicates": totals.duplicates,
        "last_loaded_at": totals.last_loaded_at and totals.last_loaded_at.isoformat(timespec="seconds"),
        "oldest_pending_seconds": seen.oldest_pending_seconds and round(seen.oldest_pending_seconds),
        "rejection_rate": round(seen.rejection_rate, 4),
        "automation": automation,
        "runs_at_work": seen.runs_at_work,
        "runs_without_worker": seen.runs_without_worker,
        "quarantined": [asdict(one) for one in seen.quarantined],
        "sizes": {name: asdict(size) for name, size in seen.sizes.items()},
        "conditions": seen.conditions(
            max_rejection_rate=settings.max_rejection_rate, freshness_hours=settings.freshness_hours
        )
        | seen.not_begun()
        | conditions,
    }


def _automation(settings: "Settings") -> tuple[str, dict[str, str]]:
    """Whether runs start by themselves, in words, and what is wrong about it.

    Dagster is asked, and imported, only where DAGSTER_HOME says which instance is meant.
    """
    import os

    default = f"sensors and schedules are {'on' if settings.is_automatic else 'off'} unless switched on the page"
    if not os.environ.get("DAGSTER_HOME"):
        return f"{default}; DAGSTER_HOME is not set, so more is not known", {}
    import dagster as dg

    from loginetl_assets.orchestration.automation_state import read_automation

    try:
        with dg.DagsterInstance.get() as instance:
            state = read_automation(instance, settings)
    except Exception as error:  # noqa: BLE001 - whatever storage it has; nothing else of the report depends on it
        return f"{default}; the instance of DAGSTER_HOME cannot be read ({type(error).__name__})", {}
    return (str(state), state.conditions(settings)) if state else (default, {})


def _print_status(report: dict[str, Any]) -> None:
    if not report["running"]:
        err.print(
            f"the embedded services of {escape(str(report['home']))} are down: `loginetl up` starts them",
            highlight=False,
            soft_wrap=True,
        )
        return
    table = Table(show_header=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in report.items():
        table.add_row(name.replace("_", " "), escape(for_terminal(_shown(name, value), keep="\n")))
    out.print(table)


def _shown(name: str, value: Any) -> str:
    if value is None:
        return "-"
    match name:
        case "oldest_pending_seconds":
            return str(timedelta(seconds=value))
        case "rejection_rate":
            return f"{value:.2%} within a day"
        case "quarantined":
            return "\n".join(f"batch {one['batch_id']}: {one['reason']}" for one in value) or "-"
        case "runs_without_worker":
            return "\n".join(value) or "-"
        case "sizes":
            return "\n".join(
                f"{table}: {size['bytes']:,} bytes, ~{size['rows']:,} rows" for table, size in value.items()
            )
        case "conditions":
            return "\n".join(f"{condition}: {text}" for condition, text in value.items()) or "all is well"
        case _:
            return str(value)


if __name__ == "__main__":
    main()
