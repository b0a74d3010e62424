"""The user's own table of prices: the TOML file that ``BUDGET_PRICES`` names.

It has one table for each model, in US dollars per million tokens, written as strings so that no digit is lost::

    [models."my-model"]
    input = "3.00"
    output = "15.00"
    cache_write_5m = "3.75"        # when absent, the listed model's multiple of input, else 1.25 times
    cache_write_1h = "6.00"        # likewise, else 2 times
    cache_read = "0.30"            # likewise, else 0.1 times
    web_search_per_1000 = "10.00"  # US dollars per thousand searches; when absent, searches have no price

A table replaces all that is known of a listed model: it has one price for prompts of any length, and none for fast
mode. Inference in the US costs 1.1 times these prices unless the id is a listed one without a choice of geography.

A price in another unit (per token, per thousand tokens) has the right form but charges next to nothing, so prices far
from every known one are questioned in a sentence. They stay in force: a person may know better.
"""

import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from fractions import Fraction
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from budget_tools.core.errors import ConfigurationError, InvalidArgumentError
from budget_tools.core.money import format_usd, parse_usd
from budget_tools.core.text_safety import sentence
from budget_tools.pricing.model_ids import same_model
from budget_tools.pricing.price_data import (
    LISTINGS,
    US_MULTIPLIER,
    ModelPrices,
    PricePeriod,
    TokenPrices,
    flat_periods,
)

OVERRIDES_SOURCE = "BUDGET_PRICES"

_REQUIRED_KEYS = ("input", "output")
_MODEL_KEYS = (*_REQUIRED_KEYS, "cache_write_5m", "cache_write_1h", "cache_read", "web_search_per_1000")

# Anthropic's usual multiples of the input price ("Prompt caching", pricing).
_USUAL_MULTIPLES = {
    "cache_write_5m": Fraction(5, 4),
    "cache_write_1h": Fraction(2),
    "cache_read": Fraction(1, 10),
}

_FAR = 100
"""Factor beyond which a price is questioned: discounts and surcharges stay below 100, another unit is 1,000 or more."""

_FAR_FROM_ANY = 20
"""The same for a model that is not listed, against the cheapest and the dearest listed ones."""


@dataclass(frozen=True, kw_only=True, slots=True)
class OwnPrices:
    """The prices in the user's table by exact id, and sentences about those that are probably mistakes."""

    models: dict[str, ModelPrices]
    doubts: tuple[str, ...]


def is_anthropics_own(base_url: str) -> bool:
    """Return whether an address of the Messages API is Anthropic's; an empty one means the default, which is."""
    if not base_url:
        return True
    host = urlsplit(base_url).hostname or ""
    return host == "anthropic.com" or host.endswith(".anthropic.com")


def read_own_prices(path: Path, known: Mapping[str, ModelPrices], *, base_url: str) -> OwnPrices:
    """Read the user's table.

    Args:
        path: the TOML file.
        known: the prices of listed models, which the table is compared with.
        base_url: where requests go. Retirement dates are those of Anthropic's own API: a model that another endpoint
            serves at a price of the user's does not have one.

    Raises:
        ConfigurationError: the table cannot be read or is not in the format above.
    """
    listings = {listing.model: listing for listing in LISTINGS}
    has_retirements = is_anthropics_own(base_url)
    models: dict[str, ModelPrices] = {}
    doubts: list[str] = []
    for model, table in _tables(path).items():
        given = _given(path, model, table)
        listed = known.get(same_model(model, known))
        reference = None if listed is None else listed.on(datetime.now(UTC).date())
        doubts += _doubts(model, given, reference, known.values())
        models[model] = ModelPrices(
            model=model,
            source=OVERRIDES_SOURCE,
            periods=flat_periods(_token_prices(given, reference), given.get("web_search_per_1000")),
            us_multiplier=US_MULTIPLIER if model not in listings or listings[model].us else None,
            retires_on=listings[model].retires_on if has_retirements and model in listings else None,
        )
    return OwnPrices(models=models, doubts=tuple(doubts))


def _tables(path: Path) -> Mapping[str, Any]:
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as exc:
        raise ConfigurationError(
            f"BUDGET_PRICES names {path}, which cannot be read ({exc.strerror}): correct the path or unset it."
        ) from exc
    except UnicodeDecodeError as exc:
        raise ConfigurationError(f"BUDGET_PRICES file {path} is not UTF-8 text: save it as UTF-8.") from exc
    except (tomllib.TOMLDecodeError, RecursionError) as exc:
        raise ConfigurationError(f"BUDGET_PRICES file {path} is not valid TOML: {exc}.") from exc
    tables = document.get("models")
    if document.keys() != {"models"} or not isinstance(tables, dict):
        raise ConfigurationError(
            f'BUDGET_PRICES file {path} must hold tables named [models."<model id>"] and nothing else at its top level.'
        )
    return tables


