"""The commands of the privacy officer: recover, token, erase, keys, roles. Added to the `loginetl` command."""

import csv
import json
import sys
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from loginetl_assets.cli.run import configured_services
from loginetl_assets.cli.terminal import for_spreadsheet, for_terminal
from loginetl_assets.errors import NeedsAttentionError, OperatorError, SettingsError
from loginetl_assets.settings import KeysetRole

if TYPE_CHECKING:
    from loginetl_assets.privacy.erase import ErasureCounts
    from loginetl_assets.privacy.rotate import Progress

keys_app = typer.Typer(no_args_is_help=True, help="Make, show and rotate keysets.")

out = Console()
err = Console(stderr=True)

Reason = Annotated[str, typer.Option("--reason", help="Why; logged beside your name before anything happens.")]


class OutputFormat(StrEnum):
    """How recovered values are printed."""

    TABLE = "table"
    JSON = "json"
    CSV = "csv"


class MaskedField(StrEnum):
    """The fields that have tokens."""

    IP = "ip"
    DEVICE_ID = "device_id"


class RotatingRole(StrEnum):
    """The keysets that can be rotated; `officer` also renews the vault's public keyset."""

    MASKING = "masking"
    LANDING = "landing"
    REJECTS = "rejects"
    OFFICER = "officer"


def register(app: typer.Typer) -> None:
    """Adds the commands to the main one."""
    app.command()(recover)
    app.command()(token)
    app.command()(erase)
    app.command()(roles)
    app.add_typer(keys_app, name="keys")


