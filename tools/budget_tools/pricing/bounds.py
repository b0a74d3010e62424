"""The most that a request can cost: any usage that the API may report for it costs no more.

The bound holds because each of its parts does:

- each prompt token is charged as the dearest class that it can be billed as: plain input and, if the request caches,
  a cache read or a cache write of at most the lifetime that it asks for;
- output is charged for all of ``max_output_tokens``, which the API enforces, thinking included;
- of prices that depend on the prompt's length, the dearest that a prompt within ``input_tokens`` can reach is taken,
  for input and output separately; likewise of prices that change while the request may still run;
- geography that the request leaves open is charged as the dearer one, since a workspace may have it as its default;
- the batch tier is only ever cheaper, and bounded as such only if the request is known to be part of a batch; the
  priority tier is charged at list price, as costs are too.

A bound holds for one kind of request, described by ``RequestOptions``. Some kinds have no bound (``request_options``).
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from fractions import Fraction

from budget_tools.core.errors import InvalidArgumentError
from budget_tools.pricing.own_prices import no_price
from budget_tools.pricing.price_data import BATCH_MULTIPLIER, TOKENS_PER_MTOK, ModelPrices, TokenPrices
from budget_tools.pricing.request_options import PLAIN_REQUEST, RequestOptions

# A call ends within the hour after it left: the SDK gives up after ten minutes, waiting included. A batch ends within
# a day, or expires (Anthropic, "Batch processing").
_LONGEST_CALL = timedelta(hours=1)
_LONGEST_BATCH = timedelta(hours=25)


@dataclass(frozen=True, kw_only=True, slots=True)
class Ceiling:
    """The dearest prices that one request can meet."""

    input_microcents_per_mtok: int
    output_microcents_per_mtok: int
    multiplier: Fraction

    @classmethod
    def of(
        cls,
        prices: ModelPrices,
        *,
        input_tokens: int,
        at: datetime,
        starts_within: timedelta = timedelta(0),
        options: RequestOptions = PLAIN_REQUEST,
    ) -> "Ceiling":
        """Return the ceiling of a request.

        Args:
            prices: those of its model.
            input_tokens: a bound of its prompt's tokens.
            at: when it leaves (UTC).
            starts_within: how long after that it may leave.
            options: what else in it changes its price.

        Raises:
            InvalidArgumentError: an option has no price for this model.
        """
        ends = at + starts_within + (_LONGEST_BATCH if options.batch else _LONGEST_CALL)
        within_reach: list[TokenPrices] = []
        for period in prices.during(at.date(), ends.date()):
            if options.speed == "fast" and not period.fast:
                raise InvalidArgumentError(no_price("fast mode", prices.model))
            # A fast request may meet standard prices too: the API may have served it at standard speed.
            tiers = (*period.standard, *period.fast) if options.speed == "fast" else period.standard
            # An empty prompt may meet the first tier too, which is above 0 tokens.
            within_reach += [tier.prices for tier in tiers if tier.above_prompt_tokens < max(input_tokens, 1)]
        multiplier = Fraction(1)
        if options.inference_geo == "us" and prices.us_multiplier is None:
            raise InvalidArgumentError(no_price("a choice of inference_geo", prices.model))
        if options.inference_geo != "global" and prices.us_multiplier is not None:
            multiplier = prices.us_multiplier
        if options.batch:
            multiplier *= BATCH_MULTIPLIER
        return cls(
            input_microcents_per_mtok=max(
                price for tier in within_reach for price in _prompt_prices(tier, options.cache, prices.model)
            ),
            output_microcents_per_mtok=max(tier.output_microcents_per_mtok for tier in within_reach),
            multiplier=multiplier,
        )

    def bound(self, *, input_tokens: int, max_output_tokens: int) -> Fraction:
        """Return the bound in microcents, exactly."""
        millionths = input_tokens * self.input_microcents_per_mtok
        millionths += max_output_tokens * self.output_microcents_per_mtok
        return Fraction(millionths, TOKENS_PER_MTOK) * self.multiplier

    def most_output_tokens(self, *, input_tokens: int, amount_microcents: int) -> int | None:
        """Return the most output whose bound fits an amount; 0 if none does, ``None`` if any does."""
        # The bound is an exact price rounded up; it fits a whole amount if and only if the exact price does.
        millionths = Fraction(amount_microcents * TOKENS_PER_MTOK) / self.multiplier
        left = millionths - input_tokens * self.input_microcents_per_mtok
        if left < 0:
            return 0
        return None if self.output_microcents_per_mtok == 0 else left // self.output_microcents_per_mtok


def _prompt_prices(tier: TokenPrices, cache: str, model: str) -> Iterable[int]:
    """Return every price that a prompt token can be billed at."""
    yield tier.input_microcents_per_mtok
    if cache == "none":
        return
    for price in (tier.cache_read_microcents_per_mtok, tier.cache_write_5m_microcents_per_mtok):
        if price is None:
            raise InvalidArgumentError(no_price("cached prompts", model))
        yield price
    if cache == "1h":
        if tier.cache_write_1h_microcents_per_mtok is None:
            raise InvalidArgumentError(no_price("1-hour cache writes", model))
        yield tier.cache_write_1h_microcents_per_mtok
