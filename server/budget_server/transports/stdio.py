"""Standard input and output as the event loop's own pipes.

The SDK reads and writes them through threads, three hops a call; on pipes and sockets, which hosts use, the loop can do
it itself. For anything else (a terminal, a file, Windows) the SDK's own way is right.

The SDK silently drops messages that it cannot read; here they are answered, because their sender would wait forever.
"""

import asyncio
import json
import os
import re
import stat
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import TracebackType
from typing import TYPE_CHECKING, cast

import anyio
from mcp.server.mcpserver import MCPServer
from mcp.server.stdio import stdio_server
from mcp.shared.message import SessionMessage
from mcp.types import INVALID_REQUEST, PARSE_ERROR, ErrorData, JSONRPCError
from pydantic import ValidationError

if TYPE_CHECKING:
    from mcp.shared._stream_protocols import ReadStream, WriteStream

    from budget_tools.mcp_tools.toolkit import Toolkit

MAX_LINE_BYTES = 1 << 24
"""Longest message that is read: a longer one is answered as an invalid message, instead of filling the memory."""

_STDIN, _STDOUT, _STDERR = 0, 1, 2


async def run_stdio(server: "MCPServer[Toolkit]") -> None:
    """Serve one host until it closes standard input."""
    if sys.platform == "win32" or not (_is_pipe(_STDIN) and _is_pipe(_STDOUT)):
        await server.run_stdio_async()
        return
    lowlevel = server._lowlevel_server  # noqa: SLF001 - the only way to run an MCPServer over custom streams
    async with (
        _pipes() as (lines, sink),
        stdio_server(cast("anyio.AsyncFile[str]", lines), cast("anyio.AsyncFile[str]", sink)) as (received, sent),
    ):
        readable = cast("ReadStream[SessionMessage | Exception]", _Readable(received, sent))
        await lowlevel.run(readable, sent, lowlevel.create_initialization_options())


class _Readable:
    """The readable messages among those received; an unreadable one is answered with the reason, and skipped.

    Args:
        received: everything; an exception takes the place of a line that was not a message.
        sent: the stream of answers.
    """

    def __init__(self, received: "ReadStream[SessionMessage | Exception]", sent: "WriteStream[SessionMessage]") -> None:
        self._received = received
        self._sent = sent

    def __getattr__(self, name: str) -> object:
        """Return any other attribute of the stream."""
        return getattr(self._received, name)

    async def __aenter__(self) -> "_Readable":
        await self._received.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        return await self._received.__aexit__(kind, exc, traceback)

    def __aiter__(self) -> "_Readable":
        return self

    async def __anext__(self) -> SessionMessage | Exception:
        while True:
            item = await self._received.__anext__()
            if not isinstance(item, ValidationError):
                return item
            answer = _complaint(item)
            if answer is not None:
                await self._sent.send(SessionMessage(answer))


def _complaint(problem: ValidationError) -> JSONRPCError | None:
    """Build the error for an unreadable line, addressed to its request id if that can be read.

    JSON-RPC 2.0, sections 4.1 and 5: notifications and answers are not answered; an error without a readable id has id
    null.
    """
    errors = problem.errors(include_url=False)
    if errors[0]["type"] == "json_invalid":
        # Python reads more than valid JSON, such as half of a surrogate pair, which some hosts write.
        meant = _read(errors[0]["input"])
        error = ErrorData(code=PARSE_ERROR, message=f"Parse error: {errors[0]['ctx']['error']}")
    else:
        # The object that lacks a field is the message itself, as one of the four kinds that it could have been.
        meant = next((each["input"] for each in errors if each["type"] == "missing" and len(each["loc"]) == 2), None)
        error = ErrorData(code=INVALID_REQUEST, message="Invalid Request: this is no message of JSON-RPC 2.0")
    if meant is _NOTHING or (isinstance(meant, dict) and ("id" not in meant or "method" not in meant)):
        return None
    request_id = meant.get("id") if isinstance(meant, dict) else None
    return JSONRPCError(jsonrpc="2.0", id=request_id if _is_id(request_id) else None, error=error)


def _is_id(value: object) -> bool:
    if isinstance(value, str):
        return not _HALF_PAIR.search(value)  # half of a pair could not be written
    return isinstance(value, int) and not isinstance(value, bool)


_HALF_PAIR = re.compile("[\ud800-\udfff]")
_NOTHING = object()


def _read(line: str) -> object:
    if not line.strip():
        return _NOTHING
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


class _Lines:
    """An iterator over the lines of a pipe, as the SDK's transport expects of a file."""

    def __init__(self, reader: asyncio.StreamReader) -> None:
        self._reader = reader

    async def __aiter__(self) -> AsyncIterator[str]:
        while True:
            try:
                line = await self._reader.readline()
            except ValueError:
                yield "(a line that is too long)"
                continue
            if not line:
                return
            yield line.decode("utf-8", errors="replace")


class _Sink:
    """A writer to a pipe, as the SDK's transport expects of a file; it waits for a host that reads slowly."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self._writer = writer

    async def write(self, text: str) -> None:
        self._writer.write(text.encode())

    async def flush(self) -> None:
        await self._writer.drain()


@asynccontextmanager
async def _pipes() -> AsyncIterator[tuple[_Lines, _Sink]]:
    """Take over the standard streams: other code here reads the null device and prints to standard error."""
    loop = asyncio.get_running_loop()
    wire_in, wire_out = os.dup(_STDIN), os.dup(_STDOUT)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, _STDIN)
    os.close(nothing)
    os.dup2(_STDERR, _STDOUT)
    reader = asyncio.StreamReader(limit=MAX_LINE_BYTES)
    source, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(wire_in, "rb"))
    transport, protocol = await loop.connect_write_pipe(asyncio.streams.FlowControlMixin, os.fdopen(wire_out, "wb"))
    try:
        yield _Lines(reader), _Sink(asyncio.StreamWriter(transport, protocol, None, loop))
    finally:
        source.close()
        transport.close()


def _is_pipe(fd: int) -> bool:
    mode = os.fstat(fd).st_mode
    return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)
