"""Writes that survive a power failure: a file system keeps a new name only once its directory was synced."""

import os
from pathlib import Path


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
