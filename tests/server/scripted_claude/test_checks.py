"""What the real Messages API refuses, the scripted Claude refuses too."""

import re
from typing import Any

import anthropic
import httpx2
import pytest
from anthropic.types import MessageParam

from budget_server.demo.scripted_claude import COUNT_TOKENS_PATH, ScriptedClaude, Turn
from server.scripted_claude.asking import (
    CALL,
    CLOSED,
    EPHEMERAL,
    HELLO,
    KEY,
    MARKED,
    MARKED_1H,
    MODEL,
    REQUEST,
    RESULT,
    TEXT,
    WEATHER,
    asking_for,
    choosing,
    conversation,
    formatted,
    sdk,
)

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("in_time")]


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
        ({"max_tokens": 128_001}, "max_tokens: 128001 > 128000"),
        ({"max_tokens": 64_001, "model": "claude-haiku-4-5-20251001"}, "max_tokens: 64001 > 64000"),
        ({"max_output_tokens": 5}, "max_output_tokens: extra inputs are not permitted"),
        ({"context_management": {}}, "context_management: extra inputs are not permitted"),
        ({"stream": "yes"}, "stream: must be true or false"),
        ({"service_tier": "priority"}, "service_tier: must be auto or standard_only"),
        ({"speed": "slow"}, "speed: must be standard or fast"),
        ({"stop_sequences": "END"}, "stop_sequences: must be a list"),
        ({"stop_sequences": ["END", "\n"]}, "must contain non-whitespace"),
        ({"thinking": "on"}, "thinking.type"),
        ({"thinking": {"type": "enabled"}}, "budget_tokens: must be 1024 or more"),
        ({"thinking": {"type": "enabled", "budget_tokens": 1023}}, "budget_tokens: must be 1024 or more"),
        ({"thinking": {"type": "enabled", "budget_tokens": 1024}}, "must be less than max_tokens"),
        ({"thinking": {"type": "adaptive", "budget_tokens": 1024}}, "budget_tokens: extra inputs"),
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
        ({"messages": [{"role": "user", "content": "Hi", "name": "Ada"}]}, "messages.0.name: extra inputs"),
        (conversation(" "), "must contain non-whitespace text"),
        (conversation([{"type": "text", "text": "\n"}]), "must contain non-whitespace text"),
        (conversation([{"type": "text", "text": None}]), "messages.0.content.0.text: must be text"),
        (conversation([{"type": "audio"}]), "a block of type audio is not one that the user may send"),
        (conversation([CALL]), "a block of type tool_use is not one that the user may send"),
        (conversation("Hi", [RESULT], "Hi"), "a block of type tool_result is not one that the assistant may send"),
        (conversation("Hi", [{"type": "image"}], "Hi"), "a block of type image is not one that the assistant may send"),
        (conversation("Hi", [{"type": "document"}], "Hi"), "a block of type document is not one"),
        (conversation("Hi", [{**CALL, "input": "{}"}], [RESULT]), "input: must be an object"),
        (conversation("Hi", [{**CALL, "id": None}], [RESULT]), "needs an id and a name"),
        (conversation("Hi", [CALL], [{**RESULT, "is_error": "no"}]), "is_error: must be true or false"),
        (conversation("Hi", [CALL], [{**RESULT, "content": {"a": 1}}]), "content: must be text or a list of blocks"),
        (
            conversation("Hi", [CALL], [{**RESULT, "content": [{"type": "audio"}]}]),
            "audio cannot stand in a tool_result",
        ),
        (conversation("Hi", [CALL], [{**RESULT, "content": [{**TEXT, "text": ""}]}]), "text blocks must not be empty"),
        (
            conversation("Hi", [CALL], [{**RESULT, "is_error": True, "content": [{"type": "image"}]}]),
            "all content must be text if is_error is true",
        ),
        (conversation("Hi", [CALL], [RESULT, RESULT]), "must have a single tool_result"),
        (conversation("Hi", [CALL, CALL], [RESULT]), "unique"),
        (conversation("Hi", "Half an ans"), "goes on with no partial answer"),
        (
            {**conversation("Hi", "Half an "), "model": "claude-haiku-4-5"},
            "a partial answer cannot end with whitespace",
        ),
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
    body = {name: value for name, value in {**REQUEST, **change}.items() if value is not None}
    async with ScriptedClaude([Turn(text="Still here")]) as endpoint, sdk(endpoint) as client:
        with pytest.raises(anthropic.BadRequestError, match=re.escape(complaint)) as caught:
            await client.post("/v1/messages", cast_to=object, body=body)
        assert caught.value.type == "invalid_request_error"
        message: Any = await client.messages.create(**REQUEST)

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
        {"max_tokens": 128_000},
        {"thinking": {"type": "enabled", "budget_tokens": 1024}, "max_tokens": 1025},
        {"thinking": {"type": "adaptive"}, "stop_sequences": ["END"], "service_tier": "auto", "speed": "fast"},
        {"metadata": {"user_id": "x"}, "inference_geo": "us", "system": "Be brief."},
        {**conversation("Hi", "Half an ans"), "model": "claude-haiku-4-5"},
        conversation("Hi", [{"type": "text", "text": " "}], "Go on"),
        conversation("Hi", [CALL], [{**RESULT, "content": []}, TEXT]),
        conversation("Hi", [CALL], [{**RESULT, "content": "", "is_error": True}]),
        {"messages": [*HELLO, {"role": "system", "content": "Be brief."}, *HELLO]},
        asking_for({**CLOSED, "properties": {"minimum": {"type": ["string", "null"]}, "type": {"enum": ["object"]}}}),
    ],
)
async def test_what_the_api_takes_is_taken(change: dict[str, Any]) -> None:
    """A check that refuses too much would keep a program from what the real API offers."""
    async with ScriptedClaude([Turn(text="Hi")]) as endpoint, sdk(endpoint) as client:
        await client.post("/v1/messages", cast_to=object, body={**REQUEST, **change})

        assert endpoint.requests[0].body == {**REQUEST, **change}


