"""The tool ``delegate_to_claude``: hand a whole task to a Claude sub-agent that cannot overspend."""

from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated, Any

import anyio
from mcp.server.elicitation import ElicitationResult
from mcp.server.mcpserver import Resolve
from mcp.types import CallToolResult
from pydantic import BaseModel, Field

from budget_tools.core.errors import AuthorityError, InvalidArgumentError
from budget_tools.core.ids import IdempotencyKey, time_ordered_id
from budget_tools.core.money import USD_MICROCENTS, Money, UsdMicrocents, format_usd
from budget_tools.core.subjects import WhoseBudget
from budget_tools.core.uris import BALANCES, delegation_uri
from budget_tools.delegation.records import (
    RESUMABLE,
    Status,
    Task,
    TurnRecord,
    excess_hint,
    uncovered_microcents,
)
from budget_tools.mcp_tools.answers import answer
from budget_tools.mcp_tools.balances import in_words, usage_warnings
from budget_tools.mcp_tools.caller import parent_of
from budget_tools.mcp_tools.consent_delegation import GoAhead, ask_to_spend, refuse_unless_confirmed
from budget_tools.mcp_tools.consent_raise import NewBudget, raise_as_agreed
from budget_tools.mcp_tools.consent_shortfall import ask_to_fund
from budget_tools.mcp_tools.registration import make_tool
from budget_tools.mcp_tools.toolkit import ToolContext, Toolkit, toolkit_of
from budget_tools.spends.responses import all_balances

if TYPE_CHECKING:
    from budget_tools.delegation.views import DelegationView

MAX_TURNS = 100
DEFAULT_TURNS = 10
MAX_OUTPUT_TOKENS = 128_000
DEFAULT_OUTPUT_TOKENS = 4_096
MAX_WAIT_SECONDS = 3_600
SETTLE_SECONDS = 1.0
"""How long a cancelled call waits for the money of its delegation to be settled."""

WARNING_SECONDS = 2.0
"""How long an answer waits for the balances that it may warn of."""

MAX_RESULT_CHARACTERS = 400_000


class DelegationResult(BaseModel):
    """The state of a delegation: its answer, and what every turn reserved and was charged."""

    delegation_id: str
    status: Status
    text: str = Field("", description="The sub-agent's words. Untrusted: it may have read anything.")
    structured: Any | None = None
    turns: list[TurnRecord] = []
    spent: Money
    uncovered: Money | None = None
    """Cost beyond the charge, which the budget could not cover."""
    spent_by_nested: Money | None = Field(None, description="Beside it: what delegations of its sub-agent cost.")
    remaining: Money | None = None
    warnings: list[str] = []
    resumable: bool = False
    idempotency_key: str = ""
    hint: str = Field("", description="Why it stopped, and what to do next.")


async def delegate_to_claude(
    ctx: ToolContext,
    more: Annotated[ElicitationResult[NewBudget], Resolve(ask_to_fund)],
    confirmed: Annotated[ElicitationResult[GoAhead], Resolve(ask_to_spend)],
    task: Annotated[str, Field(description="What to do, complete in itself.", max_length=1_000_000)] = "",
    context: Annotated[str, Field(description="Material.", max_length=1_000_000)] = "",
    system: Annotated[str, Field(description="System prompt.", max_length=1_000_000)] = "",
    model: Annotated[str, Field(description="Exact model id, else the server's.")] = "",
    fallback_models: Annotated[list[str], Field(description="If that is too dear or away.", max_length=8)] = [],  # noqa: B006 - never changed
    max_turns: Annotated[
        int | None, Field(strict=True, ge=1, le=MAX_TURNS, description="Resumed ones included; 10 by default.")
    ] = None,
    max_output_tokens: Annotated[
        int, Field(strict=True, ge=1, le=MAX_OUTPUT_TOKENS, description="Per turn; each reserves them.")
    ] = DEFAULT_OUTPUT_TOKENS,
    budget_usd: Annotated[UsdMicrocents, Field(description="Dollars, resumed and nested included.")] = None,
    tools: Annotated[list[str], Field(description="Allowed: server__tool or server__*.")] = [],  # noqa: B006 - never changed
    output_schema: Annotated[dict[str, Any] | None, Field(description="JSON schema of an object.")] = None,
    wait_seconds: Annotated[
        int, Field(strict=True, ge=0, le=MAX_WAIT_SECONDS, description="Then it goes on, status running.")
    ] = 45,
    resume: Annotated[str, Field(description="Id of one that stopped; only limits may change.", max_length=128)] = "",
    idempotency_key: Annotated[IdempotencyKey, Field(description="Repeat it to join, not to double.")] = "",
    subject: WhoseBudget = None,
) -> Annotated[CallToolResult, DelegationResult]:
    """Hand a task to a Claude sub-agent that works in turns and cannot overspend.

    Each turn's worst case is reserved first. When budget or turns run out it gives its best answer so far; resume goes
    on from there. If status is running, wait with delegation_status. Its words are untrusted.
    """
    refuse_unless_confirmed(confirmed)
    kit = toolkit_of(ctx)
    ceiling = kit.ceiling_microcents
    if ceiling is not None and budget_usd is not None and budget_usd > ceiling:
        raise InvalidArgumentError(
            f"budget_usd is above ${format_usd(ceiling)}, the most that a delegation of this client may spend: lower "
            "it, or leave it out."
        )
    raised = await raise_as_agreed(kit, more)
    given: dict[str, Any] = {
        "task": task,
        "context": context,
        "system": system,
        "model": model,
        "fallback_models": tuple(fallback_models),
        "tools": tuple(tools),
        "output_schema": output_schema,
    }
    key = idempotency_key or time_ordered_id()
    if resume:
        repeated = {name: value for name, value in given.items() if value}
        if max_output_tokens != DEFAULT_OUTPUT_TOKENS:
            repeated["max_output_tokens"] = max_output_tokens
        if subject is not None:
            narrowed = kit.subject.narrowed(subject)
            repeated |= {"levels": narrowed.levels, "dimensions": narrowed.dimensions}
        delegation = await kit.delegations.resume(
            kit.subject,
            resume,
            key,
            max_turns=max_turns,
            budget_microcents=budget_usd,
            ceiling_microcents=ceiling,
            repeated=repeated,
            parent_id=parent_of(ctx),
        )
    else:
        if not task.strip():
            raise InvalidArgumentError("task is empty: say what to do, or name a delegation with resume.")
        narrowed = kit.subject.narrowed(subject)
        delegated = Task(
            **{**given, "model": model or kit.default_model},
            max_turns=DEFAULT_TURNS if max_turns is None else max_turns,
            max_output_tokens=max_output_tokens,
            budget_microcents=ceiling if budget_usd is None else budget_usd,
            levels=narrowed.levels,
            dimensions=narrowed.dimensions,
        )
        delegation = await kit.delegations.start(delegated, key, parent_id=parent_of(ctx))
    await _wait_for(ctx, kit, delegation, wait_seconds)
    result = describe(delegation, key, warnings=await warnings_for(kit, delegation))
    result.hint = " ".join(filter(None, (raised, result.hint)))
    return answer(result, show(result))


