"""What a tool may ask the process for; the server's composition root provides it.

Everything here is made once per process and on first use: a host starts this server for every conversation, and most
conversations need only a part of it.
"""

from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from mcp.server.mcpserver import Context

from budget_tools.core.subjects import Subject

if TYPE_CHECKING:
    from runcycles import AsyncCyclesClient

    from budget_tools.claude.client import Claude
    from budget_tools.delegation.runner import DelegationRunner
    from budget_tools.pricing.book import PriceBook
    from budget_tools.spends.settlement import Settler


@dataclass(frozen=True, kw_only=True, slots=True)
class Shortfall:
    """How much too small a budget is, in microcents."""

    allocated: int
    remaining: int
    raise_to: int
    """With so much allocated the whole of it fits, or as much of it as the most that is allowed bears."""
    period: str
    """How often it starts anew; ``none`` where it never does."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Want:
    """What somebody needs money for."""

    who: str
    """Begins a sentence that a person reads; what others wrote is printable in it, and short."""
    action: Mapping[str, str]
    """Of the reservation (Cycles v0, Action)."""
    microcents: int
    makes_do_with_microcents: int | None = None
    """With so much, which is no more, it goes on without asking; ``None`` where only the whole will do."""

    @property
    def least_microcents(self) -> int:
        """Nobody is asked while the budget bears so much."""
        return self.microcents if self.makes_do_with_microcents is None else self.makes_do_with_microcents


class Raising(Protocol):
    """The budget that a person may raise, and how far."""

    @property
    def most_microcents(self) -> int:
        """Most that the whole budget may be raised to."""

    async def shortfall(self, spender: Subject, want: Want, idempotency_key: str = "") -> Shortfall | None:
        """Say how much too small the budget is; ``None`` where raising it would not help, or not do.

        Args:
            spender: who would reserve.
            want: what for, and how much.
            idempotency_key: of the reservation; one that was made under it already wants nothing more.
        """

    async def raise_to(self, allocated_microcents: int) -> None:
        """Raise the whole budget to this amount, at most to what it may be; one that is higher stays as it is.

        Raises:
            InvalidArgumentError: the budget is closed, or gone; nothing was changed.
        """


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
    def raising(self) -> Raising | None:
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


current_toolkit: ContextVar[Toolkit] = ContextVar("current_toolkit")
"""A request's own view of the process, where it has one: to what has no context, such as a resource."""

ToolContext = Context[Toolkit]
"""What a tool's ``ctx`` argument is."""


def toolkit_of(ctx: ToolContext) -> Toolkit:
    """Give a tool the process it runs in."""
    return ctx.request_context.lifespan_context
