"""One authority under test: what a test says to it, how it looks at it, and what every answer must be.

The contract tests know nothing but this class, so that another subject (the HTTP face, a real Cycles server) can stand
behind the same ``client`` once something sets its budgets.
"""

import itertools
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import anyio
from pydantic import BaseModel
from runcycles import AsyncCyclesClient, CyclesConfig, CyclesResponse
from runcycles import models as wire

from budget_server.authority.client import EmbeddedCyclesClient
from budget_server.authority.ledger import Ledger
from budget_server.authority.store import LedgerStore
from budget_server.authority.writer import Writer

T = TypeVar("T")
Subject = Mapping[str, Any]

MAX_AMOUNT = 2**63 - 1
NOON_MS = 1_800_000_000_000
ROOT, LEAF = "tenant:acme", "tenant:acme/agent:bot"
TENANT: Subject = {"tenant": "acme"}
BOT: Subject = {"tenant": "acme", "agent": "bot"}
ACTION = {"kind": "llm.completion", "name": "claude"}


class Clock:
    """A wall clock that a test moves."""

    def __init__(self, now_ms: int = NOON_MS) -> None:
        self.now_ms = now_ms

    def __call__(self) -> int:
        """Tell the time."""
        return self.now_ms


class Authority:
    """The embedded authority over a real ledger file, speaking for tenant ``acme``.

    Every answer that passes through here is checked: a success by the client library's strict models and for nulls, an
    error by the client library's reader of errors.
    """

    def __init__(self, path: Path, clock: Clock, *, lock_deadline_seconds: float = 4.0) -> None:
        self.path = path
        self.clock = clock
        self._lock_deadline_seconds = lock_deadline_seconds
        self.config = CyclesConfig(
            base_url="embedded://test",
            api_key="local",
            tenant="acme",
            connect_timeout=0.1,
            read_timeout=0.1,
            journal_dir=str(path.parent / "journal"),
        )
        self._keys = (f"key-{number}" for number in itertools.count(1))
        self.reopen()

    def reopen(self) -> None:
        """Open the ledger, as a process that has just started."""
        store = LedgerStore(self.path, clock=self.clock, lock_deadline_seconds=self._lock_deadline_seconds)
        self.writer = Writer(store)
        self.client: AsyncCyclesClient = EmbeddedCyclesClient(self.writer, self.config)

    # -- provisioning: what an operator would have done ---------------------------------------------------------------

    def run(self, operation: Callable[[Ledger], T]) -> T:
        """Run something on the ledger itself."""
        return self.writer.submit(operation).result(timeout=10)

    def sql(self, statement: str, *values: object) -> list[Any]:
        """Run one statement in a transaction of its own."""
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
        tenant: str = "acme",
    ) -> None:
        """Give a scope a budget."""
        self.sql(
            "INSERT INTO budgets (scope, unit, tenant, allocated, remaining, spent, debt, overdraft_limit,"
            " is_over_limit, status, caps) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            *(scope, unit, tenant, allocated, allocated - spent - debt, spent, debt, overdraft_limit),
            *(int(is_over_limit), status, None if caps is None else json.dumps(caps)),
        )

    def change_budget(self, scope: str, **columns: object) -> None:
        """Change columns of a scope's budgets."""
        names = ", ".join(f"{name} = ?" for name in columns)
        self.sql(f"UPDATE budgets SET {names} WHERE scope = ?", *columns.values(), scope)  # noqa: S608 - names are ours

    def set_tenant(self, **columns: object) -> None:
        """Give the tenant settings of its own."""
        names, places = ", ".join(["tenant", *columns]), ", ".join("?" * (len(columns) + 1))
        self.sql(f"INSERT OR REPLACE INTO tenants ({names}) VALUES ({places})", "acme", *columns.values())  # noqa: S608 - names are ours

    # -- the operations -----------------------------------------------------------------------------------------------

    def new_key(self) -> str:
        """Make an idempotency key."""
        return next(self._keys)

    def intent(self, amount: object, subject: Subject = TENANT, **fields: object) -> dict[str, Any]:
        """Build a body of reserve or decide."""
        unit = fields.pop("unit", "TOKENS")
        return {
            "idempotency_key": fields.pop("key", None) or self.new_key(),
            "subject": dict(subject),
            "action": ACTION,
            "estimate": {"unit": unit, "amount": amount},
            **fields,
        }

    def outlay(self, amount: object, **fields: object) -> dict[str, Any]:
        """Build a body of commit or, with a subject and an action, of event."""
        unit = fields.pop("unit", "TOKENS")
        key = fields.pop("key", None) or self.new_key()
        return {"idempotency_key": key, "actual": {"unit": unit, "amount": amount}, **fields}

    async def reserve(self, amount: object, subject: Subject = TENANT, **fields: object) -> CyclesResponse:
        """Reserve; ``key`` and ``unit`` beside the protocol's own fields."""
        with anyio.fail_after(10):
            response = await self.client.create_reservation(self.intent(amount, subject, **fields))
        return checked(response, 200, wire.ReservationCreateResponse)

    async def reserved(self, amount: object, subject: Subject = TENANT, **fields: object) -> str:
        """Reserve and give the reservation's id."""
        response = await self.reserve(amount, subject, **fields)
        assert response.status == 200, response.body
        assert response.body is not None
        return str(response.body["reservation_id"])

    async def commit(self, reservation_id: str, amount: object, **fields: object) -> CyclesResponse:
        """Commit."""
        with anyio.fail_after(10):
            response = await self.client.commit_reservation(reservation_id, self.outlay(amount, **fields))
        return checked(response, 200, wire.CommitResponse)

    async def release(self, reservation_id: str, *, key: str = "", **fields: object) -> CyclesResponse:
        """Release."""
        body = {"idempotency_key": key or self.new_key(), **fields}
        with anyio.fail_after(10):
            response = await self.client.release_reservation(reservation_id, body)
        return checked(response, 200, wire.ReleaseResponse)

    async def extend(self, reservation_id: str, ms: object, *, key: str = "", **fields: object) -> CyclesResponse:
        """Extend."""
        body = {"idempotency_key": key or self.new_key(), "extend_by_ms": ms, **fields}
        with anyio.fail_after(10):
            response = await self.client.extend_reservation(reservation_id, body)
        return checked(response, 200, wire.ReservationExtendResponse)

    async def event(self, amount: object, subject: Subject = TENANT, **fields: object) -> CyclesResponse:
        """Book an event."""
        body = self.outlay(amount, subject=dict(subject), action=ACTION, **fields)
        with anyio.fail_after(10):
            response = await self.client.create_event(body)
        return checked(response, 201, wire.EventCreateResponse)

    async def decide(self, amount: object, subject: Subject = TENANT, **fields: object) -> CyclesResponse:
        """Ask."""
        with anyio.fail_after(10):
            response = await self.client.decide(self.intent(amount, subject, **fields))
        return checked(response, 200, wire.DecisionResponse)

    async def get(self, reservation_id: str) -> CyclesResponse:
        """Show a reservation."""
        with anyio.fail_after(10):
            response = await self.client.get_reservation(reservation_id)
        return checked(response, 200, None)

    async def list(self, **query: str) -> CyclesResponse:
        """List reservations."""
        with anyio.fail_after(10):
            response = await self.client.list_reservations(**query)
        return checked(response, 200, None)

    async def balances(self, **query: str) -> CyclesResponse:
        """Show balances."""
        with anyio.fail_after(10):
            response = await self.client.get_balances(**query)
        return checked(response, 200, wire.BalanceResponse)

    # -- looking ------------------------------------------------------------------------------------------------------

    async def amounts(self, scope: str = ROOT, unit: str = "TOKENS") -> str:
        """Read one budget as ``remaining/reserved/spent/debt``, with ``!`` where it is over its limit."""
        response = await self.balances(tenant="acme")
        assert response.body is not None
        (balance,) = [
            each
            for each in response.body["balances"]
            if each["scope_path"] == scope and each["remaining"]["unit"] == unit
        ]
        parts = [balance.get(name, {"amount": 0})["amount"] for name in ("remaining", "reserved", "spent", "debt")]
        return "/".join(map(str, parts)) + ("!" if balance.get("is_over_limit") else "")

    def state(self, reservation_id: str) -> str:
        """Read a reservation's state."""
        ((state,),) = self.sql("SELECT state FROM reservations WHERE reservation_id = ?", reservation_id)
        return str(state)

    def close(self) -> None:
        """Check what must hold of every ledger, then close it."""
        self.run(check_invariants)
        self.writer.close()


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


