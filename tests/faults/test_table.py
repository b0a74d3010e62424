"""Every cell of the fault table, brought about between real processes and settled as promised."""

from dataclasses import replace
from typing import Any, get_args

import anyio
import pytest

from budget_server.demo.scripted_claude import Turn
from faults.conftest import SetStage
from faults.nursery import PATIENCE_SECONDS, Host
from faults.stage import ALLOCATED, Kind, PatientClaude, Stage
from faults.table import CASES, PROMISED, SPEND_WRITTEN, Case, Moment, Row

pytestmark = pytest.mark.anyio

END = Turn(text="The end.")

CONSTANTS = {
    "budget_tools.claude.client:REQUEST_TIMEOUT_SECONDS": 0.5,
    "budget_tools.delegation.turn:MAX_ATTEMPTS": 4,
}


def test_every_cell_is_brought_about_in_some_way() -> None:
    """Design, when things go wrong: rows and columns in full; a cell that nobody tried would be a way to lose money."""
    cells = {(row, moment) for row, moments in PROMISED.items() for moment in moments}

    assert tuple(PROMISED) == get_args(Row)
    assert all(tuple(moments) == tuple(m for m in get_args(Moment) if m in moments) for moments in PROMISED.values())
    assert {(case.row, case.moment) for case in CASES} == cells
    assert {(case.row, case.moment) for case in CASES if "remote" in case.on} == cells
    # An embedded ledger's answer cannot be lost but with the process that asked.
    assert cells - {(case.row, case.moment) for case in CASES if "embedded" in case.on} == {
        (row, "commit's answer lost") for row, moments in PROMISED.items()
        if "commit's answer lost" in moments and row != "the process is killed"
    }  # fmt: skip
    assert len({str(case) for case in CASES}) == len(CASES)


@pytest.mark.parametrize(
    ("case", "kind"), [pytest.param(case, kind, id=f"{kind}; {case}") for case in CASES for kind in case.on]
)
async def test_a_fault_settles_as_the_table_says(set_stage: SetStage, case: Case, kind: Kind) -> None:
    """Design, when things go wrong: spend that may have happened is never handed back, and nothing is sent twice."""
    never = anyio.Event()
    is_held = case.point is None and (
        case.is_killed_while_held or case.cancels == "while it is held" or case.is_away or case.lapses
    )
    script = [replace(turn, hold=never) if isinstance(turn, Turn) and is_held else turn for turn in case.script]
    stage = await set_stage(kind, [*script, END])
    for operation, mishap in case.mishaps:
        stage.proxy.befall(operation, mishap)

    told = await bring_about(stage, case, never)
    if case.lapses:
        stage.let_leases_run_out()
    second = stage.start(constants=CONSTANTS)
    found = await stage.settled(second)

    sent = len(case.script)
    assert stage.sent == sent
    assert found["status"] == case.status
    assert told is None or facts_of(told) == facts_of(found)
    assert told is None or case.says in told["hint"]
    await check_money(stage, case, found)

    if found["resumable"]:
        final = await second.call("delegate_to_claude", resume=found["delegation_id"])
        assert (final["status"], final["text"], stage.sent) == ("completed", "The end.", sent + 1)
        assert final["turns"][: len(found["turns"])] == found["turns"]
        found = final
    await second.leave()
    await check_books(stage, found)


async def bring_about(stage: Stage, case: Case, never: anyio.Event) -> dict[str, Any] | None:
    """Run the first process to its end, and give what it could still tell of the delegation."""
    environment: dict[str, Any] = {"ANTHROPIC_BASE_URL": "http://127.0.0.1:1"} if case.is_unreachable else {}
    first = stage.start(case.point, constants=CONSTANTS, **environment)
    arguments = {"task": "Do it.", "tools": list(case.tools)}
    if case.is_away and not case.script:
        await ready(first)
        async with stage.away():
            told = await first.call("delegate_to_claude", **arguments)
        await first.leave()
        return told
    if case.cancels == "while its input is counted":
        assert isinstance(stage.claude, PatientClaude)
        stage.claude.may_count = anyio.Event()
    call = first.begin("delegate_to_claude", **arguments)
    if case.cancels is not None:
        return await cancelled(stage, case, first, call)
    if case.point is not None:
        await first.died()
        return None
    if case.is_killed_while_held:
        await held(stage, len(case.script))
        await first.kill()
        return None
    if case.is_away:
        await held(stage, len(case.script))
        async with stage.away():
            never.set()
            told = await first.answer(call)
            await first.leave()
        return told
    if case.lapses and case.script:
        await held(stage, len(case.script))
        stage.let_leases_run_out()
        never.set()
    told = await first.answer(call)
    if case.status == "completed":
        await stage.balance_is(reserved=0, spent=told["spent"]["amount"])
    await first.leave()
    return told


