"""Drift between what is kept by hand and what is installed: each kind of it is said in one sentence."""

import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from datetime import date, time, timedelta
from decimal import Decimal
from functools import cache
from typing import Any

import pytest
from genai_prices.types import (
    ClauseEquals,
    ClauseOr,
    ClauseStartsWith,
    ConditionalPrice,
    ModelInfo,
    ModelPrice,
    PriceVariant,
    TimeOfDateConstraint,
)

from budget_tools.pricing.price_data import LISTINGS, OVERLAY_DATE
from budget_tools.pricing.price_drift import Upstream, find_drift, installed_upstream

MYTHOS = ModelPrice(
    input_mtok=Decimal(10),
    output_mtok=Decimal(50),
    cache_write_mtok=Decimal("12.5"),
    cache_write_1h_mtok=Decimal(20),
    cache_read_mtok=Decimal(1),
    web_searches_kcount=Decimal(10),
)


@cache
def installed() -> Upstream:
    """What is installed, read once."""
    return installed_upstream()


def news(upstream: Upstream) -> list[str]:
    """What another state of the world adds to the drift of the installed one."""
    before = find_drift(installed(), today=OVERLAY_DATE)
    return [sentence for sentence in find_drift(upstream, today=OVERLAY_DATE) if sentence not in before]


def with_entry(entry: ModelInfo) -> Upstream:
    """The installed state with one entry more, or another in its place."""
    return replace(installed(), entries={**installed().entries, entry.id: entry})


def entry(model: str, prices: Any = MYTHOS, match: Any = None, **more: Any) -> ModelInfo:
    """An entry of genai-prices."""
    return ModelInfo(id=model, match=match or ClauseEquals(equals=model), prices=prices, **more)


def test_an_overlay_model_that_genai_prices_now_has_is_superfluous() -> None:
    """The overlay is for what genai-prices lacks."""
    (sentence,) = news(with_entry(entry("claude-mythos-5")))

    assert sentence == "claude-mythos-5 now has the overlay's prices in genai-prices too: remove it from the overlay."


@pytest.mark.parametrize("changed", ["input_mtok", "cache_read_mtok", "web_searches_kcount"])
def test_an_overlay_model_that_genai_prices_has_at_another_price_is_a_question(changed: str) -> None:
    """One of the two is wrong, and a person has to look which."""
    other = ModelPrice(**{**MYTHOS.__dict__, changed: Decimal(9)})

    (sentence,) = news(with_entry(entry("claude-mythos-5", other)))

    assert sentence.startswith("claude-mythos-5 now has other prices in genai-prices")


def test_a_listed_model_whose_entry_is_gone_has_lost_its_price() -> None:
    """Every id of that entry would be refused at once."""
    entries = {key: entry for key, entry in installed().entries.items() if key != "claude-opus-4-5"}

    lost = news(replace(installed(), entries=entries))

    assert [sentence.split(" has lost its price")[0] for sentence in lost] == [
        "claude-opus-4-5",
        "claude-opus-4-5-20251101",
    ]


def test_prices_of_a_kind_that_would_be_misread_are_named() -> None:
    """Prices by time of day, for example, are refused rather than read as less than they say."""
    by_hour = TimeOfDateConstraint(start_time=time(1), end_time=time(2))
    prices = [ConditionalPrice(prices=MYTHOS), ConditionalPrice(by_hour, prices=MYTHOS)]

    (sentence,) = news(with_entry(entry("claude-fable-5", prices)))

    assert sentence.startswith("claude-fable-5 is not priced by genai-prices")


def test_prices_of_a_mode_that_nobody_reads_are_named() -> None:
    """A new mode may cost more than its bound."""
    variant = PriceVariant(when={"speed": "faster"}, prices=MYTHOS)

    (sentence,) = news(with_entry(entry("claude-fable-5", price_variants=[variant])))

    assert "speed faster" in sentence


@pytest.mark.parametrize(("cache_read", "agrees"), [("0.5", True), ("1", False)])
def test_a_batch_price_that_is_not_half_is_named(cache_read: str, agrees: bool) -> None:
    """BATCH_MULTIPLIER is one number for every model and class of token."""
    half = ModelPrice(
        input_mtok=Decimal(5),
        output_mtok=Decimal(25),
        cache_write_mtok=Decimal("6.25"),
        cache_write_1h_mtok=Decimal(10),
        cache_read_mtok=Decimal(cache_read),
    )
    variant = PriceVariant(when={"processing": "batch"}, prices=half)

    found = news(with_entry(entry("claude-fable-5", price_variants=[variant])))

    assert [sentence.split(":")[1] for sentence in found] == (
        [] if agrees else [" BATCH_MULTIPLIER does not hold for every model."]
    )


def test_an_exact_id_of_genai_prices_that_is_not_listed_is_named_but_no_prefix_is() -> None:
    """Prefixes and patterns match ids that do not exist."""
    match = ClauseOr(or_=[ClauseEquals(equals="claude-new-1"), ClauseStartsWith(starts_with="claude-new-1-")])

    found = news(with_entry(entry("claude-new", match=match)))

    assert [sentence.split(" has a price")[0] for sentence in found] == ["claude-new", "claude-new-1"]


