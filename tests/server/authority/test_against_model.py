"""Random operations on a real ledger file, each compared with an independent model of the protocol's arithmetic.

``--hypothesis-profile=nightly`` runs twenty times as many.
"""

import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from budget_server.authority import budgets as budgets_of_people
from budget_server.authority import listing
from budget_server.authority.audit import audit
from budget_server.authority.ledger import Ledger
from budget_server.authority.refusals import Refusal
from budget_server.authority.replay import Answer
from budget_server.authority.requests import (
    CommitRequest,
    EventRequest,
    ExtendRequest,
    ReleaseRequest,
    Request,
    ReserveRequest,
    parse,
)
from budget_server.authority.store import LedgerStore
from contract.harness import ACTION, NOON_MS, Clock
from contract.local import check_invariants
from server.authority.protocol_model import DAY, Book, Hold, Model, Refused

SCOPES = ["tenant:acme", "tenant:acme/workspace:w", "tenant:acme/workspace:w/agent:bot"]
SUBJECTS = [
    {"tenant": "acme"},
    {"tenant": "acme", "workspace": "W"},
    {"tenant": "acme", "workspace": "w", "agent": "Bot"},
]
UNITS = ["TOKENS", "CREDITS"]

LATE_MS = NOON_MS - NOON_MS % DAY + DAY - 3_000
"""Three seconds to midnight, so that leases run out on both sides of it."""

amounts = st.integers(0, 40)
units = st.sampled_from([*UNITS, "TOKENS", "TOKENS"])
levels = st.integers(0, 2)
policies = st.sampled_from(["REJECT", "ALLOW_IF_AVAILABLE", "ALLOW_WITH_OVERDRAFT"])
picks = st.integers(0, 2**16)
budgets = st.none() | st.tuples(st.integers(0, 100), st.sampled_from([0, 0, 5, 30]), st.booleans())


