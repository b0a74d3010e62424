"""Committing: what is charged, what goes back, and what each overage policy does with more than was reserved."""

from typing import Any

import pytest

from contract.answers import assert_refused, body_of
from contract.harness import BOT, LEAF, MAX_AMOUNT, ROOT, Authority

pytestmark = pytest.mark.anyio


async def settle(authority: Authority, estimate: int, actual: int, policy: str, subject: Any = BOT) -> Any:
    """Reserve and commit under an overage policy."""
    reservation_id = await authority.reserved(estimate, subject, overage_policy=policy)
    return reservation_id, await authority.commit(reservation_id, actual)


# -- within the estimate ----------------------------------------------------------------------------------------------


async def test_a_commit_below_the_estimate_charges_the_actual_and_gives_the_rest_back(authority: Authority) -> None:
    """Cycles v0, commitReservation: the whole answer, field by field."""
    authority.set_budget(ROOT, 100)
    reservation_id = await authority.reserved(40)

    body = body_of(await authority.commit(reservation_id, 25))

    assert body == {
        "status": "COMMITTED",
        "charged": {"unit": "TOKENS", "amount": 25},
        "released": {"unit": "TOKENS", "amount": 15},
        "balances": [
            {
                "scope": ROOT,
                "scope_path": ROOT,
                "remaining": {"unit": "TOKENS", "amount": 75},
                "reserved": {"unit": "TOKENS", "amount": 0},
                "spent": {"unit": "TOKENS", "amount": 25},
                "allocated": {"unit": "TOKENS", "amount": 100},
            }
        ],
    }


@pytest.mark.parametrize("policy", ["REJECT", "ALLOW_IF_AVAILABLE", "ALLOW_WITH_OVERDRAFT"])
async def test_a_commit_of_the_estimate_releases_nothing(authority: Authority, policy: str) -> None:
    """Cycles v0, CommitResponse: ``released`` is absent rather than zero."""
    authority.set_budget(ROOT, 40)

    _, response = await settle(authority, 40, 40, policy)

    assert "released" not in body_of(response)
    assert await authority.amounts() == "0/0/40/0"


async def test_a_commit_of_nothing_gives_everything_back(authority: Authority) -> None:
    """Cycles v0, Amount: zero is a legal actual."""
    authority.set_budget(ROOT, 100)

    _, response = await settle(authority, 40, 0, "REJECT")

    assert body_of(response)["charged"]["amount"] == 0
    assert body_of(response)["released"]["amount"] == 40
    assert await authority.amounts() == "100/0/0/0"


@pytest.mark.parametrize("status", ["FROZEN", "CLOSED"])
async def test_work_that_was_done_is_committed_on_a_frozen_or_closed_budget(authority: Authority, status: str) -> None:
    """Cycles v0, commitReservation: only new reservations are refused there; the work is done."""
    authority.set_budget(ROOT, 100)
    reservation_id = await authority.reserved(40)
    authority.change_budget(ROOT, status=status)

    assert body_of(await authority.commit(reservation_id, 50))["charged"]["amount"] == 50

    assert await authority.amounts() == "50/0/50/0"


async def test_work_that_was_done_is_committed_on_a_budget_over_its_limit(authority: Authority) -> None:
    """Cycles v0, commitReservation: the flag refuses new reservations, and stays."""
    authority.set_budget(ROOT, 100)
    reservation_id = await authority.reserved(40)
    authority.change_budget(ROOT, is_over_limit=True)

    assert body_of(await authority.commit(reservation_id, 50))["charged"]["amount"] == 50

    assert await authority.amounts() == "50/0/50/0!"


async def test_a_budget_that_came_after_the_reserve_is_not_touched(authority: Authority) -> None:
    """Cycles v0, ATOMICITY: a reservation is settled on exactly the scopes that it was held on."""
    authority.set_budget(ROOT, 100)
    reservation_id = await authority.reserved(40, BOT)
    authority.set_budget(LEAF, 100)

    body = body_of(await authority.commit(reservation_id, 60))

    assert [balance["scope_path"] for balance in body["balances"]] == [ROOT]
    assert await authority.amounts(LEAF) == "100/0/0/0"


