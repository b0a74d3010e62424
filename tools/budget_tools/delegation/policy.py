"""Fitting a turn into what may be spent: the largest output that the money bounds, or none."""

from dataclasses import dataclass

from budget_tools.pricing import PriceBook

MIN_OUTPUT_TOKENS = 256
"""Under this an answer is rarely worth its prompt: the delegation stops instead."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Fit:
    """A turn that fits: its output limit and its worst case."""

    max_output_tokens: int
    bound_microcents: int


def fit_turn(
    prices: PriceBook, model: str, *, input_tokens: int, wanted_output_tokens: int, allowed_microcents: int | None
) -> Fit | None:
    """Choose the output limit of a turn.

    Args:
        prices: the prices in force.
        model: an exact model id.
        input_tokens: no fewer than the prompt has.
        wanted_output_tokens: what the caller asked for.
        allowed_microcents: the most that the turn may cost; ``None`` where nothing limits it yet.

    Returns:
        ``None`` where not even a short answer fits.
    """
    output_tokens = wanted_output_tokens
    if allowed_microcents is not None:
        affordable = prices.most_output_tokens(model, input_tokens=input_tokens, amount_microcents=allowed_microcents)
        output_tokens = min(wanted_output_tokens, affordable)
        if output_tokens < min(MIN_OUTPUT_TOKENS, wanted_output_tokens):
            return None
    bound = prices.worst_case(model, input_tokens=input_tokens, max_output_tokens=output_tokens)
    return Fit(max_output_tokens=output_tokens, bound_microcents=bound)
