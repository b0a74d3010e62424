"""A delegation bench: this server over a fresh ledger, called as a host calls it, and a scripted Claude on a socket."""

import json
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import anyio
from mcp import Client
from mcp.types import CallToolResult
from pydantic import SecretStr

from budget_server.authority import budgets
from budget_server.authority.client import EmbeddedCyclesClient
from budget_server.authority.ledger import Ledger
from budget_server.authority.listing import balances
from budget_server.authority.store import LedgerStore
from budget_server.config.paths import LEDGER_FILE
from budget_server.config.settings import Settings
from budget_server.delegations.store import SqliteDelegationStore
from budget_server.demo.scripted_claude import (
    COUNT_TOKENS_PATH,
    Failure,
    ReceivedRequest,
    Script,
    ScriptedClaude,
    ToolCall,
    Turn,
)
from budget_server.mcp_server.server import create_server
from budget_server.services import Services
from budget_tools.core.money import USD_MICROCENTS, parse_usd
from budget_tools.delegation.loop import Delegation
from budget_tools.delegation.store import Stored
from hosting import text_of

T = TypeVar("T")

MODEL = "claude-sonnet-5-5"
PATIENCE_SECONDS = 20
"""Longest wait for anything; whatever takes longer hangs."""

SHED = Path(__file__).with_name("tool_shed.py")
"""A downstream MCP server with tools that wait, crash, and say too much."""

LOOK = ToolCall("shed__count")
"""A call of a tool that costs nothing and is never a repetition."""
TOOLS = ["shed__count"]


def looks(_body: Mapping[str, Any], number: int) -> Turn:
    """Play a sub-agent that is never done: it answers only where it may use no tool."""
    return Turn(text=f"Look {number}.", tool_calls=(LOOK,))


class CountlessClaude(ScriptedClaude):
    """An endpoint that counts no tokens, as some gateways before the API do not."""

    async def _respond(self, exchange: Any) -> None:
        if exchange.request.path == COUNT_TOKENS_PATH:
            await exchange.fail(Failure(status=404))
        else:
            await super()._respond(exchange)


