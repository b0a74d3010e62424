"""The MCP servers whose tools a sub-agent may be given.

Each server runs once per process, from the first delegation that needs it until the process ends; one that ends by
itself is started again for the next call. A connection lives in a task of its own, because the SDK's client must be
left by the task that entered it.
"""

import asyncio
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import anyio
from mcp import Client, MCPError, StdioServerParameters
from mcp.types import CONNECTION_CLOSED, CallToolResult
from mcp.types import Tool as McpTool
from pydantic import BaseModel, ConfigDict, ValidationError

from budget_tools.delegation.tool_results import ToolOutcome, failed, outcome
from budget_tools.errors import ConfigurationError, InvalidArgumentError

__all__ = ["SubagentTool", "ToolOutcome", "Toolbox", "failed"]

logger = logging.getLogger(__name__)

START_SECONDS = 30.0
CALL_SECONDS = 120.0
_TOOL_NAME = re.compile(r"[a-zA-Z0-9_-]{1,128}", re.ASCII)  # what the Messages API takes


class _ServerEntry(BaseModel):
    """An entry of ``mcpServers``; hosts add keys of their own, which are left alone."""

    model_config = ConfigDict(extra="ignore")

    command: str = ""
    args: list[str] = []
    env: dict[str, str] = {}
    cwd: str | None = None


class _ServersFile(BaseModel):
    model_config = ConfigDict(extra="ignore")

    mcpServers: dict[str, _ServerEntry]  # noqa: N815 - the hosts' spelling


class SubagentTool:
    """One tool of one server, under the name that Claude sees."""

    def __init__(self, server: "_Server", tool: McpTool) -> None:
        self._server = server
        self._tool = tool
        self.name = f"{server.name}__{tool.name}"

    def wire(self) -> dict[str, Any]:
        """Give the tool as the Messages API takes it."""
        return {
            "name": self.name,
            "description": self._tool.description or "",
            "input_schema": self._tool.input_schema,
        }

    async def call(self, arguments: Mapping[str, Any]) -> ToolOutcome:
        """Call the tool; whatever goes wrong becomes an error result for Claude to read."""
        try:
            with anyio.fail_after(CALL_SECONDS):
                result = await self._server.call(self._tool.name, arguments)
            return outcome(result)
        except TimeoutError:
            return failed(f"{self.name} gave no answer within {CALL_SECONDS:g} s.")
        except Exception as exc:
            return failed(f"{self.name} failed: {exc}")


class _Server:
    """A configured MCP server: started when it is first needed, and anew after it has ended by itself."""

    def __init__(self, name: str, entry: _ServerEntry, origin: str) -> None:
        self.name = name
        self._entry = entry
        self._origin = origin
        self._opening = asyncio.Lock()
        self._connection: _Connection | None = None
        self._living: set[_Connection] = set()

    async def tools(self) -> Sequence[McpTool]:
        """List its tools.

        Raises:
            ConfigurationError: it cannot be started.
        """
        return (await self._connected()).tools

    async def call(self, tool: str, arguments: Mapping[str, Any]) -> CallToolResult:
        """Call a tool. A call that the server's end cut off is not repeated: it may have done its work."""
        connection = await self._connected()
        try:
            return await connection.client.call_tool(tool, dict(arguments))
        except MCPError as exc:
            if exc.code != CONNECTION_CLOSED:
                raise
            self._drop(connection)
            raise _ServerEndedError("its server ended during the call; another call starts it again") from exc

    async def aclose(self) -> None:
        """Stop what runs or is starting, and wait until it has ended."""
        living = list(self._living)
        for connection in living:
            self._drop(connection)
        await asyncio.gather(*(connection.ended() for connection in living))

    async def _connected(self) -> "_Connection":
        async with self._opening:
            if self._connection is None:
                if not self._entry.command:
                    raise ConfigurationError(
                        f"MCP server {self.name!r} in {self._origin} has no command: "
                        "only stdio servers can be used yet."
                    )
                connection = _Connection(self.name, self._entry, on_end=self._living.discard)
                self._living.add(connection)
                try:
                    await connection.start()
                except BaseException:
                    # Also when the caller was cancelled: half a start is none.
                    connection.leave()
                    raise
                self._connection = connection
            return self._connection

    def _drop(self, connection: "_Connection") -> None:
        if self._connection is connection:
            self._connection = None
        connection.leave()


class _ServerEndedError(Exception):
    """The server's process ended during a call; whether the call had an effect is not known."""


