"""Delegations: what a budgeted turn takes, beside the bare SDK's loop.

Both sides hold the same conversations with one endpoint that answers at once from a process of its own
(``instant_claude.py``), and call the same tool of an MCP server that each of them starts for itself. The bare loop
sends, reads and appends, as the SDK's documentation does it. The delegation is this server's own, in process: it bounds
every turn, reserves the bound in a durable ledger, and commits what the answer says it used. Measured are

- a conversation that asks for a tool in every turn but the last;
- one of a single turn, without tools;
- as many of the first kind at once as a process runs at most.
"""

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import IO, Any
from uuid import uuid4

import anyio
from anthropic import AsyncAnthropic, Omit, omit
from anthropic.types import MessageParam, ToolParam, ToolResultBlockParam
from mcp import Client, StdioServerParameters
from pydantic import SecretStr

sys.path.insert(0, str(Path(__file__).parents[1]))  # so that a benchmark runs as a file, from anywhere
from benchmarks.harness import (
    Check,
    Comparison,
    Report,
    Series,
    Times,
    add_output_arguments,
    flush_ms,
    measure_rounds,
    publish,
)
from benchmarks.instant_claude import opening

from budget_server.services import Services
from budget_server.settings import Settings
from budget_tools.delegation.records import Task
from budget_tools.delegation.runner import MAX_RUNNING

MODEL = "claude-sonnet-5-5"
MAX_OUTPUT_TOKENS = 4_096
DELTAS = 100
"""How many pieces of text every answer has."""

TOOL_CALLS, CROWD_TOOL_CALLS = 20, 5
"""How many turns ask for a tool, before one that does not."""

SERVER_NAME, TOOL = "bare", "do_nothing"
_TOOL_SERVER = Path(__file__).with_name("bare_server.py")
_ENDPOINT = Path(__file__).with_name("instant_claude.py")
_BARE_KEY, _BUDGETED_KEY = "bare", "budgeted"
_PATIENCE_SECONDS = 120

