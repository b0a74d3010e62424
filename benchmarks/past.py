"""What a long past costs: a reserve and pages of the list, each beside the same in a ledger with a short past."""

from contextlib import AsyncExitStack
from dataclasses import dataclass

from anyio.lowlevel import checkpoint
from benchmarks.embedded import Call, body_of, intent, new_key, open_client, timed
from benchmarks.grown_ledger import ACTIVE_COUNT, grow
from benchmarks.harness import Comparison, Contender, Growth, Report, Run, Times, measure_rounds, run
from runcycles import AsyncCyclesClient

SHORT_PAST = 1_000
"""Settled reservations of the ledger that the other one is compared with."""

LONG_PAST, QUICK_PAST = 1_000_000, 100_000
TARGET_RATIO = 1.2
"""Of a reserve; the list has none."""

PAGE_SIZE = 50
RESERVES, PAGES = 25, 3
"""Calls of a round."""

ROUNDS, LIMIT_SECONDS = 20, 10.0
"""Rounds of each kind of call, and for how long at most."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Grown:
    """An open ledger with a past."""

    settled: int
    client: AsyncCyclesClient
    middle_cursor: str

    def named(self, work: str) -> str:
        """Say what was done where."""
        return f"{work}, {self.settled:,} settled"

    async def reserve(self) -> Times:
        """Reserve in loop turns of their own, and release again what then is held."""
        calls: list[Call] = []
        for _ in range(RESERVES):
            await checkpoint()
            calls.append(await timed(self.client.create_reservation(intent(new_key()))))
        for call in calls:
            reservation_id = body_of(call.response)["reservation_id"]
            body_of(await self.client.release_reservation(reservation_id, {"idempotency_key": new_key()}))
        return {self.named("reserve"): [call.seconds for call in calls]}

    async def first_page(self) -> Times:
        """List what is newest."""
        return await self._pages("first page", PAGE_SIZE)

    async def middle_page(self) -> Times:
        """List from a cursor in the middle on."""
        return await self._pages("page in the middle", PAGE_SIZE, cursor=self.middle_cursor)

    async def active_page(self) -> Times:
        """List the few that are still held."""
        return await self._pages("page of the ACTIVE", ACTIVE_COUNT, status="ACTIVE")

    async def _pages(self, work: str, expected_count: int, **query: str) -> Times:
        seconds: list[float] = []
        for _ in range(PAGES):
            await checkpoint()
            call = await timed(self.client.list_reservations(**query))
            if len(body_of(call.response)["reservations"]) != expected_count:
                raise RuntimeError(f"A page has not {expected_count} rows, so its time means nothing: {query}")
            seconds.append(call.seconds)
        return {self.named(work): seconds}


async def measure(given: Run) -> Report:
    """Measure every kind of call in turns, in a ledger with many settled reservations and in one with few."""
    settled = QUICK_PAST if given.is_quick else LONG_PAST
    pasts = {SHORT_PAST, settled // 100, settled // 10, settled}
    async with AsyncExitStack() as stack:
        grown: dict[int, Grown] = {}
        for count in sorted(pasts):
            path = given.directory / f"{count}.db"
            cursor = await grow(path, count)
            client = await stack.enter_async_context(open_client(path))
            grown[count] = Grown(settled=count, client=client, middle_cursor=cursor)
        short, long = grown[SHORT_PAST], grown[settled]
        comparisons = (
            await _compare(short.reserve, long.reserve, TARGET_RATIO),
            await _compare(short.first_page, long.first_page),
            await _compare(short.middle_page, long.middle_page),
            await _compare(short.active_page, long.active_page),
        )
        reserves = await measure_rounds([each.reserve for each in grown.values()], rounds=ROUNDS, warm_up_rounds=1)
    points = {count: reserves[grown[count].named("reserve")] for count in (settled // 100, settled // 10, settled)}
    return Report(
        title="A ledger with a long past",
        comparisons=comparisons,
        growth=(Growth(work="a reserve", of="settled reservations", points=points),),
        facts={},
    )


async def _compare(short: Contender, long: Contender, target_ratio: float | None = None) -> Comparison:
    series = await measure_rounds((short, long), rounds=ROUNDS, warm_up_rounds=1, limit_seconds=LIMIT_SECONDS)
    baseline, ours = series.values()
    return Comparison(work=ours.name, ours=ours, baseline=baseline, target_ratio=target_ratio)


if __name__ == "__main__":
    run("benchmarks.past", measure, __doc__)
