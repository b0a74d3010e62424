"""Connections to the servers of a sub-agent's tools: each starts when it is first needed, and again if it has died.

A connection runs in a task of its own, because the SDK's client must be left by the task that entered it. A call cut
off by the server's end is never repeated: it may have done its work.
"""

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, cast

import anyio
from mcp import Client, MCPError, StdioServerParameters
from mcp.client.stdio import stdio_client
from mcp.shared.message import SessionMessage
from mcp.types import CONNECTION_CLOSED, CallToolResult, JSONRPCResponse, RequestParamsMeta
from mcp.types import Tool as McpTool
from pydantic import ValidationError

from budget_tools.core.errors import ConfigurationError
from budget_tools.subagent_tools.config import ServerEntry, ToolPrice
from budget_tools.subagent_tools.http_client import checked, connect_http, fate_of, origin_of

logger = logging.getLogger(__name__)

START_SECONDS = 30.0
CALL_SECONDS = 120.0

LEAVE_SECONDS = 1.0
"""Longest wait for a server over HTTP to end its session; a process has its own limits in the SDK."""


class CallFailedError(Exception):
    """A call returned no result; it may have had its effect."""


class NotCalledError(CallFailedError):
    """A call surely ran nothing: its request never left."""


class ToolServer:
    """A configured MCP server.

    Args:
        name: its key in the file.
        entry: how it is started or reached.
        origin: the file, for errors.
        child_environment: the environment of its process besides its own ``env``.
    """

    def __init__(self, name: str, entry: ServerEntry, *, origin: str, child_environment: Mapping[str, str]) -> None:
        self.name = name
        self._entry = entry
        self._origin = origin
        self._child_environment = child_environment
        self._opening = asyncio.Lock()
        self._connection: _Connection | None = None
        self._living: set[_Connection] = set()

    def price(self, tool: str) -> ToolPrice | None:
        """Return the price of a call of a tool; ``None`` if it costs nothing."""
        return self._entry.budget.price(tool)

    async def tools(self) -> Sequence[McpTool]:
        """Return its tools.

        Raises:
            ConfigurationError: it cannot be started or reached, or the file gives a price to a tool that it lacks.
        """
        return (await self._connected()).tools

    async def call(self, tool: str, arguments: Mapping[str, Any], meta: Mapping[str, Any] | None) -> CallToolResult:
        """Call a tool.

        Raises:
            NotCalledError: nothing was run.
            CallFailedError: there is no result, and the call may have had its effect.
            MCPError: the server answered with an error.
        """
        connection = await self._connected_for_call()
        try:
            return await connection.call(tool, arguments, meta)
        except _SessionLostError:
            # Refused before anything was run (MCP, session management), so this is the first attempt that counts.
            self._retire(connection)
            connection = await self._connected_for_call()
            return await connection.call(tool, arguments, meta)

    async def aclose(self) -> None:
        """Stop what runs or is starting, and wait until it has ended."""
        living = list(self._living)
        self._connection = None
        for connection in living:
            connection.leave()
        await asyncio.gather(*(connection.ended() for connection in living))

    async def _connected_for_call(self) -> "_Connection":
        try:
            return await self._connected()
        except ConfigurationError as exc:
            raise NotCalledError(exc.message) from exc

    async def _connected(self) -> "_Connection":
        async with self._opening:
            if self._connection is None or not self._connection.is_usable:
                self._connection = None
                connection = _Connection(self.name, self._entry, self._child_environment, on_end=self._living.discard)
                self._living.add(connection)
                try:
                    await connection.start()
                    self._check_prices(connection.tools)
                except BaseException:
                    # Also if the caller was cancelled: half a start is not usable.
                    connection.leave()
                    raise
                self._connection = connection
            return self._connection

    def _retire(self, connection: "_Connection") -> None:
        if self._connection is connection:
            self._connection = None
        connection.leave_when_idle()

    def _check_prices(self, tools: Sequence[McpTool]) -> None:
        """Check that every priced tool exists: otherwise the tool that was meant would be free of charge."""
        names = {tool.name for tool in tools}
        mistyped = sorted(self._entry.budget.named - names)
        if mistyped:
            raise ConfigurationError(
                f"{self._origin} gives a price to {', '.join(map(repr, mistyped))}, but MCP server {self.name!r} has "
                f"no such tool: it has {', '.join(sorted(names)) or 'none'}."
            )


