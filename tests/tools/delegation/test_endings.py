"""How a delegation ends, and that what it has by then is returned."""

import re
from collections.abc import Mapping
from typing import Any

import anyio
import pytest

from budget_server.authority.quotas import Quota, set_quota
from budget_server.demo.scripted_claude import Failure, ToolCall, Turn, Usage, count_input_tokens
from budget_tools.core.money import format_usd, parse_usd
from budget_tools.pricing.tokens import with_margin
from tools.delegation.harness import MODEL, OpenBench, background, structured

pytestmark = pytest.mark.anyio

LOOK = ToolCall("shed__count")
TOOLS = ["shed__count"]


async def test_an_answer_completes_it(bench: OpenBench) -> None:
    """The main job: the last words are the result."""
    b = await bench([Turn(text="First.", tool_calls=(LOOK,)), Turn(text="At last.")])

    result = await b.delegate(tools=TOOLS, task="Say it.", context="Material.", system="Be brief.")

    assert (result["status"], result["text"]) == ("completed", "At last.")
    first, second = (request.body for request in b.claude.message_requests)
    assert first["messages"] == [{"role": "user", "content": "Say it.\n\nMaterial."}]
    assert first["system"] == second["system"]
    (system,) = first["system"]
    assert system["text"].startswith("Be brief.\n\n")
    assert "at most 10 turns" in system["text"]
    assert [message["role"] for message in second["messages"]] == ["user", "assistant", "user"]
    assert result["remaining"]["amount"] == (await b.balance())["remaining"]


async def test_thinking_goes_back_as_it_came(bench: OpenBench) -> None:
    """Messages API: a thinking block without its own signature is refused (the endpoint checks it)."""
    b = await bench([Turn(thinking="Hm, a tool.", text="I look.", tool_calls=(LOOK,)), Turn(text="Done.")])

    result = await b.delegate(tools=TOOLS)

    assert result["status"] == "completed"
    thought = b.claude.message_requests[1].body["messages"][1]["content"][0]
    assert (thought["type"], thought["thinking"]) == ("thinking", "Hm, a tool.")


async def test_max_turns_ends_it_before_the_tools_of_the_last_turn(bench: OpenBench) -> None:
    """Design, 8: a limit stops it; nobody would read what the tools gave."""
    b = await bench(
        [Turn(text=f"Look {number}.", tool_calls=(ToolCall("shed__count"),)) for number in (1, 2)],
    )

    result = await b.delegate(max_turns=2, tools=TOOLS)

    assert (result["status"], result["text"], b.sent) == ("max_turns", "Look 2.", 2)
    assert [len(turn["tool_calls"]) for turn in result["turns"]] == [1, 0]
    assert "2" in result["hint"]
    assert "max_turns" in result["hint"]


async def test_its_own_budget_ends_it_and_nothing_over_it_is_sent(bench: OpenBench) -> None:
    """Design, 8: budget_usd limits this delegation, however much the budget has left."""
    b = await bench(lambda _, number: Turn(text=f"Look {number}.", tool_calls=(LOOK,)))

    result = await b.delegate(tools=TOOLS, budget_usd="0.05", max_turns=100)

    assert result["status"] == "budget_exhausted"
    assert 0 < result["spent"]["amount"] <= 5_000_000
    assert b.sent == len(result["turns"]) < 100
    assert result["text"] == f"Look {b.sent}."
    assert "budget_usd" in result["hint"]
    assert sum(turn["charged"]["amount"] for turn in result["turns"]) == result["spent"]["amount"]


async def test_a_quota_of_calls_ends_each_run_after_its_own(bench: OpenBench) -> None:
    """Cycles v0.1.26, per-run quotas: a delegation is a run, so one that loops stops, and the next one may begin."""
    b = await bench(lambda _, number: Turn(text=f"Look {number}.", tool_calls=(LOOK,)))
    quota = Quota("tenant:local", "llm.completion", "run", 3)
    await b.ledger(lambda ledger: set_quota(ledger.db, "local", quota))

    first = await b.delegate(tools=TOOLS, max_turns=100)
    second = await b.delegate(tools=TOOLS, max_turns=100)

    for result in (first, second):
        assert (result["status"], len(result["turns"])) == ("budget_exhausted", 3)
        assert "ACTION_QUOTA_EXCEEDED" in result["hint"]
    assert b.sent == 6


async def test_a_first_turn_over_its_own_budget_is_not_sent(bench: OpenBench) -> None:
    """Enforced, not cooperative: a bound over the limit never leaves."""
    b = await bench([Turn(text="Never.")])

    result = await b.delegate(budget_usd="0.00000001")

    assert (result["status"], result["turns"], b.sent) == ("budget_exhausted", [], 0)
    assert await b.reservations() == []


