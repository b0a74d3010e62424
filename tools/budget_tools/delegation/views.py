"""Delegations as a caller sees them, whether they run here or are read from the store."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

import anyio

from budget_tools.core.money import Money
from budget_tools.delegation.records import Task, TurnRecord
from budget_tools.delegation.result_warnings import warnings_of
from budget_tools.delegation.store import Outcome, Stored

POLL_SECONDS = 0.5
"""How often a delegation of another process is read."""


class DelegationView(Protocol):
    """A delegation as a caller sees it, whichever process runs it."""

    @property
    def id(self) -> str:
        """Its id."""

    @property
    def task(self) -> Task:
        """What was delegated."""

    @property
    def outcome(self) -> Outcome | None:
        """How it stopped; ``None`` while it runs."""

    @property
    def turns(self) -> Sequence[TurnRecord]:
        """The turns so far."""

    @property
    def text(self) -> str:
        """The sub-agent's last words."""

    @property
    def warnings(self) -> Sequence[str]:
        """What its caller should know besides the answer."""

    @property
    def spent_microcents(self) -> int:
        """What it was charged so far."""

    @property
    def nested_microcents(self) -> int:
        """What delegations that its sub-agent made were charged."""

    @property
    def remaining(self) -> Money | None:
        """What remains of its budget, if that is known."""

    @property
    def doing(self) -> str:
        """What it is doing, in a few words."""

    @property
    def steps(self) -> int:
        """How often ``doing`` was reported."""

    async def next_change(self) -> None:
        """Wait until something may have changed."""


class Kept:
    """A delegation that this process does not run, as the store has it."""

    def __init__(self, stored: Stored, look: Callable[[Stored], Awaitable[Stored]], left: Money | None) -> None:
        self._look = look
        self._stored = stored
        self.remaining = left
        self.steps = 0

    @property
    def id(self) -> str:
        """Its id."""
        return self._stored.delegation_id

    @property
    def task(self) -> Task:
        """What was delegated."""
        return self._stored.task

    @property
    def outcome(self) -> Outcome | None:
        """How it stopped; ``None`` while it runs."""
        stored = self._stored
        if stored.status == "running":
            return None
        return Outcome(status=stored.status, hint=stored.hint, structured=stored.structured)

    @property
    def turns(self) -> Sequence[TurnRecord]:
        """The turns so far."""
        return self._stored.turns

    @property
    def text(self) -> str:
        """The sub-agent's last words."""
        return self._stored.text

    @property
    def warnings(self) -> Sequence[str]:
        """What its caller should know besides the answer."""
        return warnings_of(self._stored.turns)

    @property
    def spent_microcents(self) -> int:
        """What it was charged so far."""
        return self._stored.spent_microcents

    @property
    def nested_microcents(self) -> int:
        """What delegations that its sub-agent made were charged."""
        return self._stored.children_spent_microcents

    @property
    def doing(self) -> str:
        """What it is doing, in a few words."""
        return self._stored.status if self.outcome else f"turn {len(self.turns) + 1}, in another process"

    async def next_change(self) -> None:
        """Wait a little and read it again; return at once if nothing will change."""
        if self.outcome is None:
            await anyio.sleep(POLL_SECONDS)
            self._stored = await self._look(self._stored)
            self.steps += 1
