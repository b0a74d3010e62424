"""A host that lists, releases, commits and extends everything it can see, all the while: the money still adds up.

The endpoint counts what it billed by itself, and the script the calls of tools that have a price. On the embedded
ledger nothing of what the host tries takes effect; on a Cycles server all of it may, and everything is booked once
beside whatever the host had charged for itself.
"""

import random
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio
import pytest

from budget_server.demo.scripted_claude import ToolCall, Turn
from budget_server.maintenance.consistency import inspect
from tools.delegation.harness import Bench, OpenBench, structured
from tools.delegation.metering import MeteredClaude
from tools.delegation.test_priced_tools import priced
from tools.delegation.test_settled_elsewhere import Rival, rivalry

pytestmark = pytest.mark.anyio

DELEGATIONS = 3
PRICE = 30_000
SERVERS: dict[str, Any] = priced(ramble="0.0003")
SEEDS = range(4)


class Play:
    """A script at random: turns that look, buy, end, break off, or leave their cost unknown."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)  # noqa: S311 - a test repeats itself
        self.bought = 0
        self.unknown = 0

    def __call__(self, body: dict[str, Any], number: int) -> Turn:
        """Choose an answer."""
        text = "word " * self.random.randint(1, 200)
        choice = self.random.random()
        if not body.get("tools") or choice < 0.2 or number > 40:
            return Turn(text=text)
        calls = [ToolCall("shed__count")] * self.random.randint(0, 1)
        count = self.random.randint(0 if calls else 1, 2)
        if (body.get("tool_choice") or {}).get("type") != "none":
            self.bought += count
        return Turn(text=text, tool_calls=(*calls, *[ToolCall("shed__ramble", {"length": 5})] * count))


async def delegations(b: Bench, meanwhile: Callable[[], Awaitable[None]]) -> list[dict[str, Any]]:
    """Run delegations side by side, and something else until all of them have ended."""
    results: list[dict[str, Any]] = []

    async def one(number: int) -> None:
        results.append(
            await b.delegate(task=f"Task {number}.", tools=["shed__*"], max_turns=5, max_output_tokens=1_000)
        )

    async with anyio.create_task_group() as tasks:
        for number in range(DELEGATIONS):
            tasks.start_soon(one, number)
        while len(results) < DELEGATIONS:
            await meanwhile()
    return results


@pytest.mark.parametrize("seed", SEEDS)
async def test_a_hostile_host_changes_nothing_on_the_embedded_ledger(
    bench: OpenBench, tmp_path: Path, seed: int
) -> None:
    """The ledger equals the independent count, and every attempt was refused."""
    play = Play(seed)
    b = await bench(play, usd="50.00", servers=SERVERS, endpoint=MeteredClaude)
    succeeded: list[object] = []
    tried = 0

    async def meddle() -> None:
        nonlocal tried
        rows = structured(await b.call("list_reservations", status="ACTIVE"))["reservations"]
        for row in play.random.sample(rows, len(rows)):
            tool, arguments = play.random.choice(
                [
                    ("release_budget", {}),
                    ("commit_usage", {"usd": 0}),
                    ("commit_usage", {"usd": row["reserved"]["usd"]}),
                    ("commit_usage", {"usd": "40"}),
                    ("extend_reservation", {"seconds": 86_400}),
                ]
            )
            tried += 1
            result = await b.call(tool, reservation_id=row["reservation_id"], **arguments)
            if not result.is_error:
                succeeded.append((tool, row))

    results = await delegations(b, meddle)

    assert isinstance(b.claude, MeteredClaude)
    counted = b.claude.billed_microcents + play.bought * PRICE
    assert tried > 10
    assert succeeded == []
    assert (await b.balance())["spent"] == counted == sum(each["spent"]["amount"] for each in results)
    assert inspect(tmp_path / "data", None).findings == []


@pytest.mark.parametrize("seed", SEEDS)
async def test_whatever_a_hostile_host_settles_on_a_cycles_server_all_that_was_billed_is_booked_once(
    tmp_path: Path, seed: int
) -> None:
    """The books there hold what was billed, and beside it what the host had charged for itself."""
    play = Play(seed)
    foreign = 0

    async def meddle(rival: Rival) -> None:
        nonlocal foreign
        for row in await rival.listed():
            match play.random.randrange(9):
                case 0:
                    await rival.release(row)
                case 1:
                    amount = play.random.choice([0, 1_000, row["reserved"]["amount"]])
                    foreign += amount * (await rival.commit(row, amount) == 200)
                case 2:
                    await rival.extend(row)
                case 3:
                    await rival.book(row, f"commit-{row['idempotency_key']}")
                case 4:
                    key = f"commit-{row['idempotency_key']}"
                    foreign += 7 * (await rival.commit(row, 7, idempotency_key=key) == 200)
                case _:
                    pass

    async with rivalry(tmp_path, play, microcents=5_000_000_000, servers=SERVERS) as (b, claude, server, rival):
        results = await delegations(b, lambda: meddle(rival))
        counted = claude.billed_microcents
        charged = [call for each in results for turn in each["turns"] for call in turn["tool_calls"]]
        bought = sum(call.get("charged", {}).get("amount", 0) for call in charged)
        figures = server.figures()

    assert bought <= play.bought * PRICE, "a call whose reservation was taken away before it ran was not made"
    assert sum(each["spent"]["amount"] for each in results) == counted + bought
    assert figures.spent == counted + bought + foreign
