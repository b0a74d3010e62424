"""Stopping a delegation from outside, at every moment: nothing stays held, nothing that may be billed comes back."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import anyio.abc
import anyio.lowlevel
import pytest

from budget_server.demo.scripted_claude import Failure, ToolCall, Turn
from budget_tools.delegation import turn
from budget_tools.delegation.loop import Delegation
from budget_tools.delegation.records import Task
from budget_tools.delegation.stop import Stop
from budget_tools.delegation.store import Call
from tools.delegation.harness import MODEL, PATIENCE_SECONDS, Bench, OpenBench, a_door, background, happens, kept, shed

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def cancelled_call(b: Bench, **arguments: object) -> AsyncIterator[Callable[[], None]]:
    """Delegate in the background; what is given cancels that call as a host does."""
    scope = anyio.CancelScope()

    async def run() -> None:
        with scope:
            await b.delegate(**arguments)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run)
        yield scope.cancel
        assert scope.cancel_called


async def ended(b: Bench) -> dict[str, Any]:
    """Wait for the bench's one delegation, and give its result."""
    (delegation,) = await b.kept()
    return await b.status(delegation.delegation_id, wait_seconds=PATIENCE_SECONDS)


@pytest.mark.parametrize("hold_at", ["headers", "middle"])
async def test_a_host_that_cancels_while_claude_answers_is_charged_the_bound(bench: OpenBench, hold_at: Any) -> None:
    """Design, when things go wrong: sent and not answered is charged at the bound, and the connection is closed."""
    b = await bench([Turn(text="Never.", hold=anyio.Event(), hold_at=hold_at)])

    async with cancelled_call(b) as cancel:
        request = await b.held(1)
        cancel()
    await happens(request.disconnected)
    result = await ended(b)

    (record,) = result["turns"]
    assert (result["status"], b.sent) == ("cancelled", 1)
    assert record["charged"] == record["reserved"]
    assert record["actual_source"] == "bound"
    assert record["request_id"] == (request.request_id if hold_at == "middle" else "")
    assert [row["status"] for row in await b.reservations()] == ["COMMITTED"]


async def test_a_running_delegation_is_cancelled_by_its_id(bench: OpenBench) -> None:
    """delegation_status: cancel settles what is in flight, and answers with how it stands then."""
    b = await bench([Turn(text="Never.", hold=anyio.Event())])
    running = await b.delegate(wait_seconds=0)
    request = await b.held(1)

    result = await b.status(running["delegation_id"], cancel=True)

    assert (running["status"], result["status"]) == ("running", "cancelled")
    assert result["turns"][0]["charged"] == result["turns"][0]["reserved"] == result["spent"]
    await happens(request.disconnected)
    assert await b.status(running["delegation_id"]) == result


async def test_cancelling_what_is_done_changes_nothing(bench: OpenBench) -> None:
    """delegation_status is idempotent."""
    b = await bench([Turn(text="Done.")])
    done = await b.delegate(idempotency_key="k")

    assert await b.status(done["delegation_id"], cancel=True) == {**done, "idempotency_key": ""}


async def test_cancelling_while_tools_run_keeps_the_turn_and_sends_no_more(bench: OpenBench) -> None:
    """Design: host cancels; the turn that asked for the tools was answered, so its usage is what it cost."""
    script: list[Turn] = []
    b = await bench(script)
    async with a_door() as (port, knocked):
        calls = (ToolCall("shed__count"), ToolCall("shed__hang", {"port": port}))
        script += [Turn(text="I wait.", tool_calls=calls), Turn(text="Never.")]
        async with cancelled_call(b, tools=["shed__*"]) as cancel:
            await happens(knocked)
            cancel()
        result = await ended(b)

    (record,) = result["turns"]
    assert (result["status"], result["text"], b.sent) == ("cancelled", "I wait.", 1)
    assert record["actual_source"] == "usage"
    assert [call["name"] for call in record["tool_calls"]] == ["shed__count"]


