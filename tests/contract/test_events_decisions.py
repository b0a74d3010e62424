"""Events, decisions and dry runs: spending without a reservation, and asking without spending."""

import pytest

from contract.answers import assert_refused, body_of
from contract.harness import BOT, LEAF, ROOT, TENANT, Authority

pytestmark = pytest.mark.anyio


async def test_an_event_debits_and_says_so(authority: Authority) -> None:
    """Cycles v0, createEvent: 201 APPLIED; ``charged`` only where it was capped."""
    authority.set_budget(ROOT, 100)
    authority.set_budget(LEAF, 50)

    body = body_of(await authority.event(30, BOT, client_time_ms=1, metrics={"custom": {"a": [1, "b"]}}))

    assert body.pop("event_id")
    assert set(body) == {"status", "balances"}
    assert body["status"] == "APPLIED"
    assert await authority.amounts(ROOT) == "70/0/30/0"
    assert await authority.amounts(LEAF) == "20/0/30/0"


async def test_an_event_is_capped_at_what_the_poorest_scope_has(authority: Authority) -> None:
    """Cycles v0, ALLOW_IF_AVAILABLE without an estimate: flags exactly the short scopes, then charges nothing more."""
    authority.set_budget(ROOT, 100)
    authority.set_budget(LEAF, 10)

    capped = body_of(await authority.event(15, BOT))
    nothing = body_of(await authority.event(0, BOT))
    empty = body_of(await authority.event(5, BOT))

    assert capped["charged"] == {"unit": "TOKENS", "amount": 10}
    assert "charged" not in nothing
    assert empty["charged"]["amount"] == 0
    assert await authority.amounts(ROOT) == "90/0/10/0"
    assert await authority.amounts(LEAF) == "0/0/10/0!"


async def test_an_event_of_nothing_flags_nothing(authority: Authority) -> None:
    """Cycles v0, ALLOW_IF_AVAILABLE: a scope is over its limit where a charge was capped, and zero is not capped."""
    authority.set_budget(ROOT, 10, overdraft_limit=10)
    await authority.event(15, overage_policy="ALLOW_WITH_OVERDRAFT")

    for policy in ("ALLOW_IF_AVAILABLE", "ALLOW_WITH_OVERDRAFT"):
        assert "charged" not in body_of(await authority.event(0, overage_policy=policy))

    assert await authority.amounts() == "-5/0/10/5"


async def test_an_event_under_reject_must_fit(authority: Authority) -> None:
    """Cycles v0, REJECT."""
    authority.set_budget(ROOT, 100)

    assert_refused(await authority.event(101, overage_policy="REJECT"), 409, "BUDGET_EXCEEDED")
    assert (await authority.event(100, overage_policy="REJECT")).status == 201

    assert await authority.amounts() == "0/0/100/0"


async def test_an_event_may_owe_to_the_limit(authority: Authority) -> None:
    """Cycles v0, ALLOW_WITH_OVERDRAFT without an estimate."""
    authority.set_budget(ROOT, 10, overdraft_limit=100)

    body = body_of(await authority.event(15, overage_policy="ALLOW_WITH_OVERDRAFT"))
    assert "charged" not in body
    assert await authority.amounts() == "-5/0/10/5"
    assert_refused(await authority.event(96, overage_policy="ALLOW_WITH_OVERDRAFT"), 409, "OVERDRAFT_LIMIT_EXCEEDED")
    await authority.event(95, overage_policy="ALLOW_WITH_OVERDRAFT")

    assert await authority.amounts() == "-100/0/10/100"


async def test_the_tenants_overage_policy_holds_for_events(authority: Authority) -> None:
    """Cycles v0, EventCreateRequest.overage_policy."""
    authority.set_tenant(default_overage_policy="REJECT")
    authority.set_budget(ROOT, 10)

    assert_refused(await authority.event(11), 409, "BUDGET_EXCEEDED")


@pytest.mark.parametrize("status", ["FROZEN", "CLOSED"])
async def test_an_event_is_refused_by_a_frozen_or_closed_budget(authority: Authority, status: str) -> None:
    """Cycles v0, createEvent."""
    authority.set_budget(ROOT, 100)
    authority.set_budget(LEAF, 100, status=status)

    assert_refused(await authority.event(1, BOT), 409, f"BUDGET_{status}")

    assert await authority.amounts(ROOT) == "100/0/0/0"


