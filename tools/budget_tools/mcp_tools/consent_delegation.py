"""Consent of a person to a delegation that may cost much, before anything is reserved, stored or sent.

The question goes through the host, in the form of its version of MCP (elicitation); the model neither sees it nor can
answer it. A sub-agent's delegations are not asked about: what it may spend is within what was confirmed.
"""

from collections.abc import Mapping
from typing import Annotated, Any

from mcp.server.elicitation import ElicitationResult
from mcp.server.mcpserver import Elicit, Resolve
from pydantic import BaseModel, Field

from budget_tools.core.errors import InvalidArgumentError
from budget_tools.core.money import USD_MICROCENTS, format_usd
from budget_tools.core.subjects import WhoseBudget
from budget_tools.core.text_safety import beginning
from budget_tools.mcp_tools.caller import can_ask_a_person, parent_of
from budget_tools.mcp_tools.consent_raise import NewBudget, agreed_microcents
from budget_tools.mcp_tools.consent_shortfall import ask_to_fund
from budget_tools.mcp_tools.toolkit import ToolContext, Toolkit, toolkit_of
from budget_tools.spends.responses import all_balances


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
    more: Annotated[ElicitationResult[NewBudget], Resolve(ask_to_fund)],
) -> GoAhead | Elicit[GoAhead]:
    """Return the go-ahead if no consent is needed, else the question; it may be called more than once for one call.

    Raises:
        InvalidArgumentError: ``CONFIRMATION_NEEDED``: this host cannot ask a person; nothing was started.
    """
    kit = toolkit_of(ctx)
    threshold = kit.confirm_above_microcents
    if threshold is None or parent_of(ctx):
        return GoAhead(go_ahead=True)
    if await kit.delegations.knows(kit.subject.tenant, idempotency_key):
        return GoAhead(go_ahead=True)  # it joins what was confirmed
    if not resume and not task.strip():
        return GoAhead(go_ahead=True)  # it will be refused
    worst = await _worst_case(kit, budget_usd, resume, subject, agreed_microcents(kit, more))
    if worst <= threshold:
        return GoAhead(go_ahead=True)
    amount = f"up to ${format_usd(worst)}"
    if not can_ask_a_person(ctx):
        raise InvalidArgumentError(
            f"This delegation may spend {amount}: above ${format_usd(threshold)} a person has to confirm it "
            "(BUDGET_CONFIRM_USD), and this host cannot ask one. Lower budget_usd, or have a person raise the setting.",
            code="CONFIRMATION_NEEDED",
        )
    what = f"go on with delegation {resume}." if resume else f"be given this task: {beginning(task)}"
    return Elicit(f"A Claude sub-agent would {what} It may spend {amount}. Go ahead?", GoAhead)


def refuse_unless_confirmed(answered: ElicitationResult[GoAhead]) -> None:
    """Raise unless the person agreed.

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


async def _worst_case(
    kit: Toolkit, budget_usd: int | None, resume: str, subject: WhoseBudget, raised_to: int | None
) -> int:
    """Return the most that a delegation may newly spend, in microcents: its own limit, or what is left of its budget.

    If a person has just agreed to raise the budget, the raise is included.

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
    rows = spender.own_balances(await all_balances(kit.cycles, spender.tenant), USD_MICROCENTS)
    left = min((_left(row, raised_to) for row in rows), default=0)
    return min([left, *(max(limit - spent, 0) for limit in limits)])


def _left(balance: Mapping[str, Any], raised_to: int | None) -> int:
    """Return what is left of a budget; for the root budget, of the raised one."""
    left = int(balance["remaining"]["amount"])
    if raised_to is not None and "/" not in balance["scope_path"]:
        left += max(raised_to - int(balance["allocated"]["amount"]), 0)
    return max(left, 0)
