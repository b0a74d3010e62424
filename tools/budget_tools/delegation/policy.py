"""The fit of a turn into what may be spent: the largest output that the money bounds, or none."""

from collections.abc import Callable
from dataclasses import dataclass

from budget_tools.core.errors import InvalidArgumentError
from budget_tools.pricing.book import PriceBook
from budget_tools.pricing.request_options import PLAIN_REQUEST, RequestOptions

MIN_OUTPUT_TOKENS = 256
"""An answer below this is rarely worth its prompt: the delegation stops instead."""

LANDING_OUTPUT_TOKENS = 1_024
"""Length of the last answer that money is held for; it may be longer if there is more money by then."""

LANDING_INPUT_TOKENS = 1_500
"""Tokens of its prompt besides the turn before: the notice, the shortest results of a few calls, the frame."""

SPARE_PARTS = 50
"""Divisor of the budget that may be held beyond need, so that a growing conversation need not hold at every turn."""

CACHED_REQUEST = RequestOptions(cache="5m")
"""A request that writes its prompt to the cache, for five minutes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Fit:
    """A turn that fits: its output limit and its worst case."""

    max_output_tokens: int
    bound_microcents: int


@dataclass(frozen=True, kw_only=True, slots=True, order=True)
class Need:
    """Money that a turn needs, with the last answer after it if there may be one, in microcents."""

    least: int
    """For the shortest answer that is worth its prompt."""
    full: int
    """For an answer of the full length that was asked for."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Fitter:
    """Fitter of the turns of one model.

    Args:
        prices: the prices in force.
        model: an exact model id.
        options: the parts of its requests that change their price.
    """

    prices: PriceBook
    model: str
    options: RequestOptions = PLAIN_REQUEST

    def bound(self, *, input_tokens: int, output_tokens: int) -> int:
        """Return the worst case in microcents."""
        return self.prices.worst_case(
            self.model, input_tokens=input_tokens, max_output_tokens=output_tokens, options=self.options
        )

    def fit(self, *, input_tokens: int, wanted_output_tokens: int, allowed_microcents: int | None) -> Fit | None:
        """Choose the output limit of a turn.

        Args:
            input_tokens: at least as many as the prompt has.
            wanted_output_tokens: what the caller asked for.
            allowed_microcents: the most that the turn may cost; ``None`` if nothing limits it yet.

        Returns:
            ``None`` if not even a short answer fits.
        """
        output_tokens = wanted_output_tokens
        if allowed_microcents is not None:
            affordable = self.prices.most_output_tokens(
                self.model, input_tokens=input_tokens, amount_microcents=allowed_microcents, options=self.options
            )
            output_tokens = min(wanted_output_tokens, affordable)
            if output_tokens < min(MIN_OUTPUT_TOKENS, wanted_output_tokens):
                return None
        bound = self.bound(input_tokens=input_tokens, output_tokens=output_tokens)
        return Fit(max_output_tokens=output_tokens, bound_microcents=bound)

    def kept_back(self, *, input_tokens: int, output_tokens: int, wanted_output_tokens: int) -> int:
        """Return the most that a last answer costs after a turn of this length.

        Args:
            input_tokens: of the turn before it.
            output_tokens: the most that the turn before it may add.
            wanted_output_tokens: the longest answer that the caller asked for.
        """
        return self.bound(
            input_tokens=input_tokens + output_tokens + LANDING_INPUT_TOKENS,
            output_tokens=min(LANDING_OUTPUT_TOKENS, wanted_output_tokens),
        )

    def need(self, *, input_tokens: int, wanted_output_tokens: int, has_landing: bool) -> Need:
        """Return what a turn needs, whether it is covered or not.

        Args:
            input_tokens: at least as many as the prompt has.
            wanted_output_tokens: what the caller asked for.
            has_landing: whether money for a last answer is held beside it.
        """

        def needed(output_tokens: int, spares: int) -> int:
            bound = self.bound(input_tokens=input_tokens, output_tokens=output_tokens)
            if not has_landing:
                return bound
            both = bound + self.kept_back(
                input_tokens=input_tokens, output_tokens=output_tokens, wanted_output_tokens=wanted_output_tokens
            )
            return both * SPARE_PARTS // (SPARE_PARTS - spares) + 1

        # A shortened turn is first tried as long as the spare money allows, and the last answer after it is held for
        # that length: so much more that a second spare is needed.
        least = needed(min(MIN_OUTPUT_TOKENS, wanted_output_tokens), spares=2)
        full = needed(wanted_output_tokens, spares=1)
        return Need(least=min(least, full), full=full)

    def fit_with_landing(
        self, *, input_tokens: int, wanted_output_tokens: int, is_paid: Callable[[int, int], bool]
    ) -> Fit | None:
        """Choose the output limit of a turn so that it and the last answer after it both fit.

        Args:
            input_tokens: at least as many as the prompt has.
            wanted_output_tokens: what the caller asked for.
            is_paid: whether a turn and a last answer at these bounds can both be paid; cheaper ones always can then.

        Returns:
            ``None`` if not even a short answer fits.
        """

        def fits(output_tokens: int) -> bool:
            bound = self.bound(input_tokens=input_tokens, output_tokens=output_tokens)
            landing = self.kept_back(
                input_tokens=input_tokens, output_tokens=output_tokens, wanted_output_tokens=wanted_output_tokens
            )
            return is_paid(bound, landing)

        least, most = min(MIN_OUTPUT_TOKENS, wanted_output_tokens), wanted_output_tokens
        if fits(most):
            least = most
        elif not fits(least):
            return None
        while least < most:
            middle = (least + most + 1) // 2
            if fits(middle):
                least = middle
            else:
                most = middle - 1
        bound = self.bound(input_tokens=input_tokens, output_tokens=least)
        return Fit(max_output_tokens=least, bound_microcents=bound)


def request_options(prices: PriceBook, model: str, *, grows: bool) -> RequestOptions:
    """Return options with prompt caching if it pays: the conversation may grow, and the model has a price for it."""
    if not grows:
        return PLAIN_REQUEST
    try:
        prices.worst_case(model, input_tokens=1, max_output_tokens=1, options=CACHED_REQUEST)
    except InvalidArgumentError:
        return PLAIN_REQUEST
    return CACHED_REQUEST
