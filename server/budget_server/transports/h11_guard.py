"""Requests that turn out to be none while they are being answered.

The web server refuses such a request itself as soon as it reads so far, and then takes no other answer to it: whatever
serves the request would fail, with sixty lines of log for each that anybody cares to send. So would the refusal, where
an answer has begun.
"""

from typing import TYPE_CHECKING

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send


def unless_refused(app: "ASGIApp") -> "ASGIApp":
    """Wrap an ASGI application: what it says to a request that was refused beneath it goes nowhere."""

    async def serve(scope: "Scope", receive: "Receive", send: "Send") -> None:
        is_refused = False

        async def send_unless_refused(message: "Message") -> None:
            nonlocal is_refused
            if is_refused:
                return
            try:
                await send(message)
            except h11.LocalProtocolError:
                is_refused = True  # the web server logs it, in a line

        await app(scope, receive, send_unless_refused)

    return serve


class RefusingProtocol(H11Protocol):
    """The web server's side of a connection; where a refusal cannot be said any more, it hangs up."""

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no request."""
        try:
            super().send_400_response(msg)
        except h11.LocalProtocolError:
            self.transport.close()
