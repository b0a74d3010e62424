"""The scripted Claude, met by the real Anthropic SDK over a real socket."""

import json
import re
import signal
import socket
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any, cast

import anthropic
import anyio
import httpx2
import pytest
from anthropic import AsyncAnthropic
from anthropic.types import MessageParam, ToolParam
from anyio.abc import SocketStream

from budget_server.demo.scripted_claude import (
    COUNT_TOKENS_PATH,
    OUTPUT_BYTES_PER_TOKEN,
    Answer,
    Failure,
    Fault,
    Script,
    ScriptedClaude,
    ToolCall,
    Turn,
    Usage,
    count_input_tokens,
)

pytestmark = pytest.mark.anyio

MODEL = "claude-sonnet-5-5"
KEY = "sk-ant-a-secret-of-the-tests"
HELLO: list[MessageParam] = [{"role": "user", "content": "Hello"}]
WEATHER: ToolParam = {
    "name": "weather",
    "description": "Tells the weather of a place.",
    "input_schema": {"type": "object", "properties": {"place": {"type": "string"}}},
}


@pytest.fixture(autouse=True)
async def in_time() -> AsyncIterator[None]:
    """Fail instead of waiting for ever: several of these tests are about silence."""
    with anyio.fail_after(5):
        yield


def sdk(endpoint: ScriptedClaude, **options: Any) -> AsyncAnthropic:
    """Make a client of the endpoint that tries once."""
    return AsyncAnthropic(**{"api_key": KEY, "base_url": endpoint.base_url, "max_retries": 0, **options})


# Answers are `Any`: a test knows from its script which kind of block comes where.
async def create(script: Script, **request: Any) -> Any:
    """Ask once, for a JSON answer."""
    async with ScriptedClaude(script) as endpoint, sdk(endpoint) as client:
        return await client.messages.create(**{**_REQUEST, **request})


async def stream(script: Script, **request: Any) -> Any:
    """Ask once, for a stream."""
    async with (
        ScriptedClaude(script) as endpoint,
        sdk(endpoint) as client,
        client.messages.stream(**{**_REQUEST, **request}) as events,
    ):
        return await events.get_final_message()


_REQUEST: dict[str, Any] = {"model": MODEL, "max_tokens": 1024, "messages": HELLO}
both_ways = pytest.mark.parametrize("ask", [create, stream])


@both_ways
async def test_text_arrives_whole(ask: Any) -> None:
    """Streamed or not, the SDK builds the same message."""
    text = 'Grüße aus dem Skript: 🚲, "quotes",\nnew lines and \u2028 separators.'

    message = await ask([Turn(text=text)])

    assert [block.text for block in message.content] == [text]
    assert (message.stop_reason, message.model, message.role) == ("end_turn", MODEL, "assistant")
    assert message.id.startswith("msg_scripted_")


async def test_a_stream_has_every_kind_of_event_in_the_order_of_the_api() -> None:
    """The events, raw, before any SDK helper smooths them."""
    script = [Turn(thinking="Let me think.", text="Hi", tool_calls=(ToolCall("weather", {"place": "Ulm"}),))]
    async with (
        ScriptedClaude(script) as endpoint,
        sdk(endpoint) as client,
        client.messages.with_streaming_response.create(**_REQUEST, stream=True) as response,
    ):
        lines = [line async for line in response.iter_lines()]
        assert response.headers["request-id"] == endpoint.requests[0].request_id
        assert response.headers["content-type"].startswith("text/event-stream")

    names = [line.removeprefix("event: ") for line in lines if line.startswith("event: ")]
    types = [json.loads(line.removeprefix("data: "))["type"] for line in lines if line.startswith("data: ")]
    assert names == types
    collapsed = [name for index, name in enumerate(names) if index == 0 or names[index - 1] != name]
    block = ["content_block_start", "content_block_delta", "content_block_stop"]
    assert collapsed == ["message_start", "ping", *block, *block, *block, "message_delta", "message_stop"]


