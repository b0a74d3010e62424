"""Usage: the API's report read as it comes, or refused with a sentence."""

import re
from typing import Any

import pytest
from anthropic.types import Usage
from hypothesis import given
from hypothesis import strategies as st

from budget_tools.core.errors import UsageError
from budget_tools.pricing.usage import MAX_COUNT, CacheTtl, TokenUsage, read_usage

REPORT: dict[str, Any] = {
    "cache_creation": {"ephemeral_1h_input_tokens": 300, "ephemeral_5m_input_tokens": 200},
    "cache_creation_input_tokens": 500,
    "cache_read_input_tokens": 40,
    "inference_geo": "us",
    "input_tokens": 7,
    "output_tokens": 90,
    "output_tokens_details": {"thinking_tokens": 60},
    "server_tool_use": {"web_fetch_requests": 4, "web_search_requests": 3},
    "service_tier": "batch",
    "speed": "fast",
}


def only_entry(report: object, *, ttl: CacheTtl = "1h") -> TokenUsage:
    """The one thing that a report charges for."""
    (entry,) = read_usage(report, unsplit_cache_ttl=ttl).entries
    assert entry.model == ""
    return entry.usage


def test_every_field_of_the_report_that_costs_money_is_read() -> None:
    """The fields of the Messages API's usage object (anthropic 2.12, types/usage.py)."""
    usage = only_entry(Usage.model_validate(REPORT).model_dump())

    assert usage == TokenUsage(
        input_tokens=7,
        output_tokens=90,
        cache_read_input_tokens=40,
        cache_creation_5m_input_tokens=200,
        cache_creation_1h_input_tokens=300,
        web_search_requests=3,
        service_tier="batch",
        inference_geo="us",
        speed="fast",
    )
    assert usage.prompt_tokens == 547


def test_the_sdk_reports_no_field_that_this_reader_has_not_considered() -> None:
    """A new field of the usage object may carry cost: whoever raises the SDK decides what it means here."""
    assert set(Usage.model_fields) == set(REPORT)


def test_nulls_mean_that_a_feature_was_not_used() -> None:
    """Every field but the two totals is optional in the API."""
    usage = only_entry(Usage(input_tokens=1, output_tokens=2).model_dump())

    assert usage == TokenUsage(input_tokens=1, output_tokens=2)


@pytest.mark.parametrize(
    "field",
    [
        {"mood": "fine"},
        {"iterations": []},
        {"future_tokens": 0},
        {"future_tokens": None},
        {"future_cache": {"tokens": 0, "note": "none"}},
        {"request_id": "req_011CT"},
        {"fallback_credit": {"status": {"type": "not_applied", "reason": "expired"}}},
    ],
)
def test_fields_that_cost_nothing_are_ignored(field: dict[str, Any]) -> None:
    """The API may add fields at any time (Anthropic, "Versioning")."""
    report = {"input_tokens": 1, "output_tokens": 2, **field}

    assert only_entry(report) == TokenUsage(input_tokens=1, output_tokens=2)


@pytest.mark.parametrize(
    ("field", "named"),
    [
        ({"cached_tokens": 100_000}, "cached_tokens"),
        ({"reasoning_tokens": 5_000}, "reasoning_tokens"),
        ({"prompt_cache_hit_tokens": "64"}, "prompt_cache_hit_tokens"),
        ({"server_tool_use": {"code_execution_requests": 1}}, "server_tool_use.code_execution_requests"),
        ({"server_tool_use": {"browser_opens": 3}}, "server_tool_use.browser_opens"),
        ({"cache_creation": {"ephemeral_12h_input_tokens": 7}}, "cache_creation.ephemeral_12h_input_tokens"),
        ({"cost_details": {"upstream": 0.5}}, "cost_details.upstream"),
        ({"costTokens": 5, "cost": 0.5}, "costTokens"),
        ({"extra": [{"input_tokens": 5}]}, "extra.input_tokens"),
        ({"from_cache": True}, "from_cache"),
        ({"input_tokens.": 3}, "input_tokens."),
        ({"audio_seconds": 0.5}, "audio_seconds"),
        ({"active_seconds": 9.5}, "active_seconds"),
        ({"requests": 10**30}, "requests"),
    ],
)
def test_a_field_that_may_cost_money_is_refused_by_name(field: dict[str, Any], named: str) -> None:
    """What nobody here reads would otherwise be spend that nobody charges."""
    with pytest.raises(UsageError, match=re.escape(named)):
        read_usage({"input_tokens": 8, "output_tokens": 5, **field})


