"""What goes wrong with an answer of the scripted Claude when its script says so."""

import json
from typing import Any

import anthropic
import anyio
import httpx2
import pytest

from budget_server.demo.scripted_claude import Fault, ScriptedClaude, Turn, Usage
from server.scripted_claude.asking import REQUEST, both_ways, create, sdk, send_raw_request

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("in_time")]


async def snapshot_and_error(fault: Fault) -> tuple[Any, BaseException | None]:
    """Read a faulty stream to its end: what was there by then, and what was raised."""
    turn = Turn(text="One half. Other half.", fault=fault, usage=Usage(input_tokens=1000, output_tokens=500))
    message: Any = None
    async with ScriptedClaude([turn]) as endpoint, sdk(endpoint) as client:
        try:
            async with client.messages.stream(**REQUEST) as events:
                async for _ in events:
                    message = events.current_message_snapshot
                message = await events.get_final_message()
        except Exception as exc:
            return message, exc
    return message, None


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        ("drop_mid_stream", httpx2.RemoteProtocolError),
        ("error_event", anthropic.APIStatusError),
        ("bad_json_event", json.JSONDecodeError),
        ("no_message_delta", None),
    ],
)
async def test_a_stream_that_breaks_in_the_middle_leaves_only_a_placeholder_of_its_output(
    fault: Fault, error: type[Exception] | None
) -> None:
    """What the SDK shows then is not what was used: there is no stop reason, and one token of output."""
    message, raised = await snapshot_and_error(fault)

    assert type(raised) is (type(None) if error is None else error)
    assert (message.stop_reason, message.usage.input_tokens, message.usage.output_tokens) == (None, 1000, 1)
    assert message.content[0].text.startswith("One")
    assert (message.content[0].text == "One half. Other half.") == (fault == "no_message_delta")


async def test_an_error_event_is_a_status_error_with_status_200() -> None:
    """The SDK makes no `OverloadedError` of it: a client must look at the type."""
    _, raised = await snapshot_and_error("error_event")

    assert isinstance(raised, anthropic.APIStatusError)
    assert (raised.status_code, raised.type) == (200, "overloaded_error")


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        ("close_before_headers", anthropic.APIConnectionError),
        ("reset_before_headers", anthropic.APIConnectionError),
        ("error_event_first", anthropic.APIStatusError),
        ("empty_stream", AssertionError),
    ],
)
async def test_a_stream_that_breaks_before_its_first_event_shows_no_usage(fault: Fault, error: type[Exception]) -> None:
    """Nothing at all is known of such an answer."""
    message, raised = await snapshot_and_error(fault)

    assert message is None
    assert type(raised) is error


async def test_a_reset_in_the_middle_is_an_error_of_the_transport() -> None:
    """How much of the first half was read before the reset is the system's choice."""
    _, raised = await snapshot_and_error("reset_mid_stream")

    assert isinstance(raised, httpx2.NetworkError | httpx2.RemoteProtocolError | anthropic.APIConnectionError)


async def test_a_stream_without_its_last_event_is_complete_all_the_same() -> None:
    """Stop reason and usage come before message_stop."""
    message, raised = await snapshot_and_error("no_message_stop")

    assert raised is None
    assert (message.stop_reason, message.usage.output_tokens) == ("end_turn", 500)


async def test_an_answer_without_usage_is_not_an_error_in_the_sdk() -> None:
    """The SDK reads leniently: the usage of a JSON answer is ``None``, and a stream stumbles over it."""
    message = await create([Turn(text="Hi", fault="no_usage")])
    _, raised = await snapshot_and_error("no_usage")

    assert message.usage is None
    assert isinstance(raised, AttributeError)


@pytest.mark.parametrize(
    ("fault", "error", "cause"),
    [
        ("close_before_headers", anyio.EndOfStream, type(None)),
        ("reset_before_headers", anyio.BrokenResourceError, ConnectionResetError),
    ],
)
async def test_a_close_is_orderly_and_a_reset_is_not(
    fault: Fault, error: type[Exception], cause: type[Exception]
) -> None:
    """FIN and RST: a client's library may report them differently."""
    async with ScriptedClaude([Turn(fault=fault)]) as endpoint:
        connection = await send_raw_request(int(endpoint.base_url.rpartition(":")[2]))
        with pytest.raises(error) as caught:
            await connection.receive()
        await connection.aclose()

    assert type(caught.value.__cause__) is cause


@pytest.mark.parametrize("fault", ["drop_mid_stream", "reset_before_headers", "close_before_headers"])
async def test_a_json_answer_can_be_lost_on_the_way_too(fault: Fault) -> None:
    """It was processed, and the client cannot know."""
    with pytest.raises(anthropic.APIConnectionError):
        await create([Turn(text="Hi", fault=fault)])


async def test_a_fault_of_events_is_refused_for_a_json_answer() -> None:
    """A script that makes no sense fails loudly."""
    with pytest.raises(anthropic.InternalServerError, match="no_message_delta needs a stream"):
        await create([Turn(fault="no_message_delta")])


@both_ways
@pytest.mark.parametrize("fault", ["hang_before_headers", "hang_mid_stream"])
async def test_a_hang_lasts_until_the_client_gives_up(ask: Any, fault: Fault) -> None:
    """The SDK's read timeout ends it, as an error of the SDK before the headers and of the transport after them."""
    with pytest.raises((anthropic.APITimeoutError, httpx2.ReadTimeout)):
        await ask([Turn(text="Hi there", fault=fault)], timeout=0.05)


async def test_a_client_that_hangs_up_is_seen() -> None:
    """Cancelling a stream closes its socket; the endpoint tells when it has noticed."""
    async with ScriptedClaude([Turn(text="Hi there", fault="hang_mid_stream")]) as endpoint, sdk(endpoint) as client:
        async with client.messages.stream(**REQUEST) as events:
            async for event in events:
                if event.type == "content_block_delta":
                    break
        (request,) = endpoint.requests
        await request.disconnected.wait()
        await request.ended.wait()
        assert request.held.is_set()
        assert not request.answered.is_set()


async def test_an_answered_request_is_not_taken_for_a_disconnected_one() -> None:
    """Nor is one whose connection the endpoint itself has cut."""
    async with ScriptedClaude([Turn(text="Hi"), Turn(text="Hi", fault="drop_mid_stream")]) as endpoint:
        async with sdk(endpoint) as client:
            await client.messages.create(**REQUEST)
            with pytest.raises(anthropic.APIConnectionError):
                await client.messages.create(**REQUEST)
        answered, dropped = await endpoint.wait_for_requests(2)
        await answered.ended.wait()
        await dropped.ended.wait()

    assert (answered.answered.is_set(), answered.disconnected.is_set()) == (True, False)
    assert (dropped.answered.is_set(), dropped.disconnected.is_set()) == (False, False)


@pytest.mark.parametrize("hold_at", ["headers", "middle"])
@both_ways
async def test_a_held_turn_goes_on_when_the_test_says_so(ask: Any, hold_at: Any) -> None:
    """Tests wait for events, not for time."""
    hold = anyio.Event()
    answers: list[Any] = []
    async with ScriptedClaude([Turn(text="Hi", hold=hold, hold_at=hold_at)]) as endpoint, sdk(endpoint) as client:

        async def ask_it() -> None:
            if ask is create:
                answers.append(await client.messages.create(**REQUEST))
            else:
                async with client.messages.stream(**REQUEST) as events:
                    answers.append(await events.get_final_message())

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ask_it)
            (request,) = await endpoint.wait_for_requests(1)
            await request.held.wait()
            assert not answers
            hold.set()

    assert answers[0].content[0].text == "Hi"
