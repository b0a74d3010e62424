"""Delegation stores over real files."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from budget_server.delegations.store import SqliteDelegationStore
from contract.harness import Clock


@pytest.fixture
def clock() -> Clock:
    """The time, which tests move."""
    return Clock()


@pytest.fixture
async def store(tmp_path: Path, clock: Clock) -> AsyncIterator[SqliteDelegationStore]:
    """The store of this process."""
    store = SqliteDelegationStore(tmp_path, clock=clock)
    yield store
    await store.aclose()


@pytest.fixture
async def other(tmp_path: Path, clock: Clock) -> AsyncIterator[SqliteDelegationStore]:
    """Another store over the same file: another owner."""
    store = SqliteDelegationStore(tmp_path, clock=clock)
    yield store
    await store.aclose()
