"""Amounts as calls state them: dollars, a count of a protocol unit, or a model with its tokens. Exactly one of them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field, WithJsonSchema

from budget_tools.core.errors import InvalidArgumentError, UsageError
from budget_tools.core.money import MAX_AMOUNT, UNITS, USD_MICROCENTS
from budget_tools.pricing.book import Charge, PriceBook
from budget_tools.pricing.charge_warnings import charge_warnings
from budget_tools.pricing.evidence import judge_report
from budget_tools.pricing.usage import ReportedUsage, read_usage

UsageArgument = Annotated[
    Any,
    Field(description="As reported; of several: a list, or a sum with calls."),
    WithJsonSchema({"anyOf": [{"type": "object"}, {"type": "array"}]}),
]
"""A tool argument for usage of calls, in any shape that ``read_usage`` knows."""

CallsArgument = Annotated[int | None, Field(strict=True, ge=1), WithJsonSchema({"type": "integer"})]
"""A tool argument for the number of calls that one usage object sums up; its meaning is described beside ``usage``."""

_WAY_OUT = "give what was billed as usd instead, or leave out a field that costs nothing"


@dataclass(frozen=True, kw_only=True, slots=True)
class PricedAmount:
    """An amount in a unit; if computed from usage, also the source of its prices, the usage, and warnings."""

    unit: str
    amount: int
    price_source: str = ""
    reported: ReportedUsage | None = None
    warnings: tuple[str, ...] = ()

    def wire(self) -> dict[str, object]:
        """Return the protocol's Amount."""
        return {"unit": self.unit, "amount": self.amount}


def stated_amount(
    *, usd: int | None, amount: int | None, unit: str, by_model: bool, model_words: str
) -> PricedAmount | None:
    """Return the amount that a call states itself, or ``None`` if a model and its tokens state it.

    Args:
        usd: dollars, already in microcents.
        amount: a count of ``unit``.
        unit: the protocol unit of ``amount``; empty means microcents.
        by_model: whether the call gave any of the arguments that price a model.
        model_words: the names of those arguments, for the error.

    Raises:
        InvalidArgumentError: none of the ways was used, or more than one.
    """
    require_one_way(
        "the amount", {"usd": usd is not None, "amount with unit": amount is not None, model_words: by_model}
    )
    if unit and amount is None:
        raise InvalidArgumentError("unit goes with amount: leave it out, or give amount instead.")
    if usd is not None:
        return PricedAmount(unit=USD_MICROCENTS, amount=usd)
    if amount is None:
        return None
    unit = unit or USD_MICROCENTS
    if unit not in UNITS:
        raise InvalidArgumentError(f"unit must be one of {', '.join(UNITS)}.")
    if not 0 <= amount <= MAX_AMOUNT:
        raise InvalidArgumentError(f"amount must be from 0 to {MAX_AMOUNT}.")
    return PricedAmount(unit=unit, amount=amount)


def spent_amount(
    prices: PriceBook, *, usd: int | None, amount: int | None, unit: str, model: str, usage: object, calls: int | None
) -> PricedAmount:
    """Return what was spent: an amount, or a model with the usage that its answer reported, priced here.

    Raises:
        InvalidArgumentError: none of the ways was used, more than one, or one of them in part.
        UsageError: the usage cannot be priced; says what to give instead.
    """
    words = "model with usage"
    by_model = bool(model) or usage is not None or calls is not None
    stated = stated_amount(usd=usd, amount=amount, unit=unit, by_model=by_model, model_words=words)
    if stated is not None:
        return stated
    if not model or usage is None:
        raise InvalidArgumentError(f"To say the amount by price, give both of {words}.")
    try:
        reported = read_usage(usage, calls=calls)
        verdict = judge_report(model, reported, prices)
    except UsageError as exc:
        raise UsageError(f"{exc.message.removesuffix('.')}: {_WAY_OUT}.") from exc
    if verdict.basis != "exact":
        raise UsageError(f"{verdict.reason.removesuffix('.')}: {_WAY_OUT}.")
    charge = Charge(amount_microcents=verdict.amount_microcents, price_source=verdict.price_source)
    return PricedAmount(
        unit=USD_MICROCENTS,
        amount=charge.amount_microcents,
        price_source=charge.price_source,
        reported=reported,
        warnings=charge_warnings(prices, model, reported, charge),
    )


def metrics_of(model: str, reported: ReportedUsage | None) -> dict[str, object]:
    """Return the protocol's metrics of a usage report (Cycles v0, StandardMetrics)."""
    if reported is None:
        return {}
    return {
        "tokens_input": reported.prompt_tokens,
        "tokens_output": reported.output_tokens,
        "model_version": model,
    }


def require_one_way(what: str, ways: Mapping[str, bool]) -> None:
    """Check that a call states one thing in exactly one way: several could contradict each other.

    Args:
        what: the thing, as in ``"the amount"``.
        ways: whether the call used each of the ways to state it.

    Raises:
        InvalidArgumentError: names the ways, and which were used.
    """
    used = [way for way, is_used in ways.items() if is_used]
    if len(used) != 1:
        given = f"{' and '.join(used)} were given together" if used else "none was given"
        raise InvalidArgumentError(f"Give {what} in exactly one way ({'; '.join(ways)}): {given}.")
