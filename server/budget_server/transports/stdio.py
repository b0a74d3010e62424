"""Standard input and output as the event loop's own pipes.

The SDK reads and writes them through threads, three hops a call; on pipes and sockets, which is what hosts give, the
loop can do it itself. Anywhere else (a terminal, a file, Windows) the SDK's own way is right.

The SDK drops what it cannot read in silence; here it is answered, because whoever sent it would wait for ever.
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
"""Longest message that is read: a longer one is answered as no message at all, instead of filling the memory."""

_STDIN, _STDOUT, _STDERR = 0, 1, 2


async def run_stdio(server: "MCPServer[Toolkit]") -> None:
    """Serve one host until it closes standard input."""
    if sys.platform == "win32" or not (_is_pipe(_STDIN) and _is_pipe(_STDOUT)):
        await server.run_stdio_async()
        return
    lowlevel = server._lowlevel_server  # noqa: SLF001 - the only way to run an MCPServer over streams of one's own
    async with (
        _pipes() as (lines, sink),
        stdio_server(cast("anyio.AsyncFile[str]", lines), cast("anyio.AsyncFile[str]", sink)) as (received, sent),
    ):
        readable = cast("ReadStream[SessionMessage | Exception]", _Readable(received, sent))
        await lowlevel.run(readable, sent, lowlevel.create_initialization_options())


class _Readable:
    """The messages received that can be read; one that cannot is answered with the reason, and passed over.

    Args:
        received: everything; an exception stands where a line was no message.
        sent: where answers go.
    """

    def __init__(self, received: "ReadStream[SessionMessage | Exception]", sent: "WriteStream[SessionMessage]") -> None:
        self._received = received
        self._sent = sent

    def __getattr__(self, name: str) -> object:
        """Be the stream in all else."""
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
    """Say why a line is no message, to the request that it was meant to be if that much can be read of it.

    JSON-RPC 2.0, sections 4.1 and 5: no notification and no answer is answered; what has no readable id gets null.
    """
    errors = problem.errors(include_url=False)
    if errors[0]["type"] == "json_invalid":
        # Python reads more than JSON is, such as half of a surrogate pair, which some hosts write.
        meant = _read(errors[0]["input"])
        error = ErrorData(code=PARSE_ERROR, message=f"Parse error: {errors[0]['ctx']['error']}")
    else:
        # What lacks a field is the message itself, as one of the four kinds that it could have been.
        meant = next((each["input"] for each in errors if each["type"] == "missing" and len(each["loc"]) == 2), None)
        error = ErrorData(code=INVALID_REQUEST, message="Invalid Request: this is no message of JSON-RPC 2.0")
    if meant is _NOTHING or (isinstance(meant, dict) and ("id" not in meant or "method" not in meant)):
        return None
    request_id = meant.get("id") if isinstance(meant, dict) else None
    return JSONRPCError(jsonrpc="2.0", id=request_id if _is_id(request_id) else None, error=error)


def _is_id(value: object) -> bool:
    if isinstance(value, str):
        return not _HALF_PAIR.search(value)  # one could not be written
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
    """Iterates over the lines of a pipe, as the SDK's transport expects of a file."""

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
    """Writes to a pipe, as the SDK's transport expects of a file; a host that reads slowly is waited for."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self._writer = writer

    async def write(self, text: str) -> None:
        self._writer.write(text.encode())

    async def flush(self) -> None:
        await self._writer.drain()


@asynccontextmanager
async def _pipes() -> AsyncIterator[tuple[_Lines, _Sink]]:
    """Take the wire: what else reads or prints in this process meets the null device and standard error."""
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
