"""Drift between our own part of the prices and the packages installed beside it.

The overlay, the list of ids and the retirement dates in ``price_data`` are kept by hand; genai-prices and Anthropic's
SDK change with every release. ``find_drift`` reports each difference in a sentence, for a person to correct
``price_data``.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from decimal import Decimal
from fractions import Fraction
from typing import TYPE_CHECKING, get_args

from budget_tools.pricing.price_data import (
    BATCH_MULTIPLIER,
    LISTINGS,
    OVERLAY_DATE,
    Listing,
    PricePeriod,
    anthropic_entries,
    entry_periods,
    overlay_periods,
)

if TYPE_CHECKING:  # imported where it is used: its tables take a noticeable part of startup
    from genai_prices.types import MatchLogic, ModelInfo, TieredPrices

MAX_OVERLAY_DAYS = 90
"""Number of days without a look at the price page after which the overlay may be out of date."""

NOT_LISTED = {
    "claude-2": "all of its versions retired in 2025 (SDK, DEPRECATED_MODELS)",
    "claude-v1": "all of its versions retired in 2024 (SDK, DEPRECATED_MODELS)",
    "claude-opus-4": "no id that the SDK lists; claude-opus-4-0 is the listed one of the same entry",
    "claude-sonnet-4": "no id that the SDK lists; claude-sonnet-4-0 is the listed one of the same entry",
    "claude-opus-5-latest": "no id that the SDK lists; an alias may move on to a model of another price",
}
"""Ids that genai-prices has and that are left out on purpose, each with its reason."""

_FAST = {"speed": "fast"}
_BATCH = {"processing": "batch"}
_MONTHS = (
    *("January", "February", "March", "April", "May", "June"),
    *("July", "August", "September", "October", "November", "December"),
)
_SDK_DATE = re.compile(r"([A-Z][a-z]+) (\d{1,2})(?:st|nd|rd|th)?, (\d{4})", re.ASCII)


@dataclass(frozen=True, kw_only=True, slots=True)
class Upstream:
    """Facts about Anthropic's models in the installed packages.

    ``retirements`` are texts such as ``"June 15th, 2026"``, by model id. They and ``sdk_models`` are ``None`` if the
    SDK no longer keeps them in the place that was looked at.
    """

    entries: Mapping[str, "ModelInfo"]
    sdk_models: frozenset[str] | None
    retirements: Mapping[str, str] | None


def installed_upstream() -> Upstream:
    """Read what is installed: genai-prices, and the SDK's lists (anthropic 2.15, types/model.py and _data)."""
    sdk_models: frozenset[str] | None = None
    retirements: Mapping[str, str] | None = None
    try:  # imported here: the SDK takes most of a second to import
        from anthropic.types import Model

        sdk_models = frozenset(name for part in get_args(Model) for name in get_args(part)) or None
    except ImportError:
        pass
    try:
        from anthropic._data import DEPRECATED_MODELS

        retirements = DEPRECATED_MODELS
    except ImportError:
        pass
    return Upstream(entries=anthropic_entries(), sdk_models=sdk_models, retirements=retirements)


def find_drift(upstream: Upstream, *, today: date, max_overlay_days: int = MAX_OVERLAY_DAYS) -> tuple[str, ...]:
    """Compare ``price_data`` with the installed packages; return one sentence for each thing a person should check."""
    return (
        *_entry_drift(upstream.entries),
        *_missing_entries(upstream.entries),
        *_sdk_drift(upstream, today),
        *_age(today, max_overlay_days),
    )


def _entry_drift(entries: Mapping[str, "ModelInfo"]) -> Iterator[str]:
    """Yield what became of the entries and overlay prices behind the listed ids."""
    for listing in LISTINGS:
        entry, overlay = entries.get(listing.entry_key), overlay_periods(listing.model)
        if entry is None:
            if overlay is None:
                yield (
                    f"{listing.model} has lost its price: genai-prices no longer has the entry {listing.entry_key}; "
                    "correct the entry's key, or give the prices in the overlay."
                )
            continue
        periods = entry_periods(entry)
        if periods is None:
            yield (
                f"{listing.model} is not priced by genai-prices: its entry {listing.entry_key} has prices of a kind "
                "that would be misread; teach price_data to read them."
            )
            continue
        if overlay is not None:
            yield _overtaken(listing, periods, overlay)
        yield from _misread_modes(listing, entry, periods)


def _overtaken(listing: Listing, periods: tuple[PricePeriod, ...], overlay: tuple[PricePeriod, ...]) -> str:
    if (periods[-1].standard, periods[-1].web_search_microcents_per_1000) == (
        overlay[-1].standard,
        overlay[-1].web_search_microcents_per_1000,
    ):
        return f"{listing.model} now has the overlay's prices in genai-prices too: remove it from the overlay."
    return (
        f"{listing.model} now has other prices in genai-prices than in the overlay, and those are in force: "
        "compare both with the price page, then remove it from the overlay."
    )


