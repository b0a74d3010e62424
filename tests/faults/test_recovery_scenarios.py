"""The client recovery scenarios of the Cycles protocol (profile cycles-sdk-recovery 0.3), each by its id.

Each is played by server processes that are really killed, with a remote authority behind a proxy: the requests that
the scenario expects are those that the proxy saw, and its assertions are made on the authority's books, on the files of
the journal and on what the host was told. The comments name the assertions as the profile does.
"""

import hashlib
import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import anyio
import pytest

from budget_server.demo.scripted_claude import Turn
from faults.conftest import SetStage
from faults.nursery import Host, Point, until
from faults.proxy import Operation, Passed
from faults.stage import Kind, Stage
from faults.test_table import check_books, held, ready

pytestmark = pytest.mark.anyio

UNHURRIED_SECONDS = 20
"""A patience with which no server asks again before it is killed."""

HELD, SPENT = 2_000_000, 1_000_000
"""What the tools reserve and commit here, in microcents."""

BEATING_EARLY_MS = 17_000
"""A lease whose first heartbeat comes after a second: the client library reserves sixteen for one that is lost."""

BY_TOOL_OR_DELEGATION = pytest.mark.parametrize("is_delegation", [False, True], ids=["commit_usage", "delegation"])


def test_every_scenario_of_the_catalogue_is_bound() -> None:
    """Profile: the ids here are those of the catalogue, where that is at hand; it is not part of this project."""
    catalogue = os.environ.get("RECOVERY_SCENARIOS")
    if not catalogue:
        pytest.skip("RECOVERY_SCENARIOS does not say where the catalogue is")
    listed = re.findall(r"^\s*- id: (CR-[A-Z]+-\d{3})\s*$", Path(catalogue).read_text(encoding="utf-8"), re.MULTILINE)

    bound = [re.match(r"test_(cr_[a-z]+_\d{3})_", name) for name in globals()]

    assert sorted(found[1].replace("_", "-").upper() for found in bound if found) == sorted(listed)


# -- core -------------------------------------------------------------------------------------------------------------


@BY_TOOL_OR_DELEGATION
async def test_cr_core_001_a_lost_commit_response_reuses_the_same_key(set_stage: SetStage, is_delegation: bool) -> None:
    """The authority took the first commit; only its answer was lost."""
    stage = await set_stage("remote", [Turn(text="Done.")])
    host = stage.start()
    stage.proxy.befall("commit", "lost")

    charged = await settled(stage, host, is_delegation=is_delegation)

    first, second = stage.proxy.of("commit")
    assert settlements(stage) == ["commit", "commit"]
    assert first.key == second.key != ""  # retry_uses_original_idempotency_key
    assert first.body == second.body
    books_are(stage, spent=charged)  # settlement_occurs_at_most_once


@BY_TOOL_OR_DELEGATION
async def test_cr_core_002_an_expired_commit_falls_back_to_an_event(set_stage: SetStage, is_delegation: bool) -> None:
    """The budget went back before the commit came; what was spent is booked all the same."""
    never = anyio.Event()
    stage = await set_stage("remote", [Turn(text="Done.", hold=never)])
    host = stage.start()
    if is_delegation:
        call = host.begin("delegate_to_claude", task="Do it.")
        await held(stage, 1)
        stage.let_leases_run_out()
        never.set()
        told = await host.answer(call)
        await stage.journal_is_empty()
        charged = told["spent"]["amount"]
    else:
        reserved = await reserve(host)
        stage.let_leases_run_out()
        told = await host.call("commit_usage", reservation_id=reserved["reservation_id"], usd="0.01")
        assert (told["status"], told["charged"]["amount"]) == ("BOOKED", SPENT)
        assert not stage.journaled()
        charged = SPENT

    reserve_, commit, event = stage.proxy.of("reserve")[0], *stage.proxy.of("commit"), *stage.proxy.of("event")
    assert settlements(stage) == ["commit", "event"]
    assert commit.key == event.key != ""
    # event_carries_original_subject_action_actual
    for part in ("subject", "action"):
        assert event.body[part] == reserve_.body[part]
    assert event.body["actual"] == commit.body["actual"]
    assert event.body["metadata"]["recovered_reservation_id"] == commit.path.split("/")[3]
    # settlement_occurs_at_most_once
    assert stage.events() == [charged]
    assert (stage.balance()["spent"], stage.balance()["reserved"]) == (charged, 0)


