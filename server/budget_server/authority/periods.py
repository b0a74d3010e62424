"""Calendar periods of a budget: their boundaries in its owner's time zone, and the figures that an ended one leaves.

A budget with a period resets at each boundary: nothing is spent, reserved amounts stay reserved, and the new allocation
repays a debt first. The figures of the period that ended are kept in ``ended_periods``.
"""

from datetime import UTC, date, datetime, time, timedelta
from typing import Literal, get_args
from zoneinfo import ZoneInfo

import apsw

from budget_server.authority import rows
from budget_server.authority.balance import Budget

Period = Literal["none", "day", "week", "month"]
PERIODS: tuple[str, ...] = get_args(Period)

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)


def period_end_ms(period: str, time_zone: str, at_ms: int) -> int | None:
    """Return the first moment after the period that contains ``at_ms``: a midnight of the zone, in epoch milliseconds.

    Weeks start on Mondays. If clocks skip midnight, the day starts at the moment they are set.

    Args:
        period: one of ``PERIODS``; ``"none"`` never ends.
        time_zone: an IANA name such as ``Europe/Berlin``.
        at_ms: epoch milliseconds.
    """
    if period == "none":
        return None
    zone = ZoneInfo(time_zone)
    today = datetime.fromtimestamp(at_ms // 1_000, zone).date()
    end_ms = (datetime.combine(_first_day_after(period, today), time.min, zone) - _EPOCH) // _MILLISECOND
    assert end_ms > at_ms, (period, time_zone, at_ms)
    return end_ms


def _first_day_after(period: str, today: date) -> date:
    if period == "day":
        return today + timedelta(days=1)
    if period == "week":
        return today + timedelta(days=7 - today.weekday())
    return (today.replace(day=1) + timedelta(days=31)).replace(day=1)


def next_end_ms(db: apsw.Connection, now_ms: int) -> int | None:
    """Return the earliest boundary that has passed and is not yet processed."""
    row = db.execute("SELECT min(period_end_ms) FROM budgets WHERE period_end_ms <= ?", (now_ms,)).fetchone()
    return None if row is None else row[0]


def end_periods(db: apsw.Connection, end_ms: int) -> None:
    """Reset every budget whose period ends at this boundary."""
    for budget in rows.find_budgets_ending(db, end_ms):
        if budget.spent or budget.debt:
            rows.insert(
                db,
                "ended_periods",
                scope=budget.scope,
                unit=budget.unit,
                start_ms=budget.counted_from_ms,
                end_ms=end_ms,
                allocated=budget.allocated,
                spent=budget.spent,
                debt=budget.debt,
            )
        budget.start_period(end_ms)
        rows.save_budget(db, budget)
        budget.period_end_ms = period_end_ms(budget.period, budget.time_zone, end_ms)
        rows.save_terms(db, budget)


def correct_spent(db: apsw.Connection, budget: Budget, at_ms: int, by: int) -> None:
    """Correct the spend of a period that has ended: a provisional charge in it was replaced by a different amount."""
    db.execute(
        "UPDATE ended_periods SET spent = spent + ? WHERE scope = ? AND unit = ? AND start_ms <= ? AND ? < end_ms",
        (by, budget.scope, budget.unit, at_ms, at_ms),
    )
