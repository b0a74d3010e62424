"""What a start finds of processes that were killed, when more goes on than one turn and one start."""

from typing import Any

import anyio
import pytest

from budget_server.delegations.store import SqliteDelegationStore
from budget_server.demo.scripted_claude import ToolCall, Turn
from faults.conftest import SetStage
from faults.nursery import Host, Point
from faults.stage import PRICE_MICROCENTS, Kind, Stage
from faults.test_table import check_books, held, ready
from tools.delegation.harness import a_door, happens

pytestmark = pytest.mark.anyio

END = Turn(text="The end.")
CLIENT_LIBRARY_GIVES_UP_AFTER = 6
"""How often runcycles sends a commit until it leaves it to the next process, unless it is told otherwise."""

BOTH = pytest.mark.parametrize("kind", ["embedded", "remote"])


async def killed_while_claude_answers(stage: Stage, **arguments: object) -> None:
    """Delegate, and kill the process while Claude holds its answer back."""
    host = stage.start()
    host.begin("delegate_to_claude", task="Do it.", **arguments)
    await held(stage, 1)
    await host.kill()


async def resumed(host: Host, found: dict[str, Any]) -> dict[str, Any]:
    """Let a delegation go on to its end, without repeating a turn."""
    final = await host.call("delegate_to_claude", resume=found["delegation_id"])
    assert (final["status"], final["text"]) == ("completed", "The end.")
    assert final["turns"][: len(found["turns"])] == found["turns"]
    return final


@BOTH
async def test_two_processes_that_start_at_once_settle_each_orphan_once(set_stage: SetStage, kind: Kind) -> None:
    """Design: several processes share one data directory, because every host starts its own server."""
    stage = await set_stage(kind, [Turn(text="Never.", hold=anyio.Event())] * 3 + [END])
    host = stage.start()
    for number in (1, 2, 3):
        host.begin("delegate_to_claude", task=f"Do {number}.")
        await held(stage, number)
    await host.kill()

    second, third = stage.start(), stage.start()
    await ready(second)
    await ready(third)
    await stage.balance_is(reserved=0)
    found = [await second.call("delegation_status", delegation_id=each, wait_seconds=15) for each in await stage.ids()]

    charges = [turn["charged"]["amount"] for each in found for turn in each["turns"]]
    assert [turn["actual_source"] for each in found for turn in each["turns"]] == ["bound"] * 3
    assert [row["committed"]["amount"] for row in stage.spends()] == charges
    assert stage.balance()["spent"] == sum(charges)
    assert stage.events() == []
    assert found == [await third.call("delegation_status", delegation_id=each["delegation_id"]) for each in found]


@BOTH
@pytest.mark.parametrize("lapses", [False, True], ids=["soon", "long after"])
async def test_what_cannot_be_settled_at_a_start_is_settled_once_the_authority_is_back(
    set_stage: SetStage, kind: Kind, lapses: bool
) -> None:
    """Recovery: where the authority is away, a spend stays, to be tried again."""
    stage = await set_stage(kind, [Turn(text="Never.", hold=anyio.Event()), END])
    second = stage.start()  # an embedded ledger must be there when a process starts
    await ready(second)
    await second.leave()
    await killed_while_claude_answers(stage)
    if lapses:
        stage.let_leases_run_out()

    if kind == "embedded":
        third = stage.start(Point(name="before the orphans are looked for", kills=False))
        await third.paused()
    else:
        third = None
    async with stage.away():
        if third is None:
            third = stage.start()
        else:
            third.resume()
        await third.says("is not settled yet")
        unsettled = await third.call("delegation_status", delegation_id=await stage.delegation_id())
    found = await stage.settled(third)

    assert unsettled["status"] == "running"
    assert [turn["actual_source"] for turn in found["turns"]] == ["bound"]
    assert found["spent"]["amount"] == found["turns"][0]["reserved"]["amount"] > 0
    assert stage.events() == ([found["spent"]["amount"]] if lapses and kind == "remote" else [])
    await check_books(stage, await resumed(third, found))


