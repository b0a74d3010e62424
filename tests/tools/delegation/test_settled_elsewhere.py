"""On a Cycles server others can settle what a delegation has reserved: what it spent is booked all the same, once."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest

from budget_server.demo.scripted_claude import Answer, ToolCall, Turn
from hosting import text_of
from tools.delegation.harness import TOOLS, Bench, a_door, happens, structured
from tools.delegation.metering import CyclesServer, MeteredClaude, cycles_server, remote_bench
from tools.delegation.test_priced_tools import priced

pytestmark = pytest.mark.anyio

DOLLAR = 100_000_000


class Rival:
    """Somebody with a key of the same tenant: whatever is listed, it may settle there."""

    def __init__(self, http: httpx.AsyncClient) -> None:
        self._http = http
        self._keys = 0

    async def listed(self) -> list[dict[str, Any]]:
        """What is held."""
        return list((await self._http.get("/v1/reservations", params={"status": "ACTIVE"})).json()["reservations"])

    async def post(self, path: str, **body: object) -> int:
        """Ask for something, under a new key unless one is given."""
        self._keys += 1
        response = await self._http.post(f"/v1/{path}", json={"idempotency_key": f"rival-{self._keys}", **body})
        return response.status_code

    async def release(self, row: Mapping[str, Any], **body: object) -> int:
        """Give it back."""
        return await self.post(f"reservations/{row['reservation_id']}/release", **body)

    async def commit(self, row: Mapping[str, Any], amount: int, **body: object) -> int:
        """Settle it with another amount."""
        actual = {"unit": row["reserved"]["unit"], "amount": amount}
        return await self.post(f"reservations/{row['reservation_id']}/commit", actual=actual, **body)

    async def extend(self, row: Mapping[str, Any], ms: int = 1_000) -> int:
        """Prolong it."""
        return await self.post(f"reservations/{row['reservation_id']}/extend", extend_by_ms=ms)

    async def book(self, row: Mapping[str, Any], key: str) -> int:
        """Book nothing under a key that might be needed later."""
        actual = {"unit": row["reserved"]["unit"], "amount": 0}
        return await self.post(
            "events", idempotency_key=key, subject=row["subject"], action=row["action"], actual=actual
        )


@asynccontextmanager
async def rivalry(
    directory: Path, script: list[Turn] | Any, *, microcents: int = DOLLAR, **settings: Any
) -> AsyncIterator[tuple[Bench, MeteredClaude, CyclesServer, Rival]]:
    """Open a server on a Cycles server, and somebody else with its key."""
    async with (
        cycles_server(directory, microcents) as server,
        remote_bench(directory, server, script, **settings) as (b, claude),
        httpx.AsyncClient(
            base_url=server.proxy.url, headers={"X-Cycles-API-Key": server.secret}, trust_env=False
        ) as http,
    ):
        yield b, claude, server, Rival(http)


@pytest.mark.parametrize(("how", "foreign"), [("released", 0), ("committed at nothing", 0), ("committed", 1_234)])
async def test_a_turn_whose_reservation_somebody_else_settled_is_booked_once(
    tmp_path: Path, how: str, foreign: int
) -> None:
    """In full: what somebody else committed was charged for them. The event says which reservation it was."""
    go_on = anyio.Event()
    async with rivalry(tmp_path, [Turn(text="Done.", hold=go_on)]) as (b, claude, server, rival):
        running = await b.delegate(wait_seconds=0)
        await b.held(1)
        (row,) = await rival.listed()
        settled = await (rival.release(row) if how == "released" else rival.commit(row, foreign))
        go_on.set()
        done = await b.status(running["delegation_id"], wait_seconds=15)
        figures = server.figures()
        metadata = server.sql("SELECT metadata ->> 'recovered_reservation_id' FROM events")

    assert settled == 200
    assert (done["status"], done["text"]) == ("completed", "Done.")
    assert done["spent"]["amount"] == done["turns"][0]["charged"]["amount"] == claude.billed_microcents > 0
    assert figures.events == [claude.billed_microcents]
    assert figures.spent == claude.billed_microcents + foreign
    assert figures.reserved == 0
    assert metadata == [(row["reservation_id"],)]


async def test_a_reservation_that_ran_out_meanwhile_is_booked_at_once(tmp_path: Path) -> None:
    """The answer is not given before it is booked."""
    go_on = anyio.Event()
    async with rivalry(tmp_path, [Turn(text="Done.", hold=go_on)]) as (b, claude, server, rival):
        running = await b.delegate(wait_seconds=0)
        await b.held(1)
        (row,) = await rival.listed()
        server.sql("UPDATE reservations SET expires_at_ms = 0, grace_ms = 0")
        go_on.set()
        done = await b.status(running["delegation_id"], wait_seconds=15)
        figures = server.figures()

    assert done["spent"]["amount"] == claude.billed_microcents == figures.spent
    assert figures.events == [claude.billed_microcents]
    assert row["status"] == "ACTIVE"


async def test_a_reservation_that_is_gone_is_booked_as_well(tmp_path: Path) -> None:
    """A server that was restored from a backup knows it not; the money is spent."""
    go_on = anyio.Event()
    async with rivalry(tmp_path, [Turn(text="Done.", hold=go_on)]) as (b, claude, server, _):
        running = await b.delegate(wait_seconds=0)
        await b.held(1)
        server.sql("DELETE FROM reservations")
        server.sql("UPDATE budgets SET remaining = allocated, reserved = 0")
        go_on.set()
        await b.status(running["delegation_id"], wait_seconds=15)
        figures = server.figures()

    assert figures.events == [claude.billed_microcents]


@pytest.mark.parametrize("prefix", ["commit-", "", "release-", "event-", "departure-"])
async def test_no_key_of_a_settlement_can_be_taken_before_it_is_used(tmp_path: Path, prefix: str) -> None:
    """The key of a reserve can be read in lists: whatever is derived from it is somebody else's."""
    go_on = anyio.Event()
    async with rivalry(tmp_path, [Turn(text="Done.", hold=go_on)]) as (b, claude, server, rival):
        running = await b.delegate(wait_seconds=0)
        await b.held(1)
        (row,) = await rival.listed()
        key = f"{prefix}{row['idempotency_key']}"
        booked = await rival.book(row, key)
        settled = await rival.commit(row, 0, idempotency_key=key)
        go_on.set()
        done = await b.status(running["delegation_id"], wait_seconds=15)
        figures = server.figures()

    assert (booked, settled) == (201, 200)
    assert figures.spent == done["spent"]["amount"] == claude.billed_microcents > 0


