"""Prompt caching: what a loop reads again is read cheaply, and what it writes is part of the bound."""

import functools
import itertools
import json
from pathlib import Path
from typing import Any

import pytest

from budget_server.demo.scripted_claude import ReceivedRequest, ScriptedClaude, ToolCall, Turn, Usage
from budget_tools.delegation.policy import CACHED_REQUEST
from budget_tools.pricing.request_options import PLAIN_REQUEST
from tools.delegation.harness import LOOK, MODEL, TOOLS, OpenBench, looks

pytestmark = pytest.mark.anyio

EPHEMERAL = {"type": "ephemeral"}
SYSTEM = "You look after a shed. " * 200
CachingClaude = functools.partial(ScriptedClaude, caches=True)

DEAR_CACHE = """
[models.claude-sonnet-5-5]
input = "2.00"
output = "10.00"
cache_write_5m = "20.00"
cache_read = "1.00"
"""


def breakpoints(request: ReceivedRequest) -> list[str]:
    """Where a request has breakpoints of the cache."""
    body = request.body
    system = body.get("system")
    found = ["system"] if isinstance(system, list) and any("cache_control" in block for block in system) else []
    in_messages = "cache_control" in json.dumps([body["messages"], body.get("tools", [])])
    return found + (["messages"] if in_messages else []) + (["request"] if "cache_control" in body else [])


async def test_with_tools_the_prefix_and_the_whole_prompt_are_marked(bench: OpenBench) -> None:
    """Anthropic, prompt caching: what never changes is found again, and each turn reads what the one before wrote."""
    b = await bench(looks)

    await b.delegate(tools=TOOLS, max_turns=3, system=SYSTEM)

    *ordinary, landing = b.claude.message_requests
    assert [breakpoints(request) for request in ordinary] == [["system", "request"]] * 2
    assert all(request.body["cache_control"] == EPHEMERAL for request in ordinary)
    # The choice of tools is part of every prefix that reaches into the messages: nobody would read what it wrote.
    assert breakpoints(landing) == ["system"]


async def test_without_tools_nothing_is_written_to_the_cache(bench: OpenBench) -> None:
    """Writing costs more than reading once: nobody would read it again."""
    b = await bench([Turn(text="Done.")])

    await b.delegate(system=SYSTEM)

    assert breakpoints(b.claude.message_requests[0]) == []
    assert b.claude.message_requests[0].body["system"] == SYSTEM


@pytest.mark.parametrize(("tools", "options"), [([], PLAIN_REQUEST), (TOOLS, CACHED_REQUEST)], ids=["plain", "cached"])
async def test_a_turn_that_writes_everything_to_the_cache_stays_within_its_bound(
    bench: OpenBench, tools: list[str], options: Any
) -> None:
    """Design, 2: the bound is the price of every token class that it may touch, of writing too where it is marked."""
    plain = Usage(input_tokens=50_000)
    written = Usage(input_tokens=0, cache_creation_5m_input_tokens=50_000)
    b = await bench([Turn(text="Done.", usage=written if tools else plain)], usd="10.00")

    result = await b.delegate(tools=tools, task="x" * 150_000)

    (turn,) = result["turns"]
    exact = b.services.prices.worst_case(MODEL, input_tokens=50_000, max_output_tokens=4_096, options=options)
    assert turn["charged"]["amount"] < exact < turn["reserved"]["amount"] < exact * 11 // 10
    assert turn["cache_creation_input_tokens"] == (50_000 if tools else 0)


async def test_the_prefix_of_the_request_stays_the_same_bytes_from_turn_to_turn(bench: OpenBench) -> None:
    """Anthropic, prompt caching: one other byte, or another order of keys, and everything is written anew."""
    calls = ToolCall(
        "shed__say", {"content": [{"type": "text", "text": "Grüße \u2603"}], "b": 1, "a": {"d": 1, "c": 2}}
    )
    b = await bench(lambda _, number: Turn(thinking=f"Hm {number}.", text=f"Look {number}.", tool_calls=(calls, LOOK)))

    await b.delegate(tools=["shed__*"], max_turns=6, budget_usd="0.9")

    for before, after in itertools.pairwise(request.body for request in b.claude.message_requests):
        assert list(before)[:3] == list(after)[:3]
        for name in ("model", "system", "tools"):
            assert json.dumps(before[name]) == json.dumps(after[name])
        told = json.dumps(before["messages"])[:-1]
        assert json.dumps(after["messages"]).startswith(told)


async def test_a_loop_of_ten_turns_costs_far_less_than_without_a_cache(bench: OpenBench) -> None:
    """What a user gains; no turn passes its bound, and the figures are those of the API's usage."""
    script = [Turn(text="I look.", tool_calls=(LOOK,))] * 9 + [Turn(text="Done.")]
    b = await bench([*script, *script], endpoint=CachingClaude)
    arguments: dict[str, Any] = {"tools": TOOLS, "max_turns": 20, "system": SYSTEM * 3, "max_output_tokens": 1_000}

    cached = await b.delegate(**arguments)

    assert (cached["status"], len(cached["turns"])) == ("completed", 10)
    first, *later = cached["turns"]
    assert first["cache_creation_input_tokens"] > 1_024
    assert all(turn["cache_read_input_tokens"] >= first["cache_creation_input_tokens"] for turn in later)
    assert all(turn["charged"]["amount"] <= turn["reserved"]["amount"] for turn in cached["turns"])
    prompts = [
        turn["input_tokens"] + turn["cache_read_input_tokens"] + turn["cache_creation_input_tokens"]
        for turn in cached["turns"]
    ]
    plain = sum(
        b.services.prices.worst_case(MODEL, input_tokens=prompt, max_output_tokens=turn["output_tokens"]) * 10 // 11
        for prompt, turn in zip(prompts, cached["turns"], strict=True)
    )
    assert cached["spent"]["amount"] < plain // 3


async def test_a_persons_own_prices_of_the_cache_are_what_counts(bench: OpenBench, tmp_path: Path) -> None:
    """BUDGET_PRICES: the bound and the charge of what is written and read go by the table, to the microcent."""
    prices = tmp_path / "prices.toml"
    prices.write_text(DEAR_CACHE, encoding="utf-8")
    usage = Usage(input_tokens=0, output_tokens=10, cache_creation_5m_input_tokens=300, cache_read_input_tokens=100)
    b = await bench([Turn(text="Done.", usage=usage)], budget_prices=prices)

    result = await b.delegate(tools=TOOLS, max_output_tokens=500)

    (turn,) = result["turns"]
    assert turn["charged"]["amount"] == 300 * 2_000 + 100 * 100 + 10 * 1_000
    assert turn["reserved"]["amount"] >= 500 * 1_000 + 600 * 2_000