async def test_a_reservation_is_settled_once(authority: Authority) -> None:
    """Cycles v0, RESERVATION_FINALIZED: whatever comes second, under any key but the first."""
    authority.set_budget(ROOT, 100)
    reservation_id = await authority.reserved(40)
    await authority.commit(reservation_id, 25)

    for response in (
        await authority.commit(reservation_id, 25),
        await authority.release(reservation_id),
        await authority.extend(reservation_id, 1_000),
    ):
        assert_refused(response, 409, "RESERVATION_FINALIZED")

    assert await authority.amounts() == "75/0/25/0"


async def test_a_settled_reservation_shows_what_it_came_to(authority: Authority) -> None:
    """Cycles v0, getReservation: committed, finalized_at_ms, metadata of both sides."""
    authority.set_budget(ROOT, 100)
    reservation_id = await authority.reserved(40, metadata={"task": "a", "none": None})
    if authority.has("clock"):
        authority.clock.now_ms += 7
    metrics = {"tokens_input": 3, "latency_ms": 5, "model_version": "m", "custom": {"turn": 1}}
    await authority.commit(reservation_id, 25, metadata={"turn": 3}, metrics=metrics)

    body = body_of(await authority.get(reservation_id))

    assert body["status"] == "COMMITTED"
    assert body["committed"] == {"unit": "TOKENS", "amount": 25}
    assert body["finalized_at_ms"] >= body["created_at_ms"] + (7 if authority.has("clock") else 0)
    assert body["metadata"] == {"task": "a", "none": None}
    assert body["committed_metadata"] == {"turn": 3}


async def test_an_unknown_reservation_is_not_found(authority: Authority) -> None:
    """Cycles v0, NOT_FOUND."""
    for response in (
        await authority.commit("nothing", 1),
        await authority.release("nothing"),
        await authority.extend("nothing", 1),
        await authority.get("nothing"),
    ):
        assert_refused(response, 404, "NOT_FOUND")


async def test_another_tenants_reservation_is_forbidden_and_untouched(authority: Authority) -> None:
    """Cycles v0, AUTHENTICATION: a reservation belongs to its tenant."""
    authority.set_budget(ROOT, 100)
    reservation_id = await authority.reserved(40)
    globex = authority.as_tenant("globex")

    for response in (
        await globex.commit(reservation_id, 1),
        await globex.release(reservation_id),
        await globex.extend(reservation_id, 1),
        await globex.get(reservation_id),
    ):
        assert_refused(response, 403, "FORBIDDEN")

    assert await authority.state(reservation_id) == "ACTIVE"
    assert await authority.amounts() == "60/40/0/0"


# -- REJECT -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("actual", [41, 60, 61])
async def test_reject_refuses_all_beyond_the_estimate_and_leaves_the_reservation_open(
    authority: Authority, actual: int
) -> None:
    """Cycles v0, REJECT: refused whatever remains, still ACTIVE; a smaller commit settles it."""
    authority.set_budget(ROOT, 100)
    authority.set_budget(LEAF, 60)
    reservation_id, response = await settle(authority, 40, actual, "REJECT")

    authority.assert_denied(response, "BUDGET_EXCEEDED", by=LEAF)
    assert await authority.amounts(ROOT) == "60/40/0/0"
    assert await authority.amounts(LEAF) == "20/40/0/0"

    assert body_of(await authority.commit(reservation_id, 40))["charged"]["amount"] == 40


# -- ALLOW_IF_AVAILABLE -----------------------------------------------------------------------------------------------


async def test_if_available_charges_what_the_poorest_scope_has_and_flags_only_the_short_ones(
    authority: Authority,
) -> None:
    """Cycles v0, ALLOW_IF_AVAILABLE: estimate plus the least that remains over all scopes."""
    authority.set_budget(ROOT, 100)
    authority.set_budget(LEAF, 30)

    _, response = await settle(authority, 10, 50, "ALLOW_IF_AVAILABLE")

    assert body_of(response)["charged"]["amount"] == 30
    assert "released" not in body_of(response)
    assert await authority.amounts(ROOT) == "70/0/30/0"
    assert await authority.amounts(LEAF) == "0/0/30/0!"


