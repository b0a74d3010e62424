"""Starting, joining and resuming: a call happens once, and only what has something left to do goes on."""

import asyncio
import os
from pathlib import Path

import pytest

from budget_server.delegations.store import SqliteDelegationStore
from budget_tools.delegation.records import Task, TurnRecord
from budget_tools.delegation.store import Outcome, Step
from contract.harness import NOON_MS, Clock
from server.delegations.making import TENANT, call, held, refused, started, stopped, task

pytestmark = pytest.mark.anyio


async def test_what_was_started_is_there_in_full_when_the_file_is_opened_again(tmp_path: Path, clock: Clock) -> None:
    """DelegationStore: durable when it returns."""
    asked = task(context="c", system="s", fallback_models=["m"], tools=["t"], output_schema={"type": "object"})
    store = SqliteDelegationStore(tmp_path, clock=clock)
    new = await store.start(call("k"), "d", asked, parent_id="elsewhere", depth=2)
    await store.aclose()

    store = SqliteDelegationStore(tmp_path)
    found = await store.find(TENANT, "d")
    await store.aclose()

    assert new.is_new
    assert not found.is_new
    assert (found.task, found.status, found.model) == (asked, "running", "claude")
    assert (found.parent_id, found.depth) == ("elsewhere", 2)
    assert (found.created_at_ms, found.updated_at_ms) == (NOON_MS, NOON_MS)
    assert (found.turns, found.text, found.spent_microcents) == ([], "", 0)


async def test_a_repeated_call_joins_what_it_started(store: SqliteDelegationStore) -> None:
    """The same key and request: the first delegation, as it stands now."""
    await started(store, "d")
    await store.write("d", Step(text="Half done."))

    joined = await store.start(call("d"), "other", task(task="ignored"), parent_id="", depth=9)

    assert (joined.delegation_id, joined.is_new, joined.text) == ("d", False, "Half done.")
    assert (await refused(store.find(TENANT, "other"))).code == "NOT_FOUND"


async def test_a_key_that_came_with_another_request_is_refused(store: SqliteDelegationStore) -> None:
    """Same id with other content is an error; resuming uses the same keys."""
    await started(store, "d")

    for attempt in (
        store.start(call("d", '{"other":1}'), "e", task(), parent_id="", depth=1),
        store.resume(call("d", '{"resume":"d"}'), "d", max_turns=None, budget_microcents=None),
    ):
        assert (await refused(attempt)).code == "IDEMPOTENCY_MISMATCH"

    assert [stored.delegation_id for stored in (await store.list(TENANT))[0]] == ["d"]


async def test_a_key_is_its_tenants_own(store: SqliteDelegationStore) -> None:
    """Two tenants of one server choose their keys alone, and see nothing of each other."""
    await started(store, "d")
    await store.start(call("d", "another", tenant="rival"), "e", task(), parent_id="", depth=1)

    assert (await refused(store.find("rival", "d"))).code == "NOT_FOUND"
    assert (await refused(store.request_cancel(TENANT, "e"))).code == "NOT_FOUND"
    resumed = store.resume(call("r", tenant="rival"), "d", max_turns=None, budget_microcents=None)
    assert (await refused(resumed)).code == "NOT_FOUND"


async def test_of_the_same_call_in_two_stores_at_once_one_starts(
    store: SqliteDelegationStore, other: SqliteDelegationStore
) -> None:
    """A host that repeats itself to another process joins, too."""
    both = await asyncio.gather(
        *(each.start(call("k"), name, task(), parent_id="", depth=1) for each, name in ((store, "a"), (other, "b")))
    )

    assert sorted(stored.is_new for stored in both) == [False, True]
    assert len({stored.delegation_id for stored in both}) == 1