def _given(path: Path, model: str, table: object) -> dict[str, int]:
    """Read one table: microcents per million tokens (searches: per thousand) by key; absent keys are left out."""
    place = f'BUDGET_PRICES file {path}, table [models."{model}"]'
    if not model.strip() or not isinstance(table, dict):
        raise ConfigurationError(f'{place}: write one table for each model, headed [models."<model id>"].')
    for key in table:
        if key not in _MODEL_KEYS:
            raise ConfigurationError(
                f"{place}, key {key}: no such price; the keys are {', '.join(_MODEL_KEYS)}, "
                "in US dollars per million tokens (searches: per thousand)."
            )
    for key in _REQUIRED_KEYS:
        if key not in table:
            raise ConfigurationError(f'{place}, key {key}: missing; write it as {key} = "<US dollars>".')
    return {key: _price(place, key, value) for key, value in table.items()}


def _price(place: str, key: str, value: object) -> int:
    """Read a price; microcents per million tokens are the microcents of the dollars per million tokens."""
    if not isinstance(value, str):
        raise ConfigurationError(f"{place}, key {key}: write the price as a string, in quotes.")
    try:
        return parse_usd(value, name=key)
    except InvalidArgumentError as exc:
        raise ConfigurationError(f"{place}, key {key}: {exc.message}") from exc


def _token_prices(given: Mapping[str, int], reference: PricePeriod | None) -> TokenPrices:
    usual = {} if reference is None else _by_key(reference)

    def cached(key: str) -> int:
        if key in given:
            return given[key]
        multiple = _USUAL_MULTIPLES[key]
        if usual.get(key) is not None and usual["input"]:
            multiple = Fraction(usual[key], usual["input"])
        return -(-given["input"] * multiple.numerator // multiple.denominator)  # up to a microcent

    return TokenPrices(
        input_microcents_per_mtok=given["input"],
        output_microcents_per_mtok=given["output"],
        cache_write_5m_microcents_per_mtok=cached("cache_write_5m"),
        cache_write_1h_microcents_per_mtok=cached("cache_write_1h"),
        cache_read_microcents_per_mtok=cached("cache_read"),
    )


def _by_key(period: PricePeriod) -> dict[str, int]:
    """Return the prices of the shortest prompts by the table's keys; unknown ones are left out."""
    prices = period.standard[0].prices
    by_key = {
        "input": prices.input_microcents_per_mtok,
        "output": prices.output_microcents_per_mtok,
        "cache_write_5m": prices.cache_write_5m_microcents_per_mtok,
        "cache_write_1h": prices.cache_write_1h_microcents_per_mtok,
        "cache_read": prices.cache_read_microcents_per_mtok,
        "web_search_per_1000": period.web_search_microcents_per_1000,
    }
    return {key: price for key, price in by_key.items() if price is not None}


def _doubts(
    model: str, given: Mapping[str, int], reference: PricePeriod | None, known: Iterable[ModelPrices]
) -> Iterator[str]:
    """Yield at most one sentence about a table whose unit is probably another."""
    if reference is not None:
        usual = {key: (price, price) for key, price in _by_key(reference).items()}
        factor, whose = _FAR, "known for that model"
    else:
        all_known = [_by_key(each.periods[-1]) for each in known]
        usual = {}
        for key in _REQUIRED_KEYS:
            prices = [each[key] for each in all_known]
            usual[key] = (min(prices), max(prices))
        factor, whose = _FAR_FROM_ANY, "known for any model"
    far = [
        f"{key} = ${format_usd(price)}, where {_range(*usual[key])} is {whose}"
        for key, price in given.items()
        if key in usual and _is_far(price, *usual[key], factor)
    ]
    if far:
        yield sentence(
            f'The prices of "{model}" in the file that {OVERRIDES_SOURCE} names look like another unit: '
            f"{'; '.join(far)}. They are US dollars per million tokens (searches: per thousand), and are in force as "
            "they are."
        )


def _is_far(price: int, least: int, most: int, factor: int) -> bool:
    """Return whether a price is so many times below or above the known ones; a price of 0 counts as intended."""
    return price != 0 and (price * factor <= least or price >= most * factor)


def _range(least: int, most: int) -> str:
    return f"${format_usd(least)}" if least == most else f"${format_usd(least)} to ${format_usd(most)}"


def no_price(what: str, model: str) -> str:
    """Return the sentence that something about a model has no price, and the ways out."""
    return (
        f"No price is known for {what} with {model}: "
        f"use the model without, or give its prices in the file that {OVERRIDES_SOURCE} names."
    )
