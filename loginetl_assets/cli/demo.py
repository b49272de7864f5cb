"""`loginetl demo`: sends the sample messages, runs the pipeline, and explains the results."""

import json
from typing import TYPE_CHECKING, Any

import typer
from rich.markup import escape
from rich.table import Table

from loginetl_assets.cli.console import out, print_counts, program
from loginetl_assets.cli.local import local_services
from loginetl_assets.cli.rejected import redacted_shapes
from loginetl_assets.cli.run import run_until_empty, sample_bodies, send_bodies, tell_problems
from loginetl_assets.errors import SettingsError
from loginetl_assets.logins.contract import CREATE_DATE, FIELDS
from loginetl_assets.logins.rejection import Reason

if TYPE_CHECKING:
    from loginetl_assets.services import Services

app = typer.Typer()

_SHOWN = (11, 45, 12)  # of the samples: two users of one device, and another
_LENGTH = 22  # of a value that is shown: as sent and as stored, beside their names, in 80 columns

_EXPLANATION = (
    "Versions are stored as integers that sort. IP addresses and device ids are stored as tokens: a value has the same"
    " token on every row and every day. The first two users share a device, so their rows share a token. The results"
    " count such shared devices: a family's tablet, or stolen accounts. Who reads the table learns no value; the"
    " privacy officer's key recovers it from a vault."
)


def _meanings(table: str) -> dict[str, str]:
    return {
        "messages": "received from SQS, landed, deleted there",
        f"loaded into {table}": "once, however often SQS delivers it",
        "duplicates": "messages that SQS delivered again",
        "rejected": "kept encrypted, with a reason: below",
        "duplicate rows": "equal logins, sent as two messages",
        "shared devices": "that several users have",
        "shared IPs": "that several users have",
    }


_NEXT = {
    "ui": "the Dagster UI; messages sent meanwhile are loaded",
    "send --sample": "100 more messages",
    "report": "charts of the logins, in one HTML file",
    "status": "addresses, counts, and what is wrong",
    "psql -c 'TABLE loginetl.shared_devices'": "shared devices",
    "rejected list": "rejected messages",
    "export logins.csv": "the table as a file; or .parquet",
    "down": "stop everything; the data stay",
}


@app.command()
def demo() -> None:
    """Send 100 sample messages through the embedded services, and explain the results."""
    services = local_services("demo")
    settings = services.settings
    if settings.queue_url or settings.database_url or settings.landing_url:
        raise SettingsError(
            "`loginetl demo` uses embedded services only: unset LOGINETL_QUEUE_URL, LOGINETL_DATABASE_URL and"
            " LOGINETL_LANDING_URL, or use `loginetl send --sample` and `loginetl run`"
        )
    services.keyring.make_missing()
    bodies = sample_bodies()
    send_bodies(services, bodies)
    summary = run_until_empty(services)
    _show_rows(services, [json.loads(bodies[number]) for number in _SHOWN])
    print_counts("\nResults", summary.counts(settings.table), _meanings(str(settings.table)))
    _show_rejected(services)
    out.print("\n[bold]Next[/]")
    for command, meaning in _NEXT.items():
        out.print(f"[cyan]{escape(program())} {command}[/]  {meaning}", highlight=False, soft_wrap=True)
    tell_problems(summary)
    if not summary.warnings:
        out.print("\n[green]Every message has its outcome, and every check passed.[/]")


def _show_rows(services: "Services", messages: list[dict[str, Any]]) -> None:
    from loginetl_assets.storage.login_rows import read_rows, rows_of_user

    table = Table("as sent", "", "as stored", "", box=None, padding=(0, 2, 0, 0))
    with services.database().transaction() as connection:
        for message in messages:
            for row in read_rows(connection, rows_of_user(message["user_id"]), limit=1):  # none, once it was erased
                table.add_row()
                for field in FIELDS:
                    column = field.column.name
                    table.add_row(field.name, _short(message[field.name]), column, _short(row[column]))
                table.add_row("", "", CREATE_DATE.name, _short(row[CREATE_DATE.name]))
    title = f"[bold]Three of the messages, and their rows in {escape(str(services.settings.table))}[/]"
    out.print("", title, table, "", _EXPLANATION, sep="\n", highlight=False)


def _short(value: object) -> str:
    text = "null" if value is None else str(value)
    return escape(text if len(text) <= _LENGTH else f"{text[: _LENGTH - 1]}…")


def _show_rejected(services: "Services") -> None:
    from loginetl_assets.storage.rejections import Selection

    for one in redacted_shapes(services, services.database(), Selection(), limit=1):
        out.print(
            f"\n[bold]Why a message was rejected[/]\n{one['reason']}: {Reason(one['reason']).meaning}",
            f"[cyan]{escape(one['redacted_shape'])}[/]",
            "Its redacted shape: letters as x, digits as 9. The body is kept, encrypted, and can be replayed.",
            sep="\n",
            highlight=False,
        )
