"""One thread that owns the ledger, so that neither a flush to the disk nor a wait for a lock holds the event loop.

What arrives while a transaction is on its way forms the next group (group commit): under load many operations share one
flush. A future is resolved only after its COMMIT returned.
"""

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

from budget_server.authority.ledger import Ledger
from budget_server.authority.store import LedgerStore

T = TypeVar("T")

MAX_GROUP = 64
"""Most operations of one transaction: past this the flush is no longer what costs."""

_Work = tuple[Callable[[Ledger], Any], "Future[Any]"]


class Writer:
    """Runs operations on a store, in the order in which they came."""

    def __init__(self, store: LedgerStore) -> None:
        self._store = store
        self._queue: queue.SimpleQueue[_Work | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._serve, name="budget-ledger", daemon=True)
        self._thread.start()

    def submit(self, operation: Callable[[Ledger], T]) -> "Future[T]":
        """Hand an operation over; the future ends with its result, its ``Refusal``, or ``LedgerUnavailableError``."""
        future: Future[T] = Future()
        self._queue.put((operation, future))
        return future

    def close(self) -> None:
        """Finish what was handed over, then close the store."""
        self._queue.put(None)
        self._thread.join()
        self._store.close()

    def _serve(self) -> None:
        is_open = True
        while is_open:
            group: list[_Work] = []
            work = self._queue.get()
            while work is not None:
                group.append(work)
                if len(group) == MAX_GROUP:
                    break
                try:
                    work = self._queue.get_nowait()
                except queue.Empty:
                    break
            else:
                is_open = False
            if group:
                self._commit(group)

    def _commit(self, group: list[_Work]) -> None:
        try:
            outcomes = self._store.transact([operation for operation, _ in group])
        except Exception as exc:
            outcomes = [exc] * len(group)
        for (_, future), outcome in zip(group, outcomes, strict=True):
            if isinstance(outcome, Exception):
                future.set_exception(outcome)
            else:
                future.set_result(outcome)
