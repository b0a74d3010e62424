"""Answers in the form of a schema: asked for, checked, mended once, and never passed off as what they are not."""

from typing import Any

import pytest

from budget_server.demo.scripted_claude import COUNT_TOKENS_PATH, ScriptedClaude, Turn
from tools.delegation.harness import LOOK, TOOLS, CountlessClaude, OpenBench, last_words, looks, structured

pytestmark = pytest.mark.anyio

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"parts": {"type": "array", "items": {"type": "object", "properties": {"no": {"type": "integer"}}}}},
    "required": ["parts"],
}
FITTING = '{"parts": [{"no": 1}]}'
WRONG = '{"parts": [{"no": "one"}]}'
MISSING = "{}"


@pytest.mark.parametrize("tools", [[], TOOLS], ids=["without tools", "with tools"])
async def test_an_answer_that_fits_is_given_as_a_value(bench: OpenBench, tools: list[str]) -> None:
    """Messages API, output_config: the schema is asked of the API in every turn, and what came is checked here."""
    first = [Turn(text="I look.", tool_calls=(LOOK,))] if tools else []
    b = await bench([*first, Turn(text=FITTING)])

    result = await b.delegate(output_schema=SCHEMA, tools=tools)

    assert (result["status"], result["structured"], result["hint"]) == ("completed", {"parts": [{"no": 1}]}, "")
    for request in b.claude.message_requests:
        form = request.body["output_config"]["format"]
        assert form["type"] == "json_schema"
        assert form["schema"]["properties"]["parts"]["items"]["additionalProperties"] is False
    assert await b.status(result["delegation_id"]) == {**result, "idempotency_key": ""}


@pytest.mark.parametrize("tools", [[], TOOLS], ids=["without tools", "with tools"])
async def test_an_answer_that_does_not_fit_is_mended_once(bench: OpenBench, tools: list[str]) -> None:
    """The sub-agent hears where and why, in one turn of its own that may use no tools."""
    b = await bench([Turn(text=WRONG), Turn(text=FITTING, tool_calls=(LOOK,) if tools else ())])

    result = await b.delegate(output_schema=SCHEMA, tools=tools)

    repair = b.claude.message_requests[1]
    assert (result["status"], result["structured"], len(result["turns"])) == ("completed", {"parts": [{"no": 1}]}, 2)
    assert "does not fit the schema" in last_words(repair)
    assert "$.parts[0].no" in last_words(repair)
    assert repair.body["messages"][-2] == {"role": "assistant", "content": [{"type": "text", "text": WRONG}]}
    assert repair.body.get("tool_choice") == ({"type": "none"} if tools else None)


@pytest.mark.parametrize("tools", [[], TOOLS], ids=["without tools", "with tools"])
async def test_an_answer_that_still_does_not_fit_is_a_failure_that_says_where(
    bench: OpenBench, tools: list[str]
) -> None:
    """The text is returned all the same: it was paid for, and may be of use."""
    b = await bench([Turn(text=WRONG), Turn(text=WRONG)])

    result = await b.delegate(output_schema=SCHEMA, tools=tools)

    assert (result["status"], result["text"], b.sent) == ("failed", WRONG, 2)
    assert result.get("structured") is None
    assert result["hint"].startswith("The answer does not fit output_schema: ")
    assert "$.parts[0].no" in result["hint"]


@pytest.mark.parametrize("tools", [[], TOOLS], ids=["without tools", "with tools"])
async def test_json_that_was_cut_is_no_answer_and_can_be_given_anew(bench: OpenBench, tools: list[str]) -> None:
    """Half of a text may be of use, half of a value is none: it would otherwise be over, without the value."""
    b = await bench([Turn(text='{"parts": [', stop_reason="max_tokens"), Turn(text=FITTING)])

    cut = await b.delegate(output_schema=SCHEMA, tools=tools)
    again = await b.delegate(resume=cut["delegation_id"], task="")

    assert (cut["status"], cut.get("structured"), cut["resumable"], len(cut["turns"])) == ("failed", None, True, 1)
    assert "cut at max_output_tokens" in cut["hint"]
    assert "its JSON is not whole" in last_words(b.claude.message_requests[1])
    assert (again["status"], again["structured"]) == ("completed", {"parts": [{"no": 1}]})


