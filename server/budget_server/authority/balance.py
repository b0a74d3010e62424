"""One budget and the moves it allows: pure arithmetic, no I/O.

The invariant of every budget, asserted after every move and again by the table's own CHECK:

    remaining = allocated - spent - reserved - debt

``remaining`` may be negative, the other four never. ``spent`` is the funded part of consumption, ``debt`` the unfunded.
``is_over_limit`` is sticky: a capped charge or too much debt sets it; only a change by a person, or a new period,
clears it.

``uncovered`` is outside the invariant: it was spent but charged to no budget, because one of the budgets it drew on
could not cover it. Every budget of the spend counts it, so that spent + debt + uncovered is the real spend over a
scope. Neither funding nor a new period changes it: it stays until a person clears it.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Any

from budget_server.authority.refusals import Refusal, deny_detail
from budget_server.authority.requests import MAX_AMOUNT, OveragePolicy
from budget_tools.core.money import Money
from budget_tools.core.scopes import leaf


@dataclass(slots=True)
class Budget:
    """A row of ``budgets``, in the order of ``COLUMNS``."""

    scope: str
    unit: str
    allocated: int
    remaining: int
    reserved: int
    spent: int
    debt: int
    overdraft_limit: int
    is_over_limit: bool
    status: str
    caps: str | None
    """The protocol's Caps as JSON text."""
    period: str
    """``day``, ``week`` or ``month``; ``none`` if it never resets."""
    time_zone: str
    """IANA name, for the period's boundaries."""
    period_end_ms: int | None
    counted_from_ms: int
    """Start of the count in ``spent``: the boundary of the last reset, 0 if it has never reset."""
    uncovered: int
    """Amount spent over this scope, charged nowhere and not yet cleared by a person."""
    uncovered_cleared: int
    """Amount of uncovered spend that people have cleared so far."""

    def __post_init__(self) -> None:
        self.is_over_limit = bool(self.is_over_limit)

    def hold(self, amount: int) -> None:
        """Move from remaining to reserved."""
        self.remaining -= amount
        self.reserved += amount
        self._check()

    def give_back(self, amount: int) -> None:
        """Move from reserved to remaining."""
        self.reserved -= amount
        self.remaining += amount
        self._check()

    def spend_reserved(self, amount: int) -> None:
        """Move from reserved to spent."""
        self.reserved -= amount
        self.spent += amount
        self._check()

    def spend(self, amount: int) -> None:
        """Move from remaining to spent."""
        self.remaining -= amount
        self.spent += amount
        self._check()

    def unspend(self, amount: int) -> None:
        """Move from spent back to reserved, so that a provisional charge can be settled again."""
        self.spent -= amount
        self.reserved += amount
        self._check()

    def overdraw(self, amount: int) -> None:
        """Charge more than remains: the remaining amount becomes spent, the rest debt."""
        funded = max(self.remaining, 0)
        self.remaining -= amount
        self.spent += funded
        self.debt += amount - funded
        self._check()

    def allocate(self, amount: int) -> None:
        """Set the allocation; recompute remaining and whether the budget is over its limit."""
        self.remaining += amount - self.allocated
        self.allocated = amount
        self.is_over_limit = self.debt > self.overdraft_limit
        self._check()

    def fund(self, amount: int) -> None:
        """Add to the allocation; it repays a debt first, so that the debt's purchases stay visible as spent."""
        repaid = min(self.debt, amount)
        self.allocated += amount
        self.remaining += amount
        self.debt -= repaid
        self.spent += repaid
        self.is_over_limit = self.debt > self.overdraft_limit
        self._check()

    def start_period(self, at_ms: int) -> None:
        """Reset for a new period: restore the allocation, which first repays any debt and keeps it visible as spent."""
        repaid = min(self.debt, self.allocated)
        self.spent, self.debt = repaid, self.debt - repaid
        self.remaining = self.allocated - self.spent - self.reserved - self.debt
        self.is_over_limit = self.debt > self.overdraft_limit
        self.counted_from_ms = at_ms
        self._check()

    def note_uncovered(self, amount: int) -> None:
        """Count spend that was not charged; the count saturates at 64 bits."""
        self.uncovered = min(self.uncovered + amount, MAX_AMOUNT - self.uncovered_cleared)

    def clear_uncovered(self) -> None:
        """Record that a person has seen the uncovered spend; no money moves."""
        self.uncovered_cleared += self.uncovered
        self.uncovered = 0

    def limit_debt(self, overdraft_limit: int) -> None:
        """Set the overdraft limit, and recompute whether the debt exceeds it."""
        self.overdraft_limit = overdraft_limit
        self.is_over_limit = self.debt > overdraft_limit

    def _check(self) -> None:
        if max(self.reserved, self.spent, self.debt) > MAX_AMOUNT or self.remaining < -MAX_AMOUNT:
            raise Refusal(500, "INTERNAL_ERROR", f"The amounts of {self.scope} would leave the 64-bit range.")
        assert min(self.allocated, self.reserved, self.spent, self.debt) >= 0, self
        assert self.remaining == self.allocated - self.spent - self.reserved - self.debt, self

    def denial(self, code: str, message: str, suggested_fix: str) -> Refusal:
        """Build a refusal for lack of budget, naming the scope, what remains there and what would help."""
        remaining = {"unit": self.unit, "amount": self.remaining}
        details = deny_detail(code, suggested_fix, blocked_by_scope=self.scope, budget_remaining=remaining)
        return Refusal(409, code, message, details)

    def show(self, amount: int) -> str:
        """Return an amount of this budget's unit for people: ``$0.05`` or ``30 TOKENS``."""
        return str(Money.of(amount, self.unit))

    def wire(self) -> dict[str, Any]:
        """Return this budget as the protocol's Balance; zero debt, no limit and no flag are left out."""
        balance: dict[str, Any] = {
            "scope": leaf(self.scope),
            "scope_path": self.scope,
            "remaining": {"unit": self.unit, "amount": self.remaining},
            "reserved": {"unit": self.unit, "amount": self.reserved},
            "spent": {"unit": self.unit, "amount": self.spent},
            "allocated": {"unit": self.unit, "amount": self.allocated},
        }
        if self.debt > 0:
            balance["debt"] = {"unit": self.unit, "amount": self.debt}
        if self.overdraft_limit > 0:
            balance["overdraft_limit"] = {"unit": self.unit, "amount": self.overdraft_limit}
        if self.is_over_limit:
            balance["is_over_limit"] = True
        return balance


