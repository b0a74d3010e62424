"""Somebody else settles what a killed server had in flight on a Cycles server: the next start books it, once."""

from typing import Any

import anyio
import apsw
import httpx
import pytest

from budget_server.delegations.store import DELEGATIONS_FILE
from budget_server.demo.scripted_claude import Turn
from faults.conftest import SetStage
from faults.stage import Stage
from faults.test_table import CONSTANTS, held
from tools.delegation.test_settled_elsewhere import Rival

pytestmark = pytest.mark.anyio


async def settle_all(stage: Stage, how: str) -> list[dict[str, Any]]:
    """Settle everything that is held there, with the key of the same tenant."""
    key = stage._environment["CYCLES_API_KEY"]
    async with httpx.AsyncClient(base_url=stage.proxy.url, headers={"X-Cycles-API-Key": key}, trust_env=False) as http:
        rival = Rival(http)
        rows = await rival.listed()
        for row in rows:
            assert await (rival.release(row) if how == "released" else rival.commit(row, 0)) == 200
    return rows


@pytest.mark.parametrize("how", ["released", "committed"])
async def test_what_was_sent_and_settled_elsewhere_is_booked_at_its_bound(set_stage: SetStage, how: str) -> None:
    """Killed before the answer: what it cost is not known, and that it was settled proves nothing."""
    stage = await set_stage("remote", [Turn(text="Never.", hold=anyio.Event())])
    host = stage.start(constants=CONSTANTS)
    host.begin("delegate_to_claude", task="Do it.")
    await held(stage, 1)
    (row,) = await settle_all(stage, how)
    await host.kill()

    second = stage.start(constants=CONSTANTS)
    told = await stage.settled(second)
    await second.leave()
    third = stage.start(constants=CONSTANTS)
    again = await stage.settled(third)
    await third.leave()

    assert stage.events() == [row["reserved"]["amount"]]
    assert stage.balance()["spent"] == told["spent"]["amount"] == row["reserved"]["amount"]
    assert told["turns"][0]["actual_source"] == "bound"
    assert again["spent"] == told["spent"]


@pytest.mark.parametrize("how", ["released", "committed"])
async def test_a_commit_in_the_journal_that_finds_it_settled_elsewhere_is_booked_once(
    set_stage: SetStage, how: str
) -> None:
    """Killed while the commit was on its way: journal and recovery use one key."""
    stage = await set_stage("remote", [Turn(text="Done.")])
    host = stage.start(constants=CONSTANTS)
    stage.proxy.befall("commit", "hang")
    host.begin("delegate_to_claude", task="Do it.")
    await stage.proxy.arrived("commit", 1)
    assert stage.journaled()
    await settle_all(stage, how)
    await host.kill()

    second = stage.start(constants=CONSTANTS)
    told = await stage.settled(second)
    await stage.journal_is_empty()
    await second.leave()

    (turn,) = told["turns"]
    assert turn["actual_source"] == "usage"
    assert stage.events() == [turn["charged"]["amount"]]
    assert stage.balance()["spent"] == told["spent"]["amount"] == turn["charged"]["amount"] < turn["reserved"]["amount"]


async def test_a_commit_that_only_the_journal_has_is_booked_when_it_was_settled_elsewhere(set_stage: SetStage) -> None:
    """The delegation had ended, its commit had no answer yet: the next start books it under the same key."""
    stage = await set_stage("remote", [Turn(text="Done.")])
    host = stage.start(constants=CONSTANTS)
    stage.proxy.befall("commit", "503", times=1_000)
    told = await host.call("delegate_to_claude", task="Do it.")
    await settle_all(stage, "released")
    await host.kill()
    assert stage.journaled()
    stage.proxy.behave()

    second = stage.start(constants=CONSTANTS)
    await stage.journal_is_empty()
    await second.leave()

    assert told["status"] == "completed"
    assert stage.events() == [told["spent"]["amount"]] == [stage.balance()["spent"]]


async def test_what_was_released_here_before_the_kill_is_not_booked(set_stage: SetStage) -> None:
    """Its own release, and nobody else's, says that nothing was spent."""
    stage = await set_stage("remote", [Turn(text="Never.", hold=anyio.Event())])
    host = stage.start(constants=CONSTANTS)
    host.begin("delegate_to_claude", task="Do it.")
    await held(stage, 1)
    key = spend_key(stage)
    (row,) = stage.spends()
    async with httpx.AsyncClient(
        base_url=stage.proxy.url,
        headers={"X-Cycles-API-Key": stage._environment["CYCLES_API_KEY"]},
        trust_env=False,
    ) as http:
        # As its own process releases it where Claude has refused the request.
        released = await http.post(
            f"/v1/reservations/{row['reservation_id']}/release",
            json={"idempotency_key": f"release-{key}", "reason": "stream_failed"},
        )
    await host.kill()

    second = stage.start(constants=CONSTANTS)
    told = await stage.settled(second)
    await second.leave()

    assert released.status_code == 200
    assert (told["spent"]["amount"], stage.events(), stage.balance()["spent"]) == (0, [], 0)


def spend_key(stage: Stage) -> str:
    """The key of the one spend in flight, which nobody knows but the data directory."""
    db = apsw.Connection(str(stage.data_directory / DELEGATIONS_FILE), flags=apsw.SQLITE_OPEN_READONLY)
    try:
        return str(db.execute("SELECT idempotency_key FROM spends").get)
    finally:
        db.close()
