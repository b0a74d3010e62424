"""Reserving: which budgets are asked, in which order, and what a yes or a no looks like."""

import pytest

from contract.answers import assert_refused, body_of
from contract.harness import BOT, LEAF, MAX_AMOUNT, ROOT, TENANT, Authority

pytestmark = pytest.mark.anyio


async def test_a_reserve_moves_the_estimate_from_remaining_to_reserved(authority: Authority) -> None:
    """Cycles v0, createReservation: the whole answer, field by field."""
    authority.set_budget(ROOT, 100)

    body = body_of(await authority.reserve(40, ttl_ms=30_000))

    shown = body_of(await authority.get(body.pop("reservation_id")))
    assert body == {
        "decision": "ALLOW",
        "affected_scopes": [ROOT],
        "scope_path": ROOT,
        "reserved": {"unit": "TOKENS", "amount": 40},
        "expires_at_ms": shown["created_at_ms"] + 30_000,
        "remaining_ttl_ms": 30_000,
        "balances": [
            {
                "scope": ROOT,
                "scope_path": ROOT,
                "remaining": {"unit": "TOKENS", "amount": 60},
                "reserved": {"unit": "TOKENS", "amount": 40},
                "spent": {"unit": "TOKENS", "amount": 0},
                "allocated": {"unit": "TOKENS", "amount": 100},
            }
        ],
    }
    assert await authority.amounts() == "60/40/0/0"


async def test_without_any_budget_a_reserve_is_not_found_and_names_the_scope(authority: Authority) -> None:
    """Cycles v0, createReservation: at least one derived scope must have a budget."""
    body = assert_refused(await authority.reserve(1, BOT), 404, "NOT_FOUND")

    assert LEAF in body["message"]


async def test_scopes_without_a_budget_are_skipped_but_listed_as_affected(authority: Authority) -> None:
    """Cycles v0, SCOPE DERIVATION."""
    authority.set_budget(ROOT, 100)

    body = body_of(await authority.reserve(40, BOT))

    assert body["affected_scopes"] == [ROOT, LEAF]
    assert [balance["scope_path"] for balance in body["balances"]] == [ROOT]


async def test_one_short_scope_refuses_the_whole_and_moves_nothing(authority: Authority) -> None:
    """Cycles v0, ATOMICITY: all scopes or none; the denial says which scope and what remains there."""
    authority.set_budget(ROOT, 100)
    authority.set_budget(LEAF, 30)

    authority.assert_denied(await authority.reserve(40, BOT), "BUDGET_EXCEEDED", by=LEAF, remaining=30)

    assert await authority.amounts(ROOT) == "100/0/0/0"
    assert await authority.amounts(LEAF) == "30/0/0/0"


async def test_a_budget_can_be_reserved_to_the_last_unit_and_no_further(authority: Authority) -> None:
    """Cycles v0, createReservation: remaining must cover the estimate."""
    authority.set_budget(ROOT, 100)
    await authority.reserved(50)
    await authority.reserved(50)

    assert_refused(await authority.reserve(1), 409, "BUDGET_EXCEEDED")

    assert await authority.amounts() == "0/100/0/0"


async def test_nothing_can_be_reserved_from_an_empty_budget(authority: Authority) -> None:
    """Cycles v0, Amount: zero is a legal estimate."""
    authority.set_budget(ROOT, 0)

    assert (await authority.reserve(0)).status == 200


async def test_not_even_nothing_can_be_reserved_from_a_negative_budget(authority: Authority) -> None:
    """Cycles v0, createReservation: overdraft is never used by a reserve."""
    authority.set_budget(ROOT, 100, overdraft_limit=50)
    await authority.event(130, overage_policy="ALLOW_WITH_OVERDRAFT")

    assert_refused(await authority.reserve(0), 409, "BUDGET_EXCEEDED")


async def test_paths_match_literally(authority: Authority) -> None:
    """Cycles v0, SCOPE DERIVATION: a level in between makes another path."""
    authority.set_budget(LEAF, 10)

    response = await authority.reserve(1, {"tenant": "acme", "workspace": "w", "agent": "bot"})

    assert "workspace:w/agent:bot" in assert_refused(response, 404, "NOT_FOUND")["message"]


