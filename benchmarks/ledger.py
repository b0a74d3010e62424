"""The embedded ledger: beside a bare transaction, with a long past, and under many processes.

Every file is in a temporary directory and as durable there as anywhere. Measured are

- a reserve through the client, on two budgets, against one bare transaction that writes the same
  (``bare_ledger.py``); and for how long it keeps the event loop to itself;
- the same reserve, and pages of the list, in a ledger with a long past against one with a short past;
- processes that all reserve from one budget, which has half of what they try for, against as many that run bare
  transactions and leave the waiting to SQLite.
"""

import argparse
import asyncio
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import anyio
from anyio.lowlevel import checkpoint
from runcycles import AsyncCyclesClient

sys.path.insert(0, str(Path(__file__).parents[1]))  # so that a benchmark runs as a file, from anywhere
from benchmarks.bare_ledger import BareLedger, make_bare_ledger
from benchmarks.contention import measure_contention
from benchmarks.embedded import Call, body_of, intent, new_key, open_client, provision, timed
from benchmarks.growth import measure_growth
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

from budget_tools.ids import time_ordered_id

ROUNDS, CALLS, LIMIT_SECONDS = 40, 50, 20.0
"""How often every manner of reserving is measured, how many calls at a time, and for how long at most."""

CROWD = 10
BARE = "bare transaction"

CAVEATS = (
    "The ratio is the median over rounds of ours to the baseline, both measured within the same round; absolute times "
    "are this machine's. Most of a bare transaction is the flush named above: on a disk with a slower flush, ratios to "
    "it come nearer to 1. A call holds the event loop while it runs from one wait to its next; shown is the longest "
    "hold of each call, which should be no longer than one transaction. Reserves at once, and tries of many processes, "
    "are shown as the time of all over their number; one half of the tries is granted, and flushed, one half denied."
)


async def measure_beside_bare(directory: Path) -> tuple[Comparison, ...]:
    """Measure a reserve beside a bare transaction: awaited in a row, a loop turn each, and ten at once."""
    await make_bare_ledger(directory / "bare.db")
    provision(directory / "ours.db")
    bare_ledger = BareLedger(directory / "bare.db")
    async with open_client(directory / "ours.db") as client:

        async def bare() -> Times:
            return {BARE: [_bare_seconds(bare_ledger) for _ in range(CALLS)]}

        async def in_a_row() -> Times:
            return _times("in a row", [await _reserve(client) for _ in range(CALLS)])

        async def a_turn_each() -> Times:
            calls: list[Call] = []
            for _ in range(CALLS):
                await checkpoint()  # as between two messages of a host
                calls.append(await _reserve(client))
            return _times("a loop turn each", calls)

        async def at_once() -> Times:
            calls: list[Call] = []
            begun = time.perf_counter()
            for _ in range(CALLS // CROWD):
                calls += await asyncio.gather(*(_reserve(client) for _ in range(CROWD)))
            seconds_each = (time.perf_counter() - begun) / len(calls)
            return {**_times("ten at once", calls), "reserve, ten at once": [seconds_each]}

        series = await measure_rounds(
            (bare, in_a_row, a_turn_each, at_once), rounds=ROUNDS, warm_up_rounds=2, limit_seconds=LIMIT_SECONDS
        )
    bare_ledger.close()
    return (
        _compare(series, "reserve, in a row", 2.0),
        _compare(series, "reserve, a loop turn each", 2.0),
        _compare(series, "reserve, ten at once", None),
        _compare(series, "loop held, in a row", 2.0),
        _compare(series, "loop held, a loop turn each", 2.0),
        _compare(series, "loop held, ten at once", 2.0),
    )


def _longest(comparisons: Sequence[Comparison]) -> str:
    """Say for how long the loop was held at worst, beside the longest bare transaction."""
    holds = [each.ours for each in comparisons if each.work.startswith("loop held")]
    parts = [f"{hold.percentile_ms(100):.1f} ms ({hold.name.partition(', ')[2]})" for hold in holds]
    return f"{', '.join(parts)}; longest {BARE} {comparisons[0].baseline.percentile_ms(100):.1f} ms"


def _bare_seconds(ledger: BareLedger) -> float:
    reservation_id, key = time_ordered_id(), new_key()
    begun = time.perf_counter()
    is_granted = ledger.reserve(reservation_id, key)
    seconds = time.perf_counter() - begun
    if not is_granted:
        raise RuntimeError("A bare transaction found no budget, so its time means nothing.")
    return seconds


async def _reserve(client: AsyncCyclesClient) -> Call:
    call = await timed(client.create_reservation(intent(new_key())))
    body_of(call.response)
    return call


def _times(manner: str, calls: Sequence[Call]) -> Times:
    return {
        f"reserve, {manner}": [call.seconds for call in calls],
        f"loop held, {manner}": [call.held_seconds for call in calls],
    }


def _compare(series: dict[str, Series], work: str, target_ratio: float | None) -> Comparison:
    return Comparison(work=work, ours=series[work], baseline=series[BARE], target_ratio=target_ratio)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the benchmark; the exit code says that the ledger was right, never how fast."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--full", action="store_true", help="ten times the past and the tries: minutes, and 1.5 GB of disk"
    )
    parser.add_argument("--settled", type=int, metavar="N", help="reservations of the long past")
    parser.add_argument("--tries", type=int, metavar="N", help="reservations that all processes together try for")
    parser.add_argument(
        "--directory", type=Path, metavar="DIR", help="where the temporary ledgers are made (default: the system's)"
    )
    add_output_arguments(parser)
    arguments = parser.parse_args(argv)
    settled = arguments.settled or (1_000_000 if arguments.full else 100_000)
    tries = arguments.tries or (100_000 if arguments.full else 10_000)
    with tempfile.TemporaryDirectory(prefix="cycles-budget-bench-", dir=arguments.directory) as made:
        directory = Path(made)
        flush = flush_ms(directory)
        beside_bare = anyio.run(measure_beside_bare, directory)
        growth = anyio.run(measure_growth, directory, settled)
        contention = anyio.run(measure_contention, directory, tries)
    options = "".join(
        f" --{name}" + ("" if value is True else f" {value}")
        for name, value in (("full", arguments.full), ("settled", arguments.settled), ("tries", arguments.tries))
        if value
    )
    report = Report(
        title="The embedded ledger",
        command=f"python benchmarks/ledger.py{options} --markdown docs/benchmarks.md",
        comparisons=(*beside_bare, *growth, contention.comparison),
        facts={
            "one disk flush": f"{flush:.2f} ms (4 KiB appended and fsynced beside the ledger)",
            "longest hold": _longest(beside_bare),
            **contention.facts,
        },
        caveats=CAVEATS,
        checks=contention.checks,
    )
    publish(report, arguments)


if __name__ == "__main__":
    main()
