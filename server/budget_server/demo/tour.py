"""The demonstration: a real client, this server, a real budget, and a sub-agent that stops where it ends.

Only Claude may be a stand-in: with ``ANTHROPIC_API_KEY`` set it is the real one, otherwise a scripted endpoint on
loopback that speaks its wire format, and everything shown says so. What is shown is added up again from the ledger
file at the end.
"""

import json
import os
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
from mcp import Client, StdioServerParameters
from rich.console import Console
from rich.table import Table

from budget_server.authority.budgets import fund
from budget_server.authority.listing import balances
from budget_server.authority.store import LedgerStore
from budget_server.config.paths import LEDGER_FILE
from budget_server.config.settings import LOCAL_TENANT
from budget_server.demo.scripted_claude import ScriptedClaude, ToolCall, Turn, Usage
from budget_tools.core.money import USD_MICROCENTS, Money, parse_usd

BUDGET_USD = "0.10"
MORE_USD = "0.10"
MODEL = "claude-sonnet-5-5"
SECONDS = 300

STOCK_TASK = "Check which parts of the workshop are below their minimum stock, and order what is missing of chain-11."
CATALOGUE_TASK = "Write a long catalogue text for every part of the workshop, one part a turn, and keep improving them."


def main() -> int:
    """Run the demonstration; 0 only if everything it showed added up."""
    return anyio.run(_main)


async def _main() -> int:
    # A host's output can be a pipe without a size: a fixed width keeps the tables whole there.
    console = Console(width=None if sys.stdout.isatty() else 118, highlight=False)
    with tempfile.TemporaryDirectory(prefix="cycles-budget-demo-") as directory:
        try:
            with anyio.fail_after(SECONDS):
                async with _claude(console) as environment:
                    tour = _Tour(console, Path(directory), environment)
                    await tour.run()
            problems = tour.problems + _audit(console, Path(directory), charged=tour.charged)
        except _WrongError as exc:
            problems = [str(exc)]
    for problem in problems:
        console.print(f"[red]Does not add up:[/red] {problem}")
    if not problems:
        console.print("[green]Everything shown adds up, to the microcent.[/green]")
    return 1 if problems else 0


class _WrongError(Exception):
    """Something that the demonstration relies on did not happen."""


@asynccontextmanager
async def _claude(console: Console) -> AsyncIterator[Mapping[str, str]]:
    """Yield the environment that reaches Claude: the real one with a key, else the scripted one."""
    key = os.environ.get("ANTHROPIC_API_KEY")
    if key:
        console.print("Claude: [bold]the real API[/bold] (ANTHROPIC_API_KEY is set; this costs a few cents).")
        base_url = os.environ.get("ANTHROPIC_BASE_URL", "")
        yield {"ANTHROPIC_API_KEY": key, **({"ANTHROPIC_BASE_URL": base_url} if base_url else {})}
        return
    console.print(
        "Claude: [bold]scripted[/bold], on loopback (ANTHROPIC_API_KEY is not set). Its words and its usage are"
    )
    console.print("made up; the wire format, the server, the budget and the tools are real.")
    async with ScriptedClaude(conversations={STOCK_TASK: _STOCK_SCRIPT, CATALOGUE_TASK: _catalogue_turn}) as endpoint:
        yield {"ANTHROPIC_API_KEY": "scripted-needs-no-key", "ANTHROPIC_BASE_URL": endpoint.base_url}