async def test_every_level_comes_in_the_canonical_order(authority: Authority) -> None:
    """Cycles v0, SCOPE DERIVATION: tenant, workspace, app, workflow, agent, toolset."""
    authority.set_budget(ROOT, 10)
    subject = {"toolset": "t", "agent": "a", "workflow": "f", "app": "p", "workspace": "w", "tenant": "acme"}

    body = body_of(await authority.reserve(1, subject))

    assert body["scope_path"] == "tenant:acme/workspace:w/app:p/workflow:f/agent:a/toolset:t"
    assert len(body["affected_scopes"]) == 6


async def test_a_subject_without_a_tenant_does_not_reach_the_tenants_budget(authority: Authority) -> None:
    """Cycles v0, SCOPE DERIVATION: absent levels are not filled in."""
    authority.set_budget(ROOT, 100)

    response = await authority.reserve(1, {"agent": "bot"})

    assert "agent:bot" in assert_refused(response, 404, "NOT_FOUND")["message"]


async def test_scopes_are_lower_case_and_the_subject_is_shown_as_sent(authority: Authority) -> None:
    """Cycles v0, SCOPE DERIVATION."""
    authority.set_budget(LEAF, 10)

    body = body_of(await authority.reserve(1, {"tenant": "acme", "agent": "BoT"}))

    assert body["scope_path"] == LEAF
    shown = body_of(await authority.get(body["reservation_id"]))
    assert shown["subject"] == {"tenant": "acme", "agent": "BoT"}


async def test_another_tenant_is_forbidden_even_by_case(authority: Authority) -> None:
    """Cycles v0, AUTHENTICATION: subject.tenant must equal the effective tenant."""
    authority.set_budget(ROOT, 100)

    for tenant in ("ACME", "globex"):
        assert_refused(await authority.reserve(1, {"tenant": tenant}), 403, "FORBIDDEN")
        assert_refused(await authority.event(1, {"tenant": tenant}), 403, "FORBIDDEN")
        assert_refused(await authority.decide(1, {"tenant": tenant}), 403, "FORBIDDEN")


async def test_a_budget_over_its_limit_takes_no_reservation(authority: Authority) -> None:
    """Cycles v0, createReservation: the flag refuses whatever remains."""
    authority.set_budget(ROOT, 50, is_over_limit=True)

    assert_refused(await authority.reserve(1), 409, "OVERDRAFT_LIMIT_EXCEEDED")


async def test_debt_blocks_a_budget_that_may_not_owe(authority: Authority) -> None:
    """Cycles v0, createReservation."""
    authority.set_budget(ROOT, 100, debt=5)

    assert_refused(await authority.reserve(1), 409, "DEBT_OUTSTANDING")


async def test_debt_within_a_limit_does_not_block(authority: Authority) -> None:
    """Cycles v0, createReservation: only a limit of zero makes debt a refusal."""
    authority.set_budget(ROOT, 0, overdraft_limit=10)
    await authority.event(5, overage_policy="ALLOW_WITH_OVERDRAFT")
    authority.change_budget(ROOT, allocated=100)
    assert await authority.amounts() == "95/0/0/5"

    assert (await authority.reserve(1)).status == 200


async def test_of_several_reasons_the_protocols_first_is_given(authority: Authority) -> None:
    """Cycles v0, createReservation: frozen, over limit, debt, remaining."""
    authority.set_budget(ROOT, 9, debt=5, is_over_limit=True, status="FROZEN")

    assert_refused(await authority.reserve(5), 409, "BUDGET_FROZEN")
    authority.change_budget(ROOT, status="ACTIVE")
    assert_refused(await authority.reserve(5), 409, "OVERDRAFT_LIMIT_EXCEEDED")
    authority.change_budget(ROOT, is_over_limit=False)
    assert_refused(await authority.reserve(5), 409, "DEBT_OUTSTANDING")
    authority.change_budget(ROOT, overdraft_limit=10)
    assert_refused(await authority.reserve(5), 409, "BUDGET_EXCEEDED")


async def test_a_closed_budget_takes_no_reservation(authority: Authority) -> None:
    """Cycles v0, ErrorCode BUDGET_CLOSED."""
    authority.set_budget(ROOT, 100, status="CLOSED")

    assert_refused(await authority.reserve(1), 409, "BUDGET_CLOSED")


