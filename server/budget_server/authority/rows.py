"""Rows of budgets and reservations, between the tables and the objects that the rules work on."""

from collections.abc import Sequence
from functools import cache
from typing import Any

import apsw

from budget_server.authority import balance, reservation
from budget_server.authority.balance import Budget
from budget_server.authority.refusals import Refusal
from budget_server.authority.reservation import Reservation


def find_budgets(db: apsw.Connection, scopes: Sequence[str], unit: str) -> list[Budget]:
    """Load the budgets of the scopes in a unit, in the scopes' order; scopes without one are skipped."""
    found = {row[0]: row for row in db.execute(_select_budgets(len(scopes)), (unit, *scopes))}
    return [Budget(*found[scope]) for scope in scopes if scope in found]


@cache
def _select_budgets(number: int) -> str:
    places = ", ".join("?" * number)
    return f"SELECT {balance.COLUMNS} FROM budgets WHERE unit = ? AND scope IN ({places})"  # noqa: S608 - constants


def require_budget(db: apsw.Connection, budgets: Sequence[Budget], scopes: Sequence[str], unit: str) -> None:
    """Refuse a move if none of the scopes has a budget in the unit.

    Raises:
        Refusal: 400 UNIT_MISMATCH if one has a budget in another unit, else 404 NOT_FOUND.
    """
    if budgets:
        return
    for scope in scopes:
        units = [row[0] for row in db.execute("SELECT unit FROM budgets WHERE scope = ? ORDER BY unit", (scope,))]
        if units:
            details = {"scope": scope, "requested_unit": unit, "expected_units": units}
            message = f"Budget for scope {scope} is kept in {', '.join(units)}, not in {unit}."
            raise Refusal(400, "UNIT_MISMATCH", message, details)
    raise Refusal(404, "NOT_FOUND", f"Budget not found for provided scope: {scopes[-1]}")


def save_budget(db: apsw.Connection, budget: Budget) -> None:
    """Write a budget back after its moves; the table's own CHECK asserts the invariant again."""
    db.execute(
        "UPDATE budgets SET"
        " allocated = ?, remaining = ?, reserved = ?, spent = ?, debt = ?, is_over_limit = ?, status = ?,"
        " uncovered = ?, uncovered_cleared = ? WHERE scope = ? AND unit = ?",
        (
            budget.allocated,
            budget.remaining,
            budget.reserved,
            budget.spent,
            budget.debt,
            int(budget.is_over_limit),
            budget.status,
            budget.uncovered,
            budget.uncovered_cleared,
            budget.scope,
            budget.unit,
        ),
    )


def save_terms(db: apsw.Connection, budget: Budget) -> None:
    """Write back the terms of a budget that a person sets or a boundary moves, besides the amounts."""
    db.execute(
        "UPDATE budgets SET overdraft_limit = ?, caps = ?, period = ?, time_zone = ?, period_end_ms = ?,"
        " counted_from_ms = ? WHERE scope = ? AND unit = ?",
        (
            budget.overdraft_limit,
            budget.caps,
            budget.period,
            budget.time_zone,
            budget.period_end_ms,
            budget.counted_from_ms,
            budget.scope,
            budget.unit,
        ),
    )


def find_budgets_ending(db: apsw.Connection, end_ms: int) -> list[Budget]:
    """Load the budgets whose period ends at this moment."""
    found: list[Any] = db.execute(
        f"SELECT {balance.COLUMNS} FROM budgets WHERE period_end_ms = ?",  # noqa: S608 - constants
        (end_ms,),
    ).fetchall()
    return [Budget(*row) for row in found]


def find_reservation(db: apsw.Connection, reservation_id: str) -> Reservation | None:
    """Load a reservation of any tenant."""
    if not reservation_id.isascii():  # all our ids are ASCII; SQLite does not accept a lone surrogate
        return None
    row = db.execute(
        f"SELECT {reservation.COLUMNS} FROM reservations WHERE reservation_id = ?",  # noqa: S608 - constants
        (reservation_id,),
    ).fetchone()
    return None if row is None else Reservation(*row)


def insert(db: apsw.Connection, table: str, **columns: "apsw.SQLiteValue") -> None:
    """Insert a row; only our own code names table and columns."""
    db.execute(_insert_statement(table, tuple(columns)), tuple(columns.values()))


@cache
def _insert_statement(table: str, columns: tuple[str, ...]) -> str:
    places = ", ".join("?" * len(columns))
    return f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({places})"  # noqa: S608 - see above
