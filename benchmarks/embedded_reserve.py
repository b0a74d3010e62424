"""A reserve in the embedded ledger, called or awaited, beside one bare transaction that writes the same.

The bare transaction (``bare_ledger.py``) has the ledger's tables, indexes, durability and bytes, and nothing around
them: it checks no request, sweeps no lease, keeps no clock, gives no answer, and takes no turns with other processes.
Called, a reserve is one operation of the ledger's file, request included; so are those that are called as one group,
which is the least that many at once can come to. Awaited, it goes through the client that the tools use: one at a time,
and many at once, where many share one flush.
"""

import asyncio
import time
from collections.abc import Callable

from anyio.lowlevel import checkpoint
from benchmarks.bare_ledger import BareLedger, make_bare_ledger
from benchmarks.embedded import TENANT, Call, body_of, intent, new_key, open_client, provision, timed
from benchmarks.harness import CAVEATS, Comparison, Growth, Report, Run, Series, Times, measure_rounds, run
from runcycles import AsyncCyclesClient

from budget_server.authority.ledger import Ledger
from budget_server.authority.replay import Answer
from budget_server.authority.requests import ReserveRequest, parse
from budget_server.authority.store import LedgerStore
from budget_server.database.writer import MAX_GROUP
from budget_tools.core.ids import time_ordered_id

ROUNDS, QUICK_ROUNDS, CALLS = 60, 10, 50
BARE = "bare transaction"
CALLED, AWAITED, HELD = "reserve, called", "reserve, awaited", "loop held by one awaited"
GROUPED = f"reserve, {MAX_GROUP} called as one group"
CROWDS = {16: 0.5, 100: 1 / 3}
"""Targets of what one takes where so many are at once: half and a third of a bare transaction, twice and three times
its rate."""


async def measure(given: Run) -> Report:
    """Measure all manners in turns, then ever more calls in a row."""
    directory = given.directory
    await make_bare_ledger(directory / "bare.db")
    for name in ("called", "grouped", "awaited"):
        provision(directory / f"{name}.db")
    bare_ledger, store = BareLedger(directory / "bare.db"), LedgerStore(directory / "called.db")
    grouped_store = LedgerStore(directory / "grouped.db")
    async with open_client(directory / "awaited.db") as client:

        async def bare() -> Times:
            return {BARE: [bare_seconds(bare_ledger) for _ in range(CALLS)]}

        async def called() -> Times:
            return {CALLED: [called_seconds(store) for _ in range(CALLS)]}

        async def grouped() -> Times:
            return {GROUPED: [grouped_seconds(grouped_store)]}

        async def awaited() -> Times:
            calls: list[Call] = []
            for _ in range(CALLS):
                await checkpoint()  # as between two messages of a host
                calls.append(await _reserve(client))
            return {AWAITED: [each.seconds for each in calls], HELD: [each.held_seconds for each in calls]}

        async def crowds() -> Times:
            return {_crowd(size): [await _seconds_each(client, size)] for size in CROWDS}

        series = await measure_rounds(
            (bare, called, grouped, awaited, crowds),
            rounds=QUICK_ROUNDS if given.is_quick else ROUNDS,
            warm_up_rounds=2,
            limit_seconds=60,
        )
    bare_ledger.close()
    grouped_store.close()
    in_a_row = {
        size: Series(name="in a row", rounds=(tuple(called_seconds(store) for _ in range(size)),))
        for size in given.sizes(100)
    }
    store.close()
    crowds_targets = {_crowd(size): target for size, target in CROWDS.items()}
    targets = {CALLED: 1.3, AWAITED: 3.0, HELD: 3.0, **crowds_targets, GROUPED: None}
    return Report(
        title="A reserve in the embedded ledger, beside a bare transaction",
        comparisons=[
            Comparison(work=work, ours=series[work], baseline=series[BARE], target_ratio=target)
            for work, target in targets.items()
        ],
        growth=(Growth(work=CALLED, of="calls in a row", points=in_a_row),),
        facts={},
        caveats=f"{CAVEATS} Most of a bare transaction is the flush named above: on a disk with a slower flush, ratios "
        "to it come nearer to 1. Reserves at once are shown as the time of all over their number. A call holds the "
        "event loop while it runs from one wait to its next; shown is the longest hold of each call.",
    )


def bare_seconds(ledger: BareLedger) -> float:
    """Reserve by a bare transaction."""
    reservation_id, key = time_ordered_id(), new_key()
    begun = time.perf_counter()
    is_granted = ledger.reserve(reservation_id, key)
    seconds = time.perf_counter() - begun
    if not is_granted:
        raise RuntimeError("A bare transaction found no budget, so its time means nothing.")
    return seconds


def called_seconds(store: LedgerStore) -> float:
    """Reserve by one operation of the ledger's file; it raises where it is refused."""
    body = intent(new_key())
    begun = time.perf_counter()
    request = parse(ReserveRequest, body)
    store.run(lambda ledger: ledger.reserve(TENANT, request))
    return time.perf_counter() - begun


def grouped_seconds(store: LedgerStore) -> float:
    """Reserve by so many operations of one transaction, and give the time of one."""
    bodies = [intent(new_key()) for _ in range(MAX_GROUP)]
    begun = time.perf_counter()
    outcomes = store.transact([_reserving(parse(ReserveRequest, body)) for body in bodies])
    seconds = time.perf_counter() - begun
    for outcome in outcomes:
        if isinstance(outcome, Exception):
            raise outcome
    return seconds / MAX_GROUP


def _reserving(request: ReserveRequest) -> Callable[[Ledger], Answer]:
    return lambda ledger: ledger.reserve(TENANT, request)


async def _seconds_each(client: AsyncCyclesClient, size: int) -> float:
    begun = time.perf_counter()
    await asyncio.gather(*(_reserve(client) for _ in range(size)))
    return (time.perf_counter() - begun) / size


async def _reserve(client: AsyncCyclesClient) -> Call:
    call = await timed(client.create_reservation(intent(new_key())))
    body_of(call.response)
    return call


def _crowd(size: int) -> str:
    return f"reserve, {size} at once"


if __name__ == "__main__":
    run("benchmarks.embedded_reserve", measure, __doc__)