@pytest.mark.parametrize("status", ["budget_exhausted", "max_turns", "cancelled", "failed"])
async def test_a_stopped_delegation_resumes_under_new_limits(
    store: SqliteDelegationStore, other: SqliteDelegationStore, status: str
) -> None:
    """In another process too; how it stopped before is forgotten, what it did is not."""
    await started(store, "d", budget_microcents=10)
    await store.write("d", Step(text="So far.", turn=TurnRecord(number=1, model="claude"), spent_microcents=10))
    await store.write("d", Step(outcome=Outcome(status=status, hint="Why.", structured={"a": 1})))  # type: ignore[arg-type]
    before = await store.find(TENANT, "d")

    resumed = await other.resume(call("r"), "d", max_turns=20, budget_microcents=30)
    joined = await store.resume(call("r"), "d", max_turns=20, budget_microcents=30)

    assert (before.status, before.hint, before.structured) == (status, "Why.", {"a": 1})
    assert (resumed.is_new, joined.is_new) == (True, False)
    assert (joined.status, joined.hint, joined.structured, joined.text) == ("running", "", None, "So far.")
    assert joined.task == task(max_turns=20, budget_microcents=30)
    assert [turn.number for turn in joined.turns] == [1]
    assert await other.left_microcents("d") == 20
    await other.write("d", Step(outcome=Outcome(status="completed")))


async def test_limits_that_are_not_given_stay(store: SqliteDelegationStore) -> None:
    """DelegationStore.resume: under new limits where they are given."""
    await stopped(store, "d", budget_microcents=10, max_turns=3)

    resumed = await store.resume(call("r"), "d", max_turns=None, budget_microcents=None)

    assert (resumed.task.max_turns, resumed.task.budget_microcents) == (3, 10)


@pytest.mark.parametrize("status", ["completed", "refused"])
async def test_what_has_nothing_left_to_do_is_not_resumed(store: SqliteDelegationStore, status: str) -> None:
    """records.RESUMABLE; the sentence says which it is, and nothing is written."""
    before = await stopped(store, "d", status)

    refusal = await refused(store.resume(call("r"), "d", max_turns=99, budget_microcents=None))

    assert refusal.code == "NOT_RESUMABLE"
    assert status in refusal.message
    assert await store.find(TENANT, "d") == before
    await started(store, "r")  # the key is not burnt


async def test_what_runs_is_not_resumed(tmp_path: Path, store: SqliteDelegationStore) -> None:
    """Its owner lives: wait for it. Its owner died: it is being settled."""
    other = SqliteDelegationStore(tmp_path)
    await started(other, "d")
    running = await refused(store.resume(call("r"), "d", max_turns=None, budget_microcents=None))
    await other.aclose()
    orphan = await refused(store.resume(call("r"), "d", max_turns=None, budget_microcents=None))

    assert (running.code, orphan.code) == ("NOT_RESUMABLE", "NOT_RESUMABLE")
    assert "wait for it with delegation_status" in running.message
    assert "still being settled" in orphan.message


async def test_a_start_or_resume_that_nobody_hears_of_leaves_nothing_running(
    store: SqliteDelegationStore, other: SqliteDelegationStore
) -> None:
    """A caller that is cut off while the file is busy: its delegation would run with nobody to run it."""
    before = await stopped(store, "d", budget_microcents=5)
    async with held(other):
        calls = [
            asyncio.ensure_future(started(store, "e")),
            asyncio.ensure_future(store.resume(call("r"), "d", max_turns=9, budget_microcents=9)),
        ]
        await asyncio.sleep(0)  # both are handed over
        for each in calls:
            each.cancel()
    await asyncio.wait(calls)

    assert all(each.cancelled() for each in calls)
    assert (await refused(store.find(TENANT, "e"))).code == "NOT_FOUND"
    assert await store.find(TENANT, "d") == before
    assert (await store.resume(call("r", "another"), "d", max_turns=None, budget_microcents=None)).is_new


# -- how many, and how deep -------------------------------------------------------------------------------------------


