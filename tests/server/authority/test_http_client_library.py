"""The client library as it is, over the HTTP face: what it has twice, and what it does when answers are lost."""

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from typing import Any

import anyio
import pytest
from runcycles import Action, Amount, AsyncCyclesClient, BudgetExceededError, CyclesClient, Subject, Unit, cycles
from starlette.types import ASGIApp, Receive, Scope, Send

from contract.answers import body_of
from contract.face import Face
from contract.harness import ROOT, TENANT
from contract.local import HttpAuthority

SUBJECT = Subject(tenant="acme")
ACT = Action(kind="llm.completion", name="claude")
FORTY = Amount(unit=Unit.TOKENS, amount=40)
DECORATED: dict[str, Any] = {"estimate": 40, "actual": len, "unit": "TOKENS", "action_kind": "k", "action_name": "n"}


@pytest.fixture(autouse=True)
def budget(http: HttpAuthority) -> None:
    """Money to be spent."""
    http.set_budget(ROOT, 100)


@pytest.fixture
def client(http: HttpAuthority) -> Iterator[CyclesClient]:
    """The synchronous client."""
    with CyclesClient(http.config) as synchronous:
        yield synchronous


def amounts(http: HttpAuthority) -> tuple[int, int, int]:
    """Read what remains, is reserved and is spent."""
    ((remaining, reserved, spent),) = http.sql("SELECT remaining, reserved, spent FROM budgets")
    return remaining, reserved, spent


def wait_for_threads(before: set[threading.Thread]) -> None:
    """Wait for what the library does in threads of its own."""
    for thread in set(threading.enumerate()) - before:
        thread.join(10)
        assert not thread.is_alive()


# -- synchronous ------------------------------------------------------------------------------------------------------


def test_the_synchronous_client_has_every_operation(client: CyclesClient, http: HttpAuthority) -> None:
    """runcycles, CyclesClient: the nine methods, unchanged."""
    made = client.create_reservation(http.intent(40, metadata={"имя": "значение"}))
    held = body_of(made)["reservation_id"]

    answers = [
        client.decide(http.intent(1)),
        client.get_reservation(held),
        client.list_reservations(limit="1", include="metadata"),
        client.extend_reservation(held, {"idempotency_key": "x", "extend_by_ms": 1_000}),
        client.commit_reservation(held, http.outlay(25)),
        client.release_reservation(held, {"idempotency_key": "r"}),
        client.create_event(http.outlay(5, subject=dict(TENANT), action=ACT.model_dump(exclude_none=True))),
        client.get_balances(tenant="acme"),
    ]

    assert [answer.status for answer in answers] == [200, 200, 200, 200, 200, 409, 201, 200]
    assert {answer.cycles_tenant for answer in answers} == {"acme"}
    assert body_of(answers[2])["reservations"][0]["metadata"] == {"имя": "значение"}
    assert amounts(http) == (70, 0, 30)


def test_a_synchronous_stream_commits_what_was_used(client: CyclesClient, http: HttpAuthority) -> None:
    """runcycles, stream_reservation: committed on leaving, journal empty."""
    before = set(threading.enumerate())
    with client.stream_reservation(subject=SUBJECT, action=ACT, estimate=FORTY) as reservation:
        assert amounts(http) == (60, 40, 0)
        reservation.usage.set_actual_cost(25)
    wait_for_threads(before)

    assert reservation.settlement_error is None
    assert amounts(http) == (75, 0, 25)
    assert http.journal() == []


def test_a_synchronous_stream_that_fails_releases(client: CyclesClient, http: HttpAuthority) -> None:
    """runcycles, stream_reservation: any exception releases."""
    stream = client.stream_reservation(subject=SUBJECT, action=ACT, estimate=FORTY)
    with pytest.raises(RuntimeError, match="boom"), stream:
        raise RuntimeError("boom")

    assert amounts(http) == (100, 0, 0)


def test_a_synchronous_stream_that_outlived_its_lease_books_an_event(client: CyclesClient, http: HttpAuthority) -> None:
    """runcycles, event fallback: 410 on commit becomes an event with the commit's key; spent once."""
    before = set(threading.enumerate())
    with client.stream_reservation(subject=SUBJECT, action=ACT, estimate=FORTY) as reservation:
        reservation.usage.set_actual_cost(25)
        http.clock.now_ms += 3_600_000
    wait_for_threads(before)

    assert amounts(http) == (75, 0, 25)
    assert http.sql("SELECT amount FROM events") == [(25,)]
    assert http.journal() == []


