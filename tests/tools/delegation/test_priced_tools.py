"""Tools that have a price: each call is reserved before it runs, and charged whether or not it succeeds."""

from pathlib import Path
from typing import Any

import pytest

from budget_server.authority import budgets
from budget_server.demo.scripted_claude import ToolCall, Turn
from tools.delegation.harness import LOOK, TOOLS, Bench, OpenBench, a_door, happens, shed, structured, tool_results

pytestmark = pytest.mark.anyio

CENT = 1_000_000
PRICE = 2 * CENT
RISK = "RISK_POINTS"


def priced(*arguments: str, **prices: object) -> dict[str, object]:
    """A servers file of one tool shed with these prices: dollars as text, risk points as numbers."""
    tools = {
        tool: {"usd": price} if isinstance(price, str) else {"risk_points": price} for tool, price in prices.items()
    }
    return {"shed": {**shed(*arguments), "budget": {"tools": tools}}}


def calls_of(result: dict[str, Any]) -> list[dict[str, Any]]:
    """Every tool call of a result."""
    return [call for turn in result["turns"] for call in turn["tool_calls"]]


async def tool_reservations(b: Bench) -> list[dict[str, Any]]:
    """The reservations of tool calls, oldest first."""
    return [row for row in await b.reservations() if row["action"]["kind"] == "tool.call"]


async def test_a_call_is_reserved_before_it_runs_and_charged_after(bench: OpenBench) -> None:
    """Design, 7: a reservation of its own as tool.call; it counts in spent and in the turn's record."""
    script: list[Turn] = []
    b = await bench(script, servers=priced(hang="0.02"))
    async with a_door() as (port, knocked):
        script += [Turn(tool_calls=(ToolCall("shed__hang", {"port": port}),)), Turn(text="Never.")]
        running = await b.delegate(tools=["shed__hang"], wait_seconds=0)
        await happens(knocked)
        (held,) = await tool_reservations(b)
        result = await b.status(running["delegation_id"], cancel=True)

    (settled,) = await tool_reservations(b)
    (call,) = calls_of(result)
    assert (held["status"], held["reserved"]["amount"], held["action"]["name"]) == ("ACTIVE", PRICE, "shed__hang")
    assert {f"delegation-{running['delegation_id']}", "turn-1"} <= set(held["action"]["tags"])
    # It was cancelled while it ran: the tool may have done its work, so that it is paid for.
    assert (settled["status"], settled["committed"]["amount"]) == ("COMMITTED", PRICE)
    assert (result["status"], call["ok"], call["charged"]["amount"]) == ("cancelled", False, PRICE)
    assert result["spent"]["amount"] == result["turns"][0]["charged"]["amount"] + PRICE


async def test_calls_side_by_side_are_each_paid_for_and_free_ones_are_not(bench: OpenBench) -> None:
    """The price is that of the tool, or of every tool that is not named; nothing is charged for the rest."""
    b = await bench(
        [Turn(tool_calls=(LOOK, LOOK, ToolCall("shed__note"), ToolCall("shed__silence"))), Turn(text="Done.")],
        servers={
            "shed": {
                **shed(),
                "budget": {"tools": {"count": {"usd": "0.02"}, "note": {"usd": "0"}, "*": {"usd": "0.01"}}},
            }
        },
    )

    result = await b.delegate(tools=["shed__*"])

    charged = [call["charged"]["amount"] if call.get("charged") else None for call in calls_of(result)]
    assert charged == [PRICE, PRICE, None, CENT]
    assert result["spent"]["amount"] == sum(turn["charged"]["amount"] for turn in result["turns"]) + 2 * PRICE + CENT
    metadata = await b.column((await tool_reservations(b))[0]["reservation_id"], "committed_metadata")
    assert metadata["actual_source"] == "price"
    assert (metadata["delegation_id"], metadata["turn"]) == (result["delegation_id"], 1)


@pytest.mark.parametrize("limit", ["the budget", "budget_usd"])
async def test_a_call_that_the_money_does_not_cover_is_not_made_and_the_sub_agent_reads_so(
    bench: OpenBench, limit: str
) -> None:
    """Enforced, not advised: the tool never hears of the call, and the delegation goes on without it."""
    b = await bench(
        [Turn(tool_calls=(LOOK, ToolCall("shed__silence"))), Turn(tool_calls=(LOOK,)), Turn(text="Done.")],
        servers=priced(silence="0.90", count="0.001"),
        usd="0.50" if limit == "the budget" else "5.00",
    )
    arguments = {} if limit == "the budget" else {"budget_usd": "0.50"}

    result = await b.delegate(tools=["shed__*"], **arguments)

    _, denied = tool_results(b.claude.message_requests[1])
    (after,) = tool_results(b.claude.message_requests[2])
    assert result["status"] == "completed"
    assert denied["is_error"]
    assert "shed__silence was not called: a call costs $0.9" in denied["content"][0]["text"]
    assert ("this delegation's own limit" in denied["content"][0]["text"]) == (limit == "budget_usd")
    assert "go on without it" in denied["content"][0]["text"]
    assert after["content"] == [{"type": "text", "text": "call 2"}]
    assert [(call["ok"], bool(call.get("charged"))) for call in calls_of(result)][1] == (False, False)


