"""New keysets, new primary keys for those there are, and keysets without their old keys."""

from pathlib import Path

import tink

from loginetl_assets.durable import make_directory, write_new, write_once
from loginetl_assets.errors import OperatorError, SettingsError
from loginetl_assets.keys import keysets
from loginetl_assets.keys.keyring import OFFICER_FILE, OFFICER_TEMPLATE, TEMPLATES, Keyring
from loginetl_assets.keys.officer import Officer
from loginetl_assets.settings import OFFICER_SETTING, KeysetRole


def create_keysets(directory: Path, kms_key_uri: str | None = None) -> None:
    """Writes the pipeline's four keysets and the officer's private one to an empty or new directory.

    The KMS key wraps all but the vault's public one. Raises OperatorError where either cannot be used.
    """
    try:
        make_directory(directory)
        if any(directory.iterdir()):
            raise SettingsError(f"{directory} is not empty: keysets are never overwritten")
        for role, template in TEMPLATES.items():
            text = keysets.keyset_json(tink.new_keyset_handle(template), kms_key_uri)
            write_once(directory / f"{role}.json", text)
        officer = tink.new_keyset_handle(OFFICER_TEMPLATE)
        write_once(directory / f"{KeysetRole.VAULT}.json", keysets.public_keyset_json(officer))
        write_once(directory / OFFICER_FILE, keysets.keyset_json(officer, kms_key_uri))
    except OSError as error:
        raise OperatorError(f"cannot write keysets to {directory} ({error.strerror})") from None


def rotate_keyset(keyring: Keyring, role: KeysetRole, output: Path | None = None) -> int:
    """Gives one of the pipeline's secret keysets a new primary key and returns its id.

    With a KMS key the new keyset is wrapped by it, whether the old one was or not. It replaces the old one, or is
    written to the new file `output`. Raises OperatorError where it cannot be read or its place cannot be written.
    """
    return _replace(keyring, role, keysets.with_new_primary(keyring.handle(role), TEMPLATES[role]), output)


def rotate_officer_keyset(keyring: Keyring, officer: Officer, output: Path | None = None) -> int:
    """Does as `rotate_keyset` to the officer's keyset, and renews the vault's public one: `<output>-public.json`."""
    return _replace_officers(keyring, officer, keysets.with_new_primary(officer.handle, OFFICER_TEMPLATE), output)


def remove_old_keys(keyring: Keyring, role: KeysetRole, officer: Officer | None, output: Path | None = None) -> None:
    """Leaves a keyset its primary key alone; that of the vault with the officer's. Places and errors as above."""
    if officer is None:
        _replace(keyring, role, keysets.without_old_keys(keyring.handle(role)), output)
    else:
        _replace_officers(keyring, officer, keysets.without_old_keys(officer.handle), output)


def _replace(keyring: Keyring, role: KeysetRole, handle: tink.KeysetHandle, output: Path | None) -> int:
    text = keysets.keyset_json(handle, keyring.kms_key_uri)
    if output:
        write_new({output: text})
    else:
        keysets.replace_keyset(role.setting, keyring.source(role), text)
    return keysets.enabled_key_ids(handle)[0]


def _replace_officers(keyring: Keyring, officer: Officer, handle: tink.KeysetHandle, output: Path | None) -> int:
    text, public = keysets.keyset_json(handle, keyring.kms_key_uri), keysets.public_keyset_json(handle)
    if output:
        write_new({output: text, output.with_name(f"{output.stem}-public.json"): public})
        return keysets.enabled_key_ids(handle)[0]
    vault, source = KeysetRole.VAULT.setting, keyring.source(KeysetRole.VAULT)
    keysets.require_replaceable(vault, source)
    if not officer.opens(keyring.vault):
        raise OperatorError(
            f"{OFFICER_SETTING} does not decrypt what is encrypted with {vault}, which would be replaced: set the two"
            " that belong together, or give --output FILE"
        )
    keysets.replace_keyset(OFFICER_SETTING, officer.source, text)
    keysets.replace_keyset(vault, source, public)
    return keysets.enabled_key_ids(handle)[0]