class LedgerAgainstModel(RuleBasedStateMachine):
    """A three-level tree in two units."""

    def __init__(self) -> None:
        super().__init__()
        self.directory = tempfile.TemporaryDirectory()
        self.clock = Clock(LATE_MS)
        self.store = LedgerStore(Path(self.directory.name) / "ledger.db", clock=self.clock)
        self.model = Model({}, LATE_MS)
        self.made: list[tuple[Callable[[Ledger, Any], Answer], type[Request], dict[str, Any], Answer]] = []
        self.number = 0

    @initialize(drawn=st.lists(budgets, min_size=6, max_size=6))
    def budget(self, drawn: list[tuple[int, int, bool] | None]) -> None:
        """Give some of the six a budget, some of them by the day."""
        for (scope, unit), each in zip(((s, u) for s in SCOPES for u in UNITS), drawn, strict=True):
            if each is not None:
                allocated, limit, daily = each
                self.model.books[scope, unit] = Book(allocated, limit, daily=daily)
                self.store.run(partial(self.allocate, scope, unit, allocated, limit, daily))

    @staticmethod
    def allocate(scope: str, unit: str, allocated: int, limit: int, daily: bool, ledger: Ledger) -> None:
        """Do what a person would."""
        place = {"scope": scope, "unit": unit}
        budgets_of_people.allocate(ledger.db, **place, tenant="acme", amount=allocated)
        budgets_of_people.limit_debt(ledger.db, **place, overdraft_limit=limit)
        if daily:
            budgets_of_people.set_period(ledger.db, **place, period="day", time_zone="UTC", now_ms=ledger.now_ms)

    def sql(self, statement: str, *values: object) -> None:
        """Do what an operator would."""
        self.store.run(lambda ledger: ledger.db.execute(statement, values))

    def compare(
        self,
        request: type[Request],
        body: dict[str, Any],
        operation: Callable[[Ledger, Any], Answer],
        expected: Callable[[Answer | None], object],
    ) -> None:
        """Do the same on both sides; a success must be one for both, a refusal must carry the same code."""
        self.number += 1
        body = {"idempotency_key": f"key-{self.number}", **body}
        parsed = parse(request, body)
        self.model.tick(self.clock())
        code = None
        try:
            answer = self.store.run(lambda ledger: operation(ledger, parsed))
        except Refusal as refusal:
            code = refusal.code
        else:
            expected(answer)
            self.made.append((operation, request, body, answer))
        if code is not None:
            with pytest.raises(Refused) as refused:
                expected(None)
            assert str(refused.value) == code

    @rule(
        level=levels, unit=units, amount=amounts, policy=policies, ttl=st.integers(1_000, 3_000), charge=st.booleans()
    )
    def reserve(self, level: int, unit: str, amount: int, policy: str, ttl: int, charge: bool) -> None:
        """Hold."""
        body = {
            "subject": SUBJECTS[level],
            "action": ACTION,
            "estimate": {"unit": unit, "amount": amount},
            "overage_policy": policy,
            "ttl_ms": ttl,
            "grace_period_ms": 500,
            "metadata": {"on_expiry": "charge"} if charge else {},
        }
        hold = Hold([], unit, amount, policy, self.model.now + ttl, 500, charge)
        hold.expires = max(self.model.now, self.clock()) + ttl

        def expected(answer: Answer | None) -> None:
            rid = answer.body["reservation_id"] if answer else ""
            self.model.reserve(rid, SCOPES[: level + 1], unit, hold)
            assert answer is not None
            assert answer.body["expires_at_ms"] == hold.expires

        self.compare(ReserveRequest, body, lambda ledger, parsed: ledger.reserve("acme", parsed), expected)

    @rule(level=levels, unit=units, amount=amounts)
    def ask(self, level: int, unit: str, amount: int) -> None:
        """Dry run."""
        body = {
            "subject": SUBJECTS[level],
            "action": ACTION,
            "estimate": {"unit": unit, "amount": amount},
            "dry_run": True,
        }

        def expected(answer: Answer | None) -> None:
            try:
                self.model.admit(SCOPES[: level + 1], unit, amount)
            except Refused as refused:
                if str(refused) == "UNIT_MISMATCH":
                    raise
                assert answer is not None
                reason = "BUDGET_NOT_FOUND" if str(refused) == "NOT_FOUND" else str(refused)
                assert answer.body["reason_code"] == reason
            else:
                assert answer is not None
                assert answer.body["decision"] == "ALLOW"

        self.compare(ReserveRequest, body, lambda ledger, parsed: ledger.reserve("acme", parsed), expected)

    @precondition(lambda self: self.model.holds)
    @rule(pick=picks, unit=st.sampled_from([None] * 9 + UNITS), amount=amounts)
    def commit(self, pick: int, unit: str | None, amount: int) -> None:
        """Settle."""
        rid = self.picked(pick)
        in_unit = unit or self.model.holds[rid].unit

        def expected(answer: Answer | None) -> None:
            estimate = self.model.holds[rid].estimate
            charged = self.model.commit(rid, in_unit, amount)
            assert answer is not None
            assert answer.body["charged"] == {"unit": in_unit, "amount": charged}
            assert answer.body.get("released", {"amount": 0})["amount"] == max(estimate - amount, 0)

        body = {"actual": {"unit": in_unit, "amount": amount}}
        self.compare(CommitRequest, body, lambda ledger, parsed: ledger.commit("acme", rid, parsed), expected)

    @precondition(lambda self: self.model.holds)
    @rule(pick=picks)
    def release(self, pick: int) -> None:
        """Give back."""
        rid = self.picked(pick)
        self.compare(
            ReleaseRequest,
            {},
            lambda ledger, parsed: ledger.release("acme", rid, parsed),
            lambda _: self.model.release(rid),
        )

    @precondition(lambda self: self.model.holds)
    @rule(pick=picks, ms=st.integers(1, 3_000), charge=st.sampled_from([None, "charge", "release"]))
    def extend(self, pick: int, ms: int, charge: str | None) -> None:
        """Keep alive, perhaps changing what expiry does."""
        rid = self.picked(pick)

        def expected(answer: Answer | None) -> None:
            expires = self.model.extend(rid, ms)
            if charge:
                self.model.holds[rid].charges_at_expiry = charge == "charge"
            assert answer is not None
            assert answer.body["expires_at_ms"] == expires

        body = {"extend_by_ms": ms, "metadata": {"on_expiry": charge} if charge else {}}
        self.compare(ExtendRequest, body, lambda ledger, parsed: ledger.extend("acme", rid, parsed), expected)

    @rule(level=levels, unit=units, amount=amounts, policy=policies)
    def event(self, level: int, unit: str, amount: int, policy: str) -> None:
        """Debit."""
        body = {
            "subject": SUBJECTS[level],
            "action": ACTION,
            "actual": {"unit": unit, "amount": amount},
            "overage_policy": policy,
        }

        def expected(answer: Answer | None) -> None:
            charged = self.model.event(SCOPES[: level + 1], unit, amount, policy)
            assert answer is not None
            assert answer.body.get("charged", {"amount": amount})["amount"] == charged

        self.compare(EventRequest, body, lambda ledger, parsed: ledger.event("acme", parsed), expected)

    @precondition(lambda self: self.made)
    @rule(pick=picks)
    def repeat(self, pick: int) -> None:
        """Send an earlier request again: the first answer, but for the time that is left."""
        operation, request, body, first = self.made[pick % len(self.made)]
        again = self.store.run(lambda ledger: operation(ledger, parse(request, body)))

        assert again.status == first.status
        left_ms = again.body.pop("remaining_ttl_ms", None)
        assert again.body == {name: value for name, value in first.body.items() if name != "remaining_ttl_ms"}
        if left_ms is not None:
            assert 0 <= left_ms <= max(0, first.body["expires_at_ms"] - self.clock())

    @precondition(lambda self: self.made)
    @rule(pick=picks)
    def reuse(self, pick: int) -> None:
        """Send another request under an earlier key."""
        operation, request, body, _ = self.made[pick % len(self.made)]
        other = {**body, "reason": "other"} if request is ReleaseRequest else {**body, "metadata": {"other": 1}}
        with pytest.raises(Refusal) as refusal:
            self.store.run(lambda ledger: operation(ledger, parse(request, other)))
        assert refusal.value.code == "IDEMPOTENCY_MISMATCH"

    @rule(ms=st.sampled_from([1, 400, 999, 1_000, 1_001, 1_500, 5_000, -10_000, DAY - 2_000, DAY, 3 * DAY + 1]))
    def wait(self, ms: int) -> None:
        """Move the wall clock, sometimes back."""
        self.clock.now_ms += ms
        self.model.tick(self.clock())

    @precondition(lambda self: self.model.books)
    @rule(pick=picks, more=st.integers(-20, 40), frozen=st.booleans(), clear=st.booleans())
    def operate(self, pick: int, more: int, frozen: bool, clear: bool) -> None:
        """Fund or cut a budget, freeze it or not, clear its flag or not."""
        scope, unit = sorted(self.model.books)[pick % len(self.model.books)]
        book = self.model.books[scope, unit]
        allocated = max(book.allocated + more, 0)
        self.sql(
            "UPDATE budgets SET remaining = remaining + ? - allocated, allocated = ?, status = ?,"
            " is_over_limit = min(is_over_limit, ?) WHERE scope = ? AND unit = ?",
            *(allocated, allocated, "FROZEN" if frozen else "ACTIVE", 0 if clear else 1, scope, unit),
        )
        book.allocated, book.frozen, book.over = allocated, frozen, book.over and not clear

    def picked(self, pick: int) -> str:
        """Choose a reservation, the newest most likely."""
        ids = list(self.model.holds)
        return ids[-1 - pick % min(len(ids), 1 + pick % 7)]

    @invariant()
    def both_sides_are_equal(self) -> None:
        """Every balance and every state, and what must hold of every ledger."""
        self.model.tick(self.clock())
        states, rows = self.store.run(
            lambda ledger: (
                list(ledger.db.execute("SELECT reservation_id, state, coalesce(charged, 0) FROM reservations")),
                listing.balances(ledger.db, "acme", {"tenant": "acme"}).body["balances"],
            )
        )
        self.store.run(check_invariants)
        ended = self.store.run(
            lambda ledger: list(ledger.db.execute("SELECT scope, unit, end_ms, spent FROM ended_periods"))
        )
        assert sorted(ended) == sorted(
            (*place, end, spent) for place, book in self.model.books.items() for end, spent in book.ended.items()
        )
        assert sorted(states) == sorted((rid, hold.state, hold.charged) for rid, hold in self.model.holds.items())
        assert {(row["scope_path"], row["remaining"]["unit"]) for row in rows} == set(self.model.books)
        for row in rows:
            book = self.model.books[row["scope_path"], row["remaining"]["unit"]]
            shown = [row.get(name, {"amount": 0})["amount"] for name in ("remaining", "reserved", "spent", "debt")]
            assert [*shown, row.get("is_over_limit", False)] == [
                book.remaining,
                book.reserved,
                book.spent,
                book.debt,
                book.over,
            ]

    def teardown(self) -> None:
        """Close the file, which an audit finds sound."""
        self.store.close()
        findings = audit(self.store.path, 2**62).findings
        assert findings == []
        self.directory.cleanup()


TestLedgerAgainstModel = LedgerAgainstModel.TestCase
TestLedgerAgainstModel.settings = settings(
    stateful_step_count=40, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much]
)
