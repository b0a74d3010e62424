"""How a host is told of our server: as a program to start, or as a process that serves already."""

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from budget_server.demo.scripted_claude import ScriptedClaude
from hosting import Environment
from networking import new_token, serving

_ENTRY_TYPES = {"streamable-http": "http", "sse": "sse"}


@dataclass(frozen=True, kw_only=True)
class Way:
    """A transport, and whether the host shows a token on it."""

    transport: str
    has_token: bool = False

    def __str__(self) -> str:
        return self.transport + ("-with-token" if self.has_token else "")

    @contextmanager
    def to_server(self, environment: Environment) -> Iterator[Mapping[str, object]]:
        """Give an entry of ``mcpServers`` for a server of these settings, which serves within the block."""
        if self.transport == "stdio":
            yield {"type": "stdio", "command": sys.executable, "args": ["-m", "budget_server"], "env": environment}
            return
        headers = {"Authorization": f"Bearer {new_token(environment)}"} if self.has_token else {}
        with serving(environment, self.transport) as served:
            yield {"type": _ENTRY_TYPES[self.transport], "url": served.url, "headers": headers}


STDIO, HTTP, SSE = Way(transport="stdio"), Way(transport="streamable-http"), Way(transport="sse")
WAYS = [STDIO, HTTP, Way(transport="streamable-http", has_token=True), SSE, Way(transport="sse", has_token=True)]


def with_claude(environment: Environment, claude: ScriptedClaude) -> Environment:
    """Settings of a server that delegates to the scripted stand-in."""
    return {**environment, "ANTHROPIC_API_KEY": "scripted-needs-no-key", "ANTHROPIC_BASE_URL": claude.base_url}
