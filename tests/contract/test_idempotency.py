"""Idempotency: the first answer is the answer; another payload under its key is an error; refusals are never kept."""

from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import pytest
from runcycles import CyclesResponse

from contract.answers import assert_refused, body_of, lasting
from contract.harness import BOT, NOON_MS, ROOT, TENANT, Authority

pytestmark = pytest.mark.anyio


async def test_a_repeated_reserve_holds_once_and_gives_the_first_answer(authority: Authority) -> None:
    """Cycles v0, IDEMPOTENCY: verbatim, old balances and all."""
    authority.set_budget(ROOT, 100)
    first = body_of(await authority.reserve(40, key="k"))
    await authority.reserved(10)

    assert lasting(body_of(await authority.reserve(40, key="k"))) == lasting(first)

    assert await authority.amounts() == "50/50/0/0"


async def test_the_key_order_of_a_payload_makes_no_difference(authority: Authority) -> None:
    """Cycles v0, IDEMPOTENCY: payloads are compared as canonical JSON."""
    authority.require("canonical payloads")
    authority.set_budget(ROOT, 100)
    first = body_of(await authority.reserve(40, key="k", metadata={"a": 1, "b": {"c": 2, "d": 3}}))

    again = await authority.reserve(40, key="k", metadata={"b": {"d": 3, "c": 2}, "a": 1})

    assert body_of(again) == first


@pytest.mark.parametrize("explicit", [{"grace_period_ms": 5_000}, {"dry_run": False}])
async def test_a_default_that_is_sent_is_the_same_payload(authority: Authority, explicit: dict[str, Any]) -> None:
    """Cycles v0, IDEMPOTENCY: these two defaults count as sent."""
    authority.set_budget(ROOT, 100)
    first = body_of(await authority.reserve(40, key="k"))

    assert lasting(body_of(await authority.reserve(40, key="k", **explicit))) == lasting(first)


@pytest.mark.parametrize(
    "other",
    [
        {"ttl_ms": 60_000},
        {"overage_policy": "ALLOW_IF_AVAILABLE"},
        {"dry_run": True},
        {"grace_period_ms": 4_999},
        {"metadata": {"a": 1}},
    ],
)
async def test_another_payload_under_the_same_key_is_refused(authority: Authority, other: dict[str, Any]) -> None:
    """Cycles v0, IDEMPOTENCY_MISMATCH: everything counts, and what was left out is not its default."""
    authority.set_budget(ROOT, 100)
    await authority.reserved(40, key="k")

    assert_refused(await authority.reserve(40, key="k", **other), 409, "IDEMPOTENCY_MISMATCH")
    assert_refused(await authority.reserve(41, key="k"), 409, "IDEMPOTENCY_MISMATCH")
    assert_refused(await authority.reserve(40, BOT, key="k"), 409, "IDEMPOTENCY_MISMATCH")

    assert await authority.amounts() == "60/40/0/0"


async def test_a_refused_key_is_judged_afresh(authority: Authority) -> None:
    """Cycles v0, IDEMPOTENCY: only successes are kept."""
    assert_refused(await authority.reserve(40, key="k"), 404, "NOT_FOUND")
    authority.set_budget(ROOT, 10)
    assert_refused(await authority.reserve(40, key="k"), 409, "BUDGET_EXCEEDED")
    authority.change_budget(ROOT, allocated=100)

    assert (await authority.reserve(50, key="k")).status == 200


async def test_a_replayed_reserve_tells_the_time_that_is_left(authority: Authority) -> None:
    """Cycles v0, remaining_ttl_ms: the one field that a replay computes anew, from the first answer's expiry."""
    authority.set_budget(ROOT, 100)
    reservation_id = await authority.reserved(40, key="k", ttl_ms=10_000)
    authority.clock.now_ms += 4_000
    await authority.extend(reservation_id, 60_000)

    body = body_of(await authority.reserve(40, key="k", ttl_ms=10_000))

    assert body["expires_at_ms"] == NOON_MS + 10_000
    assert body["remaining_ttl_ms"] == 6_000
    authority.clock.now_ms += 10_000
    assert body_of(await authority.reserve(40, key="k", ttl_ms=10_000))["remaining_ttl_ms"] == 0


