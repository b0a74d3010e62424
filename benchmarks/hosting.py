"""Servers measured over stdio: real processes that the SDK's own client starts and talks to, as a host does."""

import sys
from pathlib import Path
from time import perf_counter
from typing import NamedTuple

from mcp import Client, StdioServerParameters
from mcp.types import CallToolResult

NO_OP_TOOL = "bare no-op tool"
LEDGER_TOOL = "bare tool and a bare transaction"
CHECKOUT = Path(__file__).parents[1]
TENANT = "bench"


def bare_server(*arguments: str) -> StdioServerParameters:
    """Say how the bare SDK's server is started."""
    script = str(Path(__file__).with_name("bare_server.py"))
    return StdioServerParameters(command=sys.executable, args=[script, *arguments], env={"PYTHONPATH": str(CHECKOUT)})


def our_server(directory: Path, **environment: str) -> StdioServerParameters:
    """Say how ours is started: with its data in ``directory``, and nothing set but what is given."""
    return StdioServerParameters(
        command=sys.executable,
        args=["-m", "budget_server"],
        env={"BUDGET_DATA_DIR": str(directory), "BUDGET_USD": "1000000", **environment},
    )


def remote_settings(base_url: str) -> dict[str, str]:
    """Give the settings by which ours asks an authority at this address, and keeps no ledger."""
    return {"CYCLES_BASE_URL": base_url, "CYCLES_API_KEY": "bench", "CYCLES_TENANT": TENANT, "BUDGET_USD": ""}


async def call_tool(client: Client, tool: str, arguments: dict[str, object], **expected: object) -> "Called":
    """Call a tool that must answer with these fields."""
    begun = perf_counter()
    result = await client.call_tool(tool, arguments)
    seconds = perf_counter() - begun
    return Called(seconds, _content(result, **expected))


class Called(NamedTuple):
    """One answered call."""

    seconds: float
    content: dict[str, object]


async def reserve(client: Client) -> Called:
    """Reserve a little, for longer than a benchmark goes on."""
    return await call_tool(client, "reserve_budget", {"usd": "0.05", "ttl_seconds": 3_600}, decision="ALLOW")


async def commit(client: Client, reserved: Called) -> Called:
    """Settle what was reserved."""
    arguments: dict[str, object] = {"reservation_id": reserved.content["reservation_id"], "usd": "0.03"}
    return await call_tool(client, "commit_usage", arguments, status="COMMITTED")


async def do_nothing(client: Client) -> Called:
    """Call the bare server's tool."""
    return await call_tool(client, "do_nothing", {}, is_done=True)


def _content(result: CallToolResult, **expected: object) -> dict[str, object]:
    """Give a result's content, and refuse to time failures: they are often the fastest answers."""
    found = result.structured_content
    if result.is_error or not isinstance(found, dict) or not expected.items() <= found.items():
        raise RuntimeError(f"A call did not do its work, so its time means nothing: {result}")
    return found
