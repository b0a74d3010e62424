"""Places in a process's machine at which it kills itself, as ``kill -9`` does; they are counted as they are passed."""

import os
import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

import apsw
import runcycles.journal
import runcycles.retry

from budget_tools.spends import settlement as settling

BEFORE_A_COMMIT = "before a commit"
AFTER_A_COMMIT = "after a commit"
AT_A_STEP = "at a step"
AT_A_LINE = "at a line"

IN_THE_LEDGER = (BEFORE_A_COMMIT, AFTER_A_COMMIT, AT_A_STEP)
"""Where SQLite commits a transaction of a file that is opened from now on, or at one instruction of its machine."""

IN_THE_JOURNAL = (AT_A_LINE,)
"""A line of the code that keeps, repeats and strikes out what a remote authority has not answered."""

PLACES = (*IN_THE_LEDGER, *IN_THE_JOURNAL)

_WAL_PAGES = 1_000


def die_at(place: str, nth: int) -> None:
    """Have this process kill itself when it comes to a place for the n-th time."""
    left = nth

    def count(*_: Any) -> bool:
        nonlocal left
        left -= 1
        if left == 0:
            sys.stderr.flush()
            os.kill(os.getpid(), signal.SIGKILL)
        return False

    if place == AT_A_LINE:
        _count_lines(count)
    else:
        apsw.connection_hooks.append(lambda db: _count_within(db, place, count))


def _count_within(db: apsw.Connection, place: str, count: Callable[[], bool]) -> None:
    def committed(db: apsw.Connection, _: str, pages: int) -> int:
        count()
        if pages >= _WAL_PAGES:  # as SQLite itself does where nobody listens
            db.wal_checkpoint()
        return apsw.SQLITE_OK

    if place == BEFORE_A_COMMIT:
        db.set_commit_hook(count)
    elif place == AFTER_A_COMMIT:
        db.set_wal_hook(committed)
    elif place == AT_A_STEP:
        db.set_progress_handler(count, 1)


def _count_lines(count: Callable[[], bool]) -> None:
    files = {runcycles.journal.__file__, runcycles.retry.__file__, settling.__file__}

    def within(_: FrameType, event: str, __: Any) -> Any:
        if event == "line":
            count()
        return within

    def entered(frame: FrameType, _: str, __: Any) -> Any:
        return within if frame.f_code.co_filename in files else None

    threading.settrace(entered)
    sys.settrace(entered)
