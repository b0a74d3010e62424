"""Usage as other libraries report it: the same call, whoever tells of it, costs the same.

The objects are what these packages made of one usage of the Messages API when they were run on it: langchain-anthropic
1.7.10, pydantic-ai 2.68.0, genai-prices 0.2.3, litellm 1.110.2, openai 3.57.0, openai-agents 0.24.0, and Claude Code
2.1.332 in claude-agent-sdk 0.2.189.
"""

import re
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from anthropic.types import Usage
from genai_prices import extract_usage
from hypothesis import given
from hypothesis import strategies as st

from budget_tools.core.errors import BudgetError, UsageError
from budget_tools.pricing.book import PriceBook
from budget_tools.pricing.usage import read_usage
from budget_tools.pricing.usage_shapes import CLAUDE_CODE_MODEL, LANGCHAIN, LITELLM, MESSAGES, SHAPES, Shape

BOOK = PriceBook.load()
MODEL = "claude-sonnet-5-5"

DOCUMENT = Path(__file__).parents[2] / "docs" / "usage.md"

CALL: dict[str, Any] = {
    "input_tokens": 3,
    "output_tokens": 550,
    "cache_creation_input_tokens": 12_304,
    "cache_read_input_tokens": 100,
    "cache_creation": {"ephemeral_5m_input_tokens": 4, "ephemeral_1h_input_tokens": 12_300},
    "output_tokens_details": {"thinking_tokens": 60},
    "service_tier": "standard",
    "inference_geo": "not_available",
    "speed": "standard",
}

OF_LANGCHAIN = {
    "input_tokens": 12_407,
    "output_tokens": 550,
    "total_tokens": 12_957,
    "input_token_details": {
        "cache_read": 100,
        "cache_creation": 0,
        "ephemeral_5m_input_tokens": 4,
        "ephemeral_1h_input_tokens": 12_300,
    },
    "output_token_details": {"reasoning": 60},
}
OF_PYDANTIC_AI = {
    "input_tokens": 12_407,
    "cache_write_tokens": 12_304,
    "cache_write_1h_tokens": 12_300,
    "cache_write_5m_tokens": 4,
    "cache_read_tokens": 100,
    "output_tokens": 550,
    "output_reasoning_tokens": 60,
    "input_audio_tokens": 0,
    "cache_audio_read_tokens": 0,
    "output_audio_tokens": 0,
    "audio_seconds": 0.0,
    "details": {
        "input_tokens": 3,
        "output_tokens": 550,
        "cache_creation_input_tokens": 12_304,
        "cache_read_input_tokens": 100,
        "ephemeral_1h_input_tokens": 12_300,
        "thinking_tokens": 60,
    },
    "cost": None,
    "requests": 1,
    "tool_calls": 2,
}
OF_LITELLM = {
    "completion_tokens": 550,
    "prompt_tokens": 12_407,
    "total_tokens": 12_957,
    "completion_tokens_details": {
        "accepted_prediction_tokens": None,
        "audio_tokens": None,
        "reasoning_tokens": 60,
        "rejected_prediction_tokens": None,
        "text_tokens": 490,
        "image_tokens": None,
        "video_tokens": None,
    },
    "prompt_tokens_details": {
        "audio_tokens": None,
        "cache_write_tokens": 12_304,
        "cached_tokens": 100,
        "image_tokens": None,
        "text_tokens": 3,
        "video_tokens": None,
        "initial_prompt_tokens": None,
        "cache_creation_tokens": 12_304,
        "cache_creation_token_details": {
            "ephemeral_5m_input_tokens": 4,
            "ephemeral_30m_input_tokens": None,
            "ephemeral_1h_input_tokens": 12_300,
            "ephemeral_12h_input_tokens": None,
        },
    },
    "cache_creation_input_tokens": 12_304,
    "cache_read_input_tokens": 100,
    "iterations": None,
    "inference_geo": "not_available",
    "speed": "standard",
    "service_tier": "standard",
}

