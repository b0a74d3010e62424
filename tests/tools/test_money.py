"""Money: exact dollars in, integer microcents inside, exact dollars out."""

import math
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from budget_tools.core.errors import InvalidArgumentError
from budget_tools.core.money import MAX_AMOUNT, MICROCENTS_PER_USD, Money, ceil_microcents, format_usd, parse_usd


@given(st.integers(min_value=0, max_value=MAX_AMOUNT))
def test_every_amount_survives_being_written_as_dollars_and_read_again(amount_microcents: int) -> None:
    """Nothing may be lost between a result and the call that quotes it."""
    assert parse_usd(format_usd(amount_microcents)) == amount_microcents


@given(st.integers(min_value=0, max_value=10**15 - 1), st.integers(min_value=0, max_value=8))
def test_a_json_number_of_fifteen_digits_is_read_exactly(digits: int, decimals: int) -> None:
    """A double keeps fifteen significant decimal digits (IEEE 754), so a host may send dollars as a number."""
    exact = Decimal(digits).scaleb(-decimals)
    if exact * MICROCENTS_PER_USD > MAX_AMOUNT:
        return
    assert parse_usd(float(exact)) == exact * MICROCENTS_PER_USD


@pytest.mark.parametrize(
    ("value", "amount_microcents"),
    [
        ("0", 0),
        ("0.05", 5_000_000),
        ("0.00000001", 1),
        ("00.50", 50_000_000),
        (1, 100_000_000),
        (0.1, 10_000_000),
        (1e-08, 1),
        (Decimal("2.50"), 250_000_000),
        ("92233720368.54775807", MAX_AMOUNT),
    ],
)
def test_dollars_are_read_to_the_microcent(value: object, amount_microcents: int) -> None:
    """Cycles v0, USD_MICROCENTS: one dollar is a hundred million."""
    assert parse_usd(value) == amount_microcents


@pytest.mark.parametrize(
    "value",
    [
        True,
        False,
        None,
        [],
        "",
        " 1",
        "1 ",
        "1\n",
        "+1",
        "-1",
        -1,
        -0.01,
        "$1",
        "1,5",
        "1_000",
        ".5",
        "5.",
        "1e5",
        "0x10",
        "NaN",
        "Infinity",
        "\uff11\uff12",  # full-width digits, which int() would read
        "\u0661",  # an Arabic digit, likewise
        "0.000000001",
        Decimal("1E-9"),
        math.nan,
        math.inf,
        -math.inf,
        Decimal("NaN"),
        Decimal("Infinity"),
        1.234567890123456,
        12345678.12345678,  # sixteen digits: no longer sure to be what was typed
        "92233720368.54775808",
        10**30,
        1e300,
    ],
)
def test_what_is_no_plain_amount_of_dollars_is_refused(value: object) -> None:
    """A misread amount would be spent: anything but plain, exact, finite dollars is an error."""
    with pytest.raises(InvalidArgumentError, match="budget_usd"):
        parse_usd(value, name="budget_usd")


@pytest.mark.parametrize(
    ("amount_microcents", "usd"),
    [
        (0, "0.00"),
        (1, "0.00000001"),
        (1_234_500, "0.012345"),
        (150_000_000, "1.50"),
        (-5_000_000, "-0.05"),
        (MAX_AMOUNT, "92233720368.54775807"),
    ],
)
def test_microcents_are_shown_as_plain_dollars(amount_microcents: int, usd: str) -> None:
    """A person reads results: no exponents, at least two decimals, nothing rounded."""
    assert format_usd(amount_microcents) == usd


@given(st.fractions(min_value=0))
def test_a_charge_is_rounded_up_by_less_than_one_microcent(exact: Fraction) -> None:
    """The house rounds once, up: a charge is never below the price."""
    assert 0 <= ceil_microcents(exact) - exact < 1


def test_money_shows_dollars_for_microcents_only() -> None:
    """Cycles v0, UnitEnum: tokens, credits and risk points have no dollar value."""
    assert Money.of(1_234_500, "USD_MICROCENTS").usd == "0.012345"
    assert str(Money.microcents(1_234_500)) == "$0.012345"
    assert Money.of(7, "TOKENS").usd is None
    assert str(Money.of(7, "TOKENS")) == "7 TOKENS"
