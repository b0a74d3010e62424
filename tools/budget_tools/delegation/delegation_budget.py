"""The budget of a delegation: what remains of its budget and its own limit, and what it holds for a last answer."""

import logging
import time
from dataclasses import dataclass

from runcycles import AsyncCyclesClient

from budget_tools.core.errors import AuthorityError
from budget_tools.core.money import USD_MICROCENTS, Money
from budget_tools.core.subjects import Subject
from budget_tools.delegation.log import DelegationLog
from budget_tools.spends.reserver import HOLD_MS, LimitDenial, Reserver, SpendRequest
from budget_tools.spends.responses import Denial, standing

logger = logging.getLogger(__name__)

RENEW_SECONDS = HOLD_MS / 1_000 / 3
"""Age at which a hold is replaced: the rest of its lifetime must outlast the longest turn."""

FINAL_DENIALS = frozenset(
    {"BUDGET_FROZEN", "BUDGET_CLOSED", "TENANT_CLOSED", "DEBT_OUTSTANDING", "OVERDRAFT_LIMIT_EXCEEDED"}
)
"""Denials intended by a person: then not even the money held for a last answer is spent."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Hold:
    order: SpendRequest
    reservation_id: str
    made_at: float

    @property
    def is_fresh(self) -> bool:
        return time.monotonic() - self.made_at < RENEW_SECONDS


class DelegationBudget:
    """The money of one delegation, as far as it is known.

    The hold for the last answer is an ordinary reservation without a heartbeat. The last turn reserves with the same
    key and the same order, so the authority answers with the same reservation (Cycles v0, IDEMPOTENCY): other spenders
    cannot take the money in between.
    """

    def __init__(self, *, cycles: AsyncCyclesClient, spender: Reserver, log: DelegationLog, subject: Subject) -> None:
        self._cycles = cycles
        self._spender = spender
        self._log = log
        self._subject = subject
        self._hold: _Hold | None = None
        self._held_in_all = 0
        self.remaining: Money | None = None
        """What remained of the budget when it was last read; ``None`` if that is not known."""

    async def look(self) -> None:
        """Read what remains of the budget; a failure does not lose a turn that was paid for."""
        try:
            found = await standing(self._cycles, self._subject, USD_MICROCENTS)
        except AuthorityError as exc:
            logger.warning("What remains of the budget is not known: %s", exc.message)
            found = None
        self.remaining = None if found is None else found.remaining
        self._held_in_all = 0 if found is None else found.reserved

    async def own_limit(self) -> int | None:
        """Return what the delegation's own limits still allow, besides what is held; ``None`` if there are none."""
        return await self._log.left_microcents()

    async def limit_after(self, denial: Denial | LimitDenial, limit: int | None) -> int | None:
        """Return the most that another try may cost after a denial; ``None`` if the budget cannot be read."""
        if isinstance(denial, LimitDenial):
            left = denial.left_microcents
        else:
            await self.look()
            return None if self.remaining is None else self.within_remaining(limit)
        return left if limit is None else min(left, limit)

    def within_remaining(self, limit: int | None) -> int | None:
        """Return a limit narrowed to what remained when it was last read."""
        if self.remaining is None:
            return limit
        left = max(self.remaining.amount, 0)
        return left if limit is None else min(left, limit)

    async def may_grow(self) -> bool:
        """Return whether others hold the missing money and may release it, or have released it by now."""
        before = self.remaining
        await self.look()
        if self.remaining is None:
            return False
        limit = await self.own_limit()
        if limit is not None and limit <= self.remaining.amount:
            return False
        own = 0 if self._hold is None else self._hold.order.bound
        has_grown = before is None or self.remaining.amount > before.amount
        return has_grown or self._held_in_all > own

    # -- held for the last answer -----------------------------------------------------------------------------------

    @property
    def held(self) -> SpendRequest | None:
        """The order that the last turn has to reserve with to find the hold; ``None`` if nothing is held."""
        return None if self._hold is None else self._hold.order

    def covers(self, order: SpendRequest) -> bool:
        """Return whether the hold is for this model, and for at least as much."""
        hold = self._hold
        return hold is not None and hold.is_fresh and hold.order.name == order.name and hold.order.bound >= order.bound

    async def hold(self, order: SpendRequest) -> Denial | LimitDenial | None:
        """Replace the hold by this one; if it is denied, the old one stays.

        Raises:
            AuthorityError: the authority is unavailable.
        """
        held = await self._spender.hold(order)
        if not isinstance(held, str):
            return held
        await self.release()
        self._hold = _Hold(order=order, reservation_id=held, made_at=time.monotonic())
        return None

    async def release(self) -> None:
        """Release the hold."""
        hold, self._hold = self._hold, None
        if hold is not None:
            await self._spender.release(hold.reservation_id, hold.order.key)

    def forget_hold(self) -> None:
        """Record that the hold was spent, or lost."""
        self._hold = None
