"""Calls over stdio, beside a tool of the bare SDK that does nothing.

Ours keeps its embedded ledger and is as durable as anywhere: every reservation is flushed to the disk before it is
answered. What that costs whoever writes as much is shown by a bare tool with one bare transaction (``bare_ledger.py``).
"""

from benchmarks.bare_ledger import make_bare_ledger
from benchmarks.harness import CAVEATS, Comparison, Growth, Report, Run, Series, Times, measure_rounds, run
from benchmarks.hosting import (
    LEDGER_TOOL,
    NO_OP_TOOL,
    bare_server,
    call_tool,
    commit,
    do_nothing,
    our_server,
    reserve,
)
from mcp import Client

BLOCKS, QUICK_BLOCKS, CALLS = 40, 8, 50
_PROMPT: dict[str, object] = {"model": "claude-sonnet-5-5", "input_tokens": 1_000}


async def measure(given: Run) -> Report:
    """Call the servers in alternating blocks, then ours for ever longer."""
    bare_ledger = given.directory / "bare.db"
    await make_bare_ledger(bare_ledger)
    async with (
        Client(bare_server()) as bare_client,
        Client(bare_server("ledger", str(bare_ledger))) as ledger_client,
        Client(our_server(given.directory / "data")) as client,
    ):

        async def bare() -> Times:
            return {NO_OP_TOOL: [(await do_nothing(bare_client)).seconds for _ in range(CALLS)]}

        async def with_ledger() -> Times:
            return {LEDGER_TOOL: [(await do_nothing(ledger_client)).seconds for _ in range(CALLS)]}

        async def ours() -> Times:
            reserves = [await reserve(client) for _ in range(CALLS)]
            commits = [await commit(client, each) for each in reserves]
            estimates = [await call_tool(client, "estimate_cost", _PROMPT) for _ in range(CALLS)]
            made = {"reserve_budget": reserves, "commit_usage": commits, "estimate_cost": estimates}
            return {work: [each.seconds for each in calls] for work, calls in made.items()}

        series = await measure_rounds(
            (bare, ours, with_ledger),
            rounds=QUICK_BLOCKS if given.is_quick else BLOCKS,
            warm_up_rounds=2,
            limit_seconds=40,
        )
        in_a_row = {size: await _in_a_row(client, size) for size in given.sizes(20)}
    targets = {"reserve_budget": 1.25, "commit_usage": None, "estimate_cost": None}
    return Report(
        title="Calls over stdio, beside a no-op tool of the bare SDK",
        comparisons=[
            *(
                Comparison(work=work, ours=series[work], baseline=series[NO_OP_TOOL], target_ratio=target)
                for work, target in targets.items()
            ),
            Comparison(work=LEDGER_TOOL, ours=series[LEDGER_TOOL], baseline=series[NO_OP_TOOL]),
            Comparison(work="reserve_budget", ours=series["reserve_budget"], baseline=series[LEDGER_TOOL]),
        ],
        growth=(Growth(work="reserve_budget", of="calls in a row", points=in_a_row),),
        facts={},
        caveats=f"{CAVEATS} On a disk with a slower flush than the one named above, calls take longer by the "
        "difference (`--directory` measures another disk).",
    )


async def _in_a_row(client: Client, count: int) -> Series:
    return Series(name="in a row", rounds=(tuple([(await reserve(client)).seconds for _ in range(count)]),))


if __name__ == "__main__":
    run("benchmarks.calls", measure, __doc__)