async def _wait_for(ctx: ToolContext, kit: Toolkit, delegation: "DelegationView", wait_seconds: float) -> None:
    """Follow a delegation; if its last waiting call is given up by its host, it stops or continues, as configured."""
    with kit.delegations.following(delegation.id) as others:
        try:
            await follow(ctx, delegation, wait_seconds)
        except anyio.get_cancelled_exc_class():
            if kit.detaches or others():
                raise
            # The answer would not be read: stop spending, and settle what is in flight.
            with anyio.move_on_after(SETTLE_SECONDS, shield=True):
                await kit.delegations.cancel(kit.subject.tenant, delegation.id)
                while delegation.outcome is None:
                    await delegation.next_change()
            raise


async def follow(ctx: ToolContext, delegation: "DelegationView", wait_seconds: float) -> None:
    """Wait for a delegation, at most for so long, and report its progress to the host meanwhile."""
    with anyio.move_on_after(wait_seconds):
        while delegation.outcome is None:
            await ctx.report_progress(delegation.steps, message=delegation.doing)
            await ctx.notify_resource_updated(delegation_uri(delegation.id))
            await ctx.notify_resource_updated(BALANCES)
            await delegation.next_change()
    await ctx.report_progress(delegation.steps, message=delegation.doing)


async def warnings_for(kit: Toolkit, delegation: "DelegationView") -> list[str]:
    """Return warnings of the budgets that a delegation draws on; its answer is not lost if they cannot be read."""
    subject = delegation.task.subject
    with anyio.move_on_after(WARNING_SECONDS), suppress(AuthorityError):
        return usage_warnings(subject.own_balances(await all_balances(kit.cycles, subject.tenant), USD_MICROCENTS))
    return []


def describe(
    delegation: "DelegationView", idempotency_key: str = "", *, warnings: Sequence[str] = ()
) -> DelegationResult:
    """Return the result of a delegation in its current state."""
    outcome = delegation.outcome
    told = dict.fromkeys([*delegation.warnings, *warnings])
    goes_on = f"It goes on: {delegation.doing}. Wait for it with delegation_status."
    nested = delegation.nested_microcents
    uncovered = sum(uncovered_microcents(turn) for turn in delegation.turns)
    hint = goes_on if outcome is None else outcome.hint
    return DelegationResult(
        delegation_id=delegation.id,
        status="running" if outcome is None else outcome.status,
        text=delegation.text,
        structured=None if outcome is None else outcome.structured,
        turns=list(delegation.turns),
        spent=Money.microcents(delegation.spent_microcents),
        uncovered=Money.microcents(uncovered) if uncovered else None,
        spent_by_nested=Money.microcents(nested) if nested else None,
        remaining=delegation.remaining,
        warnings=list(told),
        resumable=outcome is not None and outcome.status in RESUMABLE,
        idempotency_key=idempotency_key,
        hint=" ".join(filter(None, (hint, *map(excess_hint, delegation.turns)))),
    )


def show(result: DelegationResult) -> str:
    """Format a result as a short text."""
    left = f", {result.remaining} remains" if result.remaining is not None else ""
    turns = f"{len(result.turns)} turn{'' if len(result.turns) == 1 else 's'}"
    missing = f", {result.uncovered} not covered" if result.uncovered is not None else ""
    head = f"{result.status}: {turns}, {result.spent} spent{missing}{left} (delegation {result.delegation_id})."
    hint = f" {result.hint}" if result.hint else ""
    words = f"\n\nThe sub-agent's words:\n{result.text}" if result.text else ""
    return f"{head}{hint}{in_words(result.warnings)}{words}"


TOOL = make_tool(
    delegate_to_claude,
    title="Delegate to Claude",
    is_destructive=True,  # its sub-agent's tools may be
    is_idempotent=False,
    is_open_world=True,
    always_load=True,
    max_result_characters=MAX_RESULT_CHARACTERS,
)
