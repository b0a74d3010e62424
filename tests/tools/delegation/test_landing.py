"""The landing: the last turn that a limit allows is spent on a final answer, from money that was held for it."""

from collections.abc import Mapping
from typing import Any

import anyio
import pytest

from budget_server.authority.quotas import Quota, set_quota
from budget_server.database.file import wall_ms
from budget_server.demo.scripted_claude import Failure, ReceivedRequest, ToolCall, Turn, Usage
from budget_tools.delegation import choice
from tools.delegation.harness import LOOK, TOOLS, Bench, OpenBench, background, last_words, looks

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
def _no_long_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait for money of others for moments only: here it never comes back."""
    monkeypatch.setattr(choice, "CROWDED_PAUSES_SECONDS", (0.01,))


def is_landing(request: ReceivedRequest) -> bool:
    """Whether a request withholds its tools, and still names them as the API wants it."""
    withholds = request.body.get("tool_choice") == {"type": "none"}
    assert [tool["name"] for tool in request.body["tools"]] == TOOLS
    return withholds


async def test_its_limits_are_told_at_the_start_and_stay_the_same_words(bench: OpenBench) -> None:
    """A sub-agent can only plan within limits that it knows; words that changed would spoil the cached prefix."""
    b = await bench(looks)

    await b.delegate(tools=TOOLS, max_turns=3, budget_usd="0.5", system="Be brief.")

    systems = [request.body["system"] for request in b.claude.message_requests]
    (block,) = systems[0]
    assert block["text"].startswith("Be brief.\n\nYou work by yourself on a delegated task")
    assert "at most 3 turns and $0.50." in block["text"]
    assert "without tools" in block["text"]
    assert systems == [systems[0]] * 3


@pytest.mark.parametrize(
    ("limits", "caps", "turns", "status", "told", "hint"),
    [
        ({"max_turns": 1}, None, 1, "max_turns", "you have only one", "all of its 1 turns"),
        ({"max_turns": 3}, None, 3, "max_turns", "it is turn 3 of 3", "larger max_turns"),
        ({}, '{"max_steps_remaining": 2}', 2, "max_turns", "caps allow no more steps", "caps"),
    ],
    ids=["the only turn", "the last turn", "the last step of the caps"],
)
async def test_on_the_last_turn_it_is_told_so_and_its_words_are_the_result(
    bench: OpenBench, limits: dict[str, Any], caps: str | None, turns: int, status: str, told: str, hint: str
) -> None:
    """Design, 4: a last answer instead of a tool call whose result nobody would read; both sides hear why."""
    b = await bench(looks)
    await b.set_budget(caps=caps)

    result = await b.delegate(tools=TOOLS, **limits)

    *ordinary, last = b.claude.message_requests
    assert (result["status"], result["text"], b.sent) == (status, f"Look {turns}.", turns)
    assert (hint in result["hint"], result["resumable"]) == (True, True)
    assert [is_landing(request) for request in (*ordinary, last)] == [False] * (turns - 1) + [True]
    assert last_words(last).startswith("This is your last turn: ")
    assert told in last_words(last)
    assert not any("last turn:" in str(request.body["messages"]) for request in ordinary)


@pytest.mark.parametrize("limit", ["budget", "budget_usd"])
async def test_where_the_money_ends_the_last_turn_is_an_answer(bench: OpenBench, limit: str) -> None:
    """Design, 4: the last affordable turn is kept back from the start, whichever of the two limits is the tighter."""
    b = await bench(looks, usd="0.10" if limit == "budget" else "1.00")

    result = await b.delegate(tools=TOOLS, max_turns=100, **({} if limit == "budget" else {"budget_usd": "0.10"}))

    *ordinary, last = b.claude.message_requests
    assert (result["status"], result["text"]) == ("budget_exhausted", f"Look {b.sent}.")
    assert result["spent"]["amount"] <= 10_000_000
    assert ("budget_usd ($0.10)" in result["hint"]) == (limit == "budget_usd")
    assert "raise it and resume" in result["hint"]
    assert [is_landing(request) for request in (*ordinary, last)] == [False] * len(ordinary) + [True]
    assert "what is left of the budget covers no more than this answer" in last_words(last)


async def test_what_is_held_does_not_keep_most_of_a_small_budget_from_being_used(bench: OpenBench) -> None:
    """The hold is kept where it covers the next landing, and counts where a new one takes its place."""
    b = await bench(lambda *_: Turn(text="word " * 120, tool_calls=(LOOK,)), usd="0.08")

    result = await b.delegate(tools=TOOLS, max_turns=100, max_output_tokens=1_024)

    assert result["status"] == "budget_exhausted"
    assert result["spent"]["amount"] > 4_500_000


async def test_while_a_turn_is_out_the_money_for_a_last_answer_is_held_beside_it(bench: OpenBench) -> None:
    """Design, 4: held from the start, for as long an answer as a last one may need after the longest turn."""
    go_on = anyio.Event()
    b = await bench([Turn(text="Done.", hold=go_on)])

    async with background(lambda: b.delegate(tools=TOOLS)) as results:
        await b.held(1)
        rows = await b.reservations("ACTIVE")
        balance = await b.balance()
        go_on.set()

    landing, turn = sorted(rows, key=lambda row: "landing" not in row["action"]["tags"])
    assert ("landing" in landing["action"]["tags"], "turn-1" in turn["action"]["tags"]) == (True, True)
    assert f"delegation-{results[0]['delegation_id']}" in landing["action"]["tags"]
    assert balance["reserved"] == landing["reserved"]["amount"] + turn["reserved"]["amount"]
    assert landing["reserved"]["amount"] > b.services.prices.worst_case(
        "claude-sonnet-5-5", input_tokens=4_096, max_output_tokens=1_024
    )
    assert (await b.balance())["reserved"] == 0


async def test_without_tools_nothing_is_held_and_a_turn_may_cost_all_there_is(bench: OpenBench) -> None:
    """Nothing comes after an answer, so nothing needs to be kept back for it."""
    b = await bench([Turn(text="Done.")], usd="0.06")

    result = await b.delegate()

    held, _ = await b.held_and_spent()
    assert (held, result["status"]) == ([], "completed")
    assert "tool_choice" not in b.claude.message_requests[0].body
    assert "system" not in b.claude.message_requests[0].body


@pytest.mark.parametrize(("calls", "output", "usd"), [(1, 256, "0.02"), (3, 300, "0.02"), (12, 4_096, "0.20")])
async def test_what_others_spend_meanwhile_cannot_take_the_last_answer(
    bench: OpenBench, calls: int, output: int, usd: str
) -> None:
    """The reason why it is held: the last turn is paid from the very reservation that stood since the start.

    The turn before uses all of its output, so that what comes back of it is too little for another.
    """
    go_on = anyio.Event()
    dear = Turn(text="I look.", tool_calls=(LOOK,) * calls, usage=Usage(output_tokens=output), hold=go_on)
    b = await bench([dear, Turn(text="At last.")], usd=usd)

    async with background(lambda: b.delegate(tools=TOOLS, max_output_tokens=output)) as results:
        await b.held(1)
        await b.spend_what_remains()
        go_on.set()
    (result,) = results

    held, _ = await b.held_and_spent()
    assert (result["status"], result["text"], b.sent) == ("budget_exhausted", "At last.", 2)
    assert is_landing(b.claude.message_requests[1])
    assert result["turns"][1]["reservation_id"] == held[-1]["reservation_id"]
    assert result["turns"][1]["reserved"]["amount"] == held[-1]["reserved"]["amount"]
    assert held[-1]["status"] == "COMMITTED"


async def test_a_hold_that_expired_and_was_spent_by_others_ends_it_with_the_reason(bench: OpenBench) -> None:
    """A hold has no heartbeat: where it lapses, nothing is sent without money, and the text so far is kept."""
    go_on = anyio.Event()
    dear = Turn(text="So far.", tool_calls=(LOOK,), usage=Usage(output_tokens=300), hold=go_on)
    b = await bench([dear, Turn(text="Never.")])

    async with background(lambda: b.delegate(tools=TOOLS, max_output_tokens=300)) as results:
        await b.held(1)
        await expire_holds(b)
        await b.spend_what_remains()
        go_on.set()

    (result,) = results
    assert (result["status"], result["text"], b.sent) == ("budget_exhausted", "So far.", 1)
    assert "does not cover" in result["hint"]
    assert "turn 2" in result["hint"]
    assert "resume" in result["hint"]


async def expire_holds(b: Bench) -> None:
    """Let the lease of every hold run out, as a quarter of an hour would."""
    query = "UPDATE reservations SET expires_at_ms = ? WHERE action LIKE '%landing%' AND state = 'ACTIVE'"
    await b.ledger(lambda ledger: ledger.db.execute(query, (wall_ms() - 60_000,)))


async def test_a_hold_that_expired_is_made_good_from_what_remains(bench: OpenBench) -> None:
    """A lapsed hold costs nothing as long as there is other money for the last answer."""
    go_on = anyio.Event()
    b = await bench([Turn(text="So far.", tool_calls=(LOOK,), hold=go_on), Turn(text="At last.")])

    async with background(lambda: b.delegate(tools=TOOLS, max_turns=2)) as results:
        await b.held(1)
        await expire_holds(b)
        go_on.set()

    assert (results[0]["status"], results[0]["text"]) == ("max_turns", "At last.")


ENDS: Mapping[str, tuple[list[Turn | Failure], str]] = {
    "an answer": ([Turn(text="Done.")], "completed"),
    "a refusal": ([Turn(text="No.", stop_reason="refusal")], "refused"),
    "an unknown stop reason": ([Turn(text="Hm.", stop_reason="something_new")], "failed"),
    "an error of the API": ([Failure(status=401)], "failed"),
    "a broken stream": ([Turn(text="Hm, hm.", fault="drop_mid_stream")], "failed"),
    "an answer that was cut": ([Turn(text="x" * 40_000)], "completed"),
    "a landing": ([Turn(text="Look.", tool_calls=(LOOK,)), Turn(text="Done.")], "max_turns"),
}


@pytest.mark.parametrize("end", ENDS)
async def test_at_every_kind_of_end_the_hold_is_given_back_or_spent(bench: OpenBench, end: str) -> None:
    """Nothing may stay held for a delegation that has stopped: the money is somebody's."""
    script, status = ENDS[end]
    b = await bench(script)

    result = await b.delegate(tools=TOOLS, max_turns=2)

    held, _ = await b.held_and_spent()
    assert result["status"] == status
    assert {row["status"] for row in held} == {"RELEASED"}
    assert result["remaining"]["amount"] == (await b.balance())["remaining"]
    assert (await b.balance())["reserved"] == 0


