"""The subjects over a ledger file of this machine: the embedded client, and the HTTP face behind a real socket."""

import copy
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from runcycles import AsyncCyclesClient, CyclesConfig

from budget_server.authority import keys
from budget_server.authority.client import EmbeddedCyclesClient
from budget_server.authority.http import create_app
from budget_server.authority.ledger import Ledger
from budget_server.authority.store import LedgerStore
from budget_server.database.asynchronous import AsyncFile
from budget_server.database.writer import Writer
from contract.face import Face
from contract.harness import Authority, Clock

T = TypeVar("T")


class EmbeddedAuthority(Authority):
    """The embedded client over a real ledger file."""

    subject = "embedded"

    def __init__(self, path: Path, clock: Clock, *, lock_deadline_seconds: float = 4.0) -> None:
        super().__init__()
        self.path = path
        self._clock = clock
        self._lock_deadline_seconds = lock_deadline_seconds
        self.reopen()

    @property
    def clock(self) -> Clock:
        """Its wall clock, to be moved."""
        return self._clock

    @property
    def client(self) -> AsyncCyclesClient:
        """What speaks to it."""
        return self._client

    def reopen(self) -> None:
        """Open the ledger, as a process that has just started."""
        store = LedgerStore(self.path, clock=self.clock, lock_deadline_seconds=self._lock_deadline_seconds)
        self.writer = Writer(store)
        self._connect()

    def as_tenant(self, tenant: str) -> "EmbeddedAuthority":
        """Give the same authority to another tenant's client."""
        other = copy.copy(self)
        other.tenant = tenant
        other._connect()
        return other

    def _connect(self) -> None:
        self.config = CyclesConfig(
            base_url="embedded://test",
            api_key="local",
            tenant=self.tenant,
            connect_timeout=0.1,
            read_timeout=0.1,
            journal_dir=str(self.path.parent / "journal"),
        )
        self._client = EmbeddedCyclesClient(self.writer, self.config)

    # -- provisioning: what an operator would have done ---------------------------------------------------------------

    def run(self, operation: Callable[[Ledger], T]) -> T:
        """Run something on the ledger itself."""
        return self.writer.submit(operation).result(timeout=10)

    def sql(self, statement: str, *values: object) -> list[Any]:
        """Run one statement on its tables, in a transaction of its own."""
        return self.run(lambda ledger: list(ledger.db.execute(statement, values)))

    def set_budget(
        self,
        scope: str,
        allocated: int,
        *,
        unit: str = "TOKENS",
        spent: int = 0,
        debt: int = 0,
        overdraft_limit: int = 0,
        is_over_limit: bool = False,
        status: str = "ACTIVE",
        caps: Mapping[str, object] | None = None,
    ) -> None:
        """Give a scope a budget."""
        self.sql(
            "INSERT INTO budgets (scope, unit, tenant, allocated, remaining, spent, debt, overdraft_limit,"
            " is_over_limit, status, caps) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            *(scope, unit, self.tenant, allocated, allocated - spent - debt, spent, debt, overdraft_limit),
            *(int(is_over_limit), status, None if caps is None else json.dumps(caps)),
        )

    def change_budget(
        self,
        scope: str,
        *,
        allocated: int | None = None,
        overdraft_limit: int | None = None,
        is_over_limit: bool | None = None,
        status: str | None = None,
    ) -> None:
        """Change a scope's budget in TOKENS; what remains follows what is allocated."""
        self.sql(
            "UPDATE budgets SET remaining = coalesce(?1, allocated) - spent - reserved - debt,"
            " allocated = coalesce(?1, allocated), overdraft_limit = coalesce(?2, overdraft_limit),"
            " is_over_limit = coalesce(?3, is_over_limit), status = coalesce(?4, status)"
            " WHERE scope = ?5 AND unit = 'TOKENS'",
            *(allocated, overdraft_limit, is_over_limit, status, scope),
        )

    def set_tenant(self, **columns: object) -> None:
        """Give the tenant settings of its own, named as in the ledger's table."""
        names, places = ", ".join(["tenant", *columns]), ", ".join("?" * (len(columns) + 1))
        statement = f"INSERT OR REPLACE INTO tenants ({names}) VALUES ({places})"  # noqa: S608 - names are ours
        self.sql(statement, self.tenant, *columns.values())

    def close(self) -> None:
        """Check what must hold of every ledger, then close it."""
        self.run(check_invariants)
        self.writer.close()


class HttpAuthority(EmbeddedAuthority):
    """The unchanged ``runcycles`` client, and the HTTP face over the same kind of ledger."""

    subject = "http"

    def __init__(self, path: Path, clock: Clock, face: Face) -> None:
        self._face = face
        self._clients: list[AsyncCyclesClient] = []
        super().__init__(path, clock)

    def reopen(self) -> None:
        """Open the ledger, as a process that has just started."""
        super().reopen()
        self._face.app = create_app(AsyncFile(self.writer))

    def _connect(self) -> None:
        _, secret = self.run(
            lambda ledger: keys.create(
                ledger.db, tenant=self.tenant, name="contract", now_ms=ledger.now_ms, expires_at_ms=None
            )
        )
        self.config = CyclesConfig(
            base_url=self._face.address,
            api_key=secret,
            tenant=self.tenant,
            journal_dir=str(self.path.parent / "journal"),
        )
        self._http_client: AsyncCyclesClient | None = None

    @property
    def client(self) -> AsyncCyclesClient:
        """What speaks to it."""
        if self._http_client is None:
            self._http_client = AsyncCyclesClient(self.config)
            self._clients.append(self._http_client)
        return self._http_client

    async def aclose(self) -> None:
        """Close the connections, then as ever."""
        for client in self._clients:
            await client.aclose()
        self.close()


def check_invariants(ledger: Ledger) -> None:
    """Every budget adds up, and holds exactly what is ACTIVE over it (Cycles v0, LEDGER INVARIANTS)."""
    held: dict[tuple[str, str], int] = {}
    for unit, estimate, scopes in ledger.db.execute(
        "SELECT unit, estimate, budgeted_scopes FROM reservations WHERE state = 'ACTIVE'"
    ):
        for scope in json.loads(scopes):
            held[scope, unit] = held.get((scope, unit), 0) + estimate
    for scope, unit, allocated, remaining, reserved, spent, debt in ledger.db.execute(
        "SELECT scope, unit, allocated, remaining, reserved, spent, debt FROM budgets"
    ):
        assert remaining == allocated - spent - reserved - debt, (scope, unit)
        assert reserved == held.get((scope, unit), 0), (scope, unit)


@contextmanager
def opened(path: Path, clock: Clock, *, lock_deadline_seconds: float = 4.0) -> Iterator[EmbeddedAuthority]:
    """Open an embedded authority, check it at the end."""
    authority = EmbeddedAuthority(path, clock, lock_deadline_seconds=lock_deadline_seconds)
    try:
        yield authority
    except BaseException:
        authority.writer.close()
        raise
    authority.close()
