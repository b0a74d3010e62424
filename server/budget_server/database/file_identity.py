"""A check that the files open here are still those that others find by their names.

Inspecting a file that was just written is not free: a kernel with fine timestamps (Linux since 6.13) gives it a new one
at its next write, and the flush has to write that as well, which made a transaction a fifth longer. So this inspects
their directory, which changes whenever a name in it does, and the files themselves only after that.
"""

import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

SETTLING_SECONDS = 2.0
"""Within this time, coarse clocks of file systems may give two changes of a directory the same timestamp."""

TRUSTED_SECONDS = 10.0
"""Time for which an unchanged directory is trusted alone: some file systems may not maintain its timestamps."""

_Identity = tuple[tuple[int, int], ...]


class FileIdentity:
    """The identity of the files at some paths of one directory.

    Args:
        paths: of the files; all must exist.
        clock: returns seconds that never run backwards.

    Raises:
        OSError: one cannot be inspected.
    """

    def __init__(self, paths: Sequence[Path], *, clock: Callable[[], float] = time.monotonic) -> None:
        self._paths = [str(path) for path in paths]  # a Path each time costs twice as much
        self._directory = str(paths[0].parent)
        self._clock = clock
        self._identity = self._identify()
        self._stamp: tuple[int, ...] = ()
        self._stamped_at = 0.0
        self._trusted_until = 0.0

    def is_kept(self) -> bool:
        """Return whether the same files still have these names."""
        now = self._clock()
        try:
            stamp = _stamp(self._directory)
            if stamp == self._stamp and now < self._trusted_until:
                return True
            if stamp != self._stamp:
                self._stamp, self._stamped_at = stamp, now
            # After the stamp was taken: later changes show in the stamp, or are checked again.
            is_kept = self._identify() == self._identity
        except OSError:
            is_kept = False
        is_settled = is_kept and now - self._stamped_at > SETTLING_SECONDS
        self._trusted_until = now + TRUSTED_SECONDS if is_settled else now
        return is_kept

    def _identify(self) -> _Identity:
        found = map(os.stat, self._paths)
        return tuple((each.st_dev, each.st_ino) for each in found)


def _stamp(directory: str) -> tuple[int, ...]:
    """Return a stamp that changes with every name in a directory; programs cannot set back its second timestamp."""
    found = os.stat(directory)  # noqa: PTH116 - a Path each time costs twice as much
    return found.st_dev, found.st_ino, found.st_mtime_ns, found.st_ctime_ns
