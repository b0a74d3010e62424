"""Copying shared files as they are at one moment, while other processes go on working."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import apsw

from budget_server.storage.file import DurableFile
from budget_tools.errors import StorageUnavailableError

_PAGES_PER_STEP = 1_000


def copy_together(files: Sequence[tuple[DurableFile[Any], Path]], meanwhile: Callable[[], None]) -> None:
    """Copy files through SQLite, all as they are at the same moment.

    All of them are held only until the moment is pinned, by a read transaction in each; then they are copied while
    others write.

    Args:
        files: each with its copy, which must not be there yet; always in the same order, so that two who copy
            do not wait for each other.
        meanwhile: what is to be done at that moment, briefly.

    Raises:
        StorageUnavailableError: a file could not be held or read, or a copy not be written.
    """
    with ExitStack() as pinned:
        with ExitStack() as holding:
            sources = [holding.enter_context(file.held()) for file, _ in files]
            for source in sources:
                source.execute("BEGIN")
                pinned.callback(source.execute, "ROLLBACK")
                source.pragma("user_version")  # the transaction begins with its first read
            meanwhile()
        for (file, copy), source in zip(files, sources, strict=True):
            try:
                _copy(source, copy)
            except apsw.Error as exc:
                raise StorageUnavailableError(f"{file} could not be copied to {copy}: {exc}.") from exc


def _copy(source: apsw.Connection, path: Path) -> None:
    path.touch(mode=0o600, exist_ok=False)
    copy = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READWRITE)
    try:
        with copy.backup("main", source, "main") as progress:
            while not progress.done:
                progress.step(_PAGES_PER_STEP)
        settle_in_one_file(copy)
    finally:
        copy.close()


def settle_in_one_file(db: apsw.Connection) -> None:
    """Fold a database's log into it, so that it is one file that can be carried anywhere."""
    db.pragma("journal_mode", "delete")
