"""The commands about persons and values: recover, token, erase; and roles, which grants who may use them."""

import csv
import io
import re
import sys
from collections.abc import Sequence
from dataclasses import asdict
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from loginetl_assets.cli.console import (
    ReadsValue,
    Yes,
    as_json,
    confirm,
    err,
    for_spreadsheet,
    note,
    print_counts,
    print_rows,
    progress,
    read_value,
    text_of,
)
from loginetl_assets.cli.environment import configured_services
from loginetl_assets.durable import require_new, write_new
from loginetl_assets.errors import NeedsAttentionError, OperatorError, SettingsError, counted
from loginetl_assets.logins.contract import MASKED_FIELDS

if TYPE_CHECKING:
    from loginetl_assets.privacy.erase import ErasureTotals
    from loginetl_assets.privacy.recover import Recovered

app = typer.Typer()

Reason = Annotated[str, typer.Option("--reason", help="Why; logged beside your name before anything happens.")]

_ASKS = "Ask for a user id, or read it from standard input."
ByUser = Annotated[bool, typer.Option("--user-id", help=_ASKS)]
MaxTokens = Annotated[
    int | None, typer.Option(min=1, help="Refuse to recover more values at once (default: 1000); the log states it.")
]

OutputFormat = StrEnum("OutputFormat", ("TABLE", "JSON", "CSV"))
MaskedField = StrEnum("MaskedField", MASKED_FIELDS)  # type: ignore[misc] # the contract's, so no literal

_COLUMNS = ("token", "outcome", "field", "value")


def _tokens_alone(given: list[str] | None) -> list[str]:
    """Refuses what has not the shape of a token: the log would keep it, and it may be a value."""
    from loginetl_assets.logins.tokens import TOKEN_PATTERN

    tokens = given or []
    if others := sum(re.fullmatch(TOKEN_PATTERN, one) is None for one in tokens):
        raise SettingsError(
            f"not a token (a key id, a dot and 43 characters): {others} of {len(tokens)}, and none was used; for a"
            " value `loginetl token` finds the token, a user id goes to the prompt of --user-id; where it was one,"
            " delete it from the shell's history"
        )
    return tokens


@app.command(cls=ReadsValue)
def recover(
    tokens: Annotated[
        list[str] | None, typer.Argument(callback=_tokens_alone, help="Tokens, as the login table has them.")
    ] = None,
    reason: Reason = "",
    user_id: ByUser = False,
    file: Annotated[Path | None, typer.Option(help="A file with a token a line.")] = None,
    output: Annotated[
        Path | None, typer.Option(help="Write a new file, .json or .csv, that only you can read; nothing is shown.")
    ] = None,
    output_format: Annotated[
        OutputFormat | None,
        typer.Option("--format", help="table, json, or csv made safe for spreadsheets; json is exact."),
    ] = None,
    max_tokens: MaxTokens = None,
) -> None:
    """Show the values of tokens, or of all tokens of a user's rows; needs the officer's keyset, and is logged first.

    Exit code 1 where one of them has no value to show: the outcome says why.
    """
    from loginetl_assets.privacy.recover import MAX_TOKENS, Outcome, tokens_of_user
    from loginetl_assets.privacy.recover import recover as recover_values

    if output:
        require_new([output])
    output_format = output_format or _format_of(output)
    if output and output_format is OutputFormat.TABLE:
        raise SettingsError("--output takes json or csv: name such a --format")
    services = configured_services()
    officer = services.officer()
    database = services.database(application_name="loginetl recover")
    wanted = list(tokens or [])
    if file:
        wanted += _tokens_alone([line.strip() for line in text_of(file).splitlines() if line.strip()])
    if user_id:
        wanted += tokens_of_user(database, read_value("user id"))
        if not wanted:
            raise OperatorError("no row of that user has a token")
    answers = recover_values(database, officer, wanted, reason=reason, max_tokens=max_tokens or MAX_TOKENS)
    if output_format is OutputFormat.TABLE:
        print_rows(answers, *_COLUMNS, as_json=False)
    else:
        text = as_json(list(map(asdict, answers))) if output_format is OutputFormat.JSON else _as_csv(answers)
        if output:
            write_new({output: text})
            note(f"wrote {escape(str(output))}")
        else:
            sys.stdout.write(text)
    if without := sum(answer.outcome is not Outcome.RECOVERED for answer in answers):
        raise OperatorError(f"no value to show: {without} of {counted(len(answers), 'token')}; the outcome says why")


