"""Answers of the Claude API that no API would give: bytes on a socket, for what a script cannot say.

A gateway's page under a status of 200, an event in pieces of one byte, usage that cannot be: the client must take each
for what it is, and the money follow.
"""

import gzip
import json
import socket
import struct
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import anyio
import anyio.lowlevel

from budget_server.demo.scripted_claude import MESSAGES_PATH, Answer, Failure, ScriptedClaude

SAID = "Half and half."
USAGE: dict[str, Any] = {"input_tokens": 200, "output_tokens": 8}
"""Less than any bound, so that a charge by it can be told from the bound."""

OVER = Failure(status=500, message="The script is over.")

_EVENT_STREAM = "text/event-stream; charset=utf-8"


@dataclass(frozen=True, kw_only=True)
class Wire:
    """One answer, byte for byte.

    Attributes:
        body: what follows the headers.
        status: the HTTP status line's number and words.
        content_type: empty for none.
        headers: further headers, one a line.
        size: how many bytes leave at a time; all at once by default.
        end: whether the connection is closed after it in good order, is reset, or stays open in silence.
        length: the content length that is promised; none by default, so that the end is the connection's.
    """

    body: bytes = b""
    status: str = "200 OK"
    content_type: str = _EVENT_STREAM
    headers: Sequence[str] = ()
    size: int = 1 << 20
    end: Literal["close", "reset", "hang"] = "close"
    length: int | None = None

    @property
    def head(self) -> bytes:
        """The status line and the headers."""
        lines = [f"HTTP/1.1 {self.status}", "request-id: req_wire", "connection: close", *self.headers]
        lines += [f"content-type: {self.content_type}"] if self.content_type else []
        lines += [f"content-length: {self.length}"] if self.length is not None else []
        return "\r\n".join([*lines, "", ""]).encode()


class WireClaude(ScriptedClaude):
    """A scripted Claude some of whose answers are bytes.

    Args:
        script: the answers, in order; it may grow until they are asked for.
    """

    def __init__(self, script: Sequence[Answer | Wire]) -> None:
        super().__init__(lambda _body, _number: self._next_answer())
        self._order = script
        self._given = 0

    def _next_answer(self) -> Answer:
        answer = self._order[self._given] if self._given < len(self._order) else OVER
        assert not isinstance(answer, Wire)
        self._given += 1
        return answer

    async def _respond(self, exchange: Any) -> None:
        is_message = exchange.request.path == MESSAGES_PATH
        answer = self._order[self._given] if is_message and self._given < len(self._order) else None
        if not isinstance(answer, Wire):
            await super()._respond(exchange)
            return
        self._given += 1
        transport = exchange._transport
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        exchange.hung_up = True
        for piece in _pieces(answer.head + answer.body, answer.size):
            transport.write(piece)
            # A moment for the kernel, so that the pieces do not travel as one.
            await anyio.lowlevel.checkpoint()
        if answer.end == "reset":
            transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            transport.abort()
        elif answer.end == "close":
            transport.close()
        exchange.request.held.set()
        await anyio.sleep_forever()  # the lost connection ends the exchange


def _pieces(whole: bytes, size: int) -> Iterable[bytes]:
    return (whole[start : start + size] for start in range(0, len(whole), size))


# -- a stream of events, and what may be done to it -------------------------------------------------------------------


def event(kind: str, **data: Any) -> bytes:
    """One server-sent event of the Messages API."""
    return f"event: {kind}\ndata: {json.dumps({'type': kind, **data})}\n\n".encode()


def start(usage: object = None, model: str = "claude-sonnet-5-5") -> bytes:
    """The first event; its output is a placeholder."""
    message = {
        "id": "msg_wire", "type": "message", "role": "assistant", "model": model, "content": [],
        "stop_reason": None, "stop_sequence": None,
        "usage": {"input_tokens": 200, "output_tokens": 1} if usage is None else usage,
    }  # fmt: skip
    return event("message_start", message=message)


def words(text: str = SAID, index: int = 0) -> bytes:
    """A block of text."""
    return (
        event("content_block_start", index=index, content_block={"type": "text", "text": ""})
        + event("content_block_delta", index=index, delta={"type": "text_delta", "text": text})
        + event("content_block_stop", index=index)
    )


def delta(usage: object = None, stop_reason: object = "end_turn") -> bytes:
    """What says why it stopped, and the whole usage."""
    said = {"stop_reason": stop_reason, "stop_sequence": None}
    return event("message_delta", delta=said, usage=USAGE if usage is None else usage)


STOP = event("message_stop")
PING = event("ping")
WHOLE = start() + words() + delta() + STOP
"""An answer as it should be."""


def used(**changes: object) -> Wire:
    """An answer whose last usage is changed; ``None`` leaves a count out."""
    usage = {name: count for name, count in {**USAGE, **changes}.items() if count is not None}
    return Wire(body=start() + words() + delta(usage) + STOP)


def zipped(body: bytes, cut: int = 0) -> Wire:
    """An answer in gzip, without its last bytes."""
    packed = gzip.compress(body)
    return Wire(body=packed[: len(packed) - cut], headers=["content-encoding: gzip"])


def with_lines_of(line_end: bytes) -> Callable[[bytes], bytes]:
    """End lines as some gateways do."""
    return lambda body: body.replace(b"\n", line_end)
