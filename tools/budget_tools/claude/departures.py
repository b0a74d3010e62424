"""Departures of requests: whether any byte of a request may have left this machine.

The transport reports its steps (httpx, extensions, "trace"). A reported step is knowledge: while connections are being
made and nothing more was reported, nothing has left. Silence is not, since a transport need not report; then only
errors that are always raised before the first byte prove it.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import httpx2
    from anthropic import AsyncAnthropic

Departure = Literal["unknown", "connecting", "left"]
"""``connecting``: a connection is being made, and nothing has left; ``left``: the request may have."""

_SENDING = ".send_request_headers.started"
_CONNECTING = (".connect_tcp.started", ".connect_unix_socket.started")


def watch_departures(client: "AsyncAnthropic", note: Callable[[Departure], None]) -> None:
    """Report how far each request of a client came, in the context that it is sent in."""

    async def watch(request: "httpx2.Request") -> None:
        has_left = False

        async def trace(step: str, _info: dict[str, Any]) -> None:
            nonlocal has_left
            if step.endswith(_SENDING):
                has_left = True
                note("left")
            elif step.endswith(_CONNECTING) and not has_left:
                note("connecting")

        request.extensions = {**request.extensions, "trace": trace}

    http_client = client._client  # noqa: SLF001 - the SDK has no public way to it, or to a request's extensions
    hooks = http_client.event_hooks
    http_client.event_hooks = {**hooks, "request": [*hooks["request"], watch]}


def departure_of(exc: Exception, departure: Departure) -> Literal["unbuilt", "unreachable", "unsent", "unknown"]:
    """Return what an error of the client proves.

    Args:
        exc: the error that it raised: its own with the transport's as the cause, or one from before the transport.
        departure: how far the request came, as far as it was observed.
    """
    import anthropic
    import httpx2

    cause = exc.__cause__ if isinstance(exc, anthropic.APIConnectionError) else exc
    if isinstance(cause, httpx2.ConnectError | httpx2.ConnectTimeout | httpx2.PoolTimeout):
        return "unreachable"
    # A header that HTTP does not allow is found just before it would be written; a proxy refuses before the request.
    if isinstance(cause, httpx2.LocalProtocolError | httpx2.UnsupportedProtocol | httpx2.ProxyError):
        return "unsent"
    after_sending = (httpx2.NetworkError, httpx2.ReadTimeout, httpx2.WriteTimeout, httpx2.RemoteProtocolError)
    if departure == "connecting" and not isinstance(cause, after_sending):
        return "unsent"
    is_before_transport = not isinstance(exc, anthropic.APIConnectionError) and departure == "unknown"
    if is_before_transport and isinstance(exc, TypeError | ValueError | httpx2.InvalidURL):
        return "unbuilt"
    return "unknown"
