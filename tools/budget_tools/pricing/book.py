"""The price book: what a call cost, and the most that it can cost.

``cost`` prices usage exactly: every class of token at its own price, in whole numbers and fractions, rounded up once to
a microcent. ``worst_case`` bounds a request before it leaves (``bounds``).
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from pathlib import Path

from budget_tools.core.errors import InvalidArgumentError, UnknownModelError, UsageError
from budget_tools.core.money import MAX_AMOUNT, ceil_microcents, format_usd
from budget_tools.pricing.bounds import Ceiling
from budget_tools.pricing.model_ids import is_alias, nearest_id
from budget_tools.pricing.own_prices import OVERRIDES_SOURCE, is_anthropics_own, no_price, read_own_prices
from budget_tools.pricing.price_data import (
    BATCH_MULTIPLIER,
    OVERLAY_SOURCE,
    TOKENS_PER_MTOK,
    ModelPrices,
    PricePeriod,
    PriceTier,
    TokenPrices,
    read_prices,
)
from budget_tools.pricing.request_options import PLAIN_REQUEST, RequestOptions
from budget_tools.pricing.usage import MAX_COUNT, ReportedUsage, TokenUsage

_SEARCHES_PER_PRICE = 1_000

# What the API reports for a model or a request without a choice of geography, and for an open choice.
_LIST_PRICE_GEOS = ("", "global", "not_available")

_LONGEST_SHOWN_ID = 100


@dataclass(frozen=True, kw_only=True, slots=True)
class Charge:
    """The exact cost of one call, and the source of its prices."""

    amount_microcents: int
    price_source: str


class PriceBook:
    """Prices by exact model id; immutable once loaded."""

    def __init__(
        self, prices: Mapping[str, ModelPrices], *, doubts: tuple[str, ...] = (), is_anthropics_own: bool = True
    ) -> None:
        self._prices = dict(prices)
        self._is_anthropics_own = is_anthropics_own
        self.doubts = doubts
        """Sentences for a person about the user's prices that are far from the known ones."""

    @classmethod
    def load(cls, overrides_path: Path | None = None, *, base_url: str = "") -> "PriceBook":
        """Read the installed prices, and over them the user's own table if there is one.

        Always works offline. The format of the table is described in ``own_prices``.

        Args:
            overrides_path: the user's table.
            base_url: where requests go, Anthropic's own API if empty. Elsewhere a model that Anthropic retired is in
                service if the user's table has its price.

        Raises:
            ConfigurationError: the user's table cannot be read or is not in its format.
        """
        prices = read_prices()
        is_own = is_anthropics_own(base_url)
        if overrides_path is None:
            return cls(prices, is_anthropics_own=is_own)
        own = read_own_prices(overrides_path, prices, base_url=base_url)
        return cls(prices | own.models, doubts=own.doubts, is_anthropics_own=is_own)

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
            raise UnknownModelError(self._unknown_model(model), model=model) from None

    def _unknown_model(self, model: str) -> str:
        shown = json.dumps(model if len(model) <= _LONGEST_SHOWN_ID else model[:_LONGEST_SHOWN_ID] + "...")
        near = nearest_id(model, live=self.in_service(), known=self._prices)
        hint = ""
        if near:
            retires_on = self._prices[near].retires_on
            retired = (
                f", retired on {retires_on}" if retires_on is not None and retires_on <= _moment(None).date() else ""
            )
            alias = "an alias, whose model changes; " if is_alias(model) else ""
            hint = f" ({alias}the nearest listed id is {json.dumps(near)}{retired})"
        return (
            f"No price is known for model {shown}{hint}: correct the id, or add "
            f'[models.{shown}] with input = "<price>" and output = "<price>", in US dollars per million tokens, '
            f"to the file that {OVERRIDES_SOURCE} names."
        )

    def lifecycle_note(self, model: str, *, at: datetime | None = None) -> str:
        """Return a sentence on when the API stops, or stopped, serving a model; empty if no date is announced.

        Raises:
            UnknownModelError: the id is not listed.
        """
        retires_on = self.price(model).retires_on
        if retires_on is None:
            return ""
        if retires_on <= _moment(at).date():
            if self._is_anthropics_own:
                return f"{model} was retired on {retires_on}: the API refuses it."
            return (
                f"{model} was retired on {retires_on} at Anthropic: if your endpoint still serves it, give its price "
                f"in the file that {OVERRIDES_SOURCE} names."
            )
        return f"{model} will be retired on {retires_on}."

    def cost(self, model: str, usage: TokenUsage, *, at: datetime | None = None) -> Charge:
        """Price what a call used, exactly, rounded up once.

        Args:
            model: the exact id that served the call.
            usage: what the API reported.
            at: when the call was made, with a time zone; now if absent.

        Raises:
            UnknownModelError: the id is not listed.
            UsageError: the usage holds something that the model has no price for, or a sum beyond int64.
        """
        return _charge(*self._exact_cost(model, usage, _moment(at)))

    def cost_of(self, model: str, reported: ReportedUsage, *, at: datetime | None = None) -> Charge:
        """Price a report entry by entry, exactly, rounded up once; calls in one sum are priced as equally long.

        Args:
            model: the exact id of every entry that does not name one.
            reported: what was reported; a sum that does not say of how many calls is priced as one.
            at: when the call was made, with a time zone; now if absent.

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
            UsageError: it names a model that is neither listed nor a dated form of the call's.
        """
        if named in self._prices:
            return named
        if named and not re.fullmatch(rf"{re.escape(model)}-\d{{8}}", named):
            raise UsageError(f"The usage names a model of its own. {self._unknown_model(named)}")
        return model

    def _exact_cost(self, model: str, usage: TokenUsage, at: datetime, calls: int = 1) -> tuple[Fraction, str]:
        prices = self.price(model)
        period = prices.on(at.date())
        tier = _tier(_tiers(prices, period, usage), -(-usage.prompt_tokens // calls))
        # Counts times microcents per million tokens: integers until the one division at the end.
        millionths = usage.input_tokens * tier.input_microcents_per_mtok
        millionths += usage.output_tokens * tier.output_microcents_per_mtok
        for name, count, price in (
            ("cache reads", usage.cache_read_input_tokens, tier.cache_read_microcents_per_mtok),
            ("5-minute cache writes", usage.cache_creation_5m_input_tokens, tier.cache_write_5m_microcents_per_mtok),
            ("1-hour cache writes", usage.cache_creation_1h_input_tokens, tier.cache_write_1h_microcents_per_mtok),
        ):
            if count:
                millionths += count * _priced(price, name, model)
        exact = Fraction(millionths, TOKENS_PER_MTOK)
        source = prices.source
        if usage.inference_geo not in _LIST_PRICE_GEOS:
            if usage.inference_geo != "us" or prices.us_multiplier is None:
                raise UsageError(no_price("inference in the reported inference_geo", model))
            exact *= prices.us_multiplier
            source = f"{source} + {OVERLAY_SOURCE}"
        # Fast mode is not offered in batches; if both are reported, no discount is assumed.
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
        starts_within: timedelta = timedelta(0),
        options: RequestOptions = PLAIN_REQUEST,
    ) -> int:
        """Bound in microcents what a request can cost: any usage that the API may report for it costs no more.

        Args:
            model: the exact id that the request names.
            input_tokens: a bound of the prompt's tokens, whether read from the cache or not.
            max_output_tokens: the ``max_tokens`` that the request sends.
            at: when the request leaves, with a time zone; now if absent.
            starts_within: how long after that it may leave.
            options: what else in the request changes its price.

        Raises:
            UnknownModelError: the id is not listed.
            InvalidArgumentError: a count is impossible, an option has no price here, or the bound passes int64.
        """
        _check_tokens("input_tokens", input_tokens)
        _check_tokens("max_output_tokens", max_output_tokens)
        ceiling = Ceiling.of(
            self.price(model),
            input_tokens=input_tokens,
            at=_moment(at),
            starts_within=starts_within,
            options=options,
        )
        return _amount(ceiling.bound(input_tokens=input_tokens, max_output_tokens=max_output_tokens))

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
        ceiling = Ceiling.of(self.price(model), input_tokens=input_tokens, at=_moment(at), options=options)
        most = ceiling.most_output_tokens(input_tokens=input_tokens, amount_microcents=amount_microcents)
        return MAX_COUNT if most is None else min(most, MAX_COUNT)

    def expected(
        self,
        model: str,
        *,
        input_tokens: int,
        output_tokens: int,
        read_tokens: int = 0,
        at: datetime | None = None,
        options: RequestOptions = PLAIN_REQUEST,
    ) -> int:
        """Return the price in microcents of a call as it is likely to be: nothing cached unless the options say so.

        Args:
            model: the exact id that the request names.
            input_tokens: of the whole prompt.
            output_tokens: of the answer.
            read_tokens: how much of the prompt is in the cache already; a request that caches writes the rest of it.
            at: when the request leaves, with a time zone; now if absent.
            options: what else in the request changes its price; geography that it leaves open costs list price.

        Raises:
            UnknownModelError: the id is not listed.
            InvalidArgumentError: a count is impossible, an option has no price here, or the price passes int64.
        """
        _check_tokens("input_tokens", input_tokens)
        _check_tokens("output_tokens", output_tokens)
        _check_tokens("read_tokens", read_tokens)
        rest = max(input_tokens - read_tokens, 0)
        usage = TokenUsage(
            input_tokens=rest if options.cache == "none" else 0,
            output_tokens=output_tokens,
            cache_read_input_tokens=input_tokens - rest,
            cache_creation_5m_input_tokens=rest if options.cache == "5m" else 0,
            cache_creation_1h_input_tokens=rest if options.cache == "1h" else 0,
            service_tier="batch" if options.batch else "standard",
            inference_geo=options.inference_geo if self.price(model).us_multiplier else "",
            speed=options.speed,
        )
        try:
            exact, _ = self._exact_cost(model, usage, _moment(at))
        except UsageError as exc:
            raise InvalidArgumentError(exc.message) from exc
        return _amount(exact)


def _tiers(prices: ModelPrices, period: PricePeriod, usage: TokenUsage) -> tuple[PriceTier, ...]:
    if usage.speed != "fast":
        return period.standard
    if not period.fast:
        raise UsageError(no_price("fast mode", prices.model))
    return period.fast


def _tier(tiers: tuple[PriceTier, ...], prompt_tokens: int) -> TokenPrices:
    for tier in reversed(tiers):
        if prompt_tokens > tier.above_prompt_tokens:
            return tier.prices
    return tiers[0].prices


def _priced(price: int | None, what: str, model: str) -> int:
    if price is None:
        raise UsageError(no_price(what, model))
    return price


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