async def test_a_priced_tool_call_that_somebody_else_settled_is_booked_once(tmp_path: Path) -> None:
    """Tool calls are spends like turns."""
    script: list[Answer] = []
    async with (
        rivalry(tmp_path, script, servers=priced(hang="0.02")) as (b, claude, server, rival),
        a_door() as (port, knocked),
    ):
        script += [Turn(tool_calls=(ToolCall("shed__hang", {"port": port}),)), Turn(text="Never.")]
        running = await b.delegate(tools=["shed__hang"], wait_seconds=0)
        await happens(knocked)
        released = [await rival.release(row) for row in await rival.listed()]
        done = await b.status(running["delegation_id"], cancel=True, wait_seconds=15)
        figures = server.figures()

    assert released == [200] * 2, "the call, and what was held for a last answer"
    assert figures.events == [2_000_000]
    assert figures.spent == done["spent"]["amount"] == claude.billed_microcents + 2_000_000


async def test_a_reservation_that_is_settled_before_the_request_leaves_sends_nothing(tmp_path: Path) -> None:
    """Nothing is spent under what somebody else has taken away."""
    async with rivalry(tmp_path, [Turn(text="Never.")]) as (b, claude, server, rival):
        server.proxy.gather("extend", 2)
        running = await b.delegate(wait_seconds=0)
        await server.proxy.answered("reserve", 1)
        (row,) = await rival.listed()
        await rival.release(row)
        await rival.extend(row)  # the second extension lets the first pass, which finds it released
        done = await b.status(running["delegation_id"], wait_seconds=15)
        figures = server.figures()

    assert (done["status"], done["spent"]["amount"], claude.billed, figures.spent) == ("failed", 0, [], 0)


async def test_the_tools_here_leave_a_delegations_reservations_alone(tmp_path: Path) -> None:
    """A Cycles server cannot refuse it; the tags say whose it is."""
    go_on = anyio.Event()
    async with rivalry(tmp_path, [Turn(text="Done.", hold=go_on)]) as (b, _, server, rival):
        running = await b.delegate(tools=TOOLS, wait_seconds=0)
        await b.held(1)
        rows = structured(await b.call("list_reservations", status="ACTIVE"))["reservations"]
        refused = [
            text_of(await b.call(tool, reservation_id=row["reservation_id"], **arguments))
            for row in rows
            for tool, arguments in (
                ("release_budget", {}),
                ("commit_usage", {"usd": 0}),
                ("extend_reservation", {"seconds": 1}),
            )
        ]
        still = await rival.listed()
        go_on.set()
        done = await b.status(running["delegation_id"], wait_seconds=15)
        figures = server.figures()

    assert len(rows) == 2
    assert {row["delegation_id"] for row in rows} == {running["delegation_id"]}
    assert all(f"belongs to delegation {running['delegation_id']}" in each for each in refused)
    assert {row["reservation_id"] for row in still} == {row["reservation_id"] for row in rows}
    assert (figures.spent, figures.events) == (done["spent"]["amount"], [])


async def test_what_the_budget_there_cannot_cover_is_said(tmp_path: Path) -> None:
    """An event is charged what is there; the rest stands beside it."""
    go_on = anyio.Event()
    async with rivalry(tmp_path, [Turn(text="Done.", hold=go_on)], microcents=10_000_000) as parts:
        b, claude, server, rival = parts
        running = await b.delegate(wait_seconds=0)
        await b.held(1)
        (row,) = await rival.listed()
        await rival.commit(row, 10_000_000)
        go_on.set()
        done = await b.status(running["delegation_id"], wait_seconds=15)
        figures = server.figures()

    assert (done["spent"]["amount"], done["uncovered"]["amount"]) == (0, claude.billed_microcents)
    assert figures == (10_000_000, 0, [0], [10_000_000])


async def test_a_booking_that_is_not_answered_is_repeated_until_it_is(tmp_path: Path) -> None:
    """The journal keeps it; it is booked once."""
    go_on = anyio.Event()
    async with rivalry(tmp_path, [Turn(text="Done.", hold=go_on)]) as (b, claude, server, rival):
        server.proxy.befall("event", "lost")
        running = await b.delegate(wait_seconds=0)
        await b.held(1)
        (row,) = await rival.listed()
        await rival.release(row)
        go_on.set()
        done = await b.status(running["delegation_id"], wait_seconds=15)
        with anyio.fail_after(15):
            await server.proxy.answered("event", 2)
        figures = server.figures()

    assert figures.events == [claude.billed_microcents] == [done["spent"]["amount"]]
    assert figures.spent == claude.billed_microcents
