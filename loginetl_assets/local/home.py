"""LOGINETL_HOME is used only where it is ours: what lies in it is believed, keys too, and root gives a part of it away.

By default it is `.loginetl` in the current directory, where one may lie that we did not make: put there by another
user, or unpacked with an archive or a repository, then as ours. So its owner is looked at and its mode, and no link in
it is followed. Links above it are the caller's own choice (`/tmp` is one on macOS).
"""

import os
import stat
from pathlib import Path

from loginetl_assets.local.errors import EmbeddedStackError

# All that is made in it, by whichever part of the project.
ENTRIES = ("dagster", "keys", "landing", "lock", "logs", "postgres", "services.json", "services.new", "sqs")


def place_of(home: Path) -> Path:
    """Where a home is: absolute and without a link above it, the same for every process."""
    place = home.expanduser().absolute()
    return place.resolve() if place.name in {"", ".."} else place.parent.resolve() / place.name


def check_home(home: Path) -> None:
    """Looks at a home and at what is made in it, before any of it is read or written; a missing one is fine.

    Raises:
        EmbeddedStackError: it is not ours, others can write to it, or there is a link in it.
    """
    place, us = place_of(home), os.geteuid()
    if not _check(place, us):
        return
    for name in ENTRIES:
        path = place / name
        # Before its owner is looked at: one who makes it gives it away before anything is in it.
        children = _children(path)
        found = _lstat(path)
        if found is None:
            continue
        # As root PostgreSQL runs as another user, who has its directory and all that is in it: see `Postgres`.
        owner = found.st_uid if us == 0 and name == "postgres" else us
        _check(path, owner)
        if name == "keys" and found.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise _refused(path, "is open to other users, who may know the keys", f"`chmod go= {path}`, or ")
        for child in children:
            _check(child, owner, may_be_shared=True)


def make_home(home: Path) -> Path:
    """Makes a home where it is missing, for its owner alone, and returns where it is.

    Raises:
        EmbeddedStackError: as `check_home`.
        OSError: it cannot be made.
    """
    place = place_of(home)
    place.mkdir(mode=0o700, parents=True, exist_ok=True)
    check_home(place)
    return place


def _check(path: Path, owner: int, *, may_be_shared: bool = False) -> bool:
    """Whether something is there; refuses what is a link, another user's, or open for others to write to."""
    found = _lstat(path)
    if found is None:
        return False
    if stat.S_ISLNK(found.st_mode):
        raise _refused(path, "is a link, and loginetl makes and follows none there", "remove it, or ")
    if found.st_uid != owner:
        raise _refused(path, "belongs to another user")
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH) and not may_be_shared:
        raise _refused(path, "can be written to by other users", f"`chmod go-w {path}`, or ")
    return True


def _lstat(path: Path) -> os.stat_result | None:
    try:
        return path.lstat()
    except OSError:  # missing, or out of reach: whoever goes on to use it says so
        return None


def _children(path: Path) -> list[Path]:
    try:
        return sorted(path.iterdir())
    except OSError:  # likewise, or no directory
        return []


def _refused(path: Path, reason: str, remedy: str = "") -> EmbeddedStackError:
    return EmbeddedStackError(f"{path} {reason}: {remedy}set LOGINETL_HOME to a directory of your own")
