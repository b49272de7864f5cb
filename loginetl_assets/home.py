"""LOGINETL_HOME, used only where it belongs to this user alone: its content is trusted, the keys too.

By default it is `.loginetl` in the current directory, where one may exist that loginetl did not make: put there by
another user, or unpacked with an archive or a repository. So owner and mode are checked, and no link in it is followed.
Links above it are the caller's own choice (`/tmp` is one on macOS).
"""

import os
import stat
from contextlib import suppress
from pathlib import Path

from loginetl_assets.errors import EmbeddedStackError

# All that is made in it, by whichever part of the project.
ENTRIES = ("dagster", "keys", "landing", "lock", "logs", "postgres", "services.json", "services.new", "sqs")


def resolve_home(home: Path) -> Path:
    """Returns a home's absolute path without links above it, the same for every process."""
    path = home.expanduser().absolute()
    return path.resolve() if path.name in {"", ".."} else path.parent.resolve() / path.name


def check_home(home: Path) -> None:
    """Checks a home and all that is made in it, before any of it is read or written; a missing one is fine.

    Raises:
        EmbeddedStackError: it belongs to another user, others can write to it, or there is a link in it.
    """
    home, us = resolve_home(home), os.geteuid()
    if not _exists_safely(home, us):
        return
    for name in ENTRIES:
        path = home / name
        # Listed before the owner is checked: an attacker gives a directory away while it is still empty.
        children: list[Path] = []
        with suppress(OSError):  # as `_lstat`, or not a directory
            children = sorted(path.iterdir())
        found = _lstat(path)
        if found is None:
            continue
        # As root PostgreSQL runs as another user, who owns its directory and all that is in it: see `Postgres`.
        owner = found.st_uid if us == 0 and name == "postgres" else us
        _exists_safely(path, owner)
        if name == "keys" and found.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise _refused(path, "is open to other users, who may know the keys", f"`chmod go= {path}`, or ")
        for child in children:
            _exists_safely(child, owner, may_be_shared=True)


def make_home(home: Path) -> Path:
    """Makes a home where it is missing, for its owner alone, and returns its path as `resolve_home`.

    Raises:
        OSError: it cannot be made; EmbeddedStackError as for `check_home`.
    """
    home = resolve_home(home)
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    check_home(home)
    return home


def _exists_safely(path: Path, owner: int, *, may_be_shared: bool = False) -> bool:
    """Returns whether a path exists; refuses a link, another user's, or one that others can write to."""
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


def _refused(path: Path, reason: str, remedy: str = "") -> EmbeddedStackError:
    return EmbeddedStackError(f"{path} {reason}: {remedy}set LOGINETL_HOME to a directory of your own")
