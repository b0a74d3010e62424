"""Delegations within delegations: this very server among a sub-agent's tools, in processes of its own."""

import functools
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import anyio
import pytest

from budget_server.demo.scripted_claude import ReceivedRequest, Script, ScriptedClaude, ToolCall, Turn
from budget_tools.delegation.store import Stored
from tools.delegation.harness import MODEL, PATIENCE_SECONDS, Bench, OpenBench, happens, looks, shed, tool_results

pytestmark = pytest.mark.anyio

DELEGATE = "budget__delegate_to_claude"
STATUS = "budget__delegation_status"


def delegating(task: str, **arguments: object) -> ToolCall:
    """A sub-agent's call that delegates further."""
    return ToolCall(DELEGATE, {"task": task, **arguments})


async def nested_bench(
    bench: OpenBench,
    directory: Path,
    monkeypatch: pytest.MonkeyPatch,
    script: Script,
    children: Mapping[str, Script],
    *,
    usd: str = "1.00",
    max_depth: int = 3,
) -> Bench:
    """Open a bench whose sub-agents may use this server, over the same data and the same scripted Claude.

    Args:
        bench: opens it.
        directory: the test's own.
        monkeypatch: tells the nested servers where the endpoint is.
        script: plays the host's own delegations.
        children: plays those whose task has a word in it.
        usd: the budget.
        max_depth: how deep they may be nested.
    """
    environment = {
        "BUDGET_DATA_DIR": str(directory / "data"),
        "BUDGET_SUBAGENT_SERVERS": str(directory / "servers.json"),
        "BUDGET_MODEL": MODEL,
        "BUDGET_MAX_DEPTH": str(max_depth),
        "ANTHROPIC_API_KEY": "test",
        "ANTHROPIC_BASE_URL": "${SCRIPTED_CLAUDE}",
        "SCRIPTED_CLAUDE": "${SCRIPTED_CLAUDE}",
    }
    own = {"command": sys.executable, "args": ["-m", "budget_server"], "env": environment}
    b: Bench = await bench(
        script,
        usd=usd,
        servers={"budget": own, "shed": shed()},
        endpoint=functools.partial(ScriptedClaude, conversations=children),
        budget_max_depth=max_depth,
    )
    monkeypatch.setenv("SCRIPTED_CLAUDE", b.claude.base_url)
    return b


def read(request: ReceivedRequest) -> list[str]:
    """The text of each tool result that a request brought."""
    return [block["content"][0]["text"] for block in tool_results(request)]


def asked_with(b: Bench, task: str) -> list[ReceivedRequest]:
    """The requests of the conversations whose task has this word in it."""
    return [each for each in b.claude.message_requests if task in str(each.body["messages"][0]["content"])]


async def family(b: Bench) -> tuple[Stored, Sequence[Stored]]:
    """The host's own delegation, and those that were made under it."""
    parent, *children = await b.kept()
    return parent, children


