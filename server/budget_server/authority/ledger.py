"""The budget ledger: one protocol operation is one SQLite transaction.

Theory of operation
-------------------
A *budget* holds money for one (scope path, unit). A *reservation* moves an estimate from ``remaining`` to ``reserved``
on every budget that its subject's scopes have, and later leaves ACTIVE exactly once:

    ACTIVE --commit--> COMMITTED     the estimate becomes ``spent`` as far as it was used; the rest goes back
    ACTIVE --release-> RELEASED      all of it goes back
    ACTIVE --expiry--> EXPIRED       all of it goes back (``on_expiry = release``, the protocol's rule)
    ACTIVE --expiry--> COMMITTED     all of it becomes ``spent`` (``on_expiry = charge``, ours: see below)

A reservation may have an *owner*, a delegation whose spend it holds. Only the owner commits, releases and extends it,
on every interface, with every token and in every process; only callers within this process can name an owner.

An *event* debits without a reservation. Every first answer is stored under its idempotency key in the same transaction
and replayed verbatim.

*Time*: expiry and the ends of budget periods are exact without a daemon. ``begin`` settles everything due before the
first operation of the transaction reads it (``timekeeping.py``).

*on_expiry = charge* is for work whose cost is real even if its process dies before reporting it, such as a model
request that has left. The holder asks for it with ``metadata: {"on_expiry": "charge"}`` on reserve or extend; a real
Cycles server keeps that metadata and expires as usual. The charge is provisional: the first commit that arrives later
replaces it.

Invariants, asserted at every move: every budget adds up (``balance.py``, and again the table's own CHECK); a
reservation is settled once, and its estimate leaves ``reserved`` on the same budgets it entered (``settlement.py``).
``audit.py`` proves all of them over a whole file.

The caller owns the transaction (``store.py``): ``begin`` once, then each operation inside a savepoint, so that a
``Refusal`` undoes all of its own operation and nothing else.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import apsw

from budget_server.authority import events, quotas, reservation, rows, settlement, tenants
from budget_server.authority.admission import admit, denial_body
from budget_server.authority.balance import Budget, uncovered_of
from budget_server.authority.refusals import Refusal, deny_detail
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
    model_text,
    plain,
)
from budget_server.authority.reservation import Reservation
from budget_server.authority.timekeeping import Timekeeper
from budget_tools.core.ids import time_ordered_id

ON_EXPIRY = "on_expiry"
"""Metadata key by which a holder chooses the effect of expiry: ``"release"`` (the default) or ``"charge"``."""


class Ledger:
    """The operations of Cycles v0 over an open connection, independent of threads, locks and the network."""

    def __init__(self, db: apsw.Connection) -> None:
        self._db = db
        self._time = Timekeeper(db)

    @property
    def db(self) -> apsw.Connection:
        """The connection, in whose transaction the read side and the operator's changes run too."""
        return self._db

    @property
    def now_ms(self) -> int:
        """The time of this transaction."""
        return self._time.now_ms

    # -- the transaction's frame ------------------------------------------------------------------------------------

    def begin(self, wall_ms: int) -> bool:
        """Set the time of this transaction and settle what was due before it; return whether anything was."""
        return self._time.begin(wall_ms)

    def remember_time(self) -> None:
        """Store this transaction's time, so that a clock set back revives no expired lease."""
        self._time.remember()

    # -- operations -------------------------------------------------------------------------------------------------

    def reserve(self, tenant: str, request: ReserveRequest, *, owner: str = "") -> Answer:
        """Reserve the estimate on every budget of the subject's scopes, or with ``dry_run`` only check whether it fits.

        Args:
            tenant: the calling tenant.
            request: the reservation requested.
            owner: the only one who settles and extends it afterwards; if empty, any caller of the tenant may.

        Raises:
            Refusal: 400, 403, 404 or 409 as Cycles v0 defines it; nothing was written.
        """
        _own_tenant(tenant, request.subject)

        def act() -> Answer:
            return self._dry_run(tenant, request) if request.dry_run else self._reserve(tenant, request, owner)

        return self._once(tenant, "reserve", "", request, act)

    def _reserve(self, tenant: str, request: ReserveRequest, owner: str) -> Answer:
        admission = admit(self._db, self._time, tenant, request)
        settings, scopes, budgets = admission.tenant, admission.scopes, admission.budgets
        estimate, unit = request.estimate.amount, request.estimate.unit
        for budget in budgets:
            budget.hold(estimate)
            rows.save_budget(self._db, budget)
        quotas.count(self._db, admission.buckets, self.now_ms)
        ttl_ms = min(settings.default_ttl_ms if request.ttl_ms is None else request.ttl_ms, settings.max_ttl_ms)
        reservation_id = time_ordered_id()
        expires_at_ms = self.now_ms + ttl_ms
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
            subject=model_text(request.subject),
            action=model_text(request.action),
            idempotency_key=request.idempotency_key,
            metadata=json_text_or_null(request.metadata),
            overage_policy=request.overage_policy or settings.default_overage_policy,
            created_at_ms=self.now_ms,
            expires_at_ms=expires_at_ms,
            grace_ms=request.grace_period_ms,
            extensions_left=settings.max_extensions,
            on_expiry=_on_expiry(request.metadata) or "release",
            quotas=quotas.counted_in(admission.buckets),
            owner=owner,
        )
        return Answer(
            200,
            {
                **admission.decision(),
                "reservation_id": reservation_id,
                "affected_scopes": list(scopes),
                "expires_at_ms": expires_at_ms,
                "remaining_ttl_ms": ttl_ms,
                "scope_path": scopes[-1],
                "reserved": {"unit": unit, "amount": estimate},
                "balances": _balances(budgets),
            },
            uncovered=uncovered_of(budgets),
        )

    def withdraw(self, tenant: str, request: ReserveRequest, answer: Answer) -> None:
        """Undo a reserve whose answer was never received, as if the request had never arrived: its key is judged again.

        A replayed answer is left alone: another caller holds that reservation.
        """
        if answer.is_replay or request.dry_run:
            return
        row = self._load(tenant, answer.body["reservation_id"])
        if row.state == "ACTIVE":
            settlement.withdraw(self._db, row)
            Slot(self._db, tenant, "reserve", "", request).forget()

    def _dry_run(self, tenant: str, request: ReserveRequest) -> Answer:
        scopes = request.subject.scopes()
        where = {"affected_scopes": list(scopes), "scope_path": scopes[-1]}
        try:
            admission = admit(self._db, self._time, tenant, request)
        except Refusal as refusal:
            return Answer(200, {**denial_body(refusal), **where})
        amounts = {"reserved": plain(request.estimate), "balances": _balances(admission.budgets)}
        body = {**admission.decision(), **where, **amounts}
        return Answer(200, body, uncovered=uncovered_of(admission.budgets))

    def decide(self, tenant: str, request: DecideRequest) -> Answer:
        """Return whether a reserve would be allowed now; this holds nothing."""
        _own_tenant(tenant, request.subject)

        def act() -> Answer:
            try:
                decision = admit(self._db, self._time, tenant, request).decision()
            except Refusal as refusal:
                decision = denial_body(refusal)
            return Answer(200, {**decision, "affected_scopes": list(request.subject.scopes())})

        return self._once(tenant, "decide", "", request, act)

    def refusal(self, tenant: str, request: DecideRequest) -> Refusal | None:
        """Return the refusal that a reserve would get now, under no key; ``None`` if it would be allowed."""
        try:
            admit(self._db, self._time, tenant, request)
        except Refusal as refusal:
            return refusal
        return None

    def commit(self, tenant: str, reservation_id: str, request: CommitRequest, *, speaker: str = "") -> Answer:
        """Settle a reservation with the amount used; the unused part goes back.

        Args:
            tenant: the calling tenant.
            reservation_id: the reservation to settle.
            request: the amount used.
            speaker: the owner on whose behalf the call is made, if any.

        Raises:
            Refusal: 400, 403, 404, 409 or 410; nothing was written.
        """
        row = self._load_own(tenant, reservation_id, speaker)
        return self._once(tenant, "commit", reservation_id, request, lambda: self._commit(tenant, row, request))

    def _commit(self, tenant: str, row: Reservation, request: CommitRequest) -> Answer:
        tenants.load(self._db, tenant).refuse_closed()
        if request.actual.amount > row.estimate:
            self._time.sweep_all()
        if not row.is_provisional:
            reservation.refuse_settled(row)
        if request.actual.unit != row.unit:
            raise Refusal(400, "UNIT_MISMATCH", f"Reservation is in {row.unit}, not in {request.actual.unit}.")
        committed = settlement.commit(self._db, row, request, self.now_ms)
        body: dict[str, Any] = {
            "status": "COMMITTED",
            "charged": {"unit": row.unit, "amount": committed.charged},
            "balances": _balances(committed.budgets),
        }
        if request.actual.amount < row.estimate:
            body["released"] = {"unit": row.unit, "amount": row.estimate - request.actual.amount}
        return Answer(200, body, uncovered=uncovered_of(committed.budgets))

    def release(self, tenant: str, reservation_id: str, request: ReleaseRequest, *, speaker: str = "") -> Answer:
        """Release the whole of a reservation; ``speaker`` as in ``commit``.

        Raises:
            Refusal: 403, 404, 409 or 410; nothing was written.
        """
        row = self._load_own(tenant, reservation_id, speaker)

        def act() -> Answer:
            tenants.load(self._db, tenant).refuse_closed()
            reservation.refuse_settled(row)
            budgets = settlement.release(self._db, row, self.now_ms)
            released = {"unit": row.unit, "amount": row.estimate}
            body = {"status": "RELEASED", "released": released, "balances": _balances(budgets)}
            return Answer(200, body, uncovered=uncovered_of(budgets))

        return self._once(tenant, "release", reservation_id, request, act)

    def extend(self, tenant: str, reservation_id: str, request: ExtendRequest, *, speaker: str = "") -> Answer:
        """Extend a reservation's expiry, counted from the old one; allowed until it expires, without grace.

        ``speaker`` as in ``commit``.

        Raises:
            Refusal: 403, 404, 409 or 410; nothing was written.
        """
        row = self._load_own(tenant, reservation_id, speaker)

        def act() -> Answer:
            tenants.load(self._db, tenant).refuse_closed()
            reservation.refuse_settled(row)
            if self.now_ms > row.expires_at_ms:
                raise reservation.expired(row.reservation_id)
            if row.extensions_left == 0:
                raise Refusal(
                    409,
                    "MAX_EXTENSIONS_EXCEEDED",
                    f"Reservation {row.reservation_id} cannot be extended again.",
                    deny_detail(
                        "MAX_EXTENSIONS_EXCEEDED", "Settle it before it expires.", blocked_by_scope=row.scope_path
                    ),
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
                    "remaining_ttl_ms": expires_at_ms - self.now_ms,
                    "balances": _balances(rows.find_budgets(self._db, json.loads(row.budgeted_scopes), row.unit)),
                },
            )

        return self._once(tenant, "extend", reservation_id, request, act)

    def event(self, tenant: str, request: EventRequest) -> Answer:
        """Record spend that had no reservation.

        Raises:
            Refusal: 400, 403, 404 or 409; nothing was written.
        """
        _own_tenant(tenant, request.subject)
        return self._once(tenant, "event", "", request, lambda: self._event(tenant, request))

    def _event(self, tenant: str, request: EventRequest) -> Answer:
        settings = tenants.load(self._db, tenant)
        settings.refuse_closed()
        self._time.sweep_all()
        booked = events.book(self._db, settings, request, self.now_ms)
        body: dict[str, Any] = {"status": "APPLIED", "event_id": booked.event_id, "balances": _balances(booked.budgets)}
        if booked.charged < request.actual.amount:
            body["charged"] = {"unit": request.actual.unit, "amount": booked.charged}
        return Answer(201, body, uncovered=uncovered_of(booked.budgets))

    def get(self, tenant: str, reservation_id: str, *, shows_owner: bool = False) -> Answer:
        """Return one reservation, with its owner only to callers within this process.

        Raises:
            Refusal: 403, 404, or 410 once it has expired.
        """
        row = self._load(tenant, reservation_id)
        if row.state == "EXPIRED":
            raise reservation.expired(reservation_id)
        include = reservation.OPTIONAL_FIELDS | ({reservation.OWNER_FIELD} if shows_owner else set())
        return Answer(200, reservation.wire(row, include=include))

    def tenant_of(self, reservation_id: str) -> str:
        """Return the tenant of a reservation; empty if it does not exist."""
        row = rows.find_reservation(self._db, reservation_id)
        return "" if row is None else row.tenant

    def owner_of(self, reservation_id: str) -> str:
        """Return the owner of a reservation; empty if it has none, or does not exist."""
        row = rows.find_reservation(self._db, reservation_id)
        return "" if row is None else row.owner

    # -- what a transaction finds -----------------------------------------------------------------------------------

    def _load(self, tenant: str, reservation_id: str) -> Reservation:
        row = rows.find_reservation(self._db, reservation_id)
        if row is None:
            raise Refusal(404, "NOT_FOUND", f"Reservation not found: {reservation_id}")
        if row.tenant != tenant:
            raise Refusal(403, "FORBIDDEN", "The reservation belongs to another tenant.")
        if row.state == "ACTIVE" and self.now_ms >= row.expired_at_ms:
            # More were due than one sweep settles, and this one is still among them.
            settlement.expire(self._db, row)
            return self._load(tenant, reservation_id)
        return row

    def _load_own(self, tenant: str, reservation_id: str, speaker: str) -> Reservation:
        row = self._load(tenant, reservation_id)
        reservation.refuse_others(row, speaker)
        return row

    def _once(self, tenant: str, endpoint: str, resource: str, request: Request, act: Callable[[], Answer]) -> Answer:
        """Run an operation on the first use of a key; afterwards replay the first answer (Cycles v0, IDEMPOTENCY).

        Raises:
            Refusal: 409 IDEMPOTENCY_MISMATCH if the key came with another payload; nothing was written.
        """
        slot = Slot(self._db, tenant, endpoint, resource, request)
        first = slot.first_answer()
        if first is None:
            answer = act()
            slot.keep(answer, self.now_ms)
            return answer
        if "remaining_ttl_ms" in first.body:
            # The only field that a replay computes again.
            row = self._load(tenant, resource or first.body["reservation_id"])
            left_ms = first.body["expires_at_ms"] - self.now_ms
            first.body["remaining_ttl_ms"] = max(0, left_ms) if row.state == "ACTIVE" else 0
        return first


def _balances(budgets: Iterable[Budget]) -> list[dict[str, Any]]:
    return [budget.wire() for budget in budgets]


def _own_tenant(tenant: str, subject: Subject) -> None:
    if subject.tenant is not None and subject.tenant != tenant:
        raise Refusal(403, "FORBIDDEN", f"The subject's tenant is not {tenant}.")


def _on_expiry(metadata: Mapping[str, Any] | None) -> str | None:
    """Read the holder's choice; metadata belongs to the client (Cycles v0), so any other value is ignored."""
    choice = (metadata or {}).get(ON_EXPIRY)
    return choice if choice in ("release", "charge") else None
