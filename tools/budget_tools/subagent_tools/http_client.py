"""The HTTP client for the servers of a sub-agent's tools: what it refuses, and one sentence for each failure.

The SDK's transports keep little of a failure: a 401 becomes "Server returned an error response", a refused connection
fails every call over it, and a message that an SSE server refuses is waited for in vain. They send through this client,
which keeps the reason. Headers and addresses may hold secrets: a sentence shows the origin of an address at most.
"""

import errno
import http
import json
import re
import secrets
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Literal

import anyio
import httpx2
from mcp import MCPError
from mcp.client.sse import sse_client
from mcp.client.streamable_http import streamable_http_client
from mcp.types import CONNECTION_CLOSED

from budget_tools.core.errors import ConfigurationError
from budget_tools.core.network import client_options
from budget_tools.subagent_tools.config import ServerEntry

MAX_EVENT_BYTES = 32_000_000
"""Longest message that a server may stream; a result may hold images."""

CONNECT_SECONDS = 20.0

_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", re.ASCII)  # RFC 9110, token
_HEADER_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")  # RFC 9110, field-value

Fate = Literal["unsent", "session lost", "unknown"]
"""What is known of a request that failed: it never left; it was refused because its session has ended; or nothing."""

_OURS = secrets.token_hex()
"""Marks the errors that are made here; a server cannot know it."""

Transport = AbstractAsyncContextManager[tuple[Any, Any]]


def checked(name: str, entry: ServerEntry) -> ServerEntry:
    """Return an entry that HTTP allows; checked before the library would, whose errors show the values.

    Raises:
        ConfigurationError: the url or a header cannot be used.
    """
    try:
        url = httpx2.URL(entry.url)
    except (httpx2.InvalidURL, ValueError):
        url = httpx2.URL()
    if url.scheme not in ("http", "https") or not url.host:
        raise ConfigurationError(f"MCP server {name!r} has a url that is not an http or https address.")
    for header, value in entry.headers.items():
        if not _HEADER_NAME.fullmatch(header):
            raise ConfigurationError(f"MCP server {name!r} has a header whose name is not one of HTTP.")
        if not _HEADER_VALUE.fullmatch(value):
            raise ConfigurationError(
                f"MCP server {name!r} has a line break or another character in its header {header!r} "
                "that HTTP does not take."
            )
    return entry


def origin_of(url: str) -> str:
    """Return the origin of an address, without the parts that may be secret."""
    return _origin(httpx2.URL(url))


def connect_http(entry: ServerEntry, *, on_broken: Callable[[str], None]) -> Transport:
    """Return the transport of a checked entry.

    Args:
        entry: over SSE or streamable HTTP.
        on_broken: called with the reason if the whole connection is unusable; it has to cancel the connection.

    Raises:
        ConfigurationError: a variable that sets the route of requests cannot be used.
    """
    route = client_options(entry.url)
    if entry.transport != "sse":
        return _streamable(entry, route)

    def client(*_: Any, **__: Any) -> httpx2.AsyncClient:  # noqa: ANN401 - the SDK's own idea of headers and time limits
        return _SseClient(entry.headers, route, on_broken=on_broken)

    return sse_client(entry.url, httpx_client_factory=client)


@asynccontextmanager
async def _streamable(entry: ServerEntry, route: Mapping[str, Any]) -> AsyncIterator[tuple[Any, Any]]:
    async with (
        _StreamableClient(entry.headers, route) as client,
        streamable_http_client(entry.url, http_client=client, max_sse_event_size=MAX_EVENT_BYTES) as streams,
    ):
        yield streams


def fate_of(exc: MCPError) -> Fate | None:
    """Return what is known of a call that failed for a reason of HTTP; ``None`` if the server itself answered."""
    data = exc.error.data
    if not isinstance(data, dict) or data.get("by") != _OURS:
        return None
    fate: Fate = data["fate"]
    return fate


class _Client(httpx2.AsyncClient):
    """A client that sends requests to one origin; failures are passed to ``_refuse``.

    Reading has no time limit of its own: every call has one, and between calls an SSE server may be silent for long.
    """

    def __init__(self, headers: Any, route: Mapping[str, Any]) -> None:  # noqa: ANN401 - the library's union of headers
        super().__init__(headers=dict(headers), timeout=httpx2.Timeout(CONNECT_SECONDS, read=None), **route)

    async def send(self, request: httpx2.Request, **options: Any) -> httpx2.Response:  # noqa: ANN401 - passed on
        try:
            response = await super().send(request, **options)
        except httpx2.TransportError as exc:
            is_unsent = isinstance(exc, httpx2.ConnectError | httpx2.ConnectTimeout | httpx2.PoolTimeout)
            return await self._refuse(request, _reason(exc), "unsent" if is_unsent else "unknown")
        reason = await self._complaint(response)
        if not reason:
            return response
        await response.aclose()
        return await self._refuse(request, reason, _fate(response))

    async def _complaint(self, response: httpx2.Response) -> str:
        """Return what is wrong with an answer; ``""`` if the SDK may have it."""
        if _leads_away(response):
            return (
                f"it redirects to {_redirected_to(response)}, which was not followed: use that address if it is right"
            )
        return _status(response.status_code) if response.is_error else ""

    async def _refuse(self, request: httpx2.Request, reason: str, fate: Fate) -> httpx2.Response:
        raise NotImplementedError