@pytest.mark.parametrize("status", [429, 529])
async def test_cancelling_while_it_backs_off_gives_the_reservation_back(
    bench: OpenBench, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    """Design: an attempt that was refused unbilled costs nothing, and is not tried again after a stop."""
    monkeypatch.setattr(turn, "FIRST_BACKOFF_SECONDS", turn.MAX_WAIT_SECONDS)
    b = await bench([Failure(status=status), Turn(text="Never.")])
    running = await b.delegate(wait_seconds=0)
    await b.doing(running, "To try again")

    result = await b.status(running["delegation_id"], cancel=True)

    assert (result["status"], result["spent"]["amount"], b.sent) == ("cancelled", 0, 1)
    assert [row["status"] for row in await b.reservations()] == ["RELEASED"]


async def test_a_stop_that_came_first_interrupts_whatever_begins_after_it() -> None:
    """A stop may come between two waits; the next one, a backoff of half a minute, must not begin."""
    stop = Stop()
    stop.request()

    with anyio.fail_after(PATIENCE_SECONDS), stop.interruptible() as scope:
        await anyio.sleep_forever()

    assert scope.cancelled_caught


async def test_cancelling_before_the_request_leaves_holds_and_sends_nothing(bench: OpenBench) -> None:
    """Design: before the reserve nothing is held, and afterwards what was not sent is released."""
    b = await bench([Turn(text="Never.")] * 3)
    running = await b.delegate(wait_seconds=0)
    b.running(running["delegation_id"]).stop.request()

    result = await b.status(running["delegation_id"], wait_seconds=5)

    assert (result["status"], result["spent"]["amount"], b.sent) == ("cancelled", 0, 0)
    assert all(row["status"] == "RELEASED" for row in await b.reservations())


@pytest.mark.parametrize("step", range(16))
async def test_a_stop_at_any_step_leaves_the_books_straight(bench: OpenBench, step: int) -> None:
    """Design, when things go wrong: every column of the row "host cancels"; the fixture checks the books."""
    b = await bench([Turn(text="One.", tool_calls=(ToolCall("shed__none"),)), Turn(text="Two.")])
    running = await b.delegate(wait_seconds=0, tools=["shed__count"])
    delegation = b.running(running["delegation_id"])
    for _ in range(2 * step * step):
        await anyio.lowlevel.checkpoint()
    delegation.stop.request()

    result = await b.status(delegation.id, wait_seconds=PATIENCE_SECONDS)

    assert result["status"] in ("cancelled", "completed")
    for record in result["turns"]:
        assert bool(record.get("charged")) == bool(record["actual_source"])
    assert b.sent <= sum(1 for record in result["turns"] if record.get("charged"))


async def test_an_ending_process_settles_what_is_out_within_two_seconds(bench: OpenBench, tmp_path: Path) -> None:
    """Design: SIGTERM and SIGINT settle what runs, within two seconds."""
    b = await bench([Turn(text="Never.", hold=anyio.Event())] * 3)
    running = [(await b.delegate(wait_seconds=0))["delegation_id"] for _ in range(3)]
    await b.held(3)

    with anyio.fail_after(2):
        await b.services.aclose()

    for delegation in await kept(tmp_path / "data"):
        assert delegation.delegation_id in running
        assert delegation.status == "cancelled"
        assert [record.actual_source for record in delegation.turns] == ["bound"]


async def test_after_the_end_nothing_new_is_delegated(bench: OpenBench) -> None:
    """A delegation that starts while its process ends could not be settled."""
    b = await bench([Turn(text="Never.")])
    await b.delegate(wait_seconds=0, budget_usd=0)
    await b.services.delegations.aclose()

    assert "ending" in await b.refused()
    assert b.sent == 0


async def test_a_cancelled_scope_around_a_turn_cannot_reach_its_reservation(bench: OpenBench) -> None:
    """Design, turn by turn, 5: a shielded scope around the stream reservation: unshielded, a cancel loses money."""
    b = await bench([Turn(text="Never.", hold=anyio.Event())])
    runner, store = b.services.delegations, b.services.delegation_store
    task = Task(task="Do it.", model=MODEL, max_turns=1, max_output_tokens=16, levels=b.services.subject.levels)
    call = Call(tenant="local", idempotency_key="k", request="{}")
    stored = await store.start(call, "d", task, parent_id="", depth=1)
    delegation = Delegation(stored, (), {}, runner._means())

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(delegation.run)
        request_out = await b.held(1)
        tasks.cancel_scope.cancel()
        with anyio.CancelScope(shield=True):
            await b.reservations()  # gives the cancellation time to do its worst
            (held,) = await b.reservations()
            was_left_alone = not request_out.disconnected.is_set()
        delegation.stop.request()

    (turn_,) = delegation.turns
    (settled,) = await b.reservations()
    assert (held["status"], was_left_alone, settled["status"]) == ("ACTIVE", True, "COMMITTED")
    assert turn_.charged == turn_.reserved


async def test_an_event_loop_that_ends_charges_what_is_out(bench: OpenBench) -> None:
    """Asyncio cancels every task when its loop ends: past all shields, and still no money may be handed back."""
    b = await bench([Turn(text="Never.", hold=anyio.Event())])
    running = await b.delegate(wait_seconds=0)
    await b.held(1)

    (task,) = (each for each in b.services.delegations._tasks if each.get_name().startswith("delegation-0"))
    task.cancel()
    with anyio.fail_after(PATIENCE_SECONDS):
        await asyncio.wait([task])

    result = await b.status(running["delegation_id"])
    assert result["status"] == "cancelled"
    assert result["turns"][0]["actual_source"] == "bound"


async def test_an_event_loop_that_ends_while_tools_run_leaves_nobody_waiting(bench: OpenBench) -> None:
    """A caller of delegation_status must hear of the end."""
    script: list[Turn] = []
    b = await bench(script)
    async with a_door() as (port, knocked):
        script.append(Turn(text="So far.", tool_calls=(ToolCall("shed__hang", {"port": port}),)))
        running = await b.delegate(wait_seconds=0, tools=["shed__hang"])
        await happens(knocked)
        async with background(lambda: b.status(running["delegation_id"], wait_seconds=PATIENCE_SECONDS)) as results:
            (task,) = (each for each in b.services.delegations._tasks if each.get_name().startswith("delegation-0"))
            task.cancel()

    assert [(result["status"], result["text"]) for result in results] == [("cancelled", "So far.")]


async def test_a_process_ends_although_a_tool_server_never_started(bench: OpenBench) -> None:
    """A server that reads and never answers must not hold up the end."""
    b = await bench([], servers={"mute": shed("--mute")})

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(b.refused_or_cancelled, ["mute__*"])
        with anyio.fail_after(PATIENCE_SECONDS):
            while not b.services.toolbox._servers["mute"]._living:
                await anyio.lowlevel.checkpoint()
        with anyio.fail_after(PATIENCE_SECONDS):
            await b.services.aclose()

    assert b.sent == 0