@pytest.mark.parametrize(
    ("field", "value", "meaning"),
    [
        *[("service_tier", word, "standard") for word in ("", "auto", "default", "STANDARD", "standard_only", None)],
        *[("speed", word, "standard") for word in ("", "normal", "Standard", None)],
        *[("inference_geo", word, "") for word in ("", "Global", "not_available", "not-available", None)],
        ("service_tier", "Batch", "batch"),
        ("speed", "FAST", "fast"),
        ("inference_geo", "US", "us"),
        ("inference_geo", "eu", "eu"),
    ],
)
def test_words_that_mean_the_standard_price_are_the_standard_price(field: str, value: object, meaning: str) -> None:
    """Requests, gateways and libraries have a word each for it."""
    assert getattr(only_entry({"input_tokens": 1, "output_tokens": 2, field: value}), field) == meaning


@given(
    st.integers(1, 10**6),
    st.integers(0, 10**6),
    st.integers(0, 10**6),
    st.sampled_from(["5m", "1h"]),
)
def test_cache_writes_without_a_split_are_charged_as_the_lifetime_the_caller_says(
    written_5m: int, written_1h: int, unsplit: int, ttl: Any
) -> None:
    """No write may go unpriced: what the split leaves over keeps its place in the total."""
    usage = only_entry(
        {
            "input_tokens": 0,
            "output_tokens": 0,
            "cache_creation_input_tokens": written_5m + written_1h + unsplit,
            "cache_creation": {"ephemeral_5m_input_tokens": written_5m, "ephemeral_1h_input_tokens": written_1h},
        },
        ttl=ttl,
    )

    assert usage.prompt_tokens == written_5m + written_1h + unsplit
    assert usage.cache_creation_5m_input_tokens == written_5m + (unsplit if ttl == "5m" else 0)
    assert usage.cache_creation_1h_input_tokens == written_1h + (unsplit if ttl == "1h" else 0)


def test_cache_writes_of_unknown_lifetime_are_charged_as_the_dearer_one() -> None:
    """Reports of the past carry a total alone."""
    usage = only_entry({"input_tokens": 0, "output_tokens": 0, "cache_creation_input_tokens": 5})

    assert usage.cache_creation_1h_input_tokens == 5


def test_a_split_without_a_total_counts_by_itself() -> None:
    """The total may be null where the split is not."""
    usage = only_entry({"input_tokens": 0, "output_tokens": 0, "cache_creation": {"ephemeral_5m_input_tokens": 5}})

    assert usage.prompt_tokens == usage.cache_creation_5m_input_tokens == 5


@pytest.mark.parametrize("usage", [None, [], "usage", 5, [None], [[]]])
def test_usage_that_is_missing_is_an_error_and_not_a_zero(usage: Any) -> None:
    """A stream that was cut off has no usage although it was billed."""
    with pytest.raises(UsageError, match="usage"):
        only_entry(usage)


@pytest.mark.parametrize("name", ["input_tokens", "output_tokens"])
@pytest.mark.parametrize("absent", [True, False])
def test_usage_without_its_totals_is_refused_by_name(name: str, absent: bool) -> None:
    """Both totals are required in the API."""
    report = {**REPORT, name: None}
    if absent:
        del report[name]

    with pytest.raises(UsageError, match=f"no {name}"):
        only_entry(report)


@pytest.mark.parametrize("value", [-1, True, 1.0, "1", MAX_COUNT + 1, [1]])
@pytest.mark.parametrize(
    "path",
    [
        ("input_tokens",),
        ("output_tokens",),
        ("cache_read_input_tokens",),
        ("cache_creation_input_tokens",),
        ("cache_creation", "ephemeral_5m_input_tokens"),
        ("cache_creation", "ephemeral_1h_input_tokens"),
        ("server_tool_use", "web_search_requests"),
    ],
)
def test_a_count_that_cannot_be_is_refused_by_name(path: tuple[str, ...], value: object) -> None:
    """Usage comes from outside, also from hosts that type it: only whole numbers count."""
    report = {**REPORT, "cache_creation": {**REPORT["cache_creation"]}, "server_tool_use": {}}
    *parents, name = path
    target = report
    for parent in parents:
        target = target[parent]
    target[name] = value

    with pytest.raises(UsageError, match=name):
        only_entry(report)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("cache_creation", 5),
        ("server_tool_use", [1]),
        ("service_tier", "flex"),
        ("service_tier", 1),
        ("speed", "ludicrous"),
        ("speed", ["fast"]),
        ("inference_geo", 1),
        ("iterations", {"type": "message"}),
        ("iterations", [5]),
        ("fallback_credit", {"status": {"type": "redeemed"}}),
        ("fallback_credit", True),
    ],
)
def test_a_field_whose_cost_would_be_misread_is_refused_by_name(field: str, value: object) -> None:
    """What cannot be priced must not be priced as nothing."""
    with pytest.raises(UsageError, match=field):
        only_entry({**REPORT, field: value})