PLAIN_CALL = {"input_tokens": 8_000, "output_tokens": 550, "cache_read_input_tokens": 4_000}
OF_OPENAI_CHAT = {
    "prompt_tokens": 12_000,
    "completion_tokens": 550,
    "total_tokens": 12_550,
    "prompt_tokens_details": {"cached_tokens": 4_000, "audio_tokens": 0, "cache_write_tokens": None},
    "completion_tokens_details": {"reasoning_tokens": 500, "rejected_prediction_tokens": 0},
}
OF_OPENAI_RESPONSES = {
    "input_tokens": 12_000,
    "input_tokens_details": {"cached_tokens": 4_000, "cache_write_tokens": 0},
    "output_tokens": 550,
    "output_tokens_details": {"reasoning_tokens": 500},
    "total_tokens": 12_550,
}
OF_CLAUDE_CODE = {
    "inputTokens": 8_000,
    "outputTokens": 550,
    "thinkingTokens": 60,
    "cacheReadInputTokens": 4_000,
    "cacheCreationInputTokens": 0,
    "webSearchRequests": 0,
    "costUSD": 0.0219,
    "contextWindow": 200_000,
    "maxOutputTokens": 32_000,
    "canonicalModel": MODEL,
    "provider": "firstParty",
    "costBasis": "list",
}


def cost(usage: object, model: str = MODEL, calls: int | None = None) -> int:
    """What a report costs."""
    return BOOK.cost_of(model, read_usage(usage, calls=calls)).amount_microcents


def test_the_call_costs_what_it_costs() -> None:
    """3 at 200 microcents, 100 read at 10, 4 written at 250, 12,300 at 400, and 550 of output at 1,000."""
    assert cost(Usage.model_validate(CALL).model_dump()) == 600 + 1_000 + 1_000 + 4_920_000 + 550_000
    assert cost(PLAIN_CALL) == 1_600_000 + 40_000 + 550_000


@pytest.mark.parametrize(
    ("call", "usage"),
    [
        (CALL, OF_LANGCHAIN),
        (CALL, OF_PYDANTIC_AI),
        (CALL, OF_LITELLM),
        (PLAIN_CALL, OF_OPENAI_CHAT),
        (PLAIN_CALL, OF_OPENAI_RESPONSES),
        (PLAIN_CALL, OF_CLAUDE_CODE),
        (PLAIN_CALL, {MODEL: OF_CLAUDE_CODE}),
        (PLAIN_CALL, {f"{MODEL}[1m]": {**OF_CLAUDE_CODE, "canonicalModel": None}}),
    ],
    ids=["langchain", "pydantic-ai", "litellm", "chat", "responses", "modelUsage entry", "modelUsage", "long context"],
)
def test_a_call_costs_the_same_whoever_reports_it(call: dict[str, Any], usage: dict[str, Any]) -> None:
    """Each names the counts otherwise, and most count cached tokens into the prompt."""
    assert cost(usage) == cost(call)


def test_what_genai_prices_extracts_is_understood() -> None:
    """Run here on the package itself, which this project installs: it counts cached tokens into the prompt."""
    call = {**CALL, "server_tool_use": {"web_search_requests": 2, "web_fetch_requests": 1}}

    extracted = extract_usage({"model": MODEL, "usage": call}, provider_id="anthropic").usage

    assert cost(dict(vars(extracted))) == cost(call)


@pytest.mark.parametrize(
    "usage",
    [
        {
            "input_tokens": 12_307,
            "output_tokens": 550,
            "total_tokens": 12_857,
            "input_token_details": {"cache_creation": 12_304, "cache_read": 0},
        },
        {"input_tokens": 12_307, "cache_write_tokens": 12_304, "cache_read_tokens": 0, "output_tokens": 550},
        {
            "prompt_tokens": 12_307,
            "completion_tokens": 550,
            "total_tokens": 12_857,
            "prompt_tokens_details": {"cached_tokens": 0, "cache_creation_tokens": 12_304},
        },
    ],
    ids=["langchain", "pydantic-ai", "litellm"],
)
def test_libraries_that_name_writes_of_an_hour_apart_mean_five_minutes_by_the_others(usage: dict[str, Any]) -> None:
    """And the answer says so, for the API may have told the library nothing of lifetimes."""
    reported = read_usage(usage)

    assert BOOK.cost_of(MODEL, reported).amount_microcents == 3_626_600
    assert reported.warnings == ("12304 cache writes have no lifetime in the usage and are priced as 5 minutes",)


def test_writes_of_no_lifetime_are_the_dearer_ones_where_no_library_says_otherwise() -> None:
    """Claude Code writes for an hour, and its sums by model do not say so."""
    usage = {**OF_CLAUDE_CODE, "cacheCreationInputTokens": 1_000, "costUSD": None}

    reported = read_usage(usage)

    assert [entry.usage.cache_creation_1h_input_tokens for entry in reported.entries] == [1_000]
    assert "priced as 1 hour, the dearer" in " ".join(reported.warnings)