async def test_no_more_run_than_may_in_all_processes(tmp_path: Path) -> None:
    """TOO_MANY_DELEGATIONS, for a start and a resume; one that ended, or whose process did, makes room."""
    one, two = (SqliteDelegationStore(tmp_path, max_running=2) for _ in range(2))
    await stopped(one, "s")
    await started(one, "a")
    await started(two, "b")

    for attempt in (started(one, "c"), one.resume(call("r"), "s", max_turns=None, budget_microcents=None)):
        refusal = await refused(attempt)
        assert refusal.code == "TOO_MANY_DELEGATIONS"
        assert "2 delegations are running already" in refusal.message
    await two.aclose()
    assert (await started(one, "c")).is_new
    assert not (await started(one, "a")).is_new
    await one.aclose()


async def test_no_more_children_of_one_parent_run_than_may(tmp_path: Path) -> None:
    """TOO_MANY_DELEGATIONS: one sub-agent does not fill the house."""
    store = SqliteDelegationStore(tmp_path, max_children=1)
    await started(store, "p")
    await started(store, "c1", parent_id="p")

    assert (await refused(started(store, "c2", parent_id="p"))).code == "TOO_MANY_DELEGATIONS"
    await started(store, "of-another", parent_id="elsewhere")
    await store.write("c1", Step(outcome=Outcome(status="completed")))
    await started(store, "c2", parent_id="p")
    await store.write("c2", Step(outcome=Outcome(status="failed")))
    await started(store, "c3", parent_id="p")
    resumed = store.resume(call("r"), "c2", max_turns=None, budget_microcents=None)
    assert (await refused(resumed)).code == "TOO_MANY_DELEGATIONS"
    await store.aclose()


async def test_depth_is_the_greater_of_what_the_process_and_the_store_know(store: SqliteDelegationStore) -> None:
    """NESTED_TOO_DEEP past three; a process in between that lost count is corrected by the store."""
    await started(store, "p", depth=2)
    assert (await started(store, "c", parent_id="p", depth=1)).depth == 3
    assert (await started(store, "far", parent_id="elsewhere", depth=3)).depth == 3
    await started(store, "shallow", depth=1)
    assert (await started(store, "deep", parent_id="shallow", depth=3)).depth == 3

    for attempt in (started(store, "g", parent_id="c"), started(store, "h", depth=4)):
        refusal = await refused(attempt)
        assert refusal.code == "NESTED_TOO_DEEP"
        assert "3 deep" in refusal.message


# -- what a caller or a model may say ---------------------------------------------------------------------------------


async def test_text_that_is_no_unicode_survives(store: SqliteDelegationStore) -> None:
    """A JSON API may send half of a surrogate pair, or NUL, anywhere in what a model said."""
    odd = "half \ud800 \x00 é 漢"
    asked = Task.model_construct(**{**task().model_dump(), "task": odd, "output_schema": {"d": odd}})
    await store.start(call("k", odd), "d", asked, parent_id="", depth=1)
    turn = TurnRecord(number=1, model="claude", stop_reason=odd)
    await store.write("d", Step(text=odd, turn=turn, outcome=Outcome(status="failed", hint=odd, structured=[odd])))

    found = await store.find(TENANT, "d")

    assert (found.task.task, found.task.output_schema) == (odd, {"d": odd})
    assert (found.text, found.hint, found.structured, found.turns) == (odd, odd, [odd], [turn])


async def test_an_id_or_key_that_is_no_unicode_is_refused(store: SqliteDelegationStore) -> None:
    """One sentence that names the argument, not a failure of ours."""
    assert "idempotency_key" in (await refused(started(store, "\udfff"))).message
    assert "delegation_id" in (await refused(store.find(TENANT, "\udfff"))).message
    assert "cursor" in (await refused(store.list(TENANT, cursor="\udfff"))).message


async def test_megabytes_are_kept(store: SqliteDelegationStore) -> None:
    """A context of a whole file."""
    context = os.urandom(2_000_000).hex()

    await started(store, "d", context=context)

    assert (await store.find(TENANT, "d")).task.context == context
