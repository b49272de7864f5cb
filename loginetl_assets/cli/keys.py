"""`loginetl keys`: make, show and rotate keysets, and move what is stored to new keys."""

import time
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from loginetl_assets.cli.console import Yes, confirm, err, note, out, print_counts, progress
from loginetl_assets.cli.environment import configured_services
from loginetl_assets.cli.privacy import Reason
from loginetl_assets.errors import OperatorError
from loginetl_assets.settings import KeysetRole

app = typer.Typer(no_args_is_help=True, help="Make, show and rotate keysets.")

# The keysets that can be rotated; `officer` also renews the vault's public keyset.
RotatingRole = StrEnum("RotatingRole", ("MASKING", "LANDING", "REJECTS", "OFFICER"))

_NEXT = {
    RotatingRole.MASKING: "next: `loginetl keys retokenize`, once every pipeline process holds the new keyset",
    RotatingRole.OFFICER: "next: `loginetl keys reencrypt`, then restart what holds the old public keyset",
}


@app.command()
def init(
    directory: Annotated[Path, typer.Argument(help="An empty or new directory for the keysets.")],
    kms_key_uri: Annotated[
        str | None, typer.Option(help="Wrap them with this KMS key: aws-kms://arn:aws:kms:…")
    ] = None,
) -> None:
    """Make a set of keysets for staging or production: four for the pipeline, one for the privacy officer."""
    from loginetl_assets.keys.keyring import OFFICER_FILE
    from loginetl_assets.keys.new_keys import create_keysets

    create_keysets(directory, kms_key_uri)
    for role in KeysetRole:
        print(f"{role.setting}={directory / f'{role}.json'}")  # noqa: T201
    err.print(
        f"{directory / OFFICER_FILE} is the privacy officer's: move it to where the pipeline cannot read it, and keep"
        " a copy. Without it no value can be recovered; without the masking keyset no token can be made again."
    )


@app.command()
def show() -> None:
    """Show key ids by keyset, the primary first, and which the database was written with; never a key."""
    from loginetl_assets.storage.installation import used_keys

    services = configured_services()
    with services.database().transaction() as connection:
        used = used_keys(connection)
    table = Table("keyset", "key id", "", "in use since (UTC)")
    for role in KeysetRole:
        held = services.keyring.check_values(role)
        for key_id in {**held, **used[role]}:
            key = used[role].get(key_id)
            if key_id not in held:
                state = "retired" if key and key.retired_at else "[yellow]not held[/]"
            elif key and key.check_value != held[key_id]:
                state = "[red]another key under this id[/]"
            else:
                state = "primary" if key_id == next(iter(held)) else ""
            table.add_row(role, str(key_id), state, f"{key.first_used_at:%Y-%m-%d %H:%M}" if key else "-")
    out.print(table)


@app.command()
def rotate(
    role: Annotated[RotatingRole, typer.Argument(help="Which keyset.")],
    output: Annotated[
        Path | None, typer.Option(help="Write the new keyset here instead of in place of the old one.")
    ] = None,
) -> None:
    """Give a keyset a new primary key; the old keys stay, to recognize and decrypt what they made."""
    from loginetl_assets.keys.new_keys import rotate_keyset, rotate_officer_keyset

    services = configured_services()
    if role is RotatingRole.OFFICER:
        key_id = rotate_officer_keyset(services.keyring, services.officer(), output)
    else:
        key_id = rotate_keyset(services.keyring, KeysetRole(role), output)
    err.print(f"new primary key {key_id} of the {role} keyset")
    if role in _NEXT:
        err.print(_NEXT[role])


@app.command()
def retire(
    role: Annotated[RotatingRole, typer.Argument(help="Which keyset.")],
    output: Annotated[
        Path | None, typer.Option(help="Write the new keyset here instead of in place of the old one.")
    ] = None,
    yes: Yes = False,
) -> None:
    """Remove the old keys from a keyset permanently, once nothing is under them; shows the counts that prove it."""
    from loginetl_assets.keys.new_keys import remove_old_keys
    from loginetl_assets.privacy.retire import MOVED_BY, Retirement

    services = configured_services()
    database = services.database(application_name="loginetl keys retire")
    officer = services.officer() if role is RotatingRole.OFFICER else None
    keyset = KeysetRole.VAULT if officer else KeysetRole(role)
    with progress() as show:
        retirement = Retirement(
            database, services.bound_landing(database), services.keyring, keyset, officer, progress=show
        )
        if not retirement.key_ids:
            raise OperatorError(f"the {role} keyset has no old key: `loginetl keys rotate {role}` makes a new one")
        old = ", ".join(map(str, retirement.key_ids))
        counts = retirement.count()
    print_counts(f"Under {old}", counts)
    if left := ", ".join(f"{name.replace('_', ' ')} ({count:,})" for name, count in counts.items() if count):
        raise OperatorError(f"nothing was retired; under old {role} keys are {left}: {MOVED_BY[keyset]}")
    note(
        f"[yellow]A backup from before can be read only with {old}:[/] keep a copy of this keyset, apart from your"
        " backups, for as long as you keep such a backup. Restart what still holds it first."
    )
    confirm(f"Remove {old} from the {role} keyset permanently?", yes=yes, otherwise="nothing was retired")
    retirement.record()
    remove_old_keys(services.keyring, keyset, officer, output)
    err.print(f"{old} retired: the {role} keyset has its primary key alone")


@app.command()
def retokenize(reason: Reason = "") -> None:
    """Move rows, masked files and vault to the new masking key, while the pipeline runs."""
    from loginetl_assets.privacy.rotate import retokenize as retokenize_all

    services = configured_services()
    started = time.monotonic()
    database = services.database(application_name="loginetl retokenize")
    landing, keys, officer = services.bound_landing(database), services.keyring, services.officer()
    with progress() as show:
        totals = retokenize_all(database, landing, keys, officer, reason=reason, progress=show)
    print_counts("Moved", {**totals.as_metadata(), "seconds": round(time.monotonic() - started, 1)})


@app.command()
def reencrypt(
    reason: Reason = "",
    to_another_officer: Annotated[
        bool, typer.Option("--to-another-officer", help="Hand the vault to a key that LOGINETL_KEYSET_OFFICER lacks.")
    ] = False,
) -> None:
    """Re-encrypt data keys and list of erasures for the officer's new key, the primary one of LOGINETL_KEYSET_VAULT."""
    from loginetl_assets.privacy.erasures import ErasureList
    from loginetl_assets.privacy.rotate import reencrypt_data_keys

    services = configured_services()
    database = services.database(application_name="loginetl reencrypt")
    keys, officer = services.keyring, services.officer()
    with progress() as show:
        moved = reencrypt_data_keys(
            database, keys, officer, reason=reason, to_another_officer=to_another_officer, progress=show
        )
    erasures = ErasureList(database, services.bound_landing(database), keys).reencrypt(officer)
    err.print(f"the vault is encrypted for key {keys.key_ids(KeysetRole.VAULT)[0]}")
    print_counts("Moved", {"data_keys": moved, "erasures": erasures})
