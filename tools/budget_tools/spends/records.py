"""A spend as it is written down before it may happen, and where it is written."""

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
    """Held and not spent: given back, not charged, if its process dies."""
    charge: int | None = None
    """What it cost, once that is known; ``None`` before."""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    """What its commit says beside the amount."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Settled:
    """What a spend came to, in its unit; together what it cost."""

    charged: int
    uncovered: int
    """What it cost beyond that: the budget could not cover it, and nobody was charged."""


class LimitReachedError(BudgetError):
    """A spend does not fit into the delegation's own limit, or into one that it was made under; nothing was written."""

    code = "LIMIT_REACHED"

    def __init__(self, left_microcents: int) -> None:
        super().__init__("The delegation's own limit does not cover it.")
        self.left_microcents = left_microcents


class SpendLog(Protocol):
    """Where spends are written down before they may happen."""

    async def mark_in_flight(self, spend: Spend) -> None:
        """Write a spend down.

        Raises:
            LimitReachedError: it does not fit into a limit of the delegation; nothing was written.
        """

    def clear(self, reservation_id: str) -> None:
        """Note that a spend is settled."""