async def test_cr_core_003_a_heartbeat_that_is_lost_is_said_and_stops_nothing(set_stage: SetStage) -> None:
    """While Claude works its lease is kept alive; where that fails once, it is asked again and the work goes on."""
    never = anyio.Event()
    stage = await set_stage("remote", [Turn(text="Done.", hold=never)])
    lease = {
        "budget_tools.delegation.choice:TurnChooser._order.__kwdefaults__": {"tag": "", "ttl_ms": BEATING_EARLY_MS}
    }
    host = stage.start(constants=lease)
    call = host.begin("delegate_to_claude", task="Do it.")
    await held(stage, 1)
    (departure,) = stage.proxy.of("extend")
    stage.proxy.befall("extend", "lost")
    await stage.proxy.arrived("extend", 3)
    never.set()
    told = await host.answer(call)
    await stage.journal_is_empty()

    extends = [passed for passed in stage.proxy.of("extend") if passed.key != departure.key]
    assert [each.operation for each in stage.proxy.passed if each in (*extends, *stage.proxy.of("commit"))] == [
        "extend", "extend", "commit",
    ]  # fmt: skip
    assert extends[0].key == extends[1].key != ""
    # heartbeat_failure_reports_reservation_and_disposition
    (turn,) = told["turns"]
    await host.says(f"heartbeat failed: id={turn['reservation_id']}")
    # guarded_action_continues_under_warn_policy
    assert (told["status"], told["text"], turn["actual_source"]) == ("completed", "Done.", "usage")
    await check_books(stage, told)  # final_settlement_is_attempted


@BY_TOOL_OR_DELEGATION
@pytest.mark.parametrize("answer", ["another document", "not JSON", "nothing in it", "null everywhere"])
async def test_cr_core_004_a_success_that_is_none_of_the_protocols_settles_nothing(
    set_stage: SetStage, answer: str, is_delegation: bool
) -> None:
    """Somebody in between answers 200 with something else."""
    stage = await set_stage("remote", [Turn(text="Done.")])
    host = stage.start()
    stage.proxy.befall("commit", answer)

    charged = await settled(stage, host, is_delegation=is_delegation)

    # only_schema_valid_expected_status_is_terminal_success
    first, second = stage.proxy.of("commit")
    assert settlements(stage) == ["commit", "commit"]
    assert first.key == second.key != ""  # ambiguous_success_retains_original_idempotency_key
    books_are(stage, spent=charged)


# -- durable ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reaches", [False, True], ids=["before it arrives", "after it arrived"])
async def test_cr_durable_001_the_first_commit_is_journaled_before_it_leaves(
    set_stage: SetStage, reaches: bool
) -> None:
    """Killed while the authority has not answered yet, whether or not it had heard."""
    stage = await set_stage("remote", [])
    reservation_id, records = await killed_while_committing(stage, reaches=reaches)

    # journal_write_precedes_first_settlement_request, unresolved_record_survives_restart
    (record,) = records.values()
    (commit,) = stage.proxy.of("commit")
    assert record["reservation_id"] == reservation_id
    assert record["commit_body"] == commit.body

    stage.start()
    await stage.journal_is_empty()  # successful_replay_removes_record

    assert settlements(stage) == ["commit", "commit"]
    assert one_key(stage.proxy.of("commit"))
    books_are(stage, spent=SPENT)  # settlement_occurs_at_most_once


async def test_cr_durable_002_a_replayed_commit_that_expired_becomes_an_event_for_good(set_stage: SetStage) -> None:
    """The start that finds the reservation expired is killed, too, before its event leaves."""
    stage = await set_stage("remote", [])
    await killed_while_committing(stage)
    stage.let_leases_run_out()
    second = stage.start(Point(name="before the event leaves"))
    await second.died()

    # event_mode_is_persisted_before_event_attempt
    ((_, record),) = stage.journaled().items()
    assert (record["mode"], stage.proxy.of("event")) == ("event", [])

    stage.start()
    await stage.journal_is_empty()  # successful_event_removes_record

    assert settlements(stage) == ["commit", "commit", "event"]
    assert one_key([*stage.proxy.of("commit"), *stage.proxy.of("event")])
    # settlement_occurs_at_most_once
    assert (stage.events(), stage.balance()["spent"], stage.balance()["reserved"]) == ([SPENT], SPENT, 0)