def _misread_modes(listing: Listing, entry: "ModelInfo", periods: tuple[PricePeriod, ...]) -> Iterator[str]:
    """Yield prices of modes that are not read, and a batch tier that differs from the assumed multiple."""
    variants = entry.price_variants or ()
    for variant in variants:
        if variant.when not in (_FAST, _BATCH):
            mode = ", ".join(f"{key} {value}" for key, value in variant.when.items())
            yield f"{listing.model} has prices for {mode} in genai-prices, which are not read: see what they are for."
    batches = [variant for variant in variants if variant.when == _BATCH]
    if batches:
        starts = [getattr(variant.constraint, "start_date", date.min) for variant in batches]
        at = datetime.combine(max(*starts, periods[-1].starts_on), time(), UTC)
        usual = {key: _amounts(price) for key, price in entry.get_prices(at).__dict__.items() if key.endswith("_mtok")}
        batch = entry.get_prices(at, _BATCH)
        if any(
            _amounts(getattr(batch, key)) != [amount * BATCH_MULTIPLIER for amount in amounts]
            for key, amounts in usual.items()
        ):
            yield (
                f"{listing.model} costs other than {BATCH_MULTIPLIER} of the list price in batches, says genai-prices: "
                "BATCH_MULTIPLIER does not hold for every model."
            )


def _amounts(price: "Decimal | TieredPrices | None") -> list[Fraction]:
    if price is None:
        return []
    return (
        [Fraction(price)]
        if isinstance(price, Decimal)
        else [Fraction(price.base), *(Fraction(tier.price) for tier in price.tiers)]
    )


def _missing_entries(entries: Mapping[str, "ModelInfo"]) -> Iterator[str]:
    """Yield exact ids of genai-prices that are unknown here; its prefixes and patterns do not name models."""
    known = {listing.model for listing in LISTINGS} | {listing.entry_key for listing in LISTINGS} | NOT_LISTED.keys()
    found = {name: key for key, entry in entries.items() for name in (key, *_exact_ids(entry.match))}
    for name in sorted(found.keys() - known):
        yield (
            f"{name} has a price in genai-prices (entry {found[name]}) and is not listed: "
            "add a Listing, or a reason to NOT_LISTED."
        )


def _exact_ids(clause: "MatchLogic") -> Iterator[str]:
    from genai_prices.types import ClauseEquals, ClauseOr

    if isinstance(clause, ClauseEquals):
        yield clause.equals
    elif isinstance(clause, ClauseOr):
        for part in clause.or_:
            yield from _exact_ids(part)


def _sdk_drift(upstream: Upstream, today: date) -> Iterator[str]:
    """Yield models that the SDK lists, and the dates from which it calls them retired."""
    if upstream.sdk_models is None:
        yield "The Anthropic SDK no longer lists its models in anthropic.types.Model: find where it does."
    for model in sorted((upstream.sdk_models or frozenset()) - {listing.model for listing in LISTINGS}):
        yield f"{model} is listed by the Anthropic SDK and not by us: add a Listing, with overlay prices if need be."
    if upstream.retirements is None:
        yield "The Anthropic SDK no longer keeps retirement dates in DEPRECATED_MODELS: find where it does."
    for listing in LISTINGS:
        yield from _lifecycle_drift(listing, upstream, today)


def _lifecycle_drift(listing: Listing, upstream: Upstream, today: date) -> Iterator[str]:
    """Yield what the SDK says of a model's end that is not said here.

    The SDK drops a model from both of its lists once it has retired. A model that is out of service here may therefore
    be missing there; one that is in service here may not.
    """
    here = listing.retires_on
    is_gone = not listing.is_offered or (here is not None and here <= today)
    text = None if upstream.retirements is None else upstream.retirements.get(listing.model)
    if text is not None:
        announced = _sdk_date(text)
        if announced is None:
            yield f'{listing.model} retires on "{text}", says the Anthropic SDK, which cannot be read as a date.'
        elif announced != here:
            yield (
                f"{listing.model} retires on {announced}, says the Anthropic SDK, "
                f"and on {here or 'no announced date'} here: correct its Listing."
            )
    elif upstream.sdk_models is None or upstream.retirements is None:
        return
    elif listing.model not in upstream.sdk_models:
        if not is_gone:
            yield (
                f"{listing.model} has left the Anthropic SDK's list of models and is in service here: "
                "give its Listing the date of its retirement, or is_offered=False."
            )
    elif here is not None:
        yield (
            f"{listing.model} retires on no announced date, says the Anthropic SDK, which lists it, "
            f"and on {here} here: correct its Listing."
        )
    elif is_gone:
        yield f"{listing.model} is listed by the Anthropic SDK and not offered here: correct its Listing."


def _sdk_date(text: str) -> date | None:
    match = _SDK_DATE.fullmatch(text)
    if match is None or match[1] not in _MONTHS:
        return None
    try:
        return date(int(match[3]), _MONTHS.index(match[1]) + 1, int(match[2]))
    except ValueError:
        return None


def _age(today: date, max_overlay_days: int) -> Iterator[str]:
    days = (today - OVERLAY_DATE).days
    if days > max_overlay_days:
        yield (
            f"The overlay is {days} days old ({OVERLAY_DATE}), more than {max_overlay_days}: "
            "compare it with the price page, and give it a new date."
        )