@both_ways
async def test_a_tool_call_makes_the_round_trip_with_its_input_intact(ask: Any) -> None:
    """The input is streamed in pieces of JSON and comes back in the history as it was scripted."""
    call = ToolCall("weather", {"place": "Köln", "days": [1, 2.5], "deep": {"quote": '"', "nothing": None}})

    message = await ask([Turn(text="Let me look.", tool_calls=(call, ToolCall("weather")))], tools=[WEATHER])

    first, second = message.content[1:]
    assert message.stop_reason == "tool_use"
    assert (first.name, first.input) == ("weather", call.input)
    assert second.input == {}
    assert first.id != second.id


async def test_a_conversation_with_thinking_and_tools_goes_on_when_echoed() -> None:
    """``to_param`` of a streamed message is accepted as history, thinking and signature included."""
    seen: list[dict[str, Any]] = []

    def script(request: dict[str, Any], number: int) -> Answer:
        seen.append(request)
        calls = (ToolCall("weather", {"place": "Ulm"}),) if number == 1 else ()
        return Turn(thinking=f"Thought {number}", text="Done." if number == 2 else "", tool_calls=calls)

    messages = [*HELLO]
    async with ScriptedClaude(script) as endpoint, sdk(endpoint) as client:
        async with client.messages.stream(model=MODEL, max_tokens=99, messages=messages, tools=[WEATHER]) as events:
            first: Any = await events.get_final_message()
        messages += [first.to_param(), tool_result(first.content[1].id)]
        final: Any = await client.messages.create(model=MODEL, max_tokens=99, messages=messages, tools=[WEATHER])

    assert [block.type for block in first.content] == ["thinking", "tool_use"]
    assert final.content[1].text == "Done."
    echoed = seen[1]["messages"][1]["content"][0]
    assert (echoed["thinking"], echoed["signature"]) == (first.content[0].thinking, first.content[0].signature)


def tool_result(call_id: str) -> MessageParam:
    """Answer a tool call."""
    return {"role": "user", "content": [{"type": "tool_result", "tool_use_id": call_id, "content": "Sunny"}]}


@both_ways
async def test_stated_usage_arrives_exactly(ask: Any) -> None:
    """Every field that money depends on, whichever event of a stream carries it."""
    usage = Usage(
        input_tokens=11,
        output_tokens=222,
        cache_creation_5m_input_tokens=3_000,
        cache_creation_1h_input_tokens=40_000,
        cache_read_input_tokens=500_000,
        thinking_tokens=66,
        web_search_requests=7,
        web_fetch_requests=8,
        service_tier="priority",
        inference_geo="us",
        speed="fast",
    )

    message = await ask([Turn(text="Hi", usage=usage)])

    arrived = message.usage
    assert (arrived.input_tokens, arrived.output_tokens) == (11, 222)
    assert (arrived.cache_creation_input_tokens, arrived.cache_read_input_tokens) == (43_000, 500_000)
    assert arrived.cache_creation.ephemeral_5m_input_tokens == 3_000
    assert arrived.cache_creation.ephemeral_1h_input_tokens == 40_000
    assert arrived.output_tokens_details.thinking_tokens == 66
    assert (arrived.server_tool_use.web_search_requests, arrived.server_tool_use.web_fetch_requests) == (7, 8)
    assert (arrived.service_tier, arrived.inference_geo, arrived.speed) == ("priority", "us", "fast")