def uncovered_of(budgets: Iterable[Budget]) -> list[tuple[str, str, int]]:
    """Return scope, unit and amount of the uncovered spend of these budgets that has not been cleared yet."""
    return [(budget.scope, budget.unit, budget.uncovered) for budget in budgets if budget.uncovered]


COLUMNS = ", ".join(field.name for field in fields(Budget))


def check_open(budget: Budget) -> None:
    """Refuse a budget that an operator has frozen or closed.

    Raises:
        Refusal: 409 BUDGET_FROZEN or BUDGET_CLOSED.
    """
    for status, remedy in (("FROZEN", "Ask an operator to unfreeze it."), ("CLOSED", "Use another scope.")):
        if budget.status == status:
            raise budget.denial(f"BUDGET_{status}", f"Budget for scope {budget.scope} is {status.lower()}.", remedy)


def check_reservable(budget: Budget, amount: int) -> None:
    """Refuse an estimate that this budget cannot reserve; the order of checks is the protocol's.

    Raises:
        Refusal: 409 BUDGET_FROZEN, BUDGET_CLOSED, OVERDRAFT_LIMIT_EXCEEDED, DEBT_OUTSTANDING or BUDGET_EXCEEDED.
    """
    check_open(budget)
    if budget.is_over_limit:
        raise budget.denial(
            "OVERDRAFT_LIMIT_EXCEEDED",
            f"Budget for scope {budget.scope} is over its limit; it must be funded before anything new is reserved.",
            f"Ask an operator to fund this budget{_for_want(budget)}.",
        )
    if budget.debt > 0 and budget.overdraft_limit == 0:
        raise budget.denial(
            "DEBT_OUTSTANDING",
            f"Budget for scope {budget.scope} has outstanding debt of {budget.show(budget.debt)}.",
            "Ask an operator to repay the debt.",
        )
    if budget.remaining < amount:
        raise budget.denial(
            "BUDGET_EXCEEDED",
            f"Budget for scope {budget.scope} has {budget.show(budget.remaining)} remaining, "
            f"{budget.show(amount)} requested.",
            f"Reserve at most {budget.show(max(budget.remaining, 0))}, settle or release reservations of your own "
            "that are still held, or ask an operator to fund this budget.",
        )


