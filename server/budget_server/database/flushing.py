"""Making files and the names of files durable."""

import os
from pathlib import Path


def flush(path: Path) -> None:
    """Make a file's bytes, or a directory's names, durable; not for a file that SQLite has open in this process.

    Raises:
        OSError: they may be lost in a power failure.
    """
    try:
        fd = os.open(path, os.O_RDONLY)
    except PermissionError:
        if path.is_dir():  # Windows opens no directory
            return
        raise
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def flush_tree(directory: Path) -> None:
    """Make all of a directory durable."""
    for path in directory.rglob("*"):
        flush(path)
    flush(directory)