@both_ways
@pytest.mark.parametrize("text", ["", "x", "word " * 400, "🚲" * 300])
async def test_usage_left_out_is_worked_out_and_stays_within_a_safe_bound(ask: Any, text: str) -> None:
    """Input stays below the request's UTF-8 bytes plus 600, output at or below max_tokens."""
    request = {"messages": [{"role": "user", "content": text or "-"}], "system": text, "tools": [WEATHER]}

    message = await ask([Turn(text=text)], **request, max_tokens=20_000)

    assert message.usage.input_tokens == count_input_tokens(request)
    assert 0 < message.usage.input_tokens < len(json.dumps(request, ensure_ascii=False).encode()) + 600
    assert message.usage.output_tokens == max(1, -(-len(text.encode()) // OUTPUT_BYTES_PER_TOKEN))
    assert message.usage.inference_geo == "global"


async def test_cached_tokens_are_part_of_the_counted_input() -> None:
    """Input, cache writes and cache reads add up to the prompt, as in the API."""
    messages: list[MessageParam] = [{"role": "user", "content": "long " * 400}]
    usage = Usage(cache_read_input_tokens=500)

    message = await create([Turn(text="Hi", usage=usage)], messages=messages)

    assert message.usage.input_tokens + 500 == count_input_tokens({"messages": messages})


async def test_count_tokens_agrees_with_the_usage_of_the_answer() -> None:
    """A bound made from the count holds for the turn."""
    async with ScriptedClaude([Turn(text="Hi")]) as endpoint, sdk(endpoint) as client:
        counted = await client.messages.count_tokens(model=MODEL, messages=HELLO, tools=[WEATHER])
        message = await client.messages.create(**_REQUEST, tools=[WEATHER])
        assert [request.path for request in endpoint.requests] == [COUNT_TOKENS_PATH, "/v1/messages"]
        assert len(endpoint.message_requests) == 1

    assert counted.input_tokens == message.usage.input_tokens


@both_ways
async def test_text_beyond_max_tokens_is_cut_and_says_so(ask: Any) -> None:
    """``max_tokens`` is a hard cap on the output, so a bound made from it is never exceeded."""
    message = await ask([Turn(text="🚲" * 100)], max_tokens=10)

    assert message.content[0].text == "🚲" * 10
    assert message.usage.output_tokens == 10
    assert message.stop_reason == "max_tokens"


@both_ways
async def test_a_tool_call_beyond_max_tokens_is_cut_and_must_not_be_run(ask: Any) -> None:
    """The API cuts within the input's JSON; the stop reason tells."""
    call = ToolCall("weather", {"place": "x" * 100})

    message = await ask([Turn(text="1234", tool_calls=(call, ToolCall("weather")))], max_tokens=5, tools=[WEATHER])

    assert message.stop_reason == "max_tokens"
    assert message.usage.output_tokens == 5
    assert [block.type for block in message.content] == ["text", "tool_use"]
    assert message.content[1].input != call.input


@both_ways
async def test_stated_output_beyond_max_tokens_is_cut_to_it(ask: Any) -> None:
    """Not even an exact usage can break the API's promise."""
    message = await ask([Turn(text="Hi", usage=Usage(output_tokens=5_000, thinking_tokens=4_000))], max_tokens=16)

    assert (message.usage.output_tokens, message.stop_reason) == (16, "max_tokens")
    assert message.usage.output_tokens_details.thinking_tokens == 16


@both_ways
async def test_a_refusal_without_content_arrives_as_such(ask: Any) -> None:
    """A refusal before any output is an answer with a stop reason, not an error."""
    message = await ask([Turn(stop_reason="refusal", usage=Usage(input_tokens=0, output_tokens=0))])

    assert (message.stop_reason, message.content, message.usage.output_tokens) == ("refusal", [], 0)
    assert message.stop_details.type == "refusal"


@pytest.mark.parametrize(
    ("failure", "error", "error_type"),
    [
        (Failure(status=400), anthropic.BadRequestError, "invalid_request_error"),
        (Failure(status=429, retry_after_seconds=7), anthropic.RateLimitError, "rate_limit_error"),
        (Failure(status=500), anthropic.InternalServerError, "api_error"),
        (Failure(status=529), anthropic.OverloadedError, "overloaded_error"),
    ],
)
@both_ways
async def test_a_failure_arrives_as_the_sdks_own_error(
    ask: Any, failure: Failure, error: type[anthropic.APIStatusError], error_type: str
) -> None:
    """The envelope, the request id and ``retry-after`` are where the SDK looks for them."""
    with pytest.raises(error) as caught:
        await ask([failure])

    assert caught.value.type == error_type
    assert caught.value.request_id
    assert caught.value.request_id.startswith("req_scripted_")
    assert cast("Any", caught.value.body)["request_id"] == caught.value.request_id
    assert caught.value.response.headers.get("retry-after") == ("7" if failure.status == 429 else None)


async def test_a_failure_can_carry_a_code_headers_and_a_type_of_its_own() -> None:
    """What the SDK shows as ``error_code`` sits in the envelope's details."""
    failure = Failure(
        status=429, error_type="billing_error", error_code="ramp_limit_exceeded", headers={"x-should-retry": "false"}
    )

    with pytest.raises(anthropic.RateLimitError) as caught:
        await create([failure])

    assert (caught.value.type, caught.value.error_code) == ("billing_error", "ramp_limit_exceeded")
    assert caught.value.response.headers["x-should-retry"] == "false"


async def test_a_gateways_page_is_no_envelope() -> None:
    """A 502 from in front of the API says nothing about what was billed behind it."""
    with pytest.raises(anthropic.InternalServerError) as caught:
        await create([Failure(status=502, html=True)])

    assert caught.value.type is None
    assert "gateway" in str(caught.value.body)


async def test_the_sdks_retries_take_the_next_answers_of_the_script() -> None:
    """A failure uses up its place in the script, so the attempts can be counted."""
    script: Script = [Failure(status=529, headers={"retry-after-ms": "1"}), Turn(text="Back again")]
    async with ScriptedClaude(script) as endpoint, sdk(endpoint, max_retries=1) as client:
        message: Any = await client.messages.create(**_REQUEST)
        assert len(endpoint.message_requests) == 2

    assert message.content[0].text == "Back again"


async def snapshot_and_error(fault: Fault) -> tuple[Any, BaseException | None]:
    """Read a faulty stream to its end: what was there by then, and what was raised."""
    turn = Turn(text="One half. Other half.", fault=fault, usage=Usage(input_tokens=1000, output_tokens=500))
    message: Any = None
    async with ScriptedClaude([turn]) as endpoint, sdk(endpoint) as client:
        try:
            async with client.messages.stream(**_REQUEST) as events:
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


async def send_raw_request(port: int) -> SocketStream:
    """Send a request over a bare socket, on which the ways to end a connection can be told apart."""
    connection = await anyio.connect_tcp("127.0.0.1", port)
    body = json.dumps(_REQUEST)
    headers = [f"x-api-key: {KEY}", "anthropic-version: 2026-10-21", f"content-length: {len(body)}", "host: loopback"]
    await connection.send("\r\n".join(["POST /v1/messages HTTP/1.1", *headers, "", body]).encode())
    return connection


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
        async with client.messages.stream(**_REQUEST) as events:
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
            await client.messages.create(**_REQUEST)
            with pytest.raises(anthropic.APIConnectionError):
                await client.messages.create(**_REQUEST)
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
                answers.append(await client.messages.create(**_REQUEST))
            else:
                async with client.messages.stream(**_REQUEST) as events:
                    answers.append(await events.get_final_message())

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ask_it)
            (request,) = await endpoint.wait_for_requests(1)
            await request.held.wait()
            assert not answers
            hold.set()

    assert answers[0].content[0].text == "Hi"


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
        message = await client.messages.create(**_REQUEST)
        await client.messages.create(**_REQUEST, extra_headers={"x-api-key": KEY})
        first, second = endpoint.requests

    assert KEY not in repr(endpoint.requests)
    assert first.headers["authorization"] == second.headers["x-api-key"] == "[redacted]"
    assert first.headers["anthropic-version"]
    assert first.body == _REQUEST
    assert first.request_id == message._request_id


USER, ASSISTANT = "user", "assistant"
CALL = {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {}}
RESULT = {"type": "tool_result", "tool_use_id": "toolu_1", "content": "Sunny"}
TEXT = {"type": "text", "text": "Hi"}


CLOSED: dict[str, Any] = {"type": "object", "additionalProperties": False}
EPHEMERAL = {"type": "ephemeral"}
MARKED = {**TEXT, "cache_control": EPHEMERAL}
MARKED_1H = {**TEXT, "cache_control": {"type": "ephemeral", "ttl": "1h"}}


def choosing(choice: object) -> dict[str, Any]:
    """Make a change that chooses tools."""
    return {"tools": [WEATHER], "tool_choice": choice}


def formatted(form: object) -> dict[str, Any]:
    """Make a change that asks for a format."""
    return {"output_config": {"format": form}}


def asking_for(schema: dict[str, Any]) -> dict[str, Any]:
    """Make a change that asks for JSON of a schema."""
    return formatted({"type": "json_schema", "schema": schema})


def conversation(*contents: object) -> dict[str, Any]:
    """Make a body whose messages alternate between user and assistant."""
    messages = [{"role": (USER, ASSISTANT)[index % 2], "content": content} for index, content in enumerate(contents)]
    return {"messages": messages, "tools": [WEATHER]}


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"temperature": 0.5}, "temperature"),
        ({"top_p": 0.5}, "top_p"),
        ({"top_k": 5}, "top_k"),
        ({"model": None}, "model"),
        ({"max_tokens": None}, "max_tokens"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": True}, "max_tokens"),
        ({"messages": []}, "at least one message"),
        ({"messages": "Hello"}, "at least one message"),
        ({"messages": [{"role": "assistant", "content": "Hi"}]}, "first message"),
        ({"messages": [{"role": "system", "content": "Hi"}]}, "first message"),
        ({"messages": [{"role": "tool", "content": "Hi"}]}, "user, assistant or system"),
        ({"messages": [{"role": "user", "content": 5}]}, "content"),
        ({"messages": [{"role": "user", "content": ["Hi"]}]}, "content"),
        (conversation(""), "must not be empty"),
        (conversation([]), "must not be empty"),
        (conversation([{"type": "text", "text": ""}]), "text blocks must not be empty"),
        (conversation("Hi", [CALL], "Never mind"), "tool_use without its tool_result here: toolu_1"),
        (conversation("Hi", [CALL]), "tool_use without its tool_result here: toolu_1"),
        (conversation([RESULT]), "tool_result without a tool_use just before: toolu_1"),
        (conversation("Hi", "Hi", [RESULT]), "tool_result without a tool_use just before: toolu_1"),
        (conversation("Hi", [CALL], [TEXT, RESULT]), "must come first"),
        (conversation("Hi", [CALL], [RESULT], [CALL], [RESULT]), "unique"),
        ({**conversation("Hi", [CALL], [RESULT]), "tools": []}, "must define its tools"),
        (conversation("Hi", [{"type": "thinking", "thinking": "So", "signature": "forged"}], "Hi"), "signature"),
        ({"system": 5}, "system: must be text or a list"),
        ({"system": ["Hi"]}, "system: must be text or a list"),
        ({"tools": "weather"}, "tools: must be a list"),
        ({"tool_choice": {"type": "auto"}}, "only be specified while providing tools"),
        ({"tool_choice": {"type": "none"}, "tools": []}, "only be specified while providing tools"),
        (choosing("auto"), "tool_choice.type"),
        (choosing({"type": "never"}), "tool_choice.type"),
        (choosing({"type": "tool"}), "there is no tool None"),
        (choosing({"type": "tool", "name": "time"}), "there is no tool time"),
        (choosing({"type": "any", "name": "weather"}), "tool_choice.name: extra inputs"),
        (choosing({"type": "none", "disable_parallel_tool_use": True}), "extra inputs"),
        (choosing({"type": "auto", "disable_parallel_tool_use": 1}), "must be true or false"),
        ({"cache_control": "5m"}, "request.cache_control.type: must be ephemeral"),
        ({"cache_control": {"type": "persistent"}}, "request.cache_control.type: must be ephemeral"),
        ({"cache_control": {"type": "ephemeral", "ttl": "1d"}}, "request.cache_control.ttl: must be 5m or 1h"),
        ({"cache_control": {"type": "ephemeral", "scope": "x"}}, "cache_control.scope: extra inputs"),
        ({"tools": [{**WEATHER, "cache_control": {}}]}, "tools.0.cache_control.type"),
        ({"system": [TEXT, {**TEXT, "cache_control": {}}]}, "system.1.cache_control.type"),
        (conversation([{**TEXT, "cache_control": {}}]), "messages.0.content.0.cache_control.type"),
        (
            conversation("Hi", [CALL], [{**RESULT, "content": [{**TEXT, "cache_control": {}}]}]),
            "messages.2.content.0.content.0.cache_control.type",
        ),
        (
            {**conversation([MARKED, MARKED, MARKED, MARKED]), "cache_control": EPHEMERAL},
            "A maximum of 4 blocks with cache_control may be provided. Found 5.",
        ),
        ({**conversation([MARKED_1H]), "system": [MARKED]}, "1h must not come after a ttl of 5m"),
        ({"output_config": "json"}, "output_config: must be an object"),
        (formatted("json"), "format.type: must be json_schema"),
        (formatted({"type": "json"}), "format.type: must be json_schema"),
        (formatted({"type": "json_schema"}), "schema is needed"),
        (asking_for({"type": "array"}), "must be the schema of an object"),
        (asking_for({"type": "object"}), "schema: for 'object' type, 'additionalProperties' must be explicitly"),
        (asking_for({**CLOSED, "additionalProperties": {}}), "'additionalProperties' must be explicitly"),
        (asking_for({**CLOSED, "properties": {"a": {"type": "object"}}}), "schema.properties.a: for 'object' type"),
        (asking_for({**CLOSED, "$defs": {"a": {"type": "object"}}}), "schema.$defs.a: for 'object' type"),
        (
            asking_for({**CLOSED, "properties": {"a": {"type": "array", "items": {"type": "object"}}}}),
            "properties.a.items: for 'object' type",
        ),
        (asking_for({**CLOSED, "properties": {"a": {"anyOf": [{"type": "object"}]}}}), "a.anyOf.0: for 'object' type"),
        (asking_for({**CLOSED, "properties": {"a": {"minimum": 1}}}), "properties.a: 'minimum' is not supported"),
        (asking_for({**CLOSED, "properties": {"a": {"$ref": "https://x.example"}}}), "out of the schema"),
    ],
)
async def test_what_the_api_would_refuse_is_refused_and_uses_up_no_answer(
    change: dict[str, Any], complaint: str
) -> None:
    """A loop that builds a wrong history must fail here, not first at the customer's."""
    body = {name: value for name, value in {**_REQUEST, **change}.items() if value is not None}
    async with ScriptedClaude([Turn(text="Still here")]) as endpoint, sdk(endpoint) as client:
        with pytest.raises(anthropic.BadRequestError, match=re.escape(complaint)) as caught:
            await client.post("/v1/messages", cast_to=object, body=body)
        assert caught.value.type == "invalid_request_error"
        message: Any = await client.messages.create(**_REQUEST)

    assert message.content[0].text == "Still here"


