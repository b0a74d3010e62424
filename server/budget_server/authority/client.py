"""The embedded authority behind the interface of ``runcycles.AsyncCyclesClient``.

Upper layers, and the client library's own stream reservations, heartbeat, retries and journal, cannot tell it from an
HTTP
client: the same methods, the same ``CyclesResponse`` objects, errors included.
"""

import asyncio
import uuid
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

import anyio
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
    parse,
)
from budget_server.authority.writer import Writer
from budget_tools.scopes import LEVELS

T = TypeVar("T")
RequestT = TypeVar("RequestT", bound=Request)
Body = BaseModel | dict[str, Any]


class EmbeddedCyclesClient(AsyncCyclesClient):
    """Speaks for one tenant to the ledger of this machine.

    Args:
        writer: the ledger's thread; closed with this client.
        config: what the client library reads: subject defaults, journal directory, time-outs.
    """

    def __init__(self, writer: Writer, config: CyclesConfig) -> None:
        # super().__init__ would only build an HTTP client that is never used.
        self._writer = writer
        self._config = config
        assert config.tenant, "an embedded authority speaks for a tenant"
        self._tenant = config.tenant

    async def create_reservation(self, request: Body) -> CyclesResponse:
        """Reserve (Cycles v0, createReservation)."""
        return await self._apply(ReserveRequest, request, lambda ledger, parsed: ledger.reserve(self._tenant, parsed))

    async def commit_reservation(self, reservation_id: str, request: Body) -> CyclesResponse:
        """Commit (Cycles v0, commitReservation)."""
        return await self._apply(
            CommitRequest, request, lambda ledger, parsed: ledger.commit(self._tenant, reservation_id, parsed)
        )

    async def release_reservation(self, reservation_id: str, request: Body) -> CyclesResponse:
        """Release (Cycles v0, releaseReservation)."""
        return await self._apply(
            ReleaseRequest, request, lambda ledger, parsed: ledger.release(self._tenant, reservation_id, parsed)
        )

    async def extend_reservation(self, reservation_id: str, request: Body) -> CyclesResponse:
        """Extend (Cycles v0, extendReservation)."""
        return await self._apply(
            ExtendRequest, request, lambda ledger, parsed: ledger.extend(self._tenant, reservation_id, parsed)
        )

    async def decide(self, request: Body) -> CyclesResponse:
        """Decide (Cycles v0, decide)."""
        return await self._apply(DecideRequest, request, lambda ledger, parsed: ledger.decide(self._tenant, parsed))

    async def create_event(self, request: Body) -> CyclesResponse:
        """Book an event (Cycles v0, createEvent)."""
        return await self._apply(EventRequest, request, lambda ledger, parsed: ledger.event(self._tenant, parsed))

    async def get_reservation(self, reservation_id: str) -> CyclesResponse:
        """Show a reservation (Cycles v0, getReservation)."""
        return await self._answer(lambda ledger: ledger.get(self._tenant, reservation_id))

    async def list_reservations(self, **query_params: str) -> CyclesResponse:
        """List reservations (Cycles v0, listReservations)."""
        return await self._answer(lambda ledger: listing.list_reservations(ledger.db, self._tenant, query_params))

    async def get_balances(self, **query_params: str) -> CyclesResponse:
        """Show balances (Cycles v0, getBalances).

        Raises:
            ValueError: no subject filter was given, as the HTTP client has it.
        """
        if not any(query_params.get(level) for level in LEVELS):
            raise ValueError(f"at least one of {', '.join(LEVELS)} is required")
        return await self._answer(lambda ledger: listing.balances(ledger.db, self._tenant, query_params))

    async def aclose(self) -> None:
        """Finish what was handed over and close the ledger."""
        with anyio.CancelScope(shield=True):
            await asyncio.to_thread(self._writer.close)

    async def _apply(
        self, model: type[RequestT], body: Body, operation: Callable[[Ledger, RequestT], Answer]
    ) -> CyclesResponse:
        wire = body.model_dump(mode="json", exclude_none=True) if isinstance(body, BaseModel) else body
        try:
            parsed = parse(model, wire)
        except Refusal as refusal:
            return _refused(refusal)
        return await self._answer(lambda ledger: operation(ledger, parsed))

    async def _answer(self, operation: Callable[[Ledger], Answer]) -> CyclesResponse:
        try:
            answer = await _outcome(self._writer.submit(operation))
        except Refusal as refusal:
            return _refused(refusal)
        except LedgerUnavailableError as exc:
            return _error(503, "INTERNAL_ERROR", str(exc))
        return CyclesResponse.success(answer.status, answer.body, _headers(self._tenant))


async def _outcome(future: "Future[T]") -> T:
    """Wait for what is already on its way, whatever cancels the waiter: only then is it known what happened."""
    waiter = asyncio.wrap_future(future)
    cancelled: asyncio.CancelledError | None = None
    with anyio.CancelScope(shield=True):
        while not waiter.done():
            try:
                await asyncio.wait([waiter])
            except asyncio.CancelledError as exc:
                cancelled = exc
    if cancelled is not None:
        waiter.exception()  # seen, so that the loop does not report it as lost
        raise cancelled
    return waiter.result()


def _headers(tenant: str) -> dict[str, str]:
    return {"x-request-id": str(uuid.uuid4()), "x-cycles-tenant": tenant}


def _refused(refusal: Refusal) -> CyclesResponse:
    return _error(refusal.status, refusal.code, refusal.message, refusal.details)


def _error(status: int, code: str, message: str, details: dict[str, Any] | None = None) -> CyclesResponse:
    # No trace_id: the client library's ErrorResponse forbids it and would lose the details with it.
    request_id = str(uuid.uuid4())
    body: dict[str, Any] = {"error": code, "message": message, "request_id": request_id}
    if details:
        body["details"] = details
    return CyclesResponse.http_error(status, message, body, {"x-request-id": request_id})
