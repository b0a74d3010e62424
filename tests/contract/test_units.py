"""Units: each is a budget of its own, and none is taken for another."""

import pytest

from contract.answers import assert_refused, body_of
from contract.harness import BOT, LEAF, ROOT, Authority

pytestmark = pytest.mark.anyio


async def test_a_budget_in_another_unit_only_is_a_mismatch_that_names_the_units(authority: Authority) -> None:
    """Cycles v0, UNIT_MISMATCH: a 400 on reserve, dry run, decide and event alike, with details."""
    authority.set_budget(LEAF, 100, unit="USD_MICROCENTS")
    authority.set_budget(LEAF, 100, unit="CREDITS")

    for response in (
        await authority.reserve(1, BOT),
        await authority.reserve(1, BOT, dry_run=True),
        await authority.decide(1, BOT),
        await authority.event(1, BOT),
    ):
        details = assert_refused(response, 400, "UNIT_MISMATCH")["details"]
        assert (details["scope"], details["requested_unit"]) == (LEAF, "TOKENS")
        assert sorted(details["expected_units"]) == ["CREDITS", "USD_MICROCENTS"]


@pytest.mark.parametrize("unit", ["USD_MICROCENTS", "TOKENS", "CREDITS", "RISK_POINTS"])
async def test_only_the_budget_of_the_unit_moves(authority: Authority, unit: str) -> None:
    """Cycles v0, UnitEnum: four units side by side at one scope."""
    for each in ("USD_MICROCENTS", "TOKENS", "CREDITS", "RISK_POINTS"):
        authority.set_budget(ROOT, 100, unit=each)

    reservation_id = await authority.reserved(5, unit=unit)
    body = body_of(await authority.commit(reservation_id, 3, unit=unit))

    assert body["charged"] == {"unit": unit, "amount": 3}
    for each in ("USD_MICROCENTS", "TOKENS", "CREDITS", "RISK_POINTS"):
        assert await authority.amounts(ROOT, each) == ("97/0/3/0" if each == unit else "100/0/0/0")


async def test_a_scope_with_another_unit_is_skipped_where_some_scope_has_the_right_one(authority: Authority) -> None:
    """Cycles v0, SCOPE DERIVATION."""
    authority.set_budget(ROOT, 100)
    authority.set_budget(LEAF, 100, unit="CREDITS")

    assert (await authority.reserve(5, BOT)).status == 200

    assert await authority.amounts(LEAF, "CREDITS") == "100/0/0/0"


async def test_a_commit_in_another_unit_is_a_mismatch_and_settles_nothing(authority: Authority) -> None:
    """Cycles v0, commitReservation: UNIT_MISMATCH; the reservation stays ACTIVE."""
    authority.set_budget(ROOT, 100)
    authority.set_budget(ROOT, 100, unit="CREDITS")
    reservation_id = await authority.reserved(5)

    assert_refused(await authority.commit(reservation_id, 3, unit="CREDITS"), 400, "UNIT_MISMATCH")

    assert await authority.state(reservation_id) == "ACTIVE"
    assert (await authority.commit(reservation_id, 3)).status == 200


async def test_an_expired_reservation_is_expired_in_every_unit(authority: Authority) -> None:
    """Cycles v0, commitReservation: state is judged before the unit."""
    authority.set_budget(ROOT, 100)
    reservation_id = await authority.reserved(5)
    authority.clock.now_ms += 100_000

    assert_refused(await authority.commit(reservation_id, 3, unit="CREDITS"), 410, "RESERVATION_EXPIRED")