@BOTH
async def test_what_a_killed_start_was_settling_the_next_one_settles(set_stage: SetStage, kind: Kind) -> None:
    """Recovery: the same keys are used every time, so that settling twice changes nothing."""
    stage = await set_stage(kind, [Turn(text="Never.", hold=anyio.Event()), END])
    await killed_while_claude_answers(stage)
    second = stage.start(Point(name="before the commit's answer"))
    await second.died()

    third = stage.start()
    found = await stage.settled(third)

    assert [row["status"] for row in stage.spends()] == ["COMMITTED"]
    assert [turn["actual_source"] for turn in found["turns"]] == ["bound"]
    await check_books(stage, await resumed(third, found))


@BOTH
async def test_killed_while_tools_run_a_finished_turn_keeps_its_usage(set_stage: SetStage, kind: Kind) -> None:
    """Design: a crash loses no work: the turn is not asked again, and what its tool did is said to be unknown."""
    script: list[Turn] = []
    stage = await set_stage(kind, script)
    async with a_door() as (port, knocked):
        script += [Turn(text="So far.", tool_calls=(ToolCall("shed__hang", {"port": port}),)), END]
        host = stage.start()
        host.begin("delegate_to_claude", task="Do it.", tools=["shed__hang"])
        await happens(knocked)
        await host.kill()

    second = stage.start()
    found = await stage.settled(second)
    balance = stage.balance()
    final = await resumed(second, found)

    assert (found["status"], found["text"], stage.sent) == ("failed", "So far.", 2)
    assert [turn["actual_source"] for turn in found["turns"]] == ["usage"]
    assert (balance["reserved"], balance["spent"]) == (0, found["spent"]["amount"])
    (result,) = stage.claude.message_requests[1].body["messages"][-1]["content"]
    assert result["is_error"]
    await check_books(stage, final)


@BOTH
@pytest.mark.parametrize(
    ("point", "sent", "sources"),
    [
        ("after the reserve", 1, ["usage"]),
        ("after the departure", 1, ["usage", "bound"]),
        ("after the answer", 2, ["usage", "bound"]),
        ("after the answer is written down", 2, ["usage", "usage"]),
        ("before the next write", 2, ["usage", "usage"]),
    ],
)
async def test_killed_in_a_later_turn_the_finished_ones_are_not_repeated(
    set_stage: SetStage, kind: Kind, point: str, sent: int, sources: list[str]
) -> None:
    """Design: a budget stop or a crash loses no work; a delegation goes on from its last finished turn."""
    work = Turn(text="So far.", tool_calls=(ToolCall("shed__count"),))
    stage = await set_stage(kind, [work] * sent + [END])
    host = stage.start(Point(name=point, nth=2))
    host.begin("delegate_to_claude", task="Do it.", tools=["shed__count"])
    await host.died()

    second = stage.start()
    found = await stage.settled(second)
    stage.let_leases_run_out()  # what was reserved and not written down is given back by time alone
    await stage.journal_is_empty()
    balance = stage.balance()
    final = await resumed(second, found)

    assert [turn["actual_source"] for turn in found["turns"]] == sources
    assert (balance["reserved"], balance["spent"]) == (0, found["spent"]["amount"])
    assert stage.sent == sent + 1
    answers = [each for each in stage.claude.message_requests[-1].body["messages"] if each["role"] == "assistant"]
    assert len(answers) == sources.count("usage")
    await check_books(stage, final)


