"""New keysets, and new primary keys for those there are."""

from pathlib import Path

import tink

from loginetl_assets.durable import make_directory
from loginetl_assets.errors import OperatorError, SettingsError
from loginetl_assets.keys.keyring import (
    OFFICER_FILE,
    OFFICER_TEMPLATE,
    TEMPLATES,
    Keyring,
)
from loginetl_assets.keys.keysets import (
    enabled_key_ids,
    keyset_json,
    public_keyset_json,
    replace_keyset,
    require_replaceable,
    with_new_primary,
    write_once,
)
from loginetl_assets.keys.officer import Officer, officer_source
from loginetl_assets.settings import OFFICER_SETTING, KeysetRole, Settings


def create_keysets(directory: Path, kms_key_uri: str | None = None) -> None:
    """Writes the pipeline's four keysets and the officer's private one to an empty or new directory.

    Args:
        directory: where; each role's file is `<role>.json`, the officer's `OFFICER_FILE`.
        kms_key_uri: the KMS key that wraps all but the vault's public one.

    Raises:
        SettingsError: the directory is not empty.
        OperatorError: it cannot be written, or the KMS key cannot be used.
    """
    try:
        make_directory(directory)
        if any(directory.iterdir()):
            raise SettingsError(f"{directory} is not empty: keysets are never overwritten")
        for role, template in TEMPLATES.items():
            write_once(directory / f"{role}.json", keyset_json(tink.new_keyset_handle(template), kms_key_uri))
        officer = tink.new_keyset_handle(OFFICER_TEMPLATE)
        write_once(directory / f"{KeysetRole.VAULT}.json", public_keyset_json(officer))
        write_once(directory / OFFICER_FILE, keyset_json(officer, kms_key_uri))
    except OSError as error:
        raise OperatorError(f"cannot write keysets to {directory} ({error.strerror})") from None


def rotate_keyset(keyring: Keyring, role: KeysetRole, settings: Settings, output: Path | None = None) -> int:
    """Gives one of the pipeline's secret keysets a new primary key and returns its id.

    Args:
        keyring: holds the keyset.
        role: which one.
        settings: with a KMS key, the new keyset is wrapped by it, whether the old one was or not.
        output: a new file to write to, instead of replacing the keyset in its place.

    Raises:
        OperatorError: the keyset cannot be read, or its place or `output` cannot be written.
    """
    handle = with_new_primary(keyring.handle(role), TEMPLATES[role])
    text = keyset_json(handle, settings.kms_key_uri)
    if output:
        _write_new({output: text})
    else:
        replace_keyset(role.setting, keyring.source(role), text)
    return enabled_key_ids(handle)[0]


def rotate_officer_keyset(keyring: Keyring, settings: Settings, output: Path | None = None) -> int:
    """Gives the officer's private keyset and the vault's public one a new primary key and returns its id.

    The arguments and errors are those of `rotate_keyset`; the public keyset is written to `<output>-public.json`.
    """
    officer = Officer(settings)
    handle = with_new_primary(officer.handle, OFFICER_TEMPLATE)
    text, public = keyset_json(handle, settings.kms_key_uri), public_keyset_json(handle)
    if output:
        _write_new({output: text, output.with_name(f"{output.stem}-public.json"): public})
        return enabled_key_ids(handle)[0]
    vault = KeysetRole.VAULT.setting
    require_replaceable(vault, keyring.source(KeysetRole.VAULT))
    if not officer.opens(keyring.vault):
        raise OperatorError(
            f"{OFFICER_SETTING} does not decrypt what is encrypted with {vault}, which would be replaced: set the two"
            " that belong together, or give --output FILE"
        )
    replace_keyset(OFFICER_SETTING, officer_source(settings), text)
    replace_keyset(vault, keyring.source(KeysetRole.VAULT), public)
    return enabled_key_ids(handle)[0]


def _write_new(texts: dict[Path, str]) -> None:
    for path in texts:
        if path.exists():
            raise SettingsError(f"{path} is there already: keysets are never overwritten")
    for path, text in texts.items():
        try:
            write_once(path, text)
        except OSError as error:
            raise SettingsError(f"cannot write {path} ({error.strerror}): check --output") from None
