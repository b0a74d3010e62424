"""A fair lock between processes that share one file.

SQLite's own waiting starves: of eight saturated writers one may do all the work while another waits for seconds. Here a
writer first takes the *gate*, and only the holder of the gate may wait for the *lock*; it passes the gate on once it
has the lock. So a writer waits at most for the writers that came before it, in the kernel's queue (``lock_waiter.py``).
Both are advisory locks on small files beside the shared one, which the kernel drops when their process dies.

The lock's file also stores a high-water mark of the shared file, so that a lost tail is noticed. The mark is written
after each commit and never flushed: the commit it describes is on the disk already, and a stale mark does no harm.
"""

import os
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType

from budget_server.database.lock_waiter import LockWaiter
from budget_server.database.locks import try_lock, unlock
from budget_server.database.schema import HighWater
from budget_tools.core.errors import ConfigurationError, StorageUnavailableError

_NOTE_BYTES = 40
_NO_NOTE = b"1"


class FairFileLock:
    """A context manager around every transaction, checkpoint and migration of one file.

    Args:
        path: the file; the lock files are beside it.
        noun: what people call the file.
        deadline_seconds: longest wait before giving up.

    Raises:
        ConfigurationError: the lock files cannot be created.
    """

    def __init__(self, path: Path, *, noun: str, deadline_seconds: float) -> None:
        self._noun = noun
        self._deadline_seconds = deadline_seconds
        with ExitStack() as undo:
            self._gate = _open(path.with_name(path.name + ".gate"))
            undo.callback(os.close, self._gate)
            self._lock = _open(path.with_name(path.name + ".lock"))
            undo.callback(os.close, self._lock)
            # Separate open files for the waiter: on ours, its locks would not exclude a caller that does not wait.
            its_gate = _open(path.with_name(path.name + ".gate"))
            undo.callback(os.close, its_gate)
            its_lock = _open(path.with_name(path.name + ".lock"))
            self._doorkeeper = LockWaiter((its_gate, its_lock), name=f"{path.name} queue")
            undo.pop_all()

    def __enter__(self) -> None:
        """Wait for the lock.

        Raises:
            StorageUnavailableError: another process held the file past the deadline; nothing was written.
        """
        if not self.try_enter() and not self._doorkeeper.enter(self._deadline_seconds):
            raise StorageUnavailableError(
                f"The {self._noun} was busy for {self._deadline_seconds:g} s: another process holds it; try again."
            )

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Release the lock to the next in the queue."""
        self.leave()

    def try_enter(self) -> bool:
        """Take the lock only if it is free and no writer waits for it; a caller that gets it must ``leave``."""
        if not try_lock(self._gate):
            return False
        try:
            return try_lock(self._lock)
        finally:
            unlock(self._gate)

    def leave(self) -> None:
        """Release the lock to the next in the queue."""
        if self._doorkeeper.has_entered:
            self._doorkeeper.leave()
        else:
            unlock(self._lock)

    @property
    def has_guarded(self) -> bool:
        """Whether a file of ours has existed behind this lock, so that an empty file must have been emptied."""
        return os.fstat(self._lock).st_size > 0

    def note_guarded(self) -> None:
        """Record that a file of ours exists behind this lock."""
        if not self.has_guarded:
            os.pwrite(self._lock, _NO_NOTE, 0)

    @property
    def high_water(self) -> HighWater | None:
        """The high-water mark of the file's last write; ``None`` if none was stored."""
        return _high_water(os.pread(self._lock, _NOTE_BYTES, 0))

    def note_high_water(self, reached: HighWater) -> None:
        """Store the file's high-water mark; only the holder of the lock may."""
        major, minor = reached
        # The commit stands even if this write fails: a stale mark does no harm.
        with suppress(OSError):
            os.pwrite(self._lock, f"{major:019d} {minor:019d}\n".encode(), 0)

    def forget_high_water(self) -> None:
        """Clear the high-water mark, so that the next file is accepted as it is; only the holder of the lock may."""
        if self.has_guarded:
            os.pwrite(self._lock, _NO_NOTE.ljust(_NOTE_BYTES), 0)

    def close(self) -> None:
        """Close the descriptors."""
        os.close(self._gate)
        os.close(self._lock)
        self._doorkeeper.close()


def noted_high_water(path: Path) -> HighWater | None:
    """Return the high-water mark of a file's last write, without taking the lock."""
    try:
        return _high_water(path.with_name(path.name + ".lock").read_bytes())
    except OSError:
        return None


def _high_water(note: bytes) -> HighWater | None:
    match note.split():
        case [major, minor] if major.isdigit() and minor.isdigit():
            return int(major), int(minor)
        case _:
            return None


def _open(path: Path) -> int:
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o600)
    except OSError as exc:
        raise ConfigurationError(
            f"The lock file {path} cannot be opened ({exc.strerror}): "
            "set BUDGET_DATA_DIR to a directory that can be written."
        ) from exc
