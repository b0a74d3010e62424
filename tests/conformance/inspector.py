"""The MCP Inspector's command line as a host: over stdio and streamable HTTP, in both generations of the protocol."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from budget_server.mcp_server.server import TOOLS
from conformance.node import Node
from hosting import ALLOCATED, BUDGET_USD, Environment
from networking import serving

PACKAGE = "@modelcontextprotocol/inspector"
ERAS = ("legacy", "modern")
TIMEOUT_SECONDS = 60.0
HELD_USD, HELD = "0.25", 25_000_000

OK, TOOL_ERROR = 0, 5
"""Exit codes of the Inspector that are expected; 6 would be a schema that is wrong."""


@dataclass(frozen=True, kw_only=True)
class Inspection:
    """What came of one transport and generation."""

    transport: str
    era: str
    commands: int
    problems: tuple[str, ...]

    @property
    def sentence(self) -> str:
        """All of it in one line."""
        state = f"{len(self.problems)} problems" if self.problems else "all as it should be"
        return f"Inspector over {self.transport}, {self.era}: {self.commands} commands, {state}."


def inspect(node: Node, environment: Environment) -> Iterator[Inspection]:
    """Use the server as a person with the Inspector does.

    Args:
        node: where the Inspector is installed.
        environment: the server's settings; each transport gets a ledger of its own.
    """
    with tempfile.TemporaryDirectory() as home:
        inspector = [*node.command(PACKAGE, "mcp-inspector"), "--cli"]
        program = Path(sys.executable).with_name("cycles-budget-mcp")
        settings = {"BUDGET_DATA_DIR": str(Path(home, "data")), "BUDGET_USD": BUDGET_USD}
        target = [str(program), *(part for name, value in settings.items() for part in ("-e", f"{name}={value}"))]
        for era in ERAS:
            yield _inspect("stdio", era, [*inspector, "--protocol-era", era, *target], home)
        with serving(environment, "streamable-http") as served:
            target = [served.url, "--transport", "http"]
            for era in ERAS:
                yield _inspect("streamable HTTP", era, [*inspector, "--protocol-era", era, *target], home)


def _inspect(transport: str, era: str, command: Sequence[str], home: str) -> Inspection:
    """Ask the same of every transport and generation; the second one on a ledger repeats what the first has done."""
    host = _Host(command, home)
    try:
        _use(host)
    except (KeyError, TypeError, ValueError) as exc:
        host.problems.append(f"The last answer has another shape than it should: {exc!r}.")
    return Inspection(transport=transport, era=era, commands=host.commands, problems=tuple(host.problems))


def _use(host: "_Host") -> None:
    listed = host.ask("--method", "tools/list", "--strict")
    host.expect("tools/list", {tool["name"] for tool in listed["tools"]}, {tool.name for tool in TOOLS})
    arguments = {"usd": HELD_USD, "ttl_seconds": 3600, "idempotency_key": "inspected"}
    held = host.call("reserve_budget", arguments)
    host.expect("reserve_budget", (held["decision"], held["reserved"]["amount"]), ("ALLOW", HELD))
    priced = host.call("estimate_cost", {"input_tokens": 1_000})
    (estimate,) = priced["estimates"]
    host.expect("estimate_cost", (estimate["affordable"], priced["remaining"]["amount"]), (True, ALLOCATED - HELD))
    (balance,) = host.call("check_budget", {})["balances"]
    host.expect("check_budget", balance["reserved"]["amount"], HELD)
    refused = host.call("reserve_budget", {"usd": HELD_USD, "limit": 1}, code=TOOL_ERROR)
    host.expect("reserve_budget with an unknown argument", refused.get("code"), "INVALID_ARGUMENT")
    read = host.ask("--method", "resources/read", "--uri", "budget://balances")
    (balance,) = json.loads(read["contents"][0]["text"])["balances"]
    host.expect("budget://balances", balance["remaining"]["amount"], ALLOCATED - HELD)


class _Host:
    """The Inspector, one process for each command."""

    def __init__(self, command: Sequence[str], home: str) -> None:
        self._command = command
        self._environment = {"PATH": os.environ["PATH"], "HOME": home}
        self.commands = 0
        self.problems: list[str] = []

    def call(self, tool: str, arguments: dict[str, object], *, code: int = OK) -> dict[str, Any]:
        """Call a tool and give its structured answer."""
        result = self.ask(
            "--method", "tools/call", "--tool-name", tool, "--tool-args-json", json.dumps(arguments), code=code
        )
        structured: dict[str, Any] = result["structuredContent"]
        return structured

    def ask(self, *arguments: str, code: int = OK) -> dict[str, Any]:
        """Run one command and give the result of the protocol."""
        self.commands += 1
        ended = subprocess.run(
            [*self._command, *arguments, "--format", "json"],
            env=self._environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_SECONDS,
            check=False,
        )
        if ended.returncode != code:
            self.problems.append(f"{' '.join(arguments)} ended with {ended.returncode}, not {code}: {ended.stderr}")
        result: dict[str, Any] = json.loads(ended.stdout)["result"]
        return result

    def expect(self, what: str, found: object, expected: object) -> None:
        """Note an answer that is not what it should be."""
        if found != expected:
            self.problems.append(f"{what} answered {found!r}, not {expected!r}.")
