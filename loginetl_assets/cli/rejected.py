"""`loginetl rejected`: list, summarize, show, replay and drop the messages that could not be loaded."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from loginetl_assets.cli.console import AsJson, Yes, confirm, err, note, out, print_json, print_rows
from loginetl_assets.cli.environment import configured_services
from loginetl_assets.cli.run import process_landed
from loginetl_assets.errors import NeedsAttentionError, OperatorError, SettingsError, counted

if TYPE_CHECKING:
    from loginetl_assets.services import Services
    from loginetl_assets.storage.database import LoginDatabase
    from loginetl_assets.storage.rejections import Selection

app = typer.Typer(
    no_args_is_help=True, help="List, summarize, show, replay and drop messages that could not be loaded."
)

Ids = Annotated[list[str] | None, typer.Argument(help="Message ids, as `loginetl rejected list` shows them.")]
OfReason = Annotated[str, typer.Option("--reason", help="Only this reason.")]
Since = Annotated[
    str, typer.Option(help="Only those rejected at or after this time (ISO 8601; UTC without an offset).")
]
Until = Annotated[str, typer.Option(help="Only those rejected before this time.")]
All = Annotated[bool, typer.Option("--all", help="Every rejected message.")]
Limit = Annotated[int, typer.Option(min=1, help="Show at most this many, newest first.")]


@app.command("list")
def list_rejected(
    reason: OfReason = "", since: Since = "", until: Until = "", limit: Limit = 50, as_json: AsJson = False
) -> None:
    """List rejected messages: id, times, reason and field, never the body."""
    from loginetl_assets.storage.rejections import newest

    _, database, which = _selected([], reason, since, until)
    with database.transaction() as connection:
        rows = newest(connection, which, limit=limit)
    said = [name for name in ("field", "sqlstate", "constraint_name") if any(getattr(row, name) for row in rows)]
    names = ("message_uuid", "batch_id", "sent_at", "rejected_at", "reason", *said)
    print_rows(rows, *names, as_json=as_json)


@app.command()
def summary(reason: OfReason = "", since: Since = "", until: Until = "", as_json: AsJson = False) -> None:
    """Count rejected messages by what was wrong: reason, field, SQLSTATE and constraint; when first, when last."""
    from loginetl_assets.logins.rejection import Reason
    from loginetl_assets.storage.rejections import summarize

    _, database, which = _selected([], reason, since, until)
    with database.transaction() as connection:
        rows = summarize(connection, which)
    said = [name for name in ("field", "sqlstate", "constraint_name") if any(getattr(row, name) for row in rows)]
    print_rows(rows, "messages", "reason", *said, "first_rejected_at", "last_rejected_at", as_json=as_json)
    if not as_json:
        for one in dict.fromkeys(Reason(row.reason) for row in rows):
            note(f"{one}: {escape(one.meaning)}")


@app.command()
def show(
    ids: Ids = None,
    reason: OfReason = "",
    since: Since = "",
    until: Until = "",
    limit: Limit = 10,
    as_json: AsJson = False,
) -> None:
    """Show the redacted shape of rejected bodies: letters as x, digits as 9, the rest as sent."""
    shown = redacted_shapes(*_selected(ids, reason, since, until), limit=limit)
    if as_json:
        print_json(shown)
        return
    for one in shown:
        field = f" ({one['field']})" if one["field"] else ""
        out.print(f"[bold]{one['message_uuid']}[/]  {one['reason']}{field}", highlight=False)
        out.print(escape(str(one["redacted_shape"])), highlight=False, soft_wrap=True)


def redacted_shapes(
    services: "Services", database: "LoginDatabase", which: "Selection", *, limit: int
) -> list[dict[str, Any]]:
    """Returns rejected messages, newest first, each with the redacted shape of its body."""
    from loginetl_assets.logins.encryption import DecryptionError, decrypt
    from loginetl_assets.logins.redacted import redacted_shape
    from loginetl_assets.storage import rejections

    shown = []
    with database.transaction() as connection:
        for row in rejections.newest(connection, which, limit=limit):
            encrypted = rejections.encrypted_body(connection, row.message_uuid)
            try:
                body = redacted_shape(decrypt(services.keyring.rejects, encrypted, str(row.message_uuid)))
            except DecryptionError:
                raise OperatorError(
                    f"the body of {row.message_uuid} cannot be decrypted: set LOGINETL_KEYSET_REJECTS to the keyset"
                    " that it was encrypted with"
                ) from None
            shown.append({**asdict(row), "redacted_shape": body})
    return shown


@app.command()
def replay(ids: Ids = None, reason: OfReason = "", since: Since = "", until: Until = "", every: All = False) -> None:
    """Validate rejected messages with the current validation rules, and load those that pass; each exactly once."""
    from loginetl_assets.steps.replay import replay_rejected

    _require_choice(ids, reason, since, until, every)
    services, database, which = _selected(ids, reason, since, until)
    landing = services.bound_landing(database)
    counts = replay_rejected(database, landing, services.payloads(), services.keyring, which)
    err.print(f"replayed {counted(counts.messages, 'message')}")
    found = []
    if counts.postponed:
        found.append(
            f"still rejected: {counted(counts.postponed, 'message')} whose payload could not be read; replay later"
        )
    if counts.undecryptable:
        found.append(
            f"still rejected: {counted(counts.undecryptable, 'message')} whose body cannot be decrypted; set"
            " LOGINETL_KEYSET_REJECTS to the keyset that encrypted it"
        )
    if counts.messages:
        try:
            process_landed(services, {})
        except NeedsAttentionError as of_the_run:
            found.append(str(of_the_run))
    if found:
        raise NeedsAttentionError("; ".join(found))


@app.command()
def drop(
    ids: Ids = None, reason: OfReason = "", since: Since = "", until: Until = "", every: All = False, yes: Yes = False
) -> None:
    """Delete rejected bodies for good; the messages count as erased.

    Their ids stay, so that a redelivery is not loaded. Their batch stays in the
    landing until retention.
    """
    from loginetl_assets.storage import rejections

    _require_choice(ids, reason, since, until, every)
    _, database, which = _selected(ids, reason, since, until)
    with database.transaction() as connection:
        message_uuids = rejections.matching_ids(connection, which)
    if not message_uuids:
        err.print("no rejected message matches")
        return
    question = f"Delete the bodies of {counted(len(message_uuids), 'rejected message')} for good?"
    confirm(question, yes=yes, otherwise="nothing was dropped")
    with database.transaction() as connection:
        rejections.erase(connection, message_uuids)
    err.print(f"dropped {counted(len(message_uuids), 'message')}")


def _require_choice(*criteria: object) -> None:
    if not any(criteria):
        raise SettingsError("name which: message ids, --reason, --since, --until, or --all")


def _selected(
    ids: list[str] | None, reason: str, since: str, until: str
) -> tuple["Services", "LoginDatabase", "Selection"]:
    """Returns the services, their database, and the selection that the options describe.

    Raises:
        OperatorError: a message that is named is not rejected; other criteria may match none.
    """
    from loginetl_assets.steps.replay import selection
    from loginetl_assets.storage.rejections import Selection, matching_ids

    which = selection(ids or [], reason, since, until)
    services = configured_services()
    database = services.database()
    if named := which.message_uuids:
        with database.transaction() as connection:
            unknown = set(named).difference(matching_ids(connection, Selection(named)))
        if unknown:
            raise OperatorError(
                f"of the messages named, these are not rejected: {', '.join(sorted(map(str, unknown)))}; see `loginetl"
                " rejected list`"
            )
    return services, database, which
