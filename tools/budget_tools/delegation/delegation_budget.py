"""What a delegation may still spend: of its budget, of its own limit, and of what it holds for a last answer."""

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
"""A hold older than this is made anew: what is left of its life must outlast the longest turn."""

FINAL_DENIALS = frozenset(
    {"BUDGET_FROZEN", "BUDGET_CLOSED", "TENANT_CLOSED", "DEBT_OUTSTANDING", "OVERDRAFT_LIMIT_EXCEEDED"}
)
"""Denials that a person meant: not even what is held for a last answer is spent then."""


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
    key and the same order, so the authority answers with the same reservation (Cycles v0, IDEMPOTENCY): nobody can
    take the money in between.
    """

    def __init__(self, *, cycles: AsyncCyclesClient, spender: Reserver, log: DelegationLog, subject: Subject) -> None:
        self._cycles = cycles
        self._spender = spender
        self._log = log
        self._subject = subject
        self._hold: _Hold | None = None
        self._held_in_all = 0
        self.remaining: Money | None = None
        """What remained of the budget when it was last looked at; ``None`` where that is not known."""

    async def look(self) -> None:
        """Ask what remains; a turn that was paid for is not lost over it."""
        try:
            found = await standing(self._cycles, self._subject, USD_MICROCENTS)
        except AuthorityError as exc:
            logger.warning("What remains of the budget is not known: %s", exc.message)
            found = None
        self.remaining = None if found is None else found.remaining
        self._held_in_all = 0 if found is None else found.reserved

    async def own_limit(self) -> int | None:
        """Give what the delegation's own limits still allow, beside what is held; ``None`` where there are none."""
        return await self._log.left_microcents()

    async def limit_after(self, denial: Denial | LimitDenial, limit: int | None) -> int | None:
        """Give the most that another try may cost after a denial; ``None`` where the budget cannot be seen."""
        if isinstance(denial, LimitDenial):
            left = denial.left_microcents
        else:
            await self.look()
            return None if self.remaining is None else self.within_remaining(limit)
        return left if limit is None else min(left, limit)

    def within_remaining(self, limit: int | None) -> int | None:
        """Narrow a limit to what remained when it was last looked at."""
        if self.remaining is None:
            return limit
        left = max(self.remaining.amount, 0)
        return left if limit is None else min(left, limit)

    async def may_grow(self) -> bool:
        """Look whether others hold what is missing here, and may give it back, or have done so by now."""
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
        """What the last turn has to reserve to find the hold; ``None`` where nothing is held."""
        return None if self._hold is None else self._hold.order

    def covers(self, order: SpendRequest) -> bool:
        """Whether what is held is for this model, and no less."""
        hold = self._hold
        return hold is not None and hold.is_fresh and hold.order.name == order.name and hold.order.bound >= order.bound

    async def hold(self, order: SpendRequest) -> Denial | LimitDenial | None:
        """Hold this instead of what is held; where it is denied, what is held stays.

        Raises:
            AuthorityError: the authority is away.
        """
        held = await self._spender.hold(order)
        if not isinstance(held, str):
            return held
        await self.release()
        self._hold = _Hold(order=order, reservation_id=held, made_at=time.monotonic())
        return None

    async def release(self) -> None:
        """Give back what is held."""
        hold, self._hold = self._hold, None
        if hold is not None:
            await self._spender.release(hold.reservation_id, hold.order.key)

    def forget_hold(self) -> None:
        """Note that what was held is spent, or lost."""
        self._hold = None
