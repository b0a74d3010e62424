"""Balances as tools show them, and their warnings: whole numbers only, no floats."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pydantic import BaseModel, Field

from budget_tools.core.money import USD_MICROCENTS, Money, format_usd
from budget_tools.core.scopes import clear_command

MARKS_PERCENT = (95, 80, 50)
"""Shares of use at which every answer that changes a budget warns of it, with the highest one reached."""


class Balance(BaseModel):
    """One budget in its current state: remaining = allocated - spent - reserved - debt."""

    scope: str
    unit: str
    allocated: Money
    remaining: Money
    reserved: Money
    spent: Money
    debt: Money | None = None
    overdraft_limit: Money | None = None
    uncovered: Money | None = Field(None, description="Spent, charged to no budget; until a person clears it.")
    is_over_limit: bool = False
    period: str = ""
    """``day``, ``week`` or ``month``; empty if the budget never starts again, or its period is not known."""

    @classmethod
    def read(cls, row: Mapping[str, Any], period: str = "") -> "Balance":
        """Convert a protocol Balance, whose field ``scope`` is only the last segment of the path."""
        unit = row["remaining"]["unit"]
        amounts = {name: amount_in(row, name) for name in ("allocated", "reserved", "spent")}
        debt, overdraft_limit = amount_in(row, "debt"), amount_in(row, "overdraft_limit")
        uncovered = amount_in(row, "uncovered")
        return cls(
            scope=row["scope_path"],
            unit=unit,
            remaining=Money.of(int(row["remaining"]["amount"]), unit),
            **{name: Money.of(amount, unit) for name, amount in amounts.items()},
            debt=Money.of(debt, unit) if debt else None,
            overdraft_limit=Money.of(overdraft_limit, unit) if overdraft_limit else None,
            uncovered=Money.of(uncovered, unit) if uncovered else None,
            is_over_limit=bool(row.get("is_over_limit")),
            period="" if period == "none" else period,
        )

    def __str__(self) -> str:
        debt = f", {self.debt} owed" if self.debt is not None else ""
        uncovered = f", {self.uncovered} not covered" if self.uncovered is not None else ""
        over = ", over its limit" if self.is_over_limit else ""
        period = f" per {self.period}" if self.period else ""
        return (
            f"{self.scope}: {self.remaining} remains of {self.allocated}{period}"
            f" ({self.spent} spent, {self.reserved} reserved{debt}{uncovered}{over})"
        )


def amount_in(row: Mapping[str, Any], name: str) -> int:
    """Return an amount of a protocol Balance; a missing one is 0 (Cycles v0, Balance)."""
    return int((row.get(name) or {}).get("amount", 0))


def usage_warnings(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return warnings of the budgets, given as protocol Balances, that have reached a mark, the fullest first.

    Held amounts count as used: they may be spent at any moment. An amount that a budget could not cover is warned of
    until a person clears it.
    """
    rows = list(rows)
    found: list[tuple[int, str]] = []
    for row in rows:
        allocated = amount_in(row, "allocated")
        used = allocated - amount_in(row, "remaining")
        percent = used * 100 // allocated if allocated > 0 else 0
        mark = next((each for each in MARKS_PERCENT if percent >= each), None)
        if mark is not None:
            unit = row["remaining"]["unit"]
            whole = f"{format_usd(allocated)} USD" if unit == USD_MICROCENTS else f"{allocated} {unit}"
            scope = row["scope_path"]
            found.append((percent, f"{scope} has reached the {mark} % mark: {percent} % of its {whole} is used"))
    marks = [text for _, text in sorted(found, key=lambda each: -each[0])]
    return [*marks, *(_uncovered_warning(row) for row in rows if amount_in(row, "uncovered"))]


def _uncovered_warning(row: Mapping[str, Any]) -> str:
    scope, unit = row["scope_path"], row["remaining"]["unit"]
    return (
        f"{Money.of(amount_in(row, 'uncovered'), unit)} was spent on {scope} that no budget covers; a person who has "
        f"seen it clears it with `cycles-budget-mcp {clear_command(scope, unit)}`"
    )


def uncovered_of(actual: int, charged: int, unit: str) -> Money | None:
    """Return what was spent and not charged, if anything."""
    return Money.of(actual - charged, unit) if charged < actual else None


def uncovered_hint(uncovered: Money | None) -> str:
    """Return the sentence that a budget could not cover all of what was spent; ``""`` if it could."""
    if uncovered is None:
        return ""
    return f"The budget could not cover {uncovered} of it: it is over its limit until a person funds it."


def in_words(warnings: Sequence[str]) -> str:
    """Return warnings as the end of a text."""
    return "".join(f" Warning: {each}." for each in warnings)
