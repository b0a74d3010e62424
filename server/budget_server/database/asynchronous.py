"""A file for coroutines: an operation runs durably, and a caller that is cancelled is never left in doubt.

What was handed to the writer is waited for, and what nobody will hear of is undone.
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
    """Runs operations of one event loop.

    Args:
        writer: the file's thread; closed with this.
    """

    def __init__(self, writer: Writer[ViewT]) -> None:
        self.writer = writer
        self._arrivals: _Arrivals | None = None
        self._served: asyncio.Task[Any] | None = None
        """Whose operation has been run at once in this turn of the loop."""

    async def run(
        self,
        operation: Operation[ViewT, T],
        undo: Callable[[ViewT, T], None] | None = None,
        *,
        is_brief: bool = True,
    ) -> T:
        """Run one operation as a transaction of its own.

        Args:
            operation: what to do.
            undo: what takes its effect back, should the caller be cancelled before it hears of the result.
            is_brief: whether the event loop may be held for it; a search through all that ever was is not brief.

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
        """Finish what was handed over and close the file."""
        with anyio.CancelScope(shield=True):
            await asyncio.to_thread(self.writer.close)

    def _now(self, operation: Operation[ViewT, T]) -> "Future[T] | None":
        """Run the first operation of the loop's turn at once; another task's is a crowd, which shares a flush."""
        if self._served is not None:
            return None
        self._served = asyncio.current_task()
        asyncio.get_running_loop().call_soon(self._end_turn)
        return self.writer.try_now(operation)

    def _end_turn(self) -> None:
        self._served = None

    @staticmethod
    async def _next_turn() -> asyncio.CancelledError | None:
        """Let the loop attend to others before a task is served again; give a cancellation that came meanwhile."""
        try:
            with anyio.CancelScope(shield=True):
                await asyncio.sleep(0)
        except asyncio.CancelledError as exc:
            return exc
        return None

    async def _done(self, future: "Future[Any]") -> asyncio.CancelledError | None:
        """Wait until what was handed over is done, whatever cancels the waiter: only then is it known what happened.

        Returns:
            A cancellation that came meanwhile and is still to be raised. One by an anyio scope stays outside; it meets
            the caller where it waits next.
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
    """Tells a loop what other threads have done, a group at a time: to wake it for each would cost more than the work.

    Args:
        loop: whose coroutines wait.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._arrived: deque[asyncio.Future[None]] = deque()
        self._is_woken = False

    def of(self, future: "Future[Any]") -> asyncio.Future[None]:
        """Give what ends in this loop once a future is done; to cancel it cancels no work."""
        waiter = self._loop.create_future()
        future.add_done_callback(lambda _: self._arrive(waiter))
        return waiter

    def _arrive(self, waiter: asyncio.Future[None]) -> None:
        # Here whoever arrives looks second, in the loop it is looked for arrivals second: nobody is missed.
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