@pytest.mark.parametrize(
    "change",
    [
        *(choosing({"type": name}) for name in ("auto", "none", "any")),
        choosing({"type": "tool", "name": "weather", "disable_parallel_tool_use": True}),
        {"cache_control": {"type": "ephemeral", "ttl": "1h"}},
        {**conversation([MARKED, MARKED]), "system": [MARKED_1H], "cache_control": EPHEMERAL},
        {"tools": [{**WEATHER, "input_schema": {"type": "object", "properties": {"cache_control": {}}}}]},
        {"output_config": {"effort": "low"}},
        asking_for({**CLOSED, "properties": {"minimum": {"type": ["string", "null"]}, "type": {"enum": ["object"]}}}),
    ],
)
async def test_what_the_api_takes_is_taken(change: dict[str, Any]) -> None:
    """A check that refuses too much would keep a program from what the real API offers."""
    async with ScriptedClaude([Turn(text="Hi")]) as endpoint, sdk(endpoint) as client:
        await client.post("/v1/messages", cast_to=object, body={**_REQUEST, **change})

        assert endpoint.requests[0].body == {**_REQUEST, **change}


@both_ways
async def test_a_request_that_chooses_no_tools_is_answered_without_them(ask: Any) -> None:
    """The API calls none then, so a loop that lands its sub-agent can rely on text; a script may break that promise."""
    turn = Turn(text="Let me look.", tool_calls=(ToolCall("weather"),))
    no_tools = choosing({"type": "none"})

    obedient = await ask([turn], **no_tools)
    stated = await ask([replace(turn, stop_reason="tool_use")], **no_tools)
    hostile = await ask([replace(turn, ignores_tool_choice=True)], **no_tools)
    free = await ask([turn], **choosing({"type": "auto"}))

    assert ([block.type for block in obedient.content], obedient.stop_reason) == (["text"], "end_turn")
    assert stated.stop_reason == "end_turn"
    assert ([block.type for block in hostile.content], hostile.stop_reason) == (["text", "tool_use"], "tool_use")
    assert free.stop_reason == "tool_use"