async def test_the_root_is_asked_before_the_leaf(authority: Authority) -> None:
    """Cycles v0, createReservation: scopes are checked root to leaf, the first failure is the answer."""
    authority.set_budget(ROOT, 1)
    authority.set_budget(LEAF, 100, status="FROZEN")

    authority.assert_denied(await authority.reserve(5, BOT), "BUDGET_EXCEEDED", by=ROOT)


async def test_a_lease_is_silently_cut_to_the_tenants_maximum(authority: Authority) -> None:
    """Cycles v0, tenant settings: max_reservation_ttl_ms."""
    authority.set_tenant(max_ttl_ms=5_000)
    authority.set_budget(ROOT, 100)

    assert body_of(await authority.reserve(1, ttl_ms=60_000))["remaining_ttl_ms"] == 5_000


async def test_a_lease_without_a_length_takes_a_minute(authority: Authority) -> None:
    """Cycles v0, tenant settings: default_reservation_ttl_ms, where the tenant has none."""
    authority.set_budget(ROOT, 100)

    assert body_of(await authority.reserve(1))["remaining_ttl_ms"] == 60_000


async def test_a_lease_without_a_length_takes_the_tenants_default(authority: Authority) -> None:
    """Cycles v0, tenant settings: default_reservation_ttl_ms."""
    authority.set_tenant(default_ttl_ms=7_000)
    authority.set_budget(ROOT, 100)

    assert body_of(await authority.reserve(1))["remaining_ttl_ms"] == 7_000


@pytest.mark.parametrize("fields", [{"ttl_ms": 1_000}, {"ttl_ms": 86_400_000}, {"grace_period_ms": 0},
                                    {"grace_period_ms": 60_000}])  # fmt: skip
async def test_times_are_accepted_to_their_edges(authority: Authority, fields: dict[str, int]) -> None:
    """Cycles v0, ReservationCreateRequest: ttl_ms and grace_period_ms."""
    authority.set_budget(ROOT, 100)

    assert (await authority.reserve(1, TENANT, **fields)).status == 200


async def test_the_caps_of_the_deepest_budget_come_with_the_yes(authority: Authority) -> None:
    """Cycles v0, THREE-WAY DECISION: ALLOW_WITH_CAPS carries caps, ALLOW does not."""
    authority.set_budget(ROOT, 100, caps={"max_tokens": 500, "tool_denylist": ["shell"]})

    plain = body_of(await authority.reserve(1, TENANT))
    skipped_leaf = body_of(await authority.reserve(1, BOT))
    authority.set_budget(LEAF, 100)
    deepest_without = body_of(await authority.reserve(1, BOT))

    assert plain["decision"] == skipped_leaf["decision"] == "ALLOW_WITH_CAPS"
    assert plain["caps"] == skipped_leaf["caps"] == {"max_tokens": 500, "tool_denylist": ["shell"]}
    assert deepest_without["decision"] == "ALLOW"
    assert "caps" not in deepest_without


async def test_the_largest_amount_can_be_held_and_settled(authority: Authority) -> None:
    """Cycles v0, Amount: int64."""
    authority.set_budget(ROOT, MAX_AMOUNT)
    reservation_id = await authority.reserved(MAX_AMOUNT)

    assert body_of(await authority.commit(reservation_id, MAX_AMOUNT))["charged"]["amount"] == MAX_AMOUNT

    assert await authority.amounts() == f"0/0/{MAX_AMOUNT}/0"


async def test_a_closed_tenant_changes_nothing_any_more_and_can_still_be_read(authority: Authority) -> None:
    """Cycles v0, TENANT_CLOSED."""
    authority.set_budget(ROOT, 100)
    reservation_id = await authority.reserved(10)
    authority.set_tenant(status="CLOSED")

    for response in (
        await authority.reserve(1),
        await authority.event(1),
        await authority.commit(reservation_id, 1),
        await authority.release(reservation_id),
        await authority.extend(reservation_id, 1),
    ):
        assert_refused(response, 409, "TENANT_CLOSED")

    assert await authority.amounts() == "90/10/0/0"
    assert body_of(await authority.get(reservation_id))["status"] == "ACTIVE"
