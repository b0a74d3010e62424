"""Random operations on a real file by two owners, each compared with a model of a few dozen lines.

``--hypothesis-profile=nightly`` runs twenty times as many.
"""

import asyncio
import tempfile
from collections.abc import Coroutine, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from budget_server.delegations.store import SqliteDelegationStore
from budget_tools.core.errors import InvalidArgumentError
from budget_tools.delegation.records import RESUMABLE, Status
from budget_tools.delegation.store import Call, Outcome, Step
from budget_tools.spends.records import LimitReachedError
from contract.harness import Clock
from server.delegations.making import TENANT, call, spend, task

T = TypeVar("T")

MAX_RUNNING, MAX_CHILDREN, MAX_DEPTH = 5, 2, 3
STATUSES: list[Status] = ["completed", "budget_exhausted", "max_turns", "cancelled", "refused", "failed"]

picks = st.integers(0, 2**16)
limits = st.none() | st.integers(0, 60)
amounts = st.integers(0, 30)


@dataclass
class Flight:
    """A spend in flight."""

    bound: int
    unit: str
    is_hold: bool
    charge: int | None = None


@dataclass
class Known:
    """What the model knows of a delegation."""

    parent_id: str
    depth: int
    budget: int | None
    owner: int | None
    """Which store runs it; ``-1`` where that one is closed."""
    updated_ms: int
    status: Status = "running"
    spent: int = 0
    is_cancel_requested: bool = False
    spends: dict[str, Flight] = field(default_factory=dict)