async def test_cr_durable_003_being_told_to_slow_down_survives_a_restart(set_stage: SetStage) -> None:
    """The next process asks neither at once nor by its own reckoning."""
    stage = await set_stage("remote", [])
    first = stage.start()
    reserved = await reserve(first)
    stage.proxy.befall("commit", "429 for two seconds")
    call = first.begin("commit_usage", reservation_id=reserved["reservation_id"], usd="0.01")
    said = await first.refusal(call)
    await first.kill()
    ((_, record),) = stage.journaled().items()

    stage.start()
    await stage.journal_is_empty()  # successful_replay_removes_record

    refused, again = stage.proxy.of("commit")
    assert "repeated until" in said
    assert settlements(stage) == ["commit", "commit"]
    assert refused.key == again.key != ""
    # no_retry_before_persisted_not_before
    assert record["not_before_ms"] >= refused.at_ms + 2_000
    assert again.at_ms >= record["not_before_ms"]
    books_are(stage, spent=SPENT)


async def test_cr_durable_004_a_tenants_journal_survives_a_change_of_its_api_key(set_stage: SetStage) -> None:
    """Keys are changed and revoked; what was spent under the old one is settled by the new one."""
    stage = await set_stage("remote", [])
    _, records = await killed_while_committing(stage)
    old_key = stage.rotate_key()

    # old_api_key_is_not_stored
    (path,) = records
    assert old_key not in str(path)
    assert old_key not in path.read_text(encoding="utf-8")

    stage.start()
    await stage.journal_is_empty()  # new_tenant_credential_finds_record

    assert settlements(stage) == ["commit", "commit"]
    assert one_key(stage.proxy.of("commit"))
    books_are(stage, spent=SPENT)


async def test_cr_durable_005_a_record_that_cannot_be_read_is_set_aside(set_stage: SetStage) -> None:
    """Garbage, and a record of a later version, beside one that is good."""
    stage = await set_stage("remote", [])
    _, records = await killed_while_committing(stage)
    (directory,) = {path.parent for path in records}
    (record,) = records.values()
    write(directory / "v2-garbage.json", '{"reservation_id": "r-')
    write(directory / "v2-later.json", json.dumps({**record, "reservation_id": "r-9", "version": 99}))

    third = stage.start()
    await stage.journal_is_empty()  # other_valid_records_still_replay

    # corrupt_record_is_quarantined, unsupported_record_version_is_quarantined
    assert {path.name for path in directory.glob("*.corrupt")} == {"v2-garbage.corrupt", "v2-later.corrupt"}
    # corruption_is_reported
    for name in ("v2-garbage.json", "v2-later.json"):
        await third.says(f"corrupt journal entry: {directory / name}")
    assert settlements(stage) == ["commit", "commit"]
    books_are(stage, spent=SPENT)


async def test_cr_durable_006_two_processes_that_replay_one_record_settle_it_once(set_stage: SetStage) -> None:
    """Every host starts its own server, over one data directory: the authority is asked by both at the same time."""
    stage = await set_stage("remote", [])
    await killed_while_committing(stage)
    stage.proxy.gather("commit", 2)

    for host in (stage.start(patience_seconds=UNHURRIED_SECONDS), stage.start(patience_seconds=UNHURRIED_SECONDS)):
        await ready(host)
    await stage.journal_is_empty()  # terminal_record_is_removed

    assert settlements(stage) == ["commit"] * 3
    assert one_key(stage.proxy.of("commit"))
    await until(lambda: sum(bool(passed.status) for passed in stage.proxy.of("commit")) == 2)
    books_are(stage, spent=SPENT)  # settlement_occurs_at_most_once


