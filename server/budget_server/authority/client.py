"""The embedded authority behind the interface of ``runcycles.AsyncCyclesClient``.

Upper layers, and the client library's own stream reservations, heartbeat, retries and journal, cannot tell it from an
HTTP client: the same methods, the same ``CyclesResponse`` objects, errors included.

A cancelled call never leaves its outcome in doubt (``database/asynchronous.py``); a reservation whose answer is lost is
withdrawn.
"""

import copy
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, TypeVar

from pydantic import BaseModel
from runcycles import AsyncCyclesClient, CyclesConfig, CyclesResponse

from budget_server.authority import listing
from budget_server.authority.ledger import Ledger
from budget_server.authority.refusals import LedgerUnavailableError, Refusal
from budget_server.authority.replay import Answer
from budget_server.authority.requests import (
    CommitRequest,
    DecideRequest,
    EventRequest,
    ExtendRequest,
    ReleaseRequest,
    Request,
    ReserveRequest,
    json_text,
    parse,
)
from budget_server.authority.reservation import DELEGATION_OWNER
from budget_server.database.asynchronous import AsyncFile
from budget_server.database.writer import Writer
from budget_tools.core.ids import time_ordered_id
from budget_tools.core.scopes import LEVELS
from budget_tools.spends.responses import UNCOVERED_HEADER

RequestT = TypeVar("RequestT", bound=Request)
Body = BaseModel | dict[str, Any]


class EmbeddedCyclesClient(AsyncCyclesClient):
    """A client of one tenant to the ledger of this machine.

    Args:
        writer: the ledger's thread; closed with this client.
        config: the client library's configuration: subject defaults, journal directory, time-outs.
    """

    def __init__(self, writer: Writer[Ledger], config: CyclesConfig) -> None:
        # super().__init__ would only build an HTTP client that is never used.
        self.ledger = AsyncFile(writer)
        self._config = config
        assert config.tenant, "an embedded authority speaks for a tenant"
        self._tenant = config.tenant
        self._owner = ""

    async def create_reservation(self, request: Body) -> CyclesResponse:
        """Reserve (Cycles v0, createReservation); a cancelled call leaves nothing reserved."""
        return await self._apply(
            ReserveRequest,
            request,
            lambda ledger, parsed: ledger.reserve(self._spender(parsed), parsed, owner=self._owner),
            undo=lambda ledger, parsed, answer: ledger.withdraw(self._spender(parsed), parsed, answer),
        )

    async def commit_reservation(self, reservation_id: str, request: Body) -> CyclesResponse:
        """Commit (Cycles v0, commitReservation)."""
        return await self._apply(
            CommitRequest,
            request,
            lambda ledger, parsed: ledger.commit(
                self._holder(ledger, reservation_id),
                reservation_id,
                parsed,
                speaker=self._speaker(ledger, reservation_id),
            ),
        )

    async def release_reservation(self, reservation_id: str, request: Body) -> CyclesResponse:
        """Release (Cycles v0, releaseReservation)."""
        return await self._apply(
            ReleaseRequest,
            request,
            lambda ledger, parsed: ledger.release(
                self._holder(ledger, reservation_id),
                reservation_id,
                parsed,
                speaker=self._speaker(ledger, reservation_id),
            ),
        )

    async def extend_reservation(self, reservation_id: str, request: Body) -> CyclesResponse:
        """Extend (Cycles v0, extendReservation)."""
        return await self._apply(
            ExtendRequest,
            request,
            lambda ledger, parsed: ledger.extend(
                self._holder(ledger, reservation_id),
                reservation_id,
                parsed,
                speaker=self._speaker(ledger, reservation_id),
            ),
        )

    async def decide(self, request: Body) -> CyclesResponse:
        """Decide (Cycles v0, decide)."""
        return await self._apply(
            DecideRequest, request, lambda ledger, parsed: ledger.decide(self._spender(parsed), parsed)
        )

    async def create_event(self, request: Body) -> CyclesResponse:
        """Record an event (Cycles v0, createEvent)."""
        return await self._apply(
            EventRequest, request, lambda ledger, parsed: ledger.event(self._spender(parsed), parsed)
        )

    async def get_reservation(self, reservation_id: str) -> CyclesResponse:
        """Return a reservation (Cycles v0, getReservation) together with its owner."""
        return await self._answer(
            lambda ledger: ledger.get(self._holder(ledger, reservation_id), reservation_id, shows_owner=True)
        )

    async def list_reservations(self, **query_params: str) -> CyclesResponse:
        """List reservations (Cycles v0, listReservations), each with its owner."""
        return await self._answer(
            lambda ledger: listing.list_reservations(
                ledger.db, self._reader(query_params), query_params, shows_owner=True
            ),
            is_brief=False,
        )

    async def get_balances(self, **query_params: str) -> CyclesResponse:
        """Return balances (Cycles v0, getBalances).

        Raises:
            ValueError: no subject filter was given, as in the HTTP client.
        """
        if not any(query_params.get(level) for level in LEVELS):
            raise ValueError(f"at least one of {', '.join(LEVELS)} is required")
        return await self._answer(lambda ledger: listing.balances(ledger.db, self._reader(query_params), query_params))

    def for_tenant(self, tenant: str) -> "EmbeddedCyclesClient":
        """Return a client of another tenant, over the same ledger; it is closed with this one."""
        return self._copy(EmbeddedCyclesClient, tenant)

    def for_all_tenants(self) -> "EmbeddedCyclesClient":
        """Return a client of every tenant, for this process's own operations; it is closed with this one."""
        return self._copy(_HouseClient, self._tenant)

    def owned_by(self, delegation_id: str) -> "EmbeddedCyclesClient":
        """Return a client that acts for a delegation; it is closed with this one.

        Its reservations belong to the delegation, and of owned reservations it settles only that delegation's.
        """
        other = copy.copy(self)
        other._owner = f"{DELEGATION_OWNER}{delegation_id}"  # noqa: SLF001 - a copy of this very object
        return other

    def _copy(self, kind: "type[EmbeddedCyclesClient]", tenant: str) -> "EmbeddedCyclesClient":
        config = self._config if tenant == self._tenant else replace(self._config, tenant=tenant, **_NO_LEVELS)
        other = kind(self.ledger.writer, config)
        other.ledger = self.ledger
        return other

    def _spender(self, _: ReserveRequest | DecideRequest | EventRequest) -> str:
        return self._tenant

    def _holder(self, _: Ledger, __: str) -> str:
        return self._tenant

    def _reader(self, _: Mapping[str, str]) -> str:
        return self._tenant

    def _speaker(self, _: Ledger, __: str) -> str:
        return self._owner

    async def aclose(self) -> None:
        """Finish the operations already handed over, and close the ledger."""
        await self.ledger.aclose()

    async def _apply(
        self,
        model: type[RequestT],
        body: Body,
        operation: Callable[[Ledger, RequestT], Answer],
        undo: Callable[[Ledger, RequestT, Answer], None] | None = None,
    ) -> CyclesResponse:
        try:
            parsed = parse(model, body)
        except Refusal as refusal:
            return _refused(refusal)
        return await self._answer(
            lambda ledger: operation(ledger, parsed),
            None if undo is None else lambda ledger, answer: undo(ledger, parsed, answer),
        )

    async def _answer(
        self,
        operation: Callable[[Ledger], Answer],
        undo: Callable[[Ledger, Answer], None] | None = None,
        *,
        is_brief: bool = True,
    ) -> CyclesResponse:
        try:
            answer = await self.ledger.run(operation, undo, is_brief=is_brief)
        except Refusal as refusal:
            return _refused(refusal)
        except LedgerUnavailableError as exc:
            return _error(503, "INTERNAL_ERROR", str(exc))
        headers = _headers(self._tenant)
        if answer.uncovered:
            headers[UNCOVERED_HEADER] = json_text(answer.uncovered)
        return CyclesResponse.success(answer.status, answer.body, headers)


