"""Spends as they are written down before they may happen, and the log that keeps them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from budget_tools.core.errors import BudgetError


@dataclass(frozen=True, kw_only=True, slots=True)
class Spend:
    """Money that is about to be spent, or held, under one reservation."""

    reservation_id: str
    turn: int
    key: str
    """Idempotency key of the reserve; the keys that settle it derive from it."""
    subject: Mapping[str, Any]
    """The protocol's Subject."""
    action: Mapping[str, Any]
    """The protocol's Action."""
    unit: str
    bound: int
    """The reserved amount, in ``unit``."""
    is_hold: bool = False
    """Whether the money is held and not spent: released, not charged, if its process dies."""
    charge: int | None = None
    """Its cost, once known; ``None`` before."""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    """What its commit reports besides the amount."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Settled:
    """The result of a spend, in its unit; both parts together are its cost."""

    charged: int
    uncovered: int
    """Cost beyond the charge: the budget could not cover it, and it was not charged to any budget."""


class LimitReachedError(BudgetError):
    """A spend does not fit the limit of its delegation, or of one above it; nothing was written."""

    code = "LIMIT_REACHED"

    def __init__(self, left_microcents: int) -> None:
        super().__init__("The delegation's own limit does not cover it.")
        self.left_microcents = left_microcents


class SpendLog(Protocol):
    """A log of spends, written before they may happen."""

    async def mark_in_flight(self, spend: Spend) -> None:
        """Write a spend down.

        Raises:
            LimitReachedError: it does not fit a limit of the delegation; nothing was written.
        """

    def clear(self, reservation_id: str) -> None:
        """Record that a spend is settled."""
