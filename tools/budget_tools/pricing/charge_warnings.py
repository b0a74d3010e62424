"""Warnings beside the price of usage that a caller reported: how it may differ from what was billed."""

from datetime import UTC, datetime
from fractions import Fraction

from budget_tools.core.money import MICROCENTS_PER_USD, ceil_microcents, format_usd
from budget_tools.pricing.book import Charge, PriceBook
from budget_tools.pricing.usage import ReportedUsage, UsageEntry

# Other programs round to a few digits, and some compute with floats.
_SAME_WITHIN = Fraction(1, 1_000)
_SAME_WITHIN_MICROCENTS = 100


def charge_warnings(prices: PriceBook, model: str, reported: ReportedUsage, charge: Charge) -> tuple[str, ...]:
    """Return clauses about a charge, for the caller to pass on.

    Args:
        prices: what the usage was priced with.
        model: the model of every entry that does not name one.
        reported: the usage.
        charge: its price.
    """
    warnings = [*reported.warnings, *_other_costs(reported, charge)]
    for entry in reported.entries:
        warnings += _steps(prices, prices.priced_as(entry.model, model), entry)
    if any(entry.usage.prompt_tokens and not entry.usage.output_tokens for entry in reported.entries):
        warnings.append("the usage counts no output, which is right only if nothing came back")
    return tuple(dict.fromkeys(warnings))


def stated_above(reported: ReportedUsage, charge: Charge) -> str:
    """Return a sentence if a cost stated beside the counts is above their price; otherwise ``""``.

    Something was then billed that the counts do not include, such as a tool of the provider's own.
    """
    for name, usd in reported.stated_costs.items():
        stated = usd * MICROCENTS_PER_USD
        if stated - charge.amount_microcents > _tolerance(charge):
            return (
                f"it says {name} ${format_usd(ceil_microcents(stated))}, and its tokens come to "
                f"${format_usd(charge.amount_microcents)}."
            )
    return ""


def _tolerance(charge: Charge) -> Fraction:
    return max(_SAME_WITHIN * charge.amount_microcents, Fraction(_SAME_WITHIN_MICROCENTS))


def _other_costs(reported: ReportedUsage, charge: Charge) -> list[str]:
    """Compare the price with the costs stated beside the counts."""
    warnings: list[str] = []
    for name, usd in reported.stated_costs.items():
        stated = usd * MICROCENTS_PER_USD
        if abs(stated - charge.amount_microcents) > _tolerance(charge):
            warnings.append(
                f"the usage says {name} ${format_usd(ceil_microcents(stated))}, and its tokens are priced "
                f"${format_usd(charge.amount_microcents)}: if the former was billed, give it as usd next time"
            )
    return warnings


def _steps(prices: PriceBook, model: str, entry: UsageEntry) -> list[str]:
    """Return clauses on how a sum beyond a step of the model's prices was priced: it may be of many short calls."""
    period = prices.price(model).on(datetime.now(UTC).date())
    tiers = period.fast if entry.usage.speed == "fast" else period.standard
    above = min((tier.above_prompt_tokens for tier in tiers if tier.above_prompt_tokens), default=None)
    if above is None or entry.usage.prompt_tokens <= above or entry.calls == 1:
        return []
    rule = f"{model} costs more for prompts of more than {above} tokens"
    if entry.calls is None:
        return [f"{rule}, and this usage was priced as one call: if it is a sum, give calls or a list of usages"]
    return [f"{rule}, and its {entry.calls} calls were priced as equally long: only a list of usages is exact"]
