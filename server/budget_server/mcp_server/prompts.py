"""Prompts that people pick from a host's menu: each one describes a procedure with the tools as they are."""

from typing import Annotated

from mcp.server.mcpserver.prompts import Prompt
from pydantic import Field

PERIODS_OFFERED = ("month", "week", "day", "none")


def plan_within_budget(
    task: Annotated[str, Field(description="What is to be done.")],
    budget_usd: Annotated[str, Field(description="Most it may cost, in dollars; what remains if left out.")] = "",
) -> str:
    """Plan a task so that it stays within a budget."""
    limit = f"It may cost at most {budget_usd} US dollars." if budget_usd else "It may cost what remains of the budget."
    return f"""Plan this task so that it stays within its budget: {task}

{limit}

1. See what remains (check_budget, or the resource budget://balances).
2. Split the task into steps. For each, say which model it needs, and price it with estimate_cost (models compares
   several; turns prices a loop). Count with worst_case, not with expected.
3. Show me a table: step, model, expected, worst case; and the sums. If the sum of the worst cases does not fit, say
   what to leave out, shorten or give to a cheaper model.
4. Ask me before you spend. Then reserve_budget each step before it and commit_usage after it, or give it to
   delegate_to_claude with budget_usd. Stop at a DENY and tell me what remains."""


def find_out_why_denied(
    what: Annotated[str, Field(description="What was denied: a reservation, a delegation, or its reason.")] = "",
) -> str:
    """Find out why a run was denied or stopped, and what would help."""
    which = f" This is about: {what}" if what else ""
    return f"""Find out why spending was denied, and what would help.{which}

1. See the answer's reason_code, blocked_by_scope and hint; for a delegation ask delegation_status for its hint and
   turns (list_delegations finds it again).
2. See every budget (check_budget, or budget://balances): which scope is the tightest, whether it is over its limit, in
   debt, or starts anew with its period.
3. See what is held at the moment (list_reservations with status ACTIVE): by whom, and until when. What expires goes
   back by itself; what nobody needs, release_budget gives back, after asking me.
4. Tell me in three sentences: what said no, why, and the smallest thing that helps. Only people raise budgets
   (`cycles-budget-mcp budget fund`), unfreeze them, or raise quotas: give me the command. Reserve nothing."""


def set_up_team_budgets(
    team: Annotated[str, Field(description="Who spends: people, agents or projects.")],
    total_usd: Annotated[str, Field(description="For all of them, in dollars.")] = "",
    period: Annotated[str, Field(description="How often it starts anew: month, week, day or none.")] = "month",
) -> str:
    """Set up budgets for a team, as commands that a person runs."""
    total = f"They have {total_usd} US dollars" if total_usd else "Ask me how much they have"
    often = "once" if period == "none" else f"per {period}"
    return f"""Set up budgets for this team: {team}

{total}, {often}.

1. See which budgets there are (check_budget, or budget://balances).
2. Propose a tree of scopes: the tenant with the whole amount, and below it a limit for each, such as
   tenant:local/agent:NAME or tenant:local/workspace:NAME. A path is literal: whoever spends must name the same levels
   (CYCLES_WORKSPACE, CYCLES_AGENT and so on, or the subject of a call). Limits may add up to more than the whole: the
   tightest decides.
3. Write the commands for me to run; no tool can set a budget:
   cycles-budget-mcp budget allocate AMOUNT --scope SCOPE --period {period}
   cycles-budget-mcp budget quota set llm.completion COUNT --per day   # at most so many calls
   (On a Cycles server, set by CYCLES_BASE_URL, budgets are set there.)
4. When I have run them, check them again, and show by reserve_budget with dry_run that each meets its limit."""


PROMPTS = (
    Prompt.from_function(plan_within_budget, title="Plan a task within a budget"),
    Prompt.from_function(find_out_why_denied, title="Find out why a run was denied"),
    Prompt.from_function(set_up_team_budgets, title="Set up budgets for a team"),
)
