"""Standard input and output as the event loop's own pipes.

The SDK reads and writes them through threads, three hops a call; on pipes and sockets, which is what hosts give, the
loop can do it itself. Anywhere else (a terminal, a file, Windows) the SDK's own way is right.
"""

import asyncio
import os
import stat
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, cast

import anyio
from mcp.server.mcpserver import MCPServer
from mcp.server.stdio import stdio_server

if TYPE_CHECKING:
    from budget_tools.toolkit import Toolkit

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
        await lowlevel.run(received, sent, lowlevel.create_initialization_options())


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