async def test_if_available_flags_nothing_where_all_of_it_remained(authority: Authority) -> None:
    """Cycles v0, ALLOW_IF_AVAILABLE: to the last unit is not over the limit."""
    authority.set_budget(ROOT, 50)

    _, response = await settle(authority, 10, 50, "ALLOW_IF_AVAILABLE")

    assert body_of(response)["charged"]["amount"] == 50
    assert await authority.amounts() == "0/0/50/0"


async def test_if_available_flags_every_short_scope_not_only_the_poorest(authority: Authority) -> None:
    """Cycles v0, ALLOW_IF_AVAILABLE: is_over_limit on each scope that could not pay the difference."""
    authority.set_budget(ROOT, 45)
    authority.set_budget(LEAF, 30)

    await settle(authority, 10, 50, "ALLOW_IF_AVAILABLE")

    assert await authority.amounts(ROOT) == "15/0/30/0!"
    assert await authority.amounts(LEAF) == "0/0/30/0!"


async def test_if_available_does_not_flag_a_scope_that_could_just_have_paid(authority: Authority) -> None:
    """Cycles v0, ALLOW_IF_AVAILABLE: short is less than the difference, not equal to it."""
    authority.set_budget(ROOT, 50)
    authority.set_budget(LEAF, 30)

    await settle(authority, 10, 50, "ALLOW_IF_AVAILABLE")

    assert await authority.amounts(ROOT) == "20/0/30/0"
    assert await authority.amounts(LEAF) == "0/0/30/0!"


async def test_if_available_takes_nothing_from_a_negative_budget(authority: Authority) -> None:
    """Cycles v0, ALLOW_IF_AVAILABLE: a remainder under zero counts as none; no debt is made."""
    authority.set_budget(ROOT, 10, overdraft_limit=50)
    reservation_id = await authority.reserved(5)
    authority.change_budget(ROOT, allocated=2)

    assert body_of(await authority.commit(reservation_id, 7))["charged"]["amount"] == 5

    assert await authority.amounts() == "-3/0/5/0!"


async def test_if_available_is_the_policy_where_nobody_chose_one(authority: Authority) -> None:
    """Cycles v0, ReservationCreateRequest.overage_policy: request, else tenant, else ALLOW_IF_AVAILABLE."""
    authority.set_budget(ROOT, 20)
    reservation_id = await authority.reserved(10)

    assert body_of(await authority.commit(reservation_id, 30))["charged"]["amount"] == 20


async def test_the_tenants_policy_comes_before_that(authority: Authority) -> None:
    """Cycles v0, tenant settings: default_commit_overage_policy, which a request's own goes before."""
    authority.set_tenant(default_overage_policy="REJECT")
    authority.set_budget(ROOT, 20)
    by_tenant = await authority.reserved(10)
    by_request = await authority.reserved(10, overage_policy="ALLOW_IF_AVAILABLE")

    assert_refused(await authority.commit(by_tenant, 30), 409, "BUDGET_EXCEEDED")
    assert body_of(await authority.commit(by_request, 30))["charged"]["amount"] == 10


async def test_a_policy_is_pinned_when_the_reservation_is_made(authority: Authority) -> None:
    """Cycles v0, Reservation.overage_policy: what its tenant chooses later does not reach it."""
    authority.set_budget(ROOT, 20)
    reservation_id = await authority.reserved(10)
    authority.set_tenant(default_overage_policy="REJECT")

    assert body_of(await authority.commit(reservation_id, 30))["charged"]["amount"] == 20


# -- ALLOW_WITH_OVERDRAFT ---------------------------------------------------------------------------------------------


async def test_overdraft_makes_debt_only_where_the_remainder_ends(authority: Authority) -> None:
    """Cycles v0, ALLOW_WITH_OVERDRAFT: debt is per scope; the parent pays while the child owes."""
    authority.set_budget(ROOT, 100)
    authority.set_budget(LEAF, 20, overdraft_limit=50)

    _, response = await settle(authority, 10, 60, "ALLOW_WITH_OVERDRAFT")

    assert body_of(response)["charged"]["amount"] == 60
    assert await authority.amounts(ROOT) == "40/0/60/0"
    assert await authority.amounts(LEAF) == "-40/0/20/40"