async def test_cr_durable_007_no_two_reservations_share_a_file_of_the_journal(set_stage: SetStage) -> None:
    """Earlier releases of the client library named files after the id, with what no file name may hold left out."""
    stage = await set_stage("remote", [])
    reservation_id, records = await killed_while_committing(stage)
    ((path, record),) = records.items()

    # standard_filename_is_sha256_of_exact_utf8_identifier
    assert path.name == standard_name(reservation_id)

    # Of another authority, so that nothing is asked for them.
    stray = {**record, "base_url": "http://elsewhere.invalid"}
    named = {each: {**stray, "reservation_id": each} for each in ("r:1", "r/1", "ü")}
    write(path.with_name("r_1.json"), json.dumps(named["r:1"]))
    write(path.with_name(standard_name("r/1")), json.dumps(named["r/1"]))
    write(path.with_name("_.json"), json.dumps(named["ü"]))
    stage.start()
    await stage.balance_is(reserved=0)
    await until(lambda: path not in stage.journaled())

    # distinct_identifiers_never_share_a_journal_file, matching_legacy_record_migrates_without_deleting_collision
    assert stage.journaled() == {path.with_name(standard_name(each)): kept for each, kept in named.items()}
    assert settlements(stage) == ["commit", "commit"]


# -- boundary ---------------------------------------------------------------------------------------------------------


async def test_cr_boundary_001_a_spend_that_nobody_can_name_is_not_settled(set_stage: SetStage) -> None:
    """What was used is for the host to say: without it nothing is committed, nothing is booked, and it is told so."""
    stage = await set_stage("remote", [])
    host = stage.start()
    reserved = await reserve(host)

    commit = await host.refusal(host.begin("commit_usage", reservation_id=reserved["reservation_id"]))
    event = await host.refusal(host.begin("record_usage"))
    await host.leave()

    # missing_actual_or_guarded_action_failure_is_surfaced
    for said in (commit, event):
        assert said.startswith("INVALID_ARGUMENT: ")
    assert settlements(stage) == []  # no_commit_or_event_without_known_actual
    assert not stage.journaled()
    assert (stage.balance()["reserved"], stage.balance()["spent"]) == (HELD, 0)


# -- beside the scenarios ---------------------------------------------------------------------------------------------


async def test_killed_while_it_books_a_spend_without_a_reservation_the_next_start_books_it(set_stage: SetStage) -> None:
    """``record_usage`` tells of money that is gone: it is written down before the request leaves, as a commit is."""
    stage = await set_stage("remote", [])
    host = stage.start(patience_seconds=UNHURRIED_SECONDS)
    stage.proxy.befall("event", "lost in silence")
    host.begin("record_usage", usd="0.01", idempotency_key="once")
    await stage.proxy.arrived("event", 1)
    await host.kill()

    stage.start()
    await stage.journal_is_empty()

    assert [passed.key for passed in stage.proxy.of("event")] == ["once", "once"]
    assert (stage.events(), stage.balance()["spent"]) == ([SPENT], SPENT)


async def test_a_commit_that_the_host_gives_up_is_settled_all_the_same(set_stage: SetStage) -> None:
    """The money is spent, whoever waits for the answer."""
    stage = await set_stage("remote", [])
    host = stage.start()
    reserved = await reserve(host)
    stage.proxy.befall("commit", "hang", times=3)
    call = host.begin("commit_usage", reservation_id=reserved["reservation_id"], usd="0.01")
    await stage.proxy.arrived("commit", 1)
    host.cancel(call)
    await stage.journal_is_empty()

    assert one_key(stage.proxy.of("commit"))
    books_are(stage, spent=SPENT)


async def test_a_commit_that_is_refused_for_good_is_said_and_not_repeated(set_stage: SetStage) -> None:
    """Saying it again would change nothing: a journal of what nobody takes would grow for ever."""
    stage = await set_stage("remote", [])
    host = stage.start()

    said = await host.refusal(host.begin("commit_usage", reservation_id="nobody's", usd="0.01"))

    assert said.startswith("NOT_FOUND: ")
    assert (settlements(stage), stage.journaled()) == (["commit"], {})


