"""How a reservation leaves ACTIVE: committed, given back or expired, once.

Every way out moves the whole estimate out of ``reserved`` on exactly the budgets that held it, in the same transaction
that changes the reservation's state. By induction the estimates of the ACTIVE reservations over a budget always add up
to its ``reserved``; the ``check`` command adds them up from the start.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass

import apsw

from budget_server.authority import periods, quotas, rows
from budget_server.authority.balance import Budget, charge_beyond
from budget_server.authority.refusals import Refusal
from budget_server.authority.requests import CommitRequest, json_text, json_text_or_null, model_text
from budget_server.authority.reservation import Reservation


@dataclass(frozen=True, kw_only=True, slots=True)
class Committed:
    """What a commit came to."""

    charged: int
    budgets: Sequence[Budget]


def commit(db: apsw.Connection, row: Reservation, request: CommitRequest, now_ms: int) -> Committed:
    """Charge what was used and give the rest back; an overage goes by the reservation's policy.

    A charge that expiry made for want of knowledge is replaced. Where it lies in a period that has ended, that period
    is corrected, and only what exceeds it is charged now.

    Raises:
        Refusal: 409, by the overage policy; the caller's savepoint undoes what was moved.
    """
    budgets = rows.find_budgets(db, json.loads(row.budgeted_scopes), row.unit)
    actual, estimate = request.actual.amount, row.estimate
    used = min(actual, estimate)
    if actual > estimate and row.overage_policy == "REJECT":
        raise _rejected(row, actual, budgets)
    # Where a period has ended since a provisional charge, there is nothing of it left to move.
    current = [each for each in budgets if not row.is_provisional or each.counted_from_ms <= row.expired_at_ms]
    if row.is_provisional:
        for budget in current:
            budget.unspend(estimate)
    charged, debt, uncovered = used, 0, 0
    if actual > estimate:
        beyond = charge_beyond(budgets, actual - estimate, row.overage_policy)
        charged, debt, uncovered = estimate + beyond.charged, beyond.debt, beyond.uncovered
    for budget in budgets:
        if budget in current:
            budget.spend_reserved(used)
            budget.give_back(estimate - used)
        else:
            periods.correct_spent(db, budget, row.expired_at_ms, used - estimate)
        rows.save_budget(db, budget)
    _leave(
        db,
        row,
        state="COMMITTED",
        settled_by="client",
        finalized_at_ms=now_ms,
        charged=charged,
        debt_incurred=debt,
        uncovered=uncovered,
        metrics=model_text(request.metrics),
        committed_metadata=json_text_or_null(request.metadata),
    )
    return Committed(charged=charged, budgets=budgets)


def release(db: apsw.Connection, row: Reservation, now_ms: int) -> list[Budget]:
    """Give all of it back because its holder says so."""
    return _give_back(db, row, state="RELEASED", settled_by="client", finalized_at_ms=now_ms)


def expire(db: apsw.Connection, row: Reservation) -> None:
    """Settle what nobody settled in time, as its ``on_expiry`` says, at the moment when its time ran out."""
    if row.on_expiry == "release":
        _give_back(db, row, state="EXPIRED", settled_by="expiry")
        return
    for budget in rows.find_budgets(db, json.loads(row.budgeted_scopes), row.unit):
        budget.spend_reserved(row.estimate)
        rows.save_budget(db, budget)
    _leave(
        db,
        row,
        state="COMMITTED",
        settled_by="expiry",
        finalized_at_ms=row.expired_at_ms,
        charged=row.estimate,
        debt_incurred=0,
        committed_metadata=json_text({"actual_source": "bound"}),
    )


def withdraw(db: apsw.Connection, row: Reservation) -> None:
    """Undo a reservation that nobody heard of, as though it had never been."""
    for budget in rows.find_budgets(db, json.loads(row.budgeted_scopes), row.unit):
        budget.give_back(row.estimate)
        rows.save_budget(db, budget)
    quotas.uncount(db, row, quotas.WINDOWS)
    db.execute("DELETE FROM reservations WHERE reservation_id = ? AND state = 'ACTIVE'", (row.reservation_id,))
    assert db.changes() == 1, "only what is held can be withdrawn"


def _rejected(row: Reservation, actual: int, budgets: Sequence[Budget]) -> Refusal:
    """Refuse an overage whatever remains: REJECT holds a commit to its estimate (Cycles v0, CommitOveragePolicy)."""
    deepest = budgets[-1]
    held, used = deepest.show(row.estimate), deepest.show(actual)
    message = f"Reservation {row.reservation_id} holds {held}, and its overage policy REJECT allows no {used}."
    return deepest.denial("BUDGET_EXCEEDED", message, f"Commit at most {held}.")


def _give_back(db: apsw.Connection, row: Reservation, **settled: "apsw.SQLiteValue") -> list[Budget]:
    budgets = rows.find_budgets(db, json.loads(row.budgeted_scopes), row.unit)
    for budget in budgets:
        budget.give_back(row.estimate)
        rows.save_budget(db, budget)
    quotas.uncount(db, row, ("run",))
    _leave(db, row, **settled)
    return budgets


def _leave(db: apsw.Connection, row: Reservation, **settled: "apsw.SQLiteValue") -> None:
    """Change the state that the row was loaded with: a reservation that has left it meanwhile is not settled twice."""
    names = ", ".join(f"{name} = ?" for name in settled)
    db.execute(
        f"UPDATE reservations SET {names}"  # noqa: S608 - the names are ours
        " WHERE reservation_id = ? AND state = ? AND settled_by IS ?",
        (*settled.values(), row.reservation_id, row.state, row.settled_by),
    )
    assert db.changes() == 1, f"reservation {row.reservation_id} is settled once"
    assert row.state == "ACTIVE" or row.is_provisional, f"reservation {row.reservation_id} had been settled"
