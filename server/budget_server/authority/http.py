"""The ledger over HTTP: the Cycles runtime API, for Cycles clients in any language.

Each request is one transaction, which also looks up the request's key: a revoked key is refused from that moment on, in
every process. The order of checks is the reference server's: key, body, header against body, and then the ledger's own.
Both interfaces of the ledger, this one and ``client.py``, call the same operations.

Errors carry ``trace_id``, as the protocol asks of servers (Cycles v0, CORRELATION AND TRACING). The Python client
``runcycles``, up to 0.5.3, cannot read ``details`` beside it; its users read ``response.body``.
"""

import json
import re
import secrets
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any, NoReturn, TypeVar

from pydantic_core import to_json
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from starlette.routing import Match, Route

from budget_server.authority import keys, listing
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
from budget_server.database.asynchronous import AsyncFile
from budget_tools.core.ids import time_ordered_id

RequestT = TypeVar("RequestT", bound=Request)
Operation = Callable[[Ledger, str], Answer]
"""An operation on the ledger for a tenant."""

MAX_BODY_BYTES = 1 << 20
"""Longest body that is read: many times the sum of the protocol's own limits, metadata aside."""

MAX_ID_CHARACTERS = 128
"""Longest reservation id in a path (Cycles v0, parameter ReservationId)."""