class _HouseClient(EmbeddedCyclesClient):
    """A client that acts for the tenant that a subject names, or that owns a reservation, and as its owner.

    The journal repeats commits of any delegation through it; a delegation itself uses ``owned_by``.
    """

    def _spender(self, request: ReserveRequest | DecideRequest | EventRequest) -> str:
        return request.subject.tenant or self._tenant

    def _holder(self, ledger: Ledger, reservation_id: str) -> str:
        return ledger.tenant_of(reservation_id) or self._tenant

    def _speaker(self, ledger: Ledger, reservation_id: str) -> str:
        return self._owner or ledger.owner_of(reservation_id)

    def _reader(self, query: Mapping[str, str]) -> str:
        return query.get("tenant") or self._tenant


_NO_LEVELS: dict[str, Any] = dict.fromkeys(LEVELS[1:])


def _headers(tenant: str) -> dict[str, str]:
    return {"x-request-id": time_ordered_id(), "x-cycles-tenant": tenant}


def _refused(refusal: Refusal) -> CyclesResponse:
    return _error(refusal.status, refusal.code, refusal.message, refusal.details)


def _error(status: int, code: str, message: str, details: dict[str, Any] | None = None) -> CyclesResponse:
    # No trace_id: the client library's ErrorResponse forbids it and would lose the details with it.
    request_id = time_ordered_id()
    body: dict[str, Any] = {"error": code, "message": message, "request_id": request_id}
    if details:
        body["details"] = details
    return CyclesResponse.http_error(status, message, body, {"x-request-id": request_id})
