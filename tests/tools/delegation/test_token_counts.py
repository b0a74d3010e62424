"""The endpoint's count of a prompt is believed only if its bytes allow it, and no turn used more than was counted."""

from collections.abc import Callable, Mapping
from typing import Any

import pytest

from budget_server.demo.scripted_claude import (
    COUNT_TOKENS_PATH,
    Script,
    ScriptedClaude,
    ToolCall,
    Turn,
    Usage,
    count_input_tokens,
)
from tools.delegation.harness import TOOLS, Bench, OpenBench, structured

pytestmark = pytest.mark.anyio

TASK = "word " * 4_860
"""About 8,100 tokens, as the scripted Claude counts and charges them."""

LOOK = ToolCall("shed__count", {"a": "b"})


class MiscountingClaude(ScriptedClaude):
    """An endpoint whose counts are made up."""

    def __init__(self, script: Script, count: Callable[[Mapping[str, Any]], int]) -> None:
        super().__init__(script)
        self._count = count

    async def _respond(self, exchange: Any) -> None:
        if exchange.request.path == COUNT_TOKENS_PATH:
            await exchange.send_json(200, {"input_tokens": self._count(exchange.request.body)})
        else:
            await super()._respond(exchange)


def counting(count: Callable[[Mapping[str, Any]], int]) -> Callable[[Script], ScriptedClaude]:
    """Make endpoints that count like this."""
    return lambda script: MiscountingClaude(script, count)


def times_counted(b: Bench) -> int:
    """How often a count was asked for."""
    return sum(request.path == COUNT_TOKENS_PATH for request in b.claude.requests)


def count_warnings(result: Mapping[str, Any]) -> list[str]:
    """The warnings that speak of counts."""
    warnings = [warning for warning in result["warnings"] if "counted" in warning]
    assert not any(warning.endswith(".") for warning in warnings), "the text sets the full stop"
    return warnings


@pytest.mark.parametrize("count", [0, 1, 48, 2_000], ids=str)
async def test_a_count_that_the_bytes_do_not_allow_is_not_believed(bench: OpenBench, count: int) -> None:
    """With the true count the turn does not fit, so it must not fit with another."""
    b = await bench([Turn(text="Never.")], usd="0.01", endpoint=counting(lambda _: count))

    denied = await b.delegate(task=TASK)

    assert (denied["status"], b.sent, denied["spent"]["amount"]) == ("budget_exhausted", 0, 0)
    (warning,) = count_warnings(denied)
    assert f"counted {count:,} tokens" in warning


@pytest.mark.parametrize("count", [0, 48, 1_000_000_000], ids=str)
async def test_the_bytes_take_its_place_it_is_said_once_and_no_other_is_asked_for(bench: OpenBench, count: int) -> None:
    """The turn is taken within the bound of the bytes; a count that is too high would deny for nothing."""
    b = await bench(lambda *_: Turn(text="Done."), endpoint=counting(lambda _: count))

    first = await b.delegate(task=TASK)
    second = await b.delegate(task=TASK)
    kept = await b.status(first["delegation_id"])

    assert (first["status"], second["status"], times_counted(b)) == ("completed", "completed", 1)
    assert len(count_warnings(first)) == 1
    assert count_warnings(kept) == count_warnings(first), "they are kept with the turn"
    assert count_warnings(second) == []
    for result in (first, second):
        (turn,) = result["turns"]
        assert turn["charged"]["amount"] <= turn["reserved"]["amount"]
        assert len(TASK) * 200 < turn["reserved"]["amount"], "a token for every byte, at $2 a million"


async def test_a_count_of_the_messages_alone_is_not_believed(bench: OpenBench) -> None:
    """Some gateways leave out the system prompt."""
    b = await bench(
        [Turn(text="Done.")],
        endpoint=counting(lambda body: count_input_tokens({"messages": body["messages"]})),
    )

    result = await b.delegate(task="Do it.", system=TASK)

    (turn,) = result["turns"]
    assert len(count_warnings(result)) == 1
    assert turn["charged"]["amount"] <= turn["reserved"]["amount"]


async def test_a_count_that_a_turn_contradicts_is_the_last(bench: OpenBench) -> None:
    """Half of the tokens is more than the fewest that the words can be; what was used tells."""
    b = await bench(lambda *_: Turn(text="Done."), endpoint=counting(lambda body: count_input_tokens(body) // 2))

    first = await b.delegate(task=TASK, max_output_tokens=20_000)
    second = await b.delegate(task=TASK)
    kept = await b.status(first["delegation_id"])

    (warning,) = count_warnings(first)
    used = first["turns"][0]["input_tokens"]
    assert f"counted {used // 2:,} tokens for a prompt and then reported {used:,}" in warning
    assert count_warnings(kept) == [warning]
    assert (count_warnings(second), times_counted(b)) == ([], 1)
    assert second["turns"][0]["charged"]["amount"] < second["turns"][0]["reserved"]["amount"]


async def test_a_count_that_is_right_is_believed_again_and_again(bench: OpenBench) -> None:
    """Words, tables, scripts without spaces and long runs of letters: what people write is plausible."""
    b = await bench(lambda *_: Turn(text="Done."))
    tasks = [
        TASK,
        "a,b,c;" * 500,
        "数えてください。" * 300,
        "हिन्दी में लिखो। " * 200,
        "x" * 9_000,
        "🙂" * 900,
        "don't " * 900,
    ]

    results = [await b.delegate(task=task, system="Be brief.") for task in tasks]

    assert [count_warnings(result) for result in results] == [[]] * len(tasks)
    assert times_counted(b) == len(tasks)


@pytest.mark.parametrize(
    "usage", [Usage(input_tokens=1), Usage(input_tokens=900), Usage(output_tokens=1)], ids=["1", "900", "output"]
)
async def test_usage_too_low_to_be_true_is_not_what_the_next_bound_rests_on(bench: OpenBench, usage: Usage) -> None:
    """The next prompt holds all of the last one and its answer."""
    b = await bench([Turn(text=TASK, tool_calls=(LOOK,), usage=usage), Turn(text="Done.")])

    result = await b.delegate(task=TASK, tools=TOOLS, max_output_tokens=20_000)

    second = result["turns"][1]
    assert (result["status"], times_counted(b)) == ("completed", 2), "it is counted again"
    assert second["input_tokens"] > 16_000
    assert second["charged"]["amount"] <= second["reserved"]["amount"]


async def test_an_estimate_believes_no_such_count_either(bench: OpenBench) -> None:
    """What a host is told before it spends rests on the same evidence, and its endpoint is not asked again."""
    b = await bench([Turn(text="Done.")], endpoint=counting(lambda _: 48))

    (first,) = structured(await b.call("estimate_cost", prompt=TASK))["estimates"]
    await b.call("estimate_cost", prompt=TASK)
    await b.delegate(task=TASK)

    assert first["input_tokens_source"] == "estimated"
    assert first["input_tokens"] > 8_100
    assert times_counted(b) == 1