async def test_a_repair_counts_as_a_turn(bench: OpenBench) -> None:
    """max_turns is a limit of everything that is sent."""
    b = await bench([Turn(text=MISSING)])

    result = await b.delegate(output_schema=SCHEMA, max_turns=1)

    assert (result["status"], result["text"], b.sent) == ("max_turns", MISSING, 1)
    assert "'parts'" in result["hint"]
    assert "no turn left to mend it" in result["hint"]


async def test_a_repair_that_cannot_be_paid_says_what_does_not_fit_and_what_is_missing(bench: OpenBench) -> None:
    """Within the budget like any turn: the caller hears of both, and may resume once there is more."""
    b = await bench([Turn(text=MISSING), Turn(text=FITTING)])

    stopped = await b.delegate(output_schema=SCHEMA, budget_usd="0.0045", max_output_tokens=300)
    resumed = structured(await b.call("delegate_to_claude", resume=stopped["delegation_id"], budget_usd="0.05"))

    assert (stopped["status"], stopped["text"]) == ("budget_exhausted", MISSING)
    assert "does not fit output_schema" in stopped["hint"]
    assert "budget_usd ($0.0045) does not cover turn 2" in stopped["hint"]
    assert (resumed["status"], resumed["structured"]) == ("completed", {"parts": [{"no": 1}]})


@pytest.mark.parametrize(("answer", "value"), [(FITTING, {"parts": [{"no": 1}]}), (MISSING, None)])
async def test_the_answer_of_a_landing_is_checked_too(bench: OpenBench, answer: str, value: object) -> None:
    """A last answer that fits is as good as any; one that does not must not pass for one that does."""
    b = await bench([Turn(text="I look.", tool_calls=(LOOK,)), Turn(text=answer, tool_calls=(LOOK,))])

    result = await b.delegate(output_schema=SCHEMA, tools=TOOLS, max_turns=2)

    assert (result["status"], result["text"], result.get("structured")) == ("max_turns", answer, value)
    assert ("does not fit output_schema" in result["hint"]) == (value is None)
    assert "output_config" in b.claude.message_requests[1].body


@pytest.mark.parametrize("endpoint", [ScriptedClaude, CountlessClaude], ids=["counted", "by its bytes"])
async def test_a_schema_is_part_of_what_a_turn_reserves(bench: OpenBench, endpoint: type[ScriptedClaude]) -> None:
    """Design, 2: the bound is a bound, and the API takes the schema as input: it is asked, or the bytes count."""
    properties = {f"field_{number}": {"type": "string", "description": "word " * 40} for number in range(40)}
    b = await bench([Turn(text="{}")] * 2, endpoint=endpoint)

    plain = await b.delegate()
    formed = await b.delegate(output_schema={"type": "object", "properties": properties})

    counts = [request.body for request in b.claude.requests if request.path == COUNT_TOKENS_PATH]
    if endpoint is not CountlessClaude:
        assert counts[-1]["output_config"] == b.claude.message_requests[-1].body["output_config"]
    else:
        reserved = [result["turns"][0]["reserved"]["amount"] for result in (plain, formed)]
        schema_tokens = len(str(properties)) // 2
        assert reserved[1] - reserved[0] >= b.services.prices.worst_case(
            "claude-sonnet-5-5", input_tokens=schema_tokens, max_output_tokens=0
        )


async def test_a_schema_that_cannot_be_kept_is_refused_before_anything_is_sent(bench: OpenBench) -> None:
    """One sentence with the place, and nothing spent."""
    b = await bench(looks)

    refusal = await b.refused(output_schema={"type": "array"})

    assert "output_schema" in refusal
    assert (b.claude.requests, await b.kept()) == ([], [])
