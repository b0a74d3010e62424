"""What a call cost, and the most that it can cost: the price book.

``cost`` prices usage exactly: every class of token at its own price, in whole numbers and fractions, rounded up once to
a microcent. ``worst_case`` bounds a request before it leaves. The bound holds because each of its parts does:

- each prompt token is charged as the dearest class that it can be billed as: plain input and, if the request caches,
  a cache read or a cache write of no longer a lifetime than it asks for;
- output is charged for all of ``max_output_tokens``, which the API enforces, thinking included;
- of prices that depend on the prompt's length, the dearest that a prompt within ``input_tokens`` can reach is taken,
  for input and output each by itself; likewise of prices that change within the hour that a call may take;
- geography that the request leaves open is charged as the dearer one, since a workspace may have it as its default;
- the batch tier is only ever cheaper, and the priority tier is charged at list price, as ``cost`` does too.

The API's own server tools (web search among them) read further input while they run; requests with them have no bound.
"""

import difflib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from pathlib import Path
from typing import Literal

from budget_tools.core.errors import InvalidArgumentError, UnknownModelError, UsageError
from budget_tools.core.money import MAX_AMOUNT, ceil_microcents, format_usd
from budget_tools.pricing.price_data import (
    BATCH_MULTIPLIER,
    OVERLAY_SOURCE,
    OVERRIDES_SOURCE,
    ModelPrices,
    PricePeriod,
    PriceTier,
    TokenPrices,
    read_prices,
)
from budget_tools.pricing.usage import MAX_COUNT, ReportedUsage, TokenUsage

_TOKENS_PER_MTOK = 1_000_000
_SEARCHES_PER_PRICE = 1_000

# A call ends within the hour after its bound was computed: the SDK gives up after ten minutes, waiting included.
_LONGEST_CALL = timedelta(hours=1)

# What the API reports for a model or a request without a choice of geography, and for the free choice.
_LIST_PRICE_GEOS = ("", "global", "not_available")

# Longer than any model id: the search for the nearest one costs time with the square of the length.
_LONGEST_NEAR_ID = 100


@dataclass(frozen=True, kw_only=True, slots=True)
class Charge:
    """The exact cost of one call, and where its prices came from."""

    amount_microcents: int
    price_source: str


@dataclass(frozen=True, kw_only=True, slots=True)
class RequestOptions:
    """What a request says that changes its price.

    ``cache`` is the longest lifetime of any cache write that the request asks for; ``inference_geo`` is what it sends,
    ``""`` if it sends none; ``speed`` is the mode that it asks for.

    Raises:
        InvalidArgumentError: an option is none of the values above.
    """

    cache: Literal["none", "5m", "1h"] = "none"
    inference_geo: Literal["global", "us", ""] = ""
    speed: Literal["standard", "fast"] = "standard"

    def __post_init__(self) -> None:
        for name, value, choices in (
            ("cache", self.cache, ("none", "5m", "1h")),
            ("inference_geo", self.inference_geo, ("global", "us", "")),
            ("speed", self.speed, ("standard", "fast")),
        ):
            if value not in choices:
                raise InvalidArgumentError(f"{name} must be one of {', '.join(map(json.dumps, choices))}.")


