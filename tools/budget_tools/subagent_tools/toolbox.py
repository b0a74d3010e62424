"""The tools that a sub-agent may be given, by the names that Claude sees: ``server__tool``.

The servers are MCP servers of any kind (``connections.py``), named in a file (``config.py``); the results of their
tools become content that the Messages API accepts (``results.py``).
"""

import asyncio
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mcp.types import Tool as McpTool

from budget_tools.core.errors import ConfigurationError, InvalidArgumentError
from budget_tools.subagent_tools.config import ServersFile, ToolPrice
from budget_tools.subagent_tools.connections import NotCalledError, ToolServer
from budget_tools.subagent_tools.results import ToolOutcome, failed, outcome

__all__ = ["SubagentTool", "ToolOutcome", "ToolPrice", "Toolbox", "failed"]

_TOOL_NAME = re.compile(r"[a-zA-Z0-9_-]{1,128}", re.ASCII)  # names that the Messages API accepts

_EVERY_TOOL = "*"


class SubagentTool:
    """One tool of one server, under the name that Claude sees.

    ``price`` is what each call costs; ``None`` if it costs nothing. The caller has to reserve it.
    """

    def __init__(self, server: ToolServer, tool: McpTool) -> None:
        self._server = server
        self._tool = tool
        self.name = f"{server.name}__{tool.name}"
        self.price: ToolPrice | None = server.price(tool.name)

    def wire(self) -> dict[str, Any]:
        """Return the tool in the Messages API's form."""
        return {
            "name": self.name,
            "description": self._tool.description or "",
            "input_schema": self._tool.input_schema,
        }

    async def call(self, arguments: Mapping[str, Any], *, meta: Mapping[str, Any] | None = None) -> ToolOutcome:
        """Call the tool; any failure becomes an error result for Claude to read.

        Args:
            arguments: as Claude gave them.
            meta: further data for the server, in the request's ``_meta``.
        """
        try:
            return outcome(await self._server.call(self._tool.name, arguments, meta))
        except NotCalledError as exc:
            return failed(f"{self.name} was not called: {exc}", was_called=False)
        except Exception as exc:
            return failed(f"{self.name} failed: {exc}")

    def check(self) -> None:
        """Check the tool by the rules of the Messages API, before anything is sent.

        Raises:
            InvalidArgumentError: its name does not fit the API.
        """
        if not _TOOL_NAME.fullmatch(self.name):
            raise InvalidArgumentError(f"tools: {self.name!r} is not a name that the Claude API takes.")


class Toolbox:
    """The servers of one ``mcpServers`` file, each started or connected when it is first needed."""

    def __init__(self, file: ServersFile, child_environment: Mapping[str, str]) -> None:
        self._file = file
        self._servers = {
            name: ToolServer(name, entry, origin=file.origin, child_environment=child_environment)
            for name, entry in file.entries.items()
        }

    @classmethod
    def load(cls, path: Path | None, *, child_environment: Mapping[str, str] | None = None) -> "Toolbox":
        """Read an ``mcpServers`` JSON file; without one the toolbox is empty.

        Args:
            path: the file.
            child_environment: added to the environment of every server over stdio; an entry's own ``env`` wins.

        Raises:
            ConfigurationError: the file cannot be read, or has another format.
        """
        return cls(ServersFile.read(path), dict(child_environment or {}))

    async def open(self, names: Sequence[str]) -> dict[str, SubagentTool]:
        """Start the servers that the names need, side by side, and return the tools by name.

        Args:
            names: ``server__tool``, or ``server__*`` for all of a server's tools.

        Raises:
            InvalidArgumentError: there is no such server or tool, or the Claude API would refuse it.
            ConfigurationError: a server cannot be used; the others stay open.
        """
        wanted = [self._split(name) for name in names]
        servers = list(dict.fromkeys(server for server, _ in wanted))
        offers = await asyncio.gather(*(_offered(server) for server in servers), return_exceptions=True)
        offered: dict[ToolServer, Mapping[str, SubagentTool]] = {}
        for server, offer in zip(servers, offers, strict=True):
            if isinstance(offer, BaseException):
                raise offer
            offered[server] = offer
        opened: dict[str, SubagentTool] = {}
        for server, tool_name in wanted:
            for tool in _chosen(server, offered[server], tool_name):
                tool.check()
                if opened.setdefault(tool.name, tool) is not tool:
                    raise InvalidArgumentError(
                        f"tools: {tool.name!r} is the name of two tools: give one of their servers another name "
                        f"({self._file.origin})."
                    )
        return opened

    async def aclose(self) -> None:
        """Stop every server that was started."""
        await asyncio.gather(*(server.aclose() for server in self._servers.values()))

    def _split(self, name: str) -> tuple[ToolServer, str]:
        """Split a name into its server, the longest that fits, and its tool."""
        server_name = _longest_prefix(name, self._servers)
        if server_name is not None:
            return self._servers[server_name], name.removeprefix(f"{server_name}__")
        disabled = _longest_prefix(name, self._file.disabled)
        if disabled is not None:
            raise InvalidArgumentError(f"tools: {name!r} is of server {disabled!r}, disabled in {self._file.origin}.")
        known = ", ".join(sorted(self._servers)) or "none"
        raise InvalidArgumentError(
            f"tools: {name!r} names no server: write server__tool or server__*; the servers are {known} "
            f"({self._file.origin})."
        )


def _longest_prefix(name: str, servers: Mapping[str, object] | frozenset[str]) -> str | None:
    fitting = (server for server in servers if name.startswith(f"{server}__") and len(name) > len(server) + 2)
    return max(fitting, key=len, default=None)


async def _offered(server: ToolServer) -> Mapping[str, SubagentTool]:
    """Return a server's tools by their own names."""
    offered: dict[str, SubagentTool] = {}
    for tool in await server.tools():
        if tool.name in offered:
            raise ConfigurationError(f"MCP server {server.name!r} lists two tools of the name {tool.name!r}.")
        offered[tool.name] = SubagentTool(server, tool)
    return offered


def _chosen(server: ToolServer, offered: Mapping[str, SubagentTool], tool_name: str) -> Sequence[SubagentTool]:
    chosen = (
        list(offered.values()) if tool_name == _EVERY_TOOL else [offered[tool_name]] if tool_name in offered else []
    )
    if not chosen:
        raise InvalidArgumentError(
            f"tools: {server.name!r} has no tool {tool_name!r}: it has {', '.join(sorted(offered)) or 'none'}."
        )
    return chosen
