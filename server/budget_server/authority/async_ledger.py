"""The ledger for coroutines: an operation runs durably, and a caller that is cancelled is never left in doubt.

What was handed to the ledger is waited for, and what nobody will hear of is undone.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

import anyio

from budget_server.authority.ledger import Ledger
from budget_server.authority.writer import Writer

T = TypeVar("T")


class AsyncLedger:
    """Runs operations of one event loop.

    Args:
        writer: the ledger's thread; closed with this.
    """

    def __init__(self, writer: Writer) -> None:
        self.writer = writer
        self._is_crowded = False

    async def run(self, operation: Callable[[Ledger], T], undo: Callable[[Ledger, T], None] | None = None) -> T:
        """Run one operation as a transaction of its own.

        Args:
            operation: what to do.
            undo: what takes its effect back, should the caller be cancelled before it hears of the result.

        Raises:
            Refusal: the operation refused; nothing was written.
            LedgerUnavailableError: nothing was written.
        """
        future = self._lone_operation(operation) or self.writer.submit(operation)
        cancelled = None if future.done() else await _done(future)
        if cancelled is not None:
            if undo is not None and future.exception() is None:
                result = future.result()
                await _done(self.writer.submit(lambda ledger: undo(ledger, result)))
            raise cancelled
        return future.result()

    async def aclose(self) -> None:
        """Finish what was handed over and close the ledger."""
        with anyio.CancelScope(shield=True):
            await asyncio.to_thread(self.writer.close)

    def _lone_operation(self, operation: Callable[[Ledger], T]) -> "Future[T] | None":
        """Run the first operation of an event loop's turn at once; a second one means a crowd, which shares a flush."""
        if self._is_crowded:
            return None
        self._is_crowded = True
        asyncio.get_running_loop().call_soon(self._disperse)
        return self.writer.try_now(operation)

    def _disperse(self) -> None:
        self._is_crowded = False


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
