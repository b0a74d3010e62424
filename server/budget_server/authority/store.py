"""The ledger file of one process: opening it safely, and running operations on it durably.

All work goes through one connection, used by one thread at a time. ``transact`` runs a group of operations as one
transaction, a savepoint each, so that a group pays for a single flush to the disk and a refused operation undoes only
itself.

The ledger's path is opened by SQLite alone: any other ``open`` and ``close`` of it in this process would drop
SQLite's locks.
"""

import os
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TypeVar

import apsw

from budget_server.authority.ledger import Ledger
from budget_server.authority.refusals import LedgerUnavailableError
from budget_server.authority.schema import check_ours, migrate
from budget_server.authority.turnstile import Turnstile
from budget_tools.errors import ConfigurationError

T = TypeVar("T")
Operation = Callable[[Ledger], T]

LOCK_DEADLINE_SECONDS = 4.0
"""Shorter than the client's own patience with one attempt, so that a wait ends in an answer."""

FOREIGN_LOCK_MS = 1_000
"""How long SQLite itself waits, beneath the turnstile, for tools that do not know it."""

_OLDEST_SAFE_SQLITE = (3, 51, 3)  # before it, processes that share a WAL file could lose a committed transaction
_PRAGMAS = {
    "journal_mode": "wal",
    "synchronous": 2,  # FULL: an answer given is on the disk
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
"""What one operation may bring upon itself; its neighbours in the group are none the worse."""


def wall_ms() -> int:
    """Milliseconds since the epoch."""
    return time.time_ns() // 1_000_000


class LedgerStore:
    """An open ledger file.

    Args:
        path: the file; it and its directory are made, readable by their owner alone, where they are absent.
        clock: gives the time in milliseconds since the epoch.
        lock_deadline_seconds: longest wait for other processes.

    Raises:
        ConfigurationError: the place cannot be written, or the file is not a ledger this version knows.
        LedgerUnavailableError: another process held the ledger past the deadline.
    """

    def __init__(
        self, path: Path, *, clock: Callable[[], int] = wall_ms, lock_deadline_seconds: float = LOCK_DEADLINE_SECONDS
    ) -> None:
        if tuple(int(part) for part in apsw.sqlite_lib_version().split(".")) < _OLDEST_SAFE_SQLITE:
            raise ConfigurationError(
                f"SQLite {apsw.sqlite_lib_version()} can lose commits: install apsw 3.51.3 or newer."
            )
        self.path, is_new_file = _make_private(path)
        self._clock = clock
        self._is_open = True
        with ExitStack() as undo:
            self._turnstile = Turnstile(self.path, deadline_seconds=lock_deadline_seconds)
            undo.callback(self._turnstile.close)
            try:
                flags = apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_NOFOLLOW
                self._db = apsw.Connection(str(self.path), flags=flags)
                undo.callback(self._db.close)
                self._db.set_busy_timeout(FOREIGN_LOCK_MS)
                with self._turnstile:
                    self._prepare(is_new_file=is_new_file)
            except (apsw.BusyError, apsw.FullError) as exc:
                raise LedgerUnavailableError(f"The budget ledger {self.path} could not be opened: {exc}.") from exc
            except apsw.Error as exc:
                raise ConfigurationError(
                    f"The budget ledger {self.path} cannot be used ({exc}): set BUDGET_DATA_DIR to another directory."
                ) from exc
            undo.pop_all()
        self._ledger = Ledger(self._db)

    def _prepare(self, *, is_new_file: bool) -> None:
        check_ours(self._db, str(self.path))
        if not is_new_file and self._turnstile.has_guarded and self._db.pragma("user_version") == 0:
            # To begin anew would grant the first budget a second time.
            raise ConfigurationError(
                f"The budget ledger {self.path} is empty, though it had budgets: restore a copy, or delete it to begin "
                "anew."
            )
        for pragma, wanted in _PRAGMAS.items():
            self._db.pragma(pragma, wanted)
            if self._db.pragma(pragma) not in (wanted, None):
                raise ConfigurationError(
                    f"The budget ledger {self.path} does not take {pragma}={wanted}: use a directory on a local disk."
                )
        with self._db:
            migrate(self._db)
        self._turnstile.note_guarded()

    def transact(self, operations: Sequence[Operation[T]]) -> list[T | Exception]:
        """Run operations as one durable transaction and give each its result, or the exception that undid it.

        Raises:
            LedgerUnavailableError: none of them was written.
        """
        self._require_open()
        try:
            with self._turnstile:
                return self._run(operations)
        except apsw.Error as exc:
            raise self._unwritten(exc) from exc

    def transact_now(self, operations: Sequence[Operation[T]]) -> list[T | Exception] | None:
        """Do the same, but wait for nobody: ``None``, with nothing written, where another process is at work.

        Raises:
            LedgerUnavailableError: none of them was written.
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

    def _require_open(self) -> None:
        if not self._is_open:
            raise LedgerUnavailableError(f"The budget ledger {self.path} is closed.")

    def _unwritten(self, exc: apsw.Error) -> LedgerUnavailableError:
        return LedgerUnavailableError(f"The budget ledger {self.path} could not be written: {exc}.")

    def _run(self, operations: Sequence[Operation[T]]) -> list[T | Exception]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            changes_before = self._db.total_changes()
            has_settled = self._ledger.begin(self._clock())
            if len(operations) == 1 and not has_settled:
                # With nothing beside it to keep, the transaction is savepoint enough.
                outcomes = [self._attempt(operations[0])]
                if isinstance(outcomes[0], Exception):
                    return outcomes
            else:
                outcomes = [self._attempt_apart(operation) for operation in operations]
            if self._db.total_changes() != changes_before:
                self._ledger.remember_time()
            self._db.execute("COMMIT")
        finally:
            # A refused operation leaves the transaction open, and so may a failed COMMIT.
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
        return outcomes

    def _attempt_apart(self, operation: Operation[T]) -> T | Exception:
        """Attempt one operation among others: what it wrote is undone with it, and only that."""

        def within_savepoint(ledger: Ledger) -> T:
            with self._db:
                outcome = operation(ledger)
            return outcome  # noqa: RET504 - the savepoint may fail when it is left

        return self._attempt(within_savepoint)

    def _attempt(self, operation: Operation[T]) -> T | Exception:
        try:
            return operation(self._ledger)
        except apsw.Error as exc:
            if isinstance(exc, _OWN_FAULTS) and self._db.in_transaction:
                return exc
            # The storage failed, not the operation: the whole transaction goes.
            raise
        except Exception as exc:
            return exc

    def run(self, operation: Operation[T]) -> T:
        """Run one operation in a transaction of its own.

        Raises:
            Refusal: the operation refused; nothing was written.
            LedgerUnavailableError: nothing was written.
        """
        (outcome,) = self.transact([operation])
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    def close(self) -> None:
        """Close the file; the last process to leave folds the WAL into it. Closing again does nothing."""
        if not self._is_open:
            return
        self._is_open = False
        try:
            with self._turnstile:
                self._db.close()
        except LedgerUnavailableError:
            self._db.close()
        finally:
            self._turnstile.close()


def _make_private(path: Path) -> tuple[Path, bool]:
    """Make the directory 0700 and an empty file 0600 before SQLite opens it: its WAL then inherits the mode.

    Returns:
        The path as SQLite is to open it, and whether the file was made now. A link to the directory is followed once,
        here; a link in the ledger's own place is refused: the locks beside it would not be those of the file it leads
        to.
    """
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = path.parent.resolve(strict=True) / path.name
        if path.is_symlink():
            raise ConfigurationError(f"The budget ledger {path} is a symbolic link: put the file itself there.")
        fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR | getattr(os, "O_NOFOLLOW", 0), 0o600)
    except FileExistsError:
        if not path.parent.is_dir():
            raise ConfigurationError(f"{path.parent} is not a directory: set BUDGET_DATA_DIR to one.") from None
        return path, False
    except OSError as exc:
        raise ConfigurationError(
            f"The data directory {path.parent} cannot be written ({exc.strerror}): set BUDGET_DATA_DIR to one that can."
        ) from exc
    os.close(fd)
    return path, True