def _for_want(budget: Budget) -> str:
    return f": {budget.show(budget.uncovered)} was spent that it could not cover" if budget.uncovered else ""


def check_affordable(budget: Budget, excess: int) -> None:
    """Refuse a charge that this budget cannot pay in full.

    Raises:
        Refusal: 409 BUDGET_EXCEEDED.
    """
    if budget.remaining < excess:
        raise budget.denial(
            "BUDGET_EXCEEDED",
            f"Budget for scope {budget.scope} has {budget.show(budget.remaining)} remaining, "
            f"{budget.show(excess)} more is needed.",
            "Settle with a smaller amount, or ask an operator to fund this budget.",
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Charge:
    """The outcome of a charge beyond the reserved part."""

    charged: int
    debt: int
    uncovered: int = 0
    """Amount charged to no budget, because one of them could not cover it."""


def charge_beyond(budgets: Sequence[Budget], excess: int, policy: OveragePolicy) -> Charge:
    """Charge ``excess`` on every budget by the overage policy (Cycles v0, COMMIT OVERAGE POLICIES).

    For a commit, ``excess`` is the amount by which the actual exceeds the estimate; for an event it is the whole
    amount.

    Raises:
        Refusal: 409 BUDGET_EXCEEDED (REJECT) or OVERDRAFT_LIMIT_EXCEEDED (ALLOW_WITH_OVERDRAFT); nothing was moved.
    """
    if policy == "REJECT":
        for budget in budgets:
            check_affordable(budget, excess)
        for budget in budgets:
            budget.spend(excess)
        return Charge(charged=excess, debt=0)
    charge = _charge_what_is_there if policy == "ALLOW_IF_AVAILABLE" else _charge_with_overdraft
    charged, debt = charge(budgets, excess)
    uncovered = excess - charged
    if uncovered:
        for budget in budgets:
            budget.note_uncovered(uncovered)
    return Charge(charged=charged, debt=debt, uncovered=uncovered)


def _charge_what_is_there(budgets: Sequence[Budget], excess: int) -> tuple[int, int]:
    short = [budget for budget in budgets if budget.remaining < excess]
    charged = min([excess, *(max(budget.remaining, 0) for budget in budgets)])
    for budget in budgets:
        budget.spend(charged)
    # Only the capped part: a charge of zero on a budget that was already negative creates no debt.
    if charged < excess:
        for budget in short:
            budget.is_over_limit = True
    return charged, 0


def _charge_with_overdraft(budgets: Sequence[Budget], excess: int) -> tuple[int, int]:
    capping = [budget for budget in budgets if budget.overdraft_limit == 0 and budget.remaining < excess]
    charged = min([excess, *(max(budget.remaining, 0) for budget in capping)])
    borrowing = [budget for budget in budgets if budget.overdraft_limit > 0 and budget.remaining < charged]
    for budget in borrowing:
        if budget.debt + charged - max(budget.remaining, 0) > budget.overdraft_limit:
            raise budget.denial(
                "OVERDRAFT_LIMIT_EXCEEDED",
                f"Charging {budget.show(charged)} would take scope {budget.scope} past its overdraft limit "
                f"of {budget.show(budget.overdraft_limit)}.",
                "Ask an operator to fund this budget or raise its overdraft limit.",
            )
    debt = 0
    for budget in budgets:
        if budget.remaining >= charged:
            budget.spend(charged)
        else:
            debt += charged - max(budget.remaining, 0)
            budget.overdraw(charged)
    if charged < excess:
        for budget in capping:
            budget.is_over_limit = True
    return charged, min(debt, MAX_AMOUNT)
