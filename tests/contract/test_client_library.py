"""The client library as it is: its streams, exceptions, journal and event fallback over every authority."""

import asyncio

import anyio
import pytest
from runcycles import (
    Action,
    Amount,
    AsyncCyclesClient,
    BudgetExceededError,
    Caps,
    CommitRequest,
    CyclesProtocolError,
    DecisionRequest,
    EventCreateRequest,
    OverdraftLimitExceededError,
    ReleaseRequest,
    ReservationCreateRequest,
    ReservationExtendRequest,
    Subject,
    Unit,
    cycles,
)
from runcycles.streaming import AsyncStreamReservation

from contract.answers import body_of, lasting
from contract.harness import ROOT, Authority

pytestmark = pytest.mark.anyio


def stream(
    authority: Authority, amount: int = 40, *, overage_policy: str = "ALLOW_IF_AVAILABLE"
) -> AsyncStreamReservation:
    """Open a stream reservation as a user of the library would."""
    return authority.client.stream_reservation(
        subject=Subject(tenant="acme"),
        action=Action(kind="llm.completion", name="claude"),
        estimate=Amount(unit=Unit.TOKENS, amount=amount),
        overage_policy=overage_policy,
        cost_fn=lambda usage: usage.tokens_input + usage.tokens_output,
    )


async def test_a_stream_commits_what_was_used(authority: Authority) -> None:
    """runcycles, stream_reservation: committed on leaving, journal empty."""
    authority.set_budget(ROOT, 100)

    with anyio.fail_after(10):
        async with stream(authority) as reservation:
            assert await authority.amounts() == "60/40/0/0"
            reservation.usage.tokens_input = 20
            reservation.usage.tokens_output = 5

    assert reservation.settlement_error is None
    assert await authority.amounts() == "75/0/25/0"
    assert authority.journal() == []


async def test_a_stream_that_fails_releases(authority: Authority) -> None:
    """runcycles, stream_reservation: any exception releases."""
    authority.set_budget(ROOT, 100)

    with anyio.fail_after(10), pytest.raises(RuntimeError, match="boom"):
        async with stream(authority):
            raise RuntimeError("boom")

    assert await authority.amounts() == "100/0/0/0"
    assert authority.journal() == []


async def test_denials_raise_the_librarys_own_exceptions(authority: Authority) -> None:
    """runcycles, exceptions: by error code."""
    authority.set_budget(ROOT, 10)

    with anyio.fail_after(10):
        with pytest.raises(BudgetExceededError):
            await stream(authority).__aenter__()
        authority.change_budget(ROOT, status="FROZEN")
        with pytest.raises(CyclesProtocolError) as frozen:
            await stream(authority).__aenter__()

    assert frozen.value.error_code == "BUDGET_FROZEN"
    assert await authority.amounts() == "10/0/0/0"


async def test_a_budget_over_its_limit_raises_an_exception_of_its_own(authority: Authority) -> None:
    """runcycles, OverdraftLimitExceededError."""
    authority.set_budget(ROOT, 100, is_over_limit=True)

    with anyio.fail_after(10), pytest.raises(OverdraftLimitExceededError):
        await stream(authority).__aenter__()


async def test_a_denial_carries_what_would_help(authority: Authority) -> None:
    """runcycles, CyclesProtocolError.details: the scope that said no."""
    authority.require("deny_detail")
    authority.set_budget(ROOT, 10)

    with anyio.fail_after(10), pytest.raises(BudgetExceededError, match=ROOT) as denial:
        await stream(authority).__aenter__()

    if authority.has("details for runcycles"):
        assert denial.value.details is not None
        assert denial.value.details["deny_detail"]["blocked_by_scope"] == ROOT


async def test_caps_are_handed_over(authority: Authority) -> None:
    """runcycles, stream_reservation: decision and caps."""
    authority.set_budget(ROOT, 100, caps={"max_tokens": 5, "tool_allowlist": ["read"]})

    with anyio.fail_after(10):
        async with stream(authority) as reservation:
            assert reservation.decision == "ALLOW_WITH_CAPS"
            assert reservation.caps == Caps(max_tokens=5, tool_allowlist=["read"])


async def test_a_stream_that_overruns_is_charged_by_its_policy(authority: Authority) -> None:
    """runcycles, settlement: a REJECT that does not fit is reported, not released and not retried."""
    authority.set_budget(ROOT, 50)

    with anyio.fail_after(10):
        async with stream(authority, 10, overage_policy="REJECT") as reservation:
            reservation.usage.tokens_output = 60

    assert reservation.settlement_error is not None
    assert reservation.settlement_error.error_code == "BUDGET_EXCEEDED"
    assert await authority.amounts() == "40/10/0/0"


async def test_a_stream_that_outlived_its_lease_books_an_event(authority: Authority) -> None:
    """runcycles, event fallback: 410 on commit becomes an event with the commit's key; spent once."""
    authority.set_budget(ROOT, 100)

    with anyio.fail_after(10):
        tasks_before = asyncio.all_tasks()
        async with stream(authority) as reservation:
            reservation.usage.tokens_output = 25
            authority.clock.now_ms += 3_600_000
        # The library books it in a task of its own.
        booking = asyncio.all_tasks() - tasks_before
        if booking:
            await asyncio.wait(booking)

    assert await authority.amounts() == "75/0/25/0"


async def test_the_decorator_reserves_and_commits(authority: Authority) -> None:
    """runcycles, @cycles: insists on an AsyncCyclesClient, which this is."""
    authority.set_budget(ROOT, 100)
    assert isinstance(authority.client, AsyncCyclesClient)

    @cycles(
        estimate=40,
        actual=len,
        unit="TOKENS",
        action_kind="llm.completion",
        action_name="claude",
        client=authority.client,
    )
    async def work() -> str:
        assert await authority.amounts() == "60/40/0/0"
        return "twelve chars"

    with anyio.fail_after(10):
        assert await work() == "twelve chars"

    assert await authority.amounts() == "88/0/12/0"


async def test_the_librarys_request_models_are_accepted(authority: Authority) -> None:
    """runcycles, models: every request as a model, enums and all, and the same again as a dict holding enums."""
    authority.set_budget(ROOT, 100)
    subject, action = Subject(tenant="acme"), Action(kind="k", name="n")
    ten = Amount(unit=Unit.TOKENS, amount=10)
    client = authority.client
    reserve = ReservationCreateRequest(idempotency_key="r", subject=subject, action=action, estimate=ten)

    with anyio.fail_after(10):
        first = body_of(await client.create_reservation(reserve))
        again = body_of(await client.create_reservation(reserve.model_dump(exclude_none=True)))
        rid = first["reservation_id"]
        statuses = [
            (
                await client.decide(DecisionRequest(idempotency_key="d", subject=subject, action=action, estimate=ten))
            ).status,
            (
                await client.extend_reservation(rid, ReservationExtendRequest(idempotency_key="x", extend_by_ms=1))
            ).status,
            (await client.commit_reservation(rid, CommitRequest(idempotency_key="c", actual=ten))).status,
            (await client.release_reservation(rid, ReleaseRequest(idempotency_key="c"))).status,
            (
                await client.create_event(
                    EventCreateRequest(idempotency_key="e", subject=subject, action=action, actual=ten)
                )
            ).status,
        ]

    assert lasting(again) == lasting(first)
    assert statuses == [200, 200, 200, 409, 201]
