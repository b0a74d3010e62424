"""What follows from an answer: judged by its content first, by its stop reason second, and resumed as it should be."""

import json
from collections.abc import Sequence
from typing import Any, get_args

import pytest

from budget_server.demo.scripted_claude import Answer, ToolCall, Turn, Usage
from budget_tools.delegation.replies import CONSEQUENCES, STOP_REASONS, Consequence, Content, Ending
from faults.wire import STOP, Wire, WireClaude, delta, event, start, words
from tools.delegation.harness import TOOLS, Bench, OpenBench, last_words, structured, tool_results

pytestmark = pytest.mark.anyio

RAN = ToolCall("shed__count", {"a": "b"})
"""A call with an input, so that a cut one is told from it."""


def asks(written: str, *, index: int = 1, name: str = "shed__count", call_id: str = "toolu_wire_1") -> bytes:
    """A block that calls a tool with an input as it was written."""
    block = {"type": "tool_use", "id": call_id, "name": name, "input": {}}
    piece = {"type": "input_json_delta", "partial_json": written}
    return (
        event("content_block_start", index=index, content_block=block)
        + event("content_block_delta", index=index, delta=piece)
        + event("content_block_stop", index=index)
    )


def thinks(thinking: str = "Hm.") -> bytes:
    """A block of thinking that was never signed."""
    return (
        event("content_block_start", index=0, content_block={"type": "thinking", "thinking": "", "signature": ""})
        + event("content_block_delta", index=0, delta={"type": "thinking_delta", "thinking": thinking})
        + event("content_block_stop", index=0)
    )


SEARCH = {"type": "server_tool_use", "id": "srvtoolu_wire_1", "name": "web_search", "input": {}}

BLOCKS: dict[Content, bytes] = {
    "calls": words("So far.") + asks('{"a": "b"}'),
    "open_call": words("So far.") + asks('{"a": '),
    "words": words("So far."),
    "work": event("content_block_start", index=0, content_block=SEARCH) + event("content_block_stop", index=0),
    "nothing": b"",
}

WORDS: dict[Ending, str | None] = {
    "whole": "end_turn",
    "calling": "tool_use",
    "cut": "max_tokens",
    "window_full": "model_context_window_exceeded",
    "paused": "pause_turn",
    "refused": "refusal",
    "unknown": "something_new",
    "broken_off": None,
}

GOES_ON: frozenset[Consequence] = frozenset({"run_calls", "go_on"})

ENDS: dict[Consequence, tuple[str, str]] = {
    "run_calls": ("completed", ""),
    "go_on": ("completed", ""),
    "answer": ("completed", ""),
    "no_answer": ("failed", "without an answer (stop reason "),
    "lost_call": ("failed", "a tool call (stop reason tool_use) that is not there"),
    "cut_words": ("completed", "cut at max_output_tokens: allow more"),
    "cut_call": ("failed", "within a call of shed__count, so none of its calls was run"),
    "cut_thoughts": ("failed", "before it said anything, so there is no answer"),
    "window_full": ("failed", "context window is full"),
    "refused": ("refused", "declined"),
    "unknown": ("failed", "(stop reason something_new): resume it to go on"),
    "broken_off": ("failed", "broke off"),
}
"""How a delegation ends after each, and what the hint says."""


def said(content: bytes, stop_reason: str | None, usage: object = None) -> Wire:
    """An answer of some blocks; without a stop reason it breaks off."""
    end = b"" if stop_reason is None else delta(usage, stop_reason) + STOP
    return Wire(body=start() + content + end)


async def resume(b: Bench, stopped: dict[str, Any], **arguments: object) -> dict[str, Any]:
    """Resume a delegation; the call itself must succeed."""
    return structured(await b.call("delegate_to_claude", resume=stopped["delegation_id"], **arguments))


