"""The scripted Claude as an endpoint: which script answers, what it records, and how it begins and ends."""

import signal
import socket
from typing import Any

import anthropic
import anyio
import httpx2
import pytest
from anthropic.types import MessageParam

from budget_server.demo.scripted_claude import Answer, Script, ScriptedClaude, Turn
from server.scripted_claude.asking import HELLO, KEY, MODEL, REQUEST, create, sdk, send_raw_request

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("in_time")]


async def test_several_conversations_run_side_by_side_from_their_own_scripts() -> None:
    """A marker in the first user message chooses; the rest goes to the default."""
    conversations: dict[str, Script] = {
        "<red>": [Turn(text="red 1"), Turn(text="red 2")],
        "<blue>": lambda _, number: Turn(text=f"blue {number}"),
    }
    answers: dict[str, list[str]] = {}
    async with ScriptedClaude([Turn(text="other 1")], conversations=conversations) as endpoint, sdk(endpoint) as client:

        async def converse(marker: str, turn_count: int) -> None:
            messages: list[MessageParam] = [
                {"role": "user", "content": [{"type": "text", "text": f"Task {marker}, please"}]}
            ]
            for _ in range(turn_count):
                message: Any = await client.messages.create(model=MODEL, max_tokens=99, messages=messages)
                answers.setdefault(marker, []).append(message.content[0].text)
                # Only the first user message counts, whatever is said later.
                messages += [message.to_param(), {"role": "user", "content": "And now <red> and <blue>?"}]

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(converse, "<red>", 2)
            tasks.start_soon(converse, "<blue>", 3)
            tasks.start_soon(converse, "nobody's", 1)

    assert answers == {
        "<red>": ["red 1", "red 2"],
        "<blue>": ["blue 1", "blue 2", "blue 3"],
        "nobody's": ["other 1"],
    }


async def test_a_script_that_has_ended_fails_loudly() -> None:
    """A loop that runs too long is an error of the test, not one more answer."""
    with pytest.raises(anthropic.InternalServerError, match="script has ended: it has 0 answers and this is request 1"):
        await create([])


async def test_an_error_within_a_script_reaches_its_author() -> None:
    """Not as a traceback in a log."""

    def script(_request: dict[str, Any], number: int) -> Answer:
        raise LookupError(f"no idea {number}")

    with pytest.raises(anthropic.InternalServerError, match="LookupError at request 1: no idea 1"):
        await create(script)


async def test_requests_are_recorded_without_their_credentials() -> None:
    """What a test prints about a request can be shown to anyone."""
    async with ScriptedClaude([Turn(text="Hi")] * 2) as endpoint, sdk(endpoint) as client:
        message = await client.messages.create(**REQUEST)
        await client.messages.create(**REQUEST, extra_headers={"x-api-key": KEY})
        first, second = endpoint.requests

    assert KEY not in repr(endpoint.requests)
    assert first.headers["authorization"] == second.headers["x-api-key"] == "[redacted]"
    assert first.headers["anthropic-version"]
    assert first.body == REQUEST
    assert first.request_id == message._request_id


async def test_unknown_paths_and_models_are_not_found() -> None:
    """Which models exist is the test's choice."""
    async with ScriptedClaude([], models=frozenset({MODEL})) as endpoint, sdk(endpoint) as client:
        with pytest.raises(anthropic.NotFoundError, match="GET /v1/models"):
            await client.models.list()
        with pytest.raises(anthropic.NotFoundError, match="claude-haiku-5-5"):
            await client.messages.create(model="claude-haiku-5-5", max_tokens=99, messages=HELLO)


async def test_the_endpoint_ends_at_once_while_a_client_still_waits() -> None:
    """No task and no socket outlives it; a warning about either would fail this test."""
    errors: list[Exception] = []
    hanging = ScriptedClaude([Turn(text="Hi there", fault="hang_mid_stream")])
    async with anyio.create_task_group() as tasks, hanging as endpoint:
        client = sdk(endpoint)

        async def wait_for_ever() -> None:
            try:
                async with client, client.messages.stream(**REQUEST) as events:
                    await events.get_final_message()
            except httpx2.TransportError as exc:
                errors.append(exc)

        tasks.start_soon(wait_for_ever)
        (request,) = await endpoint.wait_for_requests(1)
        await request.held.wait()

    assert len(errors) == 1
    assert request.ended.is_set()
    assert not request.disconnected.is_set()


async def test_the_endpoint_cleans_up_when_it_is_cancelled() -> None:
    """A test that runs out of time must leave neither an exchange nor the port behind."""
    hanging = ScriptedClaude([Turn(fault="hang_before_headers")])
    with anyio.CancelScope() as scope:
        async with hanging:
            port = int(hanging.base_url.rpartition(":")[2])
            connection = await send_raw_request(port)
            (request,) = await hanging.wait_for_requests(1)
            await request.held.wait()
            scope.cancel()
            await anyio.sleep_forever()

    assert request.ended.is_set()
    await connection.aclose()
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) != 0


async def test_the_endpoint_leaves_the_processs_signals_alone() -> None:
    """They belong to the program that it runs in."""
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    async with ScriptedClaude([]):
        assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before