class _SessionLostError(Exception):
    """The server no longer knows the session, and has not run the call."""


class _Connection:
    """One run of a server, or one session with it, and the task that holds its client."""

    def __init__(
        self,
        name: str,
        entry: ServerEntry,
        child_environment: Mapping[str, str],
        *,
        on_end: Callable[["_Connection"], None],
    ) -> None:
        # The user's variables for the user's servers: not settings of ours, so not among the settings.
        expanded = entry.expanded(name, os.environ)
        self._name = name
        self._is_process = entry.transport == "stdio"
        # As it is written: the values of variables are not for everyone to see.
        self._shown = entry.command if self._is_process else origin_of(checked(name, expanded).url)
        self._entry = expanded
        self._environment = {**child_environment, **expanded.env}
        self._started: asyncio.Future[Client] = asyncio.get_running_loop().create_future()
        self._scope = anyio.CancelScope()
        self._leaving = anyio.Event()
        self._broken = ""
        self._calls = 0
        self._is_retired = False
        self._task = asyncio.create_task(self._live(), name=f"mcp-server-{name}")
        self._task.add_done_callback(lambda _: on_end(self))
        self.tools: Sequence[McpTool] = ()

    @property
    def is_usable(self) -> bool:
        """Whether a call can be tried over it."""
        return not (self._leaving.is_set() or self._broken or self._task.done())

    async def start(self) -> None:
        """Wait until the server has listed its tools.

        Raises:
            ConfigurationError: it cannot be started or reached.
        """
        try:
            with anyio.fail_after(START_SECONDS):
                client = await asyncio.shield(self._started)
                self.tools = await _all_tools(client)
        except TimeoutError as exc:
            did = "start" if self._is_process else "answer"
            message = f"MCP server {self._name!r} did not {did} within {START_SECONDS:g} s."
            raise ConfigurationError(message) from exc
        except ConfigurationError:
            raise
        except Exception as exc:
            reason = self._broken or _sentence(exc)
            raise ConfigurationError(f"MCP server {self._name!r} does not list its tools: {reason}.") from exc

    async def call(self, tool: str, arguments: Mapping[str, Any], meta: Mapping[str, Any] | None) -> CallToolResult:
        """Call a tool; a call that takes too long is cancelled at the server too, as the SDK does."""
        seconds = self._entry.timeout_seconds or CALL_SECONDS
        request_meta = None if meta is None else cast("RequestParamsMeta", dict(meta))
        self._calls += 1
        try:
            with anyio.fail_after(seconds):
                return await self._started.result().call_tool(tool, dict(arguments), meta=request_meta)
        except TimeoutError as exc:
            raise CallFailedError(f"it gave no answer within {seconds:g} s.") from exc
        except ValidationError as exc:
            raise CallFailedError("its server answered with something that is not a result.") from exc
        except MCPError as exc:
            fate = fate_of(exc)
            if fate == "session lost":
                raise _SessionLostError from exc
            if fate == "unsent":
                raise NotCalledError(f"{exc.error.message}.") from exc
            if fate is None and exc.code == CONNECTION_CLOSED and not self.is_usable:
                why = f" ({self._broken})" if self._broken else ""
                message = f"its server ended during the call{why}; another call starts it again."
                raise CallFailedError(message) from exc
            raise
        finally:
            self._calls -= 1
            if self._is_retired and not self._calls:
                self.leave()

    def leave(self) -> None:
        """Start its ending, however far its start has come; the SDK shields the ending of a process itself."""
        self._leaving.set()
        if not self._started.done():
            self._scope.cancel()

    def leave_when_idle(self) -> None:
        """Start its ending once no call is in progress over it."""
        self._is_retired = True
        if not self._calls:
            self.leave()

    async def ended(self) -> None:
        """Wait until it has ended."""
        await asyncio.wait([self._task])

    async def _live(self) -> None:
        reason: object = "it was stopped"
        try:
            with self._scope:
                mode = "legacy" if self._entry.transport == "sse" else "auto"  # SSE servers speak nothing newer
                async with Client(_watched(self._transport(), self._leaving.set), mode=mode) as client:
                    self._started.set_result(client)
                    await self._leaving.wait()
                    self._scope.deadline = anyio.current_time() + LEAVE_SECONDS
        except Exception as exc:
            reason = _innermost(exc)
            self._broken = self._broken or _sentence(reason)
        if not self._started.done():
            does = "does not start" if self._is_process else "cannot be used"
            message = f"MCP server {self._name!r} ({self._shown}) {does}: {self._broken or reason}."
            self._started.set_exception(ConfigurationError(message))
            self._started.exception()  # retrieved even if nothing waits any more
        elif isinstance(reason, Exception):
            logger.warning("MCP server %r did not end cleanly: %s", self._name, _sentence(reason))

    def _transport(self) -> AbstractAsyncContextManager[tuple[Any, Any]]:
        if not self._is_process:
            return connect_http(self._entry, on_broken=self._break)
        return stdio_client(
            StdioServerParameters(
                command=self._entry.command,
                args=list(self._entry.args),
                env=self._environment,
                cwd=self._entry.cwd,
            )
        )

    def _break(self, reason: str) -> None:
        self._broken = self._broken or reason
        self._scope.cancel()


