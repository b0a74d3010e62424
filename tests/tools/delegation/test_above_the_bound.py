"""A turn that costs more than its bound: one number in both books, and what the budget lacked beside it."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest

from budget_server.authority import budgets
from budget_server.authority.ledger import Ledger
from budget_server.delegations.delegations import Delegations
from budget_server.delegations.store import SqliteDelegationStore
from budget_server.demo.scripted_claude import Turn, Usage
from budget_server.maintenance.consistency import inspect
from budget_tools.core.money import USD_MICROCENTS, Money
from budget_tools.delegation.recovery import settle_orphans
from budget_tools.delegation.store import Orphan
from budget_tools.spends.records import Spend
from hosting import run_program, text_of
from tools.delegation.harness import Bench, OpenBench, structured
from tools.delegation.metering import MeteredClaude, spendthrift
from tools.delegation.raw_endpoint import END, USAGE, Raw, RawEndpoint, sse, start, stop, text

pytestmark = pytest.mark.anyio

LONG = Turn(text="Much.", usage=Usage(output_tokens=9_000))
"""9,000 tokens, whatever the request allowed."""


def billed(b: Bench) -> int:
    """What the endpoint billed."""
    assert isinstance(b.claude, MeteredClaude)
    return b.claude.billed_microcents


async def test_what_the_budget_cannot_cover_stands_beside_what_was_charged(bench: OpenBench, tmp_path: Path) -> None:
    """An endpoint that does not heed max_tokens: turn, delegation and ledger agree, and the hint names the cause."""
    b = await bench([LONG], usd="0.02", endpoint=spendthrift)

    called = await b.call("delegate_to_claude", task="Do it.", max_output_tokens=500)

    result, text = structured(called), text_of(called)
    (turn,) = result["turns"]
    missing = billed(b) - 2_000_000
    assert billed(b) > 9_000_000
    assert turn["charged"]["amount"] == result["spent"]["amount"] == (await b.balance())["spent"] == 2_000_000
    assert turn["uncovered"]["amount"] == result["uncovered"]["amount"] == missing
    assert turn["actual_source"] == "usage"
    assert "above its bound" in result["hint"]
    assert "9000 out" in result["hint"]
    assert result["uncovered"]["usd"] in text
    again = await b.status(result["delegation_id"])
    assert (again["spent"], again["uncovered"], again["hint"]) == (result["spent"], result["uncovered"], result["hint"])

    inspection = inspect(tmp_path / "data", None)
    assert inspection.findings == []
    assert any(result["uncovered"]["usd"] in note for note in inspection.notes)

    (balance,) = structured(await b.call("check_budget"))["balances"]
    assert (balance["uncovered"]["amount"], balance["is_over_limit"]) == (missing, True)


async def test_what_the_budget_covers_is_charged_above_the_bound(bench: OpenBench, tmp_path: Path) -> None:
    """Where there is money, all of it is charged; the hint still says that the bound did not hold."""
    b = await bench([LONG], usd="1.00", endpoint=spendthrift)

    result = await b.delegate(max_output_tokens=500)

    (turn,) = result["turns"]
    assert turn["charged"]["amount"] == result["spent"]["amount"] == billed(b) > turn["reserved"]["amount"]
    assert "uncovered" not in turn
    assert "uncovered" not in result
    assert "above its bound" in result["hint"]
    assert inspect(tmp_path / "data", None).findings == []


async def test_a_turn_within_its_bound_says_nothing_of_it(bench: OpenBench) -> None:
    """The usual case."""
    b = await bench([Turn(text="Done.")], endpoint=MeteredClaude)

    result = await b.delegate()

    assert result["spent"]["amount"] == billed(b)
    assert (result["hint"], "uncovered" in result, "uncovered" in result["turns"][0]) == ("", False, False)


async def test_it_stays_in_every_answer_until_a_person_clears_it(bench: OpenBench) -> None:
    """Funding lets go on; only a person who has seen the number takes it away."""
    b = await bench([LONG, Turn(text="Done.")], usd="0.02", endpoint=spendthrift)
    first = await b.delegate(max_output_tokens=500)
    denied = await b.call("reserve_budget", usd="0.01")
    await b.fund("1.00")
    held = await b.call("reserve_budget", usd="0.01")
    released = await b.call("release_budget", reservation_id=structured(held)["reservation_id"])
    later = await b.delegate()
    listed = await b.call("check_budget")

    def clear(ledger: Ledger) -> None:
        budgets.clear_uncovered(ledger.db, scope="tenant:local", unit=USD_MICROCENTS)

    await b.ledger(clear)
    cleared = await b.call("check_budget")

    usd = f"${first['uncovered']['usd']}"
    assert structured(denied)["decision"] == "DENY"
    assert all(usd in text_of(each) for each in (denied, held, listed))
    assert structured(released)["status"] == "RELEASED"
    assert any(usd in each for each in later["warnings"])
    assert "uncovered" not in later
    assert usd not in text_of(cleared)
    assert "uncovered" not in structured(cleared)["balances"][0]


async def test_a_commit_above_its_reservation_is_warned_of(bench: OpenBench) -> None:
    """Fifty times what was held, and covered: charged, and not without a word."""
    b = await bench([])
    held = structured(await b.call("reserve_budget", usd="0.01"))

    called = await b.call("commit_usage", reservation_id=held["reservation_id"], usd="0.50")

    result = structured(called)
    b.outside_microcents += 50_000_000
    assert (result["charged"]["usd"], "uncovered" in result) == ("0.50", False)
    assert any("$0.50 was spent on a reservation of $0.01" in each for each in result["warnings"])
    assert "$0.50 was spent on a reservation of $0.01" in text_of(called)


async def test_a_commit_that_the_budget_cannot_cover_says_how_much(bench: OpenBench) -> None:
    """Ten dollars on a budget of two: what is charged, and what is not."""
    b = await bench([], usd="2.00")
    held = structured(await b.call("reserve_budget", usd="0.01"))

    called = await b.call("commit_usage", reservation_id=held["reservation_id"], usd="10", idempotency_key="k")
    again = await b.call("commit_usage", reservation_id=held["reservation_id"], usd="10", idempotency_key="k")

    result = structured(called)
    b.outside_microcents += 200_000_000
    assert (result["charged"]["usd"], result["uncovered"]["usd"]) == ("2.00", "8.00")
    assert "$8.00 was not covered" in text_of(called)
    assert (structured(again)["charged"], structured(again)["uncovered"]) == (result["charged"], result["uncovered"])


async def test_a_record_that_the_budget_cannot_cover_says_how_much(bench: OpenBench) -> None:
    """A dollar on five cents."""
    b = await bench([], usd="0.05")

    called = await b.call("record_usage", usd="1")

    result = structured(called)
    b.outside_microcents += 5_000_000
    assert (result["charged"]["usd"], result["uncovered"]["usd"]) == ("0.05", "0.95")
    assert "$0.95 was not covered" in text_of(called)
    assert "$0.95" in result["hint"]


async def test_a_crash_after_the_commit_leaves_one_number_too(bench: OpenBench, tmp_path: Path) -> None:
    """Killed before the turn was corrected: what was written down is what it cost, not what was charged."""
    b = await bench([LONG], usd="0.02", endpoint=spendthrift)
    await b.delegate(max_output_tokens=500)
    (before,) = await b.kept()
    (turn,) = before.turns
    (row,) = await b.reservations()
    assert turn.charged is not None
    uncorrected = turn.model_copy(update={"charged": Money.microcents(billed(b)), "uncovered": None})

    def commit_key(ledger: Ledger) -> str:
        return str(ledger.db.execute("SELECT idempotency_key FROM idempotency WHERE endpoint = 'commit'").get)

    spend = Spend(
        reservation_id=turn.reservation_id,
        turn=1,
        key=(await b.ledger(commit_key)).removeprefix("commit-"),
        subject=row["subject"],
        action=row["action"],
        unit=USD_MICROCENTS,
        bound=row["reserved"]["amount"],
        charge=billed(b),
    )
    orphan = Orphan(
        delegation=replace(before, status="running", turns=[uncorrected], spent_microcents=billed(b)), spends=[spend]
    )

    def run_again(store: Delegations) -> None:
        store._db.execute("UPDATE delegations SET status = 'running', owner = ?", (store._owners.register(),))

    store = b.services.delegation_store
    assert isinstance(store, SqliteDelegationStore)
    await store._file.run(run_again)
    assert await settle_orphans(store, b.services.internal_client, [orphan])

    (after,) = await b.kept()
    assert (after.turns, after.spent_microcents) == (before.turns, before.spent_microcents)
    assert inspect(tmp_path / "data", None).findings == []


async def test_the_hint_names_the_dearer_model_that_answered(bench: OpenBench) -> None:
    """No count was above what was allowed, so the hint must not say so."""
    usage = {"input_tokens": 100, "output_tokens": 4_000}
    body = sse(start(usage, model="claude-opus-5-5"), text(), stop(usage), END)
    b = await bench([], endpoint=RawEndpoint(Raw(body=body)))

    result = await b.delegate(model="claude-haiku-5-5")

    assert result["spent"]["amount"] == 8_040_000
    assert "claude-opus-5-5 answered (100 in, 4000 out)" in result["hint"]
    assert "prices of claude-haiku-5-5" in result["hint"]
    assert "more tokens" not in result["hint"]


@pytest.mark.parametrize("ends", ["properly", "cut"])
async def test_the_hint_of_an_unknown_cost_above_the_bound_claims_no_counts(
    bench: OpenBench, tmp_path: Path, ends: Literal["properly", "cut"]
) -> None:
    """The highest counts are charged, and neither the hint nor a warning names another sum or a count of 0."""
    usage = {"input_tokens": 0, "output_tokens": 20_000}
    body = sse(start({"input_tokens": 0, "output_tokens": 0}), text(), stop(usage, None))
    b = await bench([], usd="0.10", endpoint=RawEndpoint(Raw(body=body, ends=ends)))

    result = await b.delegate()

    assert (result["spent"]["amount"], result["uncovered"]["amount"]) == (10_000_000, 10_000_000)
    assert "cost at least $0.20, above its bound" in result["hint"]
    assert "(0 in, 0 out)" not in result["hint"]
    assert "was charged $0.20" not in " ".join(result["warnings"])
    environment = {**os.environ, "BUDGET_DATA_DIR": str(tmp_path / "data")}
    shown = run_program(environment, "delegations", "show", result["delegation_id"]).stdout
    assert "$0.10 spent, $0.10 not covered" in shown
    assert "Turn 1 cost at least $0.20, above its bound" in shown


async def test_iterations_of_an_answer_that_broke_off_are_charged_if_they_are_above_the_bound(bench: OpenBench) -> None:
    """Not less than what was reported: 50,100 tokens in and 1,050 out, of which the top level counts few."""
    compaction = {"type": "compaction", "input_tokens": 50_000, "output_tokens": 1_000}
    usage = {**USAGE, "iterations": [compaction, {"type": "message", **USAGE}]}
    body = sse(start(), text(), stop(usage, None))
    b = await bench([], endpoint=RawEndpoint(Raw(body=body, ends="cut")))

    result = await b.delegate()

    assert (result["status"], result["spent"]["amount"]) == ("failed", 11_070_000)
    assert "cost at least $0.1107" in result["hint"]