@BOTH
@pytest.mark.parametrize("lapses", [False, True], ids=["soon", "long after"])
async def test_killed_during_a_priced_tool_call_its_price_is_charged(
    set_stage: SetStage, kind: Kind, lapses: bool
) -> None:
    """Spend that may have happened is never handed back: the tool may have done its work."""
    script: list[Turn] = []
    stage = await set_stage(kind, script)
    async with a_door() as (port, knocked):
        script += [Turn(text="So far.", tool_calls=(ToolCall("till__hang", {"port": port}),)), END]
        host = stage.start()
        host.begin("delegate_to_claude", task="Do it.", tools=["till__hang"])
        await happens(knocked)
        await host.kill()
    if lapses:
        stage.let_leases_run_out()

    second = stage.start()
    found = await stage.settled(second)
    await stage.balance_is(reserved=0)
    final = await resumed(second, found)

    (turn,) = found["turns"]
    (call,) = turn["tool_calls"]
    assert (turn["actual_source"], call["charged"]["amount"]) == ("usage", PRICE_MICROCENTS)
    assert found["spent"]["amount"] == turn["charged"]["amount"] + PRICE_MICROCENTS
    assert stage.events() == ([PRICE_MICROCENTS] if lapses and kind == "remote" else [])
    assert stage.sent == 2
    await check_books(stage, final)


@BOTH
@pytest.mark.parametrize("point", ["before the release", "after the release"])
async def test_killed_during_the_release_at_the_end_nothing_stays_held(
    set_stage: SetStage, kind: Kind, point: str
) -> None:
    """Store: money that is held and not yet spent is given back when its process is gone."""
    stage = await set_stage(kind, [Turn(text="So far."), END])
    host = stage.start(Point(name=point))
    host.begin("delegate_to_claude", task="Do it.", tools=["shed__count"])
    await host.died()

    second = stage.start()
    found = await stage.settled(second)

    assert [turn["actual_source"] for turn in found["turns"]] == ["usage"]
    assert [row["status"] for row in stage.reservations()] == ["RELEASED", "COMMITTED"]
    assert (found["status"], found["text"], found["resumable"]) == ("completed", "So far.", False)
    await check_books(stage, found)


@BOTH
async def test_killed_before_its_hold_is_written_down_the_lease_gives_it_back(set_stage: SetStage, kind: Kind) -> None:
    """Spending: a process that died before it wrote down its money is not known to anybody, so time gives it back."""
    stage = await set_stage(kind, [END])
    host = stage.start(Point(name="before the hold is written down"))
    host.begin("delegate_to_claude", task="Do it.", tools=["shed__count"])
    await host.died()

    second = stage.start()
    found = await stage.settled(second)
    held_ = stage.balance()["reserved"]
    stage.let_leases_run_out()

    assert (found["turns"], found["spent"]["amount"]) == ([], 0)
    assert held_ > 0
    assert stage.balance()["reserved"] == 0
    await check_books(stage, await resumed(second, found))


async def test_a_commit_stays_in_the_journal_for_as_long_as_the_authority_is_away(set_stage: SetStage) -> None:
    """Fault table, authority down, answered and not committed: journal, replay; however long that takes."""
    never = anyio.Event()
    stage = await set_stage("remote", [Turn(text="So far.", hold=never)])
    host = stage.start()
    call = host.begin("delegate_to_claude", task="Do it.")
    await held(stage, 1)
    stage.proxy.befall("commit", "503", CLIENT_LIBRARY_GIVES_UP_AFTER)
    never.set()
    told = await host.answer(call)
    await stage.journal_is_empty()

    commits = stage.proxy.of("commit")
    assert (told["status"], len(commits)) == ("completed", CLIENT_LIBRARY_GIVES_UP_AFTER + 1)
    assert len({passed.key for passed in commits}) == 1
    await check_books(stage, told)


async def test_a_delegation_whose_commit_came_late_is_forgotten_in_its_time(set_stage: SetStage) -> None:
    """Store: a stopped delegation is forgotten once nothing of it is in flight, also where the journal settled it."""
    stage = await set_stage("remote", [Turn(text="So far.")])
    stage.proxy.befall("commit", "503")
    host = stage.start()
    told = await host.call("delegate_to_claude", task="Do it.")
    await stage.journal_is_empty()
    await host.leave()

    store = SqliteDelegationStore(stage.data_directory)
    try:
        forgotten = await store.prune(2**62)
    finally:
        await store.aclose()

    assert (told["status"], forgotten, await stage.ids()) == ("completed", 1, [])