class _Watched:
    """A read stream that reports its end, unlike the SDK's client, and corrects messages the SDK would refuse."""

    def __init__(self, stream: Any, on_end: Callable[[], None]) -> None:  # noqa: ANN401 - the SDK's own protocol
        self._stream = stream
        self._on_end = on_end

    @property
    def last_context(self) -> Any:  # noqa: ANN401 - passed on as it is
        return getattr(self._stream, "last_context", None)

    async def receive(self) -> Any:  # noqa: ANN401 - passed on as it is
        try:
            return _with_object_schemas(await self._stream.receive())
        except (anyio.EndOfStream, anyio.ClosedResourceError, anyio.BrokenResourceError):
            self._on_end()
            raise

    def __aiter__(self) -> "_Watched":
        return self

    async def __anext__(self) -> Any:  # noqa: ANN401 - passed on as it is
        try:
            return await self.receive()
        except anyio.EndOfStream:
            raise StopAsyncIteration from None

    async def aclose(self) -> None:
        await self._stream.aclose()

    async def __aenter__(self) -> "_Watched":
        await self._stream.__aenter__()
        return self

    async def __aexit__(self, *error: Any) -> None:  # noqa: ANN401 - passed on as they are
        await self._stream.__aexit__(*error)


@asynccontextmanager
async def _watched(
    transport: AbstractAsyncContextManager[tuple[Any, Any]], on_end: Callable[[], None]
) -> AsyncIterator[tuple[Any, Any]]:
    async with transport as (read_stream, write_stream):
        yield _Watched(read_stream, on_end), write_stream


def _with_object_schemas(message: Any) -> Any:  # noqa: ANN401 - whatever a stream carries
    """Set the type of every input schema to object: servers leave it out, and the SDK would refuse them all."""
    if isinstance(message, SessionMessage) and isinstance(message.message, JSONRPCResponse):
        tools = message.message.result.get("tools")
        for tool in tools if isinstance(tools, list) else ():
            if isinstance(tool, dict) and isinstance(tool.get("inputSchema"), dict):
                tool["inputSchema"].setdefault("type", "object")
    return message


def _innermost(exc: Exception) -> Exception:
    """Return an error without the task groups that wrap it: they only report that there was one."""
    while isinstance(exc, ExceptionGroup):
        exc = exc.exceptions[0]
    return exc


def _sentence(exc: BaseException) -> str:
    """Return an error in one line; of the system's own errors without the path, which may be a variable's value."""
    if isinstance(exc, ValidationError):
        problem = exc.errors(include_url=False, include_input=False)[0]
        return f"{'.'.join(str(part) for part in problem['loc'])}: {problem['msg']}"
    text = exc.strerror or type(exc).__name__ if isinstance(exc, OSError) else str(exc)
    return " ".join(text.split()).removesuffix(".") or type(exc).__name__


async def _all_tools(client: Client) -> Sequence[McpTool]:
    tools: list[McpTool] = []
    cursor: str | None = None
    while True:
        page = await client.list_tools(cursor=cursor)
        tools += page.tools
        cursor = page.next_cursor
        if cursor is None:
            return tools
