"""What a budget could not cover is counted, to the unit, until a person clears it."""

import json
from functools import partial
from pathlib import Path

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from budget_server.authority import budgets
from budget_server.authority.audit import audit
from budget_server.authority.client import EmbeddedCyclesClient
from budget_server.authority.ledger import Ledger
from budget_server.authority.periods import end_periods
from contract.answers import body_of
from contract.harness import BOT, LEAF, MAX_AMOUNT, ROOT, Clock
from contract.local import EmbeddedAuthority, opened

pytestmark = pytest.mark.anyio


def uncovered(authority: EmbeddedAuthority, scope: str = ROOT) -> int:
    """What a person is shown of a budget."""
    (budget,) = authority.run(
        lambda ledger: [
            each for each in budgets.all_budgets(ledger.db) if each.scope == scope and each.unit == "TOKENS"
        ]
    )
    return budget.uncovered


async def test_a_commit_above_what_is_there_counts_the_rest(authority: EmbeddedAuthority) -> None:
    """Cycles v0, ALLOW_IF_AVAILABLE charges what is there; the rest was spent all the same."""
    authority.set_budget(ROOT, 100)
    reservation_id = await authority.reserved(10)

    charged = body_of(await authority.commit(reservation_id, 150))["charged"]["amount"]

    assert charged == 100
    assert uncovered(authority) == 50
    assert await authority.amounts() == "0/0/100/0!"
    assert audit(authority.path, None).findings == []


async def test_an_event_above_what_is_there_counts_the_rest(authority: EmbeddedAuthority) -> None:
    """Twice over: what was not covered adds up."""
    authority.set_budget(ROOT, 5)

    await authority.event(100)
    await authority.event(7)

    assert uncovered(authority) == 102
    assert audit(authority.path, None).findings == []


async def test_every_scope_of_the_spend_counts_it_since_none_was_charged(authority: EmbeddedAuthority) -> None:
    """Spent and uncovered together are what was really spent over a scope, whichever of them was short."""
    authority.set_budget(ROOT, 20)
    authority.set_budget(LEAF, 500)

    await authority.event(50, BOT)

    assert (uncovered(authority, ROOT), uncovered(authority, LEAF)) == (30, 30)
    assert await authority.amounts(LEAF) == "480/0/20/0"
    assert audit(authority.path, None).findings == []


async def test_an_overdraft_covers_what_it_allows(authority: EmbeddedAuthority) -> None:
    """A debt is covered: it is owed. What another scope caps is neither."""
    authority.set_budget(ROOT, 20, overdraft_limit=100)
    authority.set_budget(LEAF, 30)

    await authority.event(50, BOT, overage_policy="ALLOW_WITH_OVERDRAFT")

    assert await authority.amounts(ROOT) == "-10/0/20/10"
    assert (uncovered(authority, ROOT), uncovered(authority, LEAF)) == (20, 20)
    assert audit(authority.path, None).findings == []


async def test_funding_and_a_new_period_leave_it_until_a_person_clears_it(authority: EmbeddedAuthority) -> None:
    """Money that is added lets go on; it does not undo what was spent past the books."""
    authority.set_budget(ROOT, 10)
    await authority.event(25)

    authority.run(lambda ledger: budgets.fund(ledger.db, scope=ROOT, unit="TOKENS", amount=1_000))
    funded = uncovered(authority)
    authority.run(
        lambda ledger: budgets.set_period(
            ledger.db, scope=ROOT, unit="TOKENS", period="day", time_zone="UTC", now_ms=ledger.now_ms
        )
    )
    (end_ms,) = authority.sql("SELECT period_end_ms FROM budgets")[0]
    authority.run(lambda ledger: end_periods(ledger.db, end_ms))
    renewed = uncovered(authority)
    before = await authority.amounts()
    seen, _ = authority.run(lambda ledger: budgets.clear_uncovered(ledger.db, scope=ROOT, unit="TOKENS"))

    assert (funded, renewed, seen, uncovered(authority)) == (15, 15, 15, 0)
    assert await authority.amounts() == before, "clearing moves no money"
    await authority.event(2_000)
    assert uncovered(authority) == 990
    assert audit(authority.path, None).findings == []


async def test_a_charge_that_expiry_made_and_a_commit_replaces_counts_once(
    authority: EmbeddedAuthority, clock: Clock
) -> None:
    """Only the commit knows what it cost."""
    authority.set_budget(ROOT, 100)
    reservation_id = await authority.reserved(40, metadata={"on_expiry": "charge"}, ttl_ms=1_000, grace_period_ms=0)
    clock.now_ms += 2_000
    assert (await authority.amounts(), uncovered(authority)) == ("60/0/40/0", 0)

    await authority.commit(reservation_id, 130)

    assert (await authority.amounts(), uncovered(authority)) == ("0/0/100/0!", 30)
    assert audit(authority.path, None).findings == []


