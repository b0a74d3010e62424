"""What stands between a server and its budget authority, and goes wrong: a proxy on a real socket.

It also makes our own authority as plain as any other: the wish that an expired reservation be charged (``on_expiry``)
is an extension of ours, which a Cycles server does not know, so it is taken out of what passes.
"""

import json
import re
from collections import deque
from dataclasses import dataclass
from typing import Any, Literal

import anyio
import httpx
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from tools.delegation.remote import Port

Operation = Literal["reserve", "commit", "release", "extend", "event", "balances", "other"]
Mishap = Literal[
    "lost",  # it reaches the authority and takes effect, and the answer is lost
    "503",  # it does not reach the authority, and a gateway says so
    "hang",  # it does not reach the authority, and nobody answers
]

_PATHS: dict[str, Operation] = {
    r"POST /v1/reservations": "reserve",
    r"POST /v1/reservations/[^/]+/commit": "commit",
    r"POST /v1/reservations/[^/]+/release": "release",
    r"POST /v1/reservations/[^/]+/extend": "extend",
    r"POST /v1/events": "event",
    r"GET /v1/balances": "balances",
}
_HOP_HEADERS = frozenset({"host", "connection", "content-length", "transfer-encoding"})


@dataclass(frozen=True, kw_only=True)
class Passed:
    """A request that came by."""

    operation: Operation
    key: str
    """Its idempotency key."""
    status: int
    """What the authority answered; 0 where it was not asked."""


class FaultProxy(Port):
    """A port that passes Cycles requests on to an authority; left, it refuses connections.

    Args:
        authority_url: where the authority is.
    """

    def __init__(self, authority_url: str) -> None:
        # A bound method is no ASGI 3 application to uvicorn, which looks at it from outside.
        async def serve(scope: Scope, receive: Receive, send: Send) -> None:
            await self._serve(scope, receive, send)

        super().__init__(serve)
        self.passed: list[Passed] = []
        # No TLS on the loopback: reading the machine's certificates would take longer than all that passes.
        self._client = httpx.AsyncClient(base_url=authority_url, trust_env=False, verify=False)  # noqa: S501
        self._mishaps: dict[Operation, deque[Mishap]] = {}
        self._arrival = anyio.Event()

    def befall(self, operation: Operation, mishap: Mishap, times: int = 1) -> None:
        """Let the next requests of this kind come to grief."""
        self._mishaps.setdefault(operation, deque()).extend([mishap] * times)

    def of(self, operation: Operation) -> list[Passed]:
        """The requests of this kind so far, in order."""
        return [each for each in self.passed if each.operation == operation]

    async def answered(self, operation: Operation, count: int) -> None:
        """Wait until the authority has taken this many requests of a kind."""
        while sum(bool(each.status) for each in self.of(operation)) < count:
            await self._arrival.wait()

    async def aclose(self) -> None:
        """Leave nothing open."""
        await self._client.aclose()

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        body = _plain(await request.body())
        operation = _operation(request)
        mishaps = self._mishaps.get(operation)
        mishap = mishaps.popleft() if mishaps else None
        answer = await self._pass_on(request, body) if mishap in (None, "lost") else None
        key = str(body.get("idempotency_key", "")) if isinstance(body, dict) else ""
        self.passed.append(Passed(operation=operation, key=key, status=answer.status_code if answer else 0))
        self._arrival.set()
        self._arrival = anyio.Event()
        if mishap == "hang":
            while (await receive())["type"] != "http.disconnect":
                pass
        elif mishap == "503":
            error = {"error": "INTERNAL_ERROR", "message": "The authority restarts.", "request_id": "proxy"}
            await JSONResponse(error, 503)(scope, receive, send)
        elif mishap == "lost":
            self._cut(scope)
        else:
            assert answer is not None
            headers = {name: value for name, value in answer.headers.items() if name not in _HOP_HEADERS}
            await Response(answer.content, answer.status_code, headers)(scope, receive, send)

    async def _pass_on(self, request: Request, body: Any) -> httpx.Response:
        headers = {name: value for name, value in request.headers.items() if name not in _HOP_HEADERS}
        return await self._client.request(
            request.method,
            request.url.path,
            params=request.query_params,
            headers=headers,
            content=json.dumps(body).encode() if body is not None else b"",
        )

    def _cut(self, scope: Scope) -> None:
        for connection in self._server.server_state.connections:
            if getattr(connection, "client", None) == scope["client"]:
                connection.transport.abort()


def _plain(raw: bytes) -> Any:
    if not raw:
        return None
    body = json.loads(raw)
    if isinstance(body.get("metadata"), dict):
        body["metadata"].pop("on_expiry", None)
    return body


def _operation(request: Request) -> Operation:
    line = f"{request.method} {request.url.path}"
    return next((operation for pattern, operation in _PATHS.items() if re.fullmatch(pattern, line)), "other")