@pytest.mark.parametrize(
    ("usage", "field", "value", "named"),
    [
        (OF_LANGCHAIN, "total_tokens", 12_958, "total_tokens"),
        (OF_LANGCHAIN, "input_token_details", {"cache_read": 12_408}, "input_token_details.cache_read"),
        (OF_LANGCHAIN, "input_token_details", {"audio": 5}, "input_token_details.audio"),
        (OF_LANGCHAIN, "input_token_details", {"flex": 5}, "input_token_details.flex"),
        (OF_LANGCHAIN, "output_token_details", {"reasoning": 551}, "output_token_details.reasoning"),
        (OF_LANGCHAIN, "input_token_details", 5, "input_token_details must be an object"),
        (OF_PYDANTIC_AI, "input_audio_tokens", 1, "input_audio_tokens"),
        (OF_PYDANTIC_AI, "unmeasured_requests", 1, "unmeasured_requests"),
        (OF_PYDANTIC_AI, "cache_write_1h_tokens", 12_304, "cache_write_5m_tokens splits more"),
        (OF_PYDANTIC_AI, "details", {"advisor_input_tokens": 9}, "details.advisor_input_tokens"),
        (OF_PYDANTIC_AI, "details", {"cache_creation_input_tokens": 12_305}, "details.cache_creation_input_tokens"),
        (OF_PYDANTIC_AI, "output_tokens", None, "output_tokens"),
        (OF_LITELLM, "cache_read_input_tokens", 101, "cache_read_input_tokens (101) and prompt_tokens_details"),
        (OF_LITELLM, "completion_tokens_details", {"reasoning_tokens": 551}, "completion_tokens_details"),
        (OF_LITELLM, "input_tokens", 3, "input_tokens"),
        (OF_LITELLM, "total_tokens", 12_956, "total_tokens"),
        (OF_OPENAI_CHAT, "prompt_tokens", 3_999, "prompt_tokens_details.cached_tokens"),
        (OF_OPENAI_CHAT, "prompt_cache_hit_tokens", 9, "prompt_cache_hit_tokens"),
        (OF_OPENAI_CHAT, "completion_tokens", 499, "completion_tokens_details.reasoning_tokens"),
        (OF_OPENAI_CHAT, "input_tokens", 12_001, "input_tokens"),
        (OF_OPENAI_RESPONSES, "cache_read_input_tokens", 5, "cache_read_input_tokens"),
        (OF_OPENAI_RESPONSES, "output_tokens_details", {"reasoning_tokens": 551}, "output_tokens_details"),
        (OF_CLAUDE_CODE, "totalTokens", 5, "totalTokens"),
        (OF_CLAUDE_CODE, "thinkingTokens", 551, "thinkingTokens"),
    ],
)
def test_what_a_shape_cannot_hold_is_refused_by_name(
    usage: dict[str, Any], field: str, value: object, named: str
) -> None:
    """Counts that contradict each other, and classes of tokens that Claude has no price for."""
    with pytest.raises(UsageError, match=re.escape(named)):
        read_usage({**usage, field: value})


@pytest.mark.parametrize(
    ("usage", "named"),
    [
        ({"inputTokens": 5, "outputTokens": 3, "totalTokens": 8, "cachedInputTokens": 4}, "inputTokens"),
        ({"promptTokenCount": 5, "candidatesTokenCount": 3, "totalTokenCount": 8}, "promptTokenCount"),
        ({"request_tokens": 5, "response_tokens": 3}, "request_tokens"),
        ({"input": 5, "output": 3, "unit": "TOKENS"}, "input"),
        ({"requests": 6, "input_tokens": 5, "output_tokens": 3}, "fewer prompt tokens than calls"),
        (
            {"requests": 1, "input_tokens": 5, "output_tokens": 3, "cache_read_input_tokens": 9},
            "cache_read_input_tokens",
        ),
        ({"prompt_tokens": 5}, "completion_tokens"),
        ({"usage": {"input_tokens": 5, "output_tokens": 3}, "model": MODEL}, "whole answer: give its usage alone"),
        ({"modelUsage": {MODEL: OF_CLAUDE_CODE}, "usage": {"input_tokens": 5}}, "give its modelUsage alone"),
    ],
)
def test_a_shape_that_is_not_known_is_refused_by_its_first_field(usage: dict[str, Any], named: str) -> None:
    """Other vendors' usage, older versions', or the whole answer around it."""
    with pytest.raises(UsageError, match=re.escape(named)):
        read_usage(usage)


