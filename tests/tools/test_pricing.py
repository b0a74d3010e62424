"""The price book: exact costs, bounds that hold, and refusals instead of guesses."""

import math
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any, get_args

import genai_prices
import pytest
from anthropic._data import DEPRECATED_MODELS
from anthropic.types import Model
from genai_prices.data import providers
from genai_prices.types import (
    ClauseEquals,
    ConditionalPrice,
    ModelInfo,
    ModelPrice,
    Tier,
    TieredPrices,
    TimeOfDateConstraint,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from budget_tools.core.errors import ConfigurationError, InvalidArgumentError, UnknownModelError, UsageError
from budget_tools.core.money import MAX_AMOUNT, MICROCENTS_PER_USD
from budget_tools.pricing import price_data
from budget_tools.pricing.book import Charge, PriceBook
from budget_tools.pricing.price_data import OVERLAY_SOURCE, ModelPrices
from budget_tools.pricing.request_options import RequestOptions
from budget_tools.pricing.usage import MAX_COUNT, TokenUsage, read_usage

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
# Opus 4.6 and Sonnet 4.6 lost their long-context price on this day (genai-prices, start_date).
LONG_CONTEXT_ENDED = datetime(2026, 3, 13, tzinfo=UTC)
HAIKU_CLIFF = 100_000

COUNTS = st.one_of(st.integers(0, 50), st.integers(0, 10**6))
MOMENTS = st.one_of(
    st.sampled_from([NOW, LONG_CONTEXT_ENDED, LONG_CONTEXT_ENDED - timedelta(microseconds=1)]),
    st.datetimes(datetime(2026, 3, 12, 22), datetime(2026, 3, 13, 2), timezones=st.just(UTC)),  # noqa: DTZ001 - bounds
)


@cache
def book() -> PriceBook:
    """Load the installed prices once for all examples."""
    return PriceBook.load()


def entry(model: str) -> ModelInfo | None:
    """Find the entry of genai-prices by its own matching of ids."""
    (anthropic,) = [provider for provider in providers if provider.id == "anthropic"]
    return anthropic.find_model(model)


WITNESSED = tuple(model for model in book().models if book().price(model).source.startswith("genai-prices"))


def has_variant(model: str, when: dict[str, str]) -> bool:
    """Say whether genai-prices has prices of its own for a mode."""
    found = entry(model)
    return found is not None and any(variant.when == when for variant in found.price_variants or ())


MANY = 10 * settings().max_examples
"""1,000 examples; with ``--hypothesis-profile=nightly`` 20,000."""


# ---- exact cost


@settings(max_examples=MANY, deadline=None)
@given(st.data(), st.sampled_from(WITNESSED), MOMENTS, COUNTS, COUNTS, COUNTS, COUNTS, COUNTS)
def test_a_cost_is_the_exact_price_of_genai_prices_rounded_up(
    data: st.DataObject, model: str, at: datetime, plain: int, output: int, read: int, written_5m: int, written_1h: int
) -> None:
    """A second computation in decimals, by genai-prices itself, with its own matching of ids and dates."""
    # Arrange
    tier, speed = "standard", "standard"
    modes = [mode for mode in ({"speed": "fast"}, {"processing": "batch"}) if has_variant(model, mode)]
    context = data.draw(st.sampled_from([{}, *modes]))
    if "speed" in context:
        speed = "fast"
    if "processing" in context:
        tier, at = "batch", NOW  # its batch prices begin in October 2026
    searches = data.draw(st.integers(0, 20)) if book().price(model).on(at.date()).web_search_microcents_per_1000 else 0
    usage = TokenUsage(
        input_tokens=plain,
        output_tokens=output,
        cache_read_input_tokens=read,
        cache_creation_5m_input_tokens=written_5m,
        cache_creation_1h_input_tokens=written_1h,
        web_search_requests=searches,
        service_tier=tier,
        speed=speed,
    )

    # Act
    charge = book().cost(model, usage, at=at)

    # Assert: its input_tokens hold the cached ones too, and its cache_write_tokens those of either lifetime.
    exact = genai_prices.calc_price(
        genai_prices.Usage(
            input_tokens=plain + read + written_5m + written_1h,
            output_tokens=output,
            cache_read_tokens=read,
            cache_write_tokens=written_5m + written_1h,
            cache_write_1h_tokens=written_1h,
            web_searches=searches,
        ),
        model,
        provider_id="anthropic",
        genai_request_timestamp=at,
        price_context=context,
    ).total_price
    assert charge == Charge(
        amount_microcents=math.ceil(Fraction(exact) * MICROCENTS_PER_USD),
        price_source=f"genai-prices {genai_prices.__version__}",
    )


@pytest.mark.parametrize(
    ("model", "input_microcents", "output_microcents"),
    [
        ("claude-3-haiku-20240307", 25, 125),
        ("claude-3-sonnet-20240229", 300, 1_500),
        ("claude-3-5-sonnet-20241022", 300, 1_500),
        ("claude-3-7-sonnet-20250219", 300, 1_500),
        ("claude-sonnet-4-20250514", 300, 1_500),
        ("claude-3-opus-20240229", 1_500, 7_500),
        ("claude-opus-4-20250514", 1_500, 7_500),
        ("claude-opus-4-1-20250805", 1_500, 7_500),
    ],
)
def test_the_family_prices_of_the_cycles_guide_come_out_for_the_models_that_had_them(
    model: str, input_microcents: int, output_microcents: int
) -> None:
    """Cycles' guide for Anthropic gives one price a family, in microcents a token."""
    one_in = book().cost(model, TokenUsage(input_tokens=1, output_tokens=0), at=NOW)
    one_out = book().cost(model, TokenUsage(input_tokens=0, output_tokens=1), at=NOW)

    assert (one_in.amount_microcents, one_out.amount_microcents) == (input_microcents, output_microcents)


@pytest.mark.parametrize(
    ("model", "usd"),
    [
        # Input, output, 5-minute write, 1-hour write and read of a million tokens each (Anthropic, "Pricing").
        ("claude-fable-5-2", ("8", "40", "10", "16", "0.20")),
        ("claude-fable-5-1", ("10", "50", "12.50", "20", "0.25")),
        ("claude-mythos-5-1", ("10", "50", "12.50", "20", "0.25")),
        ("claude-mythos-5", ("10", "50", "12.50", "20", "1.00")),
        ("claude-mythos-preview", ("10", "50", "12.50", "20", "1.00")),
        ("claude-opus-5-5", ("4", "20", "5", "8", "0.20")),
        ("claude-sonnet-5-5", ("2", "10", "2.50", "4", "0.10")),
        ("claude-haiku-5-5", ("0.50", "0.50", "0.625", "1.00", "0.05")),
        ("claude-haiku-4-5-20251001", ("1", "5", "1.25", "2", "0.10")),
    ],
)
def test_current_models_cost_what_the_price_page_says(model: str, usd: tuple[str, ...]) -> None:
    """Haiku 5.5 is above its long-context limit with a million tokens of prompt, but not with output alone."""
    million = 1_000_000
    usages = (
        TokenUsage(input_tokens=million, output_tokens=0),
        TokenUsage(input_tokens=0, output_tokens=million),
        TokenUsage(input_tokens=0, output_tokens=0, cache_creation_5m_input_tokens=million),
        TokenUsage(input_tokens=0, output_tokens=0, cache_creation_1h_input_tokens=million),
        TokenUsage(input_tokens=0, output_tokens=0, cache_read_input_tokens=million),
    )

    charged = [book().cost(model, usage, at=NOW).amount_microcents for usage in usages]

    assert charged == [Fraction(price) * MICROCENTS_PER_USD for price in usd]


@pytest.mark.parametrize(
    ("prompt", "microcents"),
    [
        (HAIKU_CLIFF - 1, 10 * (HAIKU_CLIFF - 1) + 50),
        (HAIKU_CLIFF, 10 * HAIKU_CLIFF + 50),
        (HAIKU_CLIFF + 1, 50 * (HAIKU_CLIFF + 1) + 250),
    ],
    ids=["below", "at", "above"],
)
def test_a_prompt_past_the_limit_changes_the_price_of_the_whole_request(prompt: int, microcents: int) -> None:
    """Haiku 5.5 costs five times as much, output included, above 100,000 tokens of prompt (Anthropic, "Pricing")."""
    charge = book().cost("claude-haiku-5-5", TokenUsage(input_tokens=prompt, output_tokens=1), at=NOW)
    bound = book().worst_case(
        "claude-haiku-5-5",
        input_tokens=prompt,
        max_output_tokens=1,
        at=NOW,
        options=RequestOptions(inference_geo="global"),
    )

    assert charge.amount_microcents == bound == microcents


@pytest.mark.parametrize(("prompt", "factor"), [(199_999, 1), (200_000, 1), (200_001, 2)], ids=["below", "at", "above"])
def test_a_former_limit_holds_for_prompts_longer_than_it(prompt: int, factor: int) -> None:
    """Opus 4.6 until 2026-03-12, every class of token; genai-prices reads "start" as more than."""
    at = LONG_CONTEXT_ENDED - timedelta(days=1)
    usages = [
        TokenUsage(input_tokens=prompt, output_tokens=0),
        TokenUsage(input_tokens=0, output_tokens=0, cache_read_input_tokens=prompt),
        TokenUsage(input_tokens=0, output_tokens=0, cache_creation_1h_input_tokens=prompt),
    ]

    charged = [book().cost("claude-opus-4-6", usage, at=at).amount_microcents for usage in usages]

    assert charged == [prompt * price * factor for price in (500, 50, 1_000)]


def test_cached_tokens_count_towards_the_limit() -> None:
    """The prompt's length is what was read, written and plain together."""
    usage = TokenUsage(input_tokens=1, output_tokens=0, cache_read_input_tokens=HAIKU_CLIFF)

    assert book().cost("claude-haiku-5-5", usage, at=NOW).amount_microcents == 50 + 5 * HAIKU_CLIFF


def test_the_price_is_that_of_the_day_of_the_call_in_utc() -> None:
    """A price that changed in the past still holds for the calls before; a day begins at midnight UTC."""
    usage = TokenUsage(input_tokens=300_000, output_tokens=0)
    after = book().cost("claude-opus-4-6", usage, at=LONG_CONTEXT_ENDED)
    before = book().cost("claude-opus-4-6", usage, at=LONG_CONTEXT_ENDED - timedelta(seconds=1))
    elsewhere = datetime.fromisoformat("2026-03-12T20:00:00-05:00")  # already the 13th in UTC

    assert before.amount_microcents == 2 * after.amount_microcents
    assert book().cost("claude-opus-4-6", usage, at=elsewhere) == after


def test_a_time_without_its_zone_is_refused() -> None:
    """A guess could be a day off, and so a price."""
    with pytest.raises(InvalidArgumentError, match="time zone"):
        book().cost("claude-opus-4-6", TokenUsage(input_tokens=1, output_tokens=1), at=NOW.replace(tzinfo=None))


def test_inference_in_the_us_costs_a_tenth_more_but_searches_do_not() -> None:
    """Data residency multiplies every class of token (Anthropic, "Data residency")."""
    usage = TokenUsage(input_tokens=1, output_tokens=1, web_search_requests=1, inference_geo="us")

    charge = book().cost("claude-sonnet-5-5", usage, at=NOW)

    assert charge.amount_microcents == 1_320 + 1_000_000
    assert charge.price_source == f"genai-prices {genai_prices.__version__} + {OVERLAY_SOURCE}"


@pytest.mark.parametrize("geo", ["", "global", "not_available"])
def test_inference_anywhere_costs_the_list_price(geo: str) -> None:
    """The API reports ``not_available`` for models without the choice."""
    assert (
        book().cost("claude-sonnet-5-5", TokenUsage(input_tokens=1, output_tokens=1, inference_geo=geo), at=NOW)
    ).amount_microcents == 1_200


@pytest.mark.parametrize(("model", "geo"), [("claude-haiku-4-5", "us"), ("claude-sonnet-5-5", "eu")])
def test_a_geography_without_a_price_is_an_error(model: str, geo: str) -> None:
    """No multiplier is known there, so no cost."""
    with pytest.raises(UsageError, match="inference_geo"):
        book().cost(model, TokenUsage(input_tokens=1, output_tokens=1, inference_geo=geo), at=NOW)


def test_the_batch_tier_costs_half_but_searches_do_not() -> None:
    """Message Batches are charged at half the token prices, cache included (Anthropic, "Pricing")."""
    usage = TokenUsage(input_tokens=3, output_tokens=0, web_search_requests=1, service_tier="batch")

    assert book().cost("claude-haiku-5-5", usage, at=NOW).amount_microcents == 15 + 1_000_000


def test_a_fraction_is_rounded_up_once_for_the_whole_call() -> None:
    """Half a microcent here and half there is one, not two."""
    usage = TokenUsage(input_tokens=1, output_tokens=1, cache_read_input_tokens=1, service_tier="batch")

    assert book().cost("claude-haiku-5-5", usage, at=NOW).amount_microcents == 31  # (10 + 50 + 1) / 2
    assert book().cost("claude-haiku-5-5", TokenUsage(input_tokens=0, output_tokens=0), at=NOW).amount_microcents == 0


def test_the_priority_tier_is_charged_at_list_price() -> None:
    """Its price is a contract's; list price is what the bound assumes as well."""
    priority = TokenUsage(input_tokens=1, output_tokens=1, service_tier="priority")

    assert book().cost("claude-opus-5-5", priority, at=NOW).amount_microcents == 2_400


def test_fast_mode_gets_no_batch_discount() -> None:
    """The two are not offered together, so the dearer reading is taken."""
    both = TokenUsage(input_tokens=1, output_tokens=0, service_tier="batch", speed="fast")

    assert book().cost("claude-opus-5-5", both, at=NOW).amount_microcents == 800


@pytest.mark.parametrize(
    ("model", "used"),
    [
        ("claude-3-haiku-20240307", {"web_search_requests": 1}),
        ("claude-sonnet-5-5", {"speed": "fast"}),
        ("claude-mythos-5", {"speed": "fast"}),
    ],
)
def test_usage_without_a_price_is_an_error_and_never_free(model: str, used: dict[str, Any]) -> None:
    """genai-prices would leave it out of the sum, or take the standard price."""
    with pytest.raises(UsageError, match=f"No price is known .* {model}"):
        book().cost(model, TokenUsage(input_tokens=1, output_tokens=1, **used), at=NOW)


def test_a_sum_beyond_int64_is_an_error() -> None:
    """Cycles v0, Amount.amount is int64; no true usage comes near."""
    with pytest.raises(UsageError, match="cannot be true"):
        book().cost("claude-opus-5-5", TokenUsage(input_tokens=MAX_COUNT, output_tokens=0), at=NOW)


# ---- the worst case


@st.composite
def requests(draw: st.DrawFn) -> tuple[str, int, int, RequestOptions]:
    """A model, bounds of its input and output, and options that this model has."""
    model = draw(st.sampled_from(book().models))
    prices = book().price(model)
    options = RequestOptions(
        cache=draw(st.sampled_from(["none", "5m", "1h"])),
        inference_geo=draw(st.sampled_from(["global", "", "us"] if prices.us_multiplier else ["global", ""])),
        speed=draw(st.sampled_from(["standard", "fast"] if prices.periods[0].fast else ["standard"])),
    )
    options = replace(options, batch=options.speed == "standard" and draw(st.booleans()))
    around = [st.integers(limit - 3, limit + 3) for limit in (HAIKU_CLIFF, 200_000)]
    input_tokens = draw(st.one_of(st.integers(0, 5), st.integers(0, 10**6), *around))
    return model, input_tokens, draw(COUNTS), options


def usage_within(
    draw: Callable[[st.SearchStrategy[Any]], Any],
    model: str,
    input_tokens: int,
    max_output_tokens: int,
    options: RequestOptions,
) -> TokenUsage:
    """Any usage that the API may report for a request within these limits."""
    lengths = st.one_of(st.just(input_tokens), st.integers(max(0, input_tokens - 8), input_tokens))
    left = draw(st.one_of(lengths, st.integers(0, input_tokens)))
    classes = {"none": [], "5m": ["read", "5m"], "1h": ["read", "5m", "1h"]}[options.cache]
    cached = dict.fromkeys(["read", "5m", "1h"], 0)
    for name in draw(st.permutations(classes)):
        cached[name] = draw(st.one_of(st.just(left), st.integers(0, left)))
        left -= cached[name]
    geos = {"global": ["global", ""], "us": ["us", ""], "": ["us", "global", ""]}[options.inference_geo]
    if book().price(model).us_multiplier is None:
        geos = ["not_available", ""]
    return TokenUsage(
        input_tokens=left,
        output_tokens=draw(st.one_of(st.just(max_output_tokens), st.integers(0, max_output_tokens))),
        cache_read_input_tokens=cached["read"],
        cache_creation_5m_input_tokens=cached["5m"],
        cache_creation_1h_input_tokens=cached["1h"],
        service_tier="batch" if options.batch else draw(st.sampled_from(["standard", "priority", "batch"])),
        inference_geo=draw(st.sampled_from(geos)),
        speed=draw(st.sampled_from(["fast", "standard"])) if options.speed == "fast" else "standard",
    )


@settings(max_examples=MANY, deadline=None)
@given(
    st.data(),
    requests(),
    MOMENTS,
    st.timedeltas(timedelta(0), timedelta(hours=1)),
    st.timedeltas(timedelta(0), timedelta(days=1)),
)
def test_no_usage_that_the_api_may_report_costs_more_than_the_bound(
    data: st.DataObject, request: tuple[str, int, int, RequestOptions], at: datetime, took: timedelta, later: timedelta
) -> None:
    """The promise that makes overshoot zero: over all models, options, lengths and dates."""
    model, input_tokens, max_output_tokens, options = request
    waits = data.draw(st.sampled_from([timedelta(0), later]))
    bound = book().worst_case(
        model,
        input_tokens=input_tokens,
        max_output_tokens=max_output_tokens,
        at=at,
        starts_within=waits,
        options=options,
    )
    usage = usage_within(data.draw, model, input_tokens, max_output_tokens, options)
    if options.batch:
        took *= 24

    assert book().cost(model, usage, at=at + waits + took).amount_microcents <= bound


@settings(max_examples=500, deadline=None)
@given(requests(), st.sampled_from([NOW, LONG_CONTEXT_ENDED]))
def test_some_usage_costs_exactly_the_bound(request: tuple[str, int, int, RequestOptions], at: datetime) -> None:
    """A bound that no call can reach would strand budget: away from price changes it is as tight as can be."""
    model, input_tokens, max_output_tokens, options = request
    usage = TokenUsage(
        input_tokens=input_tokens if options.cache == "none" else 0,
        cache_creation_5m_input_tokens=input_tokens if options.cache == "5m" else 0,
        cache_creation_1h_input_tokens=input_tokens if options.cache == "1h" else 0,
        output_tokens=max_output_tokens,
        inference_geo="us" if options.inference_geo != "global" and book().price(model).us_multiplier else "",
        speed=options.speed,
        service_tier="batch" if options.batch else "standard",
    )

    bound = book().worst_case(
        model, input_tokens=input_tokens, max_output_tokens=max_output_tokens, at=at, options=options
    )

    assert bound == book().cost(model, usage, at=at).amount_microcents


@settings(max_examples=MANY, deadline=None)
@given(requests(), MOMENTS, st.data())
def test_the_most_output_that_an_amount_buys_is_the_exact_inverse_of_the_bound(
    request: tuple[str, int, int, RequestOptions], at: datetime, data: st.DataObject
) -> None:
    """One token more would not fit, and that many do."""
    model, input_tokens, max_output_tokens, options = request

    def bound(output: int) -> int:
        return book().worst_case(model, input_tokens=input_tokens, max_output_tokens=output, at=at, options=options)

    near = bound(max_output_tokens)
    amount = data.draw(st.one_of(st.integers(near - 200, near + 200), st.integers(-5, MAX_AMOUNT)))

    most = book().most_output_tokens(model, input_tokens=input_tokens, amount_microcents=amount, at=at, options=options)

    if bound(0) > amount:
        assert most == 0
    else:
        assert bound(most) <= amount
        if amount < MAX_AMOUNT // 2:  # past int64 there is no bound to compare with
            assert bound(most + 1) > amount


def test_writes_without_a_split_stay_within_the_bound_of_the_lifetime_that_was_asked_for() -> None:
    """A report may leave the split out; who asked for five minutes reads it so."""
    report = {"input_tokens": 0, "output_tokens": 1, "cache_creation_input_tokens": 1_000}
    bound = book().worst_case(
        "claude-opus-5-5", input_tokens=1_000, max_output_tokens=1, at=NOW, options=RequestOptions(cache="5m")
    )

    reported = read_usage({**report, "inference_geo": "us"}, unsplit_cache_ttl="5m")

    assert book().cost_of("claude-opus-5-5", reported, at=NOW).amount_microcents == bound


def test_a_plain_request_is_not_charged_for_a_cache_it_does_not_use() -> None:
    """Tightness: only what the request asks for can be billed."""
    bounds = [
        book().worst_case(
            "claude-opus-5-5",
            input_tokens=1_000,
            max_output_tokens=10,
            at=NOW,
            options=RequestOptions(cache=cached, inference_geo="global"),
        )
        for cached in ("none", "5m", "1h")
    ]

    assert bounds == [400_000 + 20_000, 500_000 + 20_000, 800_000 + 20_000]


def test_a_batch_is_bounded_at_half_and_not_in_fast_mode() -> None:
    """Anthropic, "Batch processing": half the price of every token; fast mode is not offered there."""
    plain, batch = (
        book().worst_case(
            "claude-opus-5-5",
            input_tokens=1_000,
            max_output_tokens=10,
            at=NOW,
            options=RequestOptions(batch=is_batch, cache="1h", inference_geo="global"),
        )
        for is_batch in (False, True)
    )

    assert (plain, batch) == (800_000 + 20_000, 400_000 + 10_000)
    with pytest.raises(InvalidArgumentError, match="batches"):
        RequestOptions(batch=True, speed="fast")


@pytest.mark.parametrize(
    ("options", "waits"),
    [(RequestOptions(), timedelta(hours=22)), (RequestOptions(batch=True), timedelta(0))],
    ids=["reserved for long", "batch"],
)
def test_a_price_that_rises_before_a_request_has_ended_is_in_its_bound(
    options: RequestOptions, waits: timedelta
) -> None:
    """A reservation may be used at the end of its lease, and a batch takes up to a day."""
    low, high = (book().price(model).periods[0] for model in ("claude-opus-5-5", "claude-fable-5-1"))
    priced = PriceBook(
        {"m": ModelPrices(model="m", source="test", periods=(low, replace(high, starts_on=date(2026, 12, 1))))}
    )
    before = datetime(2026, 11, 30, 1, 30, tzinfo=UTC)

    bound = priced.worst_case("m", input_tokens=2, max_output_tokens=2, at=before, starts_within=waits, options=options)

    assert bound == (6_000 if options.batch else 12_000)


def test_a_price_that_falls_within_the_hour_is_bounded_at_the_dearer_one() -> None:
    """The call may be billed by either day; an hour before the day's end the new price is out of doubt."""
    bounds = [
        book().worst_case("claude-opus-4-6", input_tokens=300_000, max_output_tokens=0, at=LONG_CONTEXT_ENDED - before)
        for before in (timedelta(hours=2), timedelta(minutes=30), timedelta(0))
    ]

    assert bounds[0] == bounds[1] == 2 * bounds[2]


def test_a_price_that_rises_within_the_hour_is_bounded_at_the_dearer_one() -> None:
    """No price of the data rises on a date, so a book is made where one does."""
    low, high = (book().price(model).periods[0] for model in ("claude-opus-5-5", "claude-fable-5-1"))
    risen = replace(high, starts_on=date(2026, 12, 1))
    priced = PriceBook({"m": ModelPrices(model="m", source="test", periods=(low, risen))})
    midnight = datetime(2026, 12, 1, tzinfo=UTC)

    bounds = [
        priced.worst_case("m", input_tokens=1, max_output_tokens=1, at=midnight - before)
        for before in (timedelta(hours=2), timedelta(minutes=30), timedelta(0))
    ]

    assert bounds == [2_400, 6_000, 6_000]


@pytest.mark.parametrize(
    ("model", "options"),
    [
        ("claude-sonnet-5-5", {"speed": "fast"}),
        ("claude-haiku-4-5", {"inference_geo": "us"}),
    ],
)
def test_an_option_that_the_model_does_not_have_is_refused(model: str, options: dict[str, Any]) -> None:
    """The API refuses it too; a bound without its price would be none."""
    with pytest.raises(InvalidArgumentError, match=model):
        book().worst_case(model, input_tokens=1, max_output_tokens=1, at=NOW, options=RequestOptions(**options))


@pytest.mark.parametrize("options", [{"cache": "2h"}, {"inference_geo": "eu"}, {"speed": "slow"}, {"batch": 1}])
def test_an_option_that_does_not_exist_is_refused_by_name(options: dict[str, Any]) -> None:
    """A mistyped option must not fall back to the cheapest one."""
    with pytest.raises(InvalidArgumentError, match=next(iter(options))):
        RequestOptions(**options)


@pytest.mark.parametrize("value", [-1, True, 1.0, "1", MAX_COUNT + 1])
def test_an_impossible_count_has_no_bound(value: Any) -> None:
    """A negative count would buy budget."""
    model = "claude-opus-5-5"
    with pytest.raises(InvalidArgumentError, match="input_tokens"):
        book().worst_case(model, input_tokens=value, max_output_tokens=1)
    with pytest.raises(InvalidArgumentError, match="max_output_tokens"):
        book().worst_case(model, input_tokens=1, max_output_tokens=value)
    with pytest.raises(InvalidArgumentError, match="input_tokens"):
        book().most_output_tokens(model, input_tokens=value, amount_microcents=1)
    with pytest.raises(InvalidArgumentError, match="output_tokens"):
        book().expected(model, input_tokens=1, output_tokens=value)


def test_a_bound_beyond_int64_is_refused() -> None:
    """Cycles v0, Amount.amount is int64: nothing larger can be reserved."""
    with pytest.raises(InvalidArgumentError, match="most that can be reserved"):
        book().worst_case("claude-opus-5-5", input_tokens=1, max_output_tokens=MAX_COUNT)


@given(st.sampled_from(book().models), COUNTS, COUNTS)
@settings(deadline=None)
def test_the_expected_price_is_that_of_a_plain_call(model: str, input_tokens: int, output_tokens: int) -> None:
    """An estimate is labelled as one, but its arithmetic is the same."""
    usage = TokenUsage(input_tokens=input_tokens, output_tokens=output_tokens)

    assert (
        book().expected(model, input_tokens=input_tokens, output_tokens=output_tokens, at=NOW)
        == book().cost(model, usage, at=NOW).amount_microcents
    )


@settings(deadline=None)
@given(requests(), MOMENTS, st.data())
def test_what_is_expected_never_passes_the_bound_with_the_same_options(
    request: tuple[str, int, int, RequestOptions], at: datetime, data: st.DataObject
) -> None:
    """Both are of one request; the expected one reads what it can from the cache."""
    model, input_tokens, max_output_tokens, options = request
    read = data.draw(st.integers(0, input_tokens)) if options.cache != "none" else 0

    expected = book().expected(
        model, input_tokens=input_tokens, output_tokens=max_output_tokens, read_tokens=read, at=at, options=options
    )

    assert expected <= book().worst_case(
        model, input_tokens=input_tokens, max_output_tokens=max_output_tokens, at=at, options=options
    )


def test_prices_follow_the_clock_when_no_time_is_given() -> None:
    """Calls are priced as they happen."""
    usage = TokenUsage(input_tokens=1, output_tokens=1)

    assert book().cost("claude-opus-5-5", usage).amount_microcents > 0
    assert book().worst_case("claude-opus-5-5", input_tokens=1, max_output_tokens=1) > 0


# ---- which ids have a price


def test_every_model_that_the_sdk_lists_has_a_price_and_its_retirement_date() -> None:
    """The SDK's own lists of models and of those on their way out (anthropic 2.15)."""
    literals, _ = get_args(Model)
    ordinals = str.maketrans("", "", "stndrh")

    assert set(get_args(literals)) <= set(book().models)
    for model in set(book().models) & set(DEPRECATED_MODELS):
        month, day, year = DEPRECATED_MODELS[model].replace(",", "").split()
        announced = datetime.strptime(f"{month} {day.translate(ordinals)} {year}", "%B %d %Y").date()  # noqa: DTZ007
        assert book().price(model).retires_on == announced


def test_the_overlay_prices_only_what_genai_prices_lacks() -> None:
    """An entry that arrives upstream makes ours superfluous: it should then go."""
    for model in book().models:
        assert (entry(model) is None) == (book().price(model).source == OVERLAY_SOURCE)
    assert set(book().models) - set(WITNESSED) == {"claude-mythos-5", "claude-mythos-5-1", "claude-mythos-preview"}


def test_an_entry_with_several_limits_is_read_tier_by_tier() -> None:
    """genai-prices allows any number of tiers, and classes that do not share them."""
    tiers = [Tier(start=100, price=Decimal(2)), Tier(start=300, price=Decimal(3))]
    prices = ModelPrice(input_mtok=TieredPrices(base=Decimal(1), tiers=tiers), output_mtok=Decimal(9))

    periods = price_data.entry_periods(ModelInfo(id="m", match=ClauseEquals(equals="m"), prices=prices))

    assert periods is not None
    assert [
        (tier.above_prompt_tokens, tier.prices.input_microcents_per_mtok, tier.prices.output_microcents_per_mtok)
        for tier in periods[0].standard
    ] == [(0, 10**8, 9 * 10**8), (100, 2 * 10**8, 9 * 10**8), (300, 3 * 10**8, 9 * 10**8)]


@pytest.mark.parametrize(
    "prices",
    [
        ModelPrice(input_mtok=Decimal(1), output_mtok=Decimal(1), requests_kcount=Decimal(1)),
        ModelPrice(input_mtok=Decimal(1)),
        [
            ConditionalPrice(prices=ModelPrice(input_mtok=Decimal(1), output_mtok=Decimal(1))),
            ConditionalPrice(
                TimeOfDateConstraint(start_time=time(1), end_time=time(2)),
                prices=ModelPrice(input_mtok=Decimal(1), output_mtok=Decimal(1)),
            ),
        ],
    ],
)
def test_an_entry_with_prices_of_another_kind_is_left_out(prices: Any) -> None:
    """Data that changes upstream must not be read as less than it says: better no price than a wrong one."""
    assert price_data.entry_periods(ModelInfo(id="m", match=ClauseEquals(equals="m"), prices=prices)) is None


@pytest.mark.parametrize(
    ("model", "nearest"),
    [
        ("claude-sonnet-4-5-latest", "claude-sonnet-4-5"),
        ("claude-opus-4-5-latest", "claude-opus-4-5"),
        ("us.anthropic.claude-sonnet-4-5-20250929-v1:0", "claude-sonnet-4-5-20250929"),
        ("anthropic/claude-sonnet-4.5", "claude-sonnet-4-5"),
        ("vertex_ai/claude-haiku-4-5@20251001", "claude-haiku-4-5-20251001"),
        ("claude-4-5-haiku-latest", "claude-haiku-4-5"),
        ("claude-3-5-sonnet-v2@20241022", "claude-3-5-sonnet-20241022"),
        ("Claude Opus 5.5", "claude-opus-5-5"),
        ("claude-opus-6", "claude-opus-5-5"),
        ("claude-sonnet-4-7", "claude-sonnet-4-6"),
        ("claude-sonet-5-5", "claude-sonnet-5-5"),
        ("sonnet", "claude-sonnet-5-5"),
        ("opus", "claude-opus-5-5"),
        ("haiku", "claude-haiku-5-5"),
        ("sonnet[1m]", "claude-sonnet-5-5"),
        ("opusplan", "claude-opus-5-5"),
        ("claude-sonnet-latest", "claude-sonnet-5-5"),
        ("claude", ""),
        ("claude-opus-5-5-turbo", "claude-opus-5-5"),
        ("claude-haiku-4-5-turbo", "claude-haiku-4-5"),  # genai-prices matches it by prefix
        ("claude-sonnet-5-5-20261001", "claude-sonnet-5-5"),  # and this by pattern
        ("Claude-Opus-5-5", "claude-opus-5-5"),
        (" claude-opus-5-5", "claude-opus-5-5"),
        ("gpt-4o", ""),
        ("", ""),
        ("x" * 1_000_000, ""),
        ("\ud83d", ""),
    ],
)
def test_an_unlisted_id_is_refused_with_the_nearest_id_and_the_override_to_write(model: str, nearest: str) -> None:
    """A price guessed by family has been wrong by a factor of four before; a typo should cost a sentence."""
    with pytest.raises(UnknownModelError) as refusal:
        book().price(model)

    assert refusal.value.model == model
    assert ("nearest listed id is " in refusal.value.message) == bool(nearest)
    assert f'"{nearest}"' in refusal.value.message or not nearest
    assert "BUDGET_PRICES" in refusal.value.message
    assert len(refusal.value.message.encode()) < 600


def test_a_retired_model_is_suggested_as_retired_and_only_for_itself() -> None:
    """Another model that is gone helps nobody; the same one may be meant, for an old bill."""
    with pytest.raises(UnknownModelError, match='"claude-sonnet-4-5", retired on 2026-11-30'):
        book().price("claude-sonnet-4-5-latest")
    for unheard_of in (
        "claude-opus-3-9",
        "claude-sonnet-4-1",
        "claude-sonet-4-5",
        "claude-haiku-3",
        "claude-opus-4-2",
    ):
        with pytest.raises(UnknownModelError) as refusal:
            book().price(unheard_of)
        assert "retired on" not in refusal.value.message, unheard_of


@pytest.mark.parametrize("alias", ["sonnet", "opus", "haiku", "opusplan", "claude-sonnet-latest"])
def test_an_alias_is_called_one_and_has_no_price(alias: str) -> None:
    """It moves on to models of other prices, so it is suggested what to write, and never guessed."""
    with pytest.raises(UnknownModelError, match="an alias"):
        book().price(alias)


def test_the_entry_to_write_for_an_unlisted_id_cannot_be_pasted_as_it_is(tmp_path: Path) -> None:
    """A made-up price in a sentence becomes a price in force."""
    with pytest.raises(UnknownModelError) as refusal:
        book().price("gpt-4o")
    header, input_price, output_price = re.findall(
        r'\[models\.[^\]]+\]|input = "[^"]*"|output = "[^"]*"', str(refusal.value)
    )

    with pytest.raises(ConfigurationError, match="key input"):
        load_with(tmp_path, f"{header}\n{input_price}\n{output_price}")


def test_an_unlisted_id_is_refused_wherever_it_is_priced() -> None:
    """No door leads round the list."""
    with pytest.raises(UnknownModelError):
        book().cost("m", TokenUsage(input_tokens=1, output_tokens=1))
    with pytest.raises(UnknownModelError):
        book().worst_case("m", input_tokens=1, max_output_tokens=1)
    with pytest.raises(UnknownModelError):
        book().most_output_tokens("m", input_tokens=1, amount_microcents=1)
    with pytest.raises(UnknownModelError):
        book().expected("m", input_tokens=1, output_tokens=1)


def test_importing_the_price_book_does_not_import_the_price_data() -> None:
    """Its tables are large; a server that starts should not wait for them."""
    check = "import sys, budget_tools.pricing.book; sys.exit('genai_prices' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0


# ---- the user's own table


def load_with(tmp_path: Path, toml: str | bytes) -> PriceBook:
    """Load the book with a user's table of this content."""
    path = tmp_path / "prices.toml"
    path.write_bytes(toml.encode() if isinstance(toml, str) else toml)
    return PriceBook.load(path)


def test_the_users_table_prices_a_model_that_is_not_listed(tmp_path: Path) -> None:
    """Every price that the format has, each at its own class."""
    priced = load_with(
        tmp_path,
        """
        [models."my-model"]
        input = "3.00"
        output = "15"
        cache_write_5m = "4"
        cache_write_1h = "7"
        cache_read = "0.5"
        web_search_per_1000 = "20.00"
        """,
    )
    usage = TokenUsage(
        input_tokens=1,
        output_tokens=1,
        cache_creation_5m_input_tokens=1,
        cache_creation_1h_input_tokens=1,
        cache_read_input_tokens=1,
        web_search_requests=1,
    )

    assert priced.cost("my-model", usage) == Charge(
        amount_microcents=300 + 1_500 + 400 + 700 + 50 + 2_000_000, price_source="BUDGET_PRICES"
    )
    assert set(priced.models) == {*book().models, "my-model"}


def test_cache_prices_left_out_are_the_usual_multiples_of_input(tmp_path: Path) -> None:
    """1.25, 2 and 0.1 times input for a model that is not listed, rounded up if a price is finer than a microcent."""
    priced = load_with(
        tmp_path, '[models.m]\ninput = "0.00000001"\noutput = "1"\n[models.n]\ninput = "4"\noutput = "1"'
    )

    fine, plain = (priced.price(model).periods[0].standard[0].prices for model in "mn")
    assert (
        fine.cache_write_5m_microcents_per_mtok,
        fine.cache_write_1h_microcents_per_mtok,
        fine.cache_read_microcents_per_mtok,
    ) == (2, 2, 1)
    assert (
        plain.cache_write_5m_microcents_per_mtok,
        plain.cache_write_1h_microcents_per_mtok,
        plain.cache_read_microcents_per_mtok,
    ) == (500_000_000, 800_000_000, 40_000_000)


@pytest.mark.parametrize(
    ("model", "write_5m", "write_1h", "read"),
    [
        ("claude-sonnet-5-5", "2.50", "4", "0.10"),
        ("claude-opus-5-5", "2.50", "4", "0.10"),
        ("claude-haiku-5-5", "2.50", "4", "0.20"),
        ("claude-fable-5-1", "2.50", "4", "0.05"),
        ("claude-fable-5-2", "2.50", "4", "0.05"),
        ("claude-opus-4-6", "2.50", "4", "0.20"),
        ("anthropic/claude-sonnet-5.5", "2.50", "4", "0.10"),
        ("somebody-elses", "2.50", "4", "0.20"),
    ],
)
def test_cache_prices_left_out_are_the_multiples_of_the_listed_model(
    tmp_path: Path, model: str, write_5m: str, write_1h: str, read: str
) -> None:
    """Reads cost 0.05 times input on Sonnet and Opus 5.5 and 0.025 times on Fable 5.1 and 5.2, else 0.1 times."""
    priced = load_with(tmp_path, f'[models."{model}"]\ninput = "2"\noutput = "10"').price(model)

    prices = priced.periods[0].standard[0].prices
    assert [
        prices.cache_write_5m_microcents_per_mtok,
        prices.cache_write_1h_microcents_per_mtok,
        prices.cache_read_microcents_per_mtok,
    ] == [Fraction(usd) * MICROCENTS_PER_USD for usd in (write_5m, write_1h, read)]


@pytest.mark.parametrize(
    ("model", "table", "named"),
    [
        ("claude-sonnet-5-5", {"input": "0.000002", "output": "0.00001"}, ["input = $0.000002, where $2.00", "output"]),
        ("claude-sonnet-5-5", {"input": "0.002", "output": "10"}, ["input = $0.002"]),
        ("claude-sonnet-5-5", {"input": "2", "output": "0.010"}, ["output = $0.01"]),
        ("claude-sonnet-5-5", {"input": "2000", "output": "10000"}, ["input = $2000.00", "output = $10000.00"]),
        ("claude-sonnet-5-5", {"input": "200", "output": "1000"}, ["input = $200.00"]),
        ("claude-sonnet-5-5", {"input": "2", "output": "10", "cache_read": "0.0001"}, ["cache_read = $0.0001"]),
        ("claude-sonnet-5-5", {"input": "2", "output": "10", "web_search_per_1000": "0.01"}, ["web_search_per_1000"]),
        ("bedrock/anthropic.claude-sonnet-5-5-v1:0", {"input": "0.002", "output": "0.01"}, ["where $2.00 is known"]),
        ("my-model", {"input": "0.000003", "output": "0.000015"}, ["input = $0.000003", "known for any model"]),
        ("my-model", {"input": "0.003", "output": "0.015"}, ["input = $0.003", "output = $0.015"]),
        ("claude-sonnet-5-5", {"input": "1", "output": "5"}, []),
        ("claude-sonnet-5-5", {"input": "0", "output": "0"}, []),
        ("my-model", {"input": "0.05", "output": "0.10"}, []),
        ("my-model", {"input": "60", "output": "600"}, []),
    ],
)
def test_prices_in_another_unit_are_doubted_and_stay_in_force(
    tmp_path: Path, model: str, table: dict[str, str], named: list[str]
) -> None:
    """Per token, per thousand and in cents: a price of the right form that is a hundred times off, or a million."""
    keys = "\n".join(f'{key} = "{usd}"' for key, usd in table.items())

    priced = load_with(tmp_path, f'[models."{model}"]\n{keys}')

    assert len(priced.doubts) == bool(named)
    assert all(part in priced.doubts[0] for part in [model, "per million tokens", *named] if named)
    one = priced.cost(model, TokenUsage(input_tokens=10**6, output_tokens=0)).amount_microcents
    assert one == Fraction(table["input"]) * MICROCENTS_PER_USD


@pytest.mark.parametrize(
    ("base_url", "retires"),
    [
        ("", True),
        ("https://api.anthropic.com", True),
        ("https://api.anthropic.com/", True),
        ("https://API.Anthropic.com:443", True),
        ("https://gateway.example/anthropic", False),
        ("https://anthropic.com.example", False),
        ("http://127.0.0.1:4000", False),
    ],
)
def test_a_model_that_another_endpoint_serves_at_a_price_of_the_users_has_not_retired(
    tmp_path: Path, base_url: str, retires: bool
) -> None:
    """Retirement dates are those of Anthropic's own API (SDK, DEPRECATED_MODELS)."""
    path = tmp_path / "prices.toml"
    path.write_text('[models."claude-sonnet-4-5"]\ninput = "3"\noutput = "15"', encoding="utf-8")
    priced = PriceBook.load(path, base_url=base_url)

    assert (priced.price("claude-sonnet-4-5").retires_on is not None) == retires
    assert ("claude-sonnet-4-5" not in priced.in_service(at=datetime(2026, 12, 1, tzinfo=UTC))) == retires
    # What has only the list's price retired wherever it is asked for.
    assert "retired on 2026-06-15" in priced.lifecycle_note("claude-opus-4-0")
    assert ("BUDGET_PRICES" in priced.lifecycle_note("claude-opus-4-0")) != retires


def test_searches_without_a_price_in_the_users_table_are_an_error(tmp_path: Path) -> None:
    """Unknown is not free."""
    priced = load_with(tmp_path, '[models.m]\ninput = "1"\noutput = "1"')

    with pytest.raises(UsageError, match="web searches"):
        priced.cost("m", TokenUsage(input_tokens=1, output_tokens=1, web_search_requests=1))


def test_the_users_table_wins_over_a_listed_model(tmp_path: Path) -> None:
    """A contract's prices replace the list's; what is known of geography and retirement stays."""
    priced = load_with(
        tmp_path,
        '[models."claude-haiku-5-5"]\ninput = "0.09"\noutput = "0.45"\n'
        '[models."claude-sonnet-4-5"]\ninput = "2"\noutput = "9"\n'
        '[models.free]\ninput = "0"\noutput = "0"',
    )

    usage = TokenUsage(input_tokens=200_000, output_tokens=0)
    assert priced.cost("claude-haiku-5-5", usage).amount_microcents == 1_800_000
    assert priced.price("claude-haiku-5-5").us_multiplier == Fraction(11, 10)
    assert priced.price("claude-sonnet-4-5").us_multiplier is None
    assert priced.price("claude-sonnet-4-5").retires_on == date(2026, 11, 30)
    assert priced.price("free").us_multiplier == Fraction(11, 10)
    assert priced.most_output_tokens("free", input_tokens=5, amount_microcents=0) == MAX_COUNT


GOOD = 'input = "1"\noutput = "1"\n'


@pytest.mark.parametrize(
    ("toml", "named"),
    [
        ("[models", "not valid TOML"),
        (b"\xff\xfe", "UTF-8"),
        ("x = " + "[" * 100_000, "not valid TOML"),
        ("", "models"),
        ("models = 5", "models"),
        (f'currency = "EUR"\n[models.m]\n{GOOD}', "top level"),
        ("[models]\nm = 5", r'models\."m"'),
        (f'[models." "]\n{GOOD}', "model id"),
        ('[models.m]\ninput = "1"', "key output: missing"),
        ('[models.m]\noutput = "1"', "key input: missing"),
        (f'[models.m]\n{GOOD}per = "thousand"', "key per: no such price"),
        (f'[models.m]\n{GOOD}input_per_1k = "0.001"', "key input_per_1k: no such price"),
        (f"[models.m]\n{GOOD}cache_read = 0.1", "key cache_read: write the price as a string"),
        (f"[models.m]\n{GOOD}cache_read = 1", "key cache_read: write the price as a string"),
        (f'[models.m]\n{GOOD}cache_read = "$0.10"', "key cache_read: "),
        (f'[models.m]\n{GOOD}cache_read = "0.10 per 1K"', "key cache_read: "),
        (f'[models.m]\n{GOOD}cache_read = "-1"', "key cache_read: "),
        (f'[models.m]\n{GOOD}cache_read = "0.000000001"', "key cache_read: "),
        (f'[models.m]\n{GOOD}cache_read = "nan"', "key cache_read: "),
        (f"[models.m]\n{GOOD}[models.m]\n{GOOD}", "not valid TOML"),
    ],
)
def test_a_table_that_cannot_be_right_is_refused_with_its_place(tmp_path: Path, toml: str | bytes, named: str) -> None:
    """A wrong price spends real money: the file, the table and the key are named, and what to write there."""
    with pytest.raises(ConfigurationError, match=named) as refusal:
        load_with(tmp_path, toml)

    assert "BUDGET_PRICES" in refusal.value.message
    assert "prices.toml" in refusal.value.message


def test_a_table_that_cannot_be_read_is_refused_with_its_path(tmp_path: Path) -> None:
    """Without the table the prices would be others than the user believes."""
    for path in (tmp_path / "missing.toml", tmp_path):
        with pytest.raises(ConfigurationError, match="cannot be read") as refusal:
            PriceBook.load(path)
        assert str(path) in refusal.value.message
