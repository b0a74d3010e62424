"""Spend without a reservation, or with one that can no longer be committed (Cycles v0, createEvent)."""

from collections.abc import Sequence
from dataclasses import dataclass

import apsw

from budget_server.authority import rows
from budget_server.authority.balance import Budget, charge_beyond, check_affordable, check_open
from budget_server.authority.requests import EventRequest, json_text, json_text_or_null, model_text
from budget_server.authority.tenants import Tenant
from budget_tools.core.ids import time_ordered_id


@dataclass(frozen=True, kw_only=True, slots=True)
class Booked:
    """The outcome of an event."""

    event_id: str
    charged: int
    budgets: Sequence[Budget]


def book(db: apsw.Connection, settings: Tenant, request: EventRequest, now_ms: int) -> Booked:
    """Charge an event to every budget of its subject's scopes, by its overage policy.

    Raises:
        Refusal: 400, 404 or 409; the caller's savepoint undoes what was moved.
    """
    overage_policy = request.overage_policy or settings.default_overage_policy
    scopes = request.subject.scopes()
    amount, unit = request.actual.amount, request.actual.unit
    budgets = rows.find_budgets(db, scopes, unit)
    for budget in budgets:
        check_open(budget)
        if overage_policy == "REJECT":
            check_affordable(budget, amount)
    rows.require_budget(db, budgets, scopes, unit)
    beyond = charge_beyond(budgets, amount, overage_policy)
    for budget in budgets:
        rows.save_budget(db, budget)
    event_id = time_ordered_id()
    rows.insert(
        db,
        "events",
        event_id=event_id,
        tenant=settings.tenant,
        unit=unit,
        amount=amount,
        charged=beyond.charged,
        scope_path=scopes[-1],
        budgeted_scopes=json_text([budget.scope for budget in budgets]),
        subject=model_text(request.subject),
        action=model_text(request.action),
        idempotency_key=request.idempotency_key,
        created_at_ms=now_ms,
        client_time_ms=request.client_time_ms,
        metrics=model_text(request.metrics),
        metadata=json_text_or_null(request.metadata),
    )
    return Booked(event_id=event_id, charged=beyond.charged, budgets=budgets)