@pytest.mark.parametrize("kind", ["embedded", "remote"])
async def test_what_has_expired_is_booked_once_whatever_key_it_is_committed_under(
    set_stage: SetStage, kind: Kind
) -> None:
    """A reservation is settled once, also where the authority would take an event as often as it is asked."""
    stage = await set_stage(kind, [])
    host = stage.start()
    reserved = await reserve(host)
    commit = {"reservation_id": reserved["reservation_id"], "usd": "0.01"}
    wrong = await host.refusal(host.begin("commit_usage", **{**commit, "usd": None, "amount": 1, "unit": "TOKENS"}))
    stage.let_leases_run_out()

    told = await host.call("commit_usage", **commit, idempotency_key="one")
    other = await host.refusal(host.begin("commit_usage", **commit, idempotency_key="another"))
    again = await host.call("commit_usage", **commit, idempotency_key="one")

    assert wrong.startswith("UNIT_MISMATCH: ")
    assert told["status"] == again["status"] == "BOOKED"
    assert other.startswith("RESERVATION_FINALIZED: ")
    assert "one" in other
    assert (stage.events(), stage.balance()["spent"], stage.balance()["reserved"]) == ([SPENT], SPENT, 0)


async def test_a_start_takes_no_strangers_page_for_the_settling_of_an_orphan(set_stage: SetStage) -> None:
    """A spend is struck out by the authority's own word alone; until then it stays, to be tried again."""
    stage = await set_stage("remote", [Turn(text="Never.", hold=anyio.Event())])
    first = stage.start()
    first.begin("delegate_to_claude", task="Do it.")
    await held(stage, 1)
    await first.kill()
    stage.proxy.befall("commit", "a page under 200")

    second = stage.start()
    found = await stage.settled(second)

    assert settlements(stage) == ["commit", "commit"]
    assert one_key(stage.proxy.of("commit"))
    await check_books(stage, found)


# -- what the scenarios share -----------------------------------------------------------------------------------------


async def reserve(host: Host) -> dict[str, Any]:
    """Hold two cents."""
    return await host.call("reserve_budget", usd="0.02", action_kind="tool.call", action_name="a drill", tags=["t"])


async def settled(stage: Stage, host: Host, *, is_delegation: bool) -> int:
    """Spend and settle, by the tools or by a delegation; gives what was charged once nothing waits any more."""
    if is_delegation:
        told = await host.call("delegate_to_claude", task="Do it.")
        charged = told["spent"]["amount"]
    else:
        reserved = await reserve(host)
        told = await host.call("commit_usage", reservation_id=reserved["reservation_id"], usd="0.01")
        assert told["status"] == "COMMITTED"
        charged = told["charged"]["amount"]
    await stage.journal_is_empty()
    return int(charged)


async def killed_while_committing(stage: Stage, *, reaches: bool = False) -> tuple[str, dict[Path, dict[str, Any]]]:
    """Kill a server that waits for the answer to its first commit; gives the reservation, and what the journal has."""
    host = stage.start(patience_seconds=UNHURRIED_SECONDS)
    reserved = await reserve(host)
    stage.proxy.befall("commit", "lost in silence" if reaches else "hang")
    host.begin("commit_usage", reservation_id=reserved["reservation_id"], usd="0.01")
    await stage.proxy.arrived("commit", 1)
    records = stage.journaled()
    await host.kill()
    return reserved["reservation_id"], records


def settlements(stage: Stage) -> list[Operation]:
    """The requests that settle something, in order."""
    return [passed.operation for passed in stage.proxy.passed if passed.operation in ("commit", "event")]


def one_key(requests: Sequence[Passed]) -> bool:
    """Whether all of them carry the same key."""
    return len({passed.key for passed in requests}) == 1 and requests[0].key != ""


def books_are(stage: Stage, *, spent: int) -> None:
    """Assert that one reservation was committed, at so much, and nothing else happened."""
    assert [row["committed"]["amount"] for row in stage.reservations() if row["status"] == "COMMITTED"] == [spent]
    assert (stage.balance()["spent"], stage.balance()["reserved"], stage.events()) == (spent, 0, [])


def standard_name(reservation_id: str) -> str:
    """How the profile names a file of the journal."""
    return f"v2-{hashlib.sha256(reservation_id.encode()).hexdigest()}.json"


def write(path: Path, text: str) -> None:
    """Write a file as the client library does: whole."""
    path.write_text(text, encoding="utf-8")