async def cancelled(stage: Stage, case: Case, host: Host, call: int) -> dict[str, Any]:
    """Cancel the call when the case says so, and wait for what that comes to."""
    if case.cancels == "while it is held":
        await held(stage, len(case.script))
    elif case.cancels == "at the point":
        await host.paused()
    else:
        with anyio.fail_after(PATIENCE_SECONDS):
            (counting,) = await stage.claude.wait_for_requests(1, path="/v1/messages/count_tokens")
            await counting.held.wait()
    delegation_id = await stage.delegation_id()
    host.cancel(call)
    if case.cancels == "at the point":
        # Its answer says that the cancellation, which came before, has been heard.
        status = await host.call("delegation_status", delegation_id=delegation_id, cancel=False)
        assert status["status"] == "running"
        host.resume()
    told = await host.call("delegation_status", delegation_id=delegation_id, wait_seconds=15)
    if isinstance(stage.claude, PatientClaude):
        stage.claude.may_count = None
    await stage.balance_is(reserved=0)
    await host.leave()
    return told


async def ready(host: Host) -> None:
    """Wait until a server answers."""
    await host.call("estimate_cost", input_tokens=1)


async def held(stage: Stage, number: int) -> None:
    """Wait until Claude holds back its answer to the n-th request."""
    with anyio.fail_after(PATIENCE_SECONDS):
        request = (await stage.claude.wait_for_requests(number))[number - 1]
        await request.held.wait()


def facts_of(result: dict[str, Any]) -> dict[str, Any]:
    """What every process must say alike of a delegation that has stopped."""
    return {name: result[name] for name in ("status", "text", "turns", "spent", "hint")}


async def check_money(stage: Stage, case: Case, found: dict[str, Any]) -> None:
    """Compare ledger, turn and table."""
    await stage.journal_is_empty()
    await stage.balance_is(reserved=0)
    charged = {"bound": "reserved", "usage": "charged"}.get(case.fate)
    if charged is None:
        assert found["spent"]["amount"] == stage.balance()["spent"] == 0
        assert [turn["actual_source"] for turn in found["turns"]] in ([], [""])
        states = {"nothing": [], "released": ["RELEASED"], "expired": ["EXPIRED"]}
        assert [row["status"] for row in stage.spends()] == states[case.fate]
        return
    (turn,) = found["turns"]
    (row,) = stage.spends()
    amount = turn[charged]["amount"]
    assert turn["actual_source"] == case.fate
    assert turn["reservation_id"] == row["reservation_id"]
    assert turn["charged"]["amount"] == amount
    assert (amount == row["reserved"]["amount"]) == (case.fate == "bound")
    await stage.balance_is(spent=amount)
    # Killed before its ledger heard that its expiry is a charge, it has to be an event there too.
    is_plain = stage.kind == "remote" or (case.point is not None and case.point.name == SPEND_WRITTEN)
    if case.is_event and is_plain:
        assert (row["status"], stage.events()) == ("EXPIRED", [amount])
    else:
        assert (row["status"], row["committed"]["amount"], stage.events()) == ("COMMITTED", amount, [])


async def check_books(stage: Stage, result: dict[str, Any]) -> None:
    """Compare the ledger with what the delegation says that it was charged."""
    charged = result["spent"]["amount"]
    charges = [each for turn in result["turns"] for each in (turn, *turn["tool_calls"]) if each.get("charged")]
    assert charged == sum(each["charged"]["amount"] for each in charges)
    assert stage.balance() == {
        "allocated": ALLOCATED, "spent": charged, "reserved": 0, "remaining": ALLOCATED - charged,
    }  # fmt: skip
