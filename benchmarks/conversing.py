"""Conversations with an endpoint that answers at once, held by the bare SDK's loop and by this server's delegations.

Both sides ask the same endpoint, a process of its own (``instant_claude.py``), and call the same tool of an MCP server
that each of them starts for itself. The bare loop sends, reads and appends, as the SDK's documentation does it. The
delegation is this server's own, in process: it bounds every turn, reserves the bound in a durable ledger, and commits
what the answer says it used.
"""

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import anyio
from anthropic import AsyncAnthropic, Omit, omit
from anthropic.types import MessageParam, ToolParam, ToolResultBlockParam
from benchmarks.harness import Check, Comparison, Series, Times, measure_rounds
from benchmarks.instant_authority import pipe
from benchmarks.instant_claude import opening
from mcp import Client, StdioServerParameters
from pydantic import SecretStr

from budget_server.config.settings import Settings
from budget_server.services import Services
from budget_tools.delegation.records import Task
from budget_tools.delegation.views import DelegationView

MODEL = "claude-sonnet-5-5"
MAX_OUTPUT_TOKENS = 4_096
DELTAS = 100
"""How many pieces of text every answer has."""

SERVER_NAME, TOOL = "bare", "do_nothing"
_TOOL_SERVER = Path(__file__).with_name("bare_server.py")
_ENDPOINT = Path(__file__).with_name("instant_claude.py")
_BARE_KEY, _BUDGETED_KEY = "bare", "budgeted"
_PATIENCE_SECONDS = 120

CAVEATS = (
    f"Each answer has {DELTAS} deltas and comes without the seconds that a model takes: to those, little is added. "
    "A delegation begins by asking the endpoint to count its prompt, which the bare loop does not. Every "
    "budgeted turn waits for the disk, as a reservation does."
)


class BareLoop:
    """The loop of the SDK's documentation, and nothing around it.

    Args:
        anthropic: the SDK's client.
        tools: a client of the tool's server.
        offered: the tool as the API takes it.
    """

    def __init__(self, anthropic: AsyncAnthropic, tools: Client, offered: ToolParam) -> None:
        self._anthropic = anthropic
        self._tools = tools
        self._offered = offered

    async def converse(self, tool_calls: int) -> None:
        """Hold a conversation to its end."""
        messages: list[MessageParam] = [{"role": "user", "content": opening(tool_calls)}]
        offered: list[ToolParam] | Omit = [self._offered] if tool_calls else omit
        while True:
            async with self._anthropic.messages.stream(
                model=MODEL, max_tokens=MAX_OUTPUT_TOKENS, messages=messages, tools=offered
            ) as stream:
                message = await stream.get_final_message()
            if message.stop_reason != "tool_use":
                break
            results: list[ToolResultBlockParam] = []
            for block in message.content:
                if block.type == "tool_use":
                    result = await self._tools.call_tool(TOOL, dict(block.input))
                    texts = [content.text for content in result.content if content.type == "text"]
                    results.append(
                        {
                            "type": "tool_result",
                            "tool_use_id": block.id,
                            "content": [{"type": "text", "text": text} for text in texts],
                        }
                    )
            messages += [{"role": "assistant", "content": message.content}, {"role": "user", "content": results}]


async def delegate(services: Services, tool_calls: int, *, max_turns: int | None = None) -> DelegationView:
    """Hold the same conversation as a delegation; the one place that knows how one is started.

    Args:
        services: of the process that holds it.
        tool_calls: in how many turns the tool is called, before one that answers.
        max_turns: where it stops before that, to be resumed.
    """
    task = Task(
        task=opening(tool_calls),
        model=MODEL,
        # One more than it takes, so that none of them is made the last.
        max_turns=max_turns or tool_calls + 2,
        max_output_tokens=MAX_OUTPUT_TOKENS,
        tools=(f"{SERVER_NAME}__{TOOL}",) if tool_calls else (),
        levels=services.subject.levels,
    )
    delegation = await services.delegations.start(task, uuid4().hex)
    return await ended(delegation, max_turns or tool_calls + 1)


async def ended(delegation: DelegationView, turns: int) -> DelegationView:
    """Wait until a delegation has made its turns."""
    while (outcome := delegation.outcome) is None:
        await delegation.next_change()
    sources = [turn.actual_source for turn in delegation.turns]
    if outcome.status not in ("completed", "max_turns") or sources != ["usage"] * turns:
        raise RuntimeError(f"A delegation did not do its work, so its time means nothing: {outcome.hint}")
    return delegation


@dataclass(frozen=True, slots=True)
class Seen:
    """What the endpoint was asked by both sides."""

    lengths: dict[str, list[list[int]]]
    request_bytes: dict[str, int]

    def checks(self) -> tuple[Check, ...]:
        """Say whether both sides held the same conversations."""
        bare, budgeted = (self.lengths.get(key) for key in (_BARE_KEY, _BUDGETED_KEY))
        what = "both sides sent as many requests of each length of a conversation"
        return (Check(what=what, holds=bare == budgeted, found=f"{bare} and {budgeted}"),)

    def sizes(self) -> str:
        """Say how long the requests of both sides were."""
        means = [
            f"{self.request_bytes[key] // sum(count for _, count in self.lengths[key]):,} bytes {key}"
            for key in (_BARE_KEY, _BUDGETED_KEY)
        ]
        return f"{', '.join(means)} on average"


