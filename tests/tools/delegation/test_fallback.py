"""Fallback models: when the budget gets tight, a delegation bends to shorter answers, then to cheaper models."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import anyio
import pytest

from budget_server.demo.scripted_claude import Turn
from budget_tools.delegation import choice
from budget_tools.pricing.usage import TokenUsage
from tools.delegation.harness import LOOK, MODEL, TOOLS, Bench, OpenBench, background, looks

pytestmark = pytest.mark.anyio

OPUS, HAIKU = "claude-opus-5-5", "claude-haiku-5-5"
RETIRED = "claude-sonnet-4-0"
"""Since June 2026 (the client's DEPRECATED_MODELS)."""


@pytest.fixture(autouse=True)
def _no_long_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait for money of others for moments only: here it never comes back."""
    monkeypatch.setattr(choice, "CROWDED_PAUSES_SECONDS", (0.01,))


def ponders(_body: Mapping[str, Any], number: int) -> Turn:
    """Play a sub-agent that thinks, which binds a conversation to its model, and is never done."""
    return Turn(thinking=f"Secret thought {number}.", text=f"Look {number}.", tool_calls=(LOOK,))


def asked(b: Bench) -> list[tuple[str, int]]:
    """The model and the longest answer of every request."""
    return [(request.body["model"], request.body["max_tokens"]) for request in b.claude.message_requests]


def first_of(b: Bench, model: str) -> int:
    """The index of the first request to a model."""
    return [each for each, _ in asked(b)].index(model)


async def test_it_bends_to_shorter_answers_first_and_then_to_each_fallback_in_order(bench: OpenBench) -> None:
    """Design, 4: fewer output tokens, then a cheaper model; each turn at the prices of the model that it names."""
    b = await bench(lambda *_: Turn(text="word " * 60, tool_calls=(LOOK,)), usd="0.05")

    result = await b.delegate(
        tools=TOOLS, model=OPUS, fallback_models=[MODEL, HAIKU], max_turns=10, max_output_tokens=300
    )

    models = [model for model, _ in asked(b)]
    assert list(dict.fromkeys(models)) == [OPUS, MODEL, HAIKU]
    assert models == sorted(models, key=[OPUS, MODEL, HAIKU].index)
    for model in (OPUS, MODEL):
        lengths = [length for each, length in asked(b) if each == model]
        assert lengths == sorted(lengths, reverse=True)
        assert 256 <= lengths[-1] <= 300
    rows = {row["reservation_id"]: row for row in await b.reservations("COMMITTED")}
    for turn, model in zip(result["turns"], models, strict=True):
        used = TokenUsage(input_tokens=turn["input_tokens"], output_tokens=turn["output_tokens"])
        assert turn["model"] == rows[turn["reservation_id"]]["action"]["name"] == model
        assert turn["charged"]["amount"] == b.services.prices.cost(model, used).amount_microcents


async def test_a_conversation_without_thinking_goes_on_in_place_on_the_next_model(bench: OpenBench) -> None:
    """Messages API: text and tool results are any model's; nothing of the work is lost or told again."""
    b = await bench(looks, usd="0.06")

    await b.delegate(tools=TOOLS, model=OPUS, fallback_models=[HAIKU], max_turns=12)

    index = first_of(b, HAIKU)
    before, after = (b.claude.message_requests[each].body["messages"] for each in (index - 1, index))
    assert after[: len(before)] == before
    assert len(after) == len(before) + 2


async def test_a_conversation_with_thinking_is_told_anew_to_the_next_model(bench: OpenBench) -> None:
    """Messages API, thinking: another model refuses foreign thinking (the endpoint checks), so only words go on."""
    b = await bench(ponders, usd="0.06")

    result = await b.delegate(
        tools=TOOLS, model=OPUS, fallback_models=[HAIKU], max_turns=12, task="Count it.", context="Material."
    )

    index = first_of(b, HAIKU)
    (rebuilt,) = b.claude.message_requests[index].body["messages"]
    after = b.claude.message_requests[index + 1].body["messages"]
    assert result["status"] == "max_turns"
    assert rebuilt["content"].startswith("Count it.\n\nMaterial.\n\nWork on this has begun")
    for number in range(1, index + 1):
        assert f"Look {number}.\n[used shed__count] {{}}\n[its result] call {number}" in rebuilt["content"]
    assert "Secret" not in rebuilt["content"]
    assert after[0] == rebuilt
    assert [message["role"] for message in after] == ["user", "assistant", "user"]


async def test_what_was_told_anew_is_what_a_resume_goes_on_from(bench: OpenBench) -> None:
    """The store keeps the fresh conversation and the model that it is bound to."""
    b = await bench(ponders, usd="0.06")
    stopped = await b.delegate(tools=TOOLS, model=OPUS, fallback_models=[HAIKU], max_turns=8)
    sent = b.sent

    await b.fund("1.00")
    resumed = await b.delegate(task="", resume=stopped["delegation_id"], max_turns=9)

    before, after = (request.body for request in b.claude.message_requests[sent - 1 :])
    assert (stopped["status"], resumed["status"], b.sent) == ("max_turns", "max_turns", sent + 1)
    assert after["model"] == before["model"] == HAIKU
    assert after["messages"][: len(before["messages"])] == before["messages"]


async def test_once_switched_it_stays_with_the_cheaper_model(bench: OpenBench) -> None:
    """Going back and forth would read every cached prompt anew, and thinking could not come along."""
    go_on = anyio.Event()

    def script(body: Mapping[str, Any], number: int) -> Turn:
        is_switched = body["model"] == HAIKU and not go_on.is_set()
        return Turn(text=f"Look {number}.", tool_calls=(LOOK,), hold=go_on if is_switched else None)

    b = await bench(script, usd="0.06")

    async with background(
        lambda: b.delegate(tools=TOOLS, model=OPUS, fallback_models=[HAIKU], max_turns=12)
    ) as results:
        number = 1
        while (await b.request(number)).body["model"] != HAIKU:
            number += 1
        held = await b.reservations("ACTIVE")
        await b.fund("1.00")
        go_on.set()

    models = [turn["model"] for turn in results[0]["turns"]]
    assert models == [OPUS] * (number - 1) + [HAIKU] * (13 - number)
    assert [row["action"]["name"] for row in held] == [HAIKU, HAIKU], "the turn, and its last answer"


async def test_a_first_turn_that_the_model_cannot_be_paid_for_goes_to_the_fallback(bench: OpenBench) -> None:
    """Without tools as well: a short answer of a cheaper model is better than none."""
    b = await bench([Turn(text="Done.")])

    result = await b.delegate(model=OPUS, fallback_models=[HAIKU], budget_usd="0.004")

    assert (result["status"], [model for model, _ in asked(b)]) == ("completed", [HAIKU])
    assert result["turns"][0]["model"] == HAIKU


async def test_without_fallbacks_no_other_model_is_ever_asked(bench: OpenBench) -> None:
    """The caller chose the model: a cheaper one is theirs to allow."""
    b = await bench(looks, usd="0.06")

    result = await b.delegate(tools=TOOLS, model=OPUS, max_turns=12)

    assert {model for model, _ in asked(b)} == {OPUS}
    assert result["status"] == "budget_exhausted"


@pytest.mark.parametrize(
    ("fallback", "code"), [("claude-nonesuch", "UNKNOWN_MODEL"), (RETIRED, "RETIRED_MODEL")], ids=["unknown", "retired"]
)
async def test_a_fallback_that_could_never_be_asked_is_refused_at_the_start(
    bench: OpenBench, fallback: str, code: str
) -> None:
    """A mistake must show before the money runs low, and say which of the names is wrong."""
    b = await bench([Turn(text="Never.")])

    refusal = await b.refused(fallback_models=[HAIKU, fallback])

    assert refusal.startswith(f"{code}: ")
    assert fallback in refusal
    assert (b.claude.requests, await b.kept()) == ([], [])


async def test_a_retired_model_is_asked_for_if_another_endpoint_serves_it_at_a_price_of_the_users(
    bench: OpenBench, tmp_path: Path
) -> None:
    """Retirement is Anthropic's own API's: a gateway may go on, and only its owner knows at what price."""
    prices = tmp_path / "prices.toml"
    prices.write_text(f'[models.{RETIRED}]\ninput = "7"\noutput = "19"', encoding="utf-8")
    b = await bench([Turn(text="Still here.")], budget_prices=prices)

    result = await b.delegate(model=RETIRED)

    (turn,) = result["turns"]
    assert (result["status"], turn["model"]) == ("completed", RETIRED)
    assert turn["charged"]["amount"] == 700 * turn["input_tokens"] + 1_900 * turn["output_tokens"]


async def test_a_retired_model_without_a_price_of_the_users_is_refused_with_the_way_out(bench: OpenBench) -> None:
    """The list's price is that of Anthropic's own API, which refuses it."""
    b = await bench([Turn(text="Never.")])

    refusal = await b.refused(model=RETIRED)

    assert refusal == (
        f"RETIRED_MODEL: {RETIRED} was retired on 2026-06-15 at Anthropic: if your endpoint still serves it, give its "
        "price in the file that BUDGET_PRICES names."
    )