@pytest.mark.parametrize(
    "report",
    [
        {"input_tokens": 0, "output_tokens": 0},
        {"input_tokens": 0, "output_tokens": 50},
        {"input_tokens": 0, "output_tokens": 0, "server_tool_use": {"web_search_requests": 1}},
        {"input_tokens": 0, "output_tokens": 9, "iterations": [{"input_tokens": 0, "output_tokens": 9}]},
    ],
)
def test_usage_of_no_prompt_is_impossible(report: dict[str, Any]) -> None:
    """No call that is billed is without a prompt: zeros are what a gateway writes that does not know."""
    for entry in report.get("iterations", []):
        entry["type"] = "message"

    with pytest.raises(UsageError, match="no prompt"):
        read_usage(report)


@pytest.mark.parametrize("report", [{"input_tokens": 0, "cache_read_input_tokens": 9}, {"input_tokens": 9}])
def test_a_prompt_all_from_the_cache_and_an_empty_answer_are_possible(report: dict[str, Any]) -> None:
    """A request with ``max_tokens`` 0 warms the cache, and has no output (Messages API, max_tokens)."""
    assert only_entry({**report, "output_tokens": 0}).prompt_tokens == 9


@pytest.mark.parametrize("total", [8, 48])
def test_a_sum_may_stand_beside_its_parts(total: int) -> None:
    """Gateways add one, of the prompt with its cached part or without."""
    report = {"input_tokens": 3, "cache_read_input_tokens": 40, "output_tokens": 5, "total_tokens": total}

    assert only_entry(report).prompt_tokens == 43


@pytest.mark.parametrize(
    ("field", "named"),
    [
        ({"total_tokens": 9}, "total_tokens"),
        ({"output_tokens_details": {"thinking_tokens": 6}}, "output_tokens_details.thinking_tokens"),
    ],
)
def test_totals_that_do_not_add_up_are_refused_by_name(field: dict[str, Any], named: str) -> None:
    """One of the figures is wrong, and nobody knows which."""
    with pytest.raises(UsageError, match=named):
        read_usage({"input_tokens": 3, "output_tokens": 5, **field})


def test_the_usages_of_several_calls_are_a_list() -> None:
    """Each is priced by itself; one that cannot be read is named by its place."""
    call = {"input_tokens": 3, "output_tokens": 5}

    read = read_usage([call, {**call, "service_tier": "batch"}])

    assert [entry.usage.service_tier for entry in read.entries] == ["standard", "batch"]
    assert (read.prompt_tokens, read.output_tokens) == (6, 10)
    with pytest.raises(UsageError, match=re.escape("[1].cached_tokens")):
        read_usage([call, {**call, "cached_tokens": 1}])
    with pytest.raises(UsageError, match=re.escape("usage [1] counts no prompt")):
        read_usage([call, {"input_tokens": 0, "output_tokens": 0}])
    with pytest.raises(UsageError, match="without entries"):
        read_usage([])
    with pytest.raises(UsageError, match="calls goes with one sum"):
        read_usage([call], calls=2)


def test_a_split_larger_than_its_total_is_refused() -> None:
    """The report contradicts itself, so neither figure can be trusted."""
    with pytest.raises(UsageError, match="cache_creation"):
        only_entry({**REPORT, "cache_creation_input_tokens": 499})


def test_usage_built_by_hand_is_held_to_the_same_rules() -> None:
    """Tools build usage from their own arguments."""
    with pytest.raises(UsageError, match="cache_read_input_tokens"):
        TokenUsage(input_tokens=1, output_tokens=1, cache_read_input_tokens=-1)
    with pytest.raises(UsageError, match="inference_geo"):
        TokenUsage(input_tokens=1, output_tokens=1, inference_geo=None)  # type: ignore[arg-type]