def blocks(messages: Sequence[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    """The blocks of a kind in a conversation."""
    return [
        block
        for message in messages
        if not isinstance(message["content"], str)
        for block in message["content"]
        if block["type"] == kind
    ]


def test_the_table_names_what_follows_from_every_pair() -> None:
    """A pair that nobody thought of would be judged by accident."""
    assert set(CONSEQUENCES) == {(ending, content) for ending in get_args(Ending) for content in get_args(Content)}
    assert set(CONSEQUENCES.values()) == set(get_args(Consequence)) == set(ENDS)
    assert set(STOP_REASONS.values()) | {"unknown", "broken_off"} == set(get_args(Ending))


@pytest.mark.parametrize("ending", get_args(Ending))
async def test_every_pair_ends_or_goes_on_as_the_table_says_and_can_be_resumed(
    bench: OpenBench, ending: Ending
) -> None:
    """Whatever a gateway sends: told, charged exactly if the usage came, and taken up again by a second call."""
    answers: list[Answer | Wire] = []
    b = await bench(endpoint=lambda _: WireClaude(answers), usd="5.00")

    for content, sent in BLOCKS.items():
        consequence = CONSEQUENCES[ending, content]
        answers.append(said(sent, WORDS[ending]))
        answers += [Turn(text="Done.")] if consequence in GOES_ON else []
        before = b.sent

        result = await b.delegate(tools=TOOLS)

        status, hint = ENDS[consequence]
        assert (result["status"], b.sent - before) == (status, 2 if consequence in GOES_ON else 1), (content, result)
        assert hint in result["hint"]
        first = result["turns"][0]
        is_free = consequence == "refused" and content == "nothing"
        assert first["actual_source"] == ("" if is_free else "bound" if consequence == "broken_off" else "usage")
        assert bool(first["tool_calls"]) == (consequence == "run_calls")
        assert result["resumable"] == (status == "failed")
        if result["resumable"]:
            answers.append(Turn(text="Resumed."))
            resumed = await resume(b, result)
            assert (resumed["status"], resumed["text"]) == ("completed", "Resumed."), (content, resumed["hint"])
            assert b.claude.message_requests[-1].body["messages"][-1]["role"] == "user"
            assert not blocks(b.claude.message_requests[-1].body["messages"], "tool_use")


# -- calls --


@pytest.mark.parametrize(
    "reason", ["end_turn", "stop_sequence", "max_tokens", "pause_turn", "something_new", "stop", "tool_calls", "length"]
)
async def test_a_whole_call_is_run_whatever_the_stop_reason_says(bench: OpenBench, reason: str) -> None:
    """Gateways end a call with end_turn, or with the words of another API; Claude waits for its result all the same."""
    b = await bench([Turn(text="I look.", tool_calls=(RAN,), stop_reason=reason), Turn(text="Seen.")])

    result = await b.delegate(tools=TOOLS)

    assert (result["status"], result["text"], b.sent) == ("completed", "Seen.", 2)
    (call,) = result["turns"][0]["tool_calls"]
    assert (call["name"], call["ok"]) == ("shed__count", True)
    assert len(tool_results(b.claude.message_requests[1])) == 1


async def test_calls_of_an_answer_that_was_refused_are_not_run(bench: OpenBench) -> None:
    """Messages API, stop_reason refusal: what came before it must not be used."""
    b = await bench([Turn(text="I look.", tool_calls=(RAN,), stop_reason="refusal")])

    result = await b.delegate(tools=TOOLS)

    assert (result["status"], result["turns"][0]["tool_calls"], b.sent) == ("refused", [], 1)


async def test_of_an_answer_that_was_cut_within_a_call_no_call_is_run_or_sent_back(bench: OpenBench) -> None:
    """Half of a set of calls may be half of a change; the sub-agent is told, and its words so far stay."""
    sent = words("First this.") + asks('{"a": "b"}') + asks('{"text": "half of', index=2, call_id="toolu_wire_2")
    answers: list[Answer | Wire] = [said(sent, "max_tokens"), Turn(text="At last.")]
    b = await bench(endpoint=lambda _: WireClaude(answers))

    stopped = await b.delegate(tools=TOOLS, max_output_tokens=500)
    resumed = await resume(b, stopped)

    assert (stopped["status"], stopped["text"], stopped["resumable"]) == ("failed", "First this.", True)
    assert "max_output_tokens within a call of shed__count" in stopped["hint"]
    assert stopped["turns"][0]["tool_calls"] == []
    assert stopped["turns"][0]["actual_source"] == "usage"
    messages = b.claude.message_requests[1].body["messages"]
    assert [message["role"] for message in messages] == ["user", "assistant", "user"]
    assert messages[1]["content"] == [{"type": "text", "text": "First this."}]
    assert "cut at 500 tokens, within a call of shed__count" in last_words(b.claude.message_requests[1])
    assert (resumed["status"], resumed["text"]) == ("completed", "At last.")


async def test_a_call_cut_before_its_input_began_is_not_taken_for_one_without_input(bench: OpenBench) -> None:
    """No input at all looks like an empty one: a tool would be called with nothing."""
    b = await bench(endpoint=lambda _: WireClaude([said(words("So far.") + asks(""), "max_tokens")]))

    result = await b.delegate(tools=TOOLS)

    assert (result["status"], result["turns"][0]["tool_calls"], b.sent) == ("failed", [], 1)


async def test_a_call_within_which_the_money_ended_is_told_so_on_its_last_turn(bench: OpenBench) -> None:
    """With money held for a last answer there is one, without the call."""
    long = ToolCall("shed__count", {"text": "y" * 40_000})
    b = await bench([Turn(text="I write.", tool_calls=(long,)), Turn(text="What I have.")], usd="0.06")

    result = await b.delegate(tools=TOOLS)

    assert (result["status"], result["text"], b.sent) == ("budget_exhausted", "What I have.", 2)
    assert all(turn["tool_calls"] == [] for turn in result["turns"])
    assert any("within a call of shed__count" in str(each) for each in b.claude.message_requests[1].body["messages"])


async def test_a_call_whose_json_is_broken_goes_back_to_claude_at_the_exact_cost(bench: OpenBench) -> None:
    """The usage is known, so the charge is; nothing was run, and Claude can write it again."""
    answers: list[Answer | Wire] = [
        said(words("I look.") + asks('{"a": "b"'), "tool_use"),
        Turn(text="Again.", tool_calls=(RAN,)),
        Turn(text="Seen."),
    ]
    b = await bench(endpoint=lambda _: WireClaude(answers))

    result = await b.delegate(tools=TOOLS)

    assert (result["status"], result["text"], b.sent) == ("completed", "Seen.", 3)
    first, second, _ = result["turns"]
    assert first["actual_source"] == "usage"
    assert first["charged"]["amount"] < first["reserved"]["amount"]
    assert [call["ok"] for call in (*first["tool_calls"], *second["tool_calls"])] == [False, True]
    (told,) = tool_results(b.claude.message_requests[1])
    assert told["is_error"]
    assert "JSON" in told["content"][0]["text"]
    assert "Nothing was run" in told["content"][0]["text"]


async def test_of_two_calls_with_one_id_each_gets_its_own_result(bench: OpenBench) -> None:
    """Some gateways number calls anew in each answer, or not at all."""
    sent = asks('{"a": "b"}', index=0) + asks('{"c": "d"}', index=1)
    b = await bench(endpoint=lambda _: WireClaude([said(sent, "tool_use"), Turn(text="Seen.")]))

    result = await b.delegate(tools=TOOLS)

    assert [call["ok"] for call in result["turns"][0]["tool_calls"]] == [True, True]
    first, second = tool_results(b.claude.message_requests[1])
    assert {first["content"][0]["text"], second["content"][0]["text"]} == {"call 1", "call 2"}


# -- no answer --


@pytest.mark.parametrize(
    "turn",
    [Turn(), Turn(text=" \n "), Turn(thinking="Hm."), Turn(thinking="Hm.", text=" ")],
    ids=["nothing", "blank", "thoughts", "thoughts and blank"],
)
async def test_an_answer_without_words_says_so_and_is_asked_for_when_resumed(bench: OpenBench, turn: Turn) -> None:
    """It must not look like an answer, and a second request like the first might be answered alike."""
    b = await bench([Turn(text="I look.", tool_calls=(RAN,)), turn, Turn(text="Here it is.")])

    stopped = await b.delegate(tools=TOOLS)
    resumed = await resume(b, stopped)

    assert (stopped["status"], stopped["resumable"]) == ("failed", True)
    assert "without an answer (stop reason end_turn)" in stopped["hint"]
    assert "was empty" in last_words(b.claude.message_requests[2])
    assert (resumed["status"], resumed["text"]) == ("completed", "Here it is.")


async def test_an_answer_that_was_cut_in_its_thoughts_is_none(bench: OpenBench) -> None:
    """Thinking counts in max_tokens, and may take all of them; unsigned thoughts do not go back."""
    b = await bench(endpoint=lambda _: WireClaude([said(thinks(), "max_tokens"), Turn(text="Short.")]))

    stopped = await b.delegate()
    resumed = await resume(b, stopped)

    assert (stopped["status"], stopped["resumable"], stopped["text"]) == ("failed", True, "")
    assert "max_output_tokens before it said anything" in stopped["hint"]
    assert (resumed["status"], resumed["text"]) == ("completed", "Short.")


# -- pauses, and a full window --


async def test_an_answer_that_pauses_goes_on_by_itself_and_is_given_whole(bench: OpenBench) -> None:
    """Messages API, stop_reason pause_turn: what was said goes back, and the next turn goes on from there."""
    b = await bench([Turn(text="One, ", stop_reason="pause_turn"), Turn(text="two.")])

    result = await b.delegate()
    kept = await b.status(result["delegation_id"])

    assert (result["status"], result["text"], kept["text"]) == ("completed", "One, two.", "One, two.")
    messages = b.claude.message_requests[1].body["messages"]
    assert messages[1] == {"role": "assistant", "content": [{"type": "text", "text": "One, "}]}
    assert [turn["actual_source"] for turn in result["turns"]] == ["usage", "usage"]


async def test_work_of_the_provider_goes_back_as_it_came(bench: OpenBench) -> None:
    """Messages API: a paused turn whose last block is the provider's own is sent back unchanged."""
    b = await bench(endpoint=lambda _: WireClaude([said(BLOCKS["work"], "pause_turn"), Turn(text="Found.")]))

    result = await b.delegate()

    assert (result["status"], result["text"]) == ("completed", "Found."), result["hint"]
    assert b.claude.message_requests[1].body["messages"][1:] == [{"role": "assistant", "content": [SEARCH]}]


@pytest.mark.parametrize("tools", [[], TOOLS], ids=["without tools", "with tools"])
async def test_pauses_without_end_are_turns_like_any_other(bench: OpenBench, tools: list[str]) -> None:
    """The limits hold, and what was said by then is the result."""
    b = await bench(lambda _, number: Turn(text=f"{number} ", stop_reason="pause_turn"))

    result = await b.delegate(tools=tools, max_turns=3)

    assert (result["status"], result["text"], b.sent) == ("max_turns", "1 2 3 ", 3)
    assert result["resumable"]


async def test_a_full_window_keeps_its_text_and_a_resume_goes_on_from_a_record(bench: OpenBench) -> None:
    """Nothing more would fit: the conversation begins afresh, with all that was said and found."""
    b = await bench(
        [
            Turn(text="I look.", tool_calls=(RAN,)),
            Turn(text="Half of", stop_reason="model_context_window_exceeded"),
            Turn(text="The whole."),
        ]
    )

    stopped = await b.delegate(tools=TOOLS, task="Count it.")
    resumed = await resume(b, stopped)

    assert (stopped["status"], stopped["text"], stopped["resumable"]) == ("failed", "Half of", True)
    assert "window is full" in stopped["hint"]
    (fresh,) = b.claude.message_requests[2].body["messages"]
    assert fresh["content"].startswith("Count it.")
    assert "I look.\n[used shed__count]" in fresh["content"]
    assert "[its result] call 1\nHalf of" in fresh["content"]
    assert (resumed["status"], resumed["text"]) == ("completed", "The whole.")


async def test_a_record_of_a_record_loses_nothing(bench: OpenBench) -> None:
    """A conversation may be told anew more than once."""
    full = "model_context_window_exceeded"
    b = await bench([Turn(text="One.", stop_reason=full), Turn(text="Two.", stop_reason=full), Turn(text="Three.")])

    stopped = await b.delegate()
    await resume(b, stopped)
    resumed = await resume(b, stopped)

    (fresh,) = b.claude.message_requests[2].body["messages"]
    assert fresh["content"].count("Work on this has begun") == 1
    assert fresh["content"].endswith("One.\nTwo.")
    assert (resumed["status"], resumed["text"]) == ("completed", "Three.")


# -- words of other APIs, and of nobody --


async def test_the_words_of_other_apis_are_understood(bench: OpenBench) -> None:
    """Some gateways pass on what OpenAI's API says: a whole answer is one all the same."""
    b = await bench([Turn(text="Done.", stop_reason="stop"), Turn(text="Half", stop_reason="length")])

    whole, cut = await b.delegate(), await b.delegate()

    assert (whole["status"], whole["hint"], cut["status"]) == ("completed", "", "completed")
    assert "max_output_tokens" in cut["hint"]


async def test_a_stop_reason_cannot_stretch_or_colour_the_hint(bench: OpenBench) -> None:
    """It is the endpoint's word, and may be anything."""
    b = await bench(endpoint=lambda _: WireClaude([said(words("So far."), "\x1b[31mred\n" + "x" * 9_000)]))

    result = await b.delegate()

    assert result["status"] == "failed"
    assert len(result["hint"]) < 600
    assert result["hint"].isprintable()


async def test_a_schema_is_checked_against_all_parts_of_an_answer_that_paused(bench: OpenBench) -> None:
    """An object may be split anywhere."""
    value = json.dumps({"a": 1})
    b = await bench([Turn(text=value[:4], stop_reason="pause_turn"), Turn(text=value[4:], usage=Usage())])
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}

    result = await b.delegate(output_schema=schema)

    assert (result["status"], result["structured"]) == ("completed", {"a": 1})
