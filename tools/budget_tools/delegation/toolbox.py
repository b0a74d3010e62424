"""The MCP servers whose tools a sub-agent may be given.

Each server runs once per process, from the first delegation that needs it until the process ends. Its connection
lives in a task of its own, because the SDK's client must be left by the task that entered it.
"""

import asyncio
import json
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
from mcp import Client, StdioServerParameters
from mcp.types import ContentBlock, ImageContent, TextContent
from mcp.types import Tool as McpTool
from pydantic import BaseModel, ConfigDict, ValidationError

from budget_tools.errors import ConfigurationError, InvalidArgumentError

START_SECONDS = 30.0
CALL_SECONDS = 120.0
MAX_RESULT_CHARACTERS = 100_000
"""Longer results are cut: they would be paid for again on every later turn."""

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


@dataclass(frozen=True, kw_only=True, slots=True)
class ToolOutcome:
    """What a tool call gives back to Claude: content blocks of a ``tool_result``."""

    content: Sequence[Mapping[str, Any]]
    is_error: bool


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
                result = await self._server.client.call_tool(self._tool.name, dict(arguments))
        except TimeoutError:
            return _failed(f"{self.name} gave no answer within {CALL_SECONDS:g} s.")
        except Exception as exc:
            return _failed(f"{self.name} failed: {exc}")
        blocks = _blocks(result.content)
        if not blocks and result.structured_content is not None:
            blocks = [_text(json.dumps(result.structured_content, ensure_ascii=False))]
        return ToolOutcome(content=blocks or [_text("(no output)")], is_error=bool(result.is_error))


class _Server:
    """A running MCP server."""

    def __init__(self, name: str, entry: _ServerEntry) -> None:
        self.name = name
        self._parameters = StdioServerParameters(command=entry.command, args=entry.args, env=entry.env, cwd=entry.cwd)
        self._started: asyncio.Future[Client] = asyncio.get_running_loop().create_future()
        self._leave = asyncio.Event()
        self._task = asyncio.create_task(self._live(), name=f"mcp-server-{name}")
        self.tools: Sequence[McpTool] = ()

    @property
    def client(self) -> Client:
        return self._started.result()

    @property
    def is_alive(self) -> bool:
        return not self._task.done()

    async def start(self) -> None:
        """Wait until the server has listed its tools.

        Raises:
            ConfigurationError: it cannot be started.
        """
        try:
            with anyio.fail_after(START_SECONDS):
                client = await asyncio.shield(self._started)
                self.tools = (await client.list_tools()).tools
        except TimeoutError as exc:
            raise ConfigurationError(f"MCP server {self.name!r} did not start within {START_SECONDS:g} s.") from exc
        except ConfigurationError:
            raise
        except Exception as exc:
            raise ConfigurationError(f"MCP server {self.name!r} does not list its tools: {exc}") from exc

    async def stop(self) -> None:
        self._leave.set()
        with suppress(asyncio.CancelledError):
            await asyncio.wait([self._task])

    async def _live(self) -> None:
        try:
            async with Client(self._parameters) as client:
                self._started.set_result(client)
                await self._leave.wait()
        except Exception as exc:
            if not self._started.done():
                self._started.set_exception(
                    ConfigurationError(f"MCP server {self.name!r} ({self._parameters.command}) does not start: {exc}")
                )
                self._started.exception()  # heard even if nobody waits any more


class Toolbox:
    """The servers of one ``mcpServers`` file, each started when it is first needed."""

    def __init__(self, entries: Mapping[str, _ServerEntry], origin: str) -> None:
        self._entries = entries
        self._origin = origin
        self._servers: dict[str, _Server] = {}
        self._starting = asyncio.Lock()

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
            if server_name not in self._entries or not tool_name:
                known = ", ".join(sorted(self._entries)) or "none"
                raise InvalidArgumentError(
                    f"tools: {name!r} names no server: write server__tool or server__*; the servers are {known} "
                    f"({self._origin})."
                )
            server = await self._server(server_name)
            offered = {tool.name: SubagentTool(server, tool) for tool in server.tools}
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

    async def _server(self, name: str) -> _Server:
        async with self._starting:
            server = self._servers.get(name)
            if server is None or not server.is_alive:
                entry = self._entries[name]
                if not entry.command:
                    raise ConfigurationError(
                        f"MCP server {name!r} in {self._origin} has no command: only stdio servers can be used yet."
                    )
                server = self._servers[name] = _Server(name, entry)
                await server.start()
        return server

    async def aclose(self) -> None:
        """Stop every server that was started."""
        servers = list(self._servers.values())
        self._servers.clear()
        for server in servers:
            await server.stop()


def _blocks(content: Sequence[ContentBlock]) -> list[Mapping[str, Any]]:
    blocks: list[Mapping[str, Any]] = []
    for block in content:
        if isinstance(block, TextContent):
            blocks.append(_text(block.text))
        elif isinstance(block, ImageContent):
            source = {"type": "base64", "media_type": block.mime_type, "data": block.data}
            blocks.append({"type": "image", "source": source})
        else:
            blocks.append(_text(f"({block.type} content, which cannot be passed on)"))
    return blocks


def _text(text: str) -> Mapping[str, Any]:
    if len(text) > MAX_RESULT_CHARACTERS:
        text = f"{text[:MAX_RESULT_CHARACTERS]}\n(cut: {len(text)} characters in all)"
    return {"type": "text", "text": text}


def _failed(message: str) -> ToolOutcome:
    return ToolOutcome(content=[_text(message)], is_error=True)
