"""Caps: what an authority allows beside the amount is obeyed, not advised (Cycles v0, Caps)."""

import json
from typing import Any

import anyio
import pytest

from budget_server.demo.scripted_claude import ToolCall, Turn
from tools.delegation.harness import (
    LOOK,
    Bench,
    OpenBench,
    background,
    last_words,
    looks,
    tool_results,
)

pytestmark = pytest.mark.anyio

BOTH = ["shed__count", "shed__note"]
NOTE = ToolCall("shed__note")


async def capped(bench: OpenBench, script: Any, **caps: object) -> Bench:
    """Open a bench whose budget has these caps."""
    b: Bench = await bench(script)
    await b.set_budget(caps=json.dumps(caps))
    return b


def offered(b: Bench, number: int = 1) -> list[str]:
    """The tools that the n-th request offers."""
    return [tool["name"] for tool in b.claude.message_requests[number - 1].body["tools"]]


@pytest.mark.parametrize(
    ("caps", "allowed"),
    [
        ({"tool_allowlist": ["shed__count"]}, ["shed__count"]),
        ({"tool_denylist": ["shed__note"]}, ["shed__count"]),
        ({"tool_allowlist": ["shed__count"], "tool_denylist": ["shed__count"]}, ["shed__count"]),
        ({"tool_allowlist": [], "tool_denylist": ["shed__note"]}, ["shed__count"]),
        ({"tool_denylist": ["count", "note", "shed", "SHED__COUNT", "shed__*"]}, BOTH),
    ],
    ids=["allowed", "denied", "a list of allowed ones silences the other", "an empty list says nothing", "exact names"],
)
async def test_tools_are_offered_and_run_as_the_caps_say_by_their_exact_names(
    bench: OpenBench, caps: dict[str, Any], allowed: list[str]
) -> None:
    """A tool that may not be used is neither offered nor run, even where the model asks for it all the same."""
    b = await capped(bench, [Turn(tool_calls=(LOOK, NOTE)), Turn(text="Done.")], **caps)

    result = await b.delegate(tools=BOTH)

    counted, noted = tool_results(b.claude.message_requests[1])
    assert offered(b) == offered(b, 2) == allowed
    assert counted["content"] == [{"type": "text", "text": "call 1"}]
    assert ("do not allow the tool 'shed__note'" in noted["content"][0]["text"]) == ("shed__note" not in allowed)
    assert [call["ok"] for call in result["turns"][0]["tool_calls"]] == [True, "shed__note" in allowed]
    assert (result["status"], result["turns"][0]["decision"]) == ("completed", "ALLOW_WITH_CAPS")


async def test_where_no_tool_is_allowed_all_are_named_and_none_may_be_chosen(bench: OpenBench) -> None:
    """Messages API: a conversation in which tools were used must go on naming some; tool_choice keeps them away."""
    b = await capped(bench, [Turn(text="Done.")], tool_allowlist=["elsewhere__tool"])

    result = await b.delegate(tools=BOTH)

    assert (result["status"], offered(b)) == ("completed", BOTH)
    assert b.claude.message_requests[0].body["tool_choice"] == {"type": "none"}


async def test_no_steps_at_all_send_nothing_and_give_everything_back(bench: OpenBench) -> None:
    """max_steps_remaining 0: the reservation was granted, and still nothing may be done under it."""
    b = await capped(bench, [Turn(text="Never.")], max_steps_remaining=0)

    result = await b.delegate(tools=BOTH)

    assert (result["status"], b.sent, result["spent"]["amount"]) == ("failed", 0, 0)
    assert result["hint"].startswith("The budget's caps allow no further steps")
    assert {row["status"] for row in await b.reservations()} == {"RELEASED"}


@pytest.mark.parametrize("steps", [1, 3])
async def test_so_many_steps_are_taken_and_the_last_is_an_answer(bench: OpenBench, steps: int) -> None:
    """max_steps_remaining counts down from the first turn that hears of it, though the authority never changes it."""
    b = await capped(bench, looks, max_steps_remaining=steps)

    result = await b.delegate(tools=BOTH)

    choices = [request.body.get("tool_choice") for request in b.claude.message_requests]
    assert (result["status"], result["text"], b.sent) == ("max_turns", f"Look {steps}.", steps)
    assert choices == [None] * (steps - 1) + [{"type": "none"}]
    assert "the budget's caps allow no more steps" in last_words(b.claude.message_requests[-1])
    assert "caps" in result["hint"]


async def test_an_authority_that_counts_down_itself_is_not_counted_twice(bench: OpenBench) -> None:
    """The least of both counts: 3, 2, 1 from the authority are three steps, not two."""
    go_ons = [anyio.Event(), anyio.Event()]
    holds = [*go_ons, None]
    b = await capped(
        bench,
        [Turn(text=f"Look {number}.", tool_calls=(LOOK,), hold=hold) for number, hold in enumerate(holds)],
        max_steps_remaining=3,
    )

    async with background(lambda: b.delegate(tools=BOTH)) as results:
        for number, go_on in enumerate(go_ons, start=1):
            await b.held(number)
            await b.set_budget(caps=json.dumps({"max_steps_remaining": 3 - number}))
            go_on.set()

    assert (results[0]["status"], b.sent) == ("max_turns", 3)


async def test_a_repair_is_a_step_like_any_other(bench: OpenBench) -> None:
    """An answer that does not fit its schema is not given again where the caps allow no more steps."""
    b = await capped(bench, [Turn(text="{}"), Turn(text='{"a": 1}')], max_steps_remaining=1)
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}

    result = await b.delegate(output_schema=schema)

    assert (result["status"], b.sent) == ("max_turns", 1)
    assert "does not fit output_schema" in result["hint"]


async def test_all_caps_at_once_are_obeyed_together(bench: OpenBench) -> None:
    """max_tokens, tools, steps and a pause: none makes another forgotten."""
    b = await capped(bench, looks, max_tokens=300, max_steps_remaining=2, tool_denylist=["shed__note"], cooldown_ms=20)

    result = await b.delegate(tools=BOTH)

    assert (result["status"], b.sent) == ("max_turns", 2)
    assert [request.body["max_tokens"] for request in b.claude.message_requests] == [300, 300]
    assert (offered(b), offered(b, 2)) == (["shed__count"], ["shed__count"])


async def test_a_pause_that_the_caps_ask_for_is_kept_between_turns_and_told(bench: OpenBench) -> None:
    """cooldown_ms: the next turn is not sent before; the host hears what it waits for, and a cancel ends the wait."""
    b = await capped(bench, [Turn(text="I look.", tool_calls=(LOOK,)), Turn(text="Never.")], cooldown_ms=3_600_000)
    running = await b.delegate(tools=BOTH, wait_seconds=0)
    await b.doing(running, "the budget's caps ask to wait 3600 s")

    result = await b.status(running["delegation_id"], cancel=True)

    assert (result["status"], result["text"], b.sent) == ("cancelled", "I look.", 1)
    assert result["turns"][0]["tool_calls"][0]["ok"]


async def test_after_the_last_turn_nobody_waits(bench: OpenBench) -> None:
    """A pause before nothing would only keep the caller waiting."""
    b = await capped(bench, [Turn(text="Done.")], cooldown_ms=3_600_000)

    assert (await b.delegate())["status"] == "completed"
