"""The table that decides what a call cost: every combination of facts, and the document that shows it."""

from itertools import product
from pathlib import Path
from typing import Any

import pytest

from budget_tools.core.errors import UsageError
from budget_tools.pricing.book import PriceBook
from budget_tools.pricing.evidence import Evidence, Report, fewest_output_tokens, judge, judge_report
from budget_tools.pricing.evidence_table import FACTS, ROWS, Facts, row_for, table_in_markdown
from budget_tools.pricing.usage import read_usage

MODEL = "claude-sonnet-5-5"
USAGE = {"input_tokens": 100, "output_tokens": 50}
DOCUMENT = Path(__file__).parents[2] / "docs" / "evidence.md"

VALUES: list[tuple[Any, ...]] = list(product(*FACTS.values()))
COMBINATIONS = [Facts(**dict(zip(FACTS, values, strict=True))) for values in VALUES]


def expected(facts: Facts) -> str:
    """Say in other words than the table's what a combination must come to."""
    if facts.sending in ("unsent", "refused", "no_answer"):
        return "nothing"
    if facts.sending != "complete":
        return "unknown"
    if facts.refusal == "unbilled":
        return "nothing"
    has_price = facts.price in ("listed", "other_listed")
    has_prompt = facts.usage in ("placeholder", "no_output", "final")
    is_enough = facts.usage == "final" or facts.refusal == "billed"
    return "exact" if has_price and has_prompt and is_enough else "unknown"


def test_every_combination_of_facts_comes_to_what_it_must() -> None:
    """No combination is left open, none is decided by accident."""
    assert {facts: row_for(facts).basis for facts in COMBINATIONS} == {facts: expected(facts) for facts in COMBINATIONS}


def test_every_row_decides_something() -> None:
    """A row that no combination reaches would be a rule that nobody keeps."""
    assert {row_for(facts) for facts in COMBINATIONS} == set(ROWS)


def test_a_row_says_why_unless_it_is_exact() -> None:
    """Every charge at the bound, and every call that costs nothing, has a reason for people."""
    assert {row.evidence: bool(row.reason) for row in ROWS} == {row.evidence: row.basis != "exact" for row in ROWS}


def test_only_what_was_surely_not_billed_is_nothing() -> None:
    """A charge that gets smaller needs proof: usage that is missing, zero or odd is none."""
    for facts in COMBINATIONS:
        if row_for(facts).basis == "nothing":
            assert facts.sending in ("unsent", "refused", "no_answer") or facts.refusal == "unbilled"


def test_the_document_shows_the_table() -> None:
    """docs/evidence.md has the rows as they are."""
    assert table_in_markdown() in DOCUMENT.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def prices() -> PriceBook:
    """The prices that are installed."""
    return PriceBook.load()


def judged(prices: PriceBook, *reports: Any, **evidence: Any) -> Any:
    """Judge an answer with these reports at its end."""
    return judge(
        Evidence(**{"asked_model": MODEL, "reports": [Report(counts=each) for each in reports], **evidence}), prices
    )


def test_an_unknown_cost_is_never_below_what_was_surely_used(prices: PriceBook) -> None:
    """The bound is charged, or what was reported if that alone is more."""
    verdict = judged(prices, {"input_tokens": 10_000, "output_tokens": 0}, has_output=True)

    assert (verdict.basis, verdict.at_least_microcents) == ("unknown", 2_000_000)
    assert verdict.charge_microcents(500) == 2_000_000
    assert verdict.charge_microcents(3_000_000) == 3_000_000


def test_totals_in_parts_are_put_together(prices: PriceBook) -> None:
    """What a later report leaves out, sends as null or as 0, an earlier one has said."""
    first = {"input_tokens": 100, "cache_creation": {"ephemeral_5m_input_tokens": 40}, "service_tier": "standard"}
    second = {"output_tokens": 50, "cache_creation": {"ephemeral_5m_input_tokens": 0}, "service_tier": None}

    whole = judged(prices, {**first, "output_tokens": 50})

    assert whole.basis == "exact"
    assert judged(prices, first, second).amount_microcents == whole.amount_microcents


@pytest.mark.parametrize(
    "usage",
    [
        {"input_tokens": True, "output_tokens": 50},
        {"input_tokens": 100, "output_tokens": 2**70},
        {"input_tokens": 100, "output_tokens": 50, "cache_creation": 5},
        {"input_tokens": 100, "output_tokens": 50, "service_tier": "unheard of"},
        {"output_tokens": 50},
        "a hundred",
        7,
    ],
)
def test_usage_that_cannot_be_is_unknown_with_the_reason(prices: PriceBook, usage: object) -> None:
    """Nothing raises: what a gateway sends is evidence, however odd."""
    verdict = judged(prices, usage)

    assert (verdict.basis, verdict.amount_microcents) == ("unknown", 0)
    assert verdict.reason


def test_a_true_count_after_an_odd_one_does_not_cover_it_up(prices: PriceBook) -> None:
    """One of the two is wrong, and which is not known."""
    for odd in ("100", 100.0, -1, [1]):
        assert judged(prices, {**USAGE, "input_tokens": odd}, USAGE).basis == "unknown"


def test_a_refusal_on_another_platform_costs_its_input(prices: PriceBook) -> None:
    """Only the Claude API does not bill some categories."""
    usage = {"input_tokens": 100, "output_tokens": 3}

    for category in ("", "cyber", "bio"):
        verdict = judged(prices, usage, refusal_category=category, is_claude_api=False)
        assert (verdict.basis, verdict.amount_microcents) == ("exact", 20_000)
    assert judged(prices, usage, refusal_category="cyber").basis == "nothing"


def test_a_report_that_is_handed_in_is_judged_by_the_same_rows(prices: PriceBook) -> None:
    """A prompt of 0 tokens is impossible, whoever reports it."""
    exact = judge_report(MODEL, read_usage(USAGE), prices)

    assert (exact.basis, exact.amount_microcents) == ("exact", 70_000)
    try:
        zero = judge_report(MODEL, read_usage({"input_tokens": 0, "output_tokens": 0}), prices)
    except UsageError:
        return  # refused while it was read: as good
    assert (zero.basis, zero.reason) == ("unknown", "The reported usage cannot be true: a prompt of 0 tokens.")


@pytest.mark.parametrize(
    ("text", "fewest"),
    [("", 0), ("Hi.", 0), ("One, two and three words.", 3), ("a b c d e f g h", 3), ("x" * 1_024, 4), ("好" * 300, 3)],
)
def test_the_fewest_tokens_of_a_text(text: str, fewest: int) -> None:
    """Far below what any tokenizer makes of it, and above a placeholder."""
    assert fewest_output_tokens(text) == fewest
