"""The sources of prices: Pydantic's genai-prices, and an overlay of what it lacks.

A model is priced only under an id that is listed here or in the user's own table (``own_prices``). genai-prices itself
matches ids by prefix and pattern and would price ids that do not exist; so its entries are taken by their own key and
its matching is never used. Of several sources the user's table wins, then genai-prices, then the overlay below.
"""

from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from fractions import Fraction
from typing import TYPE_CHECKING

from budget_tools.core.money import parse_usd

if TYPE_CHECKING:  # imported where it is used: its tables take a noticeable part of startup
    from genai_prices.types import ModelInfo, ModelPrice

OVERLAY_DATE = date(2026, 11, 23)
OVERLAY_SOURCE = f"cycles-budget-mcp overlay {OVERLAY_DATE}"

TOKENS_PER_MTOK = 1_000_000

US_MULTIPLIER = Fraction(11, 10)
"""Inference in the US against list price, every class of token (Anthropic, "Data residency", pricing)."""

BATCH_MULTIPLIER = Fraction(1, 2)
"""The batch tier against list price, every class of token but not searches (Anthropic, "Pricing", batch processing)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenPrices:
    """One price for each class of token; ``None`` if the price is not known, which is never the same as free."""

    input_microcents_per_mtok: int
    output_microcents_per_mtok: int
    cache_write_5m_microcents_per_mtok: int | None
    cache_write_1h_microcents_per_mtok: int | None
    cache_read_microcents_per_mtok: int | None


@dataclass(frozen=True, kw_only=True, slots=True)
class PriceTier:
    """The prices of a whole request, output included, once its prompt has more than ``above_prompt_tokens``."""

    above_prompt_tokens: int
    prices: TokenPrices


@dataclass(frozen=True, kw_only=True, slots=True)
class PricePeriod:
    """A model's prices from ``starts_on`` (UTC) until the next period.

    Tiers ascend and the first of them holds for any prompt that does not reach another. ``fast`` is empty if the model
    has no fast mode.
    """

    starts_on: date
    standard: tuple[PriceTier, ...]
    fast: tuple[PriceTier, ...] = ()
    web_search_microcents_per_1000: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelPrices:
    """All that is known of one model id's prices.

    ``periods`` ascend from the beginning of time. ``us_multiplier`` is ``None`` if the model offers no choice of
    geography; ``retires_on`` if no date is announced. ``is_offered`` says whether new work can be planned with it.
    """

    model: str
    source: str
    periods: tuple[PricePeriod, ...]
    us_multiplier: Fraction | None = None
    retires_on: date | None = None
    is_offered: bool = True

    def on(self, day: date) -> PricePeriod:
        """Return the prices that hold on a day (UTC)."""
        return self.during(day, day)[0]

    def during(self, first: date, last: date) -> tuple[PricePeriod, ...]:
        """Return every period that holds on some day from ``first`` to ``last`` (UTC), in order."""
        if len(self.periods) == 1:
            return self.periods
        # A period is left out if it starts after the last day, or if its successor starts on or before the first.
        ends = [*(period.starts_on for period in self.periods[1:]), date.max]
        return tuple(
            period
            for period, end in zip(self.periods, ends, strict=True)
            if period.starts_on <= last and (end > first or end == date.max)
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Listing:
    """A model id that may have a price, with the facts that its genai-prices entry lacks."""

    model: str
    entry: str = ""
    """Key of the genai-prices entry; the id itself if empty."""
    us: bool = False
    retires_on: date | None = None
    is_offered: bool = True
    """Whether Anthropic's SDK still lists it; some ids have left its list without a date."""

    @property
    def entry_key(self) -> str:
        """Key of the genai-prices entry."""
        return self.entry or self.model


