"""The owners of delegations, and whether they are still alive, without leases and without clocks.

Each process that runs delegations holds a lock on a file of its own in ``owners/``, which the kernel drops however the
process dies. The file stays for as long as any delegation of it waits to be adopted.
"""

import os
import re
from collections.abc import Iterator
from pathlib import Path

from budget_server.database.flushing import flush
from budget_server.database.locks import is_free, try_lock
from budget_tools.core.errors import StorageUnavailableError
from budget_tools.core.ids import time_ordered_id

OWNERS_DIRECTORY = "owners"

_OWNER_ID = re.compile(r"[0-9a-f-]{36}")


class WorkerRegistry:
    """The owners of one data directory, one of which this process may become.

    Args:
        directory: the data directory.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory / OWNERS_DIRECTORY
        self._fd = -1
        self.own_id = ""
        """This process's id as an owner; ``""`` before it becomes one."""

    def register(self) -> str:
        """Register this process as an owner, if it is not one yet, and return its id.

        Raises:
            StorageUnavailableError: the file cannot be created.
        """
        while not self.own_id:
            owner_id = time_ordered_id()
            path = self._directory / owner_id
            try:
                self._directory.mkdir(mode=0o700, exist_ok=True)
                fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR | getattr(os, "O_NOFOLLOW", 0), 0o600)
                # Before the lock was taken the file looked like a dead owner's: another process may have removed it.
                if try_lock(fd) and _is_still(fd, path):
                    flush(self._directory)  # a row that names the owner must not outlive the file
                    self._fd, self.own_id = fd, owner_id
                else:
                    os.close(fd)
            except OSError as exc:
                raise StorageUnavailableError(f"The owner file {path} could not be made: {exc.strerror}.") from exc
        return self.own_id

    def is_alive(self, owner_id: str) -> bool:
        """Return whether the process of this id still runs and has not closed its store."""
        return owner_id == self.own_id or not _is_dead(self._directory / owner_id)

    def expired(self) -> list[str]:
        """Return the owners that are dead and have left their file."""
        return [path.name for path in _files(self._directory) if _is_dead(path)]

    def remove(self, owner_id: str) -> None:
        """Remove the file of a dead owner that has nothing left to be adopted."""
        path = self._directory / owner_id
        fd = _open(path)
        if fd is None:
            return
        try:
            if try_lock(fd) and _is_still(fd, path):
                path.unlink()
        finally:
            os.close(fd)

    def close(self, *, leaves_orphans: bool) -> None:
        """Unregister this process; the file stays if it leaves orphans, so that others find them."""
        if not self.own_id:
            return
        if not leaves_orphans:
            (self._directory / self.own_id).unlink(missing_ok=True)
        os.close(self._fd)
        self._fd, self.own_id = -1, ""


def may_have_orphans(directory: Path) -> bool:
    """Return whether a process may have left running delegations in this data directory; opens no database."""
    return any(_is_dead(path) for path in _files(directory / OWNERS_DIRECTORY))


def _files(directory: Path) -> Iterator[Path]:
    try:
        yield from sorted(path for path in directory.iterdir() if _OWNER_ID.fullmatch(path.name))
    except FileNotFoundError:
        return


def _is_dead(path: Path) -> bool:
    fd = _open(path)
    if fd is None:
        return True
    try:
        return is_free(fd)
    finally:
        os.close(fd)


def _open(path: Path) -> int | None:
    try:
        return os.open(path, os.O_RDWR | getattr(os, "O_NOFOLLOW", 0))
    except FileNotFoundError:
        return None
    except OSError as exc:
        # Guessing is wrong either way: a dead owner taken for alive keeps money reserved forever, an alive one taken
        # for dead spends it twice.
        raise StorageUnavailableError(f"The owner file {path} could not be opened: {exc.strerror}.") from exc


def _is_still(fd: int, path: Path) -> bool:
    """Return whether an open file still has its name."""
    try:
        return os.path.samestat(os.fstat(fd), path.stat())
    except FileNotFoundError:
        return False
