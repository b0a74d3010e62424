"""One process's handle of a shared file: opened safely, with operations run on it durably.

All work goes through one connection, used by one thread at a time. ``transact`` runs a group of operations as one
transaction, a savepoint each, so that a group pays for a single flush to the disk and a refused operation undoes only
itself.

The file's path is opened by SQLite alone: any other ``open`` and ``close`` of it in this process would drop SQLite's
locks.
"""

import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Generic, Protocol, TypeVar

import apsw

from budget_server.database import replacement
from budget_server.database.fair_lock import FairFileLock
from budget_server.database.file_identity import FileIdentity
from budget_server.database.flushing import flush
from budget_server.database.schema import FileKind
from budget_tools.core.errors import ConfigurationError, StorageUnavailableError


class View(Protocol):
    """The interface that operations get to the connection, independent of threads and locks."""

    def begin(self, wall_ms: int) -> bool:
        """Set the time of the transaction that now begins and settle what is due; return whether anything was."""

    def remember_time(self) -> None:
        """Store this transaction's time, if the file keeps it."""


T = TypeVar("T")
ViewT = TypeVar("ViewT", bound=View)
Operation = Callable[[ViewT], T]

LOCK_DEADLINE_SECONDS = 4.0
"""Longest wait for other processes: shorter than a client waits for one attempt, so that a wait ends in an answer."""

FOREIGN_LOCK_MS = 1_000
"""Longest wait of SQLite itself, beneath the fair lock, for tools that do not use it."""

OLDEST_SAFE_SQLITE = (3, 51, 3)  # before it, processes that share a WAL file could lose a committed transaction
_PRAGMAS = {
    "journal_mode": "wal",
    "synchronous": 2,  # FULL: an acknowledged write is on the disk
    "fullfsync": 1,  # macOS: through the drive's cache as well
    "checkpoint_fullfsync": 1,
    "foreign_keys": 1,
    "trusted_schema": 0,
    "cell_size_check": 1,
    "mmap_size": 0,
}


_OWN_FAULTS = (
    apsw.ConstraintError,
    apsw.MismatchError,
    apsw.RangeError,
    apsw.TooBigError,
    apsw.BindingsError,
    apsw.SQLError,
)
"""Errors caused by a single operation; the other operations in its group are unaffected."""


def wall_ms() -> int:
    """Return the milliseconds since the epoch."""
    return time.time_ns() // 1_000_000


