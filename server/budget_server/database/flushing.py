"""Durability of files and of their names."""

import os
from pathlib import Path


def flush(path: Path) -> None:
    """Make a file's bytes, or a directory's names, durable; not for a file that SQLite has open in this process.

    Raises:
        OSError: the bytes or names may be lost in a power failure.
    """
    try:
        fd = os.open(path, os.O_RDONLY)
    except PermissionError:
        if path.is_dir():  # Windows cannot open a directory
            return
        raise
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def flush_tree(directory: Path) -> None:
    """Make a whole directory tree durable."""
    for path in directory.rglob("*"):
        flush(path)
    flush(directory)
