"""Rows of the delegations file, and their conversion from and to the loop's data."""

from collections.abc import Sequence
from typing import Any

import apsw
from pydantic import ValidationError

from budget_server.delegations.encoding import from_json, to_json
from budget_server.delegations.limits import spent_below_microcents
from budget_tools.core.errors import StorageUnavailableError
from budget_tools.delegation.records import Task, TurnRecord
from budget_tools.delegation.store import Stored
from budget_tools.spends.records import Spend

COLUMNS = (
    "delegation_id, tenant, task, max_turns, budget_microcents, status, model, hint, text, structured,"
    " spent_microcents, parent_id, depth, created_at_ms, updated_at_ms"
)


def stored(db: apsw.Connection, delegation_id: str, *, is_new: bool = False) -> Stored:
    """Load an existing delegation with its turns."""
    row = db.execute(
        f"SELECT {COLUMNS} FROM delegations WHERE delegation_id = ?",  # noqa: S608 - constants
        (delegation_id,),
    ).fetchone()
    assert row is not None
    turns = [
        _turn(record)
        for (record,) in db.execute(
            "SELECT record FROM turns WHERE delegation_id = ? ORDER BY number", (delegation_id,)
        )
    ]
    return of_row(db, row, turns=turns, is_new=is_new)


def of_row(db: apsw.Connection, row: tuple[Any, ...], *, turns: Sequence[TurnRecord], is_new: bool = False) -> Stored:
    """Build a delegation from its row, whose columns are ``COLUMNS``."""
    (
        delegation_id,
        tenant,
        task,
        max_turns,
        budget_microcents,
        status,
        model,
        hint,
        text,
        structured,
        spent_microcents,
        parent_id,
        depth,
        created_at_ms,
        updated_at_ms,
    ) = row
    limits = {"max_turns": max_turns, "budget_microcents": budget_microcents}
    return Stored(
        delegation_id=delegation_id,
        tenant=tenant,
        task=Task.model_validate({**from_json(task), **limits}),
        status=status,
        model=model,
        hint=from_json(hint),
        text=from_json(text),
        structured=None if structured is None else from_json(structured),
        turns=turns,
        spent_microcents=spent_microcents,
        children_spent_microcents=spent_below_microcents(db, delegation_id),
        parent_id=parent_id or "",
        depth=depth,
        created_at_ms=created_at_ms,
        updated_at_ms=updated_at_ms,
        is_new=is_new,
    )


def _turn(record: object) -> TurnRecord:
    try:
        return TurnRecord.model_validate(from_json(str(record)))
    except ValidationError as exc:
        raise StorageUnavailableError(
            "A turn in the delegation store is damaged: run `cycles-budget-mcp check`, and restore a backup."
        ) from exc


def spends(db: apsw.Connection, delegation_id: str) -> list[Spend]:
    """Load the spends that a delegation has in flight, in the order of its turns."""
    rows = db.execute(
        "SELECT reservation_id, turn, idempotency_key, subject, action, unit, bound, is_hold, charge, metadata"
        " FROM spends WHERE delegation_id = ? ORDER BY turn, reservation_id",
        (delegation_id,),
    ).fetchall()
    return [_spend(row) for row in rows]


def _spend(row: tuple[Any, ...]) -> Spend:
    reservation_id, turn, key, subject, action, unit, bound, is_hold, charge, metadata = row
    return Spend(
        reservation_id=reservation_id,
        turn=turn,
        key=key,
        subject=from_json(subject),
        action=from_json(action),
        unit=unit,
        bound=bound,
        is_hold=bool(is_hold),
        charge=charge,
        metadata=from_json(metadata),
    )


def insert_spend(db: apsw.Connection, delegation_id: str, spend: Spend) -> None:
    """Insert the row of a spend."""
    db.execute(
        "INSERT INTO spends (delegation_id, reservation_id, turn, idempotency_key, subject, action, unit, bound,"
        " is_hold, charge, metadata) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            delegation_id,
            spend.reservation_id,
            spend.turn,
            spend.key,
            to_json(spend.subject),
            to_json(spend.action),
            spend.unit,
            spend.bound,
            int(spend.is_hold),
            spend.charge,
            to_json(spend.metadata),
        ),
    )
