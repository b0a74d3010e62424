"""Start and calls over stdio, beside a one-tool server of the bare SDK.

Both servers are real processes that the SDK's own client starts and talks to, as a host does. Ours keeps its embedded
ledger in a temporary directory and is as durable there as anywhere. Measured are

- start to ready: from spawning the process until its first answer (``server/discover``);
- ``reserve_budget``, each call a reservation of its own, and the ``commit_usage`` that settles it, against a tool that
  does nothing.
"""

import argparse
import sys
import tempfile
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import anyio
from mcp import Client, StdioServerParameters
from mcp.types import CallToolResult

sys.path.insert(0, str(Path(__file__).parents[1]))  # so that a benchmark runs as a file, from anywhere
from benchmarks.harness import (
    Comparison,
    Report,
    Series,
    Times,
    add_output_arguments,
    flush_ms,
    measure_rounds,
    publish,
)

START = "start to ready"
BARE_SERVER = "bare one-tool server"
NO_OP_TOOL = "bare no-op tool"

CAVEATS = (
    "The ratio is the median over rounds of ours to the baseline, both measured within the same round; absolute times "
    "are this machine's. A reservation is flushed to the disk before it is answered, so on a disk with a slower flush "
    "than the one named above the calls take longer by the difference (`--directory` measures another disk)."
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Effort:
    """How much is measured; the limits bound the whole run on a slow machine."""

    starts: int
    starts_limit_seconds: float
    blocks: int
    calls_per_block: int
    blocks_limit_seconds: float


FULL = Effort(starts=21, starts_limit_seconds=40.0, blocks=40, calls_per_block=50, blocks_limit_seconds=25.0)
QUICK = Effort(starts=2, starts_limit_seconds=6.0, blocks=8, calls_per_block=25, blocks_limit_seconds=4.0)


def bare_server() -> StdioServerParameters:
    """Say how the bare server is started."""
    return StdioServerParameters(command=sys.executable, args=[str(Path(__file__).with_name("bare_server.py"))])


def our_server(directory: Path) -> StdioServerParameters:
    """Say how ours is started, with a ledger in ``directory`` and nothing else set."""
    environment = {"BUDGET_DATA_DIR": str(directory), "BUDGET_USD": "1000000"}
    return StdioServerParameters(command=sys.executable, args=["-m", "budget_server"], env=environment)


async def measure_starts(directory: Path, effort: Effort) -> dict[str, Series]:
    """Measure both servers' starts, pair by pair."""

    async def bare() -> Times:
        return {BARE_SERVER: [await _start_seconds(bare_server())]}

    async def ours() -> Times:
        return {START: [await _start_seconds(our_server(directory))]}

    return await measure_rounds(
        (bare, ours), rounds=effort.starts, warm_up_rounds=0, limit_seconds=effort.starts_limit_seconds
    )


async def _start_seconds(parameters: StdioServerParameters) -> float:
    begun = time.perf_counter()
    async with Client(parameters):
        return time.perf_counter() - begun


async def measure_calls(directory: Path, effort: Effort) -> dict[str, Series]:
    """Measure calls in alternating blocks, with both servers alive."""
    async with Client(bare_server()) as bare_client, Client(our_server(directory)) as our_client:

        async def bare() -> Times:
            return {NO_OP_TOOL: [await _no_op_seconds(bare_client) for _ in range(effort.calls_per_block)]}

        async def ours() -> Times:
            held: deque[str] = deque()
            reserves = [await _reserve_seconds(our_client, held) for _ in range(effort.calls_per_block)]
            # All are settled at once, so that no call meets reservations of earlier blocks that have expired.
            commits = [await _commit_seconds(our_client, held) for _ in range(effort.calls_per_block)]
            estimates = [await _estimate_seconds(our_client) for _ in range(effort.calls_per_block)]
            return {"reserve_budget": reserves, "commit_usage": commits, "estimate_cost": estimates}

        return await measure_rounds(
            (bare, ours), rounds=effort.blocks, warm_up_rounds=2, limit_seconds=effort.blocks_limit_seconds
        )


async def _no_op_seconds(client: Client) -> float:
    begun = time.perf_counter()
    result = await client.call_tool("do_nothing", {})
    taken = time.perf_counter() - begun
    _content(result, is_done=True)
    return taken


async def _estimate_seconds(client: Client) -> float:
    begun = time.perf_counter()
    result = await client.call_tool("estimate_cost", {"model": "claude-sonnet-5-5", "input_tokens": 1_000})
    taken = time.perf_counter() - begun
    _content(result)
    return taken


async def _reserve_seconds(client: Client, held: deque[str]) -> float:
    begun = time.perf_counter()
    result = await client.call_tool("reserve_budget", {"usd": "0.05"})
    taken = time.perf_counter() - begun
    held.append(str(_content(result, decision="ALLOW")["reservation_id"]))
    return taken


async def _commit_seconds(client: Client, held: deque[str]) -> float:
    arguments = {"reservation_id": held.popleft(), "usd": "0.03"}
    begun = time.perf_counter()
    result = await client.call_tool("commit_usage", arguments)
    taken = time.perf_counter() - begun
    _content(result, status="COMMITTED")
    return taken


def _content(result: CallToolResult, **expected: object) -> dict[str, object]:
    """Give a result's content, and refuse to time failures: they are often the fastest answers."""
    content = result.structured_content
    if result.is_error or not isinstance(content, dict) or not expected.items() <= content.items():
        raise RuntimeError(f"A call did not do its work, so its time means nothing: {result}")
    return content


async def measure(directory: Path, effort: Effort) -> tuple[Comparison, ...]:
    """Measure everything and lay it side by side."""
    # The calls come first: they leave behind what every later start finds, byte code and a ledger.
    calls = await measure_calls(directory, effort)
    starts = await measure_starts(directory, effort)
    no_op = calls[NO_OP_TOOL]
    return (
        Comparison(work=START, ours=starts[START], baseline=starts[BARE_SERVER], target_ratio=1.25),
        Comparison(work="reserve_budget", ours=calls["reserve_budget"], baseline=no_op, target_ratio=1.5),
        Comparison(work="commit_usage", ours=calls["commit_usage"], baseline=no_op),
        Comparison(work="estimate_cost", ours=calls["estimate_cost"], baseline=no_op),
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Run the benchmark; the exit code says that it ran, never how fast."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a rough figure in less than 20 s; else less than 90 s")
    parser.add_argument(
        "--directory", type=Path, metavar="DIR", help="where the temporary ledger is made (default: the system's)"
    )
    add_output_arguments(parser)
    arguments = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="cycles-budget-bench-", dir=arguments.directory) as made:
        directory = Path(made)
        flush = flush_ms(directory)
        comparisons = anyio.run(measure, directory, QUICK if arguments.quick else FULL)
    quick = " --quick" if arguments.quick else ""
    report = Report(
        title="Over stdio, beside a one-tool server of the bare SDK",
        command=f"python benchmarks/stdio.py{quick} --markdown docs/benchmarks.md",
        comparisons=comparisons,
        facts={"one disk flush": f"{flush:.2f} ms (4 KiB appended and fsynced beside the ledger)"},
        caveats=CAVEATS,
    )
    publish(report, arguments)


if __name__ == "__main__":
    main()