# -- prompt caching --

LONG = "A long instruction that stays the same. " * 120
SHORT = "A short one."


async def cached_usages(*requests: dict[str, Any], usage: Usage | None = None, caches: bool = True) -> list[Any]:
    """Send requests one after another to one endpoint that caches, and give the usage of each."""
    turns = [Turn(text="Hi", usage=usage or Usage())] * len(requests)
    async with ScriptedClaude(turns, caches=caches) as endpoint, sdk(endpoint) as client:
        return [(await client.messages.create(**{**_REQUEST, **request})).usage for request in requests]


def tokens(usage: Any) -> tuple[int, int, int]:
    """Give what a request read, wrote and paid in full."""
    return usage.cache_read_input_tokens, usage.cache_creation_input_tokens, usage.input_tokens


def growing(*texts: str) -> list[dict[str, Any]]:
    """Make the requests of a conversation of which each says one text more than the one before."""
    return [
        {"messages": [{"role": USER, "content": [{"type": "text", "text": text}]} for text in texts[:count]]}
        for count in range(1, len(texts) + 1)
    ]


@pytest.mark.parametrize("caches", [False, True])
async def test_without_breakpoints_or_without_caching_nothing_is_cached(caches: bool) -> None:
    """Caching is the script's choice and the request's."""
    plain = await cached_usages({"system": LONG}, {"system": LONG}, caches=caches)
    marked = await cached_usages({"system": LONG, "cache_control": EPHEMERAL}, caches=False)

    assert all(tokens(usage)[:2] == (0, 0) for usage in [*plain, *marked])


