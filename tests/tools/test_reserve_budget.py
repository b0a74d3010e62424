"""What becomes of a reserve whose caller gave up on it."""

import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import anyio
import pytest
from mcp import Client

from budget_server.authority.ledger import Ledger
from budget_server.authority.store import LedgerStore
from budget_server.config.paths import LEDGER_FILE
from budget_server.config.settings import Settings
from budget_server.mcp_server.server import create_server
from budget_server.services import Services
from hosting import ALLOCATED, call, ledger_balance

pytestmark = pytest.mark.anyio


@pytest.fixture
async def services(tmp_path: Path) -> AsyncIterator[Services]:
    """A process with one dollar in its ledger."""
    made = Services(Settings(budget_data_dir=tmp_path, budget_usd="1.00"))
    yield made
    await made.aclose()


@contextmanager
def ledger_held(directory: Path) -> Iterator[None]:
    """Be another process in the middle of a long transaction on the same ledger."""
    is_held, go_on = threading.Event(), threading.Event()

    def hold(_ledger: Ledger) -> None:
        is_held.set()
        go_on.wait(10)

    store = LedgerStore(directory / LEDGER_FILE)
    holder = threading.Thread(target=store.run, args=(hold,))
    holder.start()
    assert is_held.wait(10)
    try:
        yield
    finally:
        go_on.set()
        holder.join(10)
        store.close()


async def give_up_on(client: Client, directory: Path, **arguments: object) -> None:
    """Call reserve_budget and cancel the call while the ledger keeps it waiting."""
    async with anyio.create_task_group() as host:
        with ledger_held(directory):
            host.start_soon(client.call_tool, "reserve_budget", arguments)
            await anyio.wait_all_tasks_blocked()
            host.cancel_scope.cancel()


async def test_a_reserve_that_its_host_gave_up_on_holds_nothing(services: Services, tmp_path: Path) -> None:
    """Nobody ever learns the reservation's id, so it must not stay held until it expires."""
    with anyio.fail_after(20):
        async with Client(create_server(services)) as client:
            await give_up_on(client, tmp_path, usd="0.10")

    assert ledger_balance({"BUDGET_DATA_DIR": str(tmp_path)})["remaining"] == ALLOCATED


async def test_giving_up_on_a_repeat_leaves_the_first_reservation_held(services: Services, tmp_path: Path) -> None:
    """Cycles v0, IDEMPOTENCY: the repeat is the same reservation, and whoever has its id still counts on it."""
    with anyio.fail_after(20):
        async with Client(create_server(services)) as client:
            first = await call(client, "reserve_budget", usd="0.10", idempotency_key="k-1")
            await give_up_on(client, tmp_path, usd="0.10", idempotency_key="k-1")
            settled = await call(client, "commit_usage", reservation_id=first["reservation_id"], usd="0.04")

    assert settled["charged"]["usd"] == "0.04"
