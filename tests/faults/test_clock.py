"""Wall clocks that are set, or stand still, while money is held: by people, by a network, by a machine that slept."""

from pathlib import Path

import anyio
import pytest

from budget_server.config.paths import LEDGER_FILE
from budget_server.demo.scripted_claude import Turn
from budget_server.maintenance.consistency import inspect
from faults.conftest import SetStage
from faults.stage import ALLOCATED, Kind, Stage, opened
from faults.test_table import check_books, held
from faults.wall_clock import WallClock

pytestmark = pytest.mark.anyio

HOUR_SECONDS = 3_600
DAY_SECONDS = 24 * HOUR_SECONDS
YEAR_SECONDS = 365 * DAY_SECONDS
SPENT = 1_000_000
"""A cent, in microcents."""

JUMPS = pytest.mark.parametrize(
    "ahead_seconds",
    [HOUR_SECONDS, -HOUR_SECONDS, 50 * YEAR_SECONDS, None],
    ids=["an hour ahead", "an hour back", "fifty years ahead", "frozen"],
)


@pytest.fixture
def clock(tmp_path: Path) -> WallClock:
    """A clock that is right so far."""
    return WallClock(tmp_path)


@JUMPS
@pytest.mark.parametrize("kind", ["embedded", "remote"])
async def test_a_clock_that_is_set_while_claude_answers_changes_no_charge(
    set_stage: SetStage, clock: WallClock, kind: Kind, ahead_seconds: float | None
) -> None:
    """Design: what was used is charged, once, and the rest goes back; also where the ledger took the lease for over."""
    never = anyio.Event()
    stage = await set_stage(kind, [Turn(text="Done.", hold=never)])
    host = stage.start(clock=clock.path)
    call = host.begin("delegate_to_claude", task="Do it.")
    await held(stage, 1)

    clock.jump(ahead_seconds)
    await host.call("check_budget")
    never.set()
    told = await host.answer(call)
    await stage.journal_is_empty()
    await host.leave()

    assert (told["status"], told["text"]) == ("completed", "Done.")
    assert [turn["actual_source"] for turn in told["turns"]] == ["usage"]
    await check_books(stage, told)
    assert is_sound(stage)


@JUMPS
async def test_a_clock_that_is_set_before_the_commit_changes_no_charge(
    set_stage: SetStage, clock: WallClock, ahead_seconds: float | None
) -> None:
    """What a host spent is charged, whether its reservation still lives or its time was taken for over."""
    stage = await set_stage("embedded", [])
    host = stage.start(clock=clock.path)
    reserved = await host.call("reserve_budget", usd="0.02")

    clock.jump(ahead_seconds)
    told = await host.call("commit_usage", reservation_id=reserved["reservation_id"], usd="0.01", idempotency_key="k")
    again = await host.call("commit_usage", reservation_id=reserved["reservation_id"], usd="0.01", idempotency_key="k")
    await host.leave()

    assert told["status"] == ("BOOKED" if ahead_seconds and ahead_seconds > 0 else "COMMITTED")
    assert again["charged"] == told["charged"]
    assert stage.balance() == {
        "allocated": ALLOCATED, "spent": SPENT, "reserved": 0, "remaining": ALLOCATED - SPENT,
    }  # fmt: skip
    assert is_sound(stage)


async def test_under_a_clock_that_was_set_back_nothing_is_held_for_longer_than_it_takes_to_catch_up(
    set_stage: SetStage, clock: WallClock
) -> None:
    """Ledger: time never runs backwards, so a lease outlives its time by as much as the clock was set back, at most."""
    stage = await set_stage("embedded", [])
    host = stage.start(clock=clock.path)
    await host.call("reserve_budget", usd="0.02", ttl_seconds=60)

    clock.jump(-HOUR_SECONDS)
    early = await host.call("check_budget")
    clock.jump(2 * 60)
    late = await host.call("check_budget")

    assert [each["balances"][0]["reserved"]["amount"] for each in (early, late)] == [2 * SPENT, 0]
    await host.leave()


@pytest.mark.parametrize("days", [1, 50 * 365], ids=["a day", "fifty years"])
async def test_a_day_that_a_clock_reaches_twice_begins_once(set_stage: SetStage, clock: WallClock, days: int) -> None:
    """Design: a period rolls over at its boundary exactly once; a clock that is set back brings no old day again."""
    stage = await set_stage("embedded", [])
    host = stage.start(clock=clock.path, BUDGET_PERIOD="day", BUDGET_TIME_ZONE="UTC")
    await host.call("record_usage", usd="0.03")

    clock.jump(days * DAY_SECONDS)
    first = await host.call("record_usage", usd="0.01")
    clock.jump(0)
    await host.call("record_usage", usd="0.01")
    clock.jump(days * DAY_SECONDS)
    last = await host.call("check_budget")
    await host.leave()

    assert first["remaining"]["amount"] == ALLOCATED - SPENT
    assert last["balances"][0]["spent"]["amount"] == 2 * SPENT
    with opened(stage.data_directory / LEDGER_FILE) as store:
        ended = store.run(lambda ledger: ledger.db.execute("SELECT spent FROM ended_periods").fetchall())
    assert ended == [(3 * SPENT,)]
    assert is_sound(stage)


def is_sound(stage: Stage) -> bool:
    """Whether the files prove sound; the ledger's time, which these clocks set, is left out."""
    return not inspect(stage.data_directory, None).findings