async def test_a_growing_conversation_reads_what_it_wrote_before_and_writes_what_is_new() -> None:
    """With one breakpoint at the top level, which moves along (Messages API, automatic caching)."""
    requests = [{**each, "cache_control": EPHEMERAL} for each in growing(LONG, LONG * 2, SHORT)]

    first, second, third = await cached_usages(*requests)

    assert tokens(first)[0] == 0
    assert tokens(first)[1] > 1_024
    assert tokens(second)[0] == tokens(first)[1]
    assert tokens(second)[1] > 2 * 1_024
    assert tokens(third)[0] == tokens(second)[0] + tokens(second)[1]
    assert 0 < tokens(third)[1] < 100
    for request, usage in zip(requests, (first, second, third), strict=True):
        assert sum(tokens(usage)) == count_input_tokens(request)
        assert 0 <= tokens(usage)[2] < 100
        assert usage.cache_creation.ephemeral_5m_input_tokens == tokens(usage)[1]


async def test_a_prefix_is_kept_for_as_long_as_its_own_breakpoint_says() -> None:
    """What is written for an hour costs more than what is written for five minutes."""
    request = {
        "system": [{"type": "text", "text": LONG, "cache_control": {"type": "ephemeral", "ttl": "1h"}}],
        "messages": [{"role": USER, "content": [{"type": "text", "text": LONG * 2, "cache_control": EPHEMERAL}]}],
    }

    written, read = await cached_usages(request, request)

    assert written.cache_creation.ephemeral_1h_input_tokens > 1_024
    assert written.cache_creation.ephemeral_5m_input_tokens > 2 * 1_024
    assert tokens(read)[:2] == (tokens(written)[1], 0)


