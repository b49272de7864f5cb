"""What must outlive a power cut was synced: the file with all its bytes, then each directory with the entry in it.

A disk keeps what was synced, and may lose the rest. So the tests note, at each sync, what the file or the directory
held at that moment.
"""

import os
import stat
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import tink

from loginetl_assets.durable import write_new, write_once
from loginetl_assets.errors import SettingsError
from loginetl_assets.keys.keyring import OFFICER_FILE, TEMPLATES, Keyring
from loginetl_assets.keys.keysets import keyset_json, replace_keyset
from loginetl_assets.keys.new_keys import create_keysets
from loginetl_assets.landing.object_store import Landing
from loginetl_assets.settings import KeysetRole


@dataclass
class Syncs:
    """What was on the disk for certain, by inode."""

    sizes: dict[int, int] = field(default_factory=dict)
    entries: dict[int, dict[str, int]] = field(default_factory=dict)

    def note(self, descriptor: int) -> None:
        """Notes what a descriptor's file or directory holds now."""
        found = os.fstat(descriptor)
        if stat.S_ISDIR(found.st_mode):
            with os.scandir(descriptor) as listing:
                self.entries[found.st_ino] = {entry.name: entry.inode() for entry in listing}
        else:
            self.sizes[found.st_ino] = found.st_size

    def holds(self, path: Path, root: Path) -> bool:
        """Whether a file would be found under `root` after a power cut, whole."""
        found = path.stat()
        return self.sizes.get(found.st_ino) == found.st_size and self.holds_entry(path, root)

    def holds_entry(self, path: Path, root: Path) -> bool:
        """Whether a path would be found under `root` after a power cut."""
        if path == root:
            return True
        entries = self.entries.get(path.parent.stat().st_ino, {})
        return entries.get(path.name) == path.stat().st_ino and self.holds_entry(path.parent, root)


@pytest.fixture
def syncs(monkeypatch: pytest.MonkeyPatch) -> Syncs:
    """Notes every sync of this process; each is made all the same."""
    noted = Syncs()
    sync: Callable[[int], None] = os.fsync

    def note_and_sync(descriptor: int) -> None:
        noted.note(descriptor)
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", note_and_sync)
    return noted


def test_an_object_of_a_new_landing_is_there_after_a_power_cut(tmp_path: Path, syncs: Syncs) -> None:
    directory = tmp_path / "new" / "landing"
    landing = Landing(directory.as_uri())
    for key in ("batches/one", "masked/two", "batches/three"):
        landing.put(key, b"content")
        assert syncs.holds(directory / key, tmp_path), key


def test_a_keyset_that_is_written_is_there_after_a_power_cut(tmp_path: Path, syncs: Syncs) -> None:
    path = tmp_path / "keyset.json"
    write_once(path, "text")
    assert syncs.holds(path, tmp_path)


def test_a_new_file_whose_name_another_process_took_is_not_told_as_written(tmp_path: Path) -> None:
    taken = tmp_path / "keyset.json"
    taken.symlink_to("nothing")  # taken, and not seen by a look before
    with pytest.raises(SettingsError, match="is there already"):
        write_new({taken: "text"})


def test_keys_that_are_made_on_first_use_are_there_after_a_power_cut(tmp_path: Path, syncs: Syncs) -> None:
    """What they encrypt is durable, and worth nothing without them."""
    keys = tmp_path / "new" / "home" / "keys"
    Keyring({}, keys).make_missing()
    for name in (*(f"{role}.json" for role in KeysetRole), OFFICER_FILE):
        assert syncs.holds(keys / name, tmp_path), name


def test_keys_of_keys_init_are_there_after_a_power_cut(tmp_path: Path, syncs: Syncs) -> None:
    create_keysets(tmp_path / "new" / "keysets")
    for name in (*(f"{role}.json" for role in KeysetRole), OFFICER_FILE):
        assert syncs.holds(tmp_path / "new" / "keysets" / name, tmp_path), name


def test_a_keyset_that_is_replaced_is_there_after_a_power_cut(tmp_path: Path, syncs: Syncs) -> None:
    """The rows that are loaded next have tokens of its new key."""
    path = tmp_path / "real" / "keyset.json"
    path.parent.mkdir()
    path.write_text(keyset_json(tink.new_keyset_handle(TEMPLATES[KeysetRole.MASKING])))
    link = tmp_path / "link.json"
    link.symlink_to(path)
    replace_keyset("", str(link), "the new one")
    assert path.read_text() == "the new one"
    assert syncs.holds(path, path.parent)
