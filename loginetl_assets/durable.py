"""Writes that survive a power failure: a file system keeps a new name only once its directory was synced."""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from tempfile import NamedTemporaryFile

from loginetl_assets.errors import SettingsError


def sync(path: Path) -> None:
    """Writes a file's content, or a directory's entries, to the disk before it returns."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_directory(path: Path) -> None:
    """Makes a directory, and its missing parents, for its owner alone; an existing one stays as it is."""
    if path.exists():
        return
    missing = [path, *(parent for parent in path.parents if not parent.exists())]
    path.mkdir(parents=True, exist_ok=True, mode=0o700)
    for made in missing:
        sync(made.parent)


def write_once(path: Path, text: str) -> bool:
    """Writes a file, mode 0600, unless it exists: whole or not at all, and the first of two writers wins.

    Returns whether this call wrote it.
    """
    # Made with mode 0600, gone at the end of the block.
    with NamedTemporaryFile("w", encoding="utf-8", dir=path.parent) as draft:
        draft.write(text)
        draft.flush()
        os.fsync(draft.fileno())
        try:
            os.link(draft.name, path)
            is_ours = True
        except FileExistsError:
            is_ours = False
    sync(path.parent)
    return is_ours


def require_new(paths: Iterable[Path]) -> None:
    """Raises SettingsError where one of the files exists, or its directory does not."""
    for path in paths:
        if path.exists():
            raise _exists(path)
        if not path.parent.is_dir():
            raise SettingsError(f"cannot write {path}: {path.parent} is not a directory; name another with --output")


def _exists(path: Path) -> SettingsError:
    return SettingsError(f"{path} is there already, and is never overwritten: name another file with --output")


def write_new(texts: Mapping[Path, str]) -> None:
    """Writes files as `write_once`; raises SettingsError where one exists, before it writes any.

    The error is the same where another process makes one of them meanwhile; those before it are written then.
    """
    require_new(texts)
    for path, text in texts.items():
        try:
            is_ours = write_once(path, text)
        except OSError as error:
            raise SettingsError(f"cannot write {path} ({error.strerror}): check --output") from None
        if not is_ours:
            raise _exists(path)