def _format_of(output: Path | None) -> OutputFormat:
    if output is None:
        return OutputFormat.TABLE
    try:
        return OutputFormat(output.suffix[1:])
    except ValueError:
        raise SettingsError(f"{output} ends in neither .json nor .csv: name such a file with --output") from None


def _as_csv(answers: "Sequence[Recovered]") -> str:
    # Quoted throughout: elsewhere a semicolon separates cells, and what follows one would be a cell of its own.
    text = io.StringIO()
    writer = csv.writer(text, quoting=csv.QUOTE_ALL)
    writer.writerow(_COLUMNS)
    writer.writerows(
        [for_spreadsheet(answer.token), answer.outcome, answer.field, for_spreadsheet(answer.value or "")]
        for answer in answers
    )
    return text.getvalue()


@app.command(cls=ReadsValue)
def token(
    field: Annotated[MaskedField, typer.Option(help="Which field it is of.")],
    reason: Reason = "",
) -> None:
    """Print the token of a value, to search for; needs the masking keyset, and is logged first.

    Asks for the value, or reads it from standard input.
    """
    from loginetl_assets.privacy.recover import tokens_of_value

    services = configured_services()
    value = read_value(field)
    for found in tokens_of_value(services.database(), services.keyring, field, value, reason=reason):
        print(found)  # noqa: T201


@app.command(cls=ReadsValue)
def erase(
    reason: Reason = "",
    user_id: ByUser = False,
    tokens: Annotated[
        list[str] | None,
        typer.Option("--token", callback=_tokens_alone, help="Erase whoever has this device or address; repeatable."),
    ] = None,
    reapply: Annotated[
        bool, typer.Option("--reapply", help="Erase again what earlier erasures removed and a backup brought back.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would be removed.")] = False,
    yes: Yes = False,
) -> None:
    """Remove a person: rows, rejected bodies, landed messages, and vault values that nobody else shares.

    Shows what would be removed, then asks. --reapply needs the privacy officer's private keyset. Exit code 1 where
    nothing of that person is found, 3 where not every batch could be searched.
    """
    from loginetl_assets.privacy.erase import Erasure
    from loginetl_assets.privacy.erasures import ErasureList
    from loginetl_assets.privacy.subjects import Subject, subject_of

    if not (dry_run or reason.strip()):
        raise SettingsError("give --reason: it is logged beside your name")
    if reapply and (user_id or tokens):
        raise SettingsError("--reapply takes neither --user-id nor --token: it erases those of earlier erasures")
    if user_id and not (dry_run or yes or (sys.stdin and sys.stdin.isatty())):
        raise SettingsError("the piped id leaves nobody to answer the question: count with --dry-run, then give --yes")
    services = configured_services()
    keys = services.keyring
    database = services.database(application_name="loginetl erase")
    landing = services.bound_landing(database)
    if reapply:
        subject: Subject = ErasureList(database, landing, keys).subject(services.officer())
    else:
        subject = subject_of(read_value("user id") if user_id else None, list(tokens or []), keys)
    if dry_run or not yes:
        with progress() as show:
            totals = Erasure(database, landing, keys, subject).dry_run(partial(show, "searching batches"))
        print_counts("Would be removed", totals.as_metadata())
        if dry_run:
            _require_found(totals, reapply=reapply)
            return
    confirm("Erase this permanently?", yes=yes, otherwise="nothing was erased")
    with progress() as show:
        totals = Erasure(database, landing, keys, subject).run(reason, partial(show, "searching batches"))
    print_counts("Removed", totals.as_metadata())
    if totals.kept_versions:
        raise OperatorError(
            f"the landing's bucket keeps versions of {counted(totals.kept_versions, 'deleted object')}: grant"
            " s3:ListBucketVersions and s3:DeleteObjectVersion, or wait for the end of their lock, and erase again"
        )
    if landing.keeps_versions is None:
        raise OperatorError(
            "all was removed, but whether the landing's bucket keeps versions of it is unknown: grant"
            " s3:GetBucketVersioning and erase again"
        )
    _require_found(totals, reapply=reapply)


