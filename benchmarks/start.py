"""Start to ready: from spawning the process until its first answer (``server/discover``)."""

from pathlib import Path
from time import perf_counter

from benchmarks.grown_ledger import grow
from benchmarks.harness import Comparison, Growth, Report, Run, Series, Times, measure_rounds, run
from benchmarks.hosting import bare_server, our_server
from mcp import Client, StdioServerParameters

from budget_server.config.paths import LEDGER_FILE

OURS, BARE = "start to ready", "bare one-tool server"
ROUNDS, QUICK_ROUNDS = 21, 3
GROWN_STARTS = 5


async def start_seconds(parameters: StdioServerParameters) -> float:
    """Start a server, and give the seconds until it answered."""
    begun = perf_counter()
    async with Client(parameters):
        return perf_counter() - begun


async def measure(given: Run) -> Report:
    """Start both servers in turns, then ours over ledgers with a past."""
    data = given.directory / "data"

    async def bare() -> Times:
        return {BARE: [await start_seconds(bare_server())]}

    async def ours() -> Times:
        return {OURS: [await start_seconds(our_server(data))]}

    rounds = QUICK_ROUNDS if given.is_quick else ROUNDS
    series = await measure_rounds((bare, ours), rounds=rounds, warm_up_rounds=1, limit_seconds=60)
    grown = {size: await _over_past(given.new_directory(f"past-{size}"), size) for size in given.sizes(100)}
    return Report(
        title="Start, beside a one-tool server of the bare SDK",
        comparisons=(Comparison(work=OURS, ours=series[OURS], baseline=series[BARE], target_ratio=1.10),),
        growth=(Growth(work="a start", of="reservations in the ledger", points=grown),),
        facts={},
    )


async def _over_past(directory: Path, settled: int) -> Series:
    await grow(directory / LEDGER_FILE, settled)
    taken = [await start_seconds(our_server(directory)) for _ in range(GROWN_STARTS)]
    return Series(name="start", rounds=(tuple(taken),))


if __name__ == "__main__":
    run("benchmarks.start", measure, __doc__)
