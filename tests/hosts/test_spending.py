"""Claude Code spends through this server, over every transport: what its model reads, and what the ledger says."""

import sys
from pathlib import Path
from typing import Any

import anyio
import pytest
from mcp import Client, StdioServerParameters

from budget_server.demo.scripted_claude import ScriptedClaude, ToolCall, Turn
from budget_server.mcp_server.server import TOOLS
from hosting import ALLOCATED, Environment, assert_spent
from hosts.claude_code import ClaudeCode, Model, calls, loads, named, offered, requests_of
from hosts.connecting import HTTP, SSE, STDIO, WAYS, Way, with_claude
from networking import new_token

pytestmark = pytest.mark.anyio

PROMPT = "Keep to the budget of the workshop."
TASK = "Which parts does the workshop have?"
ALWAYS_LOADED = {"estimate_cost", "reserve_budget", "commit_usage", "delegate_to_claude"}
LONG_ANSWER = "".join(f"{number:07},\n" for number in range(23_000))
"""Some 200 KB, of which no piece is like another."""


async def published(environment: Environment) -> dict[str, tuple[str | None, dict[str, Any]]]:
    """The description and the schema of every tool, by the name that the host should give it."""
    parameters = StdioServerParameters(command=sys.executable, args=["-m", "budget_server"], env=environment)
    async with Client(parameters) as client:
        return {named(tool.name): (tool.description, tool.input_schema) for tool in (await client.list_tools()).tools}


@pytest.mark.parametrize("way", WAYS, ids=str)
async def test_its_model_estimates_reserves_commits_delegates_and_reads_a_denial(
    program: Path, tmp_path: Path, environment: Environment, way: Way
) -> None:
    """README, Into your host: the whole job, as the host's model sees it, to the microcent in the ledger."""
    model = Model(
        calls("estimate_cost", prompt=TASK),
        calls("reserve_budget", usd="0.25"),
        lambda read: calls("commit_usage", reservation_id=read[1]["reservation_id"], usd="0.10"),
        calls("delegate_to_claude", task=TASK, tools=["workshop__list_parts"]),
        calls("reserve_budget", usd="0.95"),
        loads("check_budget"),
        calls("check_budget"),
    )
    sub_agent = [Turn(text="I look.", tool_calls=(ToolCall("workshop__list_parts"),)), Turn(text="Five parts.")]
    async with ScriptedClaude(conversations={PROMPT: model, TASK: sub_agent}) as claude:
        environment = with_claude(environment, claude)
        as_published = await published(environment)
        with way.to_server(environment) as server, anyio.fail_after(120):
            run = await ClaudeCode(program, tmp_path / "host", claude).run(PROMPT, server)
        requests = requests_of(claude, PROMPT)

    assert (run.exit_code, run.server_status, run.result["is_error"]) == (0, "connected", False)
    assert run.tools == as_published.keys() == {named(tool.name) for tool in TOOLS}
    loaded = offered(requests[0])
    assert loaded.keys() == set(map(named, ALWAYS_LOADED))
    for name, tool in loaded.items():
        assert (tool["description"], tool["input_schema"]) == as_published[name]
    estimate, held, settled, delegated, denied = (model.read[index] for index in range(5))
    checked = model.read[6]
    assert estimate["remaining"]["amount"] == ALLOCATED
    assert (held["decision"], held["reserved"]["amount"]) == ("ALLOW", 25_000_000)
    assert (settled["charged"]["amount"], settled["released"]["amount"]) == (10_000_000, 15_000_000)
    assert (delegated["status"], delegated["text"]) == ("completed", "Five parts.")
    assert [call["ok"] for call in delegated["turns"][0]["tool_calls"]] == [True]
    assert (denied["decision"], denied["reason_code"]) == ("DENY", "BUDGET_EXCEEDED")
    assert denied["hint"]
    assert not model.read.errors
    spent = settled["charged"]["amount"] + delegated["spent"]["amount"]
    assert delegated["spent"]["amount"] == sum(turn["charged"]["amount"] for turn in delegated["turns"]) > 0
    assert checked["balances"][0]["remaining"]["amount"] == denied["remaining"]["amount"] == ALLOCATED - spent
    assert_spent(environment, spent)


async def test_a_large_answer_reaches_its_model_whole(program: Path, tmp_path: Path, environment: Environment) -> None:
    """anthropic/maxResultSizeChars: without it, the host shows the beginning, and the name of a file for the rest."""
    model = Model(calls("delegate_to_claude", task=TASK, max_output_tokens=80_000))
    async with ScriptedClaude(conversations={PROMPT: model, TASK: [Turn(text=LONG_ANSWER)]}) as claude:
        with STDIO.to_server(with_claude(environment, claude)) as server, anyio.fail_after(120):
            run = await ClaudeCode(program, tmp_path / "host", claude).run(PROMPT, server)

    assert run.exit_code == 0
    assert (model.read[0]["status"], model.read[0]["text"]) == ("completed", LONG_ANSWER)


@pytest.mark.parametrize("way", [HTTP, SSE], ids=str)
async def test_a_host_without_a_token_is_not_let_in(
    program: Path, tmp_path: Path, environment: Environment, way: Way
) -> None:
    """README, Over the network: from the first token on, every client needs one; the host says that it is not in."""
    model = Model()
    async with ScriptedClaude(conversations={PROMPT: model}) as claude:
        new_token(environment)
        with way.to_server(environment) as server, anyio.fail_after(120):
            run = await ClaudeCode(program, tmp_path / "host", claude).run(PROMPT, server)
        (request,) = requests_of(claude, PROMPT)

    assert run.exit_code == 0
    assert run.server_status in ("failed", "needs-auth")
    assert "budget" not in " ".join(run.tools)
    assert not offered(request)
