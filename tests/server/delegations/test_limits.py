"""What a limit still allows: over a delegation's whole life, and over all that its sub-agent delegates."""

import asyncio

import pytest

from budget_server.delegations.store import SqliteDelegationStore
from budget_tools.delegation.store import Outcome, Step
from budget_tools.spends.records import LimitReachedError
from server.delegations.making import TENANT, call, spend, started

pytestmark = pytest.mark.anyio


async def test_what_is_in_flight_held_and_charged_uses_a_limit_up(store: SqliteDelegationStore) -> None:
    """left_microcents; a charge that is known counts once, though its spend is not struck out yet."""
    await started(store, "d", budget_microcents=100)
    await store.mark_in_flight("d", spend("a", 30))
    assert await store.left_microcents("d") == 70
    await store.mark_in_flight("d", spend("b", 20, is_hold=True))
    assert await store.left_microcents("d") == 50
    await store.mark_in_flight("d", spend("b", 20))
    assert await store.left_microcents("d") == 50
    await store.write("d", Step(charges={"a": 12}, spent_microcents=12))
    assert await store.left_microcents("d") == 68
    await store.write("d", Step(struck=["a", "b"]))
    assert await store.left_microcents("d") == 88
    await store.mark_in_flight("d", spend("c", 88))

    with pytest.raises(LimitReachedError) as refusal:
        await store.mark_in_flight("d", spend("e", 1))
    assert refusal.value.left_microcents == 0


async def test_a_limit_that_was_passed_allows_nothing(store: SqliteDelegationStore) -> None:
    """A charge beyond its bound: 0, not less."""
    await started(store, "d", budget_microcents=10)
    await store.write("d", Step(spent_microcents=25))

    assert await store.left_microcents("d") == 0
    with pytest.raises(LimitReachedError) as refusal:
        await store.mark_in_flight("d", spend("a", 1))
    assert refusal.value.left_microcents == 0


async def test_without_a_limit_nothing_is_refused(store: SqliteDelegationStore) -> None:
    """None where there is no limit, nor a delegation; a parent that runs elsewhere limits nothing."""
    await started(store, "d", parent_id="elsewhere")
    await store.mark_in_flight("d", spend("a", 10**15))

    assert await store.left_microcents("d") is None
    assert await store.left_microcents("unknown") is None


async def test_units_that_are_no_dollars_pass_no_limit(store: SqliteDelegationStore) -> None:
    """A limit is in microcents; tokens are the budget's matter."""
    await started(store, "d", budget_microcents=10)

    await store.mark_in_flight("d", spend("a", 1_000, unit="TOKENS"))

    assert await store.left_microcents("d") == 10


async def test_a_limit_holds_for_all_that_is_made_under_it(
    store: SqliteDelegationStore, other: SqliteDelegationStore
) -> None:
    """A parent's limit, whichever process its child runs in, and whether the child has one of its own or not."""
    await started(store, "p", budget_microcents=100)
    await started(other, "c", parent_id="p")
    await started(other, "g", parent_id="c", budget_microcents=50)
    await started(other, "aside", budget_microcents=1_000)
    await store.write("p", Step(spent_microcents=10))
    await other.mark_in_flight("c", spend("c1", 20))
    await other.write("g", Step(spent_microcents=5))
    await other.mark_in_flight("g", spend("g1", 30, is_hold=True))

    assert [await store.left_microcents(name) for name in ("p", "c", "g", "aside")] == [35, 35, 15, 1_000]
    with pytest.raises(LimitReachedError) as refusal:
        await other.mark_in_flight("g", spend("g2", 16))
    assert refusal.value.left_microcents == 15
    await store.mark_in_flight("p", spend("p1", 30))
    with pytest.raises(LimitReachedError) as refusal:
        await other.mark_in_flight("g", spend("g2", 6))
    assert refusal.value.left_microcents == 5
    assert [(await store.find(TENANT, name)).children_spent_microcents for name in ("p", "c", "g")] == [5, 5, 0]


async def test_a_child_that_stopped_still_counts(store: SqliteDelegationStore) -> None:
    """A limit is for the whole life of a delegation and of all below it."""
    await started(store, "p", budget_microcents=100)
    await started(store, "c", parent_id="p")
    await store.write("c", Step(spent_microcents=60, outcome=Outcome(status="failed")))

    assert await store.left_microcents("p") == 40
    resumed = await store.resume(call("r"), "c", max_turns=None, budget_microcents=1_000)
    assert (resumed.parent_id, await store.left_microcents("c")) == ("p", 40)


async def test_of_two_spends_at_once_that_fit_only_apart_one_departs(
    store: SqliteDelegationStore, other: SqliteDelegationStore
) -> None:
    """Two children in two processes, one parent's limit: checked and written down in one transaction."""
    await started(store, "p", budget_microcents=100)
    await started(store, "c0", parent_id="p")
    await started(other, "c1", parent_id="p")

    for round_ in range(20):
        outcomes = await asyncio.gather(
            store.mark_in_flight("c0", spend(f"a{round_}", 60)),
            other.mark_in_flight("c1", spend(f"b{round_}", 60)),
            return_exceptions=True,
        )
        assert {type(outcome) for outcome in outcomes} == {LimitReachedError, type(None)}
        await store.write("c0", Step(struck=[f"a{round_}"]))
        await other.write("c1", Step(struck=[f"b{round_}"]))