async def test_a_denial_says_what_was_not_covered(authority: EmbeddedAuthority) -> None:
    """Who may not reserve any more is told why."""
    authority.set_budget(ROOT, 10)
    await authority.event(25)

    body = (await authority.reserve(1)).body

    assert body is not None
    assert body["error"] == "OVERDRAFT_LIMIT_EXCEEDED"
    assert body["details"]["deny_detail"]["suggested_fix"] == (
        "Ask an operator to fund this budget: 15 TOKENS was spent that it could not cover."
    )


async def test_the_count_stops_where_64_bits_end(authority: EmbeddedAuthority) -> None:
    """A spend is never refused because a count is full."""
    authority.set_budget(ROOT, 1)
    for _ in range(3):
        assert (await authority.event(MAX_AMOUNT)).status == 201

    authority.run(lambda ledger: budgets.clear_uncovered(ledger.db, scope=ROOT, unit="TOKENS"))
    assert (await authority.event(5)).status == 201

    assert uncovered(authority) == 0
    assert audit(authority.path, None).findings == []


async def test_within_the_process_every_answer_with_balances_says_it(authority: EmbeddedAuthority) -> None:
    """The protocol's Balance has no field for it, so it stands beside the body."""
    authority.set_budget(ROOT, 10)
    client = EmbeddedCyclesClient(authority.writer, authority.config)
    booked = await client.create_event(
        authority.outlay(25, subject={"tenant": "acme"}, action={"kind": "k", "name": "n"})
    )
    authority.run(lambda ledger: budgets.fund(ledger.db, scope=ROOT, unit="TOKENS", amount=100))
    reserved = await client.create_reservation(authority.intent(1))
    listed = await client.get_balances(tenant="acme")

    said = [json.loads(each.headers["x-budget-uncovered"]) for each in (booked, reserved, listed)]

    assert said == [[[ROOT, "TOKENS", 15]]] * 3
    assert "uncovered" not in str([booked.body, reserved.body, listed.body])


@pytest.mark.parametrize(("column", "by"), [("uncovered", 1), ("uncovered", -1), ("uncovered_cleared", 1)])
async def test_a_count_that_does_not_add_up_is_found(authority: EmbeddedAuthority, column: str, by: int) -> None:
    """The reservations and events say how much it must be."""
    authority.set_budget(ROOT, 10)
    await authority.event(25)
    authority.sql(f"UPDATE budgets SET {column} = {column} + ?", by)  # noqa: S608 - constants

    (finding,) = audit(authority.path, None).findings

    assert finding == f"{ROOT} in TOKENS has {15 + by} noted as not covered, and 15 was not covered."


MOVES = st.tuples(st.sampled_from(["event", "commit", "fund", "clear"]), st.integers(0, 60))


@settings(deadline=None, max_examples=30)
@given(moves=st.lists(MOVES, max_size=20))
def test_spent_and_uncovered_are_all_that_was_spent(
    moves: list[tuple[str, int]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Whatever is spent, funded and cleared, in any order: nothing that was spent is in no figure."""
    path: Path = tmp_path_factory.mktemp("ledger") / "ledger.db"

    def fund(ledger: Ledger, amount: int) -> None:
        budgets.fund(ledger.db, scope=ROOT, unit="TOKENS", amount=amount)

    async def live(authority: EmbeddedAuthority) -> None:
        authority.set_budget(ROOT, 50)
        spent = cleared = 0
        for move, amount in moves:
            if move == "event":
                spent += amount * ((await authority.event(amount)).status == 201)
            elif move == "commit":
                reserved = await authority.reserve(min(amount, 5))
                if reserved.is_success:
                    assert reserved.body is not None
                    assert (await authority.commit(reserved.body["reservation_id"], amount)).status == 200
                    spent += amount
            elif move == "fund":
                authority.run(partial(fund, amount=amount))
            else:
                seen, _ = authority.run(lambda ledger: budgets.clear_uncovered(ledger.db, scope=ROOT, unit="TOKENS"))
                cleared += seen
        ((in_figures,),) = authority.sql("SELECT spent + debt + uncovered FROM budgets")
        assert in_figures + cleared == spent

    with opened(path, Clock()) as authority:
        anyio.run(live, authority)
    assert audit(path, None).findings == []
