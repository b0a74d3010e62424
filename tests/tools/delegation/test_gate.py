"""The gate: no request that costs money leaves without a live reservation, whoever builds it."""

from typing import Any

import pytest

from budget_server.demo.scripted_claude import COUNT_TOKENS_PATH, Turn
from budget_tools.claude.client import Failure, Ticket
from budget_tools.claude.stream import Reply
from budget_tools.core.errors import UngatedRequestError
from tools.delegation.harness import MODEL, OpenBench

pytestmark = pytest.mark.anyio

REQUEST: dict[str, Any] = {"model": MODEL, "max_tokens": 16, "messages": [{"role": "user", "content": "Hello"}]}


async def test_a_request_without_a_reservation_does_not_leave(bench: OpenBench) -> None:
    """Design, 2: a middleware refuses any Messages request that carries no live reservation."""
    b = await bench([Turn(text="Never.")])
    client = b.services.claude._client

    with pytest.raises(UngatedRequestError):
        await client.messages.create(**REQUEST)
    with pytest.raises(UngatedRequestError):
        async with client.messages.stream(**REQUEST):
            pass
    with pytest.raises(UngatedRequestError):
        await client.beta.messages.create(**REQUEST)
    with pytest.raises(UngatedRequestError):
        await client.messages.batches.create(requests=[{"custom_id": "1", "params": REQUEST}])  # type: ignore[typeddict-item]
    with pytest.raises(UngatedRequestError):
        await client.messages.create(**REQUEST, extra_query={"path": COUNT_TOKENS_PATH})

    assert b.claude.requests == []


async def test_a_ticket_is_leave_for_one_request(bench: OpenBench) -> None:
    """Design, when things go wrong: one reservation, one attempt; a second one would be unbounded."""
    b = await bench([Turn(text="Once."), Turn(text="Never.")])
    ticket = Ticket(reservation_id="r-1")

    first = await b.services.claude.send(ticket, REQUEST)
    with pytest.raises(UngatedRequestError):
        await b.services.claude.send(ticket, REQUEST)

    assert isinstance(first, Reply)
    assert (b.sent, ticket.is_used) == (1, True)
    assert ticket.request_id == b.claude.message_requests[0].request_id


async def test_a_ticket_that_was_not_used_does_not_linger(bench: OpenBench) -> None:
    """A ticket must not stay in the context of whoever sends next: its reservation is released by then."""
    b = await bench([Turn(text="Never.")])
    ticket = Ticket(reservation_id="r-1")
    await b.services.claude.send(ticket, {"no such": "parameter"})

    with pytest.raises(UngatedRequestError):
        await b.services.claude._client.messages.create(**REQUEST)

    assert (b.sent, ticket.is_used) == (0, False)


async def test_counting_tokens_needs_no_reservation(bench: OpenBench) -> None:
    """Anthropic, token counting: free of charge."""
    b = await bench([])

    assert await b.services.claude.count_input_tokens(REQUEST)
    assert [request.path for request in b.claude.requests] == [COUNT_TOKENS_PATH]


async def test_a_request_that_cannot_be_built_is_surely_unbilled(bench: OpenBench) -> None:
    """Design: not sent is not billed, whatever the client library raised."""
    b = await bench([])
    ticket = Ticket(reservation_id="r-1")

    outcome = await b.services.claude.send(ticket, {"no such": "parameter"})

    assert isinstance(outcome, Failure)
    assert (outcome.is_surely_unbilled, outcome.is_retryable, ticket.is_used) == (True, False, False)
