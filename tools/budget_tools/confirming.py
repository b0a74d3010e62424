"""A person confirms a delegation that may cost much, before anything is reserved, stored or sent.

The question goes through the host, in whichever way its generation of MCP has (elicitation); the model neither sees it
nor can answer it. Nobody is asked for a sub-agent: what it may spend is within what was confirmed.
"""

from mcp.server.elicitation import ElicitationResult
from mcp.server.mcpserver import Elicit
from pydantic import BaseModel, Field

from budget_tools.cycles import standing
from budget_tools.errors import InvalidArgumentError
from budget_tools.money import USD_MICROCENTS, format_usd
from budget_tools.nesting import parent_of
from budget_tools.showing import printable
from budget_tools.subjects import WhoseBudget
from budget_tools.toolkit import ToolContext, Toolkit, toolkit_of

MAX_SHOWN_CHARACTERS = 200
"""So much of a task is shown to whoever is asked."""


class GoAhead(BaseModel):
    """What a person answers."""

    go_ahead: bool = Field(description="Let it spend up to this amount?")


async def ask_to_spend(
    ctx: ToolContext,
    task: str,
    budget_usd: int | None,
    resume: str,
    subject: WhoseBudget,
    idempotency_key: str,
) -> GoAhead | Elicit[GoAhead]:
    """Give the go-ahead where nobody need be asked, else the question; it may be called more than once for one call.

    Raises:
        InvalidArgumentError: ``CONFIRMATION_NEEDED``: this host cannot ask anybody; nothing was started.
    """
    kit = toolkit_of(ctx)
    threshold = kit.confirm_above_microcents
    if threshold is None or parent_of(ctx):
        return GoAhead(go_ahead=True)
    if idempotency_key and await kit.delegations.knows(kit.subject.tenant, idempotency_key):
        return GoAhead(go_ahead=True)  # it joins what was confirmed
    worst = await _worst_case(kit, budget_usd, resume, subject)
    if worst <= threshold:
        return GoAhead(go_ahead=True)
    amount = f"up to ${format_usd(worst)}"
    capabilities = ctx.client_capabilities
    if capabilities is None or capabilities.elicitation is None:
        raise InvalidArgumentError(
            f"This delegation may spend {amount}: above ${format_usd(threshold)} a person has to confirm it "
            "(BUDGET_CONFIRM_USD), and this host cannot ask one. Lower budget_usd, or have a person raise the setting.",
            code="CONFIRMATION_NEEDED",
        )
    what = f"go on with delegation {resume}." if resume else f"be given this task: {_beginning(task)}"
    return Elicit(f"A Claude sub-agent would {what} It may spend {amount}. Go ahead?", GoAhead)


def refuse_unless_confirmed(answered: ElicitationResult[GoAhead]) -> None:
    """Respect what a person answered.

    Raises:
        InvalidArgumentError: ``DECLINED``; nothing was started.
    """
    if answered.action == "accept" and answered.data.go_ahead:
        return
    raise InvalidArgumentError(
        "The person did not confirm this delegation, so nothing was started or spent: do not try again unless they "
        "ask for it; a smaller budget_usd may need no confirmation.",
        code="DECLINED",
    )


async def _worst_case(kit: Toolkit, budget_usd: int | None, resume: str, subject: WhoseBudget) -> int:
    """Give the most that a delegation may newly spend, in microcents: its own limit, or what is left of its budget.

    Raises:
        AuthorityError: the balances cannot be read.
        InvalidArgumentError: there is no such delegation, or the subject is not the caller's.
    """
    limits = [each for each in (budget_usd, kit.ceiling_microcents) if each is not None]
    spent = 0
    if resume:
        before = await kit.delegations.find(kit.subject.tenant, resume)
        spender, spent = before.task.subject, before.spent_microcents + before.nested_microcents
        if not limits and before.task.budget_microcents is not None:
            limits = [before.task.budget_microcents]
    else:
        spender = kit.subject.narrowed(subject)
    found = await standing(kit.cycles, spender, USD_MICROCENTS)
    left = 0 if found is None else max(found.remaining.amount, 0)
    return min([left, *(max(limit - spent, 0) for limit in limits)])


def _beginning(task: str) -> str:
    """Show how a task begins, on one line."""
    words = printable(" ".join(task.split()))
    return words if len(words) <= MAX_SHOWN_CHARACTERS else f"{words[: MAX_SHOWN_CHARACTERS - 1]}…"
