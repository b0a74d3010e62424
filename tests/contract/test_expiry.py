"""Expiry, grace and the clock: a lease ends when it ends, without a daemon and whatever the wall clock does."""

import pytest

from budget_server.authority.timekeeping import SWEEP_LIMIT
from contract.answers import assert_refused, body_of
from contract.harness import BOT, LEAF, ROOT, TENANT, Authority

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(("late_ms", "status"), [(0, 200), (1, 410)])
async def test_an_extension_has_no_grace(authority: Authority, late_ms: int, status: int) -> None:
    """Cycles v0, extendReservation: allowed while now <= expires_at_ms."""
    authority.set_budget(ROOT, 100)
    reservation_id = await authority.reserved(40, ttl_ms=1_000)
    authority.clock.now_ms += 1_000 + late_ms

    assert (await authority.extend(reservation_id, 1_000)).status == status


@pytest.mark.parametrize(("late_ms", "status"), [(0, 200), (1, 410)])
@pytest.mark.parametrize("grace_ms", [0, 5_000, None])
async def test_a_commit_and_a_release_have_grace(
    authority: Authority, grace_ms: int | None, late_ms: int, status: int
) -> None:
    """Cycles v0, commitReservation: allowed while now <= expires_at_ms + grace_period_ms (5 s by default)."""
    authority.set_budget(ROOT, 100)
    fields = {} if grace_ms is None else {"grace_period_ms": grace_ms}
    to_commit = await authority.reserved(40, TENANT, ttl_ms=1_000, **fields)
    to_release = await authority.reserved(40, TENANT, ttl_ms=1_000, **fields)
    authority.clock.now_ms += 1_000 + (5_000 if grace_ms is None else grace_ms) + late_ms

    assert (await authority.commit(to_commit, 10)).status == status
    assert (await authority.release(to_release)).status == status
    assert await authority.amounts() == ("90/0/10/0" if status == 200 else "100/0/0/0")


async def test_past_its_grace_a_reservation_is_gone_for_everyone_at_once(authority: Authority) -> None:
    """Cycles v0, RESERVATION_EXPIRED: no daemon is waited for."""
    authority.set_budget(ROOT, 100)
    reservation_id = await authority.reserved(40, ttl_ms=1_000)
    authority.clock.now_ms += 6_001

    assert await authority.amounts() == "100/0/0/0"
    for response in (
        await authority.commit(reservation_id, 1),
        await authority.release(reservation_id),
        await authority.extend(reservation_id, 1),
        await authority.get(reservation_id),
    ):
        assert_refused(response, 410, "RESERVATION_EXPIRED")
    (row,) = body_of(await authority.list())["reservations"]
    assert row["status"] == "EXPIRED"


async def test_what_a_dead_lease_held_can_be_reserved_again(authority: Authority) -> None:
    """Cycles v0, RESERVATION EXPIRY: swept in the transaction that it would mislead."""
    authority.set_budget(ROOT, 40)
    await authority.reserved(40, ttl_ms=1_000)
    authority.clock.now_ms += 6_000
    assert_refused(await authority.reserve(1), 409, "BUDGET_EXCEEDED")
    authority.clock.now_ms += 1

    assert (await authority.reserve(40)).status == 200


async def test_in_its_grace_a_reservation_still_holds(authority: Authority) -> None:
    """Cycles v0, RESERVATION EXPIRY."""
    authority.set_budget(ROOT, 100)
    reservation_id = await authority.reserved(40, ttl_ms=1_000)
    authority.clock.now_ms += 3_000

    assert await authority.amounts() == "60/40/0/0"
    assert body_of(await authority.get(reservation_id))["status"] == "ACTIVE"


async def test_what_expired_is_returned_once(authority: Authority) -> None:
    """Cycles v0, RESERVATION EXPIRY: a later sweep finds nothing to return."""
    authority.set_budget(ROOT, 100)
    authority.set_budget(LEAF, 60)
    await authority.reserved(40, BOT, ttl_ms=1_000)
    for _ in range(3):
        authority.clock.now_ms += 10_000
        assert await authority.amounts(ROOT) == "100/0/0/0"
        assert await authority.amounts(LEAF) == "60/0/0/0"


