"""The known hosts: where each one stores the servers that a person adds, and in which format.

Sources, read in 2026: modelcontextprotocol.io (Claude Desktop), code.claude.com/docs/en/mcp, docs.cursor.com/mcp,
code.visualstudio.com/docs/agents/reference/mcp-configuration, docs.windsurf.com/windsurf/cascade/mcp.
"""

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from budget_server.hosts.json_edit import Keys
from budget_tools.core.errors import InvalidArgumentError

HOME, ROAMING, LOCAL, CONFIG = "{home}", "{roaming}", "{local}", "{config}"
"""The directories at the start of the table's paths; ``folders`` returns their locations."""

_MAC = f"{HOME}/Library/Application Support"


@dataclass(frozen=True, kw_only=True)
class Host:
    """One host.

    ``mac``, ``linux`` and ``windows`` are its file for a user, the likeliest place first; the first whose directory
    exists counts, and a ``*`` stands for any text. ``sign`` is a directory that only an installed host has, if the
    file's own directory is not a sign of it. ``project_file`` is its file within a project. ``container`` holds the
    servers, by name; ``projects`` holds objects with a container of their own, by the path of a project.
    ``shares_environment`` means that its servers start with the host's own environment, and not only with the variables
    of their entry.
    """

    key: str
    title: str
    mac: tuple[str, ...]
    linux: tuple[str, ...]
    windows: tuple[str, ...]
    sign: str = ""
    project_file: str = ""
    container: str = "mcpServers"
    projects: str = ""
    shares_environment: bool = False
    entry_fields: Mapping[str, str] = field(default_factory=dict)
    afterwards: str

    def keys(self, name: str) -> Keys:
        """Return the path of a server of this name in the file."""
        return (self.container, name)


_STDIO = {"type": "stdio"}

HOSTS = {
    host.key: host
    for host in (
        Host(
            key="claude-desktop",
            title="Claude Desktop",
            mac=(f"{_MAC}/Claude/claude_desktop_config.json",),
            linux=(f"{CONFIG}/Claude/claude_desktop_config.json",),
            # The packaged program, offered since 2026, does not see the older place.
            windows=(
                f"{LOCAL}/Packages/Claude_*/LocalCache/Roaming/Claude/claude_desktop_config.json",
                f"{ROAMING}/Claude/claude_desktop_config.json",
            ),
            afterwards="Quit Claude Desktop fully and start it again.",
        ),
        # Servers of the user scope, for all projects. `.mcp.json` is shared with everyone who works on a project.
        Host(
            key="claude-code",
            title="Claude Code",
            mac=("{claude}/.claude.json",),
            linux=("{claude}/.claude.json",),
            windows=("{claude}/.claude.json",),
            sign="{claude_settings}",
            project_file=".mcp.json",
            projects="projects",
            shares_environment=True,
            entry_fields=_STDIO,
            afterwards="Start Claude Code anew; `claude mcp list` shows the server, or that it awaits your approval.",
        ),
        Host(
            key="cursor",
            title="Cursor",
            mac=(f"{HOME}/.cursor/mcp.json",),
            linux=(f"{HOME}/.cursor/mcp.json",),
            windows=(f"{HOME}/.cursor/mcp.json",),
            project_file=".cursor/mcp.json",
            afterwards="Start Cursor anew, or switch the server on in its settings.",
        ),
        Host(
            key="vscode",
            title="VS Code",
            mac=(f"{_MAC}/Code/User/mcp.json",),
            linux=(f"{CONFIG}/Code/User/mcp.json",),
            windows=(f"{ROAMING}/Code/User/mcp.json",),
            project_file=".vscode/mcp.json",
            container="servers",
            entry_fields=_STDIO,
            afterwards="VS Code offers to start the server; `MCP: List Servers` shows it.",
        ),
        Host(
            key="windsurf",
            title="Windsurf",
            mac=(f"{HOME}/.codeium/windsurf/mcp_config.json",),
            linux=(f"{HOME}/.codeium/windsurf/mcp_config.json",),
            windows=(f"{HOME}/.codeium/windsurf/mcp_config.json",),
            afterwards="Refresh the servers in Windsurf, or start it anew.",
        ),
    )
}

ANY_HOST = Host(key="", title="the host", mac=(), linux=(), windows=(), afterwards="Start the host anew.")
"""A host that is not known, with the most common format."""


def find_host(key: str) -> Host:
    """Return a host by its name.

    Raises:
        InvalidArgumentError: it is not known.
    """
    host = HOSTS.get(key)
    if host is None:
        raise InvalidArgumentError(
            f"{key!r} is no host that is known ({', '.join(HOSTS)}): --print shows the entry for any other."
        )
    return host


def folders(environment: Mapping[str, str], home: Path) -> dict[str, Path]:
    """Return the locations of the directories that the paths begin with."""

    def of(variable: str, otherwise: Path) -> Path:
        return Path(environment[variable]) if environment.get(variable) else otherwise

    return {
        "home": home,
        "roaming": of("APPDATA", home / "AppData/Roaming"),
        "local": of("LOCALAPPDATA", home / "AppData/Local"),
        "config": of("XDG_CONFIG_HOME", home / ".config"),
        "claude": of("CLAUDE_CONFIG_DIR", home),
        "claude_settings": of("CLAUDE_CONFIG_DIR", home / ".claude"),
    }


def user_file(
    host: Host, environment: Mapping[str, str], home: Path, platform: str = sys.platform
) -> tuple[Path, bool]:
    """Return the file of a host, and whether the host seems to be installed."""
    templates = {"darwin": host.mac, "win32": host.windows}.get(platform, host.linux)
    known = folders(environment, home)
    for template in templates:
        for path in _candidates(template, known):
            sign = _plain(host.sign, known) if host.sign else path.parent
            if path.is_file() or sign.is_dir():
                return path, True
    return _plain(templates[-1], known), False


def _plain(template: str, known: Mapping[str, Path]) -> Path:
    start, _, rest = template.partition("/")
    return known[start.strip("{}")] / rest


def _candidates(template: str, known: Mapping[str, Path]) -> list[Path]:
    """Return the paths that a template may mean; its part with a ``*`` must exist."""
    plain, star, rest = template.partition("*")
    if not star:
        return [_plain(template, known)]
    above, _, beginning = plain.rpartition("/")
    ending, _, below = rest.partition("/")
    return [found / below for found in sorted(_plain(above, known).glob(f"{beginning}*{ending}"))]