# The ids that Anthropic's SDK lists (anthropic 2.15, types/model.py), then older ones whose prices are still known. The
# choice of geography came with Opus 4.6 and Sonnet 4.6. Retirement dates are the SDK's (DEPRECATED_MODELS), which
# drops them with the model: for removed models the SDK's last dates are kept.
LISTINGS = (
    Listing(model="claude-fable-5-2", us=True),
    Listing(model="claude-fable-5-1", us=True),
    Listing(model="claude-fable-5", us=True),
    Listing(model="claude-mythos-5-2", us=True),
    Listing(model="claude-mythos-5-1", us=True),
    Listing(model="claude-mythos-5", us=True),
    Listing(model="claude-mythos-preview", us=True, retires_on=date(2026, 6, 30)),
    Listing(model="claude-opus-5-5", us=True),
    Listing(model="claude-opus-5", us=True),
    Listing(model="claude-opus-4-8", us=True),
    Listing(model="claude-opus-4-7", us=True),
    Listing(model="claude-opus-4-6", us=True),
    Listing(model="claude-opus-4-5", retires_on=date(2027, 1, 22)),
    Listing(model="claude-opus-4-5-20251101", entry="claude-opus-4-5", retires_on=date(2027, 1, 22)),
    Listing(model="claude-sonnet-5-5", us=True),
    Listing(model="claude-sonnet-5", us=True),
    Listing(model="claude-sonnet-4-6", us=True),
    Listing(model="claude-haiku-5-5", us=True),
    Listing(model="claude-haiku-4-5"),
    Listing(model="claude-haiku-4-5-20251001", entry="claude-haiku-4-5"),
    Listing(model="claude-sonnet-4-5", retires_on=date(2026, 11, 30)),
    Listing(model="claude-sonnet-4-5-20250929", entry="claude-sonnet-4-5", retires_on=date(2026, 11, 30)),
    Listing(model="claude-opus-4-1", is_offered=False),
    Listing(model="claude-opus-4-1-20250805", entry="claude-opus-4-1", is_offered=False),
    Listing(model="claude-opus-4-0", retires_on=date(2026, 6, 15)),
    Listing(model="claude-opus-4-20250514", entry="claude-opus-4-0", retires_on=date(2026, 6, 15)),
    Listing(model="claude-sonnet-4-0", retires_on=date(2026, 6, 15)),
    Listing(model="claude-sonnet-4-20250514", entry="claude-sonnet-4-0", retires_on=date(2026, 6, 15)),
    Listing(model="claude-3-7-sonnet-latest", retires_on=date(2026, 2, 19)),
    Listing(model="claude-3-7-sonnet-20250219", entry="claude-3-7-sonnet-latest", retires_on=date(2026, 2, 19)),
    Listing(model="claude-3-5-haiku-latest", retires_on=date(2026, 2, 19)),
    Listing(model="claude-3-5-haiku-20241022", entry="claude-3-5-haiku-latest", retires_on=date(2026, 2, 19)),
    Listing(model="claude-3-5-sonnet-20241022", entry="claude-3-5-sonnet", is_offered=False),
    Listing(model="claude-3-5-sonnet-20240620", entry="claude-3-5-sonnet", is_offered=False),
    Listing(model="claude-3-opus-20240229", entry="claude-3-opus-latest", retires_on=date(2026, 1, 5)),
    Listing(model="claude-3-sonnet-20240229", entry="claude-3-sonnet", retires_on=date(2025, 7, 21)),
    Listing(model="claude-3-haiku-20240307", entry="claude-3-haiku", is_offered=False),
)

# Models of limited availability that genai-prices 0.2.3 has no entry for: US dollars per million tokens of input,
# output, cache write for 5 minutes and for 1 hour, cache read (Anthropic, "Pricing", model pricing).
_OVERLAY = {
    "claude-mythos-5-1": ("10", "50", "12.50", "20", "0.25"),
    "claude-mythos-5": ("10", "50", "12.50", "20", "1.00"),
    "claude-mythos-preview": ("10", "50", "12.50", "20", "1.00"),
}
_OVERLAY_WEB_SEARCH_USD_PER_1000 = "10"


def read_prices() -> dict[str, ModelPrices]:
    """Read the prices of every listed model that has any, by exact id; nothing is fetched from the network."""
    from genai_prices import __version__

    entries = anthropic_entries()
    book: dict[str, ModelPrices] = {}
    for listing in LISTINGS:
        entry = entries.get(listing.entry_key)
        periods, source = (entry_periods(entry) if entry else None), f"genai-prices {__version__}"
        if periods is None:
            periods, source = overlay_periods(listing.model), OVERLAY_SOURCE
        if periods is not None:
            book[listing.model] = ModelPrices(
                model=listing.model,
                source=source,
                periods=periods,
                us_multiplier=US_MULTIPLIER if listing.us else None,
                retires_on=listing.retires_on,
                is_offered=listing.is_offered,
            )
    return book


def anthropic_entries() -> dict[str, "ModelInfo"]:
    """Return the installed genai-prices entries of Anthropic's models, by the entry's own key."""
    from genai_prices.data import providers

    return {entry.id: entry for provider in providers if provider.id == "anthropic" for entry in provider.models}


