"""Restores a backup again and again, and is killed before one more of its changes each time, until it comes to its end.

Arguments: the data directory, the backup, and where to put what each kill left. Prints how many there were.
"""

import itertools
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from budget_server.maintenance.restore import made_ready


def main(data: Path, backup: Path, killed: Path) -> None:
    """Restore it."""
    for step in itertools.count():
        place = killed / str(step)
        shutil.copytree(data, place)
        pid = os.fork()
        if pid == 0:
            _die_at(step)
            with made_ready(backup, place) as ready:
                ready.put_back()
            os._exit(0)
        _, status = os.waitpid(pid, 0)
        if not os.WIFSIGNALED(status):
            assert status == 0
            sys.stdout.write(str(step + 1))
            return


def _die_at(step: int) -> None:
    """Kill this process before that change of a name, or that flush."""
    left = itertools.count()

    def instead_of(act: Callable[..., Any]) -> Callable[..., Any]:
        def dying(*arguments: Any, **named: Any) -> Any:
            if next(left) == step:
                os.kill(os.getpid(), signal.SIGKILL)
            return act(*arguments, **named)

        return dying

    for name in ("rename", "unlink", "mkdir", "rmdir", "fsync"):
        setattr(os, name, instead_of(getattr(os, name)))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
