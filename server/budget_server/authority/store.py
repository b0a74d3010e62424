"""The ledger file of one process: the ledger's operations over a durable file (``database/file.py``)."""

from collections.abc import Callable
from pathlib import Path

from budget_server.authority.ledger import Ledger
from budget_server.authority.schema import LEDGER_KIND
from budget_server.database.file import LOCK_DEADLINE_SECONDS, DurableFile, wall_ms


class LedgerStore(DurableFile[Ledger]):
    """An open ledger file.

    Args:
        path: the file; it and its directory are created, readable by their owner alone, if they are absent.
        clock: returns the time in milliseconds since the epoch.
        lock_deadline_seconds: longest wait for other processes.

    Raises:
        ConfigurationError: the path cannot be written, or the file is not a ledger that this version knows.
        LedgerUnavailableError: another process held the ledger past the deadline.
    """

    def __init__(
        self, path: Path, *, clock: Callable[[], int] = wall_ms, lock_deadline_seconds: float = LOCK_DEADLINE_SECONDS
    ) -> None:
        super().__init__(path, LEDGER_KIND, Ledger, clock=clock, lock_deadline_seconds=lock_deadline_seconds)
