"""Stop requests from outside, which end a delegation without losing its money.

The reservation around a turn is shielded from every cancellation, because leaving it early would release spent money.
The places inside it that may be interrupted are marked.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import anyio


class Stop:
    """A request to stop, and the places that obey it."""

    def __init__(self) -> None:
        self._is_requested = False
        self._scopes: set[anyio.CancelScope] = set()

    def is_requested(self) -> bool:
        """Return whether a stop was requested; it may be at any ``await``."""
        return self._is_requested

    def request(self) -> None:
        """Interrupt what may be interrupted, now and from now on."""
        self._is_requested = True
        for scope in self._scopes:
            scope.cancel()

    @contextmanager
    def interruptible(self) -> Iterator[anyio.CancelScope]:
        """Run a body that a stop may interrupt; ``cancelled_caught`` of the scope says whether one did."""
        with anyio.CancelScope() as scope:
            self._scopes.add(scope)
            if self._is_requested:
                scope.cancel()
            try:
                yield scope
            finally:
                self._scopes.discard(scope)
