"""A person raises the budget of this machine's ledger, where a call would otherwise be denied for want of it.

They are asked through the host (elicitation), for a whole new amount, never for one to add: however often a question
and its answer are repeated, the budget is what the person read. The model neither sees the question nor can answer it,
and nobody is asked for a sub-agent, nor for a client with a token.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from mcp.server.elicitation import ElicitationResult
from mcp.server.mcpserver import Elicit
from pydantic import BaseModel, Field, create_model

from budget_tools.core.errors import InvalidArgumentError
from budget_tools.core.money import format_usd, parse_usd
from budget_tools.core.subjects import Subject
from budget_tools.mcp_tools.caller import can_ask_a_person, parent_of
from budget_tools.mcp_tools.toolkit import ToolContext, Toolkit, toolkit_of

NOT_RAISED = "A person was asked to raise the budget and did not: do not ask for it again unless they want it."


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


class NewBudget(BaseModel):
    """What a person answers; empty where nobody was asked."""

    raise_to_usd: str = ""


def raising_with_a_person(ctx: ToolContext) -> Raising | None:
    """Give the budget that a person may be asked to raise; ``None`` where there is none, or nobody to ask."""
    return None if parent_of(ctx) or not can_ask_a_person(ctx) else toolkit_of(ctx).raising


async def ask_for_more(
    raising: Raising, spender: Subject, want: Want, idempotency_key: str = ""
) -> NewBudget | Elicit[NewBudget]:
    """Ask a person for a higher budget where this one would be the reason for a denial; nothing is changed yet."""
    short = await raising.shortfall(spender, want, idempotency_key)
    if short is None:
        return NewBudget()
    period = "" if short.period == "none" else f" per {short.period}"
    budget, left = format_usd(short.allocated), format_usd(max(short.remaining, 0))
    new_budget, most = format_usd(short.raise_to), format_usd(raising.most_microcents)
    return Elicit(
        f"{want.who} needs ${format_usd(want.microcents)}, but of the budget of ${budget}{period} only "
        f"${left} is left. Raise the budget to ${new_budget}{period}?",
        # A new model for each question: what a host does not fill in is what this question says.
        create_model(
            "NewBudget",
            __base__=NewBudget,
            raise_to_usd=(
                str,
                Field(new_budget, title="New budget", description=f"In dollars, the whole of it: at most {most}."),
            ),
        ),
    )


def agreed_microcents(kit: Toolkit, answered: ElicitationResult[NewBudget]) -> int | None:
    """Give the new budget that a person agreed to; ``None`` where nobody was asked, or they did not.

    Raises:
        InvalidArgumentError: they named no amount of dollars, or one that is too high.
    """
    if answered.action != "accept" or kit.raising is None:
        return None
    text = answered.data.raise_to_usd.strip().removeprefix("$").strip()
    if not text:
        return None
    amount = parse_usd(text, name="The budget that the person named")
    most = kit.raising.most_microcents
    if amount > most:
        raise InvalidArgumentError(
            f"The person named ${format_usd(amount)}, and the budget may be raised to ${format_usd(most)} at most "
            "(BUDGET_RAISE_TO_USD): nothing was changed."
        )
    return amount


async def raise_as_agreed(kit: Toolkit, answered: ElicitationResult[NewBudget]) -> str:
    """Do what a person answered, and say in a sentence what that was; empty where nobody was asked.

    Raises:
        InvalidArgumentError: they named no amount of dollars, or one that is too high; nothing was changed.
    """
    amount = agreed_microcents(kit, answered)
    if amount is None or kit.raising is None:
        return "" if answered.action == "accept" else NOT_RAISED
    await kit.raising.raise_to(amount)
    return f"A person raised the budget to ${format_usd(amount)}."