class Endpoint:
    """The process that answers both sides."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process
        self.base_url = f"http://127.0.0.1:{pipe(process.stdout).readline().strip()}"

    @classmethod
    @contextmanager
    def started(cls) -> Iterator["Endpoint"]:
        """Run it for a while."""
        process = subprocess.Popen(
            [sys.executable, str(_ENDPOINT), str(DELTAS)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        try:
            yield cls(process)
        finally:
            process.kill()
            process.communicate()

    async def seen_now(self) -> Seen:
        """Ask what it has seen so far."""
        pipe(self._process.stdin).write("\n")
        pipe(self._process.stdin).flush()
        seen: dict[str, Any] = json.loads(await asyncio.to_thread(pipe(self._process.stdout).readline))
        return Seen(seen["lengths"], seen["bytes"])


def _tool_server() -> StdioServerParameters:
    return StdioServerParameters(command=sys.executable, args=[str(_TOOL_SERVER)])


@asynccontextmanager
async def open_bare(base_url: str) -> AsyncIterator[BareLoop]:
    """Open what the bare loop works with."""
    async with (
        Client(_tool_server()) as tools,
        AsyncAnthropic(api_key=_BARE_KEY, base_url=base_url, max_retries=0) as anthropic,
    ):
        (tool,) = (await tools.list_tools()).tools
        offered = ToolParam(
            name=f"{SERVER_NAME}__{tool.name}", description=tool.description or "", input_schema=tool.input_schema
        )
        yield BareLoop(anthropic, tools, offered)


@asynccontextmanager
async def open_services(base_url: str, directory: Path) -> AsyncIterator[Services]:
    """Open the server's services over a fresh ledger, as its settings would."""
    server = _tool_server()
    servers = directory / "servers.json"
    entry = {"command": server.command, "args": server.args}
    servers.write_text(json.dumps({"mcpServers": {SERVER_NAME: entry}}), encoding="utf-8")
    settings = Settings(
        budget_data_dir=directory / "data",
        budget_usd="1000000",  # in dollars, as the environment gives it
        anthropic_api_key=SecretStr(_BUDGETED_KEY),
        anthropic_base_url=base_url,
        budget_subagent_servers=servers,
    )
    services = Services(settings)
    try:
        yield services
    finally:
        await services.aclose()


@dataclass(frozen=True, kw_only=True, slots=True)
class Manner:
    """One way of conversing, which both sides are measured at."""

    work: str
    tool_calls: int
    times: int = 1
    at_once: int = 1

    @property
    def turns(self) -> int:
        """Turns of all its conversations that are measured together."""
        return self.at_once * (self.tool_calls + 1)

    async def seconds_a_turn(self, converse: Callable[[int], Coroutine[Any, Any, object]]) -> list[float]:
        """Converse, and give the time of a turn, each time anew."""
        taken: list[float] = []
        for _ in range(self.times):
            begun = time.perf_counter()
            with anyio.fail_after(_PATIENCE_SECONDS):
                await asyncio.gather(*(converse(self.tool_calls) for _ in range(self.at_once)))
            taken.append((time.perf_counter() - begun) / self.turns)
        return taken


async def compare(loop: BareLoop, services: Services, manner: Manner, target_ratio: float, rounds: int) -> Comparison:
    """Let both sides converse in turns."""
    baseline = f"bare {manner.work}"

    async def bare() -> Times:
        return {baseline: await manner.seconds_a_turn(loop.converse)}

    async def budgeted() -> Times:
        return {manner.work: await manner.seconds_a_turn(lambda tool_calls: delegate(services, tool_calls))}

    series = await measure_rounds((bare, budgeted), rounds=rounds, warm_up_rounds=2, limit_seconds=60)
    return Comparison(work=manner.work, ours=series[manner.work], baseline=series[baseline], target_ratio=target_ratio)


async def by_length(services: Services, lengths: Sequence[int], at_once: int = 1) -> dict[int, Series]:
    """Hold ever longer conversations, and give the time of a turn by how many turns there are."""
    manners = {turns: Manner(work="a turn", tool_calls=turns - 1, at_once=at_once) for turns in lengths}
    return {
        turns: Series(
            name="a turn",
            rounds=(tuple(await each.seconds_a_turn(lambda tool_calls: delegate(services, tool_calls))),),
        )
        for turns, each in manners.items()
    }


def added(comparisons: Sequence[Comparison]) -> str:
    """Say how much longer a turn of ours took, at the medians."""
    return ", ".join(
        f"{(each.ours.percentile(50) - each.baseline.percentile(50)) * 1_000:.2f} ms ({each.work})"
        for each in comparisons
    )
