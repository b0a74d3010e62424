"""Consistent copies of shared files, made while other processes go on working."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from operator import itemgetter
from pathlib import Path

import apsw

from budget_server.database.file import DurableFile
from budget_server.database.schema import FileKind
from budget_tools.core.errors import StorageUnavailableError

_PAGES_PER_STEP = 1_000


class _Unused:
    """The view of a file on which no operation is run."""

    def __init__(self, db: apsw.Connection) -> None:
        pass

    def begin(self, wall_ms: int) -> bool:
        """Do nothing."""
        raise NotImplementedError

    def remember_time(self) -> None:
        """Do nothing."""


def copy_together(
    kinds: Sequence[tuple[str, FileKind]], directory: Path, copies: Path, meanwhile: Callable[[], None]
) -> None:
    """Copy files through SQLite, all of them as of the same moment.

    All files are locked only until a read transaction in each has pinned that moment; then they are copied while others
    write.

    Args:
        kinds: the names of the files and their kinds. They are locked in the order of their names, so that two
            processes that lock several do not deadlock.
        directory: the directory of the files; a file of an earlier schema is migrated there.
        copies: the directory of their copies, readable by their owner alone.
        meanwhile: brief work to do at that moment.

    Raises:
        ConfigurationError: a file cannot be used.
        StorageUnavailableError: a file could not be locked or read, or a copy could not be written.
    """
    with ExitStack() as opened, ExitStack() as pinned:
        files = []
        for name, kind in sorted(kinds, key=itemgetter(0)):
            files.append(opened.enter_context(closing(DurableFile(directory / name, kind, _Unused))))
        with ExitStack() as holding:
            sources = [holding.enter_context(file.held()) for file in files]
            for source in sources:
                source.execute("BEGIN")
                pinned.callback(source.execute, "ROLLBACK")
                source.pragma("user_version")  # the transaction begins with its first read
            meanwhile()
        for file, source in zip(files, sources, strict=True):
            try:
                _copy(source, copies / file.path.name)
            except apsw.Error as exc:
                raise StorageUnavailableError(f"{file} could not be copied to {copies}: {exc}.") from exc


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
    """Fold a database's log into it, so that it is one file that can be moved anywhere."""
    db.pragma("journal_mode", "delete")
