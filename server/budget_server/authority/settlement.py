"""The ways a reservation leaves ACTIVE, exactly once: commit, release or expiry.

Each of them moves the whole estimate out of ``reserved`` on exactly the budgets that held it, in the same transaction
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
    """The outcome of a commit."""

    charged: int
    budgets: Sequence[Budget]


def commit(db: apsw.Connection, row: Reservation, request: CommitRequest, now_ms: int) -> Committed:
    """Charge the amount used and give the rest back; an overage follows the reservation's policy.

    A provisional charge made by expiry is replaced. If it lies in a period that has ended, that period is corrected,
    and only the amount beyond it is charged now.

    Raises:
        Refusal: 409, by the overage policy; the caller's savepoint undoes what was moved.
    """
    budgets = rows.find_budgets(db, json.loads(row.budgeted_scopes), row.unit)
    actual, estimate = request.actual.amount, row.estimate
    used = min(actual, estimate)
    if actual > estimate and row.overage_policy == "REJECT":
        raise _rejected(row, actual, budgets)
    # If a period has ended since a provisional charge, nothing of the charge is left to move.
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
    """Release the whole reservation at its holder's request."""
    return _give_back(db, row, state="RELEASED", settled_by="client", finalized_at_ms=now_ms)


def expire(db: apsw.Connection, row: Reservation) -> None:
    """Settle a reservation that was not settled in time, as its ``on_expiry`` says, at the moment its time ran out."""
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
    """Undo a reservation whose answer was never received, as if it had never been made."""
    for budget in rows.find_budgets(db, json.loads(row.budgeted_scopes), row.unit):
        budget.give_back(row.estimate)
        rows.save_budget(db, budget)
    quotas.uncount(db, row, quotas.WINDOWS)
    db.execute("DELETE FROM reservations WHERE reservation_id = ? AND state = 'ACTIVE'", (row.reservation_id,))
    assert db.changes() == 1, "only what is held can be withdrawn"


def _rejected(row: Reservation, actual: int, budgets: Sequence[Budget]) -> Refusal:
    """Build the refusal of an overage: REJECT limits a commit to its estimate (Cycles v0, CommitOveragePolicy)."""
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
