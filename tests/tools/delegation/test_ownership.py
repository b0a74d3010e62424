"""A delegation's reservations are settled by that delegation alone, whatever a host asks of the tools."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest

from budget_server.authority import keys
from budget_server.authority.http import create_app
from budget_server.authority.ledger import Ledger
from budget_server.authority.listing import list_reservations
from budget_server.demo.scripted_claude import ToolCall, Turn
from budget_server.maintenance.consistency import inspect
from hosting import text_of
from tools.delegation.harness import LOOK, TOOLS, Bench, OpenBench, a_door, background, beside, happens, structured
from tools.delegation.metering import MeteredClaude
from tools.delegation.test_priced_tools import priced

pytestmark = pytest.mark.anyio

ATTEMPTS: Mapping[str, tuple[str, dict[str, Any]]] = {
    "release": ("release_budget", {}),
    "commit nothing": ("commit_usage", {"usd": 0}),
    "commit a cent": ("commit_usage", {"usd": "0.01"}),
    "extend": ("extend_reservation", {"seconds": 60}),
}


async def active(b: Bench) -> list[dict[str, Any]]:
    """What a host is shown as held."""
    return list(structured(await b.call("list_reservations", status="ACTIVE"))["reservations"])


async def refusal(b: Bench, attempt: str, reservation_id: str) -> str:
    """Try to settle or extend, which must be refused."""
    tool, arguments = ATTEMPTS[attempt]
    result = await b.call(tool, reservation_id=reservation_id, **arguments)
    assert result.is_error
    return text_of(result)


@pytest.mark.parametrize("attempt", ATTEMPTS)
async def test_a_turn_in_flight_cannot_be_settled_or_extended_by_a_host(
    bench: OpenBench, tmp_path: Path, attempt: str
) -> None:
    """The refusal says whose it is and what to do; the turn is charged what it cost."""
    go_on = anyio.Event()
    b = await bench([Turn(text="Done.", hold=go_on)], endpoint=MeteredClaude)
    running = await b.delegate(wait_seconds=0)
    await b.held(1)
    (row,) = await active(b)

    refused = await refusal(b, attempt, row["reservation_id"])
    async with beside(b) as other:
        refused_there = await refusal(other, attempt, row["reservation_id"])
    go_on.set()
    done = await b.status(running["delegation_id"], wait_seconds=15)

    assert row["delegation_id"] == running["delegation_id"]
    assert refused == refused_there
    assert refused == (
        f"FORBIDDEN: Reservation {row['reservation_id']} belongs to delegation {running['delegation_id']}: "
        "cancel that with delegation_status."
    )
    assert isinstance(b.claude, MeteredClaude)
    assert done["spent"]["amount"] == (await b.balance())["spent"] == b.claude.billed_microcents > 0
    assert inspect(tmp_path / "data", None).findings == []


async def test_what_is_held_for_a_last_answer_and_for_tool_calls_belongs_to_it_too(bench: OpenBench) -> None:
    """All that a delegation holds says so, and nobody else can give it back."""
    script: list[Turn] = []
    b = await bench(script, servers=priced(hang="0.02"))
    async with a_door() as (port, knocked):
        script += [Turn(tool_calls=(ToolCall("shed__hang", {"port": port}),)), Turn(text="Never.")]
        running = await b.delegate(tools=["shed__hang"], wait_seconds=0)
        await happens(knocked)
        rows = await active(b)
        refused = [await refusal(b, attempt, row["reservation_id"]) for row in rows for attempt in ATTEMPTS]
        still = await active(b)
        await b.status(running["delegation_id"], cancel=True)

    assert {row["action"].split()[0] for row in rows} == {"tool.call", "llm.completion"}
    assert {row["delegation_id"] for row in rows} == {running["delegation_id"]}
    assert all(each.startswith("FORBIDDEN: ") for each in refused)
    assert still == rows


async def test_the_http_face_of_the_same_ledger_settles_nothing_of_a_delegations(bench: OpenBench) -> None:
    """Any key of the tenant, any client: the ledger itself refuses."""
    go_on = anyio.Event()
    b = await bench([Turn(text="Done.", hold=go_on)])
    running = await b.delegate(wait_seconds=0)
    await b.held(1)
    (row,) = await active(b)

    def new_key(ledger: Ledger) -> str:
        return keys.create(ledger.db, tenant="local", name="", now_ms=ledger.now_ms, expires_at_ms=None)[1]

    secret = await b.ledger(new_key)
    transport = httpx.ASGITransport(create_app(b.services.cycles.ledger))  # type: ignore[attr-defined]
    async with httpx.AsyncClient(
        transport=transport, base_url="http://face", headers={"X-Cycles-API-Key": secret}
    ) as face:
        path = f"/v1/reservations/{row['reservation_id']}"
        actual = {"unit": "USD_MICROCENTS", "amount": 0}
        answers = [
            await face.post(f"{path}/release", json={"idempotency_key": "a"}),
            await face.post(f"{path}/commit", json={"idempotency_key": "b", "actual": actual}),
            await face.post(f"{path}/extend", json={"idempotency_key": "c", "extend_by_ms": 1}),
        ]
    go_on.set()
    done = await b.status(running["delegation_id"], wait_seconds=15)

    assert {(each.status_code, each.json()["error"]) for each in answers} == {(409, "FORBIDDEN")}
    sentence = f"Reservation {row['reservation_id']} belongs to delegation {running['delegation_id']}: "
    assert {each.json()["message"] for each in answers} == {f"{sentence}cancel that with delegation_status."}
    assert done["spent"]["amount"] == (await b.balance())["spent"] > 0


async def test_a_host_that_releases_all_it_sees_gets_no_more_than_the_budget(bench: OpenBench) -> None:
    """Four turns that each need nearly the whole of it: one runs, and three are denied."""
    go_on = anyio.Event()
    b = await bench([Turn(text="Done.", hold=go_on)] * 4, usd="0.05", endpoint=MeteredClaude)
    arguments: dict[str, Any] = {"max_output_tokens": 4_400, "wait_seconds": 0}
    results = [await b.delegate(**arguments)]
    await b.held(1)
    for _ in range(3):
        for row in await active(b):
            assert (await b.call("release_budget", reservation_id=row["reservation_id"])).is_error
        results.append(await b.delegate(**{**arguments, "wait_seconds": 15}))
    go_on.set()
    await b.status(results[0]["delegation_id"], wait_seconds=15)

    assert [each["status"] for each in results[1:]] == ["budget_exhausted"] * 3
    assert b.sent == 1


async def test_a_denial_speaks_of_the_callers_own_reservations(bench: OpenBench) -> None:
    """No hint invites anybody to settle what is not theirs."""
    b = await bench([], usd="0.05")

    denied = structured(await b.call("reserve_budget", usd="0.06"))

    assert denied["decision"] == "DENY"
    assert "reservations of your own" in denied["hint"]


async def test_a_hosts_own_reservation_is_still_its_own(bench: OpenBench) -> None:
    """Tags that look like a name of ours take nothing away from whoever wrote them."""
    b = await bench([])
    held = structured(await b.call("reserve_budget", usd="0.05", tags=["delegation", "delegation-team", "turn-1"]))

    (row,) = await active(b)
    released = structured(await b.call("release_budget", reservation_id=held["reservation_id"]))

    assert row["delegation_id"] == ""
    assert released["status"] == "RELEASED"


async def test_owners_survive_in_the_ledgers_own_lists(bench: OpenBench) -> None:
    """Every reservation of a delegation has its owner, in whatever state it ended."""
    b = await bench([Turn(tool_calls=(LOOK,)), Turn(text="Done.")])

    result = await b.delegate(tools=TOOLS)

    answer = await b.ledger(lambda ledger: list_reservations(ledger.db, "local", {}, shows_owner=True))
    owners = {row["owner"] for row in answer.body["reservations"]}
    assert owners == {f"delegation:{result['delegation_id']}"}


async def test_hints_of_running_calls_do_not_need_the_reservations(bench: OpenBench) -> None:
    """What the refusal advises works: the delegation is cancelled, and gives back what it holds."""
    b = await bench([Turn(text="Never.", hold=anyio.Event())])
    async with background(b.delegate) as results:
        await b.held(1)
        (row,) = await active(b)
        await b.status(row["delegation_id"], cancel=True)

    assert results[0]["status"] == "cancelled"
    assert await active(b) == []


async def test_a_hosts_own_reservation_cannot_pass_for_a_delegations(bench: OpenBench) -> None:
    """Nobody could settle it; other tags that speak of one are the host's own affair."""
    b = await bench([Turn(text="Done.")])
    delegation_id = (await b.delegate())["delegation_id"]

    refused = await b.call("reserve_budget", usd="0.01", tags=["mine", f"delegation-{delegation_id}"])
    held = structured(await b.call("reserve_budget", usd="0.01", tags=[f"for-{delegation_id}", "delegation-1"]))
    released = await b.call("release_budget", reservation_id=held["reservation_id"])

    assert refused.is_error
    assert text_of(refused).startswith("INVALID_ARGUMENT: tags.1: such a tag marks what a delegation itself reserves")
    assert not released.is_error