class _StreamableClient(_Client):
    """A client that answers a failed request in the server's place, so that only this request fails, with a reason."""

    async def _complaint(self, response: httpx2.Response) -> str:
        complaint = await super()._complaint(response)
        if not response.is_error or response.status_code in (401, 403) or _fate(response) == "session lost":
            return complaint
        content = await response.aread() if _content_type(response) == "application/json" else b""
        return "" if _is_json_rpc_error(content) else complaint

    async def _refuse(self, request: httpx2.Request, reason: str, fate: Fate) -> httpx2.Response:
        if request.method != "POST":
            # The SDK silently tolerates the failure of the server's own stream, and of a session's end.
            return httpx2.Response(405, request=request)
        error = {"code": CONNECTION_CLOSED, "message": reason, "data": {"by": _OURS, "fate": fate}}
        return httpx2.Response(502, request=request, json={"jsonrpc": "2.0", "id": None, "error": error})


class _SseClient(_Client):
    """A client that ends the connection if a request fails: otherwise the SDK would send nothing more, and wait."""

    def __init__(self, headers: Any, route: Mapping[str, Any], *, on_broken: Callable[[str], None]) -> None:  # noqa: ANN401 - see above
        super().__init__(headers, route)
        self._on_broken = on_broken

    async def _complaint(self, response: httpx2.Response) -> str:
        complaint = await super()._complaint(response)
        if complaint or response.has_redirect_location or response.request.method != "GET":
            return complaint
        content_type = _content_type(response)
        return "" if content_type == "text/event-stream" else f"it answers with {content_type or 'no'} content, not SSE"

    async def _refuse(self, request: httpx2.Request, reason: str, fate: Fate) -> httpx2.Response:  # noqa: ARG002
        self._on_broken(reason)
        await anyio.sleep_forever()  # the connection is being cancelled
        raise AssertionError


# -- reading answers --------------------------------------------------------------------------------------------------


def _content_type(response: httpx2.Response) -> str:
    return str(response.headers.get("content-type", "")).partition(";")[0].strip().lower()


def _is_json_rpc_error(content: bytes) -> bool:
    try:
        body = json.loads(content)
    except (ValueError, RecursionError):
        return False
    return isinstance(body, dict) and "jsonrpc" in body and isinstance(body.get("error"), dict)


def _fate(response: httpx2.Response) -> Fate:
    """Return the meaning of a refusal: 404 within a session means that it has ended (MCP, session management)."""
    is_in_session = "mcp-session-id" in response.request.headers
    return "session lost" if response.status_code == 404 and is_in_session else "unknown"


def _leads_away(response: httpx2.Response) -> bool:
    """Return whether a redirect leaves the origin, or would drop the message: headers are for the configured server."""
    following = response.next_request
    if following is None:
        return False
    sent = response.request
    return _origin(following.url) != _origin(sent.url) or following.method != sent.method


def _origin(url: httpx2.URL) -> str:
    return str(httpx2.URL(scheme=url.scheme, host=url.host, port=url.port))


def _redirected_to(response: httpx2.Response) -> str:
    """Return a redirect's address without the parts that carry state."""
    assert response.next_request is not None
    return str(response.next_request.url.copy_with(userinfo=b"", query=None, fragment=None))


def _status(code: int) -> str:
    try:
        phrase = f"{code} {http.HTTPStatus(code).phrase}"
    except ValueError:
        phrase = str(code)
    if code in (401, 403):
        return f"it answers {phrase}: check the headers of its entry"
    if code in (404, 405):
        return f"it answers {phrase}: check its url, and its type (a url without one is streamable HTTP)"
    return f"it answers {phrase}"


# -- reading errors ---------------------------------------------------------------------------------------------------


def _reason(exc: httpx2.TransportError) -> str:
    """Return what happened, from the innermost error: the outer ones only report that something did."""
    causes = list(_causes(exc))
    for cause in causes:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return f"its certificate is not trusted ({cause.verify_message})"
        if isinstance(cause, ssl.SSLError):
            return f"TLS failed ({cause.reason or 'no reason was given'}): the address may not be one of https"
        if isinstance(cause, socket.gaierror):
            return "its host name cannot be resolved"
        if isinstance(cause, OSError) and cause.errno == errno.ECONNREFUSED:
            return "the connection was refused, so nothing listens there"
    if isinstance(exc, httpx2.ConnectTimeout):
        return f"no connection came about within {CONNECT_SECONDS:g} s"
    return str(exc) or type(exc).__name__


def _causes(exc: BaseException | None) -> Iterator[BaseException]:
    while exc is not None:
        yield exc
        exc = exc.exceptions[0] if isinstance(exc, BaseExceptionGroup) else exc.__cause__ or exc.__context__
