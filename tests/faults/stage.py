"""The stage of a fault: server processes over one data directory, a scripted Claude, and the books.

The budget authority is one of two: the ledger embedded in the servers, or the HTTP face of such a ledger in a process
of its own, behind a proxy that makes it as plain, and as unreliable, as any Cycles server.
"""

import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import anyio

from budget_server.authority import keys
from budget_server.authority.budgets import allocate_first
from budget_server.authority.ledger import Ledger
from budget_server.authority.listing import balances, list_reservations
from budget_server.authority.store import LedgerStore
from budget_server.config.paths import JOURNAL_DIRECTORY, LEDGER_FILE
from budget_server.demo.scripted_claude import COUNT_TOKENS_PATH, Answer, ScriptedClaude
from budget_tools.spends.reserver import HOLD_MS
from faults.nursery import IMPATIENT_SECONDS, NO_CONSTANTS, PATIENCE_SECONDS, Host, Nursery, Point, until
from faults.proxy import FaultProxy
from faults.wire import Wire, WireClaude
from tools.delegation.harness import amounts, kept, servers_file, shed

ALLOCATED = 100_000_000
PRICE_USD, PRICE_MICROCENTS = "0.01", 1_000_000
"""What a call of the shed's ``hang`` costs."""

Kind = Literal["embedded", "remote"]


@dataclass(frozen=True, kw_only=True)
class Authority:
    """A budget authority in a process of its own."""

    url: str
    ledger_path: Path

    def admit(self, tenant: str) -> str:
        """Give a new tenant its budget, and the secret of a key for it."""
        with opened(self.ledger_path) as store:
            store.run(lambda ledger: allocate_first(ledger.db, tenant=tenant, unit="USD_MICROCENTS", amount=ALLOCATED))
            _, secret = store.run(
                lambda ledger: keys.create(ledger.db, tenant=tenant, name="", now_ms=ledger.now_ms, expires_at_ms=None)
            )
        return secret


