"""The budget ledger: one protocol operation is one SQLite transaction.

Theory of operation
-------------------
A *budget* holds money for one (scope path, unit). A *reservation* moves an estimate from ``remaining`` to
``reserved`` on every budget that its subject's scopes have, and later leaves ACTIVE exactly once:

    ACTIVE --commit--> COMMITTED     the estimate becomes ``spent`` as far as it was used; the rest goes back
    ACTIVE --release-> RELEASED      all of it goes back
    ACTIVE --expiry--> EXPIRED       all of it goes back (``on_expiry = release``, the protocol's rule)
    ACTIVE --expiry--> COMMITTED     all of it becomes ``spent`` (``on_expiry = charge``, ours: see below)

An *event* debits without a reservation. Every first answer is stored under its idempotency key in the same transaction
and replayed verbatim.

*Expiry* is exact without a daemon: ``begin`` sweeps what is due before any operation of the transaction can be misled.
*Time* is the wall clock, held back from ever running backwards within this file.

*on_expiry = charge* is for work whose cost is real whether or not its process lives to say so, such as a model request
that has left. The holder asks for it with ``metadata: {"on_expiry": "charge"}`` on reserve or extend; a real Cycles
server keeps that metadata and expires as usual. The charge is provisional: the first commit that still arrives
replaces it.

Invariants, asserted at every move: see ``balance.py``; the sum of the estimates of ACTIVE reservations over a budget
equals its ``reserved``; a reservation is settled once.

The caller owns the transaction (``store.py``): ``begin`` once, then each operation inside a savepoint, so that a
``Refusal`` undoes all of its own operation and nothing else.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import apsw

from budget_server.authority import reservation, rows, tenants
from budget_server.authority.balance import Budget, charge_beyond, check_affordable, check_open, check_reservable
from budget_server.authority.refusals import Refusal
from budget_server.authority.replay import Answer, Slot
from budget_server.authority.requests import (
    CommitRequest,
    DecideRequest,
    EventRequest,
    ExtendRequest,
    ReleaseRequest,
    Request,
    ReserveRequest,
    Subject,
    json_text,
    json_text_or_null,
    plain,
)
from budget_server.authority.reservation import Reservation
from budget_tools.ids import time_ordered_id
from budget_tools.scopes import derive_scopes

SWEEP_LIMIT = 1_000
"""Most expired reservations that one sweep settles, so that no operation waits for an unbounded one."""

ON_EXPIRY = "on_expiry"
"""Metadata key by which a holder chooses what expiry does: ``"release"`` (the default) or ``"charge"``."""


class Ledger:
    """The operations of Cycles v0 over an open connection; knows no thread, no lock, no network."""

    def __init__(self, db: apsw.Connection) -> None:
        self._db = db
        self._now_ms = 0

    @property
    def db(self) -> apsw.Connection:
        """The connection, inside whose transaction the read side and the operator's changes run too."""
        return self._db

    # -- the transaction's frame ------------------------------------------------------------------------------------

    def begin(self, wall_ms: int) -> bool:
        """Set the time of this transaction and settle what has expired before it; returns whether anything had."""
        at_least_ms = max(wall_ms, self._now_ms)
        row = self._db.execute(
            "SELECT now_ms, EXISTS (SELECT 1 FROM reservations"
            " WHERE state = 'ACTIVE' AND expires_at_ms + grace_ms < max(now_ms, ?)) FROM clock",
            (at_least_ms,),
        ).fetchone()
        assert row is not None, "the clock has one row"
        last_ms, is_any_due = row
        self._now_ms = max(at_least_ms, last_ms)
        return bool(is_any_due) and self._sweep()

    def remember_time(self) -> None:
        """Store this transaction's time, so that a clock set back revives no expired lease."""
        self._db.execute("UPDATE clock SET now_ms = ? WHERE now_ms < ?", (self._now_ms, self._now_ms))

    # -- operations -------------------------------------------------------------------------------------------------

    def reserve(self, tenant: str, request: ReserveRequest) -> Answer:
        """Hold the estimate on every budget of the subject's scopes, or with ``dry_run`` say whether it would be held.

        Raises:
            Refusal: 400, 403, 404 or 409 as Cycles v0 has it; nothing was written.
        """
        _own_tenant(tenant, request.subject)
        act = self._dry_run if request.dry_run else self._reserve
        return self._once(tenant, "reserve", "", request, lambda: act(tenant, request))

    def _reserve(self, tenant: str, request: ReserveRequest) -> Answer:
        settings = tenants.load(self._db, tenant)
        settings.refuse_closed()
        scopes = derive_scopes(request.subject.model_dump())
        estimate, unit = request.estimate.amount, request.estimate.unit
        budgets = self._reservable(scopes, unit, estimate)
        for budget in budgets:
            budget.hold(estimate)
            rows.save_budget(self._db, budget)
        ttl_ms = min(settings.default_ttl_ms if request.ttl_ms is None else request.ttl_ms, settings.max_ttl_ms)
        reservation_id = time_ordered_id()
        expires_at_ms = self._now_ms + ttl_ms
        rows.insert(
            self._db,
            "reservations",
            reservation_id=reservation_id,
            tenant=tenant,
            state="ACTIVE",
            unit=unit,
            estimate=estimate,
            scope_path=scopes[-1],
            affected_scopes=json_text(scopes),
            budgeted_scopes=json_text([budget.scope for budget in budgets]),
            subject=json_text(plain(request.subject)),
            action=json_text(plain(request.action)),
            idempotency_key=request.idempotency_key,
            metadata=json_text_or_null(request.metadata),
            overage_policy=request.overage_policy or settings.default_overage_policy,
            created_at_ms=self._now_ms,
            expires_at_ms=expires_at_ms,
            grace_ms=request.grace_period_ms,
            extensions_left=settings.max_extensions,
            on_expiry=_on_expiry(request.metadata) or "release",
        )
        return Answer(
            200,
            {
                **_allowed(budgets),
                "reservation_id": reservation_id,
                "affected_scopes": list(scopes),
                "expires_at_ms": expires_at_ms,
                "remaining_ttl_ms": ttl_ms,
                "scope_path": scopes[-1],
                "reserved": {"unit": unit, "amount": estimate},
                "balances": _balances(budgets),
            },
        )

    def withdraw(self, tenant: str, request: ReserveRequest, answer: Answer) -> None:
        """Undo a reserve whose answer reached nobody, as though it had never come: its key is judged afresh.

        A replay is left alone: somebody else holds that reservation.
        """
        if answer.is_replay or request.dry_run:
            return
        row = self._load(tenant, answer.body["reservation_id"])
        if row.state == "ACTIVE":
            self._give_back(row, state="RELEASED", finalized_at_ms=self._now_ms)
            self._db.execute("DELETE FROM reservations WHERE reservation_id = ?", (row.reservation_id,))
            Slot(self._db, tenant, "reserve", "", request).forget()

    def _dry_run(self, tenant: str, request: ReserveRequest) -> Answer:
        scopes = derive_scopes(request.subject.model_dump())
        answer, budgets = self._verdict(tenant, scopes, request)
        answer["affected_scopes"] = list(scopes)
        answer["scope_path"] = scopes[-1]
        if budgets:
            answer["reserved"] = plain(request.estimate)
            answer["balances"] = _balances(budgets)
        return Answer(200, answer)

    def decide(self, tenant: str, request: DecideRequest) -> Answer:
        """Say whether a reserve would be allowed now; holds nothing."""
        _own_tenant(tenant, request.subject)

        def act() -> Answer:
            scopes = derive_scopes(request.subject.model_dump())
            answer, _ = self._verdict(tenant, scopes, request)
            return Answer(200, {**answer, "affected_scopes": list(scopes)})

        return self._once(tenant, "decide", "", request, act)

    def _verdict(
        self, tenant: str, scopes: Sequence[str], request: DecideRequest | ReserveRequest
    ) -> tuple[dict[str, Any], list[Budget]]:
        """Run the reserve checks; a denial becomes a body, a bad request stays a refusal."""
        try:
            tenants.load(self._db, tenant).refuse_closed()
            budgets = self._reservable(scopes, request.estimate.unit, request.estimate.amount)
        except Refusal as refusal:
            if refusal.status == 400:
                raise
            reason = "BUDGET_NOT_FOUND" if refusal.code == "NOT_FOUND" else refusal.code
            return {"decision": "DENY", "reason_code": reason}, []
        return _allowed(budgets), budgets

    def commit(self, tenant: str, reservation_id: str, request: CommitRequest) -> Answer:
        """Settle a reservation with what was used; what was not used goes back.

        Raises:
            Refusal: 400, 403, 404, 409 or 410; nothing was written.
        """
        row = self._load(tenant, reservation_id)
        return self._once(tenant, "commit", reservation_id, request, lambda: self._commit(tenant, row, request))

    def _commit(self, tenant: str, row: Reservation, request: CommitRequest) -> Answer:
        tenants.load(self._db, tenant).refuse_closed()
        if request.actual.amount > row.estimate:
            self._sweep_all()
        budgets = rows.find_budgets(self._db, json.loads(row.budgeted_scopes), row.unit)
        if row.state == "COMMITTED" and row.settled_by == "expiry":
            # Expiry charged the estimate because nobody said what was used. Now somebody does: settle again from the
            # start.
            for budget in budgets:
                budget.unspend(row.estimate)
        else:
            reservation.refuse_settled(row)
        if request.actual.unit != row.unit:
            raise Refusal(400, "UNIT_MISMATCH", f"Reservation is in {row.unit}, not in {request.actual.unit}.")
        actual, estimate = request.actual.amount, row.estimate
        charged, debt = actual, 0
        if actual > estimate:
            beyond = charge_beyond(budgets, actual - estimate, row.overage_policy)
            charged, debt = estimate + beyond.charged, beyond.debt
        for budget in budgets:
            budget.spend_reserved(min(actual, estimate))
            budget.give_back(max(estimate - actual, 0))
            rows.save_budget(self._db, budget)
        self._db.execute(
            "UPDATE reservations SET state = 'COMMITTED', charged = ?, debt_incurred = ?, settled_by = 'client',"
            " finalized_at_ms = ?, metrics = ?, committed_metadata = ? WHERE reservation_id = ?",
            (
                charged,
                debt,
                self._now_ms,
                json_text_or_null(plain(request.metrics) if request.metrics else None),
                json_text_or_null(request.metadata),
                row.reservation_id,
            ),
        )
        body: dict[str, Any] = {"status": "COMMITTED", "charged": {"unit": row.unit, "amount": charged}}
        if actual < estimate:
            body["released"] = {"unit": row.unit, "amount": estimate - actual}
        return Answer(200, {**body, "balances": _balances(budgets)})

    def release(self, tenant: str, reservation_id: str, request: ReleaseRequest) -> Answer:
        """Give all of a reservation back.

        Raises:
            Refusal: 403, 404, 409 or 410; nothing was written.
        """
        row = self._load(tenant, reservation_id)

        def act() -> Answer:
            tenants.load(self._db, tenant).refuse_closed()
            reservation.refuse_settled(row)
            budgets = self._give_back(row, state="RELEASED", finalized_at_ms=self._now_ms)
            released = {"unit": row.unit, "amount": row.estimate}
            return Answer(200, {"status": "RELEASED", "released": released, "balances": _balances(budgets)})

        return self._once(tenant, "release", reservation_id, request, act)

    def extend(self, tenant: str, reservation_id: str, request: ExtendRequest) -> Answer:
        """Move a reservation's expiry on, counted from the old one; allowed until it expires, without grace.

        Raises:
            Refusal: 403, 404, 409 or 410; nothing was written.
        """
        row = self._load(tenant, reservation_id)

        def act() -> Answer:
            tenants.load(self._db, tenant).refuse_closed()
            reservation.refuse_settled(row)
            if self._now_ms > row.expires_at_ms:
                raise reservation.expired(row.reservation_id)
            if row.extensions_left == 0:
                raise Refusal(
                    409, "MAX_EXTENSIONS_EXCEEDED", f"Reservation {row.reservation_id} cannot be extended again."
                )
            expires_at_ms = row.expires_at_ms + request.extend_by_ms
            self._db.execute(
                "UPDATE reservations SET expires_at_ms = ?, extensions_left = extensions_left - 1, on_expiry = ?"
                " WHERE reservation_id = ?",
                (expires_at_ms, _on_expiry(request.metadata) or row.on_expiry, row.reservation_id),
            )
            return Answer(
                200,
                {
                    "status": "ACTIVE",
                    "expires_at_ms": expires_at_ms,
                    "remaining_ttl_ms": expires_at_ms - self._now_ms,
                    "balances": _balances(rows.find_budgets(self._db, json.loads(row.budgeted_scopes), row.unit)),
                },
            )

        return self._once(tenant, "extend", reservation_id, request, act)

    def event(self, tenant: str, request: EventRequest) -> Answer:
        """Book spend that had no reservation.

        Raises:
            Refusal: 400, 403, 404 or 409; nothing was written.
        """
        _own_tenant(tenant, request.subject)
        return self._once(tenant, "event", "", request, lambda: self._event(tenant, request))

    def _event(self, tenant: str, request: EventRequest) -> Answer:
        settings = tenants.load(self._db, tenant)
        settings.refuse_closed()
        overage_policy = request.overage_policy or settings.default_overage_policy
        scopes = derive_scopes(request.subject.model_dump())
        amount, unit = request.actual.amount, request.actual.unit
        self._sweep_all()
        budgets = rows.find_budgets(self._db, scopes, unit)
        for budget in budgets:
            check_open(budget)
            if overage_policy == "REJECT":
                check_affordable(budget, amount)
        rows.require_budget(self._db, budgets, scopes, unit)
        beyond = charge_beyond(budgets, amount, overage_policy)
        for budget in budgets:
            rows.save_budget(self._db, budget)
        event_id = time_ordered_id()
        rows.insert(
            self._db,
            "events",
            event_id=event_id,
            tenant=tenant,
            unit=unit,
            amount=amount,
            charged=beyond.charged,
            scope_path=scopes[-1],
            budgeted_scopes=json_text([budget.scope for budget in budgets]),
            subject=json_text(plain(request.subject)),
            action=json_text(plain(request.action)),
            idempotency_key=request.idempotency_key,
            created_at_ms=self._now_ms,
            client_time_ms=request.client_time_ms,
            metrics=json_text_or_null(plain(request.metrics) if request.metrics else None),
            metadata=json_text_or_null(request.metadata),
        )
        body: dict[str, Any] = {"status": "APPLIED", "event_id": event_id, "balances": _balances(budgets)}
        if beyond.charged < amount:
            body["charged"] = {"unit": unit, "amount": beyond.charged}
        return Answer(201, body)

    def get(self, tenant: str, reservation_id: str) -> Answer:
        """Show one reservation.

        Raises:
            Refusal: 403, 404, or 410 once it has expired.
        """
        row = self._load(tenant, reservation_id)
        if row.state == "EXPIRED":
            raise reservation.expired(reservation_id)
        return Answer(200, reservation.wire(row, include=reservation.OPTIONAL_FIELDS))

    # -- settling what expired --------------------------------------------------------------------------------------

    def _sweep(self) -> bool:
        """Settle reservations past their grace; returns whether it settled any."""
        due: list[Any] = self._db.execute(
            f"SELECT {reservation.COLUMNS} FROM reservations"  # noqa: S608 - constants of this module
            " WHERE state = 'ACTIVE' AND expires_at_ms + grace_ms < ? ORDER BY expires_at_ms + grace_ms LIMIT ?",
            (self._now_ms, SWEEP_LIMIT),
        ).fetchall()
        for values in due:
            self._expire(Reservation(*values))
        return bool(due)

    def _sweep_all(self) -> None:
        """Settle all that is due, however much: a charge must not be capped for want of what nobody holds."""
        while self._sweep():
            pass

    def _expire(self, row: Reservation) -> None:
        if row.on_expiry == "release":
            self._give_back(row, state="EXPIRED", finalized_at_ms=None, settled_by="expiry")
            return
        for budget in rows.find_budgets(self._db, json.loads(row.budgeted_scopes), row.unit):
            budget.spend_reserved(row.estimate)
            rows.save_budget(self._db, budget)
        self._db.execute(
            "UPDATE reservations SET state = 'COMMITTED', charged = estimate, debt_incurred = 0, settled_by = 'expiry',"
            " finalized_at_ms = ?, committed_metadata = ? WHERE reservation_id = ?",
            (self._now_ms, json_text({"actual_source": "bound"}), row.reservation_id),
        )

    def _give_back(
        self, row: Reservation, *, state: str, finalized_at_ms: int | None, settled_by: str = "client"
    ) -> list[Budget]:
        budgets = rows.find_budgets(self._db, json.loads(row.budgeted_scopes), row.unit)
        for budget in budgets:
            budget.give_back(row.estimate)
            rows.save_budget(self._db, budget)
        self._db.execute(
            "UPDATE reservations SET state = ?, settled_by = ?, finalized_at_ms = ? WHERE reservation_id = ?",
            (state, settled_by, finalized_at_ms, row.reservation_id),
        )
        return budgets

    # -- what a transaction finds -----------------------------------------------------------------------------------

    def _reservable(self, scopes: Sequence[str], unit: str, amount: int) -> list[Budget]:
        """Load the budgets of the scopes and check each, root to leaf."""
        while True:
            budgets = rows.find_budgets(self._db, scopes, unit)
            try:
                for budget in budgets:
                    check_reservable(budget, amount)
            except Refusal:
                # A full sweep may have left expired reservations behind that still hold what is asked for.
                if self._sweep():
                    continue
                raise
            rows.require_budget(self._db, budgets, scopes, unit)
            return budgets

    def _load(self, tenant: str, reservation_id: str) -> Reservation:
        row = rows.find_reservation(self._db, reservation_id)
        if row is None:
            raise Refusal(404, "NOT_FOUND", f"Reservation not found: {reservation_id}")
        if row.tenant != tenant:
            raise Refusal(403, "FORBIDDEN", "The reservation belongs to another tenant.")
        if row.state == "ACTIVE" and self._now_ms > row.expires_at_ms + row.grace_ms:
            # More were due than one sweep settles, and this one is still among them.
            self._expire(row)
            return self._load(tenant, reservation_id)
        return row

    def _once(self, tenant: str, endpoint: str, resource: str, request: Request, act: Callable[[], Answer]) -> Answer:
        """Act on the first use of a key; afterwards replay the first answer (Cycles v0, IDEMPOTENCY).

        Raises:
            Refusal: 409 IDEMPOTENCY_MISMATCH where the key came with another payload; nothing was written.
        """
        slot = Slot(self._db, tenant, endpoint, resource, request)
        first = slot.first_answer()
        if first is None:
            answer = act()
            slot.keep(answer, self._now_ms)
            return answer
        if "remaining_ttl_ms" in first.body:
            # The one field that a replay computes anew.
            row = self._load(tenant, resource or first.body["reservation_id"])
            left_ms = first.body["expires_at_ms"] - self._now_ms
            first.body["remaining_ttl_ms"] = max(0, left_ms) if row.state == "ACTIVE" else 0
        return first


def _allowed(budgets: Sequence[Budget]) -> dict[str, Any]:
    """Say yes, with the caps of the deepest budget if it has any."""
    caps = budgets[-1].caps
    return {"decision": "ALLOW"} if caps is None else {"decision": "ALLOW_WITH_CAPS", "caps": json.loads(caps)}


def _balances(budgets: Iterable[Budget]) -> list[dict[str, Any]]:
    return [budget.wire() for budget in budgets]


def _own_tenant(tenant: str, subject: Subject) -> None:
    if subject.tenant is not None and subject.tenant != tenant:
        raise Refusal(403, "FORBIDDEN", f"The subject's tenant is not {tenant}.")


def _on_expiry(metadata: Mapping[str, Any] | None) -> str | None:
    choice = (metadata or {}).get(ON_EXPIRY)
    if choice is None or choice in ("release", "charge"):
        return choice
    raise Refusal(400, "INVALID_REQUEST", f'Validation failed: metadata.{ON_EXPIRY}: must be "release" or "charge"')