@pytest.mark.parametrize("end", ["commit", "release", "expiry"])
async def test_a_replayed_reserve_has_no_time_left_once_it_is_settled(authority: Authority, end: str) -> None:
    """Cycles v0, remaining_ttl_ms: 0 when the reservation is no longer ACTIVE."""
    authority.set_budget(ROOT, 100)
    first = body_of(await authority.reserve(40, key="k"))
    if end == "commit":
        await authority.commit(first["reservation_id"], 10)
    elif end == "release":
        await authority.release(first["reservation_id"])
    else:
        authority.clock.now_ms += 100_000

    again = body_of(await authority.reserve(40, key="k"))

    assert again == {**first, "remaining_ttl_ms": 0}
    assert await authority.amounts() == ("90/0/10/0" if end == "commit" else "100/0/0/0")


async def test_a_replayed_extension_moves_the_expiry_once(authority: Authority) -> None:
    """Cycles v0, extendReservation: same expiry, fresh time left, counted once; a later extension is not reflected."""
    authority.set_tenant(max_extensions=2)
    authority.set_budget(ROOT, 100)
    reservation_id = await authority.reserved(40, ttl_ms=10_000)
    await authority.extend(reservation_id, 5_000, key="e1")
    authority.clock.now_ms += 1_000
    await authority.extend(reservation_id, 7_000, key="e2")

    again = body_of(await authority.extend(reservation_id, 5_000, key="e1"))

    assert again["expires_at_ms"] == NOON_MS + 15_000
    assert again["remaining_ttl_ms"] == 14_000
    assert_refused(await authority.extend(reservation_id, 6_000, key="e1"), 409, "IDEMPOTENCY_MISMATCH")
    assert body_of(await authority.get(reservation_id))["expires_at_ms"] == NOON_MS + 22_000
    await authority.commit(reservation_id, 1)
    assert body_of(await authority.extend(reservation_id, 5_000, key="e1"))["remaining_ttl_ms"] == 0


async def test_a_repeated_commit_charges_once(authority: Authority) -> None:
    """Cycles v0, commitReservation: the same key replays; another metric under it is another payload."""
    authority.set_budget(ROOT, 100)
    reservation_id = await authority.reserved(40)
    first = body_of(await authority.commit(reservation_id, 30, key="c", metrics={"latency_ms": 5}))
    await authority.release(await authority.reserved(1))

    assert body_of(await authority.commit(reservation_id, 30, key="c", metrics={"latency_ms": 5})) == first
    for metrics in ({"latency_ms": 6}, {"latency_ms": 5, "tokens_input": 0}):
        response = await authority.commit(reservation_id, 30, key="c", metrics=metrics)
        assert_refused(response, 409, "IDEMPOTENCY_MISMATCH")

    assert await authority.amounts() == "70/0/30/0"


async def test_a_repeated_commit_replays_long_after_the_lease_has_run_out(authority: Authority) -> None:
    """Cycles v0, IDEMPOTENCY: replay comes before expiry."""
    authority.set_budget(ROOT, 100)
    reservation_id = await authority.reserved(40)
    first = body_of(await authority.commit(reservation_id, 30, key="c"))
    authority.clock.now_ms += 100_000

    assert body_of(await authority.commit(reservation_id, 30, key="c")) == first


async def test_a_repeated_release_gives_back_once(authority: Authority) -> None:
    """Cycles v0, releaseReservation: the reason belongs to the payload."""
    authority.set_budget(ROOT, 100)
    reservation_id = await authority.reserved(40)
    first = body_of(await authority.release(reservation_id, key="r", reason="a"))

    assert body_of(await authority.release(reservation_id, key="r", reason="a")) == first
    response = await authority.release(reservation_id, key="r", reason="b")

    assert_refused(response, 409, "IDEMPOTENCY_MISMATCH")
    assert await authority.amounts() == "100/0/0/0"


async def test_one_commit_key_serves_two_reservations(authority: Authority) -> None:
    """Cycles v0, IDEMPOTENCY: commit keys are scoped to their reservation."""
    authority.set_budget(ROOT, 100)
    one, two = await authority.reserved(40), await authority.reserved(40)

    assert (await authority.commit(one, 1, key="c")).status == 200
    assert (await authority.commit(two, 2, key="c")).status == 200

    assert await authority.amounts() == "97/0/3/0"


async def test_one_key_serves_every_endpoint_once(authority: Authority) -> None:
    """Cycles v0, IDEMPOTENCY: keys are scoped to their endpoint."""
    authority.set_budget(ROOT, 100)
    reservation_id = await authority.reserved(10, key="k")

    responses = [
        await authority.decide(10, key="k"),
        await authority.event(10, key="k"),
        await authority.extend(reservation_id, 10, key="k"),
        await authority.commit(reservation_id, 10, key="k"),
    ]

    assert [response.status for response in responses] == [200, 201, 200, 200]


