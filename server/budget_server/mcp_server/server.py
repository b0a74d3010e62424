"""The MCP server: the one list of exposed tools, and the answers to bad input."""

import re
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import Any

from mcp.server.mcpserver import Context, MCPServer
from mcp.server.mcpserver import server as sdk_server
from mcp.server.mcpserver.exceptions import ToolError
from mcp.server.mcpserver.tools import Tool
from mcp.types import CallToolResult, InputRequiredResult
from pydantic import ValidationError

from budget_server.mcp_server.prompts import PROMPTS
from budget_server.mcp_server.resources import add_resources
from budget_server.mcp_server.subscriptions import ResourceNotifier
from budget_tools.core.errors import BudgetError, ConfigurationError, InvalidArgumentError
from budget_tools.mcp_tools import (
    check_budget,
    commit_usage,
    delegate_to_claude,
    delegation_status,
    estimate_cost,
    extend_reservation,
    list_delegations,
    list_reservations,
    record_usage,
    release_budget,
    reserve_budget,
)
from budget_tools.mcp_tools.answers import failure
from budget_tools.mcp_tools.toolkit import Toolkit

DISTRIBUTION = "cycles-budget-mcp"

TOOLS: tuple[Tool, ...] = (
    estimate_cost.TOOL,
    reserve_budget.TOOL,
    commit_usage.TOOL,
    delegate_to_claude.TOOL,
    delegation_status.TOOL,
    list_delegations.TOOL,
    release_budget.TOOL,
    extend_reservation.TOOL,
    record_usage.TOOL,
    check_budget.TOOL,
    list_reservations.TOOL,
)

CORE = ("estimate_cost", "reserve_budget", "commit_usage", "delegate_to_claude", "delegation_status")
"""The tools that ``BUDGET_TOOLS=core`` exposes: every tool costs its host's model context, on every turn."""

INSTRUCTIONS = (
    "Spend money safely.",
    "Before work that costs, estimate_cost tells the price.",
    "reserve_budget holds the money, commit_usage settles with what was really used.",
    "delegate_to_claude hands a whole task to a Claude sub-agent that cannot overspend.",
    "A DENY holds nothing: do not spend then.",
    "Amounts in results are {unit, amount, usd}.",
)
"""The text about this server for a host's model; sentences about tools that are not exposed are left out."""


_REWORDED = (
    (re.compile(r"^\w+ should "), "must "),
    (re.compile(r"^Field required"), "is required"),
    (re.compile(r"^Extra inputs are not permitted"), "is not an argument here"),
)
"""Replacements in pydantic's messages about inputs and fields: our sentence already names the argument."""


def _leave_logging(_: str = "") -> None:
    """Do nothing: logging is configured already, before any server is built.

    The SDK would configure it again, without effect, and import rich for that: a thirtieth of the start time, and
    megabytes that stay.
    """


setattr(sdk_server, "configure_logging", _leave_logging)  # noqa: B010 - a name that the SDK does not export


class BudgetServer(MCPServer[Toolkit]):
    """An MCP server whose refusals are one clear sentence with a stable code."""

    def __init__(self, toolkit: Toolkit, tools: Sequence[Tool] = TOOLS) -> None:
        self._read_only = {tool.name for tool in tools if tool.annotations and tool.annotations.read_only_hint}
        self._announcer = ResourceNotifier()
        self._arguments = {tool.name: frozenset(tool.parameters.get("properties", {})) for tool in tools}

        @asynccontextmanager
        async def lifespan(_: MCPServer[Toolkit]) -> AsyncIterator[Toolkit]:
            # Entered once per connection on some transports: the process's own services are built and closed elsewhere.
            yield toolkit

        super().__init__(
            DISTRIBUTION,
            title="Cycles budget",
            instructions=_instructions(self._arguments),
            version=version(DISTRIBUTION),
            tools=list(tools),
            lifespan=lifespan,
            log_level="WARNING",
            subscriptions=self._announcer,
        )
        self._announcer.serve(self._lowlevel_server)
        add_resources(self, toolkit)
        for prompt in PROMPTS:
            self.add_prompt(prompt)

    async def call_tool(
        self, name: str, arguments: dict[str, Any], context: Context[Toolkit, Any] | None = None
    ) -> CallToolResult | InputRequiredResult:
        """Call a tool; anticipated failures become an error result with a code and one sentence."""
        try:
            self._refuse_unknown(name, arguments)
            result = await super().call_tool(name, arguments, context)
        except BudgetError as exc:
            return failure(exc)
        except ToolError as exc:
            cause = exc.__cause__
            if isinstance(cause, BudgetError):
                return failure(cause)
            if isinstance(cause, ValidationError):
                return failure(_first_problem(cause))
            raise
        if name not in self._read_only and isinstance(result, CallToolResult):
            await self._announcer.moved(arguments, result)
        return result

    def _refuse_unknown(self, name: str, arguments: dict[str, Any]) -> None:
        """Refuse arguments the tool does not have: the SDK drops them, and a mistyped cap would not cap."""
        known = self._arguments.get(name)
        if known is None:
            raise InvalidArgumentError(f"There is no tool {name!r}: the tools are {', '.join(self._arguments)}.")
        unknown = sorted(set(arguments) - known)
        if unknown:
            raise InvalidArgumentError(
                f"{name} has no argument {', '.join(map(repr, unknown))}: its arguments are {', '.join(sorted(known))}."
            )


def _first_problem(error: ValidationError) -> InvalidArgumentError:
    """Convert the first of pydantic's findings into one sentence, without echoing the input."""
    problem = error.errors(include_url=False, include_input=False, include_context=False)[0]
    where = ".".join(str(part) for part in problem["loc"]) or "the arguments"
    what = problem["msg"].removeprefix("Value error, ").rstrip(".")
    for theirs, ours in _REWORDED:
        what = theirs.sub(ours, what)
    return InvalidArgumentError(f"{where}: {what}.")


def chosen_tools(choice: str) -> tuple[Tool, ...]:
    """Return the tools that a setting names: ``core``, ``all``, names of tools, or several of these with commas.

    Raises:
        ConfigurationError: the tool does not exist.
    """
    known = {tool.name: tool for tool in TOOLS}
    sets = {"core": CORE, "all": tuple(known)}
    named = [name.strip() for name in choice.split(",") if name.strip()]
    names = [name for each in named for name in sets.get(each, (each,))]
    unknown = [name for name in names if name not in known]
    if unknown or not names:
        wrong = f"there is no tool {', '.join(map(repr, unknown))}" if unknown else "it names no tool"
        raise ConfigurationError(f"BUDGET_TOOLS is wrong: {wrong}; say core, all, or some of {', '.join(known)}.")
    return tuple(tool for name, tool in known.items() if name in names)


def _instructions(exposed: Collection[str]) -> str:
    hidden = [tool.name for tool in TOOLS if tool.name not in exposed]
    return " ".join(each for each in INSTRUCTIONS if not any(name in each for name in hidden))


def create_server(toolkit: Toolkit, tools: Sequence[Tool] = TOOLS) -> BudgetServer:
    """Build the server over a process's services; the caller owns and closes them."""
    return BudgetServer(toolkit, tools)