def test_the_usage_of_several_models_is_priced_at_each() -> None:
    """Claude Code's ``modelUsage`` has an entry for each model of a session, its sub-agents' included."""
    haiku = {**OF_CLAUDE_CODE, "canonicalModel": "claude-haiku-4-5", "costUSD": 0.1}
    unused = {"inputTokens": 0, "outputTokens": 0, "cacheReadInputTokens": 0, "costUSD": 0.0}

    reported = read_usage({MODEL: OF_CLAUDE_CODE, "claude-haiku-4-5": haiku, "claude-unheard-of": unused})

    assert [entry.model for entry in reported.entries] == [MODEL, "claude-haiku-4-5"]
    expected = cost(OF_CLAUDE_CODE) + cost({**haiku, "canonicalModel": None}, "claude-haiku-4-5")
    assert BOOK.cost_of("claude-opus-5-5", reported).amount_microcents == expected
    with pytest.raises(UsageError, match="calls"):
        read_usage({MODEL: OF_CLAUDE_CODE, "claude-haiku-4-5": haiku}, calls=2)


def agents_usage(*calls: dict[str, Any]) -> dict[str, Any]:
    """The sum of several calls as the Agents SDK serializes it, details in lists."""

    def counts(cached: int, prompt: int, answer: int) -> dict[str, Any]:
        return {
            "input_tokens": prompt,
            "input_tokens_details": [{"cached_tokens": cached, "cache_write_tokens": 0}],
            "output_tokens": answer,
            "output_tokens_details": [{"reasoning_tokens": 0}],
            "total_tokens": prompt + answer,
        }

    entries = [counts(each["cached"], each["prompt"], each["answer"]) for each in calls]
    whole = counts(*(sum(each[name] for each in calls) for name in ("cached", "prompt", "answer")))
    return {"requests": len(calls), **whole, "request_usage_entries": entries}


def test_the_calls_that_an_agents_run_lists_are_priced_one_by_one() -> None:
    """Two prompts of 80,000 tokens are below the step of 100,000, and their sum is not."""
    call = {"cached": 20_000, "prompt": 80_000, "answer": 500}
    usage = agents_usage(call, call)

    one_by_one = cost(usage, "claude-haiku-5-5")
    by_number = cost({**usage, "request_usage_entries": []}, "claude-haiku-5-5")

    assert one_by_one == by_number == 2 * (60_000 * 10 + 20_000 + 500 * 50)
    with pytest.raises(UsageError, match="request_usage_entries"):
        read_usage({**usage, "request_usage_entries": usage["request_usage_entries"][:1]})
    with pytest.raises(UsageError, match="calls"):
        read_usage(usage, calls=3)


@pytest.mark.parametrize(
    ("calls", "microcents"), [(None, 12_600_000), (1, 12_600_000), (24, 2_520_000), (2, 12_600_000)]
)
def test_a_sum_of_calls_is_priced_by_the_length_of_each(calls: int | None, microcents: int) -> None:
    """240,000 tokens in 24 calls reach no step at 100,000; in two they do, and in one."""
    usage = {"input_tokens": 240_000, "output_tokens": 2_400}

    assert cost(usage, "claude-haiku-5-5", calls) == microcents
    assert cost([{"input_tokens": 10_000, "output_tokens": 100}] * 24, "claude-haiku-5-5") == 2_520_000
    # One of two calls with 200,001 tokens is beyond the step.
    assert cost({"input_tokens": 200_001, "output_tokens": 0}, "claude-haiku-5-5", 2) == 200_001 * 50


def test_a_run_that_only_counts_its_requests_is_a_sum_of_them() -> None:
    """pydantic-ai leaves out what is 0."""
    usage = {"requests": 24, "input_tokens": 240_000, "output_tokens": 2_400}

    assert cost(usage, "claude-haiku-5-5") == 2_520_000
    assert cost({**usage, "requests": 0}, "claude-haiku-5-5") == 12_600_000
    assert cost([usage, usage], "claude-haiku-5-5") == 5_040_000


def test_the_same_names_with_another_meaning_are_refused_with_a_way_out() -> None:
    """Agno 3.1.10 leaves the cache out of input_tokens, and pydantic-ai has it in: the total alone tells them apart."""
    usage = {"input_tokens": 5_000, "output_tokens": 50, "cache_read_tokens": 3_000, "cache_write_tokens": 400}

    assert cost(usage) > 0
    with pytest.raises(UsageError, match="total_tokens beside cached tokens is agno's"):
        cost({**usage, "total_tokens": 5_050})
    assert cost({"input_tokens": 5_000, "output_tokens": 50, "cache_read_tokens": 0, "total_tokens": 5_050}) > 0