class Bench:
    """What one test works with."""

    def __init__(
        self, *, client: Client, services: Services, claude: ScriptedClaude, allocated_microcents: int = 0
    ) -> None:
        self.client = client
        self.services = services
        self.claude = claude
        self.allocated_microcents = allocated_microcents
        self.outside_microcents = 0
        """What a test spent past the delegations, for the books at its end."""

    async def delegate(self, **arguments: object) -> dict[str, Any]:
        """Delegate a task; the call itself must succeed."""
        return structured(await self.call("delegate_to_claude", **{"task": "Do it.", **arguments}))

    async def refused(self, **arguments: object) -> str:
        """Delegate what must be refused with one sentence, and give the sentence."""
        result = await self.call("delegate_to_claude", **{"task": "Do it.", **arguments})
        assert result.is_error
        text = text_of(result)
        assert "\n" not in text
        assert "Error executing" not in text
        return text

    async def refused_or_cancelled(self, tools: Sequence[str]) -> None:
        """Delegate where only the end of the call matters."""
        await self.call("delegate_to_claude", task="Do it.", tools=list(tools))

    async def status(self, delegation_id: str, **arguments: object) -> dict[str, Any]:
        """Ask how a delegation stands; the call itself must succeed."""
        return structured(await self.call("delegation_status", delegation_id=delegation_id, **arguments))

    async def call(self, tool: str, **arguments: object) -> CallToolResult:
        """Call a tool."""
        with anyio.fail_after(PATIENCE_SECONDS):
            return await self.client.call_tool(tool, arguments)

    def running(self, delegation_id: str) -> Delegation:
        """A delegation that this process runs."""
        return self.services.delegations._running[delegation_id]

    async def kept(self) -> list[Stored]:
        """Every delegation of this bench, with its turns, the oldest first."""
        found, _ = await self.services.delegation_store.list("local", limit=100)
        store = self.services.delegation_store
        return [await store.find("local", each.delegation_id) for each in reversed(found)]

    async def doing(self, running: Mapping[str, Any], what: str) -> None:
        """Wait until a delegation of this process says that it does this."""
        delegation = self.running(running["delegation_id"])
        with anyio.fail_after(PATIENCE_SECONDS):
            while what not in delegation.doing:
                assert not delegation.is_done, delegation.doing
                await delegation.next_change()

    async def request(self, number: int) -> ReceivedRequest:
        """Wait for the endpoint to receive its n-th request for a message."""
        with anyio.fail_after(PATIENCE_SECONDS):
            return (await self.claude.wait_for_requests(number))[number - 1]

    async def held(self, number: int) -> ReceivedRequest:
        """Wait until the n-th request's answer is held open."""
        request = await self.request(number)
        await happens(request.held)
        return request

    @property
    def sent(self) -> int:
        """How many requests for a message reached the endpoint."""
        return len(self.claude.message_requests)

    async def balance(self) -> dict[str, int]:
        """Read the budget as a host's tools would."""
        response = await self.services.cycles.get_balances(tenant="local")
        assert response.body is not None
        return dollars(response.body["balances"])

    async def reservations(self, status: str = "") -> list[dict[str, Any]]:
        """List the reservations, oldest first."""
        query = {"sort_by": "reservation_id", "sort_dir": "asc"} | ({"status": status} if status else {})
        response = await self.services.cycles.list_reservations(**query)
        assert response.body is not None, response
        rows: list[dict[str, Any]] = response.body["reservations"]
        return rows

    async def held_and_spent(self) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """List the reservations that were held for a last answer, and all others, oldest first."""
        rows = await self.reservations()
        held = [row for row in rows if "landing" in row["action"]["tags"]]
        return held, [row for row in rows if row not in held]

    async def ledger(self, operation: Callable[[Ledger], T]) -> T:
        """Do what an operator would do, or look at what the protocol does not show."""
        cycles = self.services.cycles
        assert isinstance(cycles, EmbeddedCyclesClient)
        return await cycles.ledger.run(operation)

    async def fund(self, usd: str) -> None:
        """Add to the budget, as an operator does."""
        amount = parse_usd(usd)
        await self.ledger(
            lambda ledger: budgets.fund(ledger.db, scope="tenant:local", unit=USD_MICROCENTS, amount=amount)
        )
        self.allocated_microcents += amount

    async def spend_what_remains(self) -> None:
        """Spend all that nobody holds, as another user of the budget may at any time."""
        amount = (await self.balance())["remaining"]
        reserved = structured(await self.call("reserve_budget", amount=amount, unit=USD_MICROCENTS))
        await self.call("commit_usage", reservation_id=reserved["reservation_id"], amount=amount, unit=USD_MICROCENTS)
        self.outside_microcents += amount
        assert (await self.balance())["remaining"] == 0

    async def set_budget(self, **columns: object) -> None:
        """Change the budget's row: ``status`` or ``caps``."""
        for column, value in columns.items():
            await self.ledger(lambda ledger, c=column, v=value: ledger.db.execute(f"UPDATE budgets SET {c} = ?", (v,)))  # type: ignore[misc] # noqa: S608

    async def column(self, reservation_id: str, name: str) -> Any:
        """Read a JSON column of a reservation."""
        query = f"SELECT {name} FROM reservations WHERE reservation_id = ?"  # noqa: S608
        row = await self.ledger(lambda ledger: ledger.db.execute(query, (reservation_id,)).fetchone())
        assert row is not None
        return json.loads(row[0])


OpenBench = Callable[..., Awaitable[Bench]]


@asynccontextmanager
async def open_bench(
    directory: Path,
    script: Script = (),
    *,
    usd: str = "1.00",
    servers: Mapping[str, object] | None = None,
    endpoint: Callable[[Script], ScriptedClaude] = ScriptedClaude,
    **settings: Any,
) -> AsyncIterator[Bench]:
    """Open a bench, and settle and check its books at the end.

    Unless ``servers`` says otherwise, the tool shed can be used; it starts when it is first needed.

    The books: what was allocated is spent or remains, nothing is held any more, and the delegations' own sums agree
    with the ledger to the microcent.
    """
    if "budget_subagent_servers" not in settings:
        settings["budget_subagent_servers"] = servers_file(directory, {"shed": shed()} if servers is None else servers)
    async with endpoint(script) as claude:
        services = Services(
            Settings(
                **{
                    "budget_data_dir": directory / "data",
                    "budget_usd": usd,
                    "anthropic_api_key": SecretStr("test"),
                    "anthropic_base_url": claude.base_url,
                    "budget_model": MODEL,
                    **settings,
                }
            )
        )
        try:
            async with Client(create_server(services)) as client:
                bench = Bench(client=client, services=services, claude=claude, allocated_microcents=parse_usd(usd))
                yield bench
        finally:
            with anyio.fail_after(PATIENCE_SECONDS):
                await services.aclose()
        await check_books(directory, bench)


