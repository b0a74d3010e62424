"""The server over HTTP: one transport's endpoint, the health of the process, and access control.

Every request passes the ``ShutdownMiddleware``. It checks Host and Origin, so that no web page can reach a server on
this machine by a name of its own; it notices a client that leaves before it has its answer; and when the process ends,
it tells waiting clients that nothing more will come, as if each client had left. The SDK then ends all kinds of
streams.

The SDK's JSON answers and sessionless mode are not offered: both lose cancellation, and with it money. Neither are
resumable streams, which 2026-07-28 has dropped: the SDK stores the messages to be replayed by request id alone, across
sessions, and may lose an answer that arrives during a replay. An answer lost with a broken stream is requested again,
by idempotency key or delegation id, also after a restart.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal

import anyio
import anyio.lowlevel
from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
from mcp.server.transport_security import TransportSecurityMiddleware, TransportSecuritySettings
from mcp.types import CallToolResult, TextContent
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from budget_server.auth.middleware import AuthMiddleware
from budget_server.auth.tenant_toolkit import TenantToolkits
from budget_server.auth.tokens import Tokens
from budget_server.database.asynchronous import AsyncFile
from budget_server.mcp_server.server import BudgetServer
from budget_server.services import Services
from budget_tools.core.errors import BudgetError

if TYPE_CHECKING:
    from budget_server.auth.resource_metadata import ProtectedResource

Transport = Literal["sse", "streamable-http"]

PATHS: dict[Transport, str] = {"sse": "/sse", "streamable-http": "/mcp"}
"""The path of each transport's endpoint."""

OPEN_PATHS = frozenset({"/health", "/ready"})
"""Paths that monitoring may request under any host name."""

MAX_BODY_BYTES = 4 << 20
"""Longest request body that is read: four times the longest task."""

READY_SECONDS = 5.0
"""Longest wait for an authority's answer before this process counts as not ready."""

ANSWER_SECONDS, FLUSH_SECONDS = 0.2, 0.05
"""Waits of an ending process: for calls to be answered once their money is settled, and for answers to leave."""

_LOOPBACK_NAMES = ("127.0.0.1", "localhost", "[::1]")
_LEFT: Message = {"type": "http.disconnect"}
_GONE = "cycles_budget.gone"


def create_app(
    server: BudgetServer,
    services: Services,
    transport: Transport,
    tokens: AsyncFile[Tokens],
    *,
    resource: "ProtectedResource | None" = None,
    is_token_required: bool = False,
    allowed_hosts: Sequence[str] = (),
) -> "ShutdownMiddleware":
    """Build the application for a web server.

    Args:
        server: the MCP server.
        services: the process's services, asked whether the authority answers.
        transport: the transport to serve.
        tokens: the accepted tokens; without any, all clients are accepted.
        resource: this server as an OAuth resource, if clients of an issuer are accepted as well.
        is_token_required: refuse clients without a token even if no token exists.
        allowed_hosts: names that clients may reach it by, besides those of loopback.
    """
    server.custom_route("/health", methods=["GET"])(_health)
    server.custom_route("/ready", methods=["GET"])(_ready_of(services))
    named = [] if resource is None else [resource.host]
    security = _security([*_LOOPBACK_NAMES, *allowed_hosts, *named])
    app: Starlette
    if transport == "sse":
        app = server.sse_app(
            sse_path=PATHS[transport], max_request_body_size=MAX_BODY_BYTES, transport_security=security
        )
    else:
        app = server.streamable_http_app(
            streamable_http_path=PATHS[transport], max_request_body_size=MAX_BODY_BYTES, transport_security=security
        )
    open_paths = OPEN_PATHS
    if resource is not None:
        app.routes.extend(resource.routes)
        open_paths |= {resource.metadata_path}
    gate = AuthMiddleware(app, tokens, resource=resource, is_required=is_token_required, open_paths=open_paths)
    door = ShutdownMiddleware(gate, security)
    server.middleware.extend([door.attend, TenantToolkits(services).admit])
    return door


class ShutdownMiddleware:
    """An ASGI application around another, with the duties described at the top of this module."""

    def __init__(self, app: ASGIApp, security: TransportSecuritySettings) -> None:
        self._app = app
        self._security = TransportSecurityMiddleware(security)
        self._is_shut = False
        self._ended = anyio.Event()
        self._calls = 0
        self._answered = anyio.Event()

    def shut(self) -> None:
        """Refuse new requests; requests already accepted may finish."""
        self._is_shut = True

    async def end(self) -> None:
        """Wait for calls that are almost done to be answered; then end all streams."""
        self.shut()
        with anyio.move_on_after(ANSWER_SECONDS):
            while self._calls:
                self._answered = anyio.Event()
                await self._answered.wait()
        await anyio.sleep(FLUSH_SECONDS)  # an answer passes through several tasks of the SDK before it is sent
        self._ended.set()

    async def attend(self, ctx: ServerRequestContext[Any, Any], call_next: CallNext) -> HandlerResult:
        """Cancel a call whose client has closed the stream that would carry its answer (an MCP middleware).

        The SDK does so for clients of 2026-07-28 and over SSE. An older client over streamable HTTP may in principle
        come back for its answer, but only to a server that stores answers, which this one does not: no client could
        ever read it.
        """
        gone = ctx.request.scope.get(_GONE) if isinstance(ctx.request, Request) else None
        if ctx.method != "tools/call" or not isinstance(gone, anyio.Event):
            return await call_next(ctx)
        self._calls += 1
        try:
            return await _unless(gone, call_next, ctx)
        finally:
            self._calls -= 1
            self._answered.set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, or the process's own lifespan."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        refusal = await self._refusal(scope)
        if refusal is not None:
            await refusal(scope, receive, send)
            return
        # The SDK does not answer a client at all that asks for a replay of messages that are not stored.
        headers = [(name, value) for name, value in scope["headers"] if name != b"last-event-id"]
        with anyio.CancelScope() as serving:
            visit = _HttpExchange(receive, send, self._ended, serving if scope["method"] == "POST" else None)
            await self._app({**scope, "headers": headers, _GONE: visit.gone}, visit.receive, visit.send)
        await visit.finish()

    async def _refusal(self, scope: Scope) -> Response | None:
        if self._is_shut:
            return _ending()
        if scope["path"] in OPEN_PATHS:
            return None
        # Checked here as well as by the SDK, whose SSE endpoint answers a wrong name and then raises.
        return await self._security.validate_request(Request(scope))