def test_a_cost_of_some_calls_is_no_cost_of_the_list() -> None:
    """Only a sum over all of them can be compared with the price."""
    with_cost = {**PLAIN_CALL, "cost": 0.5}

    assert read_usage([with_cost, with_cost]).stated_costs == {"cost": 1}
    assert read_usage([with_cost, PLAIN_CALL]).stated_costs == {}


def test_every_shape_stands_in_the_documentation() -> None:
    """docs/usage.md is the table that users look their usage up in."""
    table = DOCUMENT.read_text(encoding="utf-8")

    for shape in SHAPES:
        assert f"| {shape.name} |" in table
        for path in (*shape.tells, *shape.cache_read, *shape.cache_write, *shape.free):
            assert path.split(".")[-1] in table, f"{shape.name}: {path}"


# What nobody can foresee: any JSON where usage should stand, and known shapes with anything in any place.

NAMES = sorted(
    {
        part
        for shape in SHAPES
        for path in (*shape.tells, *shape.needs, *shape.within, *shape.cache_read, *shape.cache_write, *shape.free)
        for part in path.split(".")
    }
    | {"iterations", "type", "model", "request_usage_entries", "requests", "fallback_credit", "cost", "speed"}
)
_leaves = st.none() | st.booleans() | st.integers(-3, 2**70) | st.floats() | st.text(max_size=8) | st.just("message")
_json = st.recursive(
    _leaves,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES) | st.text(max_size=8), inner, max_size=6)
    ),
    max_leaves=25,
)


@given(_json)
def test_no_json_crashes_the_reader(usage: object) -> None:
    """Either entries that count a prompt, or one sentence."""
    with suppress(BudgetError):
        reported = read_usage(usage)
        assert reported.prompt_tokens
        BOOK.cost_of(MODEL, reported)


EXAMPLES = [CALL, OF_LANGCHAIN, OF_PYDANTIC_AI, OF_LITELLM, OF_OPENAI_CHAT, OF_OPENAI_RESPONSES, OF_CLAUDE_CODE]


@given(
    st.sampled_from(EXAMPLES),
    st.sampled_from(["extra", "cache", "details", "input", "output", "audio"]),
    st.sampled_from(["tokens", "_tokens", "Tokens", "_token_count", "_requests"]),
    st.none() | st.sampled_from(["details", "prompt_tokens_details", "input_token_details", "usage_details"]),
    st.integers(1, 10**6),
)
def test_no_count_of_tokens_is_dropped(
    usage: dict[str, Any], word: str, ending: str, section: str | None, count: int
) -> None:
    """A field that nobody knows, wherever it stands, is refused by its name, or it is in the price."""
    name = f"{word}{ending}"
    if name in NAMES:
        name = f"more_{name}"
    if section is None:
        changed = {**usage, name: count}
    else:
        held = usage.get(section)
        changed = {**usage, section: {**(held if isinstance(held, dict) else {}), name: count}}

    # A section that only another shape has makes other fields unknown, and may be refused by the name of one of them.
    with pytest.raises(UsageError, match=re.escape(name) if section is None or section in usage else None):
        read_usage(changed)


def counted_paths(shape: Shape) -> list[str]:
    """Every field that a shape counts."""
    writes = [shape.cache_write_5m, shape.cache_write_1h, shape.cache_write_rest]
    return [
        shape.input,
        shape.output,
        *shape.cache_read,
        *shape.cache_write,
        *shape.web_searches,
        *filter(None, writes),
    ]


@given(
    st.sampled_from(
        [(MESSAGES, CALL), (CLAUDE_CODE_MODEL, OF_CLAUDE_CODE), (LANGCHAIN, OF_LANGCHAIN), (LITELLM, OF_LITELLM)]
    ),
    st.data(),
)
def test_more_in_a_counted_field_never_costs_less(case: tuple[Shape, dict[str, Any]], data: st.DataObject) -> None:
    """Or it contradicts the others, and is refused: a count that lowered the price would be a way to pay less."""
    shape, usage = case
    path = data.draw(st.sampled_from(counted_paths(shape)))
    more = data.draw(st.integers(1, 10**6))
    *sections, name = path.split(".")
    changed: dict[str, Any] = {**usage}
    section = changed
    for each in sections:
        section[each] = {**(section.get(each) or {})}
        section = section[each]
    section[name] = (section.get(name) or 0) + more

    try:
        reported = read_usage(changed)
    except UsageError:
        return
    if shape.includes_cache and path in shape.cache_read:
        return  # more of the same prompt was read from the cache
    assert BOOK.cost_of(MODEL, reported).amount_microcents >= cost(usage)
