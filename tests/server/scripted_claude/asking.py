"""Asking the scripted Claude as programs do: with the real Anthropic SDK, over a real socket."""

import json
from typing import Any

import anyio
import pytest
from anthropic import AsyncAnthropic, DefaultAsyncHttpxClient
from anthropic.types import MessageParam, ToolParam
from anyio.abc import SocketStream

from budget_server.demo.scripted_claude import Script, ScriptedClaude

MODEL = "claude-sonnet-5-5"
KEY = "sk-ant-a-secret-of-the-tests"
HELLO: list[MessageParam] = [{"role": "user", "content": "Hello"}]
WEATHER: ToolParam = {
    "name": "weather",
    "description": "Tells the weather of a place.",
    "input_schema": {"type": "object", "properties": {"place": {"type": "string"}}},
}

REQUEST: dict[str, Any] = {"model": MODEL, "max_tokens": 1024, "messages": HELLO}
USER, ASSISTANT = "user", "assistant"
CALL = {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {}}
RESULT = {"type": "tool_result", "tool_use_id": "toolu_1", "content": "Sunny"}
TEXT = {"type": "text", "text": "Hi"}
CLOSED: dict[str, Any] = {"type": "object", "additionalProperties": False}
EPHEMERAL = {"type": "ephemeral"}
MARKED = {**TEXT, "cache_control": EPHEMERAL}
MARKED_1H = {**TEXT, "cache_control": {"type": "ephemeral", "ttl": "1h"}}


def sdk(endpoint: ScriptedClaude, **options: Any) -> AsyncAnthropic:
    """Make a client of the endpoint that tries once."""
    # Nothing is encrypted on loopback, and to load the certificates of the world takes longer than most of these tests.
    http_client = DefaultAsyncHttpxClient(verify=False)
    return AsyncAnthropic(
        **{"api_key": KEY, "base_url": endpoint.base_url, "max_retries": 0, "http_client": http_client, **options}
    )


# Answers are `Any`: a test knows from its script which kind of block comes where.
async def create(script: Script, **request: Any) -> Any:
    """Ask once, for a JSON answer."""
    async with ScriptedClaude(script) as endpoint, sdk(endpoint) as client:
        return await client.messages.create(**{**REQUEST, **request})


async def stream(script: Script, **request: Any) -> Any:
    """Ask once, for a stream."""
    async with (
        ScriptedClaude(script) as endpoint,
        sdk(endpoint) as client,
        client.messages.stream(**{**REQUEST, **request}) as events,
    ):
        return await events.get_final_message()


both_ways = pytest.mark.parametrize("ask", [create, stream])


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


async def send_raw_request(port: int) -> SocketStream:
    """Send a request over a bare socket, on which the ways to end a connection can be told apart."""
    connection = await anyio.connect_tcp("127.0.0.1", port)
    body = json.dumps(REQUEST)
    headers = [f"x-api-key: {KEY}", "anthropic-version: 2026-10-21", f"content-length: {len(body)}", "host: loopback"]
    await connection.send("\r\n".join(["POST /v1/messages HTTP/1.1", *headers, "", body]).encode())
    return connection


def tool_result(call_id: str) -> MessageParam:
    """Answer a tool call."""
    return {"role": "user", "content": [{"type": "tool_result", "tool_use_id": call_id, "content": "Sunny"}]}
