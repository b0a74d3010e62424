"""What a reservation promises to cover, and what becomes of one whose caller gave up on it."""

import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import anyio
import pytest
from mcp import Client

from budget_server.authority.ledger import Ledger
from budget_server.authority.store import LedgerStore
from budget_server.config.paths import LEDGER_FILE
from budget_server.config.settings import Settings
from budget_server.mcp_server.server import create_server
from budget_server.services import Services
from budget_tools.pricing.book import PriceBook
from budget_tools.pricing.price_data import ModelPrices
from hosting import ALLOCATED, call, ledger_balance, text_of

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


@pytest.mark.parametrize(
    ("options", "written"),
    [
        ({"cache": "5m"}, {"cache_creation_input_tokens": 99_990}),
        ({"cache": "5m"}, {"cache_creation_input_tokens": 99_990, "cache_read_input_tokens": 10}),
        ({"cache": "1h"}, {"cache_creation_input_tokens": 99_990}),
        ({"cache_control": {"type": "ephemeral", "ttl": "1h"}}, {"cache_creation_input_tokens": 99_990}),
        ({}, {"cache_read_input_tokens": 99_990}),
    ],
)
async def test_a_call_that_was_stated_never_costs_more_than_what_was_held_for_it(
    services: Services, options: dict[str, Any], written: dict[str, int]
) -> None:
    """Anthropic, "Prompt caching": writes cost up to twice the input price; what is promised is held."""
    split = {"cache_creation": {"ephemeral_5m_input_tokens": 99_990}} if options.get("cache") == "5m" else {}
    with anyio.fail_after(20):
        async with Client(create_server(services)) as client:
            held = await call(
                client,
                "reserve_budget",
                model="claude-sonnet-5-5",
                input_tokens=100_000,
                max_output_tokens=100,
                options=options,
            )
            settled = await call(
                client,
                "commit_usage",
                reservation_id=held["reservation_id"],
                model="claude-sonnet-5-5",
                usage={"input_tokens": 0, "output_tokens": 100, "inference_geo": "us", **written, **split},
            )

    assert settled["charged"]["amount"] <= held["reserved"]["amount"]
    assert settled["charged"]["amount"] > 0.9 * held["reserved"]["amount"] or not options


async def test_a_reservation_by_model_says_what_it_covers_and_how_to_widen_it(services: Services) -> None:
    """Its caller may write to the cache, and has to hear that this was not reserved for."""
    with anyio.fail_after(20):
        async with Client(create_server(services)) as client:
            asked = {"model": "claude-sonnet-5-5", "input_tokens": 100_000, "max_output_tokens": 100}
            plain = await client.call_tool("reserve_budget", asked)
            cached = await call(client, "reserve_budget", **asked, options={"cache": "1h"})
            by_amount = await call(client, "reserve_budget", usd="0.01")

    assert "It covers no cache writes (options.cache covers them), standard speed, any geography." in text_of(plain)
    assert cached["covers"] == "cache writes for up to 1 hour, standard speed, any geography"
    assert by_amount["covers"] == ""


async def test_a_reservation_covers_a_price_that_rises_before_its_lease_ends(services: Services) -> None:
    """The call may leave at the very end of the lease."""
    today = datetime.now(UTC).date()
    low, high = (services.prices.price(model).on(today) for model in ("claude-opus-5-5", "claude-fable-5-1"))
    risen = ModelPrices(model="m", source="test", periods=(low, replace(high, starts_on=today + timedelta(days=1))))
    services.prices = PriceBook({"m": risen})
    with anyio.fail_after(20):
        async with Client(create_server(services)) as client:
            held = await call(
                client, "reserve_budget", model="m", input_tokens=10, max_output_tokens=10, ttl_seconds=86_400
            )

    assert held["reserved"]["amount"] == 10 * 1_000 + 10 * 5_000


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