class DurableFile(Generic[ViewT]):
    """An open file.

    Args:
        path: the file; it and its directory are created, readable by their owner alone, if they are absent.
        kind: the kind of file.
        view: builds the view that operations get.
        clock: returns the time in milliseconds since the epoch.
        lock_deadline_seconds: longest wait for other processes.

    Raises:
        ConfigurationError: the path cannot be written, or the file is not of this kind or of a version that is known.
        StorageUnavailableError: another process held the file past the deadline.
    """

    def __init__(
        self,
        path: Path,
        kind: FileKind,
        view: Callable[[apsw.Connection], ViewT],
        *,
        clock: Callable[[], int] = wall_ms,
        lock_deadline_seconds: float = LOCK_DEADLINE_SECONDS,
    ) -> None:
        if tuple(int(part) for part in apsw.sqlite_lib_version().split(".")) < OLDEST_SAFE_SQLITE:
            raise ConfigurationError(
                f"SQLite {apsw.sqlite_lib_version()} can lose commits: install apsw 3.51.3 or newer."
            )
        self.path, is_new_file = _make_private(path, kind.noun)
        self.kind = kind
        self._clock = clock
        self._is_open = True
        with ExitStack() as undo:
            self._turnstile = FairFileLock(self.path, noun=kind.noun, deadline_seconds=lock_deadline_seconds)
            undo.callback(self._turnstile.close)
            try:
                with self._settled_directory():
                    flags = apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_NOFOLLOW
                    self._db = apsw.Connection(str(self.path), flags=flags)
                    undo.callback(self._db.close)
                    self._db.set_busy_timeout(FOREIGN_LOCK_MS)
                    self._prepare(is_new_file=is_new_file)
            except (apsw.BusyError, apsw.FullError) as exc:
                raise StorageUnavailableError(f"{self} could not be opened: {exc}.") from exc
            except apsw.Error as exc:
                raise ConfigurationError(
                    f"{self} cannot be used ({exc}): restore a backup, or set BUDGET_DATA_DIR to another directory."
                ) from exc
            undo.pop_all()
        self._view = view(self._db)

    @contextmanager
    def _settled_directory(self) -> Iterator[None]:
        """Hold the lock in a directory without a half-done replacement of files; complete one first if needed."""
        while True:
            with self._turnstile:
                if not replacement.is_pending(self.path.parent):
                    yield
                    return
            replacement.complete(self.path.parent)

    def _prepare(self, *, is_new_file: bool) -> None:
        # Until the file is known to be whole, its log is evidence: closing must not fold it in and delete it.
        self._db.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
        self.kind.check_ours(self._db, str(self.path))
        if is_new_file:
            self._turnstile.forget_high_water()
        elif self._turnstile.has_guarded and self._db.pragma("user_version") == 0:
            # A new start would forget what was promised: a ledger would grant its first budget a second time.
            raise ConfigurationError(
                f"{self} is empty, though it had {self.kind.contents}: restore a backup, or delete it to begin anew."
            )
        for pragma, wanted in _PRAGMAS.items():
            self._db.pragma(pragma, wanted)
            if self._db.pragma(pragma) not in (wanted, None):
                raise ConfigurationError(f"{self} does not take {pragma}={wanted}: use a directory on a local disk.")
        with self._db:
            self.kind.migrate(self._db)
            self._check_nothing_lost()
        if is_new_file:
            # SQLite deletes the creation's journal without a flush: if a crash brought it back, it would undo the
            # creation.
            with suppress(OSError):  # like SQLite, if a file system cannot
                flush(self.path.parent)
        self._turnstile.note_guarded()
        self._db.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 0)
        # The log stays the same for as long as any process has it open.
        self._placement = FileIdentity([self.path, self.path.with_name(f"{self.path.name}-wal")])

    def _check_nothing_lost(self) -> None:
        """Check that a file has not lost writes: SQLite silently drops the tail of a damaged log.

        Raises:
            ConfigurationError: its last writes are gone.
        """
        if self.kind.is_behind(self._db, self._turnstile.high_water):
            raise ConfigurationError(
                f"{self} has lost its last writes: its log (-wal) was damaged or deleted, or an older copy stands in "
                f"its place. Restore a backup; or, to go on with what is left, stop all servers and delete "
                f"{self.path}.lock."
            )

    def _require_in_place(self) -> None:
        """Check that the open files still have their names: writes into deleted files would be lost.

        Raises:
            StorageUnavailableError: one of them was deleted or replaced; nothing was written.
        """
        if not self._placement.is_kept():
            raise StorageUnavailableError(
                f"{self} was deleted or replaced while it was in use, or its log was: stop all servers of this data "
                "directory, put it back, and start again."
            )

    def transact(self, operations: Sequence[Operation[ViewT, T]]) -> list[T | Exception]:
        """Run operations as one durable transaction; return for each its result, or the exception that undid it.

        Raises:
            StorageUnavailableError: none of them was written.
        """
        self._require_open()
        try:
            with self._turnstile:
                return self._run(operations)
        except apsw.Error as exc:
            raise self._unwritten(exc) from exc

    def transact_now(self, operations: Sequence[Operation[ViewT, T]]) -> list[T | Exception] | None:
        """Run operations without waiting: ``None``, with nothing written, if another process holds the lock.

        Raises:
            StorageUnavailableError: none of them was written.
        """
        self._require_open()
        if not self._turnstile.try_enter():
            return None
        try:
            self._db.set_busy_timeout(0)
            return self._run(operations)
        except apsw.BusyError:
            return None
        except apsw.Error as exc:
            raise self._unwritten(exc) from exc
        finally:
            self._db.set_busy_timeout(FOREIGN_LOCK_MS)
            self._turnstile.leave()

    @contextmanager
    def held(self) -> Iterator[apsw.Connection]:
        """Lock out all other writers and yield the connection, to read several files as of one moment.

        Raises:
            StorageUnavailableError: another process held the file past the deadline.
        """
        self._require_open()
        with self._turnstile:
            self._require_in_place()
            yield self._db

    def __str__(self) -> str:
        return f"The {self.kind.noun} {self.path}"

    def _require_open(self) -> None:
        if not self._is_open:
            raise StorageUnavailableError(f"{self} is closed.")

    def _unwritten(self, exc: apsw.Error) -> StorageUnavailableError:
        return StorageUnavailableError(f"{self} could not be written: {exc}.")

    def _run(self, operations: Sequence[Operation[ViewT, T]]) -> list[T | Exception]:
        self._require_in_place()
        self._db.execute("BEGIN IMMEDIATE")
        high_water = None
        try:
            changes_before = self._db.total_changes()
            has_settled = self._view.begin(self._clock())
            if len(operations) == 1 and not has_settled:
                # With nothing else in it to preserve, the transaction itself serves as the savepoint.
                outcomes = [self._attempt(operations[0])]
                if isinstance(outcomes[0], Exception):
                    return outcomes
            else:
                outcomes = [self._attempt_apart(operation) for operation in operations]
            if self._db.total_changes() != changes_before:
                self._view.remember_time()
                high_water = self.kind.reached(self._db)
            self._db.execute("COMMIT")
        finally:
            # A refused operation leaves the transaction open, and so may a failed COMMIT.
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
        if high_water is not None:
            self._turnstile.note_high_water(high_water)
        return outcomes

    def _attempt_apart(self, operation: Operation[ViewT, T]) -> T | Exception:
        """Attempt one operation among others: a failure undoes its writes, and only those."""

        def within_savepoint(view: ViewT) -> T:
            with self._db:
                outcome = operation(view)
            return outcome  # noqa: RET504 - leaving the savepoint may fail

        return self._attempt(within_savepoint)

    def _attempt(self, operation: Operation[ViewT, T]) -> T | Exception:
        try:
            return operation(self._view)
        except apsw.Error as exc:
            if isinstance(exc, _OWN_FAULTS) and self._db.in_transaction:
                return exc
            # The storage failed, not the operation: the whole transaction goes.
            raise
        except (UnicodeDecodeError, json.JSONDecodeError) as exc:
            # Requests are parsed before they come here: this text is the file's own.
            damaged = StorageUnavailableError(
                f"{self} is damaged ({exc.__class__.__name__}): run `cycles-budget-mcp check`, and restore a backup."
            )
            damaged.__cause__ = exc
            return damaged
        except Exception as exc:
            return exc

    def run(self, operation: Operation[ViewT, T]) -> T:
        """Run one operation in a transaction of its own.

        Raises:
            Exception: the operation's own; nothing was written.
            StorageUnavailableError: nothing was written.
        """
        (outcome,) = self.transact([operation])
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    def close(self) -> None:
        """Close the file; the last process to close it folds the WAL into it. Closing again does nothing."""
        if not self._is_open:
            return
        self._is_open = False
        try:
            with self._turnstile:
                self._db.close()
        except StorageUnavailableError:
            self._db.close()
        finally:
            self._turnstile.close()


