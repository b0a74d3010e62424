"""Requests that turn out to be invalid while they are being answered.

The web server itself refuses such a request once it reads the invalid part, and then accepts no other answer to it: any
application that serves the request would fail, with sixty lines of log for every such request a client sends. The
refusal would fail as well, if an answer has begun.
"""

from typing import TYPE_CHECKING

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send


def unless_refused(app: "ASGIApp") -> "ASGIApp":
    """Wrap an ASGI application: its answer to a request that the web server refused is discarded."""

    async def serve(scope: "Scope", receive: "Receive", send: "Send") -> None:
        is_refused = False

        async def send_unless_refused(message: "Message") -> None:
            nonlocal is_refused
            if is_refused:
                return
            try:
                await send(message)
            except h11.LocalProtocolError:
                is_refused = True  # the web server logs it, in one line

        await app(scope, receive, send_unless_refused)

    return serve


class RefusingProtocol(H11Protocol):
    """The web server's side of a connection; it hangs up if a refusal can no longer be sent."""

    def send_400_response(self, msg: str) -> None:
        """Reject bytes that are not an HTTP request."""
        try:
            super().send_400_response(msg)
        except h11.LocalProtocolError:
            self.transport.close()