async def test_cancelling_gives_the_hold_back(bench: OpenBench) -> None:
    """The turn that is out is charged at its bound; what was only held is not."""
    b = await bench([Turn(text="Never.", hold=anyio.Event())])
    running = await b.delegate(tools=TOOLS, wait_seconds=0)
    await b.held(1)

    result = await b.status(running["delegation_id"], cancel=True)

    held, _ = await b.held_and_spent()
    assert [row["status"] for row in held] == ["RELEASED"]
    assert result["spent"] == result["turns"][0]["reserved"]


async def test_a_frozen_budget_stops_it_at_once_and_what_is_held_is_not_spent(bench: OpenBench) -> None:
    """A person who froze a budget meant all of it: not even a last answer is bought."""
    go_on = anyio.Event()
    b = await bench([Turn(text="So far.", tool_calls=(LOOK,), hold=go_on), Turn(text="Never.")])

    async with background(lambda: b.delegate(tools=TOOLS, max_turns=2)) as results:
        await b.held(1)
        await b.set_budget(status="FROZEN")
        go_on.set()

    held, _ = await b.held_and_spent()
    assert (results[0]["status"], results[0]["text"], b.sent) == ("budget_exhausted", "So far.", 1)
    assert results[0]["hint"].startswith("BUDGET_FROZEN: ")
    assert {row["status"] for row in held} == {"RELEASED"}