async def test_prices_count_in_budget_usd_to_the_microcent(bench: OpenBench) -> None:
    """A limit of the delegation is one of all that it costs, tools included."""

    def script(_body: dict[str, Any], number: int) -> Turn:
        return Turn(text=f"Look {number}.", tool_calls=(ToolCall("shed__count", {"number": number}),))

    b = await bench(script, servers=priced(count="0.02"))

    result = await b.delegate(tools=TOOLS, budget_usd="0.15", max_turns=50)

    turns = sum(turn["charged"]["amount"] for turn in result["turns"])
    paid = sum(call["charged"]["amount"] for call in calls_of(result) if call.get("charged"))
    assert result["status"] == "budget_exhausted"
    assert result["spent"]["amount"] == turns + paid <= 15 * CENT
    assert 2 <= paid // PRICE <= 7


async def test_risk_points_are_spent_of_a_budget_of_their_own(bench: OpenBench) -> None:
    """Cycles v0, units: points are no money, so they count in neither spent nor budget_usd."""
    b = await bench([Turn(tool_calls=(LOOK,)), Turn(tool_calls=(LOOK,)), Turn(text="Done.")], servers=priced(count=5))
    await b.ledger(
        lambda ledger: budgets.allocate(ledger.db, scope="tenant:local", tenant="local", unit=RISK, amount=8)
    )

    result = await b.delegate(tools=TOOLS, budget_usd="0.50")

    first, second = calls_of(result)
    (denied,) = tool_results(b.claude.message_requests[2])
    balances = (await b.services.cycles.get_balances(tenant="local")).body or {}
    (points,) = (each for each in balances["balances"] if each["remaining"]["unit"] == RISK)
    assert (first["charged"]["unit"], first["charged"]["amount"], second.get("charged")) == (RISK, 5, None)
    assert "a call costs 5 RISK_POINTS, which the budget denies (BUDGET_EXCEEDED)" in denied["content"][0]["text"]
    assert result["spent"]["amount"] == sum(turn["charged"]["amount"] for turn in result["turns"])
    assert result["status"] == "completed"
    assert {name: points[name]["amount"] for name in ("spent", "remaining")} == {"spent": 5, "remaining": 3}


async def test_without_a_budget_of_risk_points_such_a_tool_is_not_called(bench: OpenBench) -> None:
    """A price that nobody can pay is no gift."""
    b = await bench([Turn(tool_calls=(LOOK,)), Turn(text="Done.")], servers=priced(count=5))

    result = await b.delegate(tools=TOOLS)

    (denied,) = tool_results(b.claude.message_requests[1])
    assert "was not called" in denied["content"][0]["text"]
    assert (result["status"], calls_of(result)[0]["ok"]) == ("completed", False)


@pytest.mark.parametrize("tool", ["complain", "crash"])
async def test_a_call_that_fails_still_costs(bench: OpenBench, tool: str) -> None:
    """Spend that may have happened is never handed back: a tool that failed may have done half of its work."""
    b = await bench(
        [Turn(tool_calls=(ToolCall(f"shed__{tool}"),)), Turn(text="Done.")], servers=priced(**{tool: "0.02"})
    )

    result = await b.delegate(tools=[f"shed__{tool}"])

    (call,) = calls_of(result)
    assert (call["ok"], call["charged"]["amount"]) == (False, PRICE)
    assert [row["status"] for row in await tool_reservations(b)] == ["COMMITTED"]


async def test_a_server_that_does_not_start_costs_nothing(bench: OpenBench, tmp_path: Path) -> None:
    """What surely ran nothing is given back."""
    b = await bench(
        [Turn(tool_calls=(ToolCall("shed__crash"),)), Turn(tool_calls=(LOOK,)), Turn(text="Done.")],
        servers=priced("--once", str(tmp_path / "started"), count="0.02"),
    )

    result = await b.delegate(tools=["shed__*"])

    (row,) = await tool_reservations(b)
    assert (result["status"], row["status"], calls_of(result)[1].get("charged")) == ("completed", "RELEASED", None)


async def test_a_tool_that_may_not_be_used_costs_nothing(bench: OpenBench) -> None:
    """Caps are looked at before money is."""
    b = await bench([Turn(tool_calls=(LOOK,)), Turn(text="Done.")], servers=priced(count="0.02"))
    await b.set_budget(caps='{"tool_denylist": ["shed__count"]}')

    await b.delegate(tools=TOOLS)

    assert await tool_reservations(b) == []


async def test_a_resume_counts_what_tools_cost_before(bench: OpenBench) -> None:
    """Nothing that was paid is forgotten over a stop."""
    b = await bench([Turn(tool_calls=(LOOK,)), Turn(text="So far."), Turn(text="Done.")], servers=priced(count="0.02"))
    stopped = await b.delegate(tools=TOOLS, max_turns=2)

    resumed = structured(await b.call("delegate_to_claude", resume=stopped["delegation_id"], max_turns=5))

    turns = sum(turn["charged"]["amount"] for turn in resumed["turns"])
    assert (resumed["status"], resumed["spent"]["amount"]) == ("completed", turns + PRICE)


async def test_a_price_for_a_tool_that_is_not_there_is_one_sentence(bench: OpenBench) -> None:
    """A mistyped name would make the tool that was meant free of charge."""
    b = await bench([], servers=priced(cuont="0.02"))

    refusal = await b.refused(tools=TOOLS)

    assert "gives a price to 'cuont'" in refusal
    assert b.claude.requests == []
