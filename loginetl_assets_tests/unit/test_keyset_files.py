"""Keyset files as deployments have them: links, foreign owners, mounts that cannot be written, modes."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import tink

from loginetl_assets.errors import OperatorError
from loginetl_assets.keys.keyring import OFFICER_TEMPLATE, TEMPLATES, Keyring
from loginetl_assets.keys.keysets import keyset_json, public_keyset_json, read_keyset, replace_keyset
from loginetl_assets.keys.officer import Officer
from loginetl_assets.settings import KeysetRole

NAME = "LOGINETL_KEYSET_MASKING"
MASKING = keyset_json(tink.new_keyset_handle(TEMPLATES[KeysetRole.MASKING]))
OFFICER = tink.new_keyset_handle(OFFICER_TEMPLATE)
PUBLIC = public_keyset_json(OFFICER)


def keyset_file(directory: Path, mode: int, text: str = MASKING) -> Path:
    path = directory / "keyset.json"
    path.write_text(text)
    path.chmod(mode)
    return path


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize("before", [0o400, 0o440, 0o600, 0o640])
def test_a_keyset_that_is_replaced_keeps_its_mode(tmp_path: Path, before: int) -> None:
    path = keyset_file(tmp_path, before)
    replace_keyset(NAME, str(path), "new")
    assert (path.read_text(), mode(path)) == ("new", before)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(os.getuid() != 0, reason="only root gives files away")
def test_a_keyset_that_is_replaced_keeps_its_owner_and_group(tmp_path: Path) -> None:
    path = keyset_file(tmp_path, 0o440)
    os.chown(path, 10001, 10002)
    replace_keyset(NAME, f"file://{path}", "new")
    found = path.stat()
    assert (path.read_text(), found.st_uid, found.st_gid, mode(path)) == ("new", 10001, 10002, 0o440)


@pytest.mark.skipif(os.getuid() != 0, reason="only root becomes another user")
def test_who_cannot_keep_the_owner_replaces_nothing(tmp_path: Path) -> None:
    """The service that reads the file would be locked out by one of the officer's."""
    path = keyset_file(tmp_path, 0o644, PUBLIC)
    os.chown(path, 10001, 10001)
    for directory in (tmp_path, *tmp_path.parents[:3]):
        directory.chmod(0o777)
    script = (
        "import os, sys\n"
        "from loginetl_assets.errors import OperatorError\n"
        "from loginetl_assets.keys.keysets import replace_keyset\n"
        "os.setgroups([]); os.setgid(10002); os.setuid(10002)\n"
        "try:\n    replace_keyset('LOGINETL_KEYSET_VAULT', sys.argv[1], 'new')\n"
        "except OperatorError as error:\n    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(path)], capture_output=True, text=True, check=True)
    assert "LOGINETL_KEYSET_VAULT" in done.stdout
    assert "--output FILE" in done.stdout
    assert path.read_text() == PUBLIC
    assert list(tmp_path.iterdir()) == [path]


def test_a_link_stays_a_link_and_its_target_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    target = keyset_file(tmp_path / "data", 0o400)
    middle, link = tmp_path / "middle", tmp_path / "link.json"
    middle.symlink_to("data")
    link.symlink_to("middle/keyset.json")
    replace_keyset(NAME, str(link), "new")
    assert link.is_symlink()
    assert middle.is_symlink()
    assert (target.read_text(), mode(target)) == ("new", 0o400)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "link.json", "middle"]


@pytest.mark.parametrize("setting", ["nowhere/keyset.json", "dangling.json"])
def test_a_place_that_cannot_be_written_is_reported_with_the_way_out(tmp_path: Path, setting: str) -> None:
    (tmp_path / "dangling.json").symlink_to("nowhere/else.json")
    with pytest.raises(OperatorError, match=f"{NAME}: cannot write .*--output FILE"):
        replace_keyset(NAME, str(tmp_path / setting), "new")
    assert [path.name for path in tmp_path.iterdir()] == ["dangling.json"]


