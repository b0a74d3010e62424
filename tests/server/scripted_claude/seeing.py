"""Seeing what the client of a gateway sees: the answer as it came, before any SDK smooths it."""

import json
from dataclasses import dataclass
from typing import Any

import httpx2

from budget_server.demo.scripted_claude import (
    COUNT_TOKENS_PATH,
    Bill,
    Profile,
    ScriptedClaude,
    ToolCall,
    Turn,
    Usage,
)
from server.scripted_claude.asking import HELLO, KEY, MODEL, REQUEST, WEATHER

HEADERS = {"x-api-key": KEY, "anthropic-version": "2026-10-21"}
ULM, BONN = ToolCall("weather", {"place": "Ulm"}), ToolCall("weather", {"place": "Bonn"})
SAID = "Grüße aus Köln."
USAGE = Usage(input_tokens=9_325, output_tokens=76, cache_read_input_tokens=11)
TURN = Turn(text=SAID, tool_calls=(ULM, BONN), usage=USAGE)
INPUT = ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens")
COUNTS = (*INPUT, "output_tokens")


@dataclass
class Seen:
    """What a client saw."""

    response: httpx2.Response
    bills: list[Bill]

    @property
    def events(self) -> list[dict[str, Any]]:
        """Data of the events, in order; of each line that is data and JSON."""
        lines = self.response.text.splitlines()
        data = [line.removeprefix("data: ") for line in lines if line.startswith("data: ")]
        return [json.loads(each) for each in data if each.startswith("{")]

    def of(self, kind: str) -> list[dict[str, Any]]:
        """Events of one type."""
        return [event for event in self.events if event["type"] == kind]

    @property
    def first_usage(self) -> Any:
        """Usage in ``message_start``."""
        return self.of("message_start")[0]["message"].get("usage", "none")

    @property
    def last_usage(self) -> Any:
        """Usage in ``message_delta``."""
        return self.of("message_delta")[-1].get("usage", "none")

    @property
    def blocks(self) -> list[dict[str, Any]]:
        """Blocks as they open."""
        return [event["content_block"] for event in self.of("content_block_start")]


async def ask(
    profile: str | Profile | None, turn: Turn = TURN, *, stream: bool = True, times: int = 1, model: str = MODEL
) -> Seen:
    """Ask an endpoint for the same answer once or more often, and look at the last."""
    request = {**REQUEST, "model": model, "tools": [WEATHER], "stream": stream}
    async with (
        ScriptedClaude([turn] * times, profile=profile) as endpoint,
        httpx2.AsyncClient(base_url=endpoint.base_url, headers=HEADERS) as client,
    ):
        for _ in range(times - 1):
            await client.post("/v1/messages", json=request)
        return Seen(await client.post("/v1/messages", json=request), endpoint.bills)


async def count(profile: str) -> httpx2.Response:
    """Have an endpoint count the tokens of a request."""
    async with (
        ScriptedClaude(profile=profile) as endpoint,
        httpx2.AsyncClient(base_url=endpoint.base_url, headers=HEADERS) as client,
    ):
        return await client.post(COUNT_TOKENS_PATH, json={"model": MODEL, "messages": HELLO})