class _Connection:
    """A running process of a server, and the task that holds its client."""

    def __init__(self, name: str, entry: _ServerEntry, *, on_end: Callable[["_Connection"], None]) -> None:
        self._name = name
        self._parameters = StdioServerParameters(command=entry.command, args=entry.args, env=entry.env, cwd=entry.cwd)
        self._started: asyncio.Future[Client] = asyncio.get_running_loop().create_future()
        self._scope = anyio.CancelScope()
        self._task = asyncio.create_task(self._live(), name=f"mcp-server-{name}")
        self._task.add_done_callback(lambda _: on_end(self))
        self.tools: Sequence[McpTool] = ()

    @property
    def client(self) -> Client:
        return self._started.result()

    async def start(self) -> None:
        """Wait until the server has listed its tools.

        Raises:
            ConfigurationError: it cannot be started.
        """
        try:
            with anyio.fail_after(START_SECONDS):
                client = await asyncio.shield(self._started)
                self.tools = await _all_tools(client)
        except TimeoutError as exc:
            raise ConfigurationError(f"MCP server {self._name!r} did not start within {START_SECONDS:g} s.") from exc
        except ConfigurationError:
            raise
        except Exception as exc:
            raise ConfigurationError(f"MCP server {self._name!r} does not list its tools: {exc}") from exc

    def leave(self) -> None:
        """Have the process ended, however far its start has come; the SDK shields the ending itself."""
        self._scope.cancel()

    async def ended(self) -> None:
        """Wait until the process has ended."""
        await asyncio.wait([self._task])

    async def _live(self) -> None:
        reason: object = "it was stopped"
        try:
            with self._scope:
                async with Client(self._parameters) as client:
                    self._started.set_result(client)
                    await anyio.sleep_forever()
        except Exception as exc:
            reason = _innermost(exc)
        if not self._started.done():
            message = f"MCP server {self._name!r} ({self._parameters.command}) does not start: {reason}"
            self._started.set_exception(ConfigurationError(message))
            self._started.exception()  # heard even if nobody waits any more
        elif isinstance(reason, Exception):
            logger.warning("MCP server %r did not end cleanly: %s", self._name, reason)


def _innermost(exc: Exception) -> Exception:
    """Take an error out of the task groups that it came through: they only say that there was one."""
    while isinstance(exc, ExceptionGroup):
        exc = exc.exceptions[0]
    return exc


async def _all_tools(client: Client) -> Sequence[McpTool]:
    tools: list[McpTool] = []
    cursor: str | None = None
    while True:
        page = await client.list_tools(cursor=cursor)
        tools += page.tools
        cursor = page.next_cursor
        if cursor is None:
            return tools


class Toolbox:
    """The servers of one ``mcpServers`` file, each started when it is first needed."""

    def __init__(self, entries: Mapping[str, _ServerEntry], origin: str) -> None:
        self._origin = origin
        self._servers = {name: _Server(name, entry, origin) for name, entry in entries.items()}

    @classmethod
    def load(cls, path: Path | None) -> "Toolbox":
        """Read an ``mcpServers`` JSON file; without one the toolbox is empty.

        Raises:
            ConfigurationError: the file cannot be read, or is not such a file.
        """
        if path is None:
            return cls({}, "BUDGET_SUBAGENT_SERVERS is not set")
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as exc:
            reason = exc.strerror if isinstance(exc, OSError) else "it is not UTF-8 text"
            raise ConfigurationError(f"BUDGET_SUBAGENT_SERVERS: {path} cannot be read ({reason}).") from exc
        try:
            entries = _ServersFile.model_validate_json(text).mcpServers
        except ValidationError as exc:
            problem = exc.errors(include_url=False, include_input=False)[0]
            where = ".".join(str(part) for part in problem["loc"]) or "the file"
            raise ConfigurationError(
                f"BUDGET_SUBAGENT_SERVERS: {path} is not an mcpServers file: {where}: {problem['msg']}"
            ) from exc
        return cls(entries, str(path))

    async def open(self, names: Sequence[str]) -> dict[str, SubagentTool]:
        """Start the servers that the names need and give the tools, by name.

        Args:
            names: ``server__tool``, or ``server__*`` for all of a server's tools.

        Raises:
            InvalidArgumentError: there is no such server or tool.
            ConfigurationError: a server does not start.
        """
        opened: dict[str, SubagentTool] = {}
        for name in names:
            server_name, _, tool_name = name.partition("__")
            if server_name not in self._servers or not tool_name:
                known = ", ".join(sorted(self._servers)) or "none"
                raise InvalidArgumentError(
                    f"tools: {name!r} names no server: write server__tool or server__*; the servers are {known} "
                    f"({self._origin})."
                )
            server = self._servers[server_name]
            offered = {tool.name: SubagentTool(server, tool) for tool in await server.tools()}
            chosen = (
                list(offered.values()) if tool_name == "*" else [offered[tool_name]] if tool_name in offered else []
            )
            if not chosen:
                raise InvalidArgumentError(
                    f"tools: {server_name!r} has no tool {tool_name!r}: it has {', '.join(sorted(offered)) or 'none'}."
                )
            for tool in chosen:
                if not _TOOL_NAME.fullmatch(tool.name):
                    raise InvalidArgumentError(f"tools: {tool.name!r} is not a name that the Claude API takes.")
                opened[tool.name] = tool
        return opened

    async def aclose(self) -> None:
        """Stop every server that was started."""
        await asyncio.gather(*(server.aclose() for server in self._servers.values()))