async def test_a_quota_of_calls_still_leaves_the_last_answer_that_is_held(bench: OpenBench) -> None:
    """Cycles v0.1.26, quotas: no new call is granted, but the one that is reserved already may be made."""
    b = await bench(looks)
    await b.ledger(lambda ledger: set_quota(ledger.db, "local", Quota("tenant:local", "llm.completion", "run", 3)))

    result = await b.delegate(tools=TOOLS)

    *_, last = b.claude.message_requests
    assert (result["status"], result["text"]) == ("budget_exhausted", f"Look {b.sent}.")
    assert result["hint"].startswith("ACTION_QUOTA_EXCEEDED: ")
    assert is_landing(last)
    assert "the budget allows no further turns" in last_words(last)


async def test_results_too_long_for_the_held_money_are_left_out_of_the_last_turn_and_kept(bench: OpenBench) -> None:
    """A last answer without them is worth more than none; whoever resumes with more money has them."""
    ramble = ToolCall("shed__ramble", {"length": 90_000})
    b = await bench(
        [Turn(text="I look.", tool_calls=(ramble,)), Turn(text="Too long."), Turn(text="Read.")], usd="0.10"
    )

    stopped = await b.delegate(tools=["shed__ramble"])
    await b.fund("1.00")
    resumed = await b.delegate(task="", resume=stopped["delegation_id"])

    _, last, after = (request.body["messages"] for request in b.claude.message_requests)
    (block,) = last[2]["content"]
    (kept,) = after[2]["content"]
    assert (stopped["status"], stopped["text"]) == ("budget_exhausted", "Too long.")
    assert block["is_error"]
    assert block["content"] == [
        {"type": "text", "text": "(Left out: what is left of the budget does not cover reading it.)"}
    ]
    assert kept["content"] == [{"type": "text", "text": "x" * 90_000}]
    assert (resumed["status"], resumed["text"]) == ("completed", "Read.")


