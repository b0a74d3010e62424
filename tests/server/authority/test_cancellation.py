"""Cancellation: whatever is cancelled, and whenever, nothing stays held and nothing that was spent is lost."""

import asyncio
import threading
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any

import anyio
import pytest
from runcycles import Action, Amount, Subject, Unit
from runcycles.streaming import AsyncStreamReservation

from budget_server.authority.ledger import Ledger
from contract.answers import body_of
from contract.harness import ROOT
from contract.local import EmbeddedAuthority

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
def budget(authority: EmbeddedAuthority) -> None:
    """Money to be held."""
    authority.set_budget(ROOT, 100)


def hold_writer(authority: EmbeddedAuthority, go_on: threading.Event) -> None:
    """Keep the ledger's thread at an operation until the event is set, so that what comes meanwhile must wait."""
    entered = threading.Event()

    def hold(_: Ledger) -> None:
        entered.set()
        assert go_on.wait(10)

    authority.writer.submit(hold)
    assert entered.wait(10)


@contextmanager
def writer_held(authority: EmbeddedAuthority) -> Iterator[threading.Event]:
    """Hold the ledger's thread for as long as the block runs, or until the event that it gives is set."""
    go_on = threading.Event()
    hold_writer(authority, go_on)
    try:
        yield go_on
    finally:
        go_on.set()


def stream(authority: EmbeddedAuthority) -> AsyncStreamReservation:
    """Open a stream reservation as a user of the library would."""
    return authority.client.stream_reservation(
        subject=Subject(tenant="acme"),
        action=Action(kind="llm.completion", name="claude"),
        estimate=Amount(unit=Unit.TOKENS, amount=40),
    )


@pytest.mark.parametrize("how", ["scope", "timeout", "native", "native twice"])
async def test_a_body_that_is_cancelled_releases(authority: EmbeddedAuthority, how: str) -> None:
    """runcycles, stream_reservation: leaving by a cancellation releases, and the release gets through."""
    inside = anyio.Event()

    async def work() -> None:
        async with stream(authority):
            inside.set()
            await anyio.sleep(60)

    with anyio.fail_after(10):
        if how == "timeout":
            with anyio.move_on_after(0.05):
                await work()
        elif how == "scope":
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(work)
                await inside.wait()
                tasks.cancel_scope.cancel()
        else:
            task = asyncio.ensure_future(work())
            await inside.wait()
            for _ in range(2 if "twice" in how else 1):
                task.cancel()
                await asyncio.sleep(0)
            await asyncio.wait([task])

    assert await authority.amounts() == "100/0/0/0"


@pytest.mark.parametrize("how", ["scope", "native", "native twice", "wait_for"])
async def test_a_reserve_that_is_cancelled_on_its_way_holds_nothing(authority: EmbeddedAuthority, how: str) -> None:
    """Cycles v0, IDEMPOTENCY: nobody heard the answer, so the next use of the key is judged afresh."""
    with anyio.fail_after(10), writer_held(authority) as go_on:
        await cancelled(how, calling(authority.client.create_reservation, authority.intent(40, key="k")), go_on)

    # An anyio scope lets a call that was handed over finish, and the caller then holds its answer.
    if how == "scope":
        assert await authority.amounts() == "60/40/0/0"
        return
    assert await authority.amounts() == "100/0/0/0"
    assert body_of(await authority.list())["reservations"] == []
    assert body_of(await authority.reserve(30, key="k"))["remaining_ttl_ms"] == 60_000
    assert await authority.amounts() == "70/30/0/0"


async def test_a_stream_that_is_cancelled_while_it_opens_holds_nothing(authority: EmbeddedAuthority) -> None:
    """runcycles, stream_reservation: up to Python 3.11 it waits in a task of its own, which hears of it natively.

    From 3.12 on the reservation opens first, and its body is cancelled where it waits: it is given back all the same.
    """

    async def work(begun: asyncio.Event) -> None:
        begun.set()
        async with stream(authority):
            await anyio.sleep_forever()

    for how in ("scope", "native"):
        with anyio.fail_after(10), writer_held(authority) as go_on:
            await cancelled(how, work, go_on)

        assert await authority.amounts() == "100/0/0/0"


