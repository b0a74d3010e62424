"""The protocol's checks before a reservation, in their order, for reserve, dry run and decide alike.

The order: the tenant is open; quotas; then every budget of the subject's scopes from root to leaf (frozen, closed, over
its limit, in debt, short); last, that any budget exists at all. The first failure is the answer.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import apsw

from budget_server.authority import quotas, rows, tenants
from budget_server.authority.balance import Budget, check_reservable
from budget_server.authority.quotas import Bucket
from budget_server.authority.refusals import Refusal
from budget_server.authority.requests import DecideRequest, ReserveRequest
from budget_server.authority.tenants import Tenant
from budget_server.authority.timekeeping import Timekeeper


@dataclass(frozen=True, kw_only=True, slots=True)
class Admission:
    """The budgets that an admitted request draws on, and the quota buckets that count it."""

    tenant: Tenant
    scopes: Sequence[str]
    budgets: Sequence[Budget]
    buckets: Sequence[Bucket]

    def decision(self) -> dict[str, Any]:
        """Build the ALLOW answer, with the caps of the deepest budget if it has any."""
        caps = self.budgets[-1].caps
        return {"decision": "ALLOW"} if caps is None else {"decision": "ALLOW_WITH_CAPS", "caps": json.loads(caps)}


def admit(db: apsw.Connection, time: Timekeeper, tenant: str, request: DecideRequest | ReserveRequest) -> Admission:
    """Run all checks; this moves and counts nothing.

    Raises:
        Refusal: 400, 404 or 409 as Cycles v0 defines it.
    """
    settings = tenants.load(db, tenant)
    settings.refuse_closed()
    scopes = request.subject.scopes()
    buckets = quotas.admit(db, tenant, scopes, request.action, request.subject, time.now_ms)
    budgets = _reservable(db, time, scopes, request.estimate.unit, request.estimate.amount)
    return Admission(tenant=settings, scopes=scopes, budgets=budgets, buckets=buckets)


def _reservable(db: apsw.Connection, time: Timekeeper, scopes: Sequence[str], unit: str, amount: int) -> list[Budget]:
    """Load the budgets of the scopes and check each, root to leaf."""
    while True:
        budgets = rows.find_budgets(db, scopes, unit)
        try:
            for budget in budgets:
                check_reservable(budget, amount)
        except Refusal:
            # A full sweep may have left expired reservations behind that still hold part of these budgets.
            if time.sweep():
                continue
            raise
        rows.require_budget(db, budgets, scopes, unit)
        return budgets


def denial_body(refusal: Refusal) -> dict[str, Any]:
    """Convert a refusal into the DENY of a dry run or a decide.

    Raises:
        Refusal: the same one if the request itself is invalid: that is not a decision.
    """
    if refusal.status == 400:
        raise refusal
    body: dict[str, Any] = {
        "decision": "DENY",
        "reason_code": "BUDGET_NOT_FOUND" if refusal.code == "NOT_FOUND" else refusal.code,
    }
    retry_after_ms = (refusal.details or {}).get("deny_detail", {}).get("retry_after_ms")
    if retry_after_ms is not None:
        body["retry_after_ms"] = retry_after_ms
    return body
