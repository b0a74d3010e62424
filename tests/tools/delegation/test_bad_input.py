"""Input that cannot be: one sentence, a stable code, and nothing started."""

from typing import Any

import pytest

from budget_server.demo.scripted_claude import Turn
from tools.delegation.harness import OpenBench, shed

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        ({"task": ""}, "INVALID_ARGUMENT", "task"),
        ({"max_turns": 0}, "INVALID_ARGUMENT", "max_turns"),
        ({"max_turns": "3"}, "INVALID_ARGUMENT", "max_turns"),
        ({"max_output_tokens": 0}, "INVALID_ARGUMENT", "max_output_tokens"),
        ({"wait_seconds": -1}, "INVALID_ARGUMENT", "wait_seconds"),
        ({"budget_usd": -1}, "INVALID_ARGUMENT", "budget_usd"),
        ({"budget_usd": "abc"}, "INVALID_ARGUMENT", "budget_usd"),
        ({"budget_usd": "0.000000001"}, "INVALID_ARGUMENT", "budget_usd"),
        ({"budget": 1}, "INVALID_ARGUMENT", "'budget'"),
        ({"model": "claude-unheard-of"}, "UNKNOWN_MODEL", "claude-unheard-of"),
        ({"tools": ["shed__no_such"]}, "INVALID_ARGUMENT", "no_such"),
        ({"tools": ["nowhere__count"]}, "INVALID_ARGUMENT", "nowhere__count"),
        ({"tools": ["shed"]}, "INVALID_ARGUMENT", "server__tool"),
        ({"tools": ["shed__"]}, "INVALID_ARGUMENT", "server__tool"),
        ({"subject": {"agent": "a/b"}}, "INVALID_ARGUMENT", "subject.agent"),
        ({"subject": {"tenant": "other"}}, "INVALID_ARGUMENT", "tenant"),
        ({"task": " \n"}, "INVALID_ARGUMENT", "task"),
        ({"task": "x" * 1_000_001}, "INVALID_ARGUMENT", "task"),
        ({"context": "x" * 5_000_000}, "INVALID_ARGUMENT", "context"),
        ({"fallback_models": ["claude-unheard-of"]}, "UNKNOWN_MODEL", "claude-unheard-of"),
        ({"model": "claude-mythos-preview"}, "RETIRED_MODEL", "2026-06-30"),
        ({"output_schema": {"type": "objekt"}}, "INVALID_ARGUMENT", "output_schema"),
        ({"resume": "d-1"}, "NOT_FOUND", "d-1"),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
async def test_bad_input_is_one_sentence_and_starts_nothing(
    bench: OpenBench, arguments: dict[str, Any], code: str, says: str
) -> None:
    """Design, tools: errors carry a stable code and one actionable sentence."""
    b = await bench([Turn(text="Never.")])

    refusal = await b.refused(**arguments)

    assert refusal.startswith(f"{code}: ")
    assert says in refusal
    assert b.claude.requests == []
    assert await b.reservations() == []
    assert await b.kept() == []


async def test_without_an_api_key_one_sentence_says_so(bench: OpenBench) -> None:
    """Design: with no Anthropic key, delegate_to_claude says so in one sentence."""
    b = await bench([], anthropic_api_key="")

    assert "ANTHROPIC_API_KEY" in await b.refused()
    assert b.claude.requests == []


async def test_a_tool_name_that_the_api_refuses_is_told_before_anything_is_sent(bench: OpenBench) -> None:
    """Messages API: tool names are letters, digits, _ and -, at most 128."""
    b = await bench([], servers={"my.shed": shed()})

    assert "not a name" in await b.refused(tools=["my.shed__count"])
