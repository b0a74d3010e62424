"""Access to a file's connection: one operation at once, or a thread that works through groups.

A lone operation on an idle file runs at once in its caller's thread, which costs less than handing it over. Everything
else goes to the writer's own thread, so that neither another process, nor a queue, nor a slow disk blocks an event
loop. Operations that arrive there during a transaction form the next group (group commit): under load many operations
share one flush. A future is resolved only after its COMMIT returned.
"""

import queue
import threading
import time
from concurrent.futures import Future
from typing import Any, Generic, TypeVar

from budget_server.database.file import DurableFile, Operation, ViewT
from budget_tools.core.errors import StorageUnavailableError

T = TypeVar("T")

MAX_GROUP = 64
"""Most operations of one transaction: beyond this the flush no longer dominates the cost."""

SLOW_SECONDS = 0.005
"""Average duration above which transactions no longer run in their caller's thread: they would block its other work."""

_Work = tuple[Operation[ViewT, Any], "Future[Any]"]


class Writer(Generic[ViewT]):
    """The runner of operations on a file, in the order in which they arrive."""

    def __init__(self, file: DurableFile[ViewT]) -> None:
        self._file = file
        self._queue: queue.SimpleQueue[_Work[ViewT] | None] = queue.SimpleQueue()
        self._is_closed = False
        self._door = threading.Lock()  # no operation may enter the queue after its end mark
        self._connection = threading.Lock()  # the fair lock separates processes, not the threads of one
        self._usual_seconds = 0.0
        self._thread = threading.Thread(target=self._serve, name=file.kind.noun.replace(" ", "-"), daemon=True)
        self._thread.start()

    def submit(self, operation: Operation[ViewT, T]) -> "Future[T]":
        """Submit an operation; its future ends with its result, its own exception or ``StorageUnavailableError``."""
        future: Future[T] = Future()
        with self._door:
            if self._is_closed:
                future.set_exception(StorageUnavailableError(f"The {self._file.kind.noun} is closed."))
            else:
                self._queue.put((operation, future))
        return future

    def try_now(self, operation: Operation[ViewT, T]) -> "Future[T] | None":
        """Run an operation in this thread, if that needs no wait and the disk has been fast recently.

        Returns:
            A future that is done; ``None``, with nothing written, if the operation must be submitted instead.
        """
        if self._usual_seconds > SLOW_SECONDS or not self._connection.acquire(blocking=False):
            return None
        try:
            if not self._queue.empty():
                return None
            started = time.monotonic()
            future: Future[T] = Future()
            try:
                outcomes = self._file.transact_now([operation])
            except StorageUnavailableError as exc:
                future.set_exception(exc)
                return future
            if outcomes is None:
                return None
            self._note_duration(started)
        finally:
            self._connection.release()
        _resolve(future, outcomes[0])
        return future

    def close(self) -> None:
        """Finish the submitted operations and close the file; later ones are refused. Closing again does nothing."""
        with self._door:
            if self._is_closed:
                return
            self._is_closed = True
            self._queue.put(None)
        self._thread.join()
        self._file.close()

    def _serve(self) -> None:
        is_open = True
        while is_open:
            group: list[_Work[ViewT]] = []
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

    def _commit(self, group: list[_Work[ViewT]]) -> None:
        # From here on a future cannot be cancelled; a cancelled one is not run.
        group = [work for work in group if work[1].set_running_or_notify_cancel()]
        try:
            with self._connection:
                started = time.monotonic()
                outcomes = self._file.transact([operation for operation, _ in group])
                self._note_duration(started)
        except Exception as exc:
            outcomes = [exc] * len(group)
        for (_, future), outcome in zip(group, outcomes, strict=True):
            _resolve(future, outcome)

    def _note_duration(self, started: float) -> None:
        """Update the average duration of transactions; a single slow checkpoint does not count as a slow disk."""
        self._usual_seconds += (time.monotonic() - started - self._usual_seconds) / 8


def _resolve(future: "Future[T]", outcome: T | Exception) -> None:
    if isinstance(outcome, Exception):
        future.set_exception(outcome)
    else:
        future.set_result(outcome)
