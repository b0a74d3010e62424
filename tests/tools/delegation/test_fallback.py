"""Fallback models: when the budget gets tight, a delegation bends to shorter answers, then to cheaper models."""

from datetime import UTC, datetime

import anyio
import pytest

from budget_server.demo.scripted_claude import Turn, Usage
from budget_tools.delegation import choice
from budget_tools.money import format_usd
from budget_tools.usage import TokenUsage
from tools.delegation.harness import LOOK, MODEL, TOOLS, Bench, OpenBench, background, last_words, looks

pytestmark = pytest.mark.anyio

OPUS, HAIKU = "claude-opus-5-5", "claude-haiku-5-5"
FALLBACKS = [MODEL, HAIKU]


@pytest.fixture(autouse=True)
def _no_long_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait for money of others for moments only: here it never comes back."""
    monkeypatch.setattr(choice, "CROWDED_PAUSES_SECONDS", (0.01,))


def asked(b: Bench) -> list[tuple[str, int]]:
    """The model and the longest answer of every request."""
    return [(request.body["model"], request.body["max_tokens"]) for request in b.claude.message_requests]


async def test_it_bends_to_shorter_answers_first_and_then_to_each_fallback_in_order(bench: OpenBench) -> None:
    """Design, 4: fewer output tokens, then a cheaper model, and only then the landing; once switched it stays."""
    b = await bench(looks, usd="0.20")

    result = await b.delegate(tools=TOOLS, model=OPUS, fallback_models=FALLBACKS, max_turns=40)

    models = [model for model, _ in asked(b)]
    order = list(dict.fromkeys(models))
    assert order == [OPUS, MODEL, HAIKU]
    assert models == sorted(models, key=order.index)
    for model in (OPUS, MODEL):
        lengths = [length for each, length in asked(b) if each == model]
        assert lengths == sorted(lengths, reverse=True)
        assert 256 <= lengths[-1] < 4_096
    assert [turn["model"] for turn in result["turns"]] == models
    assert result["status"] == "max_turns"


async def test_each_turn_is_reserved_and_charged_at_the_prices_of_its_own_model(bench: OpenBench) -> None:
    """Design, Money: a turn's charge is its usage at the price of the model that the record names."""
    usage = Usage(input_tokens=1_000, output_tokens=200)
    b = await bench([Turn(text="I look.", tool_calls=(LOOK,), usage=usage), Turn(text="Done.", usage=usage)])
    await tighten(b, first_model=OPUS)

    result = await b.delegate(tools=TOOLS, model=OPUS, fallback_models=[HAIKU], budget_usd="0.09")

    charges = [turn["charged"]["amount"] for turn in result["turns"]]
    assert [model for model, _ in asked(b)] == [OPUS, HAIKU]
    for model, charge in zip((OPUS, HAIKU), charges, strict=True):
        used = TokenUsage(input_tokens=1_000, output_tokens=200)
        assert charge == b.services.prices.cost(model, used).amount_microcents
    rows = [row for row in await b.reservations() if row["status"] == "COMMITTED"]
    assert [row["action"]["name"] for row in rows] == [OPUS, HAIKU]


async def tighten(b: Bench, *, first_model: str) -> None:
    """Do nothing but say what the tests here rely on: one long turn of the first model and no second one is paid."""
    turn = b.services.prices.worst_case(first_model, input_tokens=1_000, max_output_tokens=4_096)
    assert turn < 9_000_000 < 2 * turn
