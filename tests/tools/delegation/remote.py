"""Servers over HTTP for the tests, in the test's own process: a port that can go away and come back, and what is on it.

The toolbox reaches them over real sockets; that they are at hand lets a test wait for what happens inside.
"""

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import uvicorn
from mcp.server.mcpserver import Context, MCPServer
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp

from budget_tools.subagent_tools.toolbox import Toolbox
from tools.delegation.harness import servers_file


class Port:
    """A port of the loopback interface that serves an application while it is entered; it can be entered again."""

    def __init__(self, app: ASGIApp, **tls: Any) -> None:
        self._app = app
        self._tls = tls
        self._port = 0

    @property
    def url(self) -> str:
        """Its address, without a path."""
        return f"http{'s' if self._tls else ''}://127.0.0.1:{self._port}"

    async def __aenter__(self) -> "Port":
        is_up, self._is_leaving = anyio.Event(), anyio.Event()
        self._life = asyncio.create_task(self._live(is_up, self._is_leaving))
        await is_up.wait()
        listener = socket.create_server(("127.0.0.1", self._port), backlog=128)
        self._port = listener.getsockname()[1]
        config = uvicorn.Config(
            self._app, http="h11", ws="none", lifespan="off", log_config=None, access_log=False, **self._tls
        )
        self._server = uvicorn.Server(config)
        # Not uvicorn's serve(): that takes over the process's signals.
        config.load()
        self._server.lifespan = config.lifespan_class(config)
        await self._server.startup(sockets=[listener])
        return self

    async def __aexit__(self, *_: object) -> None:
        with anyio.CancelScope(shield=True):
            for server in self._server.servers:
                server.close()
            for connection in list(self._server.server_state.connections):
                connection.transport.abort()
            self._is_leaving.set()
            await self._life
            await asyncio.gather(*self._server.server_state.tasks, return_exceptions=True)
            while self._server.server_state.connections:
                await anyio.lowlevel.checkpoint()
            for server in self._server.servers:
                await server.wait_closed()

    async def _live(self, is_up: anyio.Event, is_leaving: anyio.Event) -> None:
        """Hold the application's lifespan in a task of its own, so that a port can be left in any order."""
        async with AsyncExitStack() as stack:
            if isinstance(self._app, Starlette):
                await stack.enter_async_context(self._app.router.lifespan_context(self._app))
            is_up.set()
            await is_leaving.wait()


class Warehouse:
    """An MCP server of the SDK, and what it has seen."""

    def __init__(self) -> None:
        self.headers: list[dict[str, str]] = []
        self.calls = 0
        self.waiting = anyio.Event()
        self.cancelled = anyio.Event()
        self._server = MCPServer("warehouse")
        for tool in (self.count, self.meta, self.wait):
            self._server.tool()(tool)

    def app(self, kind: str) -> Starlette:
        """Serve it at ``/sse`` or at ``/mcp``."""
        app = self._server.sse_app() if kind == "sse" else self._server.streamable_http_app()
        app.add_middleware(_Recorder, headers=self.headers)
        return app

    async def count(self) -> str:
        """Tell how often this was called."""
        self.calls += 1
        return f"call {self.calls}"

    async def meta(self, context: Context) -> str:
        """Tell what came beside the arguments."""
        meta = dict(context.request_context.meta or {})
        return f"parent {meta.get('parent')}"

    async def wait(self) -> str:
        """Never answer."""
        self.calls += 1
        self.waiting.set()
        try:
            await anyio.sleep_forever()
        except anyio.get_cancelled_exc_class():
            self.cancelled.set()
            raise
        return ""


class _Recorder:
    def __init__(self, app: ASGIApp, headers: list[dict[str, str]]) -> None:
        self._app = app
        self._headers = headers

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            self._headers.append({name.decode(): value.decode() for name, value in scope["headers"]})
        await self._app(scope, receive, send)


class OldServer:
    """A server of the handshake era with sessions, by hand: ``forget`` is what a restart does to them."""

    def __init__(self) -> None:
        self.sessions = 0
        self.calls = 0
        self._known: set[str] = set()
        self.ended: list[str] = []

    def forget(self) -> None:
        """Know no session any more."""
        self._known.clear()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Serve one HTTP request."""
        await (await self._answer(Request(scope, receive)))(scope, receive, send)

    async def _answer(self, request: Request) -> Response:
        session = request.headers.get("mcp-session-id", "")
        if request.method == "DELETE":
            self.ended.append(session)
        if request.method != "POST":
            return Response(status_code=405)
        message = await request.json()
        method = message["method"]
        if method == "server/discover":
            return Response("no such method", status_code=400)
        if method == "initialize":
            self.sessions += 1
            session = f"session-{self.sessions}"
            self._known.add(session)
            result: dict[str, Any] = {
                "protocolVersion": "2025-06-18",
                "capabilities": {"tools": {}},
                "serverInfo": {"name": "old", "version": "1"},
            }
        elif session not in self._known:
            return refusal(404, "Session not found")
        elif method == "tools/list":
            names = ("count", "object", "ramble")
            result = {"tools": [{"name": name, "inputSchema": {"type": "object"}} for name in names]}
        elif method == "tools/call" and message["params"]["name"] == "object":
            return refusal(400, "The old server objects.")
        elif method == "tools/call" and message["params"]["name"] == "ramble":
            said = {"content": [{"type": "text", "text": "x" * message["params"]["arguments"]["length"]}]}
            event = json.dumps({"jsonrpc": "2.0", "id": message["id"], "result": said})
            return Response(f"event: message\ndata: {event}\n\n", media_type="text/event-stream")
        elif method == "tools/call":
            self.calls += 1
            result = {"content": [{"type": "text", "text": f"call {self.calls}"}]}
        else:
            return Response(status_code=202)
        answer = {"jsonrpc": "2.0", "id": message["id"], "result": result}
        return JSONResponse(answer, headers={"mcp-session-id": session})


def refusal(status_code: int, message: str) -> Response:
    """An error of the protocol under a status of HTTP."""
    error = {"code": -32600, "message": message}
    return JSONResponse({"jsonrpc": "2.0", "id": None, "error": error}, status_code=status_code)


@asynccontextmanager
async def open_toolbox(directory: Path, servers: dict[str, object], **options: Any) -> AsyncIterator[Toolbox]:
    """Open a toolbox for these servers, and close it at the end."""
    box = Toolbox.load(servers_file(directory, servers), **options)
    try:
        yield box
    finally:
        with anyio.fail_after(20):
            await box.aclose()