@pytest.mark.parametrize(("affordable", "wanted", "sent"), [(255, 4_096, []), (256, 4_096, [256]), (99, 99, [99])])
async def test_an_answer_is_shortened_only_as_far_as_it_is_worth_its_prompt(
    bench: OpenBench, affordable: int, wanted: int, sent: list[int]
) -> None:
    """Design, turn by turn, 4: the largest max_tokens the remainder affords, not under the floor."""
    b = await bench([Turn(text="Done.")])
    prompt = with_margin(count_input_tokens({"messages": [{"role": "user", "content": "Do it."}]}))
    limit = b.services.prices.worst_case(MODEL, input_tokens=prompt, max_output_tokens=affordable)

    result = await b.delegate(budget_usd=format_usd(limit), max_output_tokens=wanted)

    assert [request.body["max_tokens"] for request in b.claude.message_requests] == sent
    assert result["status"] == ("completed" if sent else "budget_exhausted")


async def test_the_last_turns_of_a_budget_are_shortened_before_it_ends(bench: OpenBench) -> None:
    """Design, 4: it bends before it breaks: fewer output tokens first, then a stop that says why."""
    b = await bench(lambda _, number: Turn(text=f"Look {number}.", tool_calls=(LOOK,)), usd="0.12")

    result = await b.delegate(tools=TOOLS, max_turns=100)

    assert (result["status"], result["text"]) == ("budget_exhausted", f"Look {b.sent}.")
    assert "last answer" in result["hint"]
    *ordinary, last = b.claude.message_requests
    asked = [request.body["max_tokens"] for request in ordinary]
    assert asked[0] == 4_096
    assert 256 <= asked[-1] < 4_096
    assert min(asked) >= 256
    assert last.body["max_tokens"] >= 256


async def test_an_answer_that_was_cut_for_want_of_budget_says_so(bench: OpenBench) -> None:
    """Design, 4: the text so far is returned, and why there is no more of it."""
    b = await bench([Turn(text="word " * 20_000)], usd="0.02")

    result = await b.delegate()

    assert result["status"] == "budget_exhausted"
    assert result["text"].startswith("word word")
    assert "budget" in result["hint"]


async def test_an_answer_that_was_cut_at_max_output_tokens_says_so(bench: OpenBench) -> None:
    """Messages API, stop_reason max_tokens: complete as far as it was allowed to be."""
    b = await bench([Turn(text="word " * 2_000)])

    result = await b.delegate(max_output_tokens=50)

    assert result["status"] == "completed"
    assert "max_output_tokens" in result["hint"]
    assert result["turns"][0]["output_tokens"] == 50


async def test_tools_of_an_answer_that_was_cut_are_not_used(bench: OpenBench) -> None:
    """Messages API: tool_use blocks of a cut answer may be incomplete."""
    b = await bench([Turn(text="x" * 400, tool_calls=(ToolCall("nothing", {"a": "y" * 400}),))])

    result = await b.delegate(max_output_tokens=120)

    assert (b.sent, result["turns"][0]["tool_calls"]) == (1, [])


@pytest.mark.parametrize(("status", "code"), [("FROZEN", "BUDGET_FROZEN"), ("CLOSED", "BUDGET_CLOSED")])
async def test_a_budget_that_a_person_stopped_ends_it_with_what_it_has(
    bench: OpenBench, status: str, code: str
) -> None:
    """Cycles v0: a frozen or closed budget denies; a commit on it still succeeds."""
    go_on = anyio.Event()
    b = await bench([Turn(text="So far.", tool_calls=(LOOK,), hold=go_on), Turn(text="Never.")])

    async with background(lambda: b.delegate(tools=TOOLS)) as results:
        await b.held(1)
        await b.set_budget(status=status)
        go_on.set()

    (result,) = results
    assert (result["status"], result["text"], b.sent) == ("budget_exhausted", "So far.", 1)
    assert result["hint"].startswith(code)


@pytest.mark.parametrize("tools", [[], TOOLS], ids=["without tools", "with tools"])
async def test_a_turn_that_did_not_fit_says_what_it_needs_and_with_that_it_is_taken(
    bench: OpenBench, tools: list[str]
) -> None:
    """Advice is worth its number: a full answer then fits."""
    b = await bench([Turn(text="Done.")], usd="0.001")
    stopped = await b.delegate(tools=tools)

    needed = re.search(r"The next turn needs \$(\S+) left, or \$\S+ for a short answer\.", stopped["hint"])
    assert needed, stopped["hint"]
    await b.fund(format_usd(parse_usd(needed[1]) - parse_usd("0.001")))
    resumed = structured(await b.call("delegate_to_claude", resume=stopped["delegation_id"]))

    assert (stopped["status"], resumed["status"]) == ("budget_exhausted", "completed")
    assert [request.body["max_tokens"] for request in b.claude.message_requests] == [4_096]


