"""What a host is told of the tools, what that costs it, and that it is true."""

import inspect
import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from typing import Any

import anyio
import pytest
from jsonschema import Draft202012Validator
from mcp import Client

from budget_server.demo.scripted_claude import ScriptedClaude, ToolCall, Turn
from budget_server.mcp_server.server import CORE, TOOLS
from hosting import Environment, call, complaint_of, refused

KILOBYTE = 1_024

MODERN = {
    "io.modelcontextprotocol/protocolVersion": "2026-07-28",
    "io.modelcontextprotocol/clientInfo": {"name": "a host", "version": "1"},
    "io.modelcontextprotocol/clientCapabilities": {},
}
HELLO = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "a host", "version": "1"}}


def exchanged(environment: Environment, *messages: Mapping[str, Any]) -> list[bytes]:
    """Say messages to a new server as a host does, and give its answers, byte for byte."""
    answers: list[bytes] = []
    with subprocess.Popen(
        [sys.executable, "-m", "budget_server"], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        for message in messages:
            server.stdin.write(json.dumps({"jsonrpc": "2.0", **message}).encode() + b"\n")
            server.stdin.flush()
            if "id" in message:
                answers.append(server.stdout.readline())
    return answers


@pytest.mark.parametrize(("choice", "most_kilobytes"), [("core", 8), ("all", 18)])
@pytest.mark.parametrize("era", ["modern", "legacy"])
def test_the_list_of_tools_costs_a_host_no_more_than_it_must(
    environment: Environment, choice: str, most_kilobytes: int, era: str
) -> None:
    """README, Settings: a host pays for this answer in its model's context, on every turn."""
    environment["BUDGET_TOOLS"] = choice
    listing = {"id": 2, "method": "tools/list"}

    if era == "modern":
        (line,) = exchanged(environment, {**listing, "params": {"_meta": MODERN}})
    else:
        initialize = {"id": 1, "method": "initialize", "params": HELLO}
        _, line = exchanged(environment, initialize, {"method": "notifications/initialized"}, listing)

    tools = json.loads(line)["result"]["tools"]
    assert len(tools) == (len(CORE) if choice == "core" else len(TOOLS))
    assert len(line) <= most_kilobytes * KILOBYTE


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("choice", "exposed"),
    [
        ("core", set(CORE)),
        ("all", {tool.name for tool in TOOLS}),
        ("estimate_cost, reserve_budget ,commit_usage", {"estimate_cost", "reserve_budget", "commit_usage"}),
        ("core,list_delegations", {*CORE, "list_delegations"}),
    ],
)
async def test_only_the_chosen_tools_can_be_seen_and_called(
    host: Callable[..., Client], environment: Environment, choice: str, exposed: set[str]
) -> None:
    """README, Settings, BUDGET_TOOLS: what is not exposed is refused, and the instructions are silent about it."""
    environment["BUDGET_TOOLS"] = choice

    with anyio.fail_after(30):
        async with host() as client:
            seen = {tool.name for tool in (await client.list_tools()).tools}
            hidden = {tool.name for tool in TOOLS} - exposed
            complaints = {name: await refused(client, name) for name in hidden}
            instructions = client.instructions or ""

    assert seen == exposed
    for name, complaint in complaints.items():
        assert complaint.startswith(f"INVALID_ARGUMENT: There is no tool '{name}'")
        assert name not in instructions
    assert "estimate_cost" in instructions


@pytest.mark.parametrize("choice", ["spend", "core,spend", "Core", ",", "estimate_cost;reserve_budget"])
def test_a_tool_that_does_not_exist_ends_the_start(environment: Environment, choice: str) -> None:
    """README, Settings: a mistyped name must not hide a tool in silence."""
    environment["BUDGET_TOOLS"] = choice

    line = complaint_of(environment)

    assert line.startswith("BUDGET_TOOLS is wrong: ")
    assert "reserve_budget" in line