async def test_a_cancelled_repeat_does_not_take_away_what_the_first_call_holds(authority: EmbeddedAuthority) -> None:
    """Cycles v0, IDEMPOTENCY: the replay is cancelled, the reservation belongs to somebody."""
    first = await authority.reserved(40, key="k")

    with anyio.fail_after(10), writer_held(authority) as go_on:
        await cancelled("native", calling(authority.client.create_reservation, authority.intent(40, key="k")), go_on)

    assert body_of(await authority.get(first))["status"] == "ACTIVE"
    assert await authority.amounts() == "60/40/0/0"


async def test_a_cancelled_dry_run_or_refusal_undoes_nothing(authority: EmbeddedAuthority) -> None:
    """Cycles v0, dry_run: nothing was held that could be withdrawn."""
    for fields in ({"dry_run": True}, {"amount": 1_000}):
        body = authority.intent(fields.pop("amount", 40), **fields)
        with anyio.fail_after(10), writer_held(authority) as go_on:
            await cancelled("native", calling(authority.client.create_reservation, body), go_on)

    assert await authority.amounts() == "100/0/0/0"


@pytest.mark.parametrize("how", ["scope", "native", "native twice", "wait_for"])
async def test_a_commit_that_is_cancelled_on_its_way_is_made(authority: EmbeddedAuthority, how: str) -> None:
    """Cycles v0, commitReservation: what was spent is charged; the same key then replays."""
    reservation_id = await authority.reserved(40)
    body = authority.outlay(25, key="c")

    with anyio.fail_after(10), writer_held(authority) as go_on:
        await cancelled(how, calling(authority.client.commit_reservation, reservation_id, body), go_on)

    assert await authority.amounts() == "75/0/25/0"
    assert (await authority.commit(reservation_id, 25, key="c")).status == 200


@pytest.mark.parametrize("how", ["scope", "native", "native twice"])
async def test_a_stream_that_is_cancelled_while_it_commits_is_charged(authority: EmbeddedAuthority, how: str) -> None:
    """runcycles, stream_reservation: the commit is on its way, and arrives."""
    holding = threading.Event()

    async def work(begun: asyncio.Event) -> None:
        async with stream(authority) as reservation:
            reservation.usage.actual_cost = 10
            hold_writer(authority, holding)
            begun.set()

    with anyio.fail_after(10):
        await cancelled(how, work, holding)

    assert await authority.amounts() == "90/0/10/0"


def calling(
    method: Callable[..., Awaitable[object]], *arguments: object
) -> Callable[[asyncio.Event], Coroutine[Any, Any, None]]:
    """Make a call that says when it begins."""

    async def call(begun: asyncio.Event) -> None:
        begun.set()
        await method(*arguments)

    return call


async def cancelled(
    how: str, call: Callable[[asyncio.Event], Coroutine[Any, Any, None]], go_on: threading.Event
) -> None:
    """Start a call, cancel it once it waits for the ledger, then let the ledger go on; return when all of it has ended.

    ``call`` sets the event that it is given when the next thing it waits for is the ledger.
    """
    tasks_before = asyncio.all_tasks()
    begun = asyncio.Event()
    if how == "scope":
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(call, begun)
            await begun.wait()
            await turns()
            tasks.cancel_scope.cancel()
            with anyio.CancelScope(shield=True):
                await turns()
            go_on.set()
    else:
        timeout_seconds = 0.02 if how == "wait_for" else None
        task = asyncio.ensure_future(asyncio.wait_for(call(begun), timeout_seconds))
        await begun.wait()
        await turns()
        if timeout_seconds:
            await asyncio.sleep(2 * timeout_seconds)  # the timeout itself is what is awaited
        for _ in range(how.count("native") + how.count("twice")):
            task.cancel()
            await turns()
        assert not task.done()
        go_on.set()
        await asyncio.wait([task])
        if not task.cancelled():
            task.exception()
    # A task that `wait_for` made may outlive the one that made it.
    left = asyncio.all_tasks() - tasks_before
    if left:
        await asyncio.wait(left)


async def turns() -> None:
    """Let everything run that can, until it waits for something outside the loop."""
    for _ in range(20):
        await asyncio.sleep(0)