def checked(response: CyclesResponse, status: int, model: type[BaseModel] | None) -> CyclesResponse:
    """Check what holds of every answer, whatever the test is about."""
    assert response.headers["x-request-id"]
    if not response.is_success:
        error = response.get_error_response()
        assert error is not None, response.body
        assert error.message.strip()
        assert error.request_id == response.request_id
        if response.status == 409 and error.error_code in _DENIALS:
            assert error.details is not None
            assert set(error.details["deny_detail"]) == {
                "reason_code", "blocked_by_scope", "budget_remaining", "suggested_fix",
            }  # fmt: skip
        return response
    assert response.status == status
    assert response.cycles_tenant == "acme"
    assert not any(value is None for value in _leaves(response.body)), response.body
    if model is not None:
        model.model_validate(response.body, strict=False)
    return response


_DENIALS = (
    wire.ErrorCode.BUDGET_EXCEEDED,
    wire.ErrorCode.BUDGET_FROZEN,
    wire.ErrorCode.BUDGET_CLOSED,
    wire.ErrorCode.OVERDRAFT_LIMIT_EXCEEDED,
    wire.ErrorCode.DEBT_OUTSTANDING,
)


def _leaves(value: object) -> Iterator[object]:
    if isinstance(value, dict):
        # What a client attached comes back as it was sent.
        for name, each in value.items():
            if name not in ("metadata", "committed_metadata"):
                yield from _leaves(each)
    elif isinstance(value, list):
        for each in value:
            yield from _leaves(each)
    else:
        yield value


def body_of(response: CyclesResponse) -> dict[str, Any]:
    """Give the body of a success."""
    assert response.is_success, response.body
    assert response.body is not None
    return response.body


def assert_refused(response: CyclesResponse, status: int, code: str) -> dict[str, Any]:
    """Assert a protocol error and give its body."""
    assert response.body is not None
    assert (response.status, response.body["error"]) == (status, code), response.body
    return response.body


@contextmanager
def opened(path: Path, clock: Clock, *, lock_deadline_seconds: float = 4.0) -> Iterator[Authority]:
    """Open an authority, check it at the end."""
    authority = Authority(path, clock, lock_deadline_seconds=lock_deadline_seconds)
    try:
        yield authority
    except BaseException:
        authority.writer.close()
        raise
    authority.close()