def test_the_decorator_guards_a_plain_function(client: CyclesClient, http: HttpAuthority) -> None:
    """runcycles, @cycles: reserves, commits, and does not run what cannot be paid."""

    @cycles(client=client, **DECORATED)
    def work() -> str:
        assert amounts(http)[1] == 40
        return "twelve chars"

    before = set(threading.enumerate())
    assert [work() for _ in range(6)] == ["twelve chars"] * 6
    with pytest.raises(BudgetExceededError):
        work()
    wait_for_threads(before)

    assert amounts(http) == (28, 0, 72)
    assert http.journal() == []


# -- asynchronous -----------------------------------------------------------------------------------------------------


@pytest.mark.anyio
async def test_the_decorator_guards_a_coroutine_function(http: HttpAuthority) -> None:
    """runcycles, @cycles."""
    async with AsyncCyclesClient(http.config) as client:

        @cycles(client=client, **DECORATED)
        async def work() -> str:
            assert amounts(http)[1] == 40
            return "twelve chars"

        with anyio.fail_after(10):
            assert await work() == "twelve chars"

    assert amounts(http) == (88, 0, 12)


Message = MutableMapping[str, Any]


class LosingAnswers:
    """An application whose first answers to one operation never arrive: made, and not heard of."""

    def __init__(self, app: ASGIApp, operation: str, times: int) -> None:
        self._app = app
        self._operation = operation
        self._left = times
        self.lost: list[int] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve, or serve and say nothing but that something failed."""
        if not scope["path"].endswith(self._operation) or self._left == 0:
            await self._app(scope, receive, send)
            return
        self._left -= 1

        async def swallow(message: Message) -> None:
            if message["type"] == "http.response.start":
                self.lost.append(message["status"])

        await self._app(scope, receive, swallow)
        await send({"type": "http.response.start", "status": 502, "headers": []})
        await send({"type": "http.response.body", "body": b"<html>Bad Gateway</html>"})


@pytest.fixture
def losing(face: Face, http: HttpAuthority) -> Callable[[str, int], LosingAnswers]:
    """Put what loses answers before the face."""
    assert face.app is not None
    app = face.app

    def lose(operation: str, times: int) -> LosingAnswers:
        face.app = LosingAnswers(app, operation, times)
        return face.app

    http.config.retry_initial_delay = 0.01
    return lose


async def leave(stream: Callable[[], Awaitable[None]]) -> None:
    """Run a stream and wait for what the library goes on doing in tasks of its own."""
    before = asyncio.all_tasks()
    with anyio.fail_after(10):
        await stream()
        going_on = asyncio.all_tasks() - before
        if going_on:
            await asyncio.wait(going_on)


@pytest.mark.anyio
async def test_a_commit_whose_answer_is_lost_charges_once(
    http: HttpAuthority, losing: Callable[[str, int], LosingAnswers]
) -> None:
    """runcycles, journal and retries: the same key again until it is heard; Cycles v0, IDEMPOTENCY."""
    proxy = losing("/commit", 2)
    async with AsyncCyclesClient(http.config) as client:

        async def stream() -> None:
            async with client.stream_reservation(subject=SUBJECT, action=ACT, estimate=FORTY) as reservation:
                reservation.usage.set_actual_cost(25)

        await leave(stream)

    assert proxy.lost == [200, 200]
    assert amounts(http) == (75, 0, 25)
    assert http.journal() == []


@pytest.mark.anyio
async def test_an_event_after_the_lease_whose_answer_is_lost_is_booked_once(
    http: HttpAuthority, losing: Callable[[str, int], LosingAnswers]
) -> None:
    """runcycles, event fallback: 410 becomes an event with the commit's key, sent until it is heard."""
    proxy = losing("/v1/events", 1)
    async with AsyncCyclesClient(http.config) as client:

        async def stream() -> None:
            async with client.stream_reservation(subject=SUBJECT, action=ACT, estimate=FORTY) as reservation:
                reservation.usage.set_actual_cost(25)
                http.clock.now_ms += 3_600_000

        await leave(stream)

    assert proxy.lost == [201]
    assert http.sql("SELECT count(*), sum(amount) FROM events") == [(1, 25)]
    assert amounts(http) == (75, 0, 25)
    assert http.journal() == []


@pytest.mark.anyio
async def test_a_reserve_whose_answer_is_lost_holds_once(
    http: HttpAuthority, losing: Callable[[str, int], LosingAnswers]
) -> None:
    """runcycles, stream_reservation: an ambiguous reserve is sent again under its key."""
    proxy = losing("/v1/reservations", 1)
    async with AsyncCyclesClient(http.config) as client:
        with anyio.fail_after(10):
            async with client.stream_reservation(subject=SUBJECT, action=ACT, estimate=FORTY) as reservation:
                assert amounts(http) == (60, 40, 0)
                reservation.usage.set_actual_cost(25)

    assert proxy.lost == [200]
    assert amounts(http) == (75, 0, 25)
