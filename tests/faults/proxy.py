"""What stands between a server and its budget authority, and goes wrong: a proxy on a real socket.

It also makes our own authority as plain as any other: the wish that an expired reservation be charged (``on_expiry``)
is an extension of ours, which a Cycles server does not know, so it is taken out of what passes.
"""

import json
import re
import time
from collections import deque
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import anyio
import anyio.lowlevel
import httpx
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from tools.delegation.remote import Port

Operation = Literal["reserve", "commit", "release", "extend", "event", "balances", "decide", "list", "other"]


@dataclass(frozen=True, kw_only=True)
class Mishap:
    """What becomes of a request, and of its answer.

    Attributes:
        reaches: whether it reaches the authority and takes effect, before its answer comes to grief.
        status: what comes back instead of the authority's answer; 0 where nothing does.
        error: the protocol's code for it, in an error as the protocol has it.
        raw: the body where it is none of the protocol's.
        headers: of what comes back.
        hangs: whether the connection stays open and nothing comes; it is reset otherwise.
        drips: whether the authority's own answer comes byte by byte.
    """

    reaches: bool = False
    status: int = 0
    error: str = ""
    raw: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    hangs: bool = False
    drips: bool = False

    @property
    def body(self) -> bytes:
        """What comes back."""
        if not self.error:
            return self.raw
        return json.dumps({"error": self.error, "message": "So says the proxy.", "request_id": "proxy"}).encode()


def _refusal(status: int, error: str, **headers: str) -> Mishap:
    return Mishap(status=status, error=error, headers=headers)


def _garbled(raw: bytes, **headers: str) -> Mishap:
    return Mishap(reaches=True, status=200, raw=raw, headers={"content-type": "application/json", **headers})


ELSEWHERE = "/elsewhere"
"""Where no client may follow to, with its key and what it asks."""

MISHAPS: Mapping[str, Mishap] = {
    "lost": Mishap(reaches=True),
    "hang": Mishap(hangs=True),
    "lost in silence": Mishap(reaches=True, hangs=True),
    "500": _refusal(500, "INTERNAL_ERROR"),
    "503": _refusal(503, "INTERNAL_ERROR"),
    "a gateway's page": Mishap(reaches=True, status=502, raw=b"<html>Bad Gateway</html>"),
    "a page under 200": Mishap(status=200, raw=b"{}", headers={"content-type": "application/json"}),
    "429": _refusal(429, "LIMIT_EXCEEDED", **{"retry-after": "1"}),
    "429 for two seconds": _refusal(429, "LIMIT_EXCEEDED", **{"retry-after": "2"}),
    "429 with a page": Mishap(status=429, raw=b"<html>Slow down</html>"),
    "401": _refusal(401, "UNAUTHORIZED"),
    "403": _refusal(403, "FORBIDDEN"),
    "404": _refusal(404, "NOT_FOUND"),
    "409 finalized": _refusal(409, "RESERVATION_FINALIZED"),
    "409 mismatch": _refusal(409, "IDEMPOTENCY_MISMATCH"),
    "409 unheard of": _refusal(409, "MERCURY_IN_RETROGRADE"),
    "410": _refusal(410, "RESERVATION_EXPIRED"),
    "410 with a page": Mishap(status=410, raw=b"<html>Gone</html>"),
    "a redirect": Mishap(status=307, headers={"location": ELSEWHERE}),
    "nothing in it": _garbled(b""),
    "not JSON": _garbled(b'{"decision": "ALL'),
    "another document": _garbled(b'{"status": "ok", "version": 7}'),
    "a list": _garbled(b"[1, 2]"),
    "a number": _garbled(b"7"),
    "null everywhere": _garbled(b'{"decision": null, "reservation_id": null, "charged": null, "balances": null}'),
    "not the zip it says": _garbled(b"plain", **{"content-encoding": "gzip"}),
    "ten megabytes": _garbled(b" " * 10_000_000),
    "byte by byte": Mishap(reaches=True, drips=True),
}
"""All that may go wrong with one request, by the name that the tables use."""