_ENTRY_KEYS = {
    "input_mtok",
    "output_mtok",
    "cache_write_mtok",
    "cache_write_5m_mtok",
    "cache_write_1h_mtok",
    "cache_read_mtok",
}
_ENTRY_WEB_SEARCH_KEY = "web_searches_kcount"


def entry_periods(entry: "ModelInfo") -> tuple[PricePeriod, ...] | None:
    """Convert an entry of genai-prices, or return ``None`` if it holds prices of a kind that would be misread."""
    from genai_prices.types import ModelPrice, StartDateConstraint

    dated = [] if isinstance(entry.prices, ModelPrice) else entry.prices
    variants = [variant for variant in entry.price_variants or () if variant.when == {"speed": "fast"}]
    starts = {date.min}
    for constraint in (*(price.constraint for price in dated), *(variant.constraint for variant in variants)):
        if isinstance(constraint, StartDateConstraint):
            starts.add(constraint.start_date)
        elif constraint is not None:
            return None  # prices by time of day
    periods = []
    for start in sorted(starts):
        at = datetime.combine(start, time(), UTC)
        standard = entry.get_prices(at)
        priced = {key for key, price in standard.__dict__.items() if price is not None}
        if not {"input_mtok", "output_mtok"} <= priced <= _ENTRY_KEYS | {_ENTRY_WEB_SEARCH_KEY}:
            return None
        # If asked for a variant that it does not have, genai-prices answers with the standard price: look first.
        is_fast = any(variant.constraint is None or variant.constraint.active(at) for variant in variants)
        web_search = standard.web_searches_kcount
        periods.append(
            PricePeriod(
                starts_on=start,
                standard=_entry_tiers(standard),
                fast=_entry_tiers(entry.get_prices(at, {"speed": "fast"})) if is_fast else (),
                web_search_microcents_per_1000=None if web_search is None else parse_usd(web_search),
            )
        )
    return tuple(periods)


def _entry_tiers(prices: "ModelPrice") -> tuple[PriceTier, ...]:
    from genai_prices.types import TieredPrices

    by_class = {key: getattr(prices, key) for key in _ENTRY_KEYS}
    # The five-minute write is the plain cache write unless it has a price of its own.
    if by_class["cache_write_5m_mtok"] is None:
        by_class["cache_write_5m_mtok"] = by_class["cache_write_mtok"]

    def above(key: str, threshold: int) -> int | None:
        price = by_class[key]
        if isinstance(price, TieredPrices):
            reached = [tier.price for tier in price.tiers if tier.start <= threshold]
            price = reached[-1] if reached else price.base
        return None if price is None else parse_usd(price)

    starts = {tier.start for price in by_class.values() if isinstance(price, TieredPrices) for tier in price.tiers}
    return tuple(
        PriceTier(
            above_prompt_tokens=threshold,
            prices=TokenPrices(
                input_microcents_per_mtok=_known(above("input_mtok", threshold)),
                output_microcents_per_mtok=_known(above("output_mtok", threshold)),
                cache_write_5m_microcents_per_mtok=above("cache_write_5m_mtok", threshold),
                cache_write_1h_microcents_per_mtok=above("cache_write_1h_mtok", threshold),
                cache_read_microcents_per_mtok=above("cache_read_mtok", threshold),
            ),
        )
        for threshold in sorted({0, *starts})
    )


def _known(price: int | None) -> int:
    assert price is not None, "the caller has looked"
    return price


def overlay_periods(model: str) -> tuple[PricePeriod, ...] | None:
    """Return the overlay's prices of a model, if any."""
    if model not in _OVERLAY:
        return None
    usd_input, usd_output, usd_write_5m, usd_write_1h, usd_read = _OVERLAY[model]
    prices = TokenPrices(
        input_microcents_per_mtok=parse_usd(usd_input),
        output_microcents_per_mtok=parse_usd(usd_output),
        cache_write_5m_microcents_per_mtok=parse_usd(usd_write_5m),
        cache_write_1h_microcents_per_mtok=parse_usd(usd_write_1h),
        cache_read_microcents_per_mtok=parse_usd(usd_read),
    )
    return flat_periods(prices, parse_usd(_OVERLAY_WEB_SEARCH_USD_PER_1000))


def flat_periods(prices: TokenPrices, web_search_microcents_per_1000: int | None) -> tuple[PricePeriod, ...]:
    """Return prices that hold always and for prompts of any length."""
    tier = PriceTier(above_prompt_tokens=0, prices=prices)
    return (
        PricePeriod(
            starts_on=date.min, standard=(tier,), web_search_microcents_per_1000=web_search_microcents_per_1000
        ),
    )