class _Tour:
    """What a host would do, in order, with what it gets back."""

    def __init__(self, console: Console, directory: Path, environment: Mapping[str, str]) -> None:
        self._console = console
        self._directory = directory
        self._environment = environment
        self._charges: dict[str, int] = {}
        """What every answer said was charged in microcents, by what was charged; a later one replaces an earlier."""
        self.problems: list[str] = []

    @property
    def charged(self) -> int:
        """What was charged in all, in microcents."""
        return sum(self._charges.values())

    async def run(self) -> None:
        """Do everything once."""
        servers = self._directory / "subagent-servers.json"
        workshop = {"command": sys.executable, "args": ["-m", "budget_server.demo.workshop"]}
        servers.write_text(json.dumps({"mcpServers": {"workshop": workshop}}), encoding="utf-8")
        environment = {
            **self._environment,
            "BUDGET_DATA_DIR": str(self._directory / "data"),
            "BUDGET_MODEL": MODEL,
            "BUDGET_SUBAGENT_SERVERS": str(servers),
        }
        async with _host({**environment, "BUDGET_USD": BUDGET_USD}) as client:
            await self._show_tools(client)
            await self._estimate(client)
            await self._spend_by_hand(client)
            self._console.rule(f"4. It delegates: {STOCK_TASK}")
            await self._delegate(client, "completed", task=STOCK_TASK, tools=["workshop__*"])
            self._console.rule(f"5. It delegates: {CATALOGUE_TASK}")
            stopped = await self._delegate(
                client, "budget_exhausted", task=CATALOGUE_TASK, tools=["workshop__part_details"], max_turns=50
            )
        self._console.rule(f"6. A person adds ${MORE_USD}; another server goes on where that one stopped")
        self._fund()
        async with _host(environment) as client:
            await self._delegate(client, "completed", resume=stopped["delegation_id"])

    async def _show_tools(self, client: Client) -> None:
        self._console.rule("1. A host connects over stdio")
        tools = (await client.list_tools()).tools
        self._console.print(f"Budget: ${BUDGET_USD}. Tools: {', '.join(tool.name for tool in tools)}")

    async def _estimate(self, client: Client) -> None:
        self._console.rule("2. It asks what a call would cost")
        models = [MODEL, "claude-opus-5-5", "claude-haiku-4-5"]
        _, text = await self._call(client, "estimate_cost", prompt=STOCK_TASK, models=models, max_output_tokens=2_000)
        self._console.print(text)

    async def _spend_by_hand(self, client: Client) -> None:
        self._console.rule("3. It reserves and commits a call of its own")
        held, text = await self._call(
            client, "reserve_budget", model=MODEL, input_tokens=1_000, max_output_tokens=500, action_name="by hand"
        )
        self._console.print(text)
        usage = {"input_tokens": 950, "output_tokens": 210, "cache_read_input_tokens": 0}
        settled, text = await self._call(
            client, "commit_usage", reservation_id=held["reservation_id"], model=MODEL, usage=usage, latency_ms=1_800
        )
        self._console.print(text)
        self._charges[held["reservation_id"]] = int(settled["charged"]["amount"])

    def _fund(self) -> None:
        """Do what ``cycles-budget-mcp budget fund`` does."""
        store = LedgerStore(self._directory / "data" / LEDGER_FILE)
        try:
            store.run(
                lambda ledger: fund(
                    ledger.db, scope=f"tenant:{LOCAL_TENANT}", unit=USD_MICROCENTS, amount=parse_usd(MORE_USD)
                )
            )
        finally:
            store.close()

    async def _delegate(self, client: Client, scripted_end: str, **arguments: object) -> Mapping[str, Any]:
        result, _ = await self._call(
            client, "delegate_to_claude", max_output_tokens=2_000, wait_seconds=SECONDS, **arguments
        )
        self._console.print(_table(result))
        hint = f"{result['hint']}\n" if result["hint"] else ""
        self._console.print(f"[bold]{result['status']}[/bold]: {hint}{result['text']}")
        self._charges[result["delegation_id"]] = sum(_charge(turn) for turn in result["turns"])
        self.problems += _problems_of(result)
        if not os.environ.get("ANTHROPIC_API_KEY") and result["status"] != scripted_end:
            self.problems.append(f"the scripted delegation ended as {result['status']}, not as {scripted_end}")
        return result

    async def _call(self, client: Client, name: str, **arguments: object) -> tuple[dict[str, Any], str]:
        answered = await client.call_tool(name, arguments)
        block = answered.content[0]
        text = block.text if block.type == "text" else ""
        if answered.is_error or answered.structured_content is None:
            raise _WrongError(f"{name} failed: {text}")
        return answered.structured_content, text


def _host(environment: Mapping[str, str]) -> Client:
    """Connect a host to a new process of this server."""
    return Client(StdioServerParameters(command=sys.executable, args=["-m", "budget_server"], env=dict(environment)))


