"""Advisory locks on whole files, which the kernel drops when their holder dies.

A lock belongs to the open file, not to the process: two descriptors of one process exclude each other too.
"""

import os
import sys
import time

if sys.platform == "win32":  # pragma: no cover - not tried on Windows
    import msvcrt

    def try_lock(fd: int) -> bool:
        """Take the lock if it is free; return whether it was taken."""
        os.lseek(fd, 0, os.SEEK_SET)
        try:
            msvcrt.locking(fd, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True

    def lock(fd: int) -> None:
        """Wait for the lock without a deadline."""
        while not try_lock(fd):  # its own waiting gives up after ten seconds, and polls once a second
            time.sleep(0.001)

    def unlock(fd: int) -> None:
        """Release the lock."""
        os.lseek(fd, 0, os.SEEK_SET)
        msvcrt.locking(fd, msvcrt.LK_UNLCK, 1)

    def is_free(fd: int) -> bool:
        """Return whether the lock is free."""
        if not try_lock(fd):
            return False
        unlock(fd)
        return True

else:
    import fcntl

    def try_lock(fd: int) -> bool:
        """Take the lock if it is free; return whether it was taken."""
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def lock(fd: int) -> None:
        """Wait for the lock without a deadline."""
        fcntl.flock(fd, fcntl.LOCK_EX)

    def unlock(fd: int) -> None:
        """Release the lock."""
        fcntl.flock(fd, fcntl.LOCK_UN)

    def is_free(fd: int) -> bool:
        """Return whether the lock is free; concurrent callers do not take each other for a holder."""
        try:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        fcntl.flock(fd, fcntl.LOCK_UN)
        return True
