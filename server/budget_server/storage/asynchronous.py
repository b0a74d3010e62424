"""A file for coroutines: an operation runs durably, and a caller that is cancelled is never left in doubt.

What was handed to the writer is waited for, and what nobody will hear of is undone.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Generic, TypeVar

import anyio

from budget_server.storage.file import Operation, ViewT
from budget_server.storage.writer import Writer

T = TypeVar("T")


class AsyncFile(Generic[ViewT]):
    """Runs operations of one event loop.

    Args:
        writer: the file's thread; closed with this.
    """

    def __init__(self, writer: Writer[ViewT]) -> None:
        self.writer = writer
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
            cancelled = await _done(future) or cancelled
        if cancelled is not None:
            if undo is not None and future.exception() is None:
                result = future.result()
                await _done(self.writer.submit(lambda view: undo(view, result)))
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


async def _done(future: "Future[Any]") -> asyncio.CancelledError | None:
    """Wait until what was handed over is done, whatever cancels the waiter: only then is it known what happened.

    Returns:
        A cancellation that came meanwhile and is still to be raised. One by an anyio scope stays outside; it meets the
        caller where it waits next.
    """
    waiter = asyncio.wrap_future(future)
    cancelled: asyncio.CancelledError | None = None
    with anyio.CancelScope(shield=True):
        while not waiter.done():
            try:
                await asyncio.wait([waiter])
            except asyncio.CancelledError as exc:
                cancelled = exc
    waiter.exception()  # seen, so that the loop does not report it as lost
    return cancelled
