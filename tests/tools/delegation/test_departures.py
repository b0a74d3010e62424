"""Nothing is charged if nothing can have left: errors and stops before the first byte of a request."""

import asyncio
import gc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import anyio
import pytest

from budget_server.demo.scripted_claude import Turn
from budget_tools.claude.client import Failure, Ticket
from budget_tools.claude.stream import Reply
from tools.delegation.harness import MODEL, OpenBench, background, happens

pytestmark = pytest.mark.anyio

REQUEST: dict[str, Any] = {"model": MODEL, "max_tokens": 16, "messages": [{"role": "user", "content": "Hello"}]}


@asynccontextmanager
async def a_silent_port() -> AsyncIterator[tuple[int, anyio.Event]]:
    """A port that hangs up once (on the count of tokens) and then never says a word; the event tells when."""
    knocked = anyio.Event()
    has_hung_up = False
    writers: list[asyncio.StreamWriter] = []

    async def keep(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal has_hung_up
        writers.append(writer)
        if has_hung_up:
            knocked.set()
            while await reader.read(1 << 16):
                pass
        has_hung_up = True
        writer.close()

    server = await asyncio.start_server(keep, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1], knocked
    finally:
        server.close()
        for writer in writers:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()


@pytest.mark.parametrize("value", ["two\nlines", "ends\r\n", "nul\0"])
async def test_a_header_that_cannot_be_sent_costs_nothing(bench: OpenBench, value: str) -> None:
    """The client finds out after the request was let through, and before a byte of it is written."""
    b = await bench([Turn(text="Never.")])
    ticket = Ticket(reservation_id="r-1")

    outcome = await b.services.claude.send(ticket, {**REQUEST, "extra_headers": {"x-odd": value}})

    assert isinstance(outcome, Failure)
    assert (outcome.is_surely_unbilled, outcome.is_retryable, b.sent) == (True, False, 0)


async def test_a_host_name_that_cannot_be_looked_up_costs_nothing(bench: OpenBench) -> None:
    """A label of 64 letters is refused by the resolver itself: nothing is sent, not even a question."""
    b = await bench([], anthropic_base_url=f"http://{'a' * 64}.invalid")

    result = await b.delegate()

    assert (result["status"], result["spent"]["amount"]) == ("failed", 0)
    assert [row["status"] for row in await b.reservations()] == ["RELEASED"]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
async def test_a_stop_while_the_connection_is_made_costs_nothing(bench: OpenBench) -> None:
    """The request waits for the handshake, and so nothing of it can have been answered."""
    async with a_silent_port() as (port, knocked):
        b = await bench([], anthropic_base_url=f"https://127.0.0.1:{port}")

        async with background(b.delegate) as results:
            await happens(knocked)
            (delegation,) = await b.kept()
            await b.services.delegations.cancel("local", delegation.delegation_id)

    (result,) = results
    gc.collect()  # the HTTP client leaves the socket of a handshake that is cancelled to it, with a warning
    assert (result["status"], result["spent"]["amount"]) == ("cancelled", 0)
    assert [row["status"] for row in await b.reservations()] == ["RELEASED"]


async def test_a_request_that_left_is_known_to_have_left(bench: OpenBench) -> None:
    """What the transport tells is heard with the packages that are installed; else silence would prove nothing."""
    b = await bench([Turn(text="Once.")])
    ticket = Ticket(reservation_id="r-1")

    assert isinstance(await b.services.claude.send(ticket, REQUEST), Reply)
    assert (ticket.departure, ticket.may_have_left) == ("left", True)
    assert not Ticket(reservation_id="r-2", is_used=True, departure="connecting").may_have_left
    assert Ticket(reservation_id="r-3", is_used=True).may_have_left