async def test_tools_that_are_asked_for_on_the_last_turn_are_not_run(bench: OpenBench) -> None:
    """An endpoint may ignore tool_choice: the limit holds all the same, and the words are the result."""
    defiant = Turn(text="I look on.", tool_calls=(LOOK,), ignores_tool_choice=True)
    b = await bench([defiant, Turn(text="Never mind.")])

    result = await b.delegate(tools=TOOLS, max_turns=1)
    resumed = await b.delegate(task="", resume=result["delegation_id"], max_turns=2)

    assert (result["status"], result["text"], result["turns"][0]["tool_calls"]) == ("max_turns", "I look on.", [])
    assert resumed["text"] == "Never mind."
    answered = b.claude.message_requests[1].body["messages"][-2]["content"]
    assert [block["content"][0]["text"][:8] for block in answered] == ["Not run:"]


async def test_a_last_turn_without_words_says_so(bench: OpenBench) -> None:
    """The caller must not take an empty text for an answer."""
    silent = Turn(tool_calls=(LOOK,), ignores_tool_choice=True)
    b = await bench([silent])

    result = await b.delegate(tools=TOOLS, max_turns=1)

    assert (result["status"], result["text"]) == ("max_turns", "")
    assert "brought no answer (stop reason tool_use)" in result["hint"]


async def test_a_last_answer_that_was_cut_says_so(bench: OpenBench) -> None:
    """Messages API, stop_reason max_tokens: what is there is returned, and that there was more."""
    b = await bench([Turn(text="x" * 4_000)])

    result = await b.delegate(tools=TOOLS, max_turns=1, max_output_tokens=300)

    assert (result["status"], len(result["text"])) == ("max_turns", 1_200)
    assert result["hint"].endswith("Its last answer was cut.")


async def test_a_short_answer_is_said_again_from_what_is_held_when_money_cut_it(bench: OpenBench) -> None:
    """Design, 4: an answer that the money cut in two is no answer while there is a hold to say it whole."""
    b = await bench([Turn(text="word " * 20_000), Turn(text="In short.")], usd="0.03")

    result = await b.delegate(tools=TOOLS)

    cut, last = b.claude.message_requests
    assert (result["status"], result["text"]) == ("budget_exhausted", "In short.")
    assert cut.body["max_tokens"] < 4_096
    assert (is_landing(cut), is_landing(last)) == (False, True)
    assert last.body["messages"][1]["role"] == "assistant"
    assert tool_results_of(last) == []


def tool_results_of(request: ReceivedRequest) -> list[dict[str, Any]]:
    """Every tool result of a request."""
    contents = [message["content"] for message in request.body["messages"]]
    return [block for each in contents if isinstance(each, list) for block in each if block["type"] == "tool_result"]