async def test_an_event_asks_scope_by_scope_from_the_root(authority: Authority) -> None:
    """Cycles v0, createEvent: a short root under REJECT is named before a frozen leaf."""
    authority.set_budget(ROOT, 1)
    authority.set_budget(LEAF, 100, status="FROZEN")

    assert_refused(await authority.event(5, BOT, overage_policy="REJECT"), 409, "BUDGET_EXCEEDED")
    assert_refused(await authority.event(5, BOT), 409, "BUDGET_FROZEN")


async def test_debt_and_the_flag_do_not_block_events(authority: Authority) -> None:
    """Cycles v0, createEvent: what has happened is booked."""
    authority.set_budget(ROOT, 100, debt=5, is_over_limit=True)

    assert (await authority.event(1)).status == 201


async def test_an_event_needs_a_budget(authority: Authority) -> None:
    """Cycles v0, NOT_FOUND."""
    assert_refused(await authority.event(1), 404, "NOT_FOUND")


@pytest.mark.parametrize(
    ("budget", "code"),
    [
        ({"allocated": 4}, "BUDGET_EXCEEDED"),
        ({"allocated": 100, "status": "FROZEN"}, "BUDGET_FROZEN"),
        ({"allocated": 100, "status": "CLOSED"}, "BUDGET_CLOSED"),
        ({"allocated": 100, "is_over_limit": True}, "OVERDRAFT_LIMIT_EXCEEDED"),
        ({"allocated": 100, "debt": 5}, "DEBT_OUTSTANDING"),
        (None, "BUDGET_NOT_FOUND"),
    ],
)
async def test_what_a_reserve_would_refuse_is_an_answer_here(
    authority: Authority, budget: dict[str, int] | None, code: str
) -> None:
    """Cycles v0, decide and dry_run: 200 DENY with the reason, without balances or an amount held."""
    if budget is not None:
        authority.set_budget(ROOT, **budget)  # type: ignore[arg-type]

    decision = body_of(await authority.decide(5, BOT))
    dry_run = body_of(await authority.reserve(5, BOT, dry_run=True))

    assert decision == {"decision": "DENY", "reason_code": code, "affected_scopes": [ROOT, LEAF]}
    assert dry_run == {**decision, "scope_path": LEAF}


async def test_a_closed_tenant_is_a_denial_here(authority: Authority) -> None:
    """Cycles v0, decide: TENANT_CLOSED is a reason, not an error."""
    authority.set_budget(ROOT, 100)
    authority.set_tenant(status="CLOSED")

    assert body_of(await authority.decide(5))["reason_code"] == "TENANT_CLOSED"
    assert body_of(await authority.reserve(5, dry_run=True))["reason_code"] == "TENANT_CLOSED"


async def test_a_dry_run_says_yes_and_holds_nothing(authority: Authority) -> None:
    """Cycles v0, dry_run: no reservation_id, no expiry; balances as they are."""
    authority.set_budget(ROOT, 100)

    body = body_of(await authority.reserve(40, TENANT, dry_run=True))

    assert set(body) == {"decision", "affected_scopes", "scope_path", "reserved", "balances"}
    assert body["decision"] == "ALLOW"
    assert body["reserved"]["amount"] == 40
    assert body["balances"][0]["remaining"]["amount"] == 100
    assert await authority.amounts() == "100/0/0/0"
    assert body_of(await authority.list())["reservations"] == []


async def test_a_dry_run_tells_the_caps(authority: Authority) -> None:
    """Cycles v0, dry_run: ALLOW_WITH_CAPS as a live reserve would say it."""
    authority.set_budget(ROOT, 100, caps={"max_tokens": 5})

    body = body_of(await authority.reserve(40, TENANT, dry_run=True))

    assert (body["decision"], body["caps"]) == ("ALLOW_WITH_CAPS", {"max_tokens": 5})
    assert await authority.amounts() == "100/0/0/0"


async def test_a_decision_says_yes_and_nothing_else(authority: Authority) -> None:
    """Cycles v0, DecisionResponse."""
    authority.set_budget(ROOT, 100)

    assert body_of(await authority.decide(40)) == {"decision": "ALLOW", "affected_scopes": [ROOT]}
