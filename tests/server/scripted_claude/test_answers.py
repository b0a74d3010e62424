"""The answers of the scripted Claude: content, usage, and errors in place of them."""

import json
from dataclasses import replace
from typing import Any, cast

import anthropic
import pytest
from anthropic.types import MessageParam

from budget_server.demo.scripted_claude import (
    COUNT_TOKENS_PATH,
    OUTPUT_BYTES_PER_TOKEN,
    Answer,
    Failure,
    Script,
    ScriptedClaude,
    ToolCall,
    Turn,
    Usage,
    count_input_tokens,
)
from server.scripted_claude.asking import HELLO, MODEL, REQUEST, WEATHER, both_ways, choosing, create, sdk, tool_result

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("in_time")]


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
        client.messages.with_streaming_response.create(**REQUEST, stream=True) as response,
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
        message = await client.messages.create(**REQUEST, tools=[WEATHER])
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
        message: Any = await client.messages.create(**REQUEST)
        assert len(endpoint.message_requests) == 2

    assert message.content[0].text == "Back again"


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