async def test_a_prefix_that_is_too_short_is_not_cached() -> None:
    """And nothing says so."""
    usages = await cached_usages(*[{"system": SHORT, "cache_control": EPHEMERAL}] * 2)

    assert all(tokens(usage)[:2] == (0, 0) for usage in usages)


@pytest.mark.parametrize(
    "change",
    [
        {"model": "claude-haiku-5-5"},
        {"tools": [{**WEATHER, "description": "Tells the weather."}]},
        {"system": [{"type": "text", "text": f"{LONG}!", "cache_control": EPHEMERAL}]},
        asking_for(CLOSED),
    ],
)
async def test_a_change_before_the_breakpoint_misses_the_cache(change: dict[str, Any]) -> None:
    """A prefix is the same to its last byte, or another one."""
    request = {"tools": [WEATHER], "system": [{"type": "text", "text": LONG, "cache_control": EPHEMERAL}]}

    _, changed, same = await cached_usages(request, {**request, **change}, request)

    assert tokens(changed)[0] == 0
    assert tokens(same)[0] > 0


async def test_another_choice_of_tools_misses_what_was_said_and_keeps_what_comes_before() -> None:
    """As documented for ``tool_choice``: a last turn without tools pays for its messages anew."""
    marked = {"type": "text", "text": LONG, "cache_control": EPHEMERAL}
    request = {"tools": [WEATHER], "system": [marked], "messages": [{"role": USER, "content": [marked]}]}

    first, landing = await cached_usages(request, {**request, "tool_choice": {"type": "none"}})

    assert 0 < tokens(landing)[0] < tokens(first)[1]
    assert tokens(landing)[0] + tokens(landing)[1] == tokens(first)[1]