def _make_private(path: Path, noun: str) -> tuple[Path, bool]:
    """Create the directory (0700) and an empty file (0600) before SQLite opens it: its WAL inherits the mode.

    Returns:
        The path for SQLite to open, and whether the file was created now. A link to the directory is followed once,
        here; a link in the file's own place, or to the file from elsewhere, is refused: each name would have
        separate locks.
    """
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = path.parent.resolve(strict=True) / path.name
        if path.is_symlink():
            raise ConfigurationError(f"The {noun} {path} is a symbolic link: put the file itself there.")
        fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR | getattr(os, "O_NOFOLLOW", 0), 0o600)
    except FileExistsError:
        if not path.parent.is_dir():
            raise ConfigurationError(f"{path.parent} is not a directory: set BUDGET_DATA_DIR to one.") from None
        if path.is_file() and path.stat().st_nlink > 1:
            raise ConfigurationError(
                f"The {noun} {path} has another name as well (a hard link), which has locks and a log of its own: "
                "delete that name; `find / -samefile` finds it."
            ) from None
        return path, False
    except OSError as exc:
        raise ConfigurationError(
            f"The data directory {path.parent} cannot be written ({exc.strerror}): set BUDGET_DATA_DIR to one that can."
        ) from exc
    os.close(fd)
    return path, True
