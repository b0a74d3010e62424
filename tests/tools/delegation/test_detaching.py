"""What becomes of a delegation whose host gives up on the call: it stops, unless somebody or a setting wants it."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest

from budget_server.demo.scripted_claude import Turn
from tools.delegation.harness import LOOK, PATIENCE_SECONDS, TOOLS, Bench, OpenBench, happens

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def giving_up(call: Callable[[], Awaitable[object]]) -> AsyncIterator[Callable[[], Awaitable[None]]]:
    """Make a call beside the block; what is given has its host give it up, and waits until it has."""
    scope, has_ended = anyio.CancelScope(), anyio.Event()

    async def run() -> None:
        with scope:
            await call()
        has_ended.set()

    async def give_up() -> None:
        scope.cancel()
        await happens(has_ended)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run)
        yield give_up


async def only(b: Bench, **arguments: object) -> dict[str, Any]:
    """How the bench's one delegation stands."""
    (delegation,) = await b.kept()
    return await b.status(delegation.delegation_id, **arguments)


async def test_with_detach_it_goes_on_to_its_end(bench: OpenBench) -> None:
    """BUDGET_ON_DISCONNECT=detach: the host may go home; the result waits for delegation_status."""
    go_on = anyio.Event()
    b = await bench(
        [Turn(text="I look.", tool_calls=(LOOK,), hold=go_on), Turn(text="Done.")], budget_on_disconnect="detach"
    )

    async with giving_up(lambda: b.delegate(tools=TOOLS)) as give_up:
        await b.held(1)
        await give_up()
    still = await only(b)
    go_on.set()
    result = await only(b, wait_seconds=PATIENCE_SECONDS)

    assert (still["status"], result["status"], result["text"]) == ("running", "completed", "Done.")


async def test_with_cancel_it_stops_and_a_person_may_resume_it(bench: OpenBench) -> None:
    """The default: nobody would read the rest, so nothing more is spent; what was out is charged at its bound."""
    b = await bench([Turn(text="Never.", hold=anyio.Event()), Turn(text="Never.")])

    async with giving_up(b.delegate) as give_up:
        request = await b.held(1)
        await give_up()
    await happens(request.disconnected)
    result = await only(b, wait_seconds=PATIENCE_SECONDS)

    assert (result["status"], result["resumable"], b.sent) == ("cancelled", True, 1)
    assert "resume" in result["hint"].lower()


@pytest.mark.parametrize("other", ["delegate", "status"])
async def test_one_of_two_callers_giving_up_does_not_stop_it_for_the_other(bench: OpenBench, other: str) -> None:
    """A joined call waits for the same answer, whichever tool it waits with."""
    go_on = anyio.Event()
    b = await bench([Turn(text="Done.", hold=go_on)])
    results: list[dict[str, Any]] = []

    async def wait() -> None:
        (delegation,) = await b.kept()
        if other == "delegate":
            results.append(await b.delegate(idempotency_key="k"))
        else:
            results.append(await b.status(delegation.delegation_id, wait_seconds=PATIENCE_SECONDS))

    async with giving_up(lambda: b.delegate(idempotency_key="k")) as give_up, anyio.create_task_group() as tasks:
        await b.held(1)
        tasks.start_soon(wait)
        await followers(b, 2)
        await give_up()
        assert (await only(b))["status"] == "running"
        go_on.set()

    assert [(result["status"], result["text"]) for result in results] == [("completed", "Done.")]


async def followers(b: Bench, count: int) -> None:
    """Wait until so many calls wait for the bench's one delegation."""
    (delegation,) = await b.kept()
    with anyio.fail_after(PATIENCE_SECONDS):
        while b.services.delegations._followers[delegation.delegation_id] < count:
            await anyio.lowlevel.checkpoint()


async def test_when_the_last_of_two_callers_gives_up_it_stops(bench: OpenBench) -> None:
    """Then nobody waits any more."""
    b = await bench([Turn(text="Never.", hold=anyio.Event())])

    async def call() -> None:
        await b.delegate(idempotency_key="k")

    async with giving_up(call) as first, giving_up(call) as second:
        await b.held(1)
        await followers(b, 2)
        await first()
        still = await only(b)
        await second()
    result = await only(b, wait_seconds=PATIENCE_SECONDS)

    assert (still["status"], result["status"]) == ("running", "cancelled")


async def test_looking_at_it_and_leaving_stops_nothing(bench: OpenBench) -> None:
    """delegation_status only looks: whoever gives that call up has given up nothing else."""
    go_on = anyio.Event()
    b = await bench([Turn(text="Done.", hold=go_on)])
    await b.delegate(wait_seconds=0)
    await b.held(1)

    async with giving_up(lambda: only(b, wait_seconds=PATIENCE_SECONDS)) as give_up:
        await followers(b, 1)
        await give_up()
    still = await only(b)
    go_on.set()

    assert still["status"] == "running"
    assert (await only(b, wait_seconds=PATIENCE_SECONDS))["text"] == "Done."