async def test_thinking_goes_back_to_its_own_model_only() -> None:
    """Changing the model within a conversation takes its thinking along, which the API refuses."""
    async with ScriptedClaude([Turn(thinking="So", text="Hi")] * 2) as endpoint, sdk(endpoint) as client:
        first = await client.messages.create(**REQUEST)
        messages: list[MessageParam] = [*HELLO, first.to_param(), *HELLO]
        with pytest.raises(anthropic.BadRequestError, match="signature"):
            await client.messages.create(model="claude-haiku-5-5", max_tokens=99, messages=messages)
        await client.messages.create(model=MODEL, max_tokens=99, messages=messages)


async def test_a_message_cannot_end_with_thinking() -> None:
    """Cut off there, it goes back without it."""
    async with ScriptedClaude([Turn(thinking="So")]) as endpoint, sdk(endpoint) as client:
        first = await client.messages.create(**REQUEST)
        with pytest.raises(anthropic.BadRequestError, match="last block of an assistant message cannot be thinking"):
            await client.messages.create(**{**REQUEST, "messages": [*HELLO, first.to_param(), *HELLO]})


async def test_a_field_of_a_beta_is_taken_with_the_header_of_a_beta() -> None:
    """As the SDK's beta client sends it."""
    async with ScriptedClaude([Turn(text="Hi")]) as endpoint, sdk(endpoint) as client:
        await client.beta.messages.create(**REQUEST, betas=["context-management-2025-06-27"], context_management={})
        with pytest.raises(anthropic.BadRequestError, match="made_up: extra inputs"):
            await client.beta.messages.create(**REQUEST, betas=["x"], extra_body={"made_up": 1})


async def test_counting_tokens_takes_no_field_that_is_not_counted() -> None:
    """The SDK would not send one."""
    async with ScriptedClaude() as endpoint, sdk(endpoint) as client:
        with pytest.raises(anthropic.BadRequestError, match="max_tokens: extra inputs"):
            await client.post(COUNT_TOKENS_PATH, cast_to=object, body=REQUEST)


async def test_a_request_of_more_than_32_megabytes_is_too_large() -> None:
    """As "Errors" has it: 413, and before anything else about it."""
    async with ScriptedClaude([Turn(text="Hi")]) as endpoint, sdk(endpoint) as client:
        with pytest.raises(anthropic.APIStatusError) as caught:
            await client.messages.create(**{**REQUEST, "system": "x" * (32 * 1024 * 1024)})

    assert (caught.value.status_code, caught.value.type) == (413, "request_too_large")


@pytest.mark.parametrize("headers", [{}, {"x-api-key": ""}, {"authorization": "Bearer"}])
async def test_a_request_without_a_key_is_not_authenticated(headers: dict[str, str]) -> None:
    """The SDK sends no such request, so this one is sent without it."""
    async with ScriptedClaude([Turn(text="Hi")]) as endpoint, httpx2.AsyncClient(base_url=endpoint.base_url) as client:
        response = await client.post("/v1/messages", headers=headers, json=REQUEST)

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
