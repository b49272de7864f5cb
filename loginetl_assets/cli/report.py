"""`loginetl report`: the activity report as one HTML file."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from loginetl_assets.cli.console import note
from loginetl_assets.cli.environment import configured_services
from loginetl_assets.errors import OperatorError
from loginetl_assets.settings import AppVersion

if TYPE_CHECKING:
    from loginetl_assets.aws.sqs import LoginQueue
    from loginetl_assets.services import Services

app = typer.Typer()


@app.command()
def report(
    output: Annotated[Path, typer.Option(help="The file to write; - for stdout.")] = Path("login-activity.html"),
    recount: Annotated[
        bool, typer.Option("--recount", help="Count all rows again first, where other programs changed some.")
    ] = False,
) -> None:
    """Write charts of logins, versions, locales, rejections and lag, and where all messages are, as one HTML file."""
    from loginetl_assets.report.page import render_page
    from loginetl_assets.steps.activity import queued_messages, read_activity, recount_activity

    services = configured_services()
    database = services.database()
    if recount:
        recount_activity(database)
    major_only = services.settings.app_version is AppVersion.MAJOR
    page = render_page(read_activity(database, queued_messages(lambda: _queue(services)), major_only=major_only))
    if output == Path("-"):
        sys.stdout.write(page)
        return
    try:
        output.write_text(page, encoding="utf-8")
    except OSError as error:
        raise OperatorError(f"cannot write {output} ({error.strerror})") from None
    note(f"wrote {escape(str(output))} ({len(page.encode()) / 1000:.0f} kB): open it in a browser")


def _queue(services: "Services") -> "LoginQueue | None":
    """The queue, unless that would start the embedded one: who reads the table alone need not have a queue."""
    is_there = services.settings.queue_url or services.stack.find()
    return services.queue() if is_there else None