def test_a_mounted_secret_that_cannot_be_replaced_stays_as_it_is(tmp_path: Path) -> None:
    """Docker mounts each secret as a file of its own, over which nothing can be renamed."""
    path = keyset_file(tmp_path, 0o400)
    source = tmp_path / "source"
    source.write_text(MASKING)
    script = (
        f"mount --bind {source} {path} && exec {sys.executable} -c "
        "'from loginetl_assets.keys.keysets import replace_keyset as r; import sys; r(*sys.argv[1:])' "
        f"{NAME} {path} new"
    )
    unshared = ["unshare", "--map-root-user", "--mount"]
    if subprocess.run([*unshared, "true"], capture_output=True, check=False).returncode:
        pytest.skip("needs a mount namespace")
    done = subprocess.run([*unshared, "sh", "-c", script], capture_output=True, text=True, check=False)
    assert f"OperatorError: {NAME}: cannot write" in done.stderr, done.stderr
    assert "--output FILE" in done.stderr
    assert source.read_text() == MASKING
    assert sorted(one.name for one in tmp_path.iterdir()) == ["keyset.json", "source"], "no draft with a key stays"


@pytest.mark.parametrize("readable", [0o444, 0o604, 0o644, 0o602])
def test_a_keyset_open_to_everybody_is_refused_outside_local(tmp_path: Path, readable: int) -> None:
    path = keyset_file(tmp_path, readable)
    link = tmp_path / "link.json"
    link.symlink_to(path)
    for setting in (str(path), f"file://{path}", str(link)):
        with pytest.raises(OperatorError, match=f"{NAME}: .*chmod") as caught:
            _ = Keyring({KeysetRole.MASKING: setting}).tokenizer
        assert str(path) not in str(caught.value)
    local = Keyring({KeysetRole.MASKING: str(path)}, tmp_path / "keys")
    assert local.key_ids(KeysetRole.MASKING), "the local environment is one user's"


@pytest.mark.parametrize("closed", [0o400, 0o440, 0o600, 0o640])
def test_a_keyset_closed_to_others_is_taken(tmp_path: Path, closed: int) -> None:
    assert Keyring({KeysetRole.MASKING: str(keyset_file(tmp_path, closed))}).key_ids(KeysetRole.MASKING)


def test_a_public_keyset_may_be_read_by_everybody_and_written_by_none(tmp_path: Path) -> None:
    assert Keyring({KeysetRole.VAULT: str(keyset_file(tmp_path, 0o644, PUBLIC))}).vault
    with pytest.raises(OperatorError, match="LOGINETL_KEYSET_VAULT: .*chmod"):
        _ = Keyring({KeysetRole.VAULT: str(keyset_file(tmp_path, 0o646, PUBLIC))}).vault


def test_the_officers_keyset_open_to_everybody_is_refused_outside_local(tmp_path: Path) -> None:
    path = keyset_file(tmp_path, 0o644, keyset_json(OFFICER))
    with pytest.raises(OperatorError, match="LOGINETL_KEYSET_OFFICER: .*chmod"):
        Officer(str(path))
    path.chmod(0o600)
    assert Officer(str(path)).key_ids


def test_a_wrapped_keyset_may_be_read_by_everybody(tmp_path: Path) -> None:
    """It is no secret without the KMS key; the error is that of the missing one."""
    path = keyset_file(tmp_path, 0o644, '{"encryptedKeyset": "AAAA"}')
    with pytest.raises(OperatorError, match="LOGINETL_KMS_KEY_URI"):
        _ = Keyring({KeysetRole.MASKING: str(path)}).tokenizer


def test_a_secret_without_a_region_names_the_variable(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))  # no ~/.aws of the developer's
    monkeypatch.delenv("AWS_DEFAULT_REGION")
    with pytest.raises(OperatorError, match=f"^{NAME}: .*no AWS region: set AWS_DEFAULT_REGION"):
        read_keyset(NAME, "aws-secretsmanager:masking")
