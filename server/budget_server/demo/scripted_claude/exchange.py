"""An exchange: one request as it arrived, and its answer on the way.

How it goes::

    request read → recorded → checked → answer chosen → [hold] → headers → first half → [hold] → second half → answered
                                                          └ faults "…_before_headers"      └ faults "…_mid_stream"

At any point the client may hang up (`ReceivedRequest.disconnected`); hangs end then, or when the endpoint closes.
"""

import asyncio
import socket
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import anyio
from starlette.types import Send

from budget_server.demo.scripted_claude.message import Event, as_one_object, cut_short
from budget_server.demo.scripted_claude.script import Failure, Turn
from budget_server.demo.scripted_claude.sse import Framing
from budget_server.demo.scripted_claude.wire import error_envelope, error_type_of, to_json

_NO_HEADERS: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True, kw_only=True, eq=False)
class ReceivedRequest:
    """A request as it arrived, and events that tell how it went on.

    Attributes:
        path: the path without its query; any method but POST stands before it.
        headers: names in lower case; credentials are replaced by ``[redacted]``.
        body: the JSON object that was sent; empty if it was none.
        request_id: the ``request-id`` that its answer carries.
        size_bytes: length of the body as it was sent.
        held: set when the answer waits: at its `Turn.hold`, or in a hang.
        answered: set when all that the script wanted sent was sent.
        disconnected: set when the client hung up before that.
        ended: set last, however it ended.
    """

    path: str
    headers: Mapping[str, str]
    body: dict[str, Any]
    request_id: str
    size_bytes: int = 0
    held: anyio.Event = field(default_factory=anyio.Event)
    answered: anyio.Event = field(default_factory=anyio.Event)
    disconnected: anyio.Event = field(default_factory=anyio.Event)
    ended: anyio.Event = field(default_factory=anyio.Event)


class Exchange:
    """One request and the answer on its way."""

    def __init__(self, request: ReceivedRequest, send: Send, transport: asyncio.Transport) -> None:
        self.request = request
        self.hung_up = False
        self._send = send
        self._transport = transport

    async def fail(self, failure: Failure) -> None:
        """Answer with an HTTP error."""
        await self._hold(failure.hold)
        headers = dict(failure.headers)
        if failure.retry_after_seconds is not None:
            headers["retry-after"] = f"{failure.retry_after_seconds:g}"
        if failure.html:
            await self._start(failure.status, "text/html", headers)
            await self._finish(f"<html><body><h1>{failure.status} from a scripted gateway</h1></body></html>".encode())
            return
        error_type = failure.error_type or error_type_of(failure.status)
        envelope = error_envelope(
            error_type, failure.message, request_id=self.request.request_id, error_code=failure.error_code
        )
        await self.send_json(failure.status, envelope, headers)

    async def send_json(
        self, status: int, content: Mapping[str, Any], headers: Mapping[str, str] = _NO_HEADERS
    ) -> None:
        """Answer with a JSON object in one piece."""
        await self._start(status, "application/json", headers)
        await self._finish(to_json(content))

    async def play(self, turn: Turn, events: list[Event], framing: Framing | None) -> None:
        """Answer with a message, and let go wrong what should.

        Args:
            turn: says where to wait and what goes wrong.
            events: the whole answer.
            framing: how its stream is written; ``None`` for one JSON object.
        """
        if turn.hold_at == "headers":
            await self._hold(turn.hold)
        if turn.fault == "hang_before_headers":
            await self._hang()
        if turn.fault in ("close_before_headers", "reset_before_headers"):
            await self._hang_up(reset=turn.fault == "reset_before_headers")
        headers = _NO_HEADERS
        if framing is not None:
            left, middle = cut_short(events, turn.fault, request_id=self.request.request_id)
            compress = framing.is_compressed and "gzip" in self.request.headers.get("accept-encoding", "")
            pieces, middle = framing.pieces(left, middle, compress=compress)
            if compress:
                headers = {"content-encoding": "gzip"}
        else:
            whole = to_json(as_one_object(events))
            middle = 1
            pieces = [whole[: len(whole) // 2], whole[len(whole) // 2 :]]
        await self._start(200, "application/json" if framing is None else "text/event-stream; charset=utf-8", headers)
        for number, piece in enumerate([*pieces, b""]):
            if number == middle:
                if turn.hold_at == "middle":
                    await self._hold(turn.hold)
                if turn.fault == "hang_mid_stream":
                    await self._hang()
                if turn.fault in ("drop_mid_stream", "reset_mid_stream"):
                    await self._hang_up(reset=turn.fault == "reset_mid_stream")
            if piece:
                await self._send({"type": "http.response.body", "body": piece, "more_body": True})
        await self._finish(b"")

    async def _start(self, status: int, content_type: str, headers: Mapping[str, str]) -> None:
        every_header = {"content-type": content_type, "request-id": self.request.request_id, **headers}
        raw = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in every_header.items()]
        await self._send({"type": "http.response.start", "status": status, "headers": raw})

    async def _finish(self, body: bytes) -> None:
        await self._send({"type": "http.response.body", "body": body, "more_body": True})
        # Set before the last send: after it, the server reports the end of the exchange as a disconnect.
        self.request.answered.set()
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _hold(self, until: anyio.Event | None) -> None:
        if until is not None:
            self.request.held.set()
            await until.wait()

    async def _hang(self) -> None:
        self.request.held.set()
        await anyio.sleep_forever()

    async def _hang_up(self, *, reset: bool) -> None:
        self.hung_up = True
        if reset:
            # With a linger time of zero the system sends RST instead of FIN (SO_LINGER, socket(7)).
            self._transport.get_extra_info("socket").setsockopt(
                socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
            )
            self._transport.abort()
        else:
            self._transport.close()
        await anyio.sleep_forever()  # until the lost connection is noticed, which ends the exchange
