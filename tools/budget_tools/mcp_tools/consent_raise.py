"""Consent of a person to a higher budget of this machine's ledger, if a call would otherwise be denied for lack of it.

They are asked through the host (elicitation), for a whole new amount, never for one to add: however often a question
and its answer are repeated, the budget is what the person read. The model neither sees the question nor can answer it.
Sub-agents and clients with a token do not cause questions.
"""

from mcp.server.elicitation import ElicitationResult
from mcp.server.mcpserver import Elicit
from pydantic import BaseModel, Field, create_model

from budget_tools.core.errors import InvalidArgumentError
from budget_tools.core.money import format_usd, parse_usd
from budget_tools.core.subjects import Subject
from budget_tools.mcp_tools.caller import can_ask_a_person, parent_of
from budget_tools.mcp_tools.toolkit import Raising, ToolContext, Toolkit, Want, toolkit_of

NOT_RAISED = "A person was asked to raise the budget and did not: do not ask for it again unless they want it."


class NewBudget(BaseModel):
    """A person's answer; empty if they were not asked."""

    raise_to_usd: str = ""


def raising_with_a_person(ctx: ToolContext) -> Raising | None:
    """Return the budget that a person may be asked to raise; ``None`` without such a budget or person."""
    return None if parent_of(ctx) or not can_ask_a_person(ctx) else toolkit_of(ctx).raising


async def ask_for_more(
    raising: Raising, spender: Subject, want: Want, idempotency_key: str = ""
) -> NewBudget | Elicit[NewBudget]:
    """Return the question for a higher budget if this one would be the reason for a denial; nothing is changed yet."""
    short = await raising.shortfall(spender, want, idempotency_key)
    if short is None:
        return NewBudget()
    period = "" if short.period == "none" else f" per {short.period}"
    budget, left = format_usd(short.allocated), format_usd(max(short.remaining, 0))
    new_budget, most = format_usd(short.raise_to), format_usd(raising.most_microcents)
    return Elicit(
        f"{want.who} needs ${format_usd(want.microcents)}, but of the budget of ${budget}{period} only "
        f"${left} is left. Raise the budget to ${new_budget}{period}?",
        # A new model for each question: the host's defaults for empty fields are those of this question.
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
    """Return the new budget that a person agreed to; ``None`` if they were not asked, or did not agree.

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
    """Raise the budget as a person answered, and return a sentence about it; empty if they were not asked.

    Raises:
        InvalidArgumentError: they named no amount of dollars, or one that is too high; nothing was changed.
    """
    amount = agreed_microcents(kit, answered)
    if amount is None or kit.raising is None:
        return "" if answered.action == "accept" else NOT_RAISED
    await kit.raising.raise_to(amount)
    return f"A person raised the budget to ${format_usd(amount)}."