async def test_a_child_spends_from_the_same_budget_and_is_linked_to_its_parent(
    bench: OpenBench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever looks at the parent sees what all of it cost; the ledger has every turn once (the fixture checks)."""
    b = await nested_bench(
        bench,
        tmp_path,
        monkeypatch,
        [Turn(text="I delegate.", tool_calls=(delegating("Child: do it."),)), Turn(text="All done.")],
        {"Child": [Turn(text="The child's answer.")]},
    )

    result = await b.delegate(tools=[DELEGATE])

    parent, (child,) = await family(b)
    (told,) = read(b.claude.message_requests[-1])
    assert (result["status"], child.status) == ("completed", "completed")
    assert "The child's answer." in told
    assert (child.parent_id, child.depth, parent.depth) == (parent.delegation_id, 2, 1)
    assert result["spent_by_nested"]["amount"] == child.spent_microcents > 0
    assert result["spent"]["amount"] == sum(turn["charged"]["amount"] for turn in result["turns"])
    balance = await b.balance()
    assert balance["spent"] == result["spent"]["amount"] + child.spent_microcents
    assert (await b.status(result["delegation_id"]))["spent_by_nested"] == result["spent_by_nested"]


async def test_the_parents_budget_usd_limits_both_together_whatever_the_child_is_given(
    bench: OpenBench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No argument of a sub-agent raises a limit, nor does resuming; the parent keeps its last answer."""

    def parent(body: dict[str, Any], number: int) -> Turn:
        if number == 1:
            child = delegating("Child: do it.", budget_usd="50.00", tools=["shed__count"], max_turns=100)
            return Turn(text="I delegate.", tool_calls=(child,))
        if number == 2:
            told = body["messages"][-1]["content"][0]["content"][0]["text"]
            child_id = told.split("(delegation ")[1].split(")")[0]
            more = ToolCall(DELEGATE, {"resume": child_id, "budget_usd": "90.00", "max_turns": 100})
            return Turn(text="Go on.", tool_calls=(more,))
        return Turn(text="That is all.")

    b = await nested_bench(bench, tmp_path, monkeypatch, parent, {"Child": looks})

    result = await b.delegate(tools=[DELEGATE], budget_usd="0.10", max_output_tokens=1_000)

    _, (child,) = await family(b)
    assert result["text"] == "That is all."
    assert child.status == "budget_exhausted"
    assert len(child.turns) > 2
    assert result["spent"]["amount"] + result["spent_by_nested"]["amount"] <= 10_000_000
    told = [text for each in b.claude.message_requests for text in _texts_of_results(each) if "turn" in text]
    assert any(text.startswith("budget_exhausted: ") for text in told)


def _texts_of_results(request: ReceivedRequest) -> list[str]:
    content = request.body["messages"][-1]["content"]
    is_result = isinstance(content, list) and content[0]["type"] == "tool_result"
    return read(request) if is_result else []


async def test_the_depth_is_limited_across_processes(
    bench: OpenBench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """BUDGET_MAX_DEPTH: the grandchild is refused in words that its sub-agent can act on."""
    b = await nested_bench(
        bench,
        tmp_path,
        monkeypatch,
        [Turn(tool_calls=(delegating("Child: do it.", tools=["budget__*"]),)), Turn(text="Done.")],
        {
            "Child": [Turn(tool_calls=(delegating("Grandson: do it."),)), Turn(text="I did it myself.")],
            "Grandson": [Turn(text="Never.")],
        },
        max_depth=2,
    )

    result = await b.delegate(tools=[DELEGATE])

    _, (child,) = await family(b)
    (refusal,) = read(asked_with(b, "Child")[1])
    assert (result["status"], child.status, child.text) == ("completed", "completed", "I did it myself.")
    assert refusal.startswith("NESTED_TOO_DEEP: Delegations may be nested 2 deep")
    assert "do the task without delegating it" in refusal
    assert asked_with(b, "Grandson") == []


async def test_how_many_one_delegation_makes_at_once_is_limited(
    bench: OpenBench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sub-agent that spawns without end is refused in words, and what runs goes on."""
    go_on = anyio.Event()
    b = await nested_bench(
        bench,
        tmp_path,
        monkeypatch,
        [Turn(tool_calls=tuple(delegating(f"Child {each}.") for each in range(10))), Turn(text="Done.")],
        {"Child": lambda *_: Turn(text="Done.", hold=go_on)},
    )

    running = await b.delegate(tools=[DELEGATE], wait_seconds=0)
    await b.request(9)
    go_on.set()
    result = await b.status(running["delegation_id"], wait_seconds=PATIENCE_SECONDS)

    _, children = await family(b)
    told = read(b.claude.message_requests[-1])
    assert (result["status"], len(children)) == ("completed", 8)
    assert [text.split(":")[0] for text in told].count("TOO_MANY_DELEGATIONS") == 2
    assert sum("8 delegations" in text and "wait for one to end" in text for text in told) == 2


async def test_a_sub_agent_cannot_say_whose_child_it_makes_nor_take_up_anothers_work(
    bench: OpenBench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it could name as it likes would escape the limits that it was given."""
    stranger: list[str] = []

    def parent(_body: dict[str, Any], number: int) -> Turn:
        if number == 1:
            return Turn(text="So far.")
        if number == 2:
            forged = [
                delegating("Child: do it.", parent_id=""),
                delegating("Child: do it.", _meta={"cycles-budget-mcp/delegation": ""}),
                ToolCall(DELEGATE, {"resume": stranger[0], "max_turns": 50}),
                ToolCall(STATUS, {"delegation_id": stranger[0], "cancel": True}),
            ]
            return Turn(tool_calls=tuple(forged))
        return Turn(text="Done.")

    b = await nested_bench(bench, tmp_path, monkeypatch, parent, {"Child": [Turn(text="Never.")]})
    stranger.append((await b.delegate(tools=["shed__count"], max_turns=1))["delegation_id"])

    result = await b.delegate(tools=[DELEGATE, STATUS], budget_usd="0.50")

    by_argument, by_meta, by_resume, by_status = read(b.claude.message_requests[-1])
    assert "has no argument 'parent_id'" in by_argument
    assert "has no argument '_meta'" in by_meta
    assert by_resume.startswith(f"NOT_RESUMABLE: The delegation {stranger[0]} was not made by yours")
    assert by_status.startswith(f"NOT_FOUND: You made no delegation '{stranger[0]}'")
    assert (result["status"], len(await b.kept())) == ("completed", 2)
    assert (await b.status(stranger[0]))["status"] == "max_turns"


async def test_cancelling_the_parent_stops_the_child(
    bench: OpenBench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever stops the work means all of it; what was out is charged at its bound, to the one that asked."""
    b = await nested_bench(
        bench,
        tmp_path,
        monkeypatch,
        [Turn(tool_calls=(delegating("Child: do it."),))],
        {"Child": [Turn(text="Never.", hold=anyio.Event())]},
    )
    running = await b.delegate(tools=[DELEGATE], wait_seconds=0)
    request = await b.held(2)

    result = await b.status(running["delegation_id"], cancel=True, wait_seconds=PATIENCE_SECONDS)
    await happens(request.disconnected)

    _, (child,) = await family(b)
    ended = await b.status(child.delegation_id, wait_seconds=PATIENCE_SECONDS)
    assert (result["status"], ended["status"]) == ("cancelled", "cancelled")
    assert ended["turns"][0]["actual_source"] == "bound"
    total = await b.status(running["delegation_id"])
    assert total["spent_by_nested"] == ended["spent"]
