"""A host's whole way over stdio, and what the ledger says afterwards."""

from collections.abc import Callable, Mapping
from typing import Any

import anyio
import pytest
from mcp import Client

from budget_server.demo.scripted_claude import ScriptedClaude, ToolCall, Turn
from hosting import ALLOCATED, Environment, call, ledger_balance, text_of

pytestmark = pytest.mark.anyio

CARD_TOOLS = {"estimate_cost", "reserve_budget", "commit_usage", "delegate_to_claude"}
READ_ONLY = {"estimate_cost", "list_delegations", "check_budget", "list_reservations"}


@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_every_tool_says_what_it_takes_gives_and_does(host: Callable[..., Client], mode: str) -> None:
    """MCP, tools/list: a model that has never heard of budgets must be able to choose and fill every tool."""
    with anyio.fail_after(30):
        async with host(mode) as client:
            tools = {tool.name: tool for tool in (await client.list_tools()).tools}

    assert set(tools) >= CARD_TOOLS
    for tool in tools.values():
        assert tool.description
        assert tool.output_schema is not None
        assert tool.annotations is not None
        assert tool.annotations.open_world_hint is not None
        if not tool.annotations.read_only_hint:  # else the others mean nothing
            assert tool.annotations.read_only_hint is False
            assert tool.annotations.destructive_hint is not None
            assert tool.annotations.idempotent_hint is not None
    assert all((tools[name].meta or {}).get("anthropic/alwaysLoad") for name in CARD_TOOLS)
    assert {name for name, tool in tools.items() if tool.annotations and tool.annotations.read_only_hint} == READ_ONLY


@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_reserving_and_committing_moves_the_budget_to_the_microcent(
    host: Callable[..., Client], environment: Environment, mode: str
) -> None:
    """The main job by hand: allocation minus charges is what the ledger says remains."""
    with anyio.fail_after(30):
        async with host(mode) as client:
            held = await call(client, "reserve_budget", usd="0.25")
            settled = await call(client, "commit_usage", reservation_id=held["reservation_id"], usd="0.12345678")
            left = await call(client, "estimate_cost", input_tokens=1)

    assert held["decision"] == "ALLOW"
    assert held["reserved"] == {"unit": "USD_MICROCENTS", "amount": 25_000_000, "usd": "0.25"}
    assert held["remaining"]["amount"] == ALLOCATED - 25_000_000
    assert settled["charged"]["amount"] == 12_345_678
    assert settled["released"]["amount"] == 25_000_000 - 12_345_678
    assert (
        settled["remaining"]
        == left["remaining"]
        == {
            "unit": "USD_MICROCENTS",
            "amount": ALLOCATED - 12_345_678,
            "usd": "0.87654322",
        }
    )
    assert ledger_balance(environment) == {
        "allocated": ALLOCATED,
        "remaining": ALLOCATED - 12_345_678,
        "reserved": 0,
        "spent": 12_345_678,
    }


async def test_a_denial_is_an_answer_that_says_what_remains_and_holds_nothing(
    host: Callable[..., Client], environment: Environment
) -> None:
    """A model must be able to go on after a DENY: it is no error, and the text says the same as the structure."""
    with anyio.fail_after(30):
        async with host() as client:
            result = await client.call_tool("reserve_budget", {"usd": 1.5})

    assert not result.is_error
    assert result.structured_content is not None
    assert result.structured_content["decision"] == "DENY"
    assert result.structured_content["reason_code"] == "BUDGET_EXCEEDED"
    assert result.structured_content["remaining"]["usd"] == "1.00"
    assert result.structured_content["hint"]
    assert "DENY" in text_of(result)
    assert "$1.00" in text_of(result)
    assert ledger_balance(environment)["reserved"] == 0


async def test_without_a_budget_a_reserve_is_denied_with_the_remedy(
    host: Callable[..., Client], environment: Environment
) -> None:
    """A first start without BUDGET_USD must tell what to do."""
    del environment["BUDGET_USD"]

    with anyio.fail_after(30):
        async with host() as client:
            denied = await call(client, "reserve_budget", usd=0.01)
            estimate = await call(client, "estimate_cost", prompt="Hello")

    assert denied["reason_code"] == "BUDGET_NOT_FOUND"
    assert "BUDGET_USD" in denied["hint"]
    assert "remaining" not in estimate
    assert "affordable" not in estimate["estimates"][0]


async def test_repeating_a_key_repeats_the_answer_and_holds_once(
    host: Callable[..., Client], environment: Environment
) -> None:
    """Cycles v0, IDEMPOTENCY: a host that lost the answer may ask again."""
    with anyio.fail_after(30):
        async with host() as client:
            first = await call(client, "reserve_budget", usd=0.1, idempotency_key="k-1")
            again = await call(client, "reserve_budget", usd=0.1, idempotency_key="k-1")
            mismatch = await client.call_tool("reserve_budget", {"usd": 0.2, "idempotency_key": "k-1"})

    assert again["reservation_id"] == first["reservation_id"]
    assert mismatch.is_error
    assert text_of(mismatch).startswith("IDEMPOTENCY_MISMATCH: ")
    assert ledger_balance(environment)["reserved"] == 10_000_000


async def test_a_dry_run_holds_nothing(host: Callable[..., Client], environment: Environment) -> None:
    """Cycles v0, dry_run: evaluated, not held."""
    with anyio.fail_after(30):
        async with host() as client:
            asked = await call(client, "reserve_budget", usd=0.1, dry_run=True)

    assert (asked["decision"], asked["reservation_id"]) == ("ALLOW", "")
    assert ledger_balance(environment)["reserved"] == 0


