"""The steps of one call: which of them the top-level counts leave out, and what each costs at its model."""

import re
from typing import Any, get_args

import pytest
from anthropic.types.beta import BetaUsage
from anthropic.types.beta.beta_iterations_usage import BetaIterationsUsageItem

from budget_tools.core.errors import UsageError
from budget_tools.pricing.book import PriceBook
from budget_tools.pricing.usage import read_usage

BOOK = PriceBook.load()
MODEL = "claude-sonnet-5-5"


def step(kind: str, prompt: int, answer: int, **more: object) -> dict[str, Any]:
    """One entry of ``iterations``."""
    counts = {"input_tokens": prompt, "output_tokens": answer}
    return {"type": kind, **counts, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 0, **more}


def call(prompt: int, answer: int, *steps: object, **more: object) -> dict[str, Any]:
    """The usage of one call."""
    return {"input_tokens": prompt, "output_tokens": answer, "iterations": list(steps), **more}


def cost(usage: object, model: str = MODEL) -> int:
    """What a report costs."""
    return BOOK.cost_of(model, read_usage(usage)).amount_microcents


def plain(prompt: int, answer: int, model: str = MODEL) -> int:
    """What so many tokens cost at a model."""
    return cost({"input_tokens": prompt, "output_tokens": answer}, model)


def test_the_sdk_knows_no_type_of_step_that_is_not_considered_here() -> None:
    """A new type may be billed: raising the SDK means deciding what it costs."""
    union = get_args(BetaIterationsUsageItem)[0]
    types = {get_args(each.model_fields["type"].annotation)[0] for each in get_args(union)}

    assert types == {"message", "compaction", "advisor_message", "fallback_message"}
    assert set(BetaUsage.model_fields) - {"iterations", "fallback_credit"} == {
        *("input_tokens", "output_tokens", "cache_creation", "cache_creation_input_tokens", "cache_read_input_tokens"),
        *("output_tokens_details", "server_tool_use", "service_tier", "inference_geo", "speed"),
    }


def test_an_ordinary_call_of_claude_code_costs_its_top_level_counts() -> None:
    """Its one step has the same counts; the list is never added up."""
    counts = {
        "input_tokens": 2,
        "cache_creation_input_tokens": 7_548,
        "cache_read_input_tokens": 31_561,
        "output_tokens": 4,
        "cache_creation": {"ephemeral_1h_input_tokens": 7_548, "ephemeral_5m_input_tokens": 0},
    }
    usage = {**counts, "iterations": [{"type": "message", **counts}], "inference_geo": "", "speed": "standard"}

    assert cost(usage) == cost(counts) == 2 * 200 + 7_548 * 400 + 31_561 * 10 + 4 * 1_000


def test_the_turns_of_a_server_tool_are_in_the_top_level_counts() -> None:
    """Several steps of a loop, whose sum the top level has."""
    usage = call(3_000, 300, step("message", 1_000, 100), step("message", 2_000, 200))

    assert cost(usage) == plain(3_000, 300)
    assert cost(call(2_500, 300, step("message", 1_000, 100), step("message", 2_000, 200))) == plain(2_500, 300)


def test_a_compaction_is_priced_on_top_at_the_model_of_the_call() -> None:
    """No top-level count has it (anthropic 2.15, BetaUsage.iterations)."""
    steps = step("compaction", 180_000, 3_500), step("message", 23_000, 1_000)

    assert cost(call(23_000, 1_000, *steps)) == plain(203_000, 4_500)
    # Each by itself: one of the two is beyond the step in this model's prices.
    haiku = "claude-haiku-5-5"
    assert cost(call(23_000, 1_000, *steps), haiku) == plain(180_000, 3_500, haiku) + plain(23_000, 1_000, haiku)


def test_a_request_that_only_compacts_costs_its_compaction() -> None:
    """Its top level counts nothing."""
    assert cost(call(0, 0, step("compaction", 9_000, 500))) == plain(9_000, 500)


def test_an_advisor_is_priced_at_its_own_model() -> None:
    """The top level has the first prompt alone, so the steps are the record (Anthropic, advisor tool)."""
    steps = (
        step("message", 412, 89),
        step("advisor_message", 823, 1_612, model="claude-opus-4-8"),
        step("message", 1_760, 442),
    )

    assert cost(call(412, 531, *steps)) == plain(412 + 1_760, 531) + plain(823, 1_612, "claude-opus-4-8")