async def test_overdraft_is_capped_by_a_scope_that_may_not_owe(authority: Authority) -> None:
    """Cycles v0, ALLOW_WITH_OVERDRAFT: a limit of zero caps the charge for all and is flagged."""
    authority.set_budget(ROOT, 30)
    authority.set_budget(LEAF, 20, overdraft_limit=50)

    _, response = await settle(authority, 10, 60, "ALLOW_WITH_OVERDRAFT")

    assert body_of(response)["charged"]["amount"] == 30
    assert await authority.amounts(ROOT) == "0/0/30/0!"
    assert await authority.amounts(LEAF) == "-10/0/20/10"


@pytest.mark.parametrize(("limit", "refused"), [(5, False), (4, True)])
async def test_the_limit_is_judged_after_the_cap(authority: Authority, limit: int, refused: bool) -> None:
    """Cycles v0, ALLOW_WITH_OVERDRAFT: what a zero-limit scope caps away is not borrowed elsewhere."""
    authority.set_budget(ROOT, 20)
    authority.set_budget(LEAF, 15, overdraft_limit=limit)

    _, response = await settle(authority, 10, 40, "ALLOW_WITH_OVERDRAFT")

    if refused:
        assert_refused(response, 409, "OVERDRAFT_LIMIT_EXCEEDED")
        assert await authority.amounts(ROOT) == "10/10/0/0"
        assert await authority.amounts(LEAF) == "5/10/0/0"
    else:
        assert body_of(response)["charged"]["amount"] == 20
        assert await authority.amounts(ROOT) == "0/0/20/0!"
        assert await authority.amounts(LEAF) == "-5/0/15/5"


async def test_debt_may_reach_its_limit_and_not_pass_it(authority: Authority) -> None:
    """Cycles v0, OVERDRAFT_LIMIT_EXCEEDED: nothing moves, the reservation stays ACTIVE."""
    authority.set_budget(ROOT, 10, overdraft_limit=5)
    reservation_id, response = await settle(authority, 10, 16, "ALLOW_WITH_OVERDRAFT")

    authority.assert_denied(response, "OVERDRAFT_LIMIT_EXCEEDED", by=ROOT)
    assert await authority.amounts() == "0/10/0/0"
    assert await authority.state(reservation_id) == "ACTIVE"

    assert body_of(await authority.commit(reservation_id, 15))["charged"]["amount"] == 15
    assert await authority.amounts() == "-5/0/10/5"


async def test_debts_add_up(authority: Authority) -> None:
    """Cycles v0, ALLOW_WITH_OVERDRAFT: earlier debt counts towards the limit."""
    authority.set_budget(ROOT, 20, overdraft_limit=10)
    first = await authority.reserved(10, overage_policy="ALLOW_WITH_OVERDRAFT")
    second = await authority.reserved(10, overage_policy="ALLOW_WITH_OVERDRAFT")
    await authority.commit(first, 16)
    assert await authority.amounts() == "-6/10/10/6"

    assert_refused(await authority.commit(second, 15), 409, "OVERDRAFT_LIMIT_EXCEEDED")
    await authority.commit(second, 14)

    assert await authority.amounts() == "-10/0/20/10"


async def test_overdraft_is_not_touched_where_the_remainder_is_enough(authority: Authority) -> None:
    """Cycles v0, ALLOW_WITH_OVERDRAFT."""
    authority.set_budget(ROOT, 50, overdraft_limit=50)

    await settle(authority, 10, 50, "ALLOW_WITH_OVERDRAFT")

    assert await authority.amounts() == "0/0/50/0"


async def test_a_charge_past_64_bits_undoes_all_of_itself(authority: Authority) -> None:
    """Cycles v0, ATOMICITY: where the arithmetic ends, nothing has moved in any scope."""
    authority.require("overflow")
    authority.set_budget(ROOT, 100)
    authority.set_budget(LEAF, 0, spent=MAX_AMOUNT, overdraft_limit=MAX_AMOUNT)

    response = await authority.event(1, BOT, overage_policy="ALLOW_WITH_OVERDRAFT")

    assert_refused(response, 500, "INTERNAL_ERROR")
    assert await authority.amounts(ROOT) == "100/0/0/0"
    assert await authority.amounts(LEAF) == f"-{MAX_AMOUNT}/0/{MAX_AMOUNT}/0"
    assert authority.sql("SELECT count(*) FROM events") == [(0,)]
