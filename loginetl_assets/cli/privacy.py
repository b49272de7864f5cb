"""The commands about persons and values: recover, token, erase; and roles, which grants who may use them."""

import csv
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from loginetl_assets.cli.console import Yes, confirm, err, for_spreadsheet, print_counts, print_rows, progress, text_of
from loginetl_assets.cli.environment import configured_services
from loginetl_assets.errors import NeedsAttentionError, OperatorError, SettingsError
from loginetl_assets.logins.contract import MASKED_FIELDS

if TYPE_CHECKING:
    from loginetl_assets.privacy.erase import ErasureTotals

app = typer.Typer()

Reason = Annotated[str, typer.Option("--reason", help="Why; logged beside your name before anything happens.")]

OutputFormat = StrEnum("OutputFormat", ("TABLE", "JSON", "CSV"))
MaskedField = StrEnum("MaskedField", MASKED_FIELDS)  # type: ignore[misc] # the contract's, so no literal


@app.command()
def recover(
    tokens: Annotated[list[str] | None, typer.Argument(help="Tokens, as the login table has them.")] = None,
    reason: Reason = "",
    user_id: Annotated[str | None, typer.Option(help="All tokens of this user's rows.")] = None,
    file: Annotated[Path | None, typer.Option(help="A file with a token a line.")] = None,
    output: Annotated[
        OutputFormat, typer.Option("--format", help="table, json, or csv made safe for spreadsheets; json is exact.")
    ] = OutputFormat.TABLE,
) -> None:
    """Show the values of tokens; needs the privacy officer's private keyset, and is logged first.

    Exit code 1 where one of them has no value to show: the outcome says why.
    """
    from loginetl_assets.privacy.recover import Outcome, tokens_of_user
    from loginetl_assets.privacy.recover import recover as recover_values

    services = configured_services()
    officer = services.officer()
    database = services.database(application_name="loginetl recover")
    wanted = list(tokens or [])
    if file:
        wanted += [line.strip() for line in text_of(file).splitlines() if line.strip()]
    if user_id:
        wanted += tokens_of_user(database, user_id)
        if not wanted:
            raise OperatorError("no row of that user has a token")
    answers = recover_values(database, officer, wanted, reason=reason)
    columns = ("token", "outcome", "field", "value")
    if output is OutputFormat.CSV:
        # Quoted throughout: elsewhere a semicolon separates cells, and what follows one would be a cell of its own.
        writer = csv.writer(sys.stdout, quoting=csv.QUOTE_ALL)
        writer.writerow(columns)
        writer.writerows(
            [for_spreadsheet(answer.token), answer.outcome, answer.field, for_spreadsheet(answer.value or "")]
            for answer in answers
        )
    else:
        print_rows(answers, *columns, as_json=output is OutputFormat.JSON)
    if without := sum(answer.outcome is not Outcome.RECOVERED for answer in answers):
        raise OperatorError(f"{without} of {len(answers)} tokens have no value to show: their outcome says why")


@app.command()
def token(
    value: Annotated[str, typer.Argument(help="The value; - reads it from standard input.")],
    field: Annotated[MaskedField, typer.Option(help="Which field it is of.")],
    reason: Reason = "",
) -> None:
    """Print the token of a value, to search for; needs the masking keyset, and is logged first."""
    from loginetl_assets.privacy.recover import tokens_of_value

    services = configured_services()
    if value == "-":
        value = sys.stdin.readline().rstrip("\n")
    for found in tokens_of_value(services.database(), services.keyring, field, value, reason=reason):
        print(found)  # noqa: T201


@app.command()
def erase(
    reason: Reason = "",
    user_id: Annotated[str | None, typer.Option(help="Erase this user.")] = None,
    tokens: Annotated[
        list[str] | None, typer.Option("--token", help="Erase whoever has this device or address; repeatable.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would be removed.")] = False,
    yes: Yes = False,
) -> None:
    """Remove a person: rows, rejected bodies, landed messages, and vault values that nobody else shares.

    Exit code 1 where nothing of that person is found, 3 where not every batch could be searched.
    """
    from loginetl_assets.privacy.erase import Erasure
    from loginetl_assets.privacy.subjects import subject_of

    services = configured_services()
    subject = subject_of(user_id, list(tokens or []), services.keyring)
    database = services.database(application_name="loginetl erase")
    landing = services.bound_landing(database)
    erasure = Erasure(database, landing, services.keyring, subject)
    if dry_run:
        totals = erasure.dry_run()
        print_counts("Would be removed", totals.as_metadata())
        _require_found(totals)
        return
    if not reason.strip():
        raise SettingsError("give --reason: it is logged beside your name")
    confirm("Erase for good? (--dry-run shows what)", yes=yes, otherwise="nothing was erased")
    with progress() as show:
        totals = erasure.run(reason, lambda done, total: show("searching batches", done, total))
    print_counts("Removed", totals.as_metadata())
    if totals.kept_versions:
        raise OperatorError(
            f"the landing's bucket keeps versions of {totals.kept_versions} deleted objects: grant"
            " s3:ListBucketVersions and s3:DeleteObjectVersion, or wait for the end of their lock, and erase again"
        )
    if landing.keeps_versions is None:
        raise OperatorError(
            "all was removed, but whether the landing's bucket keeps versions of it is unknown: grant"
            " s3:GetBucketVersioning and erase again"
        )
    _require_found(totals)


def _require_found(totals: "ErasureTotals") -> None:
    """Raises what is left to say where not every place could be searched, or nothing of the person was there."""
    not_searched = {
        "batches could not be read and so not searched: see `loginetl status`": totals.unreadable_batches,
        "objects that no batch names do not decrypt and were not searched: check LOGINETL_KEYSET_LANDING, or delete"
        " what is not loginetl's": totals.unreadable_objects,
    }
    if any(not_searched.values()):
        raise NeedsAttentionError("; ".join(f"{count} {which}" for which, count in not_searched.items() if count))
    if not totals.found_anything:
        raise OperatorError(
            "nothing of that person is here: check the id or token, and the queue, which is not searched"
        )


@app.command()
def roles() -> None:
    """Create the Postgres roles loginetl_loader, loginetl_analyst and loginetl_privacy with their grants."""
    from loginetl_assets.storage.roles import grant_roles

    grant_roles(configured_services().database(application_name="loginetl roles"))
    err.print("roles are in place: GRANT loginetl_loader (or _analyst, _privacy) TO your logins")
