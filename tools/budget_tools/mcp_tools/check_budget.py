"""The tool ``check_budget``: what remains of each budget, and what became of the rest."""

from typing import Annotated

from mcp.types import CallToolResult
from pydantic import BaseModel

from budget_tools.core.subjects import Subject, WhoseBudget
from budget_tools.mcp_tools.answers import answer
from budget_tools.mcp_tools.balances import Balance, in_words, usage_warnings
from budget_tools.mcp_tools.registration import make_tool
from budget_tools.mcp_tools.toolkit import ToolContext, Toolkit, toolkit_of
from budget_tools.spends.responses import NO_BUDGET_HINT, all_balances


class CheckBudgetResult(BaseModel):
    """Budgets by scope, the widest first."""

    balances: list[Balance]
    warnings: list[str] = []
    hint: str = ""


async def check_budget(ctx: ToolContext, subject: WhoseBudget = None) -> Annotated[CallToolResult, CheckBudgetResult]:
    """See what remains: of every budget that spending draws on, the tightest decides, and of those below."""
    kit = toolkit_of(ctx)
    result = await look(kit, kit.subject.narrowed(subject))
    text = "\n".join(map(str, result.balances)) or result.hint
    return answer(result, f"{text}{in_words(result.warnings)}")


async def look(kit: Toolkit, subject: Subject) -> CheckBudgetResult:
    """Return the budgets of a subject as they are now.

    Raises:
        AuthorityError: the balances cannot be read.
    """
    rows = subject.related_balances(await all_balances(kit.cycles, subject.tenant))
    periods = await kit.periods()
    return CheckBudgetResult(
        balances=[Balance.read(row, periods.get((row["scope_path"], row["remaining"]["unit"]), "")) for row in rows],
        warnings=usage_warnings(rows),
        hint="" if rows else NO_BUDGET_HINT,
    )


TOOL = make_tool(check_budget, title="Check budget", is_read_only=True)
