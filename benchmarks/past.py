"""What a long past costs: a reserve and pages of the list, each beside the same in a ledger with a short past."""

from dataclasses import dataclass
from pathlib import Path

from anyio.lowlevel import checkpoint
from benchmarks.embedded import Call, body_of, intent, new_key, open_client, timed
from benchmarks.grown_ledger import ACTIVE_COUNT, grow
from benchmarks.harness import Comparison, Contender, Times, measure_rounds
from runcycles import AsyncCyclesClient

SHORT_PAST = 1_000
"""Settled reservations of the ledger that the other one is compared with."""

TARGET_RATIO = 1.3
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


async def measure_growth(directory: Path, settled: int) -> tuple[Comparison, ...]:
    """Measure every kind of call in turns, in a ledger with this many settled reservations and in one with few."""
    paths = [directory / "short-past.db", directory / "long-past.db"]
    cursors = [await grow(path, count) for path, count in zip(paths, (SHORT_PAST, settled), strict=True)]
    async with open_client(paths[0]) as short_client, open_client(paths[1]) as long_client:
        short = Grown(settled=SHORT_PAST, client=short_client, middle_cursor=cursors[0])
        long = Grown(settled=settled, client=long_client, middle_cursor=cursors[1])
        return (
            await _compare(short.reserve, long.reserve),
            await _compare(short.first_page, long.first_page),
            await _compare(short.middle_page, long.middle_page),
            await _compare(short.active_page, long.active_page),
        )


async def _compare(short: Contender, long: Contender) -> Comparison:
    series = await measure_rounds((short, long), rounds=ROUNDS, warm_up_rounds=1, limit_seconds=LIMIT_SECONDS)
    baseline, ours = series.values()
    return Comparison(work=ours.name, ours=ours, baseline=baseline, target_ratio=TARGET_RATIO)