@asynccontextmanager
async def beside(bench: Bench, **settings: Any) -> AsyncIterator[Bench]:
    """Open a second server over the data directory of a bench, as another host on the same machine does."""
    services = Services(bench.services._settings.model_copy(update=settings))
    try:
        async with Client(create_server(services)) as client:
            yield Bench(client=client, services=services, claude=bench.claude)
    finally:
        with anyio.fail_after(PATIENCE_SECONDS):
            await services.aclose()


async def check_books(directory: Path, bench: Bench) -> None:
    """Compare the ledger with what the delegations say they were charged."""
    allocated = bench.allocated_microcents
    charged = bench.outside_microcents + sum(each.spent_microcents for each in await kept(directory / "data"))
    assert ledger_balance(directory) == {
        "allocated": allocated,
        "spent": charged,
        "reserved": 0,
        "remaining": allocated - charged,
    }


async def kept(data_directory: Path, tenant: str = "local") -> list[Stored]:
    """Every delegation of a data directory, with its turns."""
    store = SqliteDelegationStore(data_directory)
    try:
        found, cursor = await store.list(tenant, limit=100)
        assert not cursor, "more delegations than this looks at"
        return [await store.find(tenant, each.delegation_id) for each in found]
    finally:
        await store.aclose()


def ledger_balance(directory: Path, **store: Any) -> dict[str, int]:
    """Read the budget from the ledger file of a bench whose services are closed."""
    opened = LedgerStore(directory / "data" / LEDGER_FILE, **store)
    try:
        rows = opened.run(lambda ledger: balances(ledger.db, "local", {"tenant": "local"})).body["balances"]
    finally:
        opened.close()
    return dollars(rows)


def dollars(balances_: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """The figures of the one budget in US dollars."""
    (row,) = (each for each in balances_ if each["remaining"]["unit"] == USD_MICROCENTS)
    return amounts(row)


def amounts(balance: Mapping[str, Any]) -> dict[str, int]:
    """The four figures of a balance that always add up."""
    return {name: int(balance[name]["amount"]) for name in ("allocated", "spent", "reserved", "remaining")}


def structured(result: CallToolResult) -> dict[str, Any]:
    """The structured result of a call that succeeded."""
    assert not result.is_error, text_of(result)
    assert isinstance(result.structured_content, dict)
    return result.structured_content


def shed(*arguments: str) -> dict[str, object]:
    """An entry of ``mcpServers`` that starts the tool shed."""
    return {"command": sys.executable, "args": ["-IS", str(SHED), *arguments]}


def servers_file(directory: Path, servers: Mapping[str, object]) -> Path:
    """Write an ``mcpServers`` file."""
    path = directory / "servers.json"
    path.write_text(json.dumps({"mcpServers": servers}), encoding="utf-8")
    return path


def tool_results(request: ReceivedRequest) -> Sequence[dict[str, Any]]:
    """The tool results that a request brought back to Claude."""
    content = request.body["messages"][-1]["content"]
    assert all(block["type"] == "tool_result" for block in content)
    return list(content)


def last_words(request: ReceivedRequest) -> str:
    """The text that a request ends with: what the sub-agent was told last."""
    content = request.body["messages"][-1]["content"]
    return content if isinstance(content, str) else ""


async def happens(event: anyio.Event) -> None:
    """Wait for what must happen."""
    with anyio.fail_after(PATIENCE_SECONDS):
        await event.wait()


@asynccontextmanager
async def a_door() -> AsyncIterator[tuple[int, anyio.Event]]:
    """A port of this machine, and an event that is set when somebody knocks."""
    knocked = anyio.Event()

    async def open_door(stream: anyio.abc.SocketStream) -> None:
        async with stream:
            knocked.set()

    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    port = listener.extra(anyio.abc.SocketAttribute.local_port)  # noqa: S610 - of a socket, not of a query
    async with listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, open_door)
        yield port, knocked
        tasks.cancel_scope.cancel()


@asynccontextmanager
async def background(coroutine_function: Callable[[], Awaitable[T]]) -> AsyncIterator[list[T]]:
    """Run a call beside the block and wait for it at its end; the list then holds its result."""
    results: list[T] = []

    async def run() -> None:
        results.append(await coroutine_function())

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run)
        yield results
