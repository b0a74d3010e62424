"""What the scripted endpoint billed, counted by itself, and a Cycles server in the test's own process."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

from mcp import Client
from pydantic import SecretStr

from budget_server.authority import keys
from budget_server.authority.budgets import allocate_first
from budget_server.authority.http import create_app
from budget_server.authority.store import LedgerStore
from budget_server.config.settings import Settings
from budget_server.database.asynchronous import AsyncFile
from budget_server.database.writer import Writer
from budget_server.demo.scripted_claude import Bill, Script, ScriptedClaude
from budget_server.demo.scripted_claude.exchange import Exchange
from budget_server.mcp_server.server import create_server
from budget_server.services import Services
from budget_tools.core.money import USD_MICROCENTS
from faults.proxy import FaultProxy
from tools.delegation.harness import MODEL, Bench, servers_file, shed
from tools.delegation.remote import Port

INPUT_MICROCENTS, OUTPUT_MICROCENTS = 200, 1_000
"""What a token of ``MODEL`` costs, in the prompt and in the answer."""

TENANT = "local"


class MeteredClaude(ScriptedClaude):
    """An endpoint that keeps its own account of what it billed.

    Args:
        script: as for the scripted Claude.
        heeds_max_tokens: whether it stops an answer where the request says.
    """

    def __init__(self, script: Script = (), *, heeds_max_tokens: bool = True) -> None:
        super().__init__(script)
        self._heeds_max_tokens = heeds_max_tokens

    @property
    def billed(self) -> list[int]:
        """What each answer cost, by the endpoint's own bills."""
        return [_cost_of(bill) for bill in self.bills]

    @property
    def billed_microcents(self) -> int:
        """What all answers cost so far."""
        return sum(self.billed)

    async def _respond(self, exchange: Exchange) -> None:
        if not self._heeds_max_tokens and "max_tokens" in exchange.request.body:
            exchange.request.body["max_tokens"] = 64_000
        await super()._respond(exchange)


def _cost_of(bill: Bill) -> int:
    assert bill.model == MODEL
    usage = bill.usage
    assert not usage.get("cache_read_input_tokens")
    assert not usage.get("cache_creation_input_tokens")
    return int(usage["input_tokens"] * INPUT_MICROCENTS + usage["output_tokens"] * OUTPUT_MICROCENTS)


def spendthrift(script: Script) -> MeteredClaude:
    """An endpoint that does not heed ``max_tokens``."""
    return MeteredClaude(script, heeds_max_tokens=False)


class Figures(NamedTuple):
    """How the books of a Cycles server stand."""

    spent: int
    reserved: int
    events: list[int]
    committed: list[int]


class CyclesServer:
    """An authority over HTTP, as plain as any Cycles server: it knows no owners, and gives back what expires."""

    def __init__(self, store: LedgerStore, proxy: FaultProxy, secret: str) -> None:
        self._store = store
        self.proxy = proxy
        self.secret = secret

    def figures(self) -> Figures:
        """Read the books."""

        def read(ledger: Any) -> Figures:
            spent, reserved = ledger.db.execute("SELECT spent, reserved FROM budgets").fetchone()
            events = [row[0] for row in ledger.db.execute("SELECT charged FROM events ORDER BY event_id")]
            committed = ledger.db.execute(
                "SELECT charged FROM reservations WHERE state = 'COMMITTED' ORDER BY reservation_id"
            )
            return Figures(spent, reserved, events, [row[0] for row in committed])

        return self._store.run(read)

    def sql(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        """Look at its tables, or change them."""
        return self._store.run(lambda ledger: ledger.db.execute(statement, values).fetchall())


@asynccontextmanager
async def cycles_server(directory: Path, microcents: int) -> AsyncIterator[CyclesServer]:
    """Serve an authority with one budget."""
    path = directory / "server" / "ledger.db"
    store, writer = LedgerStore(path), Writer(LedgerStore(path))
    store.run(lambda ledger: allocate_first(ledger.db, tenant=TENANT, unit=USD_MICROCENTS, amount=microcents))
    _, secret = store.run(
        lambda ledger: keys.create(ledger.db, tenant=TENANT, name="", now_ms=ledger.now_ms, expires_at_ms=None)
    )
    ledger = AsyncFile(writer)
    try:
        async with Port(create_app(ledger)) as face, FaultProxy(face.url) as proxy:
            assert isinstance(proxy, FaultProxy)
            yield CyclesServer(store, proxy, secret)
            await proxy.aclose()
    finally:
        await ledger.aclose()
        store.close()


@asynccontextmanager
async def remote_bench(
    directory: Path,
    server: CyclesServer,
    script: Script,
    *,
    servers: Mapping[str, object] | None = None,
    **settings: Any,
) -> AsyncIterator[tuple[Bench, MeteredClaude]]:
    """Open a server whose budgets are on a Cycles server."""
    async with MeteredClaude(script) as claude:
        services = Services(
            Settings(
                **{
                    "budget_data_dir": directory / "data",
                    "cycles_base_url": server.proxy.url,
                    "cycles_api_key": SecretStr(server.secret),
                    "cycles_tenant": TENANT,
                    "anthropic_api_key": SecretStr("test"),
                    "anthropic_base_url": claude.base_url,
                    "budget_model": MODEL,
                    "budget_subagent_servers": servers_file(directory, servers or {"shed": shed()}),
                    **settings,
                }
            )
        )
        try:
            async with Client(create_server(services)) as client:
                yield Bench(client=client, services=services, claude=claude), claude
        finally:
            await services.aclose()
