"""What the real Messages API refuses, the scripted Claude refuses too."""

import re
from typing import Any

import anthropic
import httpx2
import pytest
from anthropic.types import MessageParam

from budget_server.demo.scripted_claude import ScriptedClaude, Turn
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

pytestmark = pytest.mark.anyio


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