def _require_found(totals: "ErasureTotals", *, reapply: bool) -> None:
    """Raises what is left to say where not every place could be searched, or nothing of the person was there."""
    not_searched = {
        "batch": (totals.unreadable_batches, "that cannot be read: see `loginetl status`"),
        "object": (
            totals.unreadable_objects,
            "that no batch names and that cannot be decrypted: check LOGINETL_KEYSET_LANDING, or delete what is not"
            " loginetl's",
        ),
    }
    found = [f"{counted(count, noun)} {which}" for noun, (count, which) in not_searched.items() if count]
    if found:
        raise NeedsAttentionError(f"not searched: {'; '.join(found)}")
    if not (totals.found_anything or reapply):
        raise OperatorError(
            "nothing of that person is here: check the id or token, and the queue, which is not searched"
        )


@app.command(cls=ReadsValue)
def subject_report(
    reason: Reason = "",
    output: Annotated[
        list[Path] | None, typer.Option(help="A new file, .json or .html, that only you can read; repeatable.")
    ] = None,
    user_id: Annotated[
        bool, typer.Option("--user-id", help=f"{_ASKS} This is the default.", show_default=False)
    ] = True,
    max_tokens: MaxTokens = None,
) -> None:
    """Write what is stored of a user: rows, recovered values, rejected messages, messages in the landing.

    Writes subject-report.json for programs and subject-report.html for people, unless --output names files. Needs the
    officer's keyset, and is logged first. Exit code 1 where nothing of that user is found, 3 where the report is not
    complete: it says what is missing.
    """
    from loginetl_assets.cli.subject_page import render_subject_page
    from loginetl_assets.privacy.recover import MAX_TOKENS
    from loginetl_assets.privacy.subject_report import read_subject

    files = output or [Path("subject-report.json"), Path("subject-report.html")]
    if others := [str(file) for file in files if file.suffix not in {".json", ".html"}]:
        raise SettingsError(f"{others[0]} ends in neither .json nor .html: name such a file with --output")
    require_new(files)
    services = configured_services()
    officer = services.officer()
    database = services.database(application_name="loginetl subject-report")
    landing = services.bound_landing(database)
    asked = read_value("user id")
    with progress() as show:
        report = read_subject(
            database,
            landing,
            services.keyring,
            officer,
            asked,
            reason=reason,
            app_version=services.settings.app_version,
            max_tokens=max_tokens or MAX_TOKENS,
            progress=lambda done, total: show("searching batches", done, total),
        )
    render = {".json": lambda found: as_json(asdict(found)), ".html": render_subject_page}
    write_new({file: render[file.suffix](report) for file in files})
    note(f"wrote {escape(', '.join(map(str, files)))}")
    if report.incomplete:
        raise NeedsAttentionError("; ".join(report.incomplete))
    if not report.found_anything:
        raise OperatorError("nothing of that user is here: check the id, and the queue, which is not searched")


@app.command()
def roles() -> None:
    """Create the Postgres roles loginetl_loader, loginetl_analyst and loginetl_privacy with their grants."""
    from loginetl_assets.storage.roles import grant_roles

    grant_roles(configured_services().database(application_name="loginetl roles"))
    err.print("roles are in place: GRANT loginetl_loader (or _analyst, _privacy) TO your logins")