async def test_spend_of_an_expired_reservation_is_booked_once_as_an_event(authority: Authority) -> None:
    """Cycles v0, createEvent: the client's way on after 410, with the commit's own key, sent twice."""
    authority.set_budget(ROOT, 100)
    reservation_id = await authority.reserved(40, ttl_ms=1_000)
    authority.clock.now_ms += 60_000
    assert_refused(await authority.commit(reservation_id, 30, key="settle"), 410, "RESERVATION_EXPIRED")

    first = await authority.event(30, key="settle")
    second = await authority.event(30, key="settle")

    assert body_of(first) == body_of(second)
    assert await authority.amounts() == "70/0/30/0"


async def test_a_clock_set_back_revives_no_lease(authority: Authority) -> None:
    """Cycles v0, server time is authoritative: here it never runs backwards within a ledger."""
    authority.set_budget(ROOT, 100)
    reservation_id = await authority.reserved(40, ttl_ms=1_000, grace_period_ms=60_000)
    authority.clock.now_ms += 1_500
    assert_refused(await authority.extend(reservation_id, 1), 410, "RESERVATION_EXPIRED")
    authority.clock.now_ms -= 3_600_000

    assert_refused(await authority.extend(reservation_id, 1), 410, "RESERVATION_EXPIRED")
    assert body_of(await authority.reserve(1, ttl_ms=1_000))["expires_at_ms"] >= authority.clock.now_ms + 3_601_000


async def test_more_dead_leases_than_one_sweep_settles_mislead_nobody(authority: Authority) -> None:
    """Cycles v0, RESERVATION EXPIRY: a sweep is bounded, its answers are exact all the same."""
    held = SWEEP_LIMIT + 500
    authority.set_budget(ROOT, held)
    reservation_id = await authority.reserved(1, ttl_ms=1_000)
    _copy_reservation(authority, held - 1)
    authority.clock.now_ms += 60_000

    # The first transaction that looks has more to settle than one sweep does.
    body = body_of(await authority.event(held, overage_policy="ALLOW_IF_AVAILABLE"))

    assert "charged" not in body
    assert await authority.amounts() == f"0/0/{held}/0"
    assert_refused(await authority.get(reservation_id), 410, "RESERVATION_EXPIRED")
    assert authority.sql("SELECT count(*) FROM reservations WHERE state = 'ACTIVE'") == [(0,)]


@pytest.mark.parametrize("operation", ["reserve", "commit", "get", "decide"])
async def test_the_one_that_is_asked_about_is_settled_however_many_are_due(
    authority: Authority, operation: str
) -> None:
    """Cycles v0, RESERVATION EXPIRY: reserve sees all that is free; a dead lease is dead even while unswept."""
    authority.require("sql")
    held = 2 * SWEEP_LIMIT + 10
    authority.set_budget(ROOT, held + 10)
    fresh = await authority.reserved(10, overage_policy="ALLOW_IF_AVAILABLE")
    await authority.reserved(1, ttl_ms=1_000)
    _copy_reservation(authority, held - 1)
    authority.clock.now_ms += 30_000
    if operation == "reserve":
        assert (await authority.reserve(held)).status == 200
    elif operation == "decide":
        assert body_of(await authority.decide(held))["decision"] == "ALLOW"
    elif operation == "commit":
        assert body_of(await authority.commit(fresh, held + 10))["charged"]["amount"] == held + 10
    else:
        assert_refused(await authority.get(f"copy-{held - 1:05}"), 410, "RESERVATION_EXPIRED")

    # Bounded sweeps, all gone in the end.
    for _ in range(3):
        await authority.balances(tenant="acme")
    assert authority.sql(
        "SELECT count(*) FROM reservations WHERE reservation_id LIKE 'copy%' AND state = 'ACTIVE'"
    ) == [(0,)]


def _copy_reservation(authority: Authority, copies: int) -> None:
    """Multiply the shortest-lived reservation, as that many callers would have done."""
    authority.sql(
        "WITH RECURSIVE number(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM number WHERE n < ?)"
        " INSERT INTO reservations (reservation_id, tenant, state, unit, estimate, scope_path, affected_scopes,"
        " budgeted_scopes, subject, action, idempotency_key, overage_policy, created_at_ms, expires_at_ms, grace_ms,"
        " extensions_left) SELECT printf('copy-%05d', n), tenant, state, unit, estimate, scope_path, affected_scopes,"
        " budgeted_scopes, subject, action, 'copy-' || n, overage_policy, created_at_ms, expires_at_ms, grace_ms,"
        " extensions_left FROM number, (SELECT * FROM reservations ORDER BY expires_at_ms LIMIT 1)",
        copies,
    )
    authority.sql("UPDATE budgets SET reserved = reserved + ?, remaining = remaining - ?", copies, copies)
