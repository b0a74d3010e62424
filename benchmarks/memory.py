"""Resident memory of an idle server, beside a one-tool server of the bare SDK; and of ours after ever more calls."""

import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from anyio import to_thread
from benchmarks.harness import MIB, Comparison, Growth, Report, Run, Series, Times, measure_rounds, run
from benchmarks.hosting import bare_server, our_server, reserve
from mcp import Client, StdioServerParameters

OURS, BARE = "idle server", "idle one-tool server"
ROUNDS, QUICK_ROUNDS = 9, 3
KIB = 1_024


async def measure(given: Run) -> Report:
    """Start both servers in turns, then call ours ever more often."""
    pid_file = given.directory / "pid"

    async def bare() -> Times:
        async with _started(bare_server(), pid_file) as (_, pid):
            return {BARE: [await _resident_bytes(pid)]}

    async def ours() -> Times:
        async with _started(our_server(given.directory / "data"), pid_file) as (_, pid):
            return {OURS: [await _resident_bytes(pid)]}

    series = await measure_rounds(
        (bare, ours), rounds=QUICK_ROUNDS if given.is_quick else ROUNDS, warm_up_rounds=1, limit_seconds=60
    )
    points: dict[int, Series] = {}
    async with _started(our_server(given.directory / "data"), pid_file) as (client, pid):
        made = 0
        for size in given.sizes(100):
            while made < size:
                await reserve(client)
                made += 1
            points[size] = Series(name=OURS, rounds=((await _resident_bytes(pid),),))
    return Report(
        title="Memory, beside a one-tool server of the bare SDK",
        comparisons=(Comparison(work=OURS, ours=series[OURS], baseline=series[BARE], target_ratio=1.25, unit=MIB),),
        growth=(Growth(work="our server", of="calls of reserve_budget", points=points, unit=MIB),),
        facts={},
        caveats="Resident sets as `ps` shows them, after the tools were listed once.",
    )


@asynccontextmanager
async def _started(parameters: StdioServerParameters, pid_file: Path) -> AsyncIterator[tuple[Client, int]]:
    """Start a server, let it answer, and say which process it is."""
    script = f'echo $$ > "{pid_file}"; exec "$0" "$@"'
    arguments = ["-c", script, parameters.command, *parameters.args]
    async with Client(StdioServerParameters(command="sh", args=arguments, env=parameters.env)) as client:
        await client.list_tools()
        yield client, int(await to_thread.run_sync(pid_file.read_text))


async def _resident_bytes(pid: int) -> float:
    def ask() -> float:
        command = ["ps", "-o", "rss=", "-p", str(pid)]
        return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout) * KIB

    return await to_thread.run_sync(ask)


if __name__ == "__main__":
    run("benchmarks.memory", measure, __doc__)