def _problems_of(result: Mapping[str, Any]) -> list[str]:
    problems = [
        f"turn {turn['number']} was charged more than its bound"
        for turn in result["turns"]
        if _charge(turn) > turn["reserved"]["amount"]
    ]
    charged = sum(_charge(turn) for turn in result["turns"])
    if charged != result["spent"]["amount"]:
        problems.append(f"its turns were charged {charged}, its total says {result['spent']['amount']}")
    return problems


def _table(result: Mapping[str, Any]) -> Table:
    table = Table("turn", "asked for", "tokens in/out", title=None)
    for column in ("bound", "charged", "remains"):
        table.add_column(column, justify="right")
    left = int(result["remaining"]["amount"])
    # What remained after each turn, counted back from what remains now.
    after = [left := left + charge for charge in [0, *(_charge(turn) for turn in reversed(result["turns"]))]][:-1]
    for turn, remaining in zip(result["turns"], reversed(after), strict=True):
        tools = ", ".join(f"{call['name']}{'' if call['ok'] else ' (failed)'}" for call in turn["tool_calls"])
        table.add_row(
            str(turn["number"]),
            tools or turn["stop_reason"],
            f"{turn['input_tokens']}/{turn['output_tokens']}",
            str(Money.microcents(turn["reserved"]["amount"])),
            str(Money.microcents(_charge(turn))),
            str(Money.microcents(remaining)),
        )
    return table


def _charge(turn: Mapping[str, Any]) -> int:
    return int(turn["charged"]["amount"]) if "charged" in turn else 0


def _audit(console: Console, directory: Path, *, charged: int) -> list[str]:
    """Add up again from the ledger file, after the server has left it."""
    console.rule("7. The ledger, after the server has gone")
    store = LedgerStore(directory / "data" / LEDGER_FILE)
    try:
        rows = store.run(lambda ledger: balances(ledger.db, LOCAL_TENANT, {"tenant": LOCAL_TENANT})).body["balances"]
    finally:
        store.close()
    budget = next(row for row in rows if row["remaining"]["unit"] == USD_MICROCENTS)
    allocated, spent = int(budget["allocated"]["amount"]), int(budget["spent"]["amount"])
    held, left = int(budget["reserved"]["amount"]), int(budget["remaining"]["amount"])
    console.print(
        f"allocated {Money.microcents(allocated)}, spent {Money.microcents(spent)}, held {Money.microcents(held)}, "
        f"remaining {Money.microcents(left)}"
    )
    checks = {
        f"the ledger says {spent} was spent, the charges shown add up to {charged}": spent == charged,
        f"{held} microcents are still held": held == 0,
        "allocated is not spent plus remaining": allocated
        == spent + left
        == parse_usd(BUDGET_USD) + parse_usd(MORE_USD),
    }
    return [problem for problem, is_right in checks.items() if not is_right]


_STOCK_SCRIPT: Sequence[Turn] = (
    Turn(text="I will look at the catalogue first.", tool_calls=(ToolCall("workshop__list_parts"),)),
    Turn(
        text="Now the stock of each, and one part I only remember.",
        tool_calls=tuple(
            ToolCall("workshop__stock", {"part": part})
            for part in ("chain-11", "tube-700", "saddle-03", "pads-disc", "bell-brass", "pump-small")
        ),
    ),
    Turn(
        text="There is no small pump. Three chains are missing.",
        tool_calls=(ToolCall("workshop__place_order", {"part": "chain-11", "quantity": 3}),),
    ),
    Turn(text="Below their minimum: chain-11, tube-700 and saddle-03. I ordered 3 of chain-11; they come tomorrow."),
)


def _catalogue_turn(request: Mapping[str, Any], number: int) -> Turn:
    parts = ("chain-11", "pads-disc", "tube-700", "bell-brass", "saddle-03")
    if request.get("tool_choice") == {"type": "none"}:
        return Turn(text=f"My best so far: drafts of {number - 1} texts, the last of them rough; the rest is missing.")
    if number > len(parts):
        return Turn(text="All five texts are done.")
    return Turn(
        text=f"Draft {number} is done; next the details of {parts[number % len(parts)]}.",
        tool_calls=(ToolCall("workshop__part_details", {"part": parts[number % len(parts)]}),),
        usage=Usage(output_tokens=1_400),
    )
