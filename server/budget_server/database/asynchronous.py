"""A file for coroutines: operations run durably, and a cancelled caller is never left in doubt.

An operation handed to the writer is always awaited; if its caller is gone, its effect is undone.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Generic, TypeVar

import anyio

from budget_server.database.file import Operation, ViewT
from budget_server.database.writer import Writer

T = TypeVar("T")


class AsyncFile(Generic[ViewT]):
    """The operations of one event loop on a file.

    Args:
        writer: the file's thread; closed with this.
    """

    def __init__(self, writer: Writer[ViewT]) -> None:
        self.writer = writer
        self._arrivals: _Arrivals | None = None
        self._served: asyncio.Task[Any] | None = None
        """The task whose operation was run at once in this turn of the loop."""

    async def run(
        self,
        operation: Operation[ViewT, T],
        undo: Callable[[ViewT, T], None] | None = None,
        *,
        is_brief: bool = True,
    ) -> T:
        """Run one operation as a transaction of its own.

        Args:
            operation: the operation to run.
            undo: the operation that undoes its effect if the caller is cancelled before it receives the result.
            is_brief: whether it may block the event loop; a search through the whole history is not brief.

        Raises:
            Exception: the operation's own; nothing was written.
            StorageUnavailableError: nothing was written.
        """
        cancelled = await self._next_turn() if self._served is asyncio.current_task() else None
        future = self._now(operation) if is_brief else None
        future = future or self.writer.submit(operation)
        if not future.done():
            cancelled = await self._done(future) or cancelled
        if cancelled is not None:
            if undo is not None and future.exception() is None:
                result = future.result()
                await self._done(self.writer.submit(lambda view: undo(view, result)))
            raise cancelled
        return future.result()

    async def aclose(self) -> None:
        """Finish the operations already handed over, and close the file."""
        with anyio.CancelScope(shield=True):
            await asyncio.to_thread(self.writer.close)

    def _now(self, operation: Operation[ViewT, T]) -> "Future[T] | None":
        """Run the first operation of the loop's turn at once; later ones go to the writer, where they share a flush."""
        if self._served is not None:
            return None
        self._served = asyncio.current_task()
        asyncio.get_running_loop().call_soon(self._end_turn)
        return self.writer.try_now(operation)

    def _end_turn(self) -> None:
        self._served = None

    @staticmethod
    async def _next_turn() -> asyncio.CancelledError | None:
        """Yield to the event loop before a task is served again; return a cancellation that arrived meanwhile."""
        try:
            with anyio.CancelScope(shield=True):
                await asyncio.sleep(0)
        except asyncio.CancelledError as exc:
            return exc
        return None

    async def _done(self, future: "Future[Any]") -> asyncio.CancelledError | None:
        """Wait until a submitted operation is done, despite any cancellation: only then is its outcome known.

        Returns:
            A cancellation that arrived meanwhile and must still be raised. A cancellation by an anyio scope is not
            among them; it is raised at the caller's next wait.
        """
        if self._arrivals is None:
            self._arrivals = _Arrivals(asyncio.get_running_loop())
        cancelled: asyncio.CancelledError | None = None
        with anyio.CancelScope(shield=True):
            while not future.done():
                try:
                    await self._arrivals.of(future)
                except asyncio.CancelledError as exc:
                    cancelled = exc
        return cancelled


class _Arrivals:
    """Completions that other threads report to an event loop in groups: a wake-up each would cost too much.

    Args:
        loop: the loop whose coroutines wait.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._arrived: deque[asyncio.Future[None]] = deque()
        self._is_woken = False

    def of(self, future: "Future[Any]") -> asyncio.Future[None]:
        """Return a future of this loop that ends when another thread's is done; cancelling it cancels no work."""
        waiter = self._loop.create_future()
        future.add_done_callback(lambda _: self._arrive(waiter))
        return waiter

    def _arrive(self, waiter: asyncio.Future[None]) -> None:
        # This appends and then checks the flag; the loop clears the flag and then drains: so no completion is missed.
        self._arrived.append(waiter)
        if not self._is_woken and not self._loop.is_closed():
            self._is_woken = True
            self._loop.call_soon_threadsafe(self._wake)

    def _wake(self) -> None:
        self._is_woken = False
        while self._arrived:
            waiter = self._arrived.popleft()
            if not waiter.done():
                waiter.set_result(None)