async def test_a_replay_comes_before_the_closed_tenant(authority: Authority) -> None:
    """Cycles v0, IDEMPOTENCY: what succeeded once is repeated whatever has changed since."""
    authority.set_budget(ROOT, 100)
    first = body_of(await authority.event(10, key="k"))
    authority.set_tenant(status="CLOSED")

    assert body_of(await authority.event(10, key="k")) == first


@pytest.mark.parametrize("allocated", [100, 10])
async def test_a_dry_run_is_repeated_verbatim_whatever_it_said(authority: Authority, allocated: int) -> None:
    """Cycles v0, dry_run: the denial is kept like the yes, in the namespace of live reserves; there is no lease."""
    authority.set_budget(ROOT, allocated)
    first = body_of(await authority.reserve(40, key="k", dry_run=True))
    authority.change_budget(ROOT, status="FROZEN")

    again = body_of(await authority.reserve(40, key="k", dry_run=True))

    assert again == first
    assert "reservation_id" not in again
    assert_refused(await authority.reserve(40, key="k"), 409, "IDEMPOTENCY_MISMATCH")


async def test_a_decision_is_repeated_verbatim_whatever_it_said(authority: Authority) -> None:
    """Cycles v0, decide: a replayed answer is history."""
    denied = body_of(await authority.decide(40, key="k"))
    authority.set_budget(ROOT, 100)

    assert body_of(await authority.decide(40, key="k")) == denied
    assert_refused(await authority.decide(41, key="k"), 409, "IDEMPOTENCY_MISMATCH")


async def test_twenty_callers_with_one_key_share_one_reservation(authority: Authority) -> None:
    """Cycles v0, IDEMPOTENCY, under concurrency."""
    authority.set_budget(ROOT, 100)

    bodies = [lasting(body_of(each)) for each in await gathered(lambda _: authority.reserve(1, TENANT, key="k"), 20)]

    assert all(body == bodies[0] for body in bodies)
    assert await authority.amounts() == "99/1/0/0"


async def test_of_twenty_commits_one_settles(authority: Authority) -> None:
    """Cycles v0, RESERVATION_FINALIZED, under concurrency."""
    authority.set_budget(ROOT, 100)
    reservation_id = await authority.reserved(40)

    responses = await gathered(lambda number: authority.commit(reservation_id, number), 20)

    assert sorted(response.status for response in responses) == [200] + [409] * 19
    (charged,) = [body_of(response)["charged"]["amount"] for response in responses if response.is_success]
    assert await authority.amounts() == f"{100 - charged}/0/{charged}/0"


async def test_of_a_commit_and_a_release_one_settles(authority: Authority) -> None:
    """Cycles v0, RESERVATION_FINALIZED, under concurrency."""
    authority.set_budget(ROOT, 100)
    for _ in range(10):
        reservation_id = await authority.reserved(10)

        def settle(number: int, rid: str = reservation_id) -> Awaitable[CyclesResponse]:
            return authority.commit(rid, 1) if number else authority.release(rid)

        responses = await gathered(settle, 2)

        assert sorted(response.status for response in responses) == [200, 409]


async def test_a_budget_for_thirty_admits_thirty_of_fifty_at_once(authority: Authority) -> None:
    """Cycles v0, ATOMICITY, under concurrency."""
    authority.set_budget(ROOT, 30)

    responses = await gathered(lambda _: authority.reserve(1), 50)

    assert sorted(response.status for response in responses) == [200] * 30 + [409] * 20
    assert await authority.amounts() == "0/30/0/0"


async def test_debt_never_passes_its_limit_under_concurrency(authority: Authority) -> None:
    """Cycles v0, ALLOW_WITH_OVERDRAFT: stricter than required, since operations are serial."""
    authority.set_budget(ROOT, 20, overdraft_limit=7)
    ids = [await authority.reserved(1, overage_policy="ALLOW_WITH_OVERDRAFT") for _ in range(20)]

    responses = await gathered(lambda number: authority.commit(ids[number], 2), 20)

    assert sum(response.is_success for response in responses) == 7
    assert await authority.amounts() == "-7/13/7/7"


async def gathered(call: Callable[[int], Awaitable[CyclesResponse]], count: int) -> list[CyclesResponse]:
    """Make calls at the same time."""
    responses: list[CyclesResponse] = []

    async def one(number: int) -> None:
        responses.append(await call(number))

    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            for number in range(count):
                tasks.start_soon(one, number)
    return responses