def test_every_attempt_of_a_fallback_is_priced_at_its_model() -> None:
    """The top level describes the attempt that answered alone (Anthropic, refusals and fallback)."""
    steps = (
        step("message", 800, 150, model="claude-fable-5"),
        step("fallback_message", 900, 200, model="claude-opus-4-8"),
    )

    total = plain(800, 150, "claude-fable-5") + plain(900, 200, "claude-opus-4-8")

    assert cost(call(900, 200, *steps)) == total
    assert cost(call(900, 200, *steps), "claude-opus-4-8") == total


def test_an_attempt_that_declined_without_output_is_charged() -> None:
    """Whether it was billed depends on a category that usage does not tell."""
    steps = (
        step("message", 800, 0, model="claude-fable-5"),
        step("fallback_message", 900, 200, model="claude-opus-4-8"),
    )

    assert cost(call(900, 200, *steps)) == plain(800, 0, "claude-fable-5") + plain(900, 200, "claude-opus-4-8")


def test_searches_words_and_lifetimes_of_the_call_hold_for_its_steps() -> None:
    """They are said once, at the top level."""
    steps = step("compaction", 1_000, 10), step("message", 100, 10, cache_creation_input_tokens=50)
    usage = call(
        *(100, 10, *steps),
        cache_creation_input_tokens=50,
        server_tool_use={"web_search_requests": 2, "web_fetch_requests": 0},
        service_tier="batch",
    )

    assert cost(usage) == (1_100 * 200 + 50 * 400 + 20 * 1_000) // 2 + 2 * 1_000_000


def test_the_model_that_a_step_names_is_the_model_that_is_priced() -> None:
    """A dated form of the call's model has its price."""
    assert cost(call(100, 10, step("message", 100, 10, model="claude-opus-5-5"))) == plain(100, 10, "claude-opus-5-5")
    assert cost(call(100, 10, step("message", 100, 10, model=f"{MODEL}-20261007"))) == plain(100, 10)
    with pytest.raises(UsageError, match="claude-unheard-of"):
        cost(call(100, 10, step("message", 100, 10, model="claude-unheard-of")))


@pytest.mark.parametrize(
    ("usage", "named"),
    [
        (call(100, 10, step("dreaming", 5, 5)), 'iterations.0.type "dreaming"'),
        (call(100, 10, {"input_tokens": 5, "output_tokens": 5}), "iterations.0.type"),
        (call(100, 10, step("message", 100, 10), step("advisor_message", 5, 5)), "iterations.1.model"),
        (call(100, 10, step("message", 5, 5), step("fallback_message", 100, 10)), "name a model in some entries only"),
        (
            call(100, 10, step("message", 5, 5), step("fallback_message", 100, 10, model="claude-opus-4-8")),
            "name a model in some entries only",
        ),
        (
            call(
                *(100, 10),
                step("compaction", 5, 5),
                step("message", 5, 5, model="claude-fable-5"),
                step("fallback_message", 100, 10, model="claude-opus-4-8"),
            ),
            "compacted",
        ),
        (call(100, 10, step("compaction", 5, 5)), "hold less than its own counts"),
        (call(100, 10, step("compaction", 5, 5), step("message", 100, 9)), "hold less than its own counts"),
        (call(100, 10, step("message", 101, 10)), "more tokens than the whole call"),
        (call(100, 10, step("message", 100, 10, reasoning_tokens=5)), "iterations.0.reasoning_tokens"),
        (call(100, 10, step("message", -1, 10)), "iterations.0.input_tokens"),
        (call(100, 10, step("compaction", 0, 5), step("message", 100, 10)), "a prompt of no tokens"),
        (call(100, 10, None), "iterations.0 must be an object"),
        (call(100, 10, step("message", 100, 10, model=5)), "iterations.0.model must be text"),
    ],
)
def test_a_list_whose_price_is_not_certain_is_refused_by_name(usage: dict[str, Any], named: str) -> None:
    """Any guess would be a price that nobody was billed."""
    with pytest.raises(UsageError, match=re.escape(named)):
        read_usage(usage)


def test_the_steps_that_litellm_hands_on_are_priced_by_themselves() -> None:
    """Its own counts are the sum of all steps, at whatever model each ran (litellm 1.110.2)."""
    steps = step("message", 412, 89), step("advisor_message", 823, 1_612, model="claude-opus-4-8")
    usage = {
        "prompt_tokens": 1_235,
        "completion_tokens": 1_701,
        "total_tokens": 2_936,
        "cache_read_input_tokens": 0,
        "cache_creation_input_tokens": 0,
        "iterations": list(steps),
    }

    assert cost(usage) == plain(412, 89) + plain(823, 1_612, "claude-opus-4-8")
    with pytest.raises(UsageError, match="hold less than its own counts"):
        read_usage({**usage, "prompt_tokens": 1_236, "total_tokens": 2_937})
