"""Replacement of several files of a directory as one step: after a crash at any point, all of them or none are new.

The new files are prepared in a directory of any name beside the old ones. ``commit`` renames it to ``replacing``:
before this rename nothing has happened, after it the replacement is certain. A process that opens a shared file of this
directory and finds that name first completes the replacement (``database/file.py``). The old files are kept in a
directory of their own.
"""

import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import apsw

from budget_server.database.fair_lock import FairFileLock
from budget_server.database.flushing import flush, flush_tree
from budget_tools.core.errors import ConfigurationError, StorageUnavailableError

PENDING = "replacing"
PLAN = "plan.json"
DATABASE_SUFFIX = ".sqlite3"
COMPANIONS = ("-wal", "-shm", "-journal")
"""Suffixes of SQLite's files beside a database: they must never meet another database than their own."""

_DEADLINE_SECONDS = 4.0


def is_pending(directory: Path) -> bool:
    """Return whether a replacement was begun and is not yet complete."""
    return os.path.exists(directory / PENDING)  # noqa: PTH110 - before every opening


def commit(directory: Path, ready: Path, *, names: Sequence[str], kept: str) -> None:
    """Replace the entries of these names by those in ``ready``, once no other process has a database among them open.

    Args:
        directory: the directory of the old entries.
        ready: a directory within it, with the new entries; names that it lacks are only removed.
        names: of files and directories; a database's name ends in ``.sqlite3``.
        kept: the name of the directory that will keep the old entries.

    Raises:
        StorageUnavailableError: another process has one of them open; nothing was changed.
    """
    new = [name for name in names if (ready / name).exists()]
    (ready / PLAN).write_text(json.dumps({"names": list(names), "new": new, "kept": kept}), encoding="utf-8")
    flush_tree(ready)
    with _locked(directory, names) as turnstiles, ExitStack() as alone:
        for name in _databases(names):
            alone.enter_context(_alone_with(directory / name))
        ready.rename(directory / PENDING)
        flush(directory)
        _carry_out(directory, names, new, kept, turnstiles)


def require_unused(directory: Path, names: Sequence[str]) -> None:
    """Check that no other process has one of these databases open.

    Raises:
        StorageUnavailableError: another process has one open.
    """
    for name in _databases(names):
        with _alone_with(directory / name):
            pass


def complete(directory: Path) -> None:
    """Complete a replacement that was left half done; do nothing if another process did.

    Raises:
        ConfigurationError: its plan cannot be read.
        StorageUnavailableError: another process is working on it past the deadline.
    """
    try:
        plan = json.loads((directory / PENDING / PLAN).read_text(encoding="utf-8"))
        names, new, kept = list(plan["names"]), list(plan["new"]), str(plan["kept"])
    except FileNotFoundError:
        names, new, kept = [], [], ""
    except (OSError, ValueError, KeyError, TypeError) as exc:
        raise ConfigurationError(
            f"A restore of {directory} was interrupted, and what it had begun cannot be read ({exc}): restore again."
        ) from exc
    with _locked(directory, names) as turnstiles:
        _carry_out(directory, names, new, kept, turnstiles)


def _carry_out(
    directory: Path, names: Sequence[str], new: Sequence[str], kept: str, turnstiles: Sequence[FairFileLock]
) -> None:
    """Carry out the remaining steps; the plan is deleted last, so that a crash at any point can be resumed."""
    pending = directory / PENDING
    if (pending / PLAN).exists():
        keep = directory / kept
        keep.mkdir(mode=0o700, exist_ok=True)
        for name in names:
            is_in_place = name in new and not (pending / name).exists()
            if not is_in_place:
                _keep(directory, name, keep)
            if name in new and not is_in_place:
                (pending / name).rename(directory / name)
        for turnstile in turnstiles:
            turnstile.forget_high_water()
        flush(keep)
        flush(directory)
        (pending / PLAN).unlink()
    shutil.rmtree(pending, ignore_errors=True)
    flush(directory)


def _keep(directory: Path, name: str, keep: Path) -> None:
    """Move an old entry aside; a database moves after its companion files."""
    for old in (*(f"{name}{companion}" for companion in COMPANIONS), name):
        if (directory / old).exists() and not (keep / old).exists():
            (directory / old).rename(keep / old)


def _databases(names: Sequence[str]) -> list[str]:
    return sorted(name for name in names if name.endswith(DATABASE_SUFFIX))


@contextmanager
def _locked(directory: Path, names: Sequence[str]) -> Iterator[Sequence[FairFileLock]]:
    """Lock all openers out of the databases; every process takes these locks in the same order."""
    with ExitStack() as held:
        turnstiles = []
        for name in _databases(names):
            turnstile = FairFileLock(directory / name, noun=f"file {name}", deadline_seconds=_DEADLINE_SECONDS)
            held.callback(turnstile.close)
            held.enter_context(turnstile)
            turnstiles.append(turnstile)
        yield turnstiles


@contextmanager
def _alone_with(path: Path) -> Iterator[None]:
    """Hold SQLite's own exclusive lock of a file, even of a damaged database: every connection holds a shared one.

    Raises:
        StorageUnavailableError: another process has it open.
    """
    if not path.exists():
        yield
        return
    file = apsw.VFSFile("", str(path), [apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_MAIN_DB, 0])
    try:
        for lock in (apsw.SQLITE_LOCK_SHARED, apsw.SQLITE_LOCK_RESERVED, apsw.SQLITE_LOCK_EXCLUSIVE):
            file.xLock(lock)
        yield
    except apsw.BusyError as exc:
        raise StorageUnavailableError(
            f"{path} is in use: quit the hosts and stop the servers of this data directory first."
        ) from exc
    finally:
        file.xUnlock(apsw.SQLITE_LOCK_NONE)
        file.xClose()
