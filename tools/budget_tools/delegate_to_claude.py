"""The tool ``delegate_to_claude``: hand a whole task to a Claude sub-agent that cannot overspend."""

from typing import TYPE_CHECKING, Annotated, Any

import anyio
from mcp.types import CallToolResult
from pydantic import BaseModel, Field

from budget_tools.answers import answer
from budget_tools.delegation.records import Status, Task, TurnRecord
from budget_tools.errors import InvalidArgumentError
from budget_tools.ids import time_ordered_id
from budget_tools.money import Money, UsdMicrocents
from budget_tools.registration import make_tool
from budget_tools.subjects import SubjectArgument
from budget_tools.toolkit import ToolContext, toolkit_of

if TYPE_CHECKING:
    from budget_tools.delegation.loop import Delegation

MAX_TURNS = 100
MAX_OUTPUT_TOKENS = 128_000
MAX_WAIT_SECONDS = 3_600
SETTLE_SECONDS = 1.0
"""How long a cancelled call waits for the money of its delegation to be settled."""

MAX_RESULT_CHARACTERS = 400_000


class DelegationResult(BaseModel):
    """How a delegation stands: what was answered, and what every turn reserved and was charged."""

    delegation_id: str
    status: Status
    text: str = Field("", description="The sub-agent's words. Untrusted: it may have read anything.")
    structured: Any | None = None
    turns: list[TurnRecord] = []
    spent: Money
    remaining: Money | None = None
    resumable: bool = False
    idempotency_key: str = ""
    hint: str = Field("", description="Why it stopped, and what to do next.")


async def delegate_to_claude(
    ctx: ToolContext,
    task: Annotated[str, Field(description="What to do, complete in itself.", min_length=1, max_length=1_000_000)],
    context: Annotated[str, Field(description="Material for it.", max_length=1_000_000)] = "",
    system: Annotated[str, Field(description="The sub-agent's system prompt.", max_length=1_000_000)] = "",
    model: Annotated[str, Field(description="Exact Claude model id; the server's default if left out.")] = "",
    fallback_models: Annotated[list[str], Field(description="Not yet available.")] = [],  # noqa: B006 - never changed
    max_turns: Annotated[int, Field(strict=True, ge=1, le=MAX_TURNS)] = 10,
    max_output_tokens: Annotated[
        int, Field(strict=True, ge=1, le=MAX_OUTPUT_TOKENS, description="Per turn; part of what a turn reserves.")
    ] = 4_096,
    budget_usd: Annotated[UsdMicrocents, Field(description="Most that this delegation may spend, in dollars.")] = None,
    tools: Annotated[
        list[str], Field(description="Tools it may use, as server__tool or server__*, of the servers set up here.")
    ] = [],  # noqa: B006 - never changed
    output_schema: Annotated[dict[str, Any] | None, Field(description="Not yet available.")] = None,
    wait_seconds: Annotated[
        int, Field(strict=True, ge=0, le=MAX_WAIT_SECONDS, description="Then it answers 'running' and goes on.")
    ] = 45,
    resume: Annotated[str, Field(description="Not yet available.")] = "",
    idempotency_key: Annotated[str, Field(description="Repeat it to join, never to double.", max_length=256)] = "",
    subject: Annotated[SubjectArgument | None, Field(description="Whose budget; the server's own if left out.")] = None,
) -> Annotated[CallToolResult, DelegationResult]:
    """Hand a task to a Claude sub-agent that works in turns and cannot overspend.

    Before each turn its worst case is reserved; a turn that does not fit is not sent, and what was answered so far is
    returned with status budget_exhausted. If status is running, wait with delegation_status.
    """
    for name, value in (("fallback_models", fallback_models), ("output_schema", output_schema), ("resume", resume)):
        if value:
            raise InvalidArgumentError(f"{name} is not yet available: leave it out.", code="NOT_YET_AVAILABLE")
    kit = toolkit_of(ctx)
    delegated = Task(
        task=task,
        context=context,
        system=system,
        model=model or kit.default_model,
        max_turns=max_turns,
        max_output_tokens=max_output_tokens,
        budget_microcents=budget_usd,
        tools=tuple(tools),
        subject=kit.subject.narrowed(subject),
    )
    key = idempotency_key or time_ordered_id()
    delegation = await kit.delegations.start(delegated, key)
    try:
        await follow(ctx, delegation, wait_seconds)
    except anyio.get_cancelled_exc_class():
        # The host gave up on the call, so nobody would read the rest: stop spending, and settle what is in flight.
        delegation.stop.request()
        with anyio.move_on_after(SETTLE_SECONDS, shield=True):
            while not delegation.is_done:
                await delegation.next_change()
        raise
    result = describe(delegation, key)
    return answer(result, show(result))


async def follow(ctx: ToolContext, delegation: "Delegation", wait_seconds: float) -> None:
    """Wait for a delegation, for so long at most, and report its progress to the host meanwhile."""
    with anyio.move_on_after(wait_seconds):
        while not delegation.is_done:
            await ctx.report_progress(delegation.steps, message=delegation.doing)
            await delegation.next_change()
    await ctx.report_progress(delegation.steps, message=delegation.doing)


def describe(delegation: "Delegation", idempotency_key: str = "") -> DelegationResult:
    """Give the result of a delegation as it stands."""
    hint = delegation.hint
    if not delegation.is_done:
        hint = f"It goes on: {delegation.doing}. Wait for it with delegation_status."
    return DelegationResult(
        delegation_id=delegation.id,
        status=delegation.status,
        text=delegation.text,
        turns=delegation.turns,
        spent=Money.microcents(delegation.spent_microcents),
        remaining=delegation.remaining,
        idempotency_key=idempotency_key,
        hint=hint,
    )


def show(result: DelegationResult) -> str:
    """Put a result into a short text."""
    left = f", {result.remaining} remains" if result.remaining is not None else ""
    turns = f"{len(result.turns)} turn{'' if len(result.turns) == 1 else 's'}"
    head = f"{result.status}: {turns}, {result.spent} spent{left} (delegation {result.delegation_id})."
    hint = f" {result.hint}" if result.hint else ""
    words = f"\n\nThe sub-agent's words:\n{result.text}" if result.text else ""
    return f"{head}{hint}{words}"


TOOL = make_tool(
    delegate_to_claude,
    title="Delegate to Claude",
    is_destructive=True,  # its sub-agent's tools may be
    is_idempotent=False,
    is_open_world=True,
    always_load=True,
    max_result_characters=MAX_RESULT_CHARACTERS,
)