async def test_a_reservation_by_model_covers_what_its_commit_by_usage_charges(host: Callable[..., Client]) -> None:
    """The bound of a model's call is never below its cost, through one price book."""
    with anyio.fail_after(30):
        async with host() as client:
            held = await call(
                client, "reserve_budget", model="claude-sonnet-4-6", input_tokens=1_000, max_output_tokens=500
            )
            settled = await call(
                client,
                "commit_usage",
                reservation_id=held["reservation_id"],
                model="claude-sonnet-4-6",
                usage={"input_tokens": 1_000, "output_tokens": 500, "service_tier": "standard"},
                latency_ms=900,
                metadata={"run": "r-1"},
            )

    assert settled["charged"]["amount"] == 1_000 * 300 + 500 * 1_500
    assert settled["charged"]["amount"] <= held["reserved"]["amount"]
    assert settled["price_source"]


@pytest.mark.usefixtures("workshop")
async def test_a_delegation_works_with_real_tools_and_is_charged_exactly(
    host: Callable[..., Client], environment: Environment
) -> None:
    """The main job: turns, parallel tools, a tool error that Claude reads, progress, and the ledger in agreement."""
    seen: list[tuple[float, str | None]] = []

    async def note(progress: float, total: float | None, message: str | None) -> None:  # noqa: ARG001 - the SDK's names
        seen.append((progress, message))

    script = [
        Turn(
            text="I look.",
            tool_calls=(
                ToolCall("workshop__stock", {"part": "chain-11"}),
                ToolCall("workshop__stock", {"part": "unicycle"}),
            ),
        ),
        Turn(text="One chain is left."),
    ]
    with anyio.fail_after(60):
        async with ScriptedClaude(script) as endpoint:
            environment |= {"ANTHROPIC_API_KEY": "test-key", "ANTHROPIC_BASE_URL": endpoint.base_url}
            async with host() as client:
                answered = await client.call_tool(
                    "delegate_to_claude",
                    {"task": "How many chains?", "tools": ["workshop__stock"]},
                    progress_callback=note,
                )
            requests = endpoint.message_requests

    assert not answered.is_error
    result: Mapping[str, Any] = answered.structured_content or {}
    assert (result["status"], result["text"]) == ("completed", "One chain is left.")
    assert [call["ok"] for call in result["turns"][0]["tool_calls"]] == [True, False]
    tool_results = requests[1].body["messages"][-1]["content"]
    assert [block.get("is_error", False) for block in tool_results] == [False, True]
    assert [tool["name"] for tool in requests[0].body["tools"]] == ["workshop__stock"]
    charges = [turn["charged"]["amount"] for turn in result["turns"]]
    assert all(turn["charged"]["amount"] <= turn["reserved"]["amount"] for turn in result["turns"])
    assert result["spent"]["amount"] == sum(charges)
    steps = [step for step, _ in seen]
    assert steps == sorted(set(steps))
    assert any(message and "turn 1" in message and "spent" in message for _, message in seen)
    assert ledger_balance(environment) == {
        "allocated": ALLOCATED,
        "remaining": ALLOCATED - sum(charges),
        "reserved": 0,
        "spent": sum(charges),
    }


@pytest.mark.usefixtures("workshop")
async def test_a_delegation_stops_cleanly_where_the_budget_ends(
    host: Callable[..., Client], environment: Environment
) -> None:
    """The budget holds: an endless loop ends with a partial answer, no error, and nothing overspent."""
    environment["BUDGET_USD"] = "0.05"

    parts = ("chain-11", "pads-disc", "tube-700", "bell-brass", "saddle-03")

    def endless(_request: Mapping[str, Any], number: int) -> Turn:
        look = ToolCall("workshop__part_details", {"part": parts[number % len(parts)]})
        return Turn(text=f"Look {number}.", tool_calls=(look,))

    with anyio.fail_after(60):
        async with ScriptedClaude(endless) as endpoint:
            environment |= {"ANTHROPIC_API_KEY": "test-key", "ANTHROPIC_BASE_URL": endpoint.base_url}
            async with host() as client:
                result = await call(client, "delegate_to_claude", task="Look on.", tools=["workshop__*"], max_turns=100)
            sent = len(endpoint.message_requests)

    assert result["status"] == "budget_exhausted"
    assert result["text"]
    assert result["hint"]
    assert sent == len(result["turns"])
    balance = ledger_balance(environment)
    assert (balance["reserved"], balance["spent"]) == (0, result["spent"]["amount"])
    assert 0 <= balance["remaining"] == 5_000_000 - result["spent"]["amount"]


async def test_two_servers_share_one_ledger(host: Callable[..., Client], environment: Environment) -> None:
    """Every host starts its own server; the budget is one."""
    with anyio.fail_after(30):
        async with host() as one, host() as other:
            await call(one, "reserve_budget", usd=0.6)
            denied = await call(other, "reserve_budget", usd=0.6)

    assert denied["decision"] == "DENY"
    assert ledger_balance(environment)["reserved"] == 60_000_000


async def test_a_message_of_a_megabyte_passes_both_ways(host: Callable[..., Client]) -> None:
    """A pasted document is one line of the protocol, however long."""
    document = "spoke " * 200_000

    with anyio.fail_after(60):
        async with host() as client:
            estimate = await call(client, "estimate_cost", prompt=document)
            held = await call(client, "reserve_budget", usd="0.01", action_name="x" * 256)
            settled = await call(
                client, "commit_usage", reservation_id=held["reservation_id"], usd="0.01", metadata={"note": document}
            )

    assert estimate["estimates"][0]["input_tokens"] > 100_000
    assert settled["charged"]["usd"] == "0.01"