class DelegationsAgainstModel(RuleBasedStateMachine):
    """A forest of delegations that two stores run."""

    def __init__(self) -> None:
        super().__init__()
        self.directory = tempfile.TemporaryDirectory()
        self.clock = Clock()
        self.runner = asyncio.Runner()
        self.stores = [self.opened(), self.opened()]
        self.known: dict[str, Known] = {}
        self.calls: dict[str, tuple[Call, str]] = {}
        self.number = 0

    def opened(self) -> SqliteDelegationStore:
        """Open the file once more."""
        return SqliteDelegationStore(
            Path(self.directory.name),
            max_running=MAX_RUNNING,
            max_children=MAX_CHILDREN,
            max_depth=MAX_DEPTH,
            clock=self.clock,
        )

    def run(self, operation: Coroutine[Any, Any, T]) -> T:
        """Run one operation."""
        return self.runner.run(operation)

    def fresh(self) -> str:
        """Make a name."""
        self.number += 1
        return f"{self.number:06}"

    # -- the model --------------------------------------------------------------------------------------------------

    def below(self, name: str) -> Iterator[str]:
        """Give a delegation and all below it."""
        yield name
        for other, known in self.known.items():
            if known.parent_id == name:
                yield from self.below(other)

    def left(self, name: str) -> int | None:
        """Compute what the tightest limit allows."""
        lefts: list[int] = []
        while name in self.known:
            budget = self.known[name].budget
            if budget is not None:
                for each in self.below(name):
                    flights = self.known[each].spends.values()
                    budget -= self.known[each].spent
                    budget -= sum(f.bound for f in flights if f.unit == "USD_MICROCENTS" and f.charge is None)
                lefts.append(budget)
            name = self.known[name].parent_id
        return min(lefts, default=None)

    def no_room(self, parent_id: str) -> bool:
        """Say whether no more may run."""
        running = [known for known in self.known.values() if known.owner in (0, 1)]
        children = [known for known in running if known.parent_id == parent_id]
        return len(running) >= MAX_RUNNING or bool(parent_id and len(children) >= MAX_CHILDREN)

    def picked(self, pick: int, *, running: bool) -> str | None:
        """Choose a delegation that runs in one of the stores, or any."""
        names = [name for name, known in self.known.items() if not running or known.owner in (0, 1)]
        return names[-1 - pick % len(names)] if names else None

    def owner_of(self, name: str) -> SqliteDelegationStore:
        """Give the store that runs a delegation."""
        owner = self.known[name].owner
        assert owner is not None
        return self.stores[owner]

    # -- operations -------------------------------------------------------------------------------------------------

    @rule(at=st.integers(0, 1), pick=picks, alone=st.booleans(), budget=limits, depth=st.integers(1, 4))
    def start(self, at: int, pick: int, alone: bool, budget: int | None, depth: int) -> None:
        """Start one, most often under another."""
        parent_id = "" if alone else self.picked(pick, running=False) or "elsewhere"
        name, made = self.fresh(), call(self.fresh())
        started = self.stores[at].start(made, name, task(budget_microcents=budget), parent_id=parent_id, depth=depth)
        if parent_id in self.known:
            depth = max(depth, self.known[parent_id].depth + 1)
        if depth > MAX_DEPTH or self.no_room(parent_id):
            with pytest.raises(InvalidArgumentError) as refusal:
                self.run(started)
            assert refusal.value.code == ("NESTED_TOO_DEEP" if depth > MAX_DEPTH else "TOO_MANY_DELEGATIONS")
            return
        assert self.run(started).is_new
        self.known[name] = Known(parent_id, depth, budget, at, self.clock())
        self.calls[made.idempotency_key] = (made, name)

    @rule(at=st.integers(0, 1), pick=picks, budget=limits)
    def resume(self, at: int, pick: int, budget: int | None) -> None:
        """Resume one, wherever it ran before."""
        name = self.picked(pick, running=False)
        made = call(self.fresh())
        if name is None:
            return
        known = self.known[name]
        resumed = self.stores[at].resume(made, name, max_turns=None, budget_microcents=budget)
        if known.status not in RESUMABLE or self.no_room(known.parent_id):
            with pytest.raises(InvalidArgumentError) as refusal:
                self.run(resumed)
            expected = "TOO_MANY_DELEGATIONS" if known.status in RESUMABLE else "NOT_RESUMABLE"
            assert refusal.value.code == expected
            return
        assert self.run(resumed).is_new
        known.status, known.owner, known.updated_ms = "running", at, self.clock()
        known.budget = known.budget if budget is None else budget
        self.calls[made.idempotency_key] = (made, name)

    @precondition(lambda self: self.calls)
    @rule(at=st.integers(0, 1), pick=picks, resumes=st.booleans(), other=st.booleans())
    def repeat(self, at: int, pick: int, resumes: bool, other: bool) -> None:
        """Send an earlier call again, or another under its key."""
        made, name = list(self.calls.values())[pick % len(self.calls)]
        sent = call(made.idempotency_key, '{"other":1}') if other else made
        operation = (
            self.stores[at].resume(sent, name, max_turns=1, budget_microcents=1)
            if resumes
            else self.stores[at].start(sent, "never", task(), parent_id="", depth=1)
        )
        if other:
            with pytest.raises(InvalidArgumentError) as refusal:
                self.run(operation)
            assert refusal.value.code == "IDEMPOTENCY_MISMATCH"
        else:
            joined = self.run(operation)
            assert (joined.delegation_id, joined.is_new) == (name, False)

    @rule(pick=picks, bound=amounts, is_hold=st.booleans(), in_tokens=st.booleans(), again=st.booleans())
    def mark_in_flight(self, pick: int, bound: int, is_hold: bool, in_tokens: bool, again: bool) -> None:
        """Write a spend down, sometimes in the place of a hold, sometimes striking another out."""
        name = self.picked(pick, running=True)
        if name is None:
            return
        known = self.known[name]
        before = dict(known.spends)
        holds = [reservation_id for reservation_id, flight in known.spends.items() if flight.is_hold]
        settled = [reservation_id for reservation_id, flight in known.spends.items() if flight.charge is not None]
        reservation_id = holds[pick % len(holds)] if again and holds else self.fresh()
        struck = settled[:1]
        unit = "TOKENS" if in_tokens and reservation_id not in holds else "USD_MICROCENTS"
        departing = spend(reservation_id, bound, unit=unit, is_hold=is_hold)
        for gone in (*struck, reservation_id):
            known.spends.pop(gone, None)
        left = self.left(name)
        departed = self.owner_of(name).mark_in_flight(name, departing, struck=struck)
        if unit == "USD_MICROCENTS" and left is not None and bound > left:
            with pytest.raises(LimitReachedError) as refusal:
                self.run(departed)
            assert refusal.value.left_microcents == max(left, 0)
            known.spends = before
        else:
            self.run(departed)
            known.spends[reservation_id] = Flight(bound, unit, is_hold)
            known.updated_ms = self.clock()

    @rule(pick=picks, amount=amounts, charges=st.booleans(), strikes=st.booleans(), status=st.sampled_from(STATUSES))
    def write(self, pick: int, amount: int, charges: bool, strikes: bool, status: Status) -> None:
        """Charge or strike out the newest spend, or stop where neither is asked for."""
        name = self.picked(pick, running=True)
        if name is None:
            return
        known = self.known[name]
        newest = list(known.spends)[-1:]
        step: dict[str, Any] = {}
        if charges:
            known.spent += amount
            step |= {"charges": dict.fromkeys(newest, amount), "spent_microcents": known.spent}
        if strikes:
            step |= {"struck": newest}
        if not charges and not strikes:
            step |= {"outcome": Outcome(status=status)}
        self.run(self.owner_of(name).write(name, Step(**step)))
        for reservation_id in newest:
            if charges:
                known.spends[reservation_id].charge = amount
            if strikes:
                del known.spends[reservation_id]
        if "outcome" in step:
            known.status, known.owner, known.is_cancel_requested = status, None, False
        known.updated_ms = self.clock()

    @rule(at=st.integers(0, 1), pick=picks)
    def ask_to_stop(self, at: int, pick: int) -> None:
        """Ask whoever runs one."""
        name = self.picked(pick, running=False)
        if name is not None:
            self.run(self.stores[at].request_cancel(TENANT, name))
            self.known[name].is_cancel_requested = self.known[name].status == "running"

    @rule(at=st.integers(0, 1))
    def end(self, at: int) -> None:
        """End one store's process, and start another in its place."""
        self.run(self.stores[at].aclose())
        self.stores[at] = self.opened()
        for known in self.known.values():
            known.owner = -1 if known.owner == at else known.owner

    @rule(at=st.integers(0, 1))
    def take_over(self, at: int) -> None:
        """Adopt what ended stores left."""
        orphans = {orphan.delegation.delegation_id: orphan for orphan in self.run(self.stores[at].orphans())}
        assert set(orphans) == {name for name, known in self.known.items() if known.owner == -1}
        for name, orphan in orphans.items():
            self.known[name].owner = at
            assert {
                each.reservation_id: Flight(each.bound, each.unit, each.is_hold, each.charge) for each in orphan.spends
            } == self.known[name].spends

    @rule(ms=st.integers(1, 1_000))
    def wait(self, ms: int) -> None:
        """Let time pass."""
        self.clock.now_ms += ms

    @rule(at=st.integers(0, 1), ago_ms=st.integers(0, 500))
    def prune(self, at: int, ago_ms: int) -> None:
        """Forget families that nothing happened to."""
        before_ms = self.clock() - ago_ms
        forgotten: set[str] = set()
        for root, known in self.known.items():
            if known.parent_id not in self.known:
                family = set(self.below(root))
                if not any(
                    (each := self.known[name]).owner is not None
                    or each.updated_ms >= before_ms
                    or any(flight.charge is None for flight in each.spends.values())
                    for name in family
                ):
                    forgotten |= family
        assert self.run(self.stores[at].prune(before_ms)) == len(forgotten)
        self.known = {name: known for name, known in self.known.items() if name not in forgotten}
        self.calls = {key: made for key, made in self.calls.items() if made[1] not in forgotten}

    @invariant()
    def both_sides_are_equal(self) -> None:
        """Every delegation, every limit, every wish."""
        store = self.stores[self.number % 2]
        listed, _ = self.run(store.list(TENANT, limit=1_000))
        assert {
            each.delegation_id: (
                each.status,
                each.parent_id,
                each.depth,
                each.task.budget_microcents,
                each.spent_microcents,
                each.children_spent_microcents,
            )
            for each in listed
        } == {
            name: (
                known.status,
                known.parent_id,
                known.depth,
                known.budget,
                known.spent,
                sum(self.known[each].spent for each in self.below(name)) - known.spent,
            )
            for name, known in self.known.items()
        }
        for name in self.known:
            left = self.left(name)
            assert self.run(store.left_microcents(name)) == (None if left is None else max(left, 0))
        for at, each_store in enumerate(self.stores):
            assert set(self.run(each_store.cancel_requests())) == {
                name for name, known in self.known.items() if known.owner == at and known.is_cancel_requested
            }

    def teardown(self) -> None:
        """Close the file."""
        for store in self.stores:
            self.run(store.aclose())
        self.runner.close()
        self.directory.cleanup()


TestDelegationsAgainstModel = DelegationsAgainstModel.TestCase
TestDelegationsAgainstModel.settings = settings(
    stateful_step_count=30, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much]
)