@contextmanager
def serving_authority(directory: Path) -> Iterator[Authority]:
    """Run ``cycles-budget-mcp authority`` over a new ledger."""
    environment = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    process = subprocess.Popen(
        [sys.executable, "-m", "budget_server", "authority", "--port", "0"],
        env={**environment, "BUDGET_DATA_DIR": str(directory)},
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            assert process.stderr is not None
            said = process.stderr.readline()
            address = re.search(r"http://\S+", said)
            assert address, said
            yield Authority(url=address[0], ledger_path=directory / LEDGER_FILE)
        finally:
            process.terminate()


@contextmanager
def opened(path: Path, **options: Any) -> Iterator[LedgerStore]:
    """Open a ledger beside those that work with it."""
    store = LedgerStore(path, **options)
    try:
        yield store
    finally:
        store.close()


class Stage:
    """What a test of a fault works with."""

    def __init__(
        self,
        directory: Path,
        *,
        kind: Kind,
        tenant: str,
        ledger_path: Path,
        environment: Mapping[str, str],
        nursery: Nursery,
        claude: ScriptedClaude,
        proxy: FaultProxy | None,
    ) -> None:
        self.kind = kind
        self.claude = claude
        self.data_directory = directory / "data"
        self._directory = directory
        self.tenant = tenant
        self._ledger_path = ledger_path
        self._environment = dict(environment)
        self._nursery = nursery
        self._proxy = proxy
        self._hosts: list[Host] = []

    @property
    def proxy(self) -> FaultProxy:
        """What stands before the remote authority."""
        assert self._proxy is not None, "an embedded authority has no way on which anything could be lost"
        return self._proxy

    @property
    def sent(self) -> int:
        """How many requests for a message reached Claude."""
        return len(self.claude.message_requests)

    # -- processes --------------------------------------------------------------------------------------------------

    def start(
        self,
        point: Point | None = None,
        *,
        constants: Mapping[str, object] = NO_CONSTANTS,
        patience_seconds: float = IMPATIENT_SECONDS,
        clock: Path | None = None,
        **environment: str,
    ) -> Host:
        """Start a server process over the data directory, and be its host."""
        log = self._directory / f"server-{len(self._hosts) + 1}.log"
        host = self._nursery.fork(
            {**self._environment, **environment},
            log=log,
            point=point,
            constants={**BRIEF, **constants},
            patience_seconds=patience_seconds,
            clock=clock,
        )
        self._hosts.append(host)
        return host

    async def aclose(self) -> None:
        """Leave no process behind."""
        for host in self._hosts:
            await host.aclose()

    async def delegation_id(self) -> str:
        """The id of the one delegation of this stage, which a killed process could not tell."""
        (delegation_id,) = await self.ids()
        return delegation_id

    async def ids(self) -> list[str]:
        """The ids of all delegations of this stage."""
        return [each.delegation_id for each in await kept(self.data_directory, self.tenant)]

    async def settled(self, host: Host) -> dict[str, Any]:
        """Wait until the one delegation has stopped, as a process that did not run it says."""
        return await host.call("delegation_status", delegation_id=await self.delegation_id(), wait_seconds=15)

    # -- the books --------------------------------------------------------------------------------------------------

    def balance(self) -> dict[str, int]:
        """The budget, from the ledger's file."""
        with opened(self._ledger_path) as store:
            (row,) = store.run(lambda ledger: balances(ledger.db, self.tenant, {"tenant": self.tenant})).body[
                "balances"
            ]
        return amounts(row)

    def reservations(self) -> list[dict[str, Any]]:
        """Every reservation, oldest first, with what its commit said."""
        query = {"sort_by": "reservation_id", "sort_dir": "asc", "include": "committed_metadata"}
        with opened(self._ledger_path) as store:
            rows: list[dict[str, Any]] = store.run(
                lambda ledger: list_reservations(ledger.db, self.tenant, query)
            ).body["reservations"]
        return rows

    def spends(self) -> list[dict[str, Any]]:
        """The reservations that were not held for a last answer."""
        return [row for row in self.reservations() if "landing" not in row["action"]["tags"]]

    def events(self) -> list[int]:
        """The charges that were booked without a reservation."""
        query = "SELECT charged FROM events WHERE tenant = ? ORDER BY event_id"
        with opened(self._ledger_path) as store:
            rows = store.run(lambda ledger: ledger.db.execute(query, (self.tenant,)).fetchall())
        return [int(str(charged)) for (charged,) in rows]

    def settlements(self) -> dict[str, tuple[str, int]]:
        """The state of every reservation, and what it was charged."""
        query = "SELECT reservation_id, state, coalesce(charged, 0) FROM reservations WHERE tenant = ?"
        with opened(self._ledger_path) as store:
            rows = store.run(lambda ledger: ledger.db.execute(query, (self.tenant,)).fetchall())
        return {str(each): (str(state), int(str(charged))) for each, state, charged in rows}

    def spent_in_all_periods(self) -> int:
        """What the tenant's budget was ever charged."""
        query = "SELECT coalesce(sum(spent), 0) FROM ended_periods WHERE scope = ?"
        with opened(self._ledger_path) as store:
            ended = store.run(lambda ledger: ledger.db.execute(query, (f"tenant:{self.tenant}",)).get)
        return int(str(ended)) + self.balance()["spent"]

    def let_leases_run_out(self) -> None:
        """Let more time pass for the ledger than any lease lasts."""
        with opened(self._ledger_path) as store:
            now_ms = store.run(lambda ledger: ledger.now_ms)
        with opened(self._ledger_path, clock=lambda: now_ms + HOLD_MS + 60_000) as store:
            store.run(lambda ledger: ledger.db.execute("UPDATE clock SET now_ms = ?", (ledger.now_ms,)))

    async def balance_is(self, **expected: int) -> None:
        """Wait until the budget stands like this, as it must."""
        await until(lambda: expected.items() <= self.balance().items())

    def journaled(self) -> dict[Path, dict[str, Any]]:
        """What waits for its answer, by file."""
        files = (self.data_directory / JOURNAL_DIRECTORY).rglob("*.json")
        return {path: json.loads(path.read_text(encoding="utf-8")) for path in files}

    async def journal_is_empty(self) -> None:
        """Wait until no commit waits for its answer any more."""
        await until(lambda: not any((self.data_directory / JOURNAL_DIRECTORY).rglob("*.json")))

    def rotate_key(self) -> str:
        """Give the tenant another key of the authority, from the next start on, and give the old one, now revoked."""
        old = self._environment["CYCLES_API_KEY"]
        with opened(self._ledger_path) as store:
            _, secret = store.run(
                lambda ledger: keys.create(
                    ledger.db, tenant=self.tenant, name="", now_ms=ledger.now_ms, expires_at_ms=None
                )
            )
            known = store.run(lambda ledger: keys.all_keys(ledger.db))
            (key_id,) = {key.key_id for key in known if key.tenant == self.tenant and not secret.startswith(key.prefix)}
            store.run(lambda ledger: keys.revoke(ledger.db, key_id, ledger.now_ms))
        self._environment["CYCLES_API_KEY"] = secret
        return old

    # -- an authority that goes away --------------------------------------------------------------------------------

    @asynccontextmanager
    async def away(self) -> AsyncIterator[None]:
        """Have the authority be away meanwhile: unreachable, or its file in another process's hands."""
        if self._proxy is not None:
            await self._proxy.__aexit__(None, None, None)
            yield
            await self._proxy.__aenter__()
            return
        is_held, may_go = threading.Event(), threading.Event()

        def hold(_: Ledger) -> None:
            is_held.set()
            may_go.wait(PATIENCE_SECONDS)

        def keep_others_out() -> None:
            with opened(self._ledger_path) as store:
                store.run(hold)

        thread = threading.Thread(target=keep_others_out)
        thread.start()
        try:
            assert is_held.wait(PATIENCE_SECONDS)
            yield
        finally:
            may_go.set()
            thread.join()


BRIEF: Mapping[str, object] = {
    "budget_tools.delegation.turn:FIRST_BACKOFF_SECONDS": 0.01,
    "budget_tools.delegation.runner:RETRY_SECONDS": 0.1,
    "budget_tools.delegation.views:POLL_SECONDS": 0.02,
    "budget_tools.delegation.runner:CANCEL_POLL_SECONDS": 0.04,
}
"""Waits are real here, but short."""


class PatientClaude(WireClaude):
    """A Claude whose counting of tokens can be held up."""

    def __init__(self, script: Sequence[Answer | Wire]) -> None:
        super().__init__(script)
        self.may_count: anyio.Event | None = None

    async def _respond(self, exchange: Any) -> None:
        if self.may_count is not None and exchange.request.path == COUNT_TOKENS_PATH:
            exchange.request.held.set()
            await self.may_count.wait()
        await super()._respond(exchange)


@asynccontextmanager
async def open_stage(
    directory: Path,
    script: Sequence[Answer | Wire],
    *,
    kind: Kind,
    nursery: Nursery,
    authority: Authority,
) -> AsyncIterator[Stage]:
    """Set a stage with one dollar, and clear it at the end."""
    hang = {"budget": {"tools": {"hang": {"usd": PRICE_USD}}}}
    servers = servers_file(directory, {"shed": shed(), "till": {**shed(), **hang}})
    environment = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    environment |= {
        "BUDGET_DATA_DIR": str(directory / "data"),
        "BUDGET_SUBAGENT_SERVERS": str(servers),
        "ANTHROPIC_API_KEY": "test",
        # Reading the machine's certificates would take longer than all that a test asks for.
        "SSL_CERT_DIR": str(directory),
    }
    async with AsyncExitStack() as stack:
        claude = await stack.enter_async_context(PatientClaude(script))
        environment["ANTHROPIC_BASE_URL"] = claude.base_url
        proxy = None
        tenant, ledger_path = "local", directory / "data" / LEDGER_FILE
        if kind == "embedded":
            environment["BUDGET_USD"] = "1.00"
        else:
            tenant, ledger_path = f"acme-{os.urandom(4).hex()}", authority.ledger_path
            proxy = FaultProxy(authority.url)
            stack.push_async_callback(proxy.aclose)
            await stack.enter_async_context(proxy)
            environment |= {
                "CYCLES_BASE_URL": proxy.url,
                "CYCLES_API_KEY": authority.admit(tenant),
                "CYCLES_TENANT": tenant,
            }
        stage = Stage(
            directory,
            kind=kind,
            tenant=tenant,
            ledger_path=ledger_path,
            environment=environment,
            nursery=nursery,
            claude=claude,
            proxy=proxy,
        )
        stack.push_async_callback(stage.aclose)
        yield stage
