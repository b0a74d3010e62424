"""Usage: the API's report read as it comes, or refused with a sentence."""

from typing import Any

import pytest
from anthropic.types import Usage
from hypothesis import given
from hypothesis import strategies as st

from budget_tools.core.errors import UsageError
from budget_tools.pricing.usage import MAX_COUNT, TokenUsage

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


def test_every_field_of_the_report_that_costs_money_is_read() -> None:
    """The fields of the Messages API's usage object (anthropic 2.12, types/usage.py)."""
    usage = TokenUsage.from_api(Usage.model_validate(REPORT).model_dump())

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
    usage = TokenUsage.from_api(Usage(input_tokens=1, output_tokens=2).model_dump())

    assert usage == TokenUsage(input_tokens=1, output_tokens=2)


def test_unknown_fields_are_ignored() -> None:
    """The API may add fields at any time (Anthropic, "Versioning")."""
    assert TokenUsage.from_api({"input_tokens": 1, "output_tokens": 2, "mood": "fine", "iterations": []}) == TokenUsage(
        input_tokens=1, output_tokens=2
    )


@given(
    st.integers(0, 10**6),
    st.integers(0, 10**6),
    st.integers(0, 10**6),
    st.sampled_from(["5m", "1h"]),
)
def test_cache_writes_without_a_split_are_charged_as_the_lifetime_the_caller_says(
    written_5m: int, written_1h: int, unsplit: int, ttl: Any
) -> None:
    """No write may go unpriced: what the split leaves over keeps its place in the total."""
    usage = TokenUsage.from_api(
        {
            "input_tokens": 0,
            "output_tokens": 0,
            "cache_creation_input_tokens": written_5m + written_1h + unsplit,
            "cache_creation": {"ephemeral_5m_input_tokens": written_5m, "ephemeral_1h_input_tokens": written_1h},
        },
        unsplit_cache_ttl=ttl,
    )

    assert usage.prompt_tokens == written_5m + written_1h + unsplit
    assert usage.cache_creation_5m_input_tokens == written_5m + (unsplit if ttl == "5m" else 0)
    assert usage.cache_creation_1h_input_tokens == written_1h + (unsplit if ttl == "1h" else 0)


def test_cache_writes_of_unknown_lifetime_are_charged_as_the_dearer_one() -> None:
    """Reports of the past carry a total alone."""
    usage = TokenUsage.from_api({"input_tokens": 0, "output_tokens": 0, "cache_creation_input_tokens": 5})

    assert usage.cache_creation_1h_input_tokens == 5


def test_a_split_without_a_total_counts_by_itself() -> None:
    """The total may be null where the split is not."""
    usage = TokenUsage.from_api(
        {"input_tokens": 0, "output_tokens": 0, "cache_creation": {"ephemeral_5m_input_tokens": 5}}
    )

    assert usage.prompt_tokens == usage.cache_creation_5m_input_tokens == 5


@pytest.mark.parametrize("usage", [None, [], "usage", 5])
def test_usage_that_is_missing_is_an_error_and_not_a_zero(usage: Any) -> None:
    """A stream that was cut off has no usage although it was billed."""
    with pytest.raises(UsageError, match="usage"):
        TokenUsage.from_api(usage)


@pytest.mark.parametrize("name", ["input_tokens", "output_tokens"])
@pytest.mark.parametrize("absent", [True, False])
def test_usage_without_its_totals_is_refused_by_name(name: str, absent: bool) -> None:
    """Both totals are required in the API."""
    report = {**REPORT, name: None}
    if absent:
        del report[name]

    with pytest.raises(UsageError, match=f"no {name}"):
        TokenUsage.from_api(report)


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
        TokenUsage.from_api(report)


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
        ("iterations", [{"type": "compaction", "input_tokens": 9, "output_tokens": 9}]),
        ("fallback_credit", {"status": "redeemed"}),
    ],
)
def test_a_field_whose_cost_would_be_misread_is_refused_by_name(field: str, value: object) -> None:
    """What cannot be priced must not be priced as nothing."""
    with pytest.raises(UsageError, match=field):
        TokenUsage.from_api({**REPORT, field: value})


def test_a_split_larger_than_its_total_is_refused() -> None:
    """The report contradicts itself, so neither figure can be trusted."""
    with pytest.raises(UsageError, match="cache_creation"):
        TokenUsage.from_api({**REPORT, "cache_creation_input_tokens": 499})


def test_usage_built_by_hand_is_held_to_the_same_rules() -> None:
    """Tools build usage from their own arguments."""
    with pytest.raises(UsageError, match="cache_read_input_tokens"):
        TokenUsage(input_tokens=1, output_tokens=1, cache_read_input_tokens=-1)
    with pytest.raises(UsageError, match="inference_geo"):
        TokenUsage(input_tokens=1, output_tokens=1, inference_geo=None)  # type: ignore[arg-type]
