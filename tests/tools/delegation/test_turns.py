"""One turn: what is held while its request is out, and what is charged when it is back."""

import json
import random
from collections.abc import Mapping
from typing import Any

import anyio
import pytest

from budget_server.demo.scripted_claude import COUNT_TOKENS_PATH, Failure, ScriptedClaude, ToolCall, Turn, Usage
from budget_tools.pricing.tokens import most_input_tokens, with_margin
from budget_tools.pricing.usage import TokenUsage
from tools.delegation.harness import MODEL, CountlessClaude, OpenBench, background

pytestmark = pytest.mark.anyio

LOOK = ToolCall("shed__count")
TOOLS = ["shed__count"]


async def test_while_a_request_is_out_its_bound_is_held(bench: OpenBench) -> None:
    """Design, a delegation turn by turn: the reservation is there before the request leaves, and says whose it is."""
    go_on = anyio.Event()
    b = await bench([Turn(text="Done.", hold=go_on)])

    async with background(b.delegate) as results:
        request = await b.held(1)
        (reservation,) = await b.reservations()
        balance = await b.balance()
        go_on.set()

    (result,) = results
    (turn,) = result["turns"]
    assert reservation["status"] == "ACTIVE"
    assert reservation["reservation_id"] == turn["reservation_id"]
    assert reservation["reserved"] == {"unit": "USD_MICROCENTS", "amount": turn["reserved"]["amount"]}
    assert reservation["action"]["kind"] == "llm.completion"
    assert reservation["action"]["name"] == MODEL
    assert {"delegation", f"delegation-{result['delegation_id']}", "turn-1"} <= set(reservation["action"]["tags"])
    assert balance["reserved"] == turn["reserved"]["amount"]
    counted = request.body | {}
    input_tokens = with_margin(-(-len(_json({"messages": counted["messages"]})) // 3))
    assert turn["reserved"]["amount"] == b.services.prices.worst_case(
        MODEL, input_tokens=input_tokens, max_output_tokens=4_096
    )
    assert request.body["max_tokens"] == 4_096


def _json(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


async def test_a_turn_that_came_back_is_committed_with_its_figures(bench: OpenBench) -> None:
    """Design, turn by turn, 6: tokens, latency, model version, and in ``custom`` what a person reconciles by."""
    usage = Usage(
        input_tokens=900,
        output_tokens=70,
        thinking_tokens=40,
        cache_read_input_tokens=300,
        cache_creation_5m_input_tokens=20,
        cache_creation_1h_input_tokens=10,
    )
    b = await bench([Turn(thinking="Hm.", text="Done.", usage=usage)])

    result = await b.delegate()

    (turn,) = result["turns"]
    (request,) = b.claude.message_requests
    (reservation,) = await b.reservations()
    metrics = await b.column(turn["reservation_id"], "metrics")
    metadata = await b.column(turn["reservation_id"], "committed_metadata")
    assert reservation["status"] == "COMMITTED"
    assert reservation["committed"]["amount"] == turn["charged"]["amount"] == result["spent"]["amount"]
    assert turn["request_id"] == request.request_id
    assert metrics["tokens_input"] == 900 + 300 + 20 + 10
    assert metrics["tokens_output"] == 70
    assert metrics["latency_ms"] >= 0
    assert metrics["model_version"] == MODEL
    assert metrics["custom"] == {
        "turn": 1,
        "request_id": request.request_id,
        "stop_reason": "end_turn",
        "cache_read_input_tokens": 300,
        "cache_creation_input_tokens": 30,
        "web_search_requests": 0,
    }
    assert metadata["actual_source"] == "usage"
    assert metadata["price_source"]
    assert (metadata["delegation_id"], metadata["turn"]) == (result["delegation_id"], 1)


async def test_every_class_of_token_is_charged_at_its_own_price(bench: OpenBench) -> None:
    """Design, Money: the charge is the price book's cost of the API's usage, to the microcent."""
    usage = Usage(
        input_tokens=901,
        output_tokens=333,
        cache_read_input_tokens=77,
        cache_creation_5m_input_tokens=13,
        cache_creation_1h_input_tokens=11,
        web_search_requests=1,
        inference_geo="us",
    )
    b = await bench([Turn(text="Done.", usage=usage)])

    result = await b.delegate(model="claude-opus-5-5")

    expected = b.services.prices.cost(
        "claude-opus-5-5",
        TokenUsage(
            input_tokens=901,
            output_tokens=333,
            cache_read_input_tokens=77,
            cache_creation_5m_input_tokens=13,
            cache_creation_1h_input_tokens=11,
            web_search_requests=1,
            inference_geo="us",
        ),
    )
    (turn,) = result["turns"]
    assert turn["charged"]["amount"] == expected.amount_microcents
    assert turn["actual_source"] == "usage"
    assert (turn["input_tokens"], turn["output_tokens"]) == (901, 333)
    assert (turn["cache_read_input_tokens"], turn["cache_creation_input_tokens"]) == (77, 24)


async def test_usage_without_a_price_is_charged_at_the_bound_and_not_given_back(bench: OpenBench) -> None:
    """Design, when things go wrong: usage that is not known for sure is charged at the bound."""
    b = await bench([Turn(text="Done.", usage=Usage(speed="fast"))])

    result = await b.delegate(model="claude-sonnet-4-6")

    (turn,) = result["turns"]
    (reservation,) = await b.reservations()
    assert result["status"] == "completed"
    assert reservation["status"] == "COMMITTED"
    assert turn["charged"] == turn["reserved"]
    assert turn["actual_source"] == "bound"


async def test_each_turn_has_a_reservation_of_its_own(bench: OpenBench) -> None:
    """Design: one reservation per turn, numbered in its tags."""
    b = await bench([Turn(tool_calls=(LOOK,)), Turn(tool_calls=(LOOK,)), Turn(text="3")])

    result = await b.delegate(tools=TOOLS)

    (held,), rows = await b.held_and_spent()
    assert held["status"] == "RELEASED"
    assert [turn["number"] for turn in result["turns"]] == [1, 2, 3]
    assert [row["reservation_id"] for row in rows] == [turn["reservation_id"] for turn in result["turns"]]
    assert [f"turn-{number}" in row["action"]["tags"] for number, row in enumerate(rows, 1)] == [True] * 3
    assert {row["status"] for row in rows} == {"COMMITTED"}


async def test_caps_on_output_are_obeyed(bench: OpenBench) -> None:
    """Cycles v0, Caps: an authority's cap goes into the request, and the bound stays above it."""
    b = await bench([Turn(text="word " * 2_000)])
    await b.set_budget(caps='{"max_tokens": 300}')

    result = await b.delegate()

    (turn,) = result["turns"]
    assert turn["decision"] == "ALLOW_WITH_CAPS"
    assert b.claude.message_requests[0].body["max_tokens"] == 300
    assert turn["output_tokens"] == 300
    assert turn["stop_reason"] == "max_tokens"
    assert "caps" in result["hint"]


async def test_caps_above_what_was_asked_for_change_nothing(bench: OpenBench) -> None:
    """Cycles v0, Caps: a cap is an upper limit."""
    b = await bench([Turn(text="Done.")])
    await b.set_budget(caps='{"max_tokens": 300}')

    await b.delegate(max_output_tokens=299)

    assert b.claude.message_requests[0].body["max_tokens"] == 299


async def test_caps_that_allow_no_output_send_nothing(bench: OpenBench) -> None:
    """Cycles v0, Caps: what was reserved for a turn that cannot be is released."""
    b = await bench([])
    await b.set_budget(caps='{"max_tokens": 0}')

    result = await b.delegate()

    assert (b.sent, result["status"], result["spent"]["amount"]) == (0, "failed", 0)
    assert "caps" in result["hint"]
    assert [row["status"] for row in await b.reservations()] == ["RELEASED"]


async def test_without_a_token_count_the_prompt_is_bounded_by_its_bytes(bench: OpenBench) -> None:
    """Design, Tokens: offline, the safe bound for text is its bytes and a constant."""
    b = await bench([Turn(text="Done.")], endpoint=CountlessClaude)

    result = await b.delegate(task="Grüße " * 50, system="Be brief.")

    (turn,) = result["turns"]
    bound = most_input_tokens(b.claude.message_requests[0].body)
    assert turn["reserved"]["amount"] == b.services.prices.worst_case(
        MODEL, input_tokens=bound, max_output_tokens=4_096
    )
    assert turn["charged"]["amount"] <= turn["reserved"]["amount"]


async def test_after_a_turn_without_usage_the_next_prompt_is_counted_anew(bench: OpenBench) -> None:
    """Design, Tokens: only a previous turn's exact usage may stand for counting; none is no zero."""
    b = await bench(
        [Turn(text="x" * 4_000, tool_calls=(LOOK,), usage=Usage(service_tier="new")), Turn(text="Done.")],
    )

    result = await b.delegate(task="Long. " * 500, tools=TOOLS)

    first, second = result["turns"]
    counts = [request for request in b.claude.requests if request.path == COUNT_TOKENS_PATH]
    assert (result["status"], len(counts)) == ("completed", 2)
    assert first["actual_source"] == "bound"
    assert second["actual_source"] == "usage"
    assert second["charged"]["amount"] <= second["reserved"]["amount"]
    bound_for_nothing = b.services.prices.worst_case(MODEL, input_tokens=1_000, max_output_tokens=4_096)
    assert second["reserved"]["amount"] > bound_for_nothing


@pytest.mark.parametrize("seed", range(8))
async def test_whatever_the_script_no_turn_passes_its_bound_and_no_delegation_its_budget(
    bench: OpenBench, seed: int
) -> None:
    """Design, 2: the bound is a bound, so overshoot is zero."""
    chance = random.Random(seed)  # noqa: S311 - repeatable, not secret
    limit = chance.choice([None, "0.004", "0.02", "0.1"])

    def script(_body: Mapping[str, Any], _number: int) -> Turn | Failure:
        if chance.random() < 0.1:
            return Failure(status=chance.choice([429, 529]), retry_after_seconds=0)
        calls = tuple(
            ToolCall("shed__count", {"ü" * chance.randint(0, 9): "\u2603" * chance.randint(0, 900)})
            for _ in range(chance.choice([0, 1, 1, 1, 3]))
        )
        return Turn(
            thinking="z" * chance.randint(0, 2_000),
            text="ß" * chance.randint(0, 4_000),
            tool_calls=calls,
            usage=Usage(service_tier=chance.choice(["standard"] * 9 + ["new"])),
        )

    endpoint = chance.choice([ScriptedClaude, CountlessClaude])
    b = await bench(script, usd=chance.choice(["0.01", "0.05", "0.3"]), endpoint=endpoint)
    for _ in range(3):
        result = await b.delegate(
            task="t" * chance.randint(1, 3_000),
            model=chance.choice(["claude-haiku-5-5", MODEL, "claude-opus-5-5"]),
            max_output_tokens=chance.choice([300, 4_096, 20_000]),
            max_turns=8,
            budget_usd=limit,
            tools=TOOLS,
        )
        charged = [turn for turn in result["turns"] if turn.get("charged")]
        assert all(turn["charged"]["amount"] <= turn["reserved"]["amount"] for turn in charged)
        assert limit is None or result["spent"]["amount"] <= float(limit) * 100_000_000
        assert (await b.balance())["remaining"] >= 0
