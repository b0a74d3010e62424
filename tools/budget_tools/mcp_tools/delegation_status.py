"""The tool ``delegation_status``: wait for, look at or cancel a delegation that outlived its call."""

from typing import Annotated

from mcp.types import CallToolResult
from pydantic import Field

from budget_tools.mcp_tools.answers import answer
from budget_tools.mcp_tools.caller import parent_of
from budget_tools.mcp_tools.delegate_to_claude import (
    MAX_WAIT_SECONDS,
    DelegationResult,
    describe,
    follow,
    show,
    warnings_for,
)
from budget_tools.mcp_tools.registration import make_tool
from budget_tools.mcp_tools.toolkit import ToolContext, toolkit_of

CANCEL_SECONDS = 3.0
"""How long a cancel waits at least for its effect: another process notices it within a second."""


async def delegation_status(
    ctx: ToolContext,
    delegation_id: Annotated[str, Field(description="From delegate_to_claude.", min_length=1, max_length=128)],
    wait_seconds: Annotated[int, Field(strict=True, ge=0, le=MAX_WAIT_SECONDS, description="Most to wait.")] = 0,
    cancel: Annotated[bool, Field(strict=True, description="Stop it.")] = False,
) -> Annotated[CallToolResult, DelegationResult]:
    """Wait for a delegation, look at it, or cancel it; answers as delegate_to_claude does."""
    kit = toolkit_of(ctx)
    parent_id = parent_of(ctx)
    delegation = await kit.delegations.find(kit.subject.tenant, delegation_id, parent_id=parent_id)
    if cancel:
        await kit.delegations.cancel(kit.subject.tenant, delegation_id, parent_id=parent_id)
    with kit.delegations.following(delegation_id):
        await follow(ctx, delegation, max(wait_seconds, CANCEL_SECONDS) if cancel else wait_seconds)
    result = describe(delegation, warnings=await warnings_for(kit, delegation))
    return answer(result, show(result))


TOOL = make_tool(delegation_status, title="Delegation status", is_idempotent=True, result_of="delegate_to_claude")