_PATHS: dict[str, Operation] = {
    "GET /v1/reservations": "list",
    r"POST /v1/reservations": "reserve",
    r"POST /v1/reservations/[^/]+/commit": "commit",
    r"POST /v1/reservations/[^/]+/release": "release",
    r"POST /v1/reservations/[^/]+/extend": "extend",
    r"POST /v1/events": "event",
    r"GET /v1/balances": "balances",
    r"POST /v1/decide": "decide",
}
_HOP_HEADERS = frozenset({"host", "connection", "content-length", "transfer-encoding"})


@dataclass(frozen=True, kw_only=True)
class Passed:
    """A request that came by."""

    operation: Operation
    key: str
    """Its idempotency key."""
    path: str
    body: Mapping[str, Any]
    at_ms: int
    """When it arrived, by the wall clock."""
    status: int
    """What the authority answered; 0 where it was not asked."""


class _Gathering:
    """Requests that wait for each other."""

    def __init__(self, count: int) -> None:
        self._missing = count
        self._all_are_here = anyio.Event()

    async def join(self) -> None:
        self._missing -= 1
        if self._missing <= 0:
            self._all_are_here.set()
        await self._all_are_here.wait()


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
        self._mishaps: dict[Operation, deque[str]] = {}
        self._gatherings: dict[Operation, _Gathering] = {}
        self._arrival = anyio.Event()

    def befall(self, operation: Operation, mishap: str, times: int = 1) -> None:
        """Let the next requests of this kind come to grief."""
        self._mishaps.setdefault(operation, deque()).extend([mishap] * times)

    def behave(self) -> None:
        """Let no request come to grief any more."""
        self._mishaps.clear()

    def gather(self, operation: Operation, count: int) -> None:
        """Hold the requests of this kind back until so many have arrived, then let all of them pass."""
        self._gatherings[operation] = _Gathering(count)

    def of(self, operation: Operation) -> list[Passed]:
        """The requests of this kind so far, in order."""
        return [each for each in self.passed if each.operation == operation]

    async def answered(self, operation: Operation, count: int) -> None:
        """Wait until the authority has taken this many requests of a kind."""
        while sum(bool(each.status) for each in self.of(operation)) < count:
            await self._arrival.wait()

    async def arrived(self, operation: Operation, count: int) -> None:
        """Wait until this many requests of a kind have come by, whatever became of them."""
        while len(self.of(operation)) < count:
            await self._arrival.wait()

    async def aclose(self) -> None:
        """Leave nothing open."""
        await self._client.aclose()

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        body = _plain(await request.body())
        operation = _operation(request)
        at_ms = time.time_ns() // 1_000_000
        if operation in self._gatherings:
            await self._gatherings[operation].join()
        mishaps = self._mishaps.get(operation)
        mishap = MISHAPS[mishaps.popleft()] if mishaps else None
        answer = await self._pass_on(request, body) if mishap is None or mishap.reaches else None
        said = body if isinstance(body, dict) else {}
        key = str(said.get("idempotency_key", ""))
        status = answer.status_code if answer is not None else 0
        self.passed.append(
            Passed(operation=operation, key=key, path=request.url.path, body=said, at_ms=at_ms, status=status)
        )
        self._arrival.set()
        self._arrival = anyio.Event()
        if mishap is not None and mishap.status:
            await Response(mishap.body, mishap.status, dict(mishap.headers))(scope, receive, send)
        elif mishap is not None and mishap.hangs:
            while (await receive())["type"] != "http.disconnect":
                pass
        elif mishap is not None and not mishap.drips:
            self._cut(scope)
        else:
            assert answer is not None
            headers = {name: value for name, value in answer.headers.items() if name not in _HOP_HEADERS}
            pieces = _bytes_of(answer.content) if mishap is not None else _bytes_of(answer.content, len(answer.content))
            await StreamingResponse(pieces, answer.status_code, headers)(scope, receive, send)

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


async def _bytes_of(content: bytes, size: int = 1) -> AsyncIterator[bytes]:
    for start in range(0, len(content), size or 1):
        yield content[start : start + size]
        await anyio.lowlevel.checkpoint()


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
