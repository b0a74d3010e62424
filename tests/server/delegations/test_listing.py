"""Finding delegations again, and forgetting them."""

import apsw
import pytest

from budget_server.delegations.delegations import Delegations
from budget_server.delegations.store import SqliteDelegationStore
from budget_tools.delegation.records import TurnRecord
from budget_tools.delegation.store import Message, Outcome, Step
from contract.harness import NOON_MS, Clock
from server.delegations.making import TENANT, call, refused, spend, started, stopped, task

pytestmark = pytest.mark.anyio


async def names(store: SqliteDelegationStore, **query: object) -> list[str]:
    """List all pages."""
    found: list[str] = []
    cursor = ""
    while True:
        page, cursor = await store.list(TENANT, cursor=cursor, **query)  # type: ignore[arg-type]
        found += [stored.delegation_id for stored in page]
        if not cursor:
            return found


async def test_the_newest_come_first_page_by_page(store: SqliteDelegationStore, clock: Clock) -> None:
    """By the time they were created, then by id, which is ordered by time as well; without their turns."""
    for number in range(7):
        clock.now_ms += number % 2
        await started(store, f"d{number}")
    await store.write("d3", Step(turn=TurnRecord(number=1, model="claude"), outcome=Outcome(status="failed")))
    await store.start(call("rival", tenant="rival"), "rival", task(), parent_id="", depth=1)

    assert await names(store) == [f"d{number}" for number in reversed(range(7))]
    assert await names(store, limit=3) == await names(store, limit=1) == await names(store)
    assert await names(store, status="failed") == ["d3"]
    assert await names(store, status="running", limit=2) == ["d6", "d5", "d4", "d2", "d1", "d0"]
    (page, cursor) = await store.list(TENANT, status="failed")
    assert (page[0].turns, cursor) == ((), "")


async def test_a_page_stays_where_it_was_while_others_are_started(store: SqliteDelegationStore, clock: Clock) -> None:
    """Nothing is shown twice, and nothing is left out."""
    for number in range(4):
        clock.now_ms += 1
        await started(store, f"d{number}")
    page, cursor = await store.list(TENANT, limit=2)
    clock.now_ms += 1
    await started(store, "new")

    rest, end = await store.list(TENANT, limit=2, cursor=cursor)

    assert [stored.delegation_id for stored in (*page, *rest)] == ["d3", "d2", "d1", "d0"]
    assert end == ""


@pytest.mark.parametrize(
    "cursor", ["x", "é", "!!!!", "e30", "WzFd", "WyJhIiwgImIiXQ", "WzFlOTksICJhIl0", "W251bGwsICJhIl0"]
)
async def test_a_cursor_that_is_none_of_ours_is_refused(store: SqliteDelegationStore, cursor: str) -> None:
    """INVALID_ARGUMENT, one sentence."""
    assert (await refused(store.list(TENANT, cursor=cursor))).code == "INVALID_ARGUMENT"


async def test_what_nothing_happened_to_is_forgotten_with_all_that_belongs_to_it(
    store: SqliteDelegationStore, clock: Clock
) -> None:
    """Messages, turns and calls go with it: its key is free again."""
    await started(store, "old")
    step = Step(messages=[Message(role="user", content="x")], turn=TurnRecord(number=1, model="claude"))
    await store.write("old", step)
    await store.write("old", Step(outcome=Outcome(status="completed")))
    await stopped(store, "touched")
    await started(store, "running")
    await stopped(store, "in-flight")
    await store.resume(call("again"), "in-flight", max_turns=None, budget_microcents=None)
    await store.mark_in_flight("in-flight", spend("r", 1))
    await store.write("in-flight", Step(outcome=Outcome(status="failed")))
    clock.now_ms += 1_000
    await store.resume(call("resumed"), "touched", max_turns=None, budget_microcents=None)
    await store.write("touched", Step(outcome=Outcome(status="failed")))

    assert await store.prune(NOON_MS) == 0
    assert await store.prune(NOON_MS + 1_000) == 1

    assert (await refused(store.find(TENANT, "old"))).code == "NOT_FOUND"
    assert await store.conversation("old") == []
    assert await names(store) == ["touched", "running", "in-flight"]
    assert (await started(store, "old")).is_new
    assert await store.conversation("old") == []


async def test_a_family_is_forgotten_together(store: SqliteDelegationStore, clock: Clock) -> None:
    """A parent's limit is used up by its children, and holds for them, however long ago they stopped."""
    await started(store, "p", budget_microcents=100)
    await stopped(store, "c", parent_id="p")
    await store.resume(call("r"), "c", max_turns=None, budget_microcents=None)
    await store.write("c", Step(spent_microcents=60, outcome=Outcome(status="failed")))
    await stopped(store, "orphaned", parent_id="elsewhere")
    clock.now_ms += 1_000

    assert await store.prune(clock()) == 1
    assert await store.left_microcents("p") == 40

    await store.write("p", Step(outcome=Outcome(status="completed")))
    await store.resume(call("r2"), "c", max_turns=None, budget_microcents=None)
    clock.now_ms += 1_000
    assert await store.prune(clock()) == 0
    assert await store.left_microcents("c") == 40

    await store.write("c", Step(outcome=Outcome(status="completed")))
    assert await store.prune(clock()) == 0
    assert await store.prune(clock() + 1) == 2
    assert await names(store) == []


async def test_nothing_that_is_asked_often_searches_through_all_that_ever_was(store: SqliteDelegationStore) -> None:
    """A server that ran for a year answers as one that began today: each statement has an index for each table."""
    await started(store, "p", budget_microcents=9)
    await started(store, "c", parent_id="p")
    statements: list[tuple[str, object]] = []

    def trace(_: apsw.Cursor, sql: str, bindings: object) -> bool:
        if sql.lstrip().startswith(("SELECT", "WITH", "UPDATE", "DELETE")):
            statements.append((sql, bindings))
        return True

    def plans(delegations: Delegations) -> list[str]:
        db = delegations._db
        db.exec_trace = None
        return [
            str(row[3])
            for sql, bindings in statements
            for row in db.execute(f"EXPLAIN QUERY PLAN {sql}", bindings)  # type: ignore[arg-type]
        ]

    await store._file.run(lambda delegations: setattr(delegations._db, "exec_trace", trace))
    await store.find(TENANT, "c")
    await store.list(TENANT, limit=1)
    await store.conversation("c")
    await store.mark_in_flight("c", spend("r", 1))
    await store.write("c", Step(charges={"r": 1}, struck=["r"], messages=[Message(role="user", content="x")]))
    await store.request_cancel(TENANT, "c")
    await store.cancel_requests()
    await started(store, "d", parent_id="p")
    await store.write("c", Step(outcome=Outcome(status="completed")))
    found = await store._file.run(plans)

    tables = ("delegations", "calls", "turns", "messages", "spends", "above", "below")
    whole = [plan for plan in found if plan.startswith(tuple(f"SCAN {table}" for table in tables))]
    assert len(statements) > 20
    assert all("USING INDEX delegations_by_owner" in plan for plan in whole), whole
    assert not any("FOR ORDER BY" in plan for plan in found)
