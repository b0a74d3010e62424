"""One authority under test: what a test says to it, how it looks at it, and what it may ask an operator for.

The contract tests know nothing but ``Authority``. Its subjects are the embedded client and the HTTP face over a real
ledger file (``local.py``), and a Cycles server (``remote.py``).
"""

import itertools
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import anyio
import pytest
from pydantic import BaseModel
from runcycles import AsyncCyclesClient, CyclesConfig, CyclesResponse
from runcycles import models as wire

from contract.answers import assert_refused, body_of, check_error, check_success, without_nulls
from contract.differences import DIFFERENCES

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


class Authority(ABC):
    """An authority that a client speaks to for one tenant, ``acme`` unless said otherwise; every answer is checked."""

    subject: str
    """What the tests' parameter is called."""

    config: CyclesConfig

    def __init__(self, tenant: str = "acme") -> None:
        self.tenant = tenant
        self._keys = (f"key-{number}" for number in itertools.count(1))

    @property
    @abstractmethod
    def client(self) -> AsyncCyclesClient:
        """What speaks to it."""

    @abstractmethod
    def as_tenant(self, tenant: str) -> "Authority":
        """Give the same authority to another tenant's client."""

    # -- what it can be asked for -------------------------------------------------------------------------------------

    def has(self, capability: str) -> bool:
        """Say whether this subject has something that not all have (``differences.py``)."""
        return self.subject not in DIFFERENCES[capability].missing_from

    def require(self, capability: str) -> None:
        """Skip the test where this subject has not got what it needs."""
        if not self.has(capability):
            pytest.skip(f"{self.subject} lacks {capability!r}: {DIFFERENCES[capability].reason}")

    @property
    @abstractmethod
    def clock(self) -> Clock:
        """Its wall clock, to be moved."""

    @abstractmethod
    def sql(self, statement: str, *values: object) -> list[Any]:
        """Run one statement on its tables, in a transaction of its own."""

    @abstractmethod
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

    @abstractmethod
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

    @abstractmethod
    def set_tenant(self, **columns: object) -> None:
        """Give the tenant settings of its own, named as in the ledger's table."""

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
        return self._checked(response, 200, wire.ReservationCreateResponse)

    async def reserved(self, amount: object, subject: Subject = TENANT, **fields: object) -> str:
        """Reserve and give the reservation's id."""
        return str(body_of(await self.reserve(amount, subject, **fields))["reservation_id"])

    async def commit(self, reservation_id: str, amount: object, **fields: object) -> CyclesResponse:
        """Commit."""
        with anyio.fail_after(10):
            response = await self.client.commit_reservation(reservation_id, self.outlay(amount, **fields))
        return self._checked(response, 200, wire.CommitResponse)

    async def release(self, reservation_id: str, *, key: str = "", **fields: object) -> CyclesResponse:
        """Release."""
        body = {"idempotency_key": key or self.new_key(), **fields}
        with anyio.fail_after(10):
            response = await self.client.release_reservation(reservation_id, body)
        return self._checked(response, 200, wire.ReleaseResponse)

    async def extend(self, reservation_id: str, ms: object, *, key: str = "", **fields: object) -> CyclesResponse:
        """Extend."""
        body = {"idempotency_key": key or self.new_key(), "extend_by_ms": ms, **fields}
        with anyio.fail_after(10):
            response = await self.client.extend_reservation(reservation_id, body)
        return self._checked(response, 200, wire.ReservationExtendResponse)

    async def event(self, amount: object, subject: Subject = TENANT, **fields: object) -> CyclesResponse:
        """Book an event."""
        body = self.outlay(amount, subject=dict(subject), action=ACTION, **fields)
        with anyio.fail_after(10):
            response = await self.client.create_event(body)
        return self._checked(response, 201, wire.EventCreateResponse)

    async def decide(self, amount: object, subject: Subject = TENANT, **fields: object) -> CyclesResponse:
        """Ask."""
        with anyio.fail_after(10):
            response = await self.client.decide(self.intent(amount, subject, **fields))
        return self._checked(response, 200, wire.DecisionResponse)

    async def get(self, reservation_id: str) -> CyclesResponse:
        """Show a reservation."""
        with anyio.fail_after(10):
            response = await self.client.get_reservation(reservation_id)
        return self._checked(response, 200, None)

    async def list(self, **query: str) -> CyclesResponse:
        """List reservations."""
        with anyio.fail_after(10):
            response = await self.client.list_reservations(**query)
        return self._checked(response, 200, None)

    async def balances(self, **query: str) -> CyclesResponse:
        """Show balances."""
        with anyio.fail_after(10):
            response = await self.client.get_balances(**query)
        return self._checked(response, 200, wire.BalanceResponse)

    def _checked(self, response: CyclesResponse, status: int, model: type[BaseModel] | None) -> CyclesResponse:
        assert response.headers["x-request-id"], response
        if not response.is_success:
            check_error(response, has_trace_id=self.subject != "embedded", has_deny_detail=self.has("deny_detail"))
            return response
        assert response.cycles_tenant == self.tenant
        if not self.has("absence"):
            response.body = without_nulls(response.body)
        check_success(response, status, model)
        return response

    # -- looking ------------------------------------------------------------------------------------------------------

    async def amounts(self, scope: str = ROOT, unit: str = "TOKENS") -> str:
        """Read one budget as ``remaining/reserved/spent/debt``, with ``!`` where it is over its limit."""
        response = await self.balances(tenant=self.tenant)
        (balance,) = [
            each
            for each in body_of(response)["balances"]
            if each["scope_path"] == scope and each["remaining"]["unit"] == unit
        ]
        parts = [balance.get(name, {"amount": 0})["amount"] for name in ("remaining", "reserved", "spent", "debt")]
        return "/".join(map(str, parts)) + ("!" if balance.get("is_over_limit") else "")

    async def state(self, reservation_id: str) -> str:
        """Read a reservation's state."""
        response = await self.get(reservation_id)
        return "EXPIRED" if response.status == 410 else str(body_of(response)["status"])

    async def expiry_ms(self, reservation_id: str) -> int:
        """Read when a reservation expires."""
        return int(body_of(await self.get(reservation_id))["expires_at_ms"])

    def journal(self) -> Sequence[Path]:
        """List what the client library's journal still holds."""
        return [*Path(str(self.config.journal_dir)).rglob("*.json")]

    def assert_denied(self, response: CyclesResponse, code: str, *, by: str, remaining: int | None = None) -> None:
        """Assert a 409 for want of budget that names the scope, and what remains there, to whoever can act on it."""
        body = assert_refused(response, 409, code)
        if not self.has("deny_detail"):
            return
        detail = body["details"]["deny_detail"]
        assert (detail["reason_code"], detail["blocked_by_scope"]) == (code, by)
        if remaining is not None:
            assert detail["budget_remaining"]["amount"] == remaining
            assert str(remaining) in detail["suggested_fix"]

    def assert_invalid(self, response: CyclesResponse, field: str) -> None:
        """Assert a 400 that names the field."""
        body = assert_refused(response, 400, "INVALID_REQUEST")
        if self.has("field names"):
            assert field in body["message"]
