"""The toolkit of a process: everything that tools may ask it for; the server's composition root provides it.

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
    """The amount that a budget lacks, in microcents."""

    allocated: int
    remaining: int
    raise_to: int
    """Allocation at which the whole amount fits, or as much of it as the highest allowed budget covers."""
    period: str
    """How often it starts again; ``none`` if it never does."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Want:
    """The amount that a caller needs, and its purpose."""

    who: str
    """Beginning of a sentence that a person reads; foreign text in it is printable and short."""
    action: Mapping[str, str]
    """Of the reservation (Cycles v0, Action)."""
    microcents: int
    makes_do_with_microcents: int | None = None
    """Amount that suffices to continue without asking; ``None`` if only the full amount does."""

    @property
    def least_microcents(self) -> int:
        """The amount below which a person is asked."""
        return self.microcents if self.makes_do_with_microcents is None else self.makes_do_with_microcents


class Raising(Protocol):
    """The budget that a person may raise, and its highest allowed amount."""

    @property
    def most_microcents(self) -> int:
        """The highest amount that the whole budget may be raised to."""

    async def shortfall(self, spender: Subject, want: Want, idempotency_key: str = "") -> Shortfall | None:
        """Return the amount that the budget lacks; ``None`` if raising it would not help, or not suffice.

        Args:
            spender: the subject that would reserve.
            want: what for, and how much.
            idempotency_key: of the reservation; one that was made under it already needs nothing more.
        """

    async def raise_to(self, allocated_microcents: int) -> None:
        """Raise the whole budget to this amount, at most to the highest allowed; a higher one stays as it is.

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
        """The settler of known spend, whatever becomes of the answer."""

    async def periods(self) -> Mapping[tuple[str, str], str]:
        """Return how often budgets start again, by scope and unit, as far as known: the protocol does not say."""

    @property
    def prices(self) -> "PriceBook":
        """The prices in force."""

    @property
    def subject(self) -> Subject:
        """The subject that spends, unless a call narrows it."""

    @property
    def ceiling_microcents(self) -> int | None:
        """Most that a delegation may be given; ``None`` if only the budget limits it."""

    @property
    def confirm_above_microcents(self) -> int | None:
        """Amount above which a person confirms a delegation; ``None`` if no confirmation is required."""

    @property
    def raising(self) -> Raising | None:
        """The budget that a person may be asked to raise; ``None`` if no person is asked."""

    @property
    def default_model(self) -> str:
        """The model of a call that does not name one."""

    @property
    def detaches(self) -> bool:
        """Whether a delegation continues when its host gives up waiting for it."""

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
"""A request's own view of the process, if it has one: for code without a context, such as a resource."""

ToolContext = Context[Toolkit]
"""The type of a tool's ``ctx`` argument."""


def toolkit_of(ctx: ToolContext) -> Toolkit:
    """Return the process that a tool runs in."""
    return ctx.request_context.lifespan_context
