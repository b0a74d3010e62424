"""Money as integer microcents: one US dollar is 100,000,000 (Cycles v0, USD_MICROCENTS).

No float ever holds an amount. Dollars enter as decimal text or a JSON number and leave as decimal text.
"""

import re
from decimal import Decimal
from fractions import Fraction
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, Field, WithJsonSchema

from budget_tools.core.errors import InvalidArgumentError

MICROCENTS_PER_USD = 100_000_000
USD_MICROCENTS = "USD_MICROCENTS"
UNITS = (USD_MICROCENTS, "TOKENS", "CREDITS", "RISK_POINTS")

MAX_AMOUNT = 2**63 - 1
"""Largest amount in any unit (Cycles v0, Amount.amount is int64)."""

# A double keeps every decimal of up to 15 significant digits; past that a JSON number may no longer be what was typed.
_EXACT_FLOAT_DIGITS = 15
_DECIMAL_TEXT = re.compile(r"-?[0-9]+(\.[0-9]+)?", re.ASCII)


class Money(BaseModel):
    """An amount in a result: ``amount`` counts ``unit``; ``usd`` repeats a microcent amount in dollars."""

    unit: str
    amount: int
    usd: str | None = None

    @classmethod
    def microcents(cls, amount_microcents: int) -> "Money":
        """Return an amount of microcents, with its dollars."""
        return cls(unit=USD_MICROCENTS, amount=amount_microcents, usd=format_usd(amount_microcents))

    @classmethod
    def of(cls, amount: int, unit: str) -> "Money":
        """Return an amount in any of the protocol's units."""
        return cls.microcents(amount) if unit == USD_MICROCENTS else cls(unit=unit, amount=amount)

    def __str__(self) -> str:
        return f"${self.usd}" if self.usd is not None else f"{self.amount} {self.unit}"


def parse_usd(value: object, *, name: str = "usd") -> int:
    """Parse dollars exactly and return microcents.

    Args:
        value: decimal text such as ``"0.05"``, or a JSON number of at most 15 significant digits.
        name: what to call the value in an error.

    Raises:
        InvalidArgumentError: not a number, negative, finer than a microcent (eight decimals), or beyond int64
            microcents.
    """
    if isinstance(value, bool) or not isinstance(value, int | float | str | Decimal):
        raise InvalidArgumentError(f'{name} must be an amount of US dollars such as 0.05 or "0.05".')
    if isinstance(value, str) and not _DECIMAL_TEXT.fullmatch(value):
        raise InvalidArgumentError(
            f'{name} must be US dollars in plain decimal digits such as "0.05", without sign, spaces or symbols.'
        )
    dollars = Decimal(str(value))
    if not dollars.is_finite():
        raise InvalidArgumentError(f"{name} must be a finite amount of US dollars.")
    if isinstance(value, float) and len(dollars.normalize().as_tuple().digits) > _EXACT_FLOAT_DIGITS:
        raise InvalidArgumentError(
            f"{name} has more than {_EXACT_FLOAT_DIGITS} significant digits, which a JSON number may not keep: "
            "give it as a string."
        )
    if dollars < 0:
        raise InvalidArgumentError(f"{name} must not be negative.")
    # Fractions, not Decimal arithmetic: the default decimal context would round at 28 digits.
    microcents = Fraction(dollars) * MICROCENTS_PER_USD
    if microcents.denominator != 1:
        raise InvalidArgumentError(f"{name} is finer than one microcent: give at most 8 decimals.")
    if microcents > MAX_AMOUNT:
        raise InvalidArgumentError(
            f"{name} is too large: the most that can be held is {format_usd(MAX_AMOUNT)} US dollars."
        )
    return int(microcents)


def format_usd(amount_microcents: int) -> str:
    """Format microcents as plain decimal dollars, exactly, with at least two decimals: 1234500 is ``"0.012345"``."""
    sign = "-" if amount_microcents < 0 else ""
    dollars, rest = divmod(abs(amount_microcents), MICROCENTS_PER_USD)
    decimals = f"{rest:08d}".rstrip("0").ljust(2, "0")
    return f"{sign}{dollars}.{decimals}"


def ceil_microcents(exact: Fraction) -> int:
    """Round an exact amount up to a whole microcent: the only rounding of a charge."""
    return -(-exact.numerator // exact.denominator)


def _usd_argument(value: Any) -> int | None:  # noqa: ANN401 - whatever a host sent
    if value is None:
        return None
    try:
        return parse_usd(value)
    except InvalidArgumentError as exc:
        # pydantic collects ValueError and adds the name of the argument.
        raise ValueError(exc.message.removeprefix("usd ")) from exc


UsdMicrocents = Annotated[
    int | None,
    BeforeValidator(_usd_argument),
    WithJsonSchema({"anyOf": [{"type": "number"}, {"type": "string"}, {"type": "null"}], "default": None}),
]
"""A tool argument given in dollars (JSON number or decimal text) and received as microcents, or ``None``."""

Amount = Annotated[int | None, Field(strict=True, ge=0, le=MAX_AMOUNT)]
"""A tool argument counting whole units of the protocol, or ``None``."""