@pytest.mark.parametrize("tools", [[], TOOLS], ids=["without tools", "with tools"])
async def test_with_what_a_short_answer_needs_the_turn_is_taken(bench: OpenBench, tools: list[str]) -> None:
    """A turn as any other, with its tools, and not the last answer alone."""
    b = await bench(lambda _, number: Turn(text=f"Look {number}.", tool_calls=(LOOK,) if tools else ()), usd="0.001")
    stopped = await b.delegate(tools=tools)

    needed = re.search(r", or \$(\S+) for a short answer\.", stopped["hint"])
    assert needed, stopped["hint"]
    await b.fund(format_usd(parse_usd(needed[1]) - parse_usd("0.001")))
    await b.call("delegate_to_claude", resume=stopped["delegation_id"])

    first = b.claude.message_requests[0].body
    assert 256 <= first["max_tokens"] < 512
    assert "tool_choice" not in first


async def test_a_budget_usd_that_ended_says_what_it_has_to_be(bench: OpenBench) -> None:
    """It counts the whole life of the delegation, so the sum is told and not the difference."""
    b = await bench(lambda _, number: Turn(text=f"Look {number}.", tool_calls=(LOOK,)))
    stopped = await b.delegate(tools=TOOLS, budget_usd="0.08", max_turns=100)

    needed = re.search(r"budget_usd then has to be \$(\d+\.\d+)\.", stopped["hint"])
    assert needed, stopped["hint"]
    sent = b.sent
    await b.call("delegate_to_claude", resume=stopped["delegation_id"], budget_usd=needed[1])

    assert stopped["status"] == "budget_exhausted"
    assert b.claude.message_requests[sent].body["max_tokens"] == 4_096


async def test_without_a_budget_nothing_is_sent_and_the_remedy_is_named(bench: OpenBench) -> None:
    """A first start without BUDGET_USD must tell what to do."""
    b = await bench([Turn(text="Never.")])

    result = await b.delegate(subject={"workspace": "elsewhere"}, budget_usd=0)
    await b.ledger(lambda ledger: ledger.db.execute("UPDATE budgets SET scope = 'tenant:other', tenant = 'other'"))
    unfunded = await b.delegate()
    await b.ledger(lambda ledger: ledger.db.execute("UPDATE budgets SET scope = 'tenant:local', tenant = 'local'"))

    assert (result["status"], unfunded["status"], b.sent) == ("budget_exhausted", "budget_exhausted", 0)
    assert "BUDGET_USD" in unfunded["hint"]


async def test_a_refusal_ends_it(bench: OpenBench) -> None:
    """Messages API, stop_reason refusal: charged as reported, tools not run."""
    b = await bench([Turn(text="I would rather not.", stop_reason="refusal", usage=Usage(output_tokens=6))])

    result = await b.delegate()

    assert (result["status"], result["text"]) == ("refused", "I would rather not.")
    assert result["turns"][0]["actual_source"] == "usage"


@pytest.mark.parametrize("reason", ["model_context_window_exceeded", "something_new"])
async def test_a_stop_reason_that_cannot_be_continued_is_named(bench: OpenBench, reason: str) -> None:
    """Messages API: unknown reasons will come; stop, settle by usage, and say which it was."""
    b = await bench([Turn(text="So far.", stop_reason=reason)])

    result = await b.delegate()

    assert (result["status"], result["text"]) == ("failed", "So far.")
    assert reason in result["hint"]
    assert result["turns"][0]["actual_source"] == "usage"


async def test_asking_for_tools_without_naming_one_ends_it(bench: OpenBench) -> None:
    """Messages API: a message without content is refused, so there is nothing to go on with."""
    b = await bench([Turn(text="I use a tool.", stop_reason="tool_use"), Failure(status=400)])

    result = await b.delegate()

    assert (result["status"], b.sent) == ("failed", 1)
    assert "tool_use" in result["hint"]


async def test_a_crowd_on_one_budget_never_overspends_and_each_of_it_gets_an_answer(
    bench: OpenBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Design, 1 and 4: the reservation decides, and those for whom there is no turn have their last one."""
    monkeypatch.setattr("budget_tools.delegation.choice.CROWDED_PAUSES_SECONDS", (0.05, 0.1, 0.2))

    def endless(_body: Mapping[str, Any], number: int) -> Turn:
        return Turn(text=f"Look {number}.", tool_calls=(LOOK,), usage=Usage(output_tokens=250))

    b = await bench(endless, usd="0.08")
    results: list[dict[str, Any]] = []

    async def one() -> None:
        results.append(await b.delegate(tools=TOOLS, max_turns=30))

    async with anyio.create_task_group() as tasks:
        for _ in range(6):
            tasks.start_soon(one)

    balance = await b.balance()
    assert {result["status"] for result in results} == {"budget_exhausted"}
    assert balance["spent"] == sum(result["spent"]["amount"] for result in results) <= 8_000_000
    assert balance["remaining"] >= 0
    assert balance["reserved"] == 0