class _HttpExchange:
    """One request, from its first byte to the last of its answer.

    Args:
        receive: returns the messages of the client.
        send: sends messages to the client.
        ended: set when the process ends.
        serving: cancelled if the client leaves before its request is complete: nothing has begun then, and the SDK
            would log it as an error of its own.
    """

    def __init__(
        self, receive: Receive, send: Send, ended: anyio.Event, serving: anyio.CancelScope | None = None
    ) -> None:
        self.gone = anyio.Event()
        """The event that the client has left without its answer."""
        self._receive = receive
        self._send = send
        self._ended = ended
        self._serving = serving
        self._is_started = False
        self._is_complete = False
        self._is_dismissed = False

    async def receive(self) -> Message:
        """Return the client's next message; once the process ends, its disconnection."""
        message = _LEFT
        if not self._ended.is_set():
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._cancel_at_end, tasks.cancel_scope)
                message = await self._receive()
                tasks.cancel_scope.cancel()
        if self._ended.is_set() and message["type"] == "http.disconnect":
            await self.finish()
            self._is_dismissed = True  # messages to a client that has left are not sent
        if message["type"] == "http.request" and not message.get("more_body", False):
            self._serving = None
        if message["type"] == "http.disconnect" and not self._is_complete:
            self.gone.set()
            if self._serving is not None:
                self._serving.cancel()
                await anyio.lowlevel.checkpoint()
        return message

    async def send(self, message: Message) -> None:
        """Send a part of the answer."""
        if self._is_dismissed or self._is_complete:  # the SDK answers again when a client leaves an SSE stream
            return
        if message["type"] == "http.response.start":
            self._is_started = True
        elif message["type"] == "http.response.body":
            self._is_complete = not message.get("more_body", False)
        await self._send(message)

    async def finish(self) -> None:
        """Complete an interrupted answer, as HTTP requires."""
        if self._is_started and not self._is_complete:
            await self.send({"type": "http.response.body", "body": b"", "more_body": False})
        elif not self._is_started:
            await _ending()({"type": "http", "method": "GET"}, self.receive, self.send)

    async def _cancel_at_end(self, scope: anyio.CancelScope) -> None:
        await self._ended.wait()
        scope.cancel()


async def _unless(gone: anyio.Event, call_next: CallNext, ctx: ServerRequestContext[Any, Any]) -> HandlerResult:
    result: HandlerResult = CallToolResult(content=[TextContent(type="text", text="The client left.")], is_error=True)
    problem: Exception | None = None
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_cancel_once, gone, tasks.cancel_scope)
        try:
            result = await call_next(ctx)
        except Exception as exc:  # a task group would wrap it, and the SDK could not tell what to answer
            problem = exc
        tasks.cancel_scope.cancel()
    if problem is not None:
        raise problem
    return result


async def _cancel_once(event: anyio.Event, scope: anyio.CancelScope) -> None:
    await event.wait()
    scope.cancel()


async def _health(_: Request) -> Response:
    """Report that the process is up."""
    return JSONResponse({"status": "ok"})


def _ready_of(services: Services) -> Callable[[Request], "object"]:
    async def ready(_: Request) -> Response:
        """Report whether the ledger or the authority answers, revealing nothing in it."""
        with anyio.move_on_after(READY_SECONDS):
            try:
                await services.check_authority()
            except BudgetError as exc:
                return JSONResponse({"status": "unavailable", "code": exc.code}, 503)
            return JSONResponse({"status": "ready"})
        return JSONResponse({"status": "unavailable", "code": "AUTHORITY_UNAVAILABLE"}, 503)

    return ready


def _ending() -> Response:
    return JSONResponse({"error": "This server is ending."}, 503, {"Connection": "close"})


def _security(names: Sequence[str]) -> TransportSecuritySettings:
    hosts = [host for name in names for host in (name, f"{name}:*")]
    return TransportSecuritySettings(
        allowed_hosts=hosts, allowed_origins=[f"{scheme}://{host}" for scheme in ("http", "https") for host in hosts]
    )
