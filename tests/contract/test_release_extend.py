"""Giving back, and keeping alive."""

import pytest

from contract.answers import assert_refused, body_of
from contract.harness import BOT, LEAF, NOON_MS, ROOT, Authority

pytestmark = pytest.mark.anyio


async def test_a_release_gives_all_of_it_back_on_every_scope(authority: Authority) -> None:
    """Cycles v0, releaseReservation."""
    authority.set_budget(ROOT, 100)
    authority.set_budget(LEAF, 50)
    reservation_id = await authority.reserved(40, BOT)

    body = body_of(await authority.release(reservation_id, reason="not needed"))

    assert body["status"] == "RELEASED"
    assert body["released"] == {"unit": "TOKENS", "amount": 40}
    assert len(body["balances"]) == 2
    assert await authority.amounts(ROOT) == "100/0/0/0"
    assert await authority.amounts(LEAF) == "50/0/0/0"


async def test_a_released_reservation_takes_no_other_settlement(authority: Authority) -> None:
    """Cycles v0, RESERVATION_FINALIZED, also under the key that released it."""
    authority.set_budget(ROOT, 100)
    reservation_id = await authority.reserved(40)
    await authority.release(reservation_id, key="first")

    assert_refused(await authority.release(reservation_id), 409, "RESERVATION_FINALIZED")
    assert_refused(await authority.commit(reservation_id, 1), 409, "RESERVATION_FINALIZED")
    assert_refused(await authority.commit(reservation_id, 1, key="first"), 409, "RESERVATION_FINALIZED")
    assert body_of(await authority.get(reservation_id))["status"] == "RELEASED"


async def test_an_extension_counts_from_the_old_expiry(authority: Authority) -> None:
    """Cycles v0, extendReservation: expires_at_ms += extend_by_ms, whenever it is asked for."""
    authority.set_budget(ROOT, 100)
    reservation_id = await authority.reserved(40, ttl_ms=10_000)
    before_ms = await authority.expiry_ms(reservation_id)

    body = body_of(await authority.extend(reservation_id, 5_000))

    assert body["status"] == "ACTIVE"
    assert body["expires_at_ms"] == before_ms + 5_000
    assert body["balances"][0]["reserved"]["amount"] == 40


async def test_an_extension_says_what_time_is_left(authority: Authority) -> None:
    """Cycles v0, ReservationExtendResponse.remaining_ttl_ms: counted from the server's now."""
    authority.set_budget(ROOT, 100)
    reservation_id = await authority.reserved(40, ttl_ms=1_000)
    authority.clock.now_ms += 400

    body = body_of(await authority.extend(reservation_id, 5_000))

    assert body["expires_at_ms"] == NOON_MS + 6_000
    assert body["remaining_ttl_ms"] == 5_600


async def test_extensions_are_counted(authority: Authority) -> None:
    """Cycles v0, MAX_EXTENSIONS_EXCEEDED: tenant settings, max_reservation_extensions."""
    authority.set_tenant(max_extensions=2)
    authority.set_budget(ROOT, 100)
    reservation_id = await authority.reserved(40)
    before_ms = await authority.expiry_ms(reservation_id)

    assert (await authority.extend(reservation_id, 1)).status == 200
    assert (await authority.extend(reservation_id, 1)).status == 200
    assert_refused(await authority.extend(reservation_id, 1), 409, "MAX_EXTENSIONS_EXCEEDED")

    assert await authority.expiry_ms(reservation_id) == before_ms + 2


async def test_the_number_of_extensions_is_pinned_when_the_reservation_is_made(authority: Authority) -> None:
    """Cycles v0, tenant settings: max_reservation_extensions is about creation."""
    authority.set_budget(ROOT, 100)
    authority.set_tenant(max_extensions=1)
    reservation_id = await authority.reserved(40)
    authority.set_tenant(max_extensions=10)
    await authority.extend(reservation_id, 1)

    assert_refused(await authority.extend(reservation_id, 1), 409, "MAX_EXTENSIONS_EXCEEDED")


async def test_ten_extensions_are_the_default(authority: Authority) -> None:
    """Cycles v0, tenant settings: max_reservation_extensions."""
    authority.set_budget(ROOT, 100)
    reservation_id = await authority.reserved(40)

    statuses = [(await authority.extend(reservation_id, 1)).status for _ in range(11)]

    assert statuses == [200] * 10 + [409]


async def test_the_tenants_longest_lease_does_not_bound_extensions(authority: Authority) -> None:
    """Cycles v0, tenant settings: max_reservation_ttl_ms is about creation."""
    authority.set_tenant(max_ttl_ms=5_000)
    authority.set_budget(ROOT, 100)
    reservation_id = await authority.reserved(40)
    before_ms = await authority.expiry_ms(reservation_id)

    assert body_of(await authority.extend(reservation_id, 60_000))["expires_at_ms"] == before_ms + 60_000


@pytest.mark.parametrize("ms", [0, -1, 86_400_001, None, "5", 1.5])
async def test_an_extension_has_bounds(authority: Authority, ms: object) -> None:
    """Cycles v0, ReservationExtendRequest.extend_by_ms: 1 to 86,400,000, required."""
    if isinstance(ms, str | float):
        authority.require("strict types")
    authority.set_budget(ROOT, 100)
    reservation_id = await authority.reserved(40)

    authority.assert_invalid(await authority.extend(reservation_id, ms), "extend_by_ms")

    assert (await authority.extend(reservation_id, 86_400_000)).status == 200