PLAIN_REQUEST = RequestOptions()
"""A plain request: nothing cached, standard speed, geography left to the workspace."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Ceiling:
    """The dearest prices that one request can meet."""

    input_microcents_per_mtok: int
    output_microcents_per_mtok: int
    multiplier: Fraction


class PriceBook:
    """Prices by exact model id; immutable once loaded."""

    def __init__(self, prices: Mapping[str, ModelPrices]) -> None:
        self._prices = dict(prices)

    @classmethod
    def load(cls, overrides_path: Path | None = None) -> "PriceBook":
        """Read the prices that are installed, and over them the user's own table if there is one.

        Works offline, always. The format of the table is described in ``price_data``.

        Raises:
            ConfigurationError: the user's table cannot be read or is not in its format.
        """
        return cls(read_prices(overrides_path))

    @property
    def models(self) -> tuple[str, ...]:
        """Every id that has a price, in alphabetical order."""
        return tuple(sorted(self._prices))

    def in_service(self, *, at: datetime | None = None) -> tuple[str, ...]:
        """Every id that new work can be planned with, in alphabetical order: offered, and not retired."""
        today = _moment(at).date()
        return tuple(
            model
            for model in self.models
            if (prices := self._prices[model]).is_offered and (prices.retires_on is None or prices.retires_on > today)
        )

    def price(self, model: str) -> ModelPrices:
        """Return what is known of a model's prices.

        Raises:
            UnknownModelError: the id is not listed; no price is ever guessed from the ids around it.
        """
        try:
            return self._prices[model]
        except KeyError:
            raise UnknownModelError(_unknown_model(model, self._prices), model=model) from None

    def lifecycle_note(self, model: str, *, at: datetime | None = None) -> str:
        """Say when the API stops, or stopped, serving a model; empty where no date is announced.

        Raises:
            UnknownModelError: the id is not listed.
        """
        retires_on = self.price(model).retires_on
        if retires_on is None:
            return ""
        if retires_on <= _moment(at).date():
            return f"{model} was retired on {retires_on}: the API refuses it."
        return f"{model} will be retired on {retires_on}."

    def cost(self, model: str, usage: TokenUsage, *, at: datetime | None = None) -> Charge:
        """Price what a call used, exactly, rounded up once.

        Args:
            model: the exact id that served the call.
            usage: what the API reported.
            at: when the call was made, with a time zone; now when absent.

        Raises:
            UnknownModelError: the id is not listed.
            UsageError: the usage holds something that the model has no price for, or a sum beyond int64.
        """
        return _charge(*self._exact_cost(model, usage, _moment(at)))

    def cost_of(self, model: str, reported: ReportedUsage, *, at: datetime | None = None) -> Charge:
        """Price a report entry by entry, exactly, rounded up once; calls in one sum are priced as equally long.

        Args:
            model: the exact id of every entry that names none.
            reported: what was reported; a sum that does not say of how many calls is priced as one.
            at: when the call was made, with a time zone; now when absent.

        Raises:
            UnknownModelError: the id is not listed.
            UsageError: as for ``cost`` and ``priced_as``.
        """
        moment = _moment(at)
        priced = [(self.priced_as(entry.model, model), entry) for entry in reported.entries]
        costs = [self._exact_cost(served, entry.usage, moment, entry.calls or 1) for served, entry in priced]
        return _charge(sum((exact for exact, _ in costs), Fraction(0)), " + ".join(dict.fromkeys(s for _, s in costs)))

    def priced_as(self, named: str, model: str) -> str:
        """Return the id whose price an entry of usage has: the model that it names, or the model of the call.

        Raises:
            UsageError: it names a model that is not listed, nor a dated form of the call's.
        """
        if named in self._prices:
            return named
        if named and not re.fullmatch(rf"{re.escape(model)}-\d{{8}}", named):
            raise UsageError(f"The usage names a model of its own. {_unknown_model(named, self._prices)}")
        return model

    def _exact_cost(self, model: str, usage: TokenUsage, at: datetime, calls: int = 1) -> tuple[Fraction, str]:
        prices = self.price(model)
        period = prices.on(at.date())
        tier = _tier(_tiers(prices, period, usage), -(-usage.prompt_tokens // calls))
        # Counts times microcents per million tokens: whole numbers until the one division at the end.
        millionths = usage.input_tokens * tier.input_microcents_per_mtok
        millionths += usage.output_tokens * tier.output_microcents_per_mtok
        for name, count, price in (
            ("cache reads", usage.cache_read_input_tokens, tier.cache_read_microcents_per_mtok),
            ("5-minute cache writes", usage.cache_creation_5m_input_tokens, tier.cache_write_5m_microcents_per_mtok),
            ("1-hour cache writes", usage.cache_creation_1h_input_tokens, tier.cache_write_1h_microcents_per_mtok),
        ):
            if count:
                millionths += count * _priced(price, name, model)
        exact = Fraction(millionths, _TOKENS_PER_MTOK)
        source = prices.source
        if usage.inference_geo not in _LIST_PRICE_GEOS:
            if usage.inference_geo != "us" or prices.us_multiplier is None:
                raise UsageError(_no_price("inference in the reported inference_geo", model))
            exact *= prices.us_multiplier
            source = f"{source} + {OVERLAY_SOURCE}"
        # Fast mode is not offered in batches; should both be reported, no discount is assumed.
        if usage.service_tier == "batch" and usage.speed != "fast":
            exact *= BATCH_MULTIPLIER
        if usage.web_search_requests:
            price = _priced(period.web_search_microcents_per_1000, "web searches", model)
            exact += Fraction(usage.web_search_requests * price, _SEARCHES_PER_PRICE)
        return exact, source

    def worst_case(
        self,
        model: str,
        *,
        input_tokens: int,
        max_output_tokens: int,
        at: datetime | None = None,
        options: RequestOptions = PLAIN_REQUEST,
    ) -> int:
        """Bound in microcents what a request can cost: no usage that the API may report for it is dearer.

        Args:
            model: the exact id that the request names.
            input_tokens: a bound of the prompt's tokens, whether read from the cache or not.
            max_output_tokens: the ``max_tokens`` that the request sends.
            at: when the request leaves, with a time zone; now when absent.
            options: what else in the request changes its price.

        Raises:
            UnknownModelError: the id is not listed.
            InvalidArgumentError: a count is impossible, an option has no price here, or the bound passes int64.
        """
        _check_tokens("input_tokens", input_tokens)
        _check_tokens("max_output_tokens", max_output_tokens)
        ceiling = self._ceiling(model, input_tokens, _moment(at), options)
        millionths = input_tokens * ceiling.input_microcents_per_mtok
        millionths += max_output_tokens * ceiling.output_microcents_per_mtok
        return _amount(Fraction(millionths, _TOKENS_PER_MTOK) * ceiling.multiplier)

    def most_output_tokens(
        self,
        model: str,
        *,
        input_tokens: int,
        amount_microcents: int,
        at: datetime | None = None,
        options: RequestOptions = PLAIN_REQUEST,
    ) -> int:
        """Return the largest ``max_output_tokens`` whose worst case fits an amount; 0 if none does.

        Raises:
            UnknownModelError: the id is not listed.
            InvalidArgumentError: as for ``worst_case``.
        """
        _check_tokens("input_tokens", input_tokens)
        ceiling = self._ceiling(model, input_tokens, _moment(at), options)
        # The bound is an exact price rounded up, which fits a whole amount exactly when the exact price does.
        millionths = Fraction(amount_microcents * _TOKENS_PER_MTOK) / ceiling.multiplier
        left = millionths - input_tokens * ceiling.input_microcents_per_mtok
        if left < 0:
            return 0
        if ceiling.output_microcents_per_mtok == 0:
            return MAX_COUNT
        return min(left // ceiling.output_microcents_per_mtok, MAX_COUNT)

    def expected(self, model: str, *, input_tokens: int, output_tokens: int, at: datetime | None = None) -> int:
        """Return the list price in microcents of a plain call: nothing cached, standard speed, any geography.

        Raises:
            UnknownModelError: the id is not listed.
            InvalidArgumentError: a count is impossible, or the price passes int64.
        """
        _check_tokens("input_tokens", input_tokens)
        _check_tokens("output_tokens", output_tokens)
        tier = _tier(self.price(model).on(_moment(at).date()).standard, input_tokens)
        millionths = input_tokens * tier.input_microcents_per_mtok + output_tokens * tier.output_microcents_per_mtok
        return _amount(Fraction(millionths, _TOKENS_PER_MTOK))

    def _ceiling(self, model: str, input_tokens: int, now: datetime, options: RequestOptions) -> _Ceiling:
        prices = self.price(model)
        within_reach: list[TokenPrices] = []
        for period in prices.during(now.date(), (now + _LONGEST_CALL).date()):
            if options.speed == "fast" and not period.fast:
                raise InvalidArgumentError(_no_price("fast mode", model))
            # Standard prices stay within reach of a fast request: the API may have served it at standard speed.
            tiers = (*period.standard, *period.fast) if options.speed == "fast" else period.standard
            # The first tier, above 0 tokens, is within reach of an empty prompt too.
            within_reach += [tier.prices for tier in tiers if tier.above_prompt_tokens < max(input_tokens, 1)]
        multiplier = Fraction(1)
        if options.inference_geo == "us" and prices.us_multiplier is None:
            raise InvalidArgumentError(_no_price("a choice of inference_geo", model))
        if options.inference_geo != "global" and prices.us_multiplier is not None:
            multiplier = prices.us_multiplier
        return _Ceiling(
            input_microcents_per_mtok=max(
                price for tier in within_reach for price in _prompt_prices(tier, options.cache, model)
            ),
            output_microcents_per_mtok=max(tier.output_microcents_per_mtok for tier in within_reach),
            multiplier=multiplier,
        )


def _prompt_prices(tier: TokenPrices, cache: str, model: str) -> Iterable[int]:
    """Every price that a prompt token can be billed at."""
    yield tier.input_microcents_per_mtok
    if cache == "none":
        return
    for price in (tier.cache_read_microcents_per_mtok, tier.cache_write_5m_microcents_per_mtok):
        if price is None:
            raise InvalidArgumentError(_no_price("cached prompts", model))
        yield price
    if cache == "1h":
        if tier.cache_write_1h_microcents_per_mtok is None:
            raise InvalidArgumentError(_no_price("1-hour cache writes", model))
        yield tier.cache_write_1h_microcents_per_mtok


def _tiers(prices: ModelPrices, period: PricePeriod, usage: TokenUsage) -> tuple[PriceTier, ...]:
    if usage.speed != "fast":
        return period.standard
    if not period.fast:
        raise UsageError(_no_price("fast mode", prices.model))
    return period.fast


def _tier(tiers: tuple[PriceTier, ...], prompt_tokens: int) -> TokenPrices:
    for tier in reversed(tiers):
        if prompt_tokens > tier.above_prompt_tokens:
            return tier.prices
    return tiers[0].prices


def _priced(price: int | None, what: str, model: str) -> int:
    if price is None:
        raise UsageError(_no_price(what, model))
    return price


def _no_price(what: str, model: str) -> str:
    return (
        f"No price is known for {what} with {model}: "
        f"use the model without, or give its prices in the file that {OVERRIDES_SOURCE} names."
    )


def _charge(exact: Fraction, source: str) -> Charge:
    amount_microcents = ceil_microcents(exact)
    if amount_microcents > MAX_AMOUNT:
        raise UsageError(f"The usage comes to more than {format_usd(MAX_AMOUNT)} US dollars, which cannot be true.")
    return Charge(amount_microcents=amount_microcents, price_source=source)


def _moment(at: datetime | None) -> datetime:
    if at is None:
        return datetime.now(UTC)
    if at.tzinfo is None:
        raise InvalidArgumentError("The time of a call must carry its time zone.")
    return at.astimezone(UTC)


def _check_tokens(name: str, value: object) -> None:
    if type(value) is not int or not 0 <= value <= MAX_COUNT:
        raise InvalidArgumentError(f"{name} must be a whole number from 0 to {MAX_COUNT}.")


def _amount(exact: Fraction) -> int:
    amount_microcents = ceil_microcents(exact)
    if amount_microcents > MAX_AMOUNT:
        raise InvalidArgumentError(
            f"So many tokens cost more than {format_usd(MAX_AMOUNT)} US dollars, the most that can be reserved."
        )
    return amount_microcents


def _unknown_model(model: str, known: Iterable[str]) -> str:
    shown = json.dumps(model if len(model) <= _LONGEST_NEAR_ID else model[:_LONGEST_NEAR_ID] + "...")
    near = difflib.get_close_matches(model, known, n=1) if len(model) <= _LONGEST_NEAR_ID else []
    hint = f" (the nearest listed id is {json.dumps(near[0])})" if near else ""
    return (
        f"No price is known for model {shown}{hint}: correct the id, or add "
        f'[models.{shown}] with input = "3.00" and output = "15.00", in US dollars per million tokens, '
        f"to the file that {OVERRIDES_SOURCE} names."
    )
