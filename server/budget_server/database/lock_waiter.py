"""A wait in the kernel's own queue for a lock, with a deadline.

Polling for a lock costs processor time and is unfair: the process that polls more often is served sooner. The kernel
serves waiters in order, but has no deadline. So a thread waits; a caller that runs out of patience leaves the thread
waiting, and it releases the lock it gets, unless a caller wants it again by then.
"""

import os
import threading
from collections.abc import Sequence

from budget_server.database.locks import lock, unlock


class LockWaiter:
    """A thread that takes one lock after the other, and keeps the last.

    Args:
        fds: open files of its own, which it closes: a lock belongs to the open file, and is released through it.
        name: of the thread, which is started on first use.
    """

    def __init__(self, fds: Sequence[int], name: str) -> None:
        self._fds = fds
        self._name = name
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._is_wanted = False
        self._has_entered = False
        self._is_closed = False

    def enter(self, patience_seconds: float) -> bool:
        """Wait until the last lock is ours; return whether it is."""
        with self._changed:
            if self._thread is None:
                self._thread = threading.Thread(target=self._serve, name=self._name, daemon=True)
                self._thread.start()
            self._is_wanted = True
            self._changed.notify_all()
            try:
                return self._changed.wait_for(lambda: self._has_entered, patience_seconds)
            except BaseException:
                if self._has_entered:
                    self.leave()
                raise
            finally:
                self._is_wanted = False

    def leave(self) -> None:
        """Release the last lock."""
        with self._changed:
            self._has_entered = False
            unlock(self._fds[-1])

    @property
    def has_entered(self) -> bool:
        """Whether the last lock is ours."""
        return self._has_entered

    def close(self) -> None:
        """Stop waiting; the files are closed as soon as the kernel returns from the wait."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
            if self._thread is None:
                self._close_files()

    def _serve(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._is_closed or (self._is_wanted and not self._has_entered))
                if self._is_closed:
                    self._close_files()
                    return
            self._pass_through()
            with self._changed:
                self._has_entered = self._is_wanted
                if self._has_entered:
                    self._changed.notify_all()
                else:
                    unlock(self._fds[-1])

    def _pass_through(self) -> None:
        """Take each lock, and release the one before it to the next waiter."""
        before: int | None = None
        for fd in self._fds:
            lock(fd)
            if before is not None:
                unlock(before)
            before = fd

    def _close_files(self) -> None:
        for fd in self._fds:
            os.close(fd)