@pytest.mark.parametrize("tool", TOOLS, ids=lambda tool: tool.name)
def test_every_argument_is_published_with_its_type(tool: Any) -> None:
    """CONTRIBUTING, Taste: however short a schema is, a model must be able to fill the call from it."""
    arguments = set(inspect.signature(tool.fn).parameters) - {"ctx", *tool.resolved_params}

    published = tool.parameters["properties"]

    assert set(published) == arguments
    assert all("type" in each for each in published.values())
    assert "\n" not in tool.description


@pytest.mark.parametrize(
    ("name", "argument", "limit"),
    [
        ("reserve_budget", "ttl_seconds", {"minimum": 1, "maximum": 86_400, "default": 60}),
        ("reserve_budget", "tags", {"maxItems": 10}),
        ("reserve_budget", "input_tokens", {"minimum": 0}),
        ("delegate_to_claude", "max_turns", {"minimum": 1, "maximum": 100}),
        ("delegate_to_claude", "max_output_tokens", {"minimum": 1, "maximum": 128_000, "default": 4_096}),
        ("delegation_status", "wait_seconds", {"minimum": 0, "maximum": 3_600}),
        ("estimate_cost", "models", {"maxItems": 32}),
    ],
)
def test_the_limits_of_arguments_are_published(name: str, argument: str, limit: Mapping[str, int]) -> None:
    """A model that knows a limit does not run into it."""
    (tool,) = [tool for tool in TOOLS if tool.name == name]

    assert limit.items() <= tool.parameters["properties"][argument].items()


@pytest.mark.anyio
@pytest.mark.usefixtures("workshop")
async def test_every_result_fits_the_schema_that_is_published_for_it(
    host: Callable[..., Client], environment: Environment
) -> None:
    """MCP, outputSchema: servers must keep to it, and hosts check; a name that it lacks would not be found."""
    script = [Turn(text="I look.", tool_calls=(ToolCall("workshop__list_parts"),)), Turn(text="Done.")]
    results: list[tuple[str, dict[str, Any]]] = []

    with anyio.fail_after(60):
        async with ScriptedClaude(script) as endpoint:
            environment |= {"ANTHROPIC_API_KEY": "test-key", "ANTHROPIC_BASE_URL": endpoint.base_url}
            async with host() as client:
                schemas = {tool.name: tool.output_schema or {} for tool in (await client.list_tools()).tools}

                async def use(tool: str, **arguments: object) -> dict[str, Any]:
                    result = await call(client, tool, **arguments)
                    results.append((tool, result))
                    return result

                await use("estimate_cost", prompt="Hello", models=["claude-sonnet-5-5", "claude-haiku-4-5"], turns=3)
                await use("estimate_cost", input_tokens=10**9, max_output_tokens=1_000_000)
                held = await use("reserve_budget", usd="0.10", tags=["a"], subject={"agent": "bot"})
                await use("reserve_budget", usd="0.10", dry_run=True)
                await use("reserve_budget", usd="9.99")
                await use("commit_usage", reservation_id=held["reservation_id"], usd="0.03")
                delegated = await use("delegate_to_claude", task="Look.", tools=["workshop__*"])
                await use("delegation_status", delegation_id=delegated["delegation_id"])
                await use("list_delegations")
                held = await use("reserve_budget", usd="0.70")
                await use("extend_reservation", reservation_id=held["reservation_id"], seconds=60)
                await use("list_reservations", limit=1)
                await use("check_budget")
                await use("release_budget", reservation_id=held["reservation_id"])
                await use("record_usage", usd="0.01")
                await use("record_usage", usd="9.99", overage_policy="REJECT")

    assert {tool for tool, _ in results} == {tool.name for tool in TOOLS}
    for tool, result in results:
        assert not list(Draft202012Validator(schemas[tool]).iter_errors(result)), tool
        described = schemas["delegate_to_claude" if tool == "delegation_status" else tool]
        assert set(result) <= set(described["properties"]), tool
        for name, part in result.items():
            if isinstance(part, list) and part and isinstance(part[0], dict):
                assert all(key in described["properties"][name]["description"] for each in part for key in each), name
