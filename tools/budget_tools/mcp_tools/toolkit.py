"""What a tool may ask the process for; the server's composition root provides it.

Everything here is made once per process and on first use: a host starts this server for every conversation, and most
conversations need only a part of it.
"""

from collections.abc import Mapping
from contextvars import ContextVar
from typing import TYPE_CHECKING, Protocol

from mcp.server.mcpserver import Context

from budget_tools.core.subjects import Subject

if TYPE_CHECKING:
    from runcycles import AsyncCyclesClient

    from budget_tools.claude.client import Claude
    from budget_tools.delegation.runner import DelegationRunner
    from budget_tools.mcp_tools.consent_raise import Raising
    from budget_tools.pricing.book import PriceBook
    from budget_tools.spends.settlement import Settler


class Toolkit(Protocol):
    """The process as the tools see it."""

    @property
    def cycles(self) -> "AsyncCyclesClient":
        """The budget authority, embedded or remote: the tools cannot tell which."""

    @property
    def settler(self) -> "Settler":
        """What settles known spend, whatever becomes of the answer."""

    async def periods(self) -> Mapping[tuple[str, str], str]:
        """How often budgets start anew, by scope and unit, as far as that is known: the protocol does not say."""

    @property
    def prices(self) -> "PriceBook":
        """The prices in force."""

    @property
    def subject(self) -> Subject:
        """Who spends, unless a call narrows it."""

    @property
    def ceiling_microcents(self) -> int | None:
        """Most that a delegation may be given; ``None`` where the budget alone limits it."""

    @property
    def confirm_above_microcents(self) -> int | None:
        """A person confirms a delegation that may spend more; ``None`` where nobody is asked."""

    @property
    def raising(self) -> "Raising | None":
        """The budget that a person may be asked to raise; ``None`` where nobody is asked."""

    @property
    def default_model(self) -> str:
        """The model of a call that names none."""

    @property
    def detaches(self) -> bool:
        """Whether a delegation goes on when its host gives up waiting for it."""

    @property
    def has_claude(self) -> bool:
        """Whether an API key is set."""

    @property
    def claude(self) -> "Claude":
        """The gated Messages client.

        Raises:
            ConfigurationError: no API key is set.
        """

    @property
    def delegations(self) -> "DelegationRunner":
        """The delegations of this process.

        Raises:
            ConfigurationError: no API key is set.
        """


visiting: ContextVar[Toolkit] = ContextVar("visiting")
"""A request's own view of the process, where it has one: to what has no context, such as a resource."""

ToolContext = Context[Toolkit]
"""What a tool's ``ctx`` argument is."""


def toolkit_of(ctx: ToolContext) -> Toolkit:
    """Give a tool the process it runs in."""
    return ctx.request_context.lifespan_context
