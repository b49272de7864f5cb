"""The commands for messages that could not be loaded: list, show, replay, drop."""

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated
from uuid import UUID

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from loginetl_assets.cli.run import configured_services, process_landed
from loginetl_assets.errors import NeedsAttentionError, OperatorError, SettingsError

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from loginetl_assets.storage.rejections import Selection

rejected_app = typer.Typer(no_args_is_help=True, help="Messages that could not be loaded: look, try again, give up.")

out = Console()
err = Console(stderr=True)

Ids = Annotated[list[str] | None, typer.Argument(help="Message ids, as `loginetl rejected list` shows them.")]
OfReason = Annotated[str, typer.Option("--reason", help="Only this reason.")]
Since = Annotated[str, typer.Option(help="Only those rejected at or after this time (ISO 8601; UTC if it says none).")]
Until = Annotated[str, typer.Option(help="Only those rejected before this time.")]
All = Annotated[bool, typer.Option("--all", help="Every rejected message.")]
Limit = Annotated[int, typer.Option(min=1, help="Show at most this many, newest first.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print a JSON array.")]


@rejected_app.command("list")
def list_rejected(
    reason: OfReason = "", since: Since = "", until: Until = "", limit: Limit = 50, as_json: AsJson = False
) -> None:
    """List rejected messages: id, times, reason and field, never the body."""
    from loginetl_assets.steps.replay import selection
    from loginetl_assets.storage import rejections

    which = selection([], reason, since, until)
    with configured_services().database().transaction() as connection:
        rows = rejections.newest(connection, which, limit=limit)
    if as_json:
        print(json.dumps([asdict(row) for row in rows], default=str, indent=2))  # noqa: T201
        return
    table = Table(Column("message", overflow="fold"), "batch", "sent (UTC)", "rejected (UTC)", "reason", "field")
    for row in rows:
        table.add_row(
            str(row.message_uuid),
            str(row.batch_id),
            f"{row.sent_at:%Y-%m-%d %H:%M:%S}",
            f"{row.rejected_at:%Y-%m-%d %H:%M:%S}",
            row.reason,
            row.field or "",
        )
    out.print(table)


@rejected_app.command()
def show(
    ids: Ids = None,
    reason: OfReason = "",
    since: Since = "",
    until: Until = "",
    limit: Limit = 10,
    as_json: AsJson = False,
) -> None:
    """Show the redacted shape of rejected bodies: letters as x, digits as 9, the rest as sent."""
    from loginetl_assets.logins.encryption import DecryptionError, decrypt
    from loginetl_assets.logins.redacted import redacted_shape
    from loginetl_assets.steps.replay import selection
    from loginetl_assets.storage import rejections

    which = selection(ids or [], reason, since, until)
    services = configured_services()
    shown = []
    with services.database().transaction() as connection:
        _require_rejected(connection, which)
        for row in rejections.newest(connection, which, limit=limit):
            sealed = rejections.encrypted_body(connection, row.message_uuid)
            try:
                body = redacted_shape(decrypt(services.keyring.rejects, sealed, str(row.message_uuid)))
            except DecryptionError:
                raise OperatorError(
                    f"the body of {row.message_uuid} does not open: set LOGINETL_KEYSET_REJECTS to the keyset it was"
                    " sealed with"
                ) from None
            shown.append({**asdict(row), "redacted_shape": body})
    if as_json:
        print(json.dumps(shown, default=str, indent=2))  # noqa: T201
        return
    for one in shown:
        field = f" ({one['field']})" if one["field"] else ""
        out.print(f"[bold]{one['message_uuid']}[/]  {one['reason']}{field}", highlight=False)
        out.print(escape(str(one["redacted_shape"])), highlight=False, soft_wrap=True)


@rejected_app.command()
def replay(ids: Ids = None, reason: OfReason = "", since: Since = "", until: Until = "", every: All = False) -> None:
    """Read rejected messages again, by the rules as they are now, and load what these accept; each exactly once."""
    from loginetl_assets.steps.replay import replay_rejected, selection

    _require_a_choice(ids, reason, since, until, every=every)
    which = selection(ids or [], reason, since, until)
    services = configured_services()
    database = services.database()
    with database.transaction() as connection:
        _require_rejected(connection, which)
    landing = services.bound_landing(database)
    counts = replay_rejected(database, landing, services.payloads(), services.keyring, which)
    err.print(f"replayed {counts.messages} messages")
    found = []
    if counts.postponed:
        found.append(f"{counts.postponed} stay rejected, their payload cannot be read just now: replay them later")
    if counts.undecryptable:
        found.append(
            f"{counts.undecryptable} do not open and stay rejected: set LOGINETL_KEYSET_REJECTS to the keyset they were"
            " sealed with"
        )
    if counts.messages:
        try:
            process_landed(services, {})
        except NeedsAttentionError as of_the_run:
            found.append(str(of_the_run))
    if found:
        raise NeedsAttentionError("; ".join(found))


@rejected_app.command()
def drop(
    ids: Ids = None,
    reason: OfReason = "",
    since: Since = "",
    until: Until = "",
    every: All = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Delete rejected bodies; their ids stay, so that a redelivery is not loaded, and count as erased.

    The batch that they came with stays in the landing until retention.
    """
    from loginetl_assets.steps.replay import selection
    from loginetl_assets.storage import rejections

    _require_a_choice(ids, reason, since, until, every=every)
    which = selection(ids or [], reason, since, until)
    database = configured_services().database()
    with database.transaction() as connection:
        _require_rejected(connection, which)
        keys: list[UUID] = rejections.matching_ids(connection, which)
    if not keys:
        err.print("no rejected message is meant")
        return
    if not yes and not typer.confirm(f"Delete the bodies of {len(keys)} rejected messages for good?", err=True):
        raise OperatorError("nothing was dropped")
    with database.transaction() as connection:
        rejections.erase(connection, keys)
    err.print(f"dropped {len(keys)} messages")


def _require_rejected(connection: "Connection", which: "Selection") -> None:
    """Makes sure that every message that is named is rejected; what else the command asks for may fit none."""
    from loginetl_assets.storage import rejections
    from loginetl_assets.storage.rejections import Selection

    if not which.message_uuids:
        return
    unknown = set(which.message_uuids).difference(rejections.matching_ids(connection, Selection(which.message_uuids)))
    if unknown:
        raise OperatorError(
            f"{len(unknown)} of the messages named are not rejected, {min(unknown)} among them: see"
            " `loginetl rejected list`"
        )


def _require_a_choice(ids: list[str] | None, reason: str, since: str, until: str, *, every: bool) -> None:
    if not (ids or reason or since or until or every):
        raise SettingsError("name which: message ids, --reason, --since, --until, or --all")