_KEY_HEADER = "x-cycles-api-key"
_IDEMPOTENCY_HEADER = "x-idempotency-key"
_TRACEPARENT = re.compile(r"00-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
_JSON_TYPE = re.compile(r"application/(?:[\w.-]+\+)?json", re.ASCII)
_TRACE_ID = re.compile(r"(?!0{32})[0-9a-f]{32}")


def create_app(ledger: AsyncFile[Ledger]) -> Starlette:
    """Build the API over a ledger, which is closed when the server that runs it shuts down."""

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        yield
        await ledger.aclose()

    api = _Api(ledger)
    one = "/v1/reservations/{reservation_id}"
    app = Starlette(
        routes=[
            api.write("/v1/decide", DecideRequest, lambda ledger, tenant, _, body: ledger.decide(tenant, body)),
            api.write("/v1/reservations", ReserveRequest, lambda ledger, tenant, _, body: ledger.reserve(tenant, body)),
            api.write(f"{one}/commit", CommitRequest, Ledger.commit),
            api.write(f"{one}/release", ReleaseRequest, Ledger.release),
            api.write(f"{one}/extend", ExtendRequest, Ledger.extend),
            api.write("/v1/events", EventRequest, lambda ledger, tenant, _, body: ledger.event(tenant, body)),
            api.read("/v1/reservations", _list, is_brief=False),
            api.read(one, _get),
            api.read("/v1/balances", _balances),
            Route("/health", api.health),
        ],
        exception_handlers={HTTPException: _no_such_route, Exception: _own_fault},
        lifespan=lifespan,
    )
    # A redirect would be the only answer that carries neither ids nor an ErrorResponse.
    app.router.redirect_slashes = False
    return app


@dataclass(frozen=True, kw_only=True, slots=True)
class _Correlation:
    """The ids that relate an answer to its request and to the operation it is part of."""

    request_id: str = field(default_factory=time_ordered_id)
    trace_id: str

    @classmethod
    def of(cls, headers: Mapping[str, str]) -> "_Correlation":
        """Read the caller's trace if it is well-formed, else start a new one; this never refuses a request."""
        parent = _TRACEPARENT.fullmatch(headers.get("traceparent", ""))
        given = _TRACE_ID.fullmatch(headers.get("x-cycles-trace-id", ""))
        return cls(trace_id=parent[1] if parent else given[0] if given else secrets.token_hex(16))

    def success(self, tenant: str, answer: Answer) -> Response:
        """Build the response of an operation's answer."""
        return self._response(answer.status, answer.body, tenant)

    def error(
        self, status: int, code: str, message: str, details: Mapping[str, Any] | None = None, *, tenant: str = ""
    ) -> Response:
        """Build the protocol's ErrorResponse."""
        ids = {"request_id": self.request_id, "trace_id": self.trace_id}
        body: dict[str, Any] = {"error": code, "message": message, **ids}
        if details:
            body["details"] = details
        return self._response(status, body, tenant)

    def _response(self, status: int, body: Mapping[str, Any], tenant: str) -> Response:
        headers = {"X-Request-Id": self.request_id, "X-Cycles-Trace-Id": self.trace_id}
        if tenant:
            headers["X-Cycles-Tenant"] = tenant
        return Response(to_json(body), status, headers, media_type="application/json")


class _Api:
    """The conversion of HTTP requests into operations of the ledger, and of their results into responses."""

    def __init__(self, ledger: AsyncFile[Ledger]) -> None:
        self._ledger = ledger

    def write(self, path: str, model: type[RequestT], act: Callable[[Ledger, str, str, RequestT], Answer]) -> Route:
        """Route an operation with a body; ``act`` takes ledger, tenant, the path's reservation id if any, and body."""

        async def endpoint(request: HttpRequest) -> Response:
            try:
                reservation_id = _reservation_id(request)
                body = _parsed(request, model, await _read_body(request))
            except ClientDisconnect:
                return Response(status_code=400)  # the client has disconnected
            except Refusal as refusal:
                return await self._respond(request, _refusing(refusal))
            return await self._respond(request, lambda ledger, tenant: act(ledger, tenant, reservation_id, body))

        return Route(path, endpoint, methods=["POST"])

    def read(self, path: str, operation_of: Callable[[HttpRequest], Operation], *, is_brief: bool = True) -> Route:
        """Route an operation without a body."""

        async def endpoint(request: HttpRequest) -> Response:
            try:
                operation = operation_of(request)
            except Refusal as refusal:
                operation = _refusing(refusal)
            return await self._respond(request, operation, is_brief=is_brief)

        return Route(path, endpoint, methods=["GET"])

    async def health(self, request: HttpRequest) -> Response:
        """Report whether the ledger answers, without a key and without revealing anything in it."""
        correlation = _Correlation.of(request.headers)
        try:
            await self._ledger.run(lambda ledger: ledger.now_ms)
        except LedgerUnavailableError as exc:
            return correlation.error(503, "INTERNAL_ERROR", str(exc))
        return correlation.success("", Answer(200, {"status": "ok", "version": version("cycles-budget-mcp")}))

    async def _respond(self, request: HttpRequest, operation: Operation, *, is_brief: bool = True) -> Response:
        correlation = _Correlation.of(request.headers)
        secret = request.headers.get(_KEY_HEADER, "")
        tenant = ""

        def authenticated(ledger: Ledger) -> Answer:
            nonlocal tenant
            tenant = keys.tenant_of(ledger.db, secret, ledger.now_ms)
            return operation(ledger, tenant)

        try:
            answer = await self._ledger.run(authenticated, is_brief=is_brief)
        except Refusal as refusal:
            return correlation.error(refusal.status, refusal.code, refusal.message, refusal.details, tenant=tenant)
        except LedgerUnavailableError as exc:
            return correlation.error(503, "INTERNAL_ERROR", str(exc), tenant=tenant)
        return correlation.success(tenant, answer)


def _get(request: HttpRequest) -> Operation:
    reservation_id = _reservation_id(request)
    return lambda ledger, tenant: ledger.get(tenant, reservation_id)


def _list(request: HttpRequest) -> Operation:
    query = _query(request)
    return lambda ledger, tenant: listing.list_reservations(ledger.db, tenant, query)


def _balances(request: HttpRequest) -> Operation:
    query = _query(request)
    return lambda ledger, tenant: listing.balances(ledger.db, tenant, query)


def _query(request: HttpRequest) -> dict[str, str]:
    pairs = request.query_params.multi_items()
    query = dict(pairs)
    if len(query) != len(pairs):
        raise _invalid("A query parameter is there twice")
    return query


def _refusing(refusal: Refusal) -> Operation:
    """Build an operation that refuses after the key was checked: callers without a key learn nothing about the body."""

    def operation(_: Ledger, __: str) -> Answer:
        raise refusal

    return operation


def _reservation_id(request: HttpRequest) -> str:
    reservation_id = str(request.path_params.get("reservation_id", ""))
    if len(reservation_id) > MAX_ID_CHARACTERS:
        raise _invalid(f"Validation failed: reservation_id: must have at most {MAX_ID_CHARACTERS} characters")
    return reservation_id


async def _read_body(request: HttpRequest) -> bytes:
    """Read a body; the rest of a body that is too long is discarded, so that the answer gets through.

    Raises:
        Refusal: 413.
    """
    chunks: list[bytes] = []
    length = 0
    async for chunk in request.stream():
        length += len(chunk)
        if length <= MAX_BODY_BYTES:
            chunks.append(chunk)
    if length > MAX_BODY_BYTES:
        raise Refusal(413, "INVALID_REQUEST", f"The request body is longer than {MAX_BODY_BYTES} bytes.")
    return b"".join(chunks)


def _parsed(request: HttpRequest, model: type[RequestT], body: bytes) -> RequestT:
    """Parse a body.

    Raises:
        Refusal: 400; nothing was written.
    """
    media_type = request.headers.get("content-type", "application/json").partition(";")[0].strip().lower()
    if not _JSON_TYPE.fullmatch(media_type):
        raise _invalid("The request body must be sent with Content-Type: application/json")
    try:
        decoded = json.loads(body.decode(), object_pairs_hook=_no_duplicates, parse_constant=_no_constant)
    except (ValueError, RecursionError) as exc:
        raise _invalid("Malformed request body: it is not JSON as RFC 8259 has it") from exc
    parsed = parse(model, decoded)
    header = request.headers.get(_IDEMPOTENCY_HEADER)
    if header is not None and header != parsed.idempotency_key:
        raise _invalid("X-Idempotency-Key is not the idempotency_key of the body")
    return parsed


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        # Parsers differ on which of two duplicate amounts counts.
        raise ValueError("a member is there twice")
    return members


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _invalid(message: str) -> Refusal:
    return Refusal(400, "INVALID_REQUEST", message)


async def _no_such_route(request: HttpRequest, exc: Exception) -> Response:
    assert isinstance(exc, HTTPException)
    code = "NOT_FOUND" if exc.status_code == 404 else "INVALID_REQUEST"
    message = f"{request.method} is not served here: the Cycles runtime API has no such operation."
    response = _Correlation.of(request.headers).error(exc.status_code, code, message)
    if exc.status_code == 405:
        paths = [route for route in request.app.routes if route.matches(request.scope)[0] is not Match.NONE]
        response.headers["Allow"] = ", ".join(sorted({method for route in paths for method in route.methods}))
    return response


async def _own_fault(request: HttpRequest, _: Exception) -> Response:
    message = "This server failed; its log says why. The same idempotency key may be sent again."
    return _Correlation.of(request.headers).error(500, "INTERNAL_ERROR", message)
