"""The delegations of one process: they belong to it, not to the connection that asked for them."""

import asyncio

from runcycles import AsyncCyclesClient

from budget_tools.delegation.claude import Claude
from budget_tools.delegation.loop import Delegation, Means
from budget_tools.delegation.records import Task
from budget_tools.delegation.toolbox import Toolbox
from budget_tools.delegation.turn import TurnTaker
from budget_tools.errors import ConfigurationError, InvalidArgumentError
from budget_tools.ids import time_ordered_id
from budget_tools.pricing import PriceBook

MAX_RUNNING = 16
MAX_KEPT = 200
"""Finished delegations that can still be shown; older ones are forgotten."""


class DelegationRunner:
    """Starts delegations, finds them again, and stops them all when the process ends."""

    def __init__(self, *, cycles: AsyncCyclesClient, claude: Claude, prices: PriceBook, toolbox: Toolbox) -> None:
        turns = TurnTaker(cycles=cycles, claude=claude, prices=prices)
        self._means = Means(cycles=cycles, claude=claude, prices=prices, turns=turns)
        self._toolbox = toolbox
        self._delegations: dict[str, Delegation] = {}
        self._by_key: dict[str, str] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._starting = asyncio.Lock()
        self._is_closed = False

    async def start(self, task: Task, idempotency_key: str) -> Delegation:
        """Start a delegation, or join the one that this key started.

        Raises:
            InvalidArgumentError: a limit or tool is wrong, or the key came with another task; nothing was started.
            ConfigurationError: a tool's server does not start, or this process is ending; nothing was started.
        """
        async with self._starting:
            joined = self._delegations.get(self._by_key.get(idempotency_key, ""))
            if joined is not None:
                if not joined.task.is_same_as(task):
                    message = f"idempotency_key {idempotency_key} was used before with another task: choose a new one."
                    raise InvalidArgumentError(message, code="IDEMPOTENCY_MISMATCH")
                return joined
            self._means.prices.price(task.model)
            if len(self._tasks) >= MAX_RUNNING:
                raise InvalidArgumentError(f"{MAX_RUNNING} delegations are running already: wait for one to end.")
            tools = await self._toolbox.open(task.tools)
            if self._is_closed:
                raise ConfigurationError("This server is ending: nothing new is delegated.")
            delegation = Delegation(time_ordered_id(), task, tools, self._means)
            self._keep(delegation, idempotency_key)
            # A task of the process: the call that asked for it may be cut off long before it is done.
            running = asyncio.create_task(delegation.run(), name=f"delegation-{delegation.id}")
            self._tasks.add(running)
            running.add_done_callback(self._tasks.discard)
            return delegation

    def get(self, delegation_id: str) -> Delegation:
        """Find a delegation of this process.

        Raises:
            InvalidArgumentError: there is none of this id.
        """
        delegation = self._delegations.get(delegation_id)
        if delegation is None:
            raise InvalidArgumentError(
                f"There is no delegation {delegation_id!r} in this process: it ended with the process that ran it.",
                code="NOT_FOUND",
            )
        return delegation

    async def aclose(self) -> None:
        """Stop everything that runs, let nothing new start, and wait until all is settled."""
        self._is_closed = True
        for delegation in self._delegations.values():
            delegation.stop.request()
        if self._tasks:
            await asyncio.wait(self._tasks)

    def _keep(self, delegation: Delegation, idempotency_key: str) -> None:
        finished = [known.id for known in self._delegations.values() if known.is_done]
        for forgotten in finished[: max(0, len(self._delegations) - MAX_KEPT + 1)]:
            del self._delegations[forgotten]
        self._by_key = {key: known for key, known in self._by_key.items() if known in self._delegations}
        self._delegations[delegation.id] = delegation
        self._by_key[idempotency_key] = delegation.id