def test_a_model_that_the_sdk_lists_and_we_do_not_is_named() -> None:
    """anthropic, types/model.py: users will ask for it."""
    models = installed().sdk_models
    assert models is not None

    (sentence,) = news(replace(installed(), sdk_models=models | {"claude-opus-6"}))

    assert sentence.startswith("claude-opus-6 is listed by the Anthropic SDK and not by us")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"claude-opus-5": "March 1st, 2027"}, ["claude-opus-5 retires on 2027-03-01", "no announced date here"]),
        ({"claude-opus-4-5": "March 1st, 2027"}, ["claude-opus-4-5 retires on 2027-03-01", "2027-01-22 here"]),
        ({"claude-sonnet-4-5": "December 22nd, 2026"}, ["claude-sonnet-4-5 retires on 2026-12-22", "2026-11-30 here"]),
        ({"claude-opus-5": "soon"}, ['claude-opus-5 retires on "soon"', "cannot be read"]),
        ({"claude-opus-5": "March 41st, 2027"}, ["cannot be read"]),
        ({"claude-9": "March 1st, 2027"}, []),
        ({"claude-mythos-preview": None}, ["claude-mythos-preview retires on no announced date", "2026-06-30 here"]),
    ],
)
def test_a_retirement_that_we_lack_or_that_differs_is_named(changes: Mapping[str, str | None], says: list[str]) -> None:
    """anthropic, DEPRECATED_MODELS: only what is listed here matters."""
    assert installed().retirements is not None
    changed = {**(installed().retirements or {}), **changes}
    retirements = {model: text for model, text in changed.items() if text is not None}

    found = news(replace(installed(), retirements=retirements))

    assert len(found) == bool(says)
    assert all(part in found[0] for part in says)


def without(model: str) -> Upstream:
    """The state of a later SDK, which has dropped a model from both of its lists."""
    models, retirements = installed().sdk_models, installed().retirements
    assert models is not None
    assert retirements is not None
    kept = {name: text for name, text in retirements.items() if name != model}
    return replace(installed(), sdk_models=models - {model}, retirements=kept)


@pytest.mark.parametrize(
    ("model", "today", "is_drift"),
    [
        ("claude-mythos-preview", date(2026, 12, 1), False),
        ("claude-opus-4-5", date(2027, 1, 22), False),
        ("claude-opus-4-5", date(2027, 1, 21), True),
        ("claude-opus-4-6", date(2026, 12, 1), True),
    ],
)
def test_a_model_that_the_sdk_dropped_is_drift_only_while_it_is_in_service_here(
    model: str, today: date, is_drift: bool
) -> None:
    """SDK 2.15, types/model.py: a model leaves the lists when it retires."""
    found = find_drift(without(model), today=today, max_overlay_days=10**6)

    left = [sentence.split(" has left")[0] for sentence in found if "has left" in sentence]
    assert left == ([model] if is_drift else [])


def test_no_sentence_asks_to_bring_back_a_model_that_is_gone() -> None:
    """The installed SDK has forgotten those whose dates have passed."""
    assert installed().retirements is not None
    gone = [each.model for each in LISTINGS if each.retires_on is not None and each.retires_on <= date(2026, 12, 1)]

    found = find_drift(installed(), today=date(2026, 12, 1), max_overlay_days=10**6)

    assert len(gone) > len(installed().retirements or {})
    assert found == ()


def test_a_model_that_the_sdk_lists_and_that_is_not_offered_here_is_named() -> None:
    """Work could be planned with it."""
    models = installed().sdk_models
    assert models is not None

    (sentence,) = news(replace(installed(), sdk_models=models | {"claude-opus-4-1"}))

    assert sentence == "claude-opus-4-1 is listed by the Anthropic SDK and not offered here: correct its Listing."


def test_lists_that_the_sdk_no_longer_keeps_are_missed() -> None:
    """A check that compares with nothing must not say that all is well."""
    found = news(replace(installed(), sdk_models=None, retirements=None))

    assert len(found) == 2
    assert all("no longer" in sentence for sentence in found)


@pytest.mark.parametrize(("days", "is_old"), [(30, False), (31, True)])
def test_an_overlay_is_out_of_date_after_so_many_days(days: int, is_old: bool) -> None:
    """The day itself still counts as current."""
    found = find_drift(installed(), today=OVERLAY_DATE + timedelta(days=days), max_overlay_days=30)

    assert any("The overlay is" in sentence for sentence in found) == is_old


def test_the_commands_are_listed_without_importing_the_sdk_or_the_price_data() -> None:
    """Both take a noticeable part of a start, and only the check needs the SDK."""
    program = "import sys, budget_server.cli.app; sys.exit('anthropic' in sys.modules or 'genai_prices' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
