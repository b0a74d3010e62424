"""The embedded ledger as a benchmark uses it: provisioned, asked through its client, and timed call by call."""

import time
import types
from collections.abc import Coroutine, Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

from runcycles import AsyncCyclesClient, CyclesConfig, CyclesResponse

from budget_server.authority.budgets import allocate
from budget_server.authority.client import EmbeddedCyclesClient
from budget_server.authority.ledger import Ledger
from budget_server.authority.store import LedgerStore
from budget_server.database.writer import Writer

TENANT = "bench"
SUBJECT = {"tenant": TENANT, "agent": "bot"}
ROOT, LEAF = "tenant:bench", "tenant:bench/agent:bot"
UNIT = "USD_MICROCENTS"
AMPLE = 10**15
"""A budget that no benchmark uses up."""


def new_key() -> str:
    """Make an idempotency key as hosts make them: at random, so that it lands anywhere among those before it."""
    return uuid4().hex


def intent(key: str, amount: int = 1) -> dict[str, Any]:
    """Build a body of reserve that draws on both budgets and outlives the benchmark."""
    return {
        "idempotency_key": key,
        "subject": SUBJECT,
        "action": {"kind": "llm.completion", "name": "claude"},
        "estimate": {"unit": UNIT, "amount": amount},
        "ttl_ms": 3_600_000,
    }


def outlay(key: str, amount: int) -> dict[str, Any]:
    """Build a body of commit."""
    return {"idempotency_key": key, "actual": {"unit": UNIT, "amount": amount}}


def provision(path: Path, *, root_amount: int = AMPLE) -> None:
    """Make a ledger of two budgets, one within the other, or set what its root has."""
    store = LedgerStore(path)

    def set_budgets(ledger: Ledger) -> None:
        for scope, amount in ((ROOT, root_amount), (LEAF, AMPLE)):
            allocate(ledger.db, scope=scope, tenant=TENANT, unit=UNIT, amount=amount)

    store.run(set_budgets)
    store.close()


def find_faults(path: Path, *, granted: int) -> list[str]:
    """Say what is wrong in a ledger whose root had as much as was granted, one at a time, and all of it still held."""
    store = LedgerStore(path)

    def look(ledger: Ledger) -> tuple[list[Any], list[Any], list[Any]]:
        amounts = "SELECT scope, allocated, remaining, reserved, spent, debt FROM budgets ORDER BY scope"
        held = "SELECT count(*), sum(estimate) FROM reservations WHERE state = 'ACTIVE'"
        db = ledger.db
        return list(db.execute(amounts)), list(db.execute(held)), list(db.execute("PRAGMA integrity_check"))

    budgets, held, integrity = store.run(look)
    store.close()
    found = [f"{budget}" for budget in budgets if budget != (budget[0], budget[1], budget[1] - granted, granted, 0, 0)]
    if [(scope, allocated) for scope, allocated, *_ in budgets] != [(ROOT, granted), (LEAF, AMPLE)]:
        found.append(f"budgets: {budgets}")
    if held != [(granted, granted)]:
        found.append(f"held: {held}")
    if integrity != [("ok",)]:
        found.append(f"integrity: {integrity}")
    return found


def open_client(path: Path) -> AsyncCyclesClient:
    """Open a ledger as the server does; leaving the client's context closes it."""
    config = CyclesConfig(base_url="embedded://bench", api_key="local", tenant=TENANT, journal_enabled=False)
    return EmbeddedCyclesClient(Writer(LedgerStore(path)), config)


def body_of(response: CyclesResponse) -> dict[str, Any]:
    """Give the body of a success, and refuse to time failures: they are often the fastest answers."""
    if not response.is_success or response.body is None:
        raise RuntimeError(f"A call did not do its work, so its time means nothing: {response.status} {response.body}")
    return response.body


@dataclass(frozen=True, kw_only=True, slots=True)
class Call:
    """One answered call."""

    response: CyclesResponse
    seconds: float
    held_seconds: float
    """For how long at most it kept the event loop to itself: the longest of its steps from one wait to the next."""


async def timed(work: Coroutine[Any, Any, CyclesResponse]) -> Call:
    """Await a call of the client's and time it."""
    steps: list[float] = []
    begun = time.perf_counter()
    response = await _stepwise(work, steps)
    return Call(response=response, seconds=time.perf_counter() - begun, held_seconds=max(steps))


@types.coroutine
def _stepwise(work: Coroutine[Any, Any, CyclesResponse], steps: list[float]) -> Generator[Any, None, CyclesResponse]:
    while True:
        begun = time.perf_counter()
        try:
            waited_for = work.send(None)
        except StopIteration as done:
            response: CyclesResponse = done.value
            return response
        finally:
            steps.append(time.perf_counter() - begun)
        yield waited_for