@pytest.mark.parametrize(("new_blocks", "is_found"), [(19, True), (20, False)])
async def test_a_breakpoint_looks_twenty_blocks_back_and_no_further(new_blocks: int, is_found: bool) -> None:
    """Many tool results at once can outrun the cache."""
    opening = [{"type": "text", "text": LONG}]
    longer = opening + [{"type": "text", "text": f"Result {number}"} for number in range(new_blocks)]
    requests = [
        {"messages": [{"role": USER, "content": each}], "cache_control": EPHEMERAL} for each in (opening, longer)
    ]

    _, second = await cached_usages(*requests)

    assert (tokens(second)[0] > 0) == is_found


async def test_where_breakpoints_stand_is_no_part_of_the_prefix() -> None:
    """They move along with the conversation, on blocks and within the results of tools."""
    result = {"type": "text", "text": LONG}
    marked = conversation("Hi", [CALL], [{**RESULT, "content": [{**result, "cache_control": EPHEMERAL}]}])
    longer = conversation("Hi", [CALL], [{**RESULT, "content": [result]}], "Hi", [MARKED])

    first, second = await cached_usages(marked, longer)

    assert tokens(first)[1] > 1_024
    assert tokens(second)[0] == tokens(first)[1]
    bare = conversation("Hi", [CALL], [{**RESULT, "content": [result]}])
    assert count_input_tokens(marked) == count_input_tokens(bare)


async def test_usage_that_a_script_states_wins_over_the_simulation() -> None:
    """Of the input; an output alone leaves the input to be worked out."""
    request = {"system": LONG, "cache_control": EPHEMERAL}

    (stated,) = await cached_usages(request, usage=Usage(cache_read_input_tokens=7))
    (full,) = await cached_usages(request, usage=Usage(input_tokens=9))
    (output,) = await cached_usages(request, usage=Usage(output_tokens=500))

    assert tokens(stated)[:2] == (7, 0)
    assert tokens(full) == (0, 0, 9)
    assert tokens(output)[1] > 1_024
    assert output.output_tokens == 500


async def test_thinking_goes_back_to_its_own_model_only() -> None:
    """Changing the model within a conversation takes its thinking along, which the API refuses."""
    async with ScriptedClaude([Turn(thinking="So", text="Hi")] * 2) as endpoint, sdk(endpoint) as client:
        first = await client.messages.create(**_REQUEST)
        messages: list[MessageParam] = [*HELLO, first.to_param(), *HELLO]
        with pytest.raises(anthropic.BadRequestError, match="signature"):
            await client.messages.create(model="claude-haiku-5-5", max_tokens=99, messages=messages)
        await client.messages.create(model=MODEL, max_tokens=99, messages=messages)


@pytest.mark.parametrize("headers", [{}, {"x-api-key": ""}, {"authorization": "Bearer"}])
async def test_a_request_without_a_key_is_not_authenticated(headers: dict[str, str]) -> None:
    """The SDK sends no such request, so this one is sent without it."""
    async with ScriptedClaude([Turn(text="Hi")]) as endpoint, httpx2.AsyncClient(base_url=endpoint.base_url) as client:
        response = await client.post("/v1/messages", headers=headers, json=_REQUEST)

    assert response.status_code == 401
    assert response.json()["error"]["type"] == "authentication_error"
    assert response.json()["request_id"] == response.headers["request-id"]


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff"])
async def test_a_body_that_is_no_object_is_refused(content: bytes) -> None:
    """And recorded as an empty one."""
    headers = {"x-api-key": KEY, "anthropic-version": "2026-10-21"}
    async with ScriptedClaude([Turn(text="Hi")]) as endpoint, httpx2.AsyncClient(base_url=endpoint.base_url) as client:
        response = await client.post("/v1/messages", headers=headers, content=content)
        assert endpoint.requests[0].body == {}

    assert response.status_code == 400


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
                async with client, client.messages.stream(**_REQUEST) as events:
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
