"""Gateways whose usage is missing, wrong, or true and odd, as their clients see it."""

import pytest

from budget_server.demo.scripted_claude import (
    Turn,
    count_input_tokens,
)
from server.scripted_claude.asking import HELLO, WEATHER
from server.scripted_claude.seeing import COUNTS, INPUT, SAID, ask, count

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("in_time")]


# -- usage ------------------------------------------------------------------------------------------------------------


async def test_probos_like_reports_zeros_everywhere() -> None:
    """And a whole answer."""
    seen = await ask("probos-like")

    for usage in (seen.first_usage, seen.last_usage):
        assert {usage[name] for name in COUNTS} == {0}
    assert len(seen.blocks) == 3


async def test_ollama_like_knows_no_prompt_and_no_cache_and_counts_nothing() -> None:
    """Only the output is true."""
    seen = await ask("ollama-like")

    assert (seen.first_usage["input_tokens"], seen.first_usage["output_tokens"]) == (0, 0)
    assert seen.last_usage == {"input_tokens": 0, "output_tokens": 76}
    assert "cache_creation" not in seen.first_usage
    assert (await count("ollama-like")).status_code == 404


async def test_grok2api_like_leaves_the_prompt_out_at_the_end() -> None:
    """It was 0 at the beginning."""
    seen = await ask("grok2api-like")

    assert {seen.first_usage[name] for name in INPUT} == {0}
    assert seen.last_usage == {"output_tokens": 76}


async def test_vercel_ai_gateway_like_tells_the_truth_at_the_end_only() -> None:
    """Zeros first."""
    seen = await ask("vercel-ai-gateway-like")

    assert (seen.first_usage["input_tokens"], seen.first_usage["output_tokens"]) == (0, 0)
    assert (seen.last_usage["input_tokens"], seen.last_usage["output_tokens"]) == (9_325, 76)


async def test_envoy_ai_gateway_like_forgets_the_prompt_at_the_end() -> None:
    """The true output beside it."""
    seen = await ask("envoy-ai-gateway-like")

    assert seen.first_usage["input_tokens"] == 9_325
    assert {seen.last_usage[name] for name in INPUT} == {0}
    assert seen.last_usage["output_tokens"] == 76


async def test_swift_anthropic_like_reports_no_output() -> None:
    """Although there is some."""
    seen = await ask("swift-anthropic-like")

    assert (seen.last_usage["input_tokens"], seen.last_usage["output_tokens"]) == (9_325, 0)


@pytest.mark.parametrize(("name", "usage"), [("pi-like", None), ("no-usage", "none")])
async def test_usage_may_be_null_or_not_there(name: str, usage: object) -> None:
    """In both events that have it."""
    seen = await ask(name)

    assert (seen.first_usage, seen.last_usage) == (usage, usage)


async def test_new_api_like_sends_no_final_event() -> None:
    """Everything else is there."""
    seen = await ask("new-api-like")

    assert seen.of("message_delta") == []
    assert seen.of("message_stop")


async def test_litellm_like_ends_tool_calls_with_end_turn_and_lists_one_iteration() -> None:
    """The entry repeats the counts, which are not to be added up."""
    seen = await ask("litellm-like")

    (final,) = seen.of("message_delta")
    (entry,) = final["usage"]["iterations"]
    assert final["delta"]["stop_reason"] == "end_turn"
    assert entry["type"] == "message"
    assert {name: entry[name] for name in COUNTS} == {name: final["usage"][name] for name in COUNTS}


async def test_litellm_null_text_like_loses_text_and_model() -> None:
    """The pieces that have text say all of it."""
    seen = await ask("litellm-null-text-like")

    pieces = [event["delta"]["text"] for event in seen.of("content_block_delta") if "text" in event["delta"]]
    assert "model" not in seen.of("message_start")[0]["message"]
    assert seen.blocks[0] == {"type": "text"}
    assert pieces[0] is None
    assert "".join(pieces[1:]) == SAID


async def test_a_second_final_event_has_no_stop_reason() -> None:
    """And the same usage."""
    seen = await ask("two-deltas")

    first, second = seen.of("message_delta")
    assert first["delta"]["stop_reason"] == "tool_use"
    assert second["delta"] == {}
    assert first["usage"] == second["usage"]


async def test_vllm_like_knows_nothing_of_the_cache() -> None:
    """And ends as another API does."""
    seen = await ask("vllm-like")

    assert seen.last_usage["cache_read_input_tokens"] is None
    assert seen.first_usage["cache_creation_input_tokens"] is None
    assert seen.response.text.endswith('event: message_stop\ndata: {"type":"message_stop"}\n\ndata: [DONE]\n\n')


async def test_openrouter_like_sends_comments_and_a_tail_and_may_know_a_cost() -> None:
    """The cost is not ours to believe."""
    seen, with_cost = await ask("openrouter-like"), await ask("openrouter-cost-like")

    assert seen.response.text.startswith(": OPENROUTER PROCESSING\n\nevent: message_start\n")
    assert seen.response.text.endswith("\n\nevent: data\ndata: [DONE]\n\n")
    assert "cost" not in seen.last_usage
    assert with_cost.last_usage["cost"] == 0.5


# -- counts -----------------------------------------------------------------------------------------------------------


async def test_counts_may_be_missing_or_far_too_low() -> None:
    """What is billed is what the prompt has."""
    assert (await count("lm-studio-like")).status_code == 200
    assert "input_tokens" not in (await count("lm-studio-like")).json()
    assert (await count("zero-count")).json() == {"input_tokens": 0}
    assert (await count("shunt-like")).json() == {"input_tokens": 48}

    (bill,) = (await ask("shunt-like", Turn(text="Hi"))).bills
    assert bill.usage["input_tokens"] == count_input_tokens({"messages": HELLO, "tools": [WEATHER]})
