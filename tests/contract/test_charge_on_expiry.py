"""``metadata: {"on_expiry": "charge"}``: what may have been spent is not handed back because nobody came to say so.

An extension of ours; Cycles v0 keeps the metadata and expires as usual.
"""

import pytest

from contract.answers import assert_refused, body_of
from contract.harness import BOT, LEAF, NOON_MS, ROOT, Authority

pytestmark = pytest.mark.anyio

CHARGE = {"on_expiry": "charge"}


async def expired(authority: Authority, estimate: int = 40, **fields: object) -> str:
    """Reserve on both scopes, to be charged, and let it expire."""
    reservation_id = await authority.reserved(estimate, BOT, ttl_ms=1_000, metadata=CHARGE, **fields)
    authority.clock.now_ms += 6_001
    return reservation_id


@pytest.fixture(autouse=True)
def budgets(authority: Authority) -> None:
    """A root and a leaf."""
    authority.require("on_expiry")
    authority.set_budget(ROOT, 100)
    authority.set_budget(LEAF, 60)


async def test_expiry_charges_the_estimate_and_says_whence_it_has_it(authority: Authority) -> None:
    """The bound is booked, marked as a bound, on every scope."""
    reservation_id = await expired(authority)

    body = body_of(await authority.get(reservation_id))

    assert body["status"] == "COMMITTED"
    assert body["committed"] == {"unit": "TOKENS", "amount": 40}
    assert body["finalized_at_ms"] == NOON_MS + 6_001
    assert body["committed_metadata"] == {"actual_source": "bound"}
    assert await authority.amounts(ROOT) == "60/0/40/0"
    assert await authority.amounts(LEAF) == "20/0/40/0"


async def test_in_its_grace_nothing_is_charged_yet(authority: Authority) -> None:
    """The same moment as the protocol's expiry."""
    await authority.reserved(40, BOT, ttl_ms=1_000, metadata=CHARGE)
    authority.clock.now_ms += 6_000

    assert await authority.amounts() == "60/40/0/0"


@pytest.mark.parametrize(
    ("actual", "root", "leaf"),
    [
        (0, "100/0/0/0", "60/0/0/0"),
        (25, "75/0/25/0", "35/0/25/0"),
        (40, "60/0/40/0", "20/0/40/0"),
        (55, "45/0/55/0", "5/0/55/0"),
    ],
)
async def test_the_first_commit_that_still_arrives_replaces_the_charge(
    authority: Authority, actual: int, root: str, leaf: str
) -> None:
    """Down and up, as though it had come in time."""
    reservation_id = await expired(authority)
    assert await authority.amounts(ROOT) == "60/0/40/0"

    body = body_of(await authority.commit(reservation_id, actual, metadata={"turn": 3}))

    assert body["charged"]["amount"] == actual
    assert body.get("released", {"amount": 0})["amount"] == max(40 - actual, 0)
    assert await authority.amounts(ROOT) == root
    assert await authority.amounts(LEAF) == leaf
    shown = body_of(await authority.get(reservation_id))
    assert shown["committed"]["amount"] == actual
    assert shown["committed_metadata"] == {"turn": 3}


async def test_the_late_commit_obeys_the_overage_policy(authority: Authority) -> None:
    """REJECT, what is available, and debt: each from the state before the provisional charge."""
    rejecting = await expired(authority, 10, overage_policy="REJECT")
    capped = await expired(authority, 10, overage_policy="ALLOW_IF_AVAILABLE")

    assert_refused(await authority.commit(rejecting, 51), 409, "BUDGET_EXCEEDED")
    assert await authority.amounts(LEAF) == "40/0/20/0"
    assert body_of(await authority.commit(capped, 80))["charged"]["amount"] == 50
    assert await authority.amounts(ROOT) == "40/0/60/0"
    assert await authority.amounts(LEAF) == "0/0/60/0!"
    assert body_of(await authority.commit(rejecting, 3))["charged"]["amount"] == 3
    assert await authority.amounts(LEAF) == "7/0/53/0!"


