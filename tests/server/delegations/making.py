"""What tests of the delegation store are made of."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from budget_server.delegations.store import SqliteDelegationStore
from budget_tools.core.errors import InvalidArgumentError
from budget_tools.delegation.records import Task
from budget_tools.delegation.store import Call, DelegationStore, Outcome, Step, Stored
from budget_tools.spends.records import Spend

TENANT = "acme"


def task(**changes: Any) -> Task:
    """Build a task; what is not said does not matter."""
    usual = {
        "task": "Sort it.",
        "model": "claude",
        "max_turns": 10,
        "max_output_tokens": 100,
        "levels": {"tenant": TENANT},
    }
    return Task.model_validate({**usual, **changes})


def call(key: str, request: str = "{}", tenant: str = TENANT) -> Call:
    """Build a call."""
    return Call(tenant=tenant, idempotency_key=key, request=request)


def spend(reservation_id: str, bound: int, **changes: Any) -> Spend:
    """Build a spend of US dollars."""
    usual = {
        "turn": 1,
        "key": f"key-{reservation_id}",
        "subject": {"tenant": TENANT},
        "action": {"kind": "llm.completion", "name": "claude"},
        "unit": "USD_MICROCENTS",
    }
    return Spend(**{**usual, **changes}, reservation_id=reservation_id, bound=bound)


async def started(store: DelegationStore, name: str, *, parent_id: str = "", depth: int = 1, **changes: Any) -> Stored:
    """Start a delegation whose id and key are its name."""
    return await store.start(call(name), name, task(**changes), parent_id=parent_id, depth=depth)


async def stopped(store: DelegationStore, name: str, status: Any = "failed", **changes: Any) -> Stored:
    """Start a delegation and stop it."""
    await started(store, name, **changes)
    await store.write(name, Step(outcome=Outcome(status=status)))
    return await store.find(TENANT, name)


async def refused(awaitable: Any) -> InvalidArgumentError:
    """Await what must be refused, and give the refusal, which is one sentence."""
    with pytest.raises(InvalidArgumentError) as refusal:
        await awaitable
    assert refusal.value.message.endswith(".")
    assert "\n" not in refusal.value.message
    return refusal.value


@asynccontextmanager
async def held(store: SqliteDelegationStore) -> AsyncIterator[None]:
    """Keep the file busy meanwhile, as another process may."""
    is_held, go_on = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    def hold(_: object) -> None:
        loop.call_soon_threadsafe(is_held.set)
        asyncio.run_coroutine_threadsafe(go_on.wait(), loop).result(5)

    holding = asyncio.ensure_future(store._file.run(hold, is_brief=False))
    await is_held.wait()
    yield
    go_on.set()
    await holding