CAVEATS = (
    "The ratio is the median over rounds of ours to the baseline, both measured within the same round; absolute times "
    "are this machine's. All are wall times of one turn: of conversations of {turns} turns, of single ones, and of "
    f"{MAX_RUNNING} at once, where the time of all is shared out among all their turns. Each answer has {DELTAS} "
    "deltas and comes without the seconds that a model takes: against those, what is added is little. A delegation "
    "begins by asking the endpoint to count its prompt, which the bare loop does not: in a single turn that shows "
    "whole. Every budgeted turn waits for the disk, as a reservation does."
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Effort:
    """How much is measured; the limits bound the whole run on a slow machine."""

    rounds: int
    singles: int
    """Conversations of a single turn in one round."""

    crowd_rounds: int
    limit_seconds: float
    """For the counted rounds of each of the three."""


FULL = Effort(rounds=30, singles=20, crowd_rounds=12, limit_seconds=30.0)
QUICK = Effort(rounds=6, singles=8, crowd_rounds=3, limit_seconds=4.0)


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


async def delegate(services: Services, tool_calls: int) -> None:
    """Hold the same conversation as a delegation; the one place that knows how one is started."""
    task = Task(
        task=opening(tool_calls),
        model=MODEL,
        max_turns=tool_calls + 2,  # one more than it takes, so that none of them is made the last
        max_output_tokens=MAX_OUTPUT_TOKENS,
        tools=(f"{SERVER_NAME}__{TOOL}",) if tool_calls else (),
        levels=services.subject.levels,
    )
    delegation = await services.delegations.start(task, uuid4().hex)
    while (outcome := delegation.outcome) is None:
        await delegation.next_change()
    sources = [turn.actual_source for turn in delegation.turns]
    if outcome.status != "completed" or sources != ["usage"] * (tool_calls + 1):
        raise RuntimeError(f"A delegation did not do its work, so its time means nothing: {outcome.hint}")


class Endpoint:
    """The process that answers both sides."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process
        self.base_url = f"http://127.0.0.1:{_pipe(process.stdout).readline().strip()}"
        self.seen: dict[str, Any] = {}

    @classmethod
    @contextmanager
    def started(cls) -> Iterator["Endpoint"]:
        """Start it, and ask it at the end what it has seen."""
        process = subprocess.Popen(
            [sys.executable, str(_ENDPOINT), str(DELTAS)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        try:
            endpoint = cls(process)
            yield endpoint
            endpoint.seen = json.loads(process.communicate()[0])
        finally:
            process.kill()
            process.communicate()

    def checks(self) -> tuple[Check, ...]:
        """Say whether both sides held the same conversations."""
        bare, budgeted = (self.seen["lengths"].get(key) for key in (_BARE_KEY, _BUDGETED_KEY))
        what = "both sides sent as many requests of each length of a conversation"
        return (Check(what=what, holds=bare == budgeted, found=f"{bare} and {budgeted}"),)

    def sizes(self) -> str:
        """Say how long the requests of both sides were."""
        means = [
            f"{self.seen['bytes'][key] // sum(count for _, count in self.seen['lengths'][key]):,} bytes {key}"
            for key in (_BARE_KEY, _BUDGETED_KEY)
        ]
        return f"{', '.join(means)} on average"


def _pipe(pipe: IO[str] | None) -> IO[str]:
    if pipe is None:
        raise RuntimeError("The endpoint was started without pipes.")
    return pipe


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
    baseline: str
    tool_calls: int
    times: int = 1
    at_once: int = 1
    rounds: int

    @property
    def turns(self) -> int:
        """Turns of all its conversations that are measured together."""
        return self.at_once * (self.tool_calls + 1)

    async def seconds_a_turn(self, converse: Callable[[int], Coroutine[Any, Any, None]]) -> list[float]:
        """Converse, and give the time of a turn, each time anew."""
        taken: list[float] = []
        for _ in range(self.times):
            begun = time.perf_counter()
            with anyio.fail_after(_PATIENCE_SECONDS):
                await asyncio.gather(*(converse(self.tool_calls) for _ in range(self.at_once)))
            taken.append((time.perf_counter() - begun) / self.turns)
        return taken


def manners(effort: Effort) -> tuple[Manner, ...]:
    """Give the ways of conversing, in the order of their rows."""
    return (
        Manner(
            work="turn with a tool call",
            baseline="bare turn with a tool call",
            tool_calls=TOOL_CALLS,
            rounds=effort.rounds,
        ),
        Manner(
            work="single turn",
            baseline="bare single turn",
            tool_calls=0,
            times=effort.singles,
            rounds=effort.rounds,
        ),
        Manner(
            work=f"turn, {MAX_RUNNING} delegations at once",
            baseline=f"bare turn, {MAX_RUNNING} loops at once",
            tool_calls=CROWD_TOOL_CALLS,
            at_once=MAX_RUNNING,
            rounds=effort.crowd_rounds,
        ),
    )


async def measure(directory: Path, endpoint: Endpoint, effort: Effort) -> tuple[Comparison, ...]:
    """Measure everything and lay it side by side."""
    async with open_bare(endpoint.base_url) as loop, open_services(endpoint.base_url, directory) as services:
        return tuple([await _compare(loop, services, manner, effort) for manner in manners(effort)])


async def _compare(loop: BareLoop, services: Services, manner: Manner, effort: Effort) -> Comparison:
    async def bare() -> Times:
        return {manner.baseline: await manner.seconds_a_turn(loop.converse)}

    async def budgeted() -> Times:
        return {manner.work: await manner.seconds_a_turn(lambda tool_calls: delegate(services, tool_calls))}

    series = await measure_rounds(
        (bare, budgeted), rounds=manner.rounds, warm_up_rounds=2, limit_seconds=effort.limit_seconds
    )
    return Comparison(work=manner.work, ours=series[manner.work], baseline=series[manner.baseline])


def _added(comparisons: Sequence[Comparison]) -> str:
    """Say how much longer a turn of ours took, at the medians."""

    def median(series: Series) -> float:
        return series.percentile_ms(50)

    return ", ".join(f"{median(each.ours) - median(each.baseline):.2f} ms ({each.work})" for each in comparisons)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the benchmark; the exit code says that both sides did the same, never how fast."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a rough figure in less than 30 s; else less than 120 s")
    parser.add_argument(
        "--directory", type=Path, metavar="DIR", help="where the temporary ledger is made (default: the system's)"
    )
    add_output_arguments(parser)
    arguments = parser.parse_args(argv)
    with (
        tempfile.TemporaryDirectory(prefix="cycles-budget-bench-", dir=arguments.directory) as made,
        Endpoint.started() as endpoint,
    ):
        directory = Path(made)
        flush = flush_ms(directory)
        comparisons = anyio.run(measure, directory, endpoint, QUICK if arguments.quick else FULL)
    quick = " --quick" if arguments.quick else ""
    report = Report(
        title="Delegations, beside the bare SDK's loop",
        command=f"python benchmarks/delegation.py{quick} --markdown docs/benchmarks.md",
        comparisons=comparisons,
        facts={
            "one disk flush": f"{flush:.2f} ms (4 KiB appended and fsynced beside the ledger)",
            "clients": ", ".join(f"{name} {version(name)}" for name in ("anthropic", "runcycles")),
            "added to a turn": _added(comparisons),
            "requests": endpoint.sizes(),
        },
        caveats=CAVEATS.format(turns=TOOL_CALLS + 1),
        checks=endpoint.checks(),
    )
    publish(report, arguments)


if __name__ == "__main__":
    main()
