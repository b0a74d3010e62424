"""The process as a client with a token sees it: with another subject, some of the tools, and a ceiling.

An MCP middleware gives each request its own view of the process; the tools find it in the usual place.
"""

from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
from mcp.shared.exceptions import MCPError
from mcp.types import METHOD_NOT_FOUND, ListToolsResult
from starlette.requests import Request

from budget_server.auth.middleware import grant_of
from budget_server.auth.tokens import Grant
from budget_server.services import Services
from budget_tools.core.errors import InvalidArgumentError
from budget_tools.core.subjects import Subject
from budget_tools.mcp_tools.answers import failure
from budget_tools.mcp_tools.toolkit import current_toolkit

if TYPE_CHECKING:
    from runcycles import AsyncCyclesClient

    from budget_tools.claude.client import Claude
    from budget_tools.delegation.runner import DelegationRunner
    from budget_tools.pricing.book import PriceBook
    from budget_tools.spends.settlement import Settler


SAFE_METHODS = frozenset(
    {
        "initialize",
        "ping",
        "server/discover",
        "logging/setLevel",
        "tools/list",
        "tools/call",
        "prompts/list",
        "prompts/get",
        "resources/list",
        "resources/read",
        "resources/templates/list",
        "completion/complete",
    }
)
"""Methods allowed with a token. Subscriptions are excluded: they would announce changes of other tenants."""


class TenantToolkit:
    """The process as the tools see it on behalf of a token (the tools' ``Toolkit``)."""

    def __init__(self, services: Services, grant: Grant) -> None:
        self._services = services
        self.subject = Subject(grant.levels, is_fixed=True)
        self.ceiling_microcents = grant.ceiling_microcents
        self.confirm_above_microcents = services.confirm_above_microcents
        self.raising = None  # a client with a token may not raise the budget
        self.default_model = services.default_model
        self.detaches = services.detaches
        self.has_claude = services.has_claude

    @cached_property
    def cycles(self) -> "AsyncCyclesClient":
        """The budget authority, limited to this tenant.

        Raises:
            ConfigurationError: a Cycles server holds the budgets, and its key belongs to another tenant.
        """
        return self._services.cycles_for(self.subject.tenant)

    @property
    def settler(self) -> "Settler":
        """The settler of this tenant's spend.

        Raises:
            ConfigurationError: a Cycles server holds the budgets, and its key belongs to another tenant.
        """
        return self._services.settler_for(self.cycles)

    async def periods(self) -> Mapping[tuple[str, str], str]:
        """Return how often this tenant's budgets reset."""
        return await self._services.periods(self.subject.tenant)

    @property
    def prices(self) -> "PriceBook":
        """The prices in force."""
        return self._services.prices

    @property
    def claude(self) -> "Claude":
        """The gated Messages client.

        Raises:
            ConfigurationError: no API key is set.
        """
        return self._services.claude

    @property
    def delegations(self) -> "DelegationRunner":
        """The delegations of this process, which callers filter by tenant.

        Raises:
            ConfigurationError: no API key is set, or the budgets belong to another tenant.
        """
        _ = self.cycles
        return self._services.delegations


class TenantToolkits:
    """The views of the process, one for each token.

    Args:
        services: the process itself, which serves requests without a token.
    """

    def __init__(self, services: Services) -> None:
        self._services = services

    async def admit(self, ctx: ServerRequestContext[Any, Any], call_next: CallNext) -> HandlerResult:
        """Serve a request within the rights of its token (an MCP middleware)."""
        assert isinstance(ctx.request, Request), "over HTTP every message has the request that brought it"
        grant = grant_of(ctx.request)
        if grant is None:
            return await call_next(ctx)
        if ctx.method not in SAFE_METHODS and not ctx.method.startswith("notifications/"):
            raise MCPError(code=METHOD_NOT_FOUND, message=f"{ctx.method} is not served to clients with a token.")
        if grant.tools is not None and ctx.method == "tools/call":
            name = (ctx.params or {}).get("name")
            if name not in grant.tools:
                return failure(
                    InvalidArgumentError(f"There is no tool {name!r}: the tools are {', '.join(sorted(grant.tools))}.")
                )
        guest = TenantToolkit(self._services, grant)
        visit = current_toolkit.set(guest)
        try:
            result = await call_next(replace(ctx, lifespan_context=guest))
        finally:
            current_toolkit.reset(visit)
        return _only(result, grant.tools) if ctx.method == "tools/list" else result


def _only(result: HandlerResult, names: frozenset[str] | None) -> HandlerResult:
    """Return a list result reduced to these names."""
    if names is None:
        return result
    if isinstance(result, ListToolsResult):
        return result.model_copy(update={"tools": [tool for tool in result.tools if tool.name in names]})
    assert isinstance(result, dict)
    return {**result, "tools": [tool for tool in result["tools"] if tool["name"] in names]}