async def test_the_charge_is_replaced_only_once(authority: Authority) -> None:
    """A second commit under another key finds it settled; the same key replays."""
    reservation_id = await expired(authority)
    first = body_of(await authority.commit(reservation_id, 25, key="late"))

    assert body_of(await authority.commit(reservation_id, 25, key="late")) == first
    assert_refused(await authority.commit(reservation_id, 5), 409, "RESERVATION_FINALIZED")

    assert await authority.amounts(ROOT) == "75/0/25/0"


async def test_a_charge_by_expiry_cannot_be_released_or_extended(authority: Authority) -> None:
    """Only somebody who knows what was used may lower it."""
    reservation_id = await expired(authority)

    assert_refused(await authority.release(reservation_id), 409, "RESERVATION_FINALIZED")
    assert_refused(await authority.extend(reservation_id, 1), 409, "RESERVATION_FINALIZED")
    assert_refused(await authority.commit(reservation_id, 1, unit="CREDITS"), 400, "UNIT_MISMATCH")

    assert await authority.amounts(ROOT) == "60/0/40/0"


async def test_an_ordinary_expiry_takes_no_late_commit(authority: Authority) -> None:
    """Without the choice the protocol's rule stands."""
    reservation_id = await authority.reserved(40, ttl_ms=1_000, metadata={"on_expiry": "release"})
    authority.clock.now_ms += 6_001

    assert_refused(await authority.commit(reservation_id, 25), 410, "RESERVATION_EXPIRED")

    assert await authority.amounts() == "100/0/0/0"


async def test_a_commit_in_time_leaves_nothing_provisional(authority: Authority) -> None:
    """Committed by its client, a reservation is settled for good."""
    reservation_id = await authority.reserved(40, ttl_ms=1_000, metadata=CHARGE)
    await authority.commit(reservation_id, 25)
    authority.clock.now_ms += 60_000

    assert_refused(await authority.commit(reservation_id, 5), 409, "RESERVATION_FINALIZED")

    assert await authority.amounts() == "75/0/25/0"


async def test_a_release_in_time_is_a_release(authority: Authority) -> None:
    """A request that never left costs nothing."""
    reservation_id = await authority.reserved(40, ttl_ms=1_000, metadata=CHARGE)
    await authority.release(reservation_id)
    authority.clock.now_ms += 60_000

    assert await authority.amounts() == "100/0/0/0"


@pytest.mark.parametrize(
    ("made", "extended", "amounts"),
    [
        ("release", "charge", "60/0/40/0"),
        ("charge", "release", "100/0/0/0"),
        ("charge", None, "60/0/40/0"),
        ("release", None, "100/0/0/0"),
    ],
)
async def test_an_extension_may_choose_again(
    authority: Authority, made: str, extended: str | None, amounts: str
) -> None:
    """A turn asks for it at the moment its request may leave; an extension that says nothing changes nothing."""
    reservation_id = await authority.reserved(40, metadata={"on_expiry": made})
    await authority.extend(reservation_id, 1, metadata={} if extended is None else {"on_expiry": extended})
    authority.clock.now_ms += 100_000

    assert await authority.amounts() == amounts


@pytest.mark.parametrize("choice", ["maybe", ["charge"], None, 1])
async def test_another_value_is_the_clients_own_and_expires_as_usual(authority: Authority, choice: object) -> None:
    """Cycles v0, metadata: additionalProperties, whatever they are called."""
    reservation_id = await authority.reserved(40, ttl_ms=1_000, metadata={"on_expiry": choice})
    shown = body_of(await authority.get(reservation_id))

    authority.clock.now_ms += 60_000

    assert shown["metadata"] == {"on_expiry": choice}
    assert await authority.amounts() == "100/0/0/0"