def recover(
    tokens: Annotated[list[str] | None, typer.Argument(help="Tokens, as they stand in the table of logins.")] = None,
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
    from loginetl_assets.keys.officer import Officer
    from loginetl_assets.privacy.recover import Outcome, tokens_of_user
    from loginetl_assets.privacy.recover import recover as recover_values

    services = configured_services()
    officer = Officer(services.settings)
    database = services.database(application_name="loginetl recover")
    wanted = list(tokens or [])
    if file:
        try:
            wanted += [line.strip() for line in file.read_text().splitlines() if line.strip()]
        except (OSError, UnicodeDecodeError) as error:
            raise SettingsError(f"cannot read {file} ({type(error).__name__})") from None
    if user_id:
        wanted += tokens_of_user(database, user_id)
        if not wanted:
            raise OperatorError("no row of that user has a token")
    answers = recover_values(database, officer, wanted, reason=reason)
    if output is OutputFormat.JSON:
        print(json.dumps([asdict(answer) for answer in answers], indent=2))  # noqa: T201
    elif output is OutputFormat.CSV:
        # Quoted throughout: elsewhere a semicolon separates cells, and what follows one would be a cell of its own.
        writer = csv.writer(sys.stdout, quoting=csv.QUOTE_ALL)
        writer.writerow(["token", "outcome", "field", "value"])
        writer.writerows(
            [for_spreadsheet(answer.token), answer.outcome, answer.field, for_spreadsheet(answer.value or "")]
            for answer in answers
        )
    else:
        table = Table()
        for name in ("token", "outcome", "field", "value"):
            table.add_column(name, overflow="fold")
        for answer in answers:
            token, value = (Text(for_terminal(one or "")) for one in (answer.token, answer.value))
            table.add_row(token, answer.outcome, answer.field or "", value)
        out.print(table)
    if without := sum(answer.outcome is not Outcome.RECOVERED for answer in answers):
        raise OperatorError(f"{without} of {len(answers)} tokens have no value to show: their outcome says why")


def token(
    value: Annotated[str, typer.Argument(help="The value; - reads it from standard input.")],
    field: Annotated[MaskedField, typer.Option(help="Which field it is of.")],
    reason: Reason = "",
) -> None:
    """Print the token of a value, to search for; needs the masking keyset, and is logged first."""
    from loginetl_assets.privacy.recover import tokens_of_value

    services = configured_services()
    keyring = services.keyring
    if value == "-":
        value = sys.stdin.readline().rstrip("\n")
    for found in tokens_of_value(services.database(), keyring, field, value, reason=reason):
        print(found)  # noqa: T201


def erase(
    reason: Reason = "",
    user_id: Annotated[str | None, typer.Option(help="Erase this user.")] = None,
    tokens: Annotated[
        list[str] | None, typer.Option("--token", help="Erase whoever has this device or address; repeatable.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would be removed.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Remove a person: rows, rejected bodies, landed messages, and vault values that nobody else shares.

    Exit code 1 where nothing of that person is found, 3 where not every batch could be searched.
    """
    from rich.progress import Progress

    from loginetl_assets.privacy.erase import Erasure, subject_of

    services = configured_services()
    subject = subject_of(user_id, list(tokens or []), services.keyring)
    database = services.database(application_name="loginetl erase")
    landing = services.bound_landing(database)
    erasure = Erasure(database, landing, services.keyring, subject)
    if dry_run:
        counts = erasure.dry_run()
        _print_counts("Would be removed", asdict(counts))
        _require_found(counts)
        return
    if not reason.strip():
        raise SettingsError("give --reason: it is logged beside your name")
    if not yes and not typer.confirm("Erase for good? (--dry-run shows what)", err=True):
        raise OperatorError("nothing was erased")
    with Progress(console=err, transient=True) as progress:
        bar = progress.add_task("searching batches")
        counts = erasure.run(reason, lambda done, total: progress.update(bar, completed=done, total=total))
    _print_counts("Removed", asdict(counts))
    if counts.kept_versions:
        raise OperatorError(
            f"the landing's bucket keeps versions of {counts.kept_versions} deleted objects: grant"
            " s3:ListBucketVersions and s3:DeleteObjectVersion, or wait for the end of their lock, and erase again"
        )
    if landing.keeps_versions is None:
        raise OperatorError(
            "all was removed, but whether the landing's bucket keeps versions of it cannot be told: grant"
            " s3:GetBucketVersioning and erase again"
        )
    _require_found(counts)


def _require_found(counts: "ErasureCounts") -> None:
    """Makes sure that every place was searched, and that something was there.

    Raises:
        NeedsAttentionError: not all could be searched.
        OperatorError: all was, and nothing of the person is in it.
    """
    not_searched = []
    if counts.unreadable_batches:
        not_searched.append(
            f"{counts.unreadable_batches} batches could not be read and so not searched: see `loginetl status`"
        )
    if counts.unreadable_objects:
        not_searched.append(
            f"{counts.unreadable_objects} objects that no batch names do not open and were not searched: check"
            " LOGINETL_KEYSET_LANDING, or delete what is not loginetl's"
        )
    if not_searched:
        raise NeedsAttentionError("; ".join(not_searched))
    if not counts.found_anything:
        raise OperatorError(
            "nothing of that person is here: check the id or token, and the queue, which is not searched"
        )


@keys_app.command("init")
def keys_init(
    directory: Annotated[Path, typer.Argument(help="An empty or new directory for the keysets.")],
    kms_key_uri: Annotated[
        str | None, typer.Option(help="Wrap them with this KMS key: aws-kms://arn:aws:kms:…")
    ] = None,
) -> None:
    """Make a set of keysets for staging or production: four for the pipeline, one for the privacy officer."""
    import tink

    from loginetl_assets.durable import make_directory
    from loginetl_assets.keys.keyring import OFFICER_FILE, OFFICER_TEMPLATE, TEMPLATES
    from loginetl_assets.keys.keysets import keyset_json, write_once

    try:
        make_directory(directory)
        if any(directory.iterdir()):
            raise SettingsError(f"{directory} is not empty: keysets are never overwritten")
        officer = tink.new_keyset_handle(OFFICER_TEMPLATE)
        for role, template in TEMPLATES.items():
            text = keyset_json(tink.new_keyset_handle(template), kms_key_uri=kms_key_uri)
            write_once(directory / f"{role}.json", text)
        write_once(directory / "vault.json", keyset_json(officer.public_keyset_handle(), public=True))
        write_once(directory / OFFICER_FILE, keyset_json(officer, kms_key_uri=kms_key_uri))
    except OSError as error:
        raise OperatorError(f"cannot write keysets to {directory} ({error.strerror})") from None
    for role in KeysetRole:
        print(f"LOGINETL_KEYSET_{role.upper()}={directory / f'{role}.json'}")  # noqa: T201
    err.print(
        f"{directory / OFFICER_FILE} is the privacy officer's: move it to where the pipeline cannot read it, and keep"
        " a copy. Without it no value can be recovered; without the masking keyset no token can be made again."
    )


@keys_app.command("show")
def keys_show() -> None:
    """Show key ids by keyset, the primary first, and which the database was written with; never a key."""
    from sqlalchemy import text

    services = configured_services()
    with services.database().transaction() as connection:
        used = connection.execute(text("SELECT role, key_id, check_value, first_used_at FROM loginetl.keys")).all()
    since = {(row.role, row.key_id): f"{row.first_used_at:%Y-%m-%d %H:%M}" for row in used}
    written_with = {(row.role, row.key_id): row.check_value for row in used}
    table = Table("keyset", "key id", "", "in use since (UTC)")
    for role in KeysetRole:
        held = services.keyring.check_values(role)
        for key_id, check_value in held.items():
            what = "primary" if key_id == next(iter(held)) else ""
            if written_with.get((role, key_id)) not in {None, check_value}:
                what = "[red]another key under this id[/]"
            table.add_row(role, str(key_id), what, since.get((role, key_id), "-"))
        for row in used:
            if row.role == role and row.key_id not in held:
                table.add_row(role, str(row.key_id), "[yellow]not held[/]", since[(role, row.key_id)])
    out.print(table)


@keys_app.command("rotate")
def keys_rotate(
    role: Annotated[RotatingRole, typer.Argument(help="Which keyset.")],
    output: Annotated[
        Path | None, typer.Option(help="Write the new keyset here instead of in place of the old one.")
    ] = None,
) -> None:
    """Give a keyset a new primary key; the old keys stay, for recognising and opening what they made."""
    from loginetl_assets.keys.keyring import (
        OFFICER_SETTING,
        OFFICER_TEMPLATE,
        TEMPLATES,
        setting_of,
    )
    from loginetl_assets.keys.keysets import (
        enabled_key_ids,
        keyset_json,
        refuse_inline,
        replace_keyset,
        with_new_primary,
        write_once,
    )
    from loginetl_assets.keys.officer import Officer, officer_source

    services = configured_services()
    kms_key_uri = services.settings.kms_key_uri
    if role is RotatingRole.OFFICER:
        name, source = OFFICER_SETTING, officer_source(services.settings)
        if output is None:
            refuse_inline(setting_of(KeysetRole.VAULT), services.keyring.source(KeysetRole.VAULT))
        officer = Officer(services.settings)
        if output is None and not officer.opens(services.keyring.vault):
            raise OperatorError(
                f"{name} does not open what is sealed with {setting_of(KeysetRole.VAULT)}, which would be replaced: set"
                " the two that belong together, or give --output FILE"
            )
        handle = with_new_primary(officer.handle, OFFICER_TEMPLATE)
    else:
        pipeline_role = KeysetRole(role)
        name, source = setting_of(pipeline_role), services.keyring.source(pipeline_role)
        handle = with_new_primary(services.keyring.handle(pipeline_role), TEMPLATES[pipeline_role])
    text = keyset_json(handle, kms_key_uri=kms_key_uri)  # wherever a KMS key is set, keysets are kept wrapped
    public = keyset_json(handle.public_keyset_handle(), public=True) if role is RotatingRole.OFFICER else None
    if output:
        try:
            if output.exists():
                raise SettingsError(f"{output} is there already: keysets are never overwritten")
            write_once(output, text)
            if public:
                write_once(output.with_name(f"{output.stem}-public.json"), public)
        except OSError as error:
            raise SettingsError(f"cannot write {output} ({error.strerror}): check --output") from None
    else:
        replace_keyset(name, source, text)
        if public:
            replace_keyset(setting_of(KeysetRole.VAULT), services.keyring.source(KeysetRole.VAULT), public)
    err.print(f"new primary key {enabled_key_ids(handle)[0]} of the {role} keyset")
    if role is RotatingRole.MASKING:
        err.print("next: `loginetl keys retokenize`, once every pipeline process holds the new keyset")
    if role is RotatingRole.OFFICER:
        err.print("next: `loginetl keys reencrypt`, then restart what holds the old public keyset")


@keys_app.command("retokenize")
def keys_retokenize(reason: Reason = "") -> None:
    """Move rows, masked files and vault to the new masking key, while the pipeline goes on."""
    import time

    from loginetl_assets.keys.officer import Officer
    from loginetl_assets.privacy.rotate import retokenize

    services = configured_services()
    started = time.monotonic()
    database = services.database(application_name="loginetl retokenize")
    with _progress() as progress:
        counts = retokenize(
            database,
            services.bound_landing(database),
            services.keyring,
            Officer(services.settings),
            reason=reason,
            progress=progress,
        )
    seconds = time.monotonic() - started
    _print_counts("Moved", {**asdict(counts), "seconds": round(seconds, 1)})


@keys_app.command("reencrypt")
def keys_reencrypt(
    reason: Reason = "",
    to_another_officer: Annotated[
        bool,
        typer.Option(
            "--to-another-officer",
            help="Hand the vault over to the holder of a private key that is not in LOGINETL_KEYSET_OFFICER.",
        ),
    ] = False,
) -> None:
    """Seal the vault's data keys to the officer's new key, the primary one of LOGINETL_KEYSET_VAULT."""
    from loginetl_assets.keys.officer import Officer
    from loginetl_assets.privacy.rotate import rewrap

    services = configured_services()
    with _progress() as progress:
        moved = rewrap(
            services.database(application_name="loginetl rewrap"),
            services.keyring,
            Officer(services.settings),
            reason=reason,
            to_another_officer=to_another_officer,
            progress=progress,
        )
    err.print(f"the vault is sealed to key {services.keyring.key_ids(KeysetRole.VAULT)[0]}")
    _print_counts("Moved", {"data_keys": moved})


def roles() -> None:
    """Create the Postgres roles loginetl_loader, loginetl_analyst and loginetl_privacy with their grants."""
    from loginetl_assets.privacy.roles import grant_roles

    grant_roles(configured_services().database(application_name="loginetl roles"))
    err.print("roles are in place: GRANT loginetl_loader (or _analyst, _privacy) TO your logins")


class _progress:  # noqa: N801 - reads as the verb it is used as
    """A bar per step."""

    def __enter__(self) -> "Progress":
        from rich.progress import Progress as Bars

        self._bars = Bars(console=err, transient=True)
        self._bars.start()
        tasks = {}

        def show(step: str, done: int, total: int) -> None:
            if step not in tasks:
                tasks[step] = self._bars.add_task(step)
            self._bars.update(tasks[step], completed=done, total=total)

        return show

    def __exit__(self, *_: object) -> None:
        self._bars.stop()


def _print_counts(title: str, counts: dict[str, float]) -> None:
    table = Table(title=title, title_justify="left", show_header=False)
    for name, count in counts.items():
        table.add_row(name.replace("_", " "), f"{count:,}")
    out.print(table)
