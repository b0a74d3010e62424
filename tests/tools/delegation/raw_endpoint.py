"""An endpoint that plays bytes: what gateways send is not always what the scripted Claude could say.

Beside it stand the events of a plain answer, to be sent, left out, doubled and bent.
"""

import asyncio
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Literal, Self

from tools.delegation.harness import MODEL

USAGE = {"input_tokens": 100, "output_tokens": 50}
"""What a plain answer reports: 70,000 microcents at the prices of the default model."""
EXACT = 70_000

Event = Mapping[str, Any]


def start(usage: object = {"input_tokens": 100, "output_tokens": 1}, **message: Any) -> Event:
    """Begin an answer."""
    whole = {"id": "msg_1", "type": "message", "role": "assistant", "model": MODEL, "content": [], **message}
    return {"type": "message_start", "message": {**whole, "stop_reason": None, "usage": usage}}


def text(words: str = "Hello.", index: int | None = 0) -> list[Event]:
    """Say something in a block of text."""
    return [
        {"type": "content_block_start", "index": index, "content_block": {"type": "text", "text": ""}},
        {"type": "content_block_delta", "index": index, "delta": {"type": "text_delta", "text": words}},
        {"type": "content_block_stop", "index": index},
    ]


def call(written: str, *, call_id: str = "toolu_1", name: str = "shed__count", index: int = 0) -> list[Event]:
    """Call a tool with JSON as it is written."""
    block = {"type": "tool_use", "id": call_id, "name": name, "input": {}}
    return [
        {"type": "content_block_start", "index": index, "content_block": block},
        {"type": "content_block_delta", "index": index, "delta": {"type": "input_json_delta", "partial_json": written}},
        {"type": "content_block_stop", "index": index},
    ]


def stop(usage: object = USAGE, stop_reason: object = "end_turn", **delta: Any) -> Event:
    """Say why an answer stopped, and what it used."""
    return {"type": "message_delta", "delta": {"stop_reason": stop_reason, **delta}, "usage": usage}


def refusal(category: object, usage: object = {"input_tokens": 100, "output_tokens": 1}) -> Event:
    """Decline."""
    return stop(usage, "refusal", stop_details={"type": "refusal", "category": category})


END: Event = {"type": "message_stop"}
PING: Event = {"type": "ping"}


def error(kind: str, message: str = "As the test says.") -> Event:
    """Tell of an error within a stream."""
    return {"type": "error", "error": {"type": kind, "message": message}}


def sse(*events: Event | Sequence[Event] | bytes, names: bool = True, line_end: str = "\n") -> bytes:
    """Write events as the API does; bytes go in as they are."""
    written = b""
    for each in events:
        for event in [each] if isinstance(each, bytes | Mapping) else each:
            if isinstance(event, bytes):
                written += event
                continue
            name = f"event: {event['type']}{line_end}" if names else ""
            written += f"{name}data: {json.dumps(event)}{line_end}{line_end}".encode()
    return written


@dataclass(frozen=True, kw_only=True)
class Raw:
    """An answer, byte for byte; ``ends`` is whether its connection is closed properly, cut, or left open."""

    body: bytes
    status: int = 200
    content_type: str = "text/event-stream"
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    ends: Literal["properly", "cut", "open"] = "properly"
    chunk_bytes: int = 1 << 16


@dataclass(frozen=True, kw_only=True)
class Received:
    """A request for a message."""

    body: dict[str, Any]


class RawEndpoint:
    """A Messages endpoint on loopback that plays answers in order; the last one again and again."""

    def __init__(self, *answers: Raw) -> None:
        self._answers = answers
        self._server: asyncio.Server | None = None
        self._writers: list[asyncio.StreamWriter] = []
        self.message_requests: list[Received] = []

    def __call__(self, _script: object) -> Self:
        """Stand where a bench opens its endpoint."""
        return self

    @property
    def base_url(self) -> str:
        """Where it listens."""
        assert self._server is not None
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        for writer in self._writers:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.append(writer)
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            length = next(
                int(line.partition(b":")[2])
                for line in head.split(b"\r\n")
                if line.lower().startswith(b"content-length")
            )
            body = json.loads(await reader.readexactly(length))
            if b"/count_tokens " in head:
                await self._send(writer, Raw(body=b"", status=404))
                return
            self.message_requests.append(Received(body=body))
            answer = self._answers[min(len(self.message_requests), len(self._answers)) - 1]
            await self._send(writer, answer)
            if answer.ends == "open":
                await reader.read()  # until the client has had enough
        finally:
            writer.close()

    async def _send(self, writer: asyncio.StreamWriter, answer: Raw) -> None:
        headers = {"content-type": answer.content_type, "transfer-encoding": "chunked", "connection": "close"}
        lines = [f"HTTP/1.1 {answer.status} Played", *(f"{n}: {v}" for n, v in {**headers, **answer.headers}.items())]
        writer.write("\r\n".join([*lines, "", ""]).encode("latin-1"))
        for begin in range(0, len(answer.body), answer.chunk_bytes):
            piece = answer.body[begin : begin + answer.chunk_bytes]
            writer.write(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
        if answer.ends == "properly":
            writer.write(b"0\r\n\r\n")
        await writer.drain()
