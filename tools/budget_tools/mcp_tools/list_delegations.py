"""The tool ``list_delegations``: find a delegation again, after a restart or when its id was lost."""

from typing import Annotated, Literal

from mcp.types import CallToolResult
from pydantic import BaseModel, Field

from budget_tools.core.money import Money
from budget_tools.delegation.records import RESUMABLE, Status
from budget_tools.mcp_tools.answers import answer, moment
from budget_tools.mcp_tools.registration import make_tool
from budget_tools.mcp_tools.toolkit import ToolContext, toolkit_of

MAX_TASK_CHARACTERS = 200
"""Maximum number of characters of a task that a list shows."""


class DelegationSummary(BaseModel):
    """One delegation in a list."""

    delegation_id: str
    status: Status
    task: str = Field(description="The beginning of what was delegated.")
    spent: Money
    started_at: str
    changed_at: str
    resumable: bool


class DelegationList(BaseModel):
    """Delegations, the newest first."""

    delegations: list[DelegationSummary]
    next_cursor: str = ""


async def list_delegations(
    ctx: ToolContext,
    status: Annotated[Literal["", Status], Field(description="Only those that stand so.")] = "",
    limit: Annotated[int, Field(strict=True, ge=1, le=100)] = 20,
    cursor: Annotated[str, Field(description="next_cursor of the page before.", max_length=256)] = "",
) -> Annotated[CallToolResult, DelegationList]:
    """List delegations, the newest first: those that run, and those that delegate_to_claude can resume."""
    kit = toolkit_of(ctx)
    found, next_cursor = await kit.delegations.list(
        kit.subject.tenant, status=status or None, limit=limit, cursor=cursor
    )
    result = DelegationList(
        delegations=[
            DelegationSummary(
                delegation_id=stored.delegation_id,
                status=stored.status,
                task=_beginning(stored.task.task),
                spent=Money.microcents(stored.spent_microcents),
                started_at=moment(stored.created_at_ms),
                changed_at=moment(stored.updated_at_ms),
                resumable=stored.status in RESUMABLE,
            )
            for stored in found
        ],
        next_cursor=next_cursor,
    )
    return answer(result, show(result))


def show(result: DelegationList) -> str:
    """Format a list as a short text."""
    lines = [
        f"{each.delegation_id} {each.status}{' (resumable)' if each.resumable else ''}, {each.spent} spent, "
        f"started {each.started_at}: {each.task}"
        for each in result.delegations
    ]
    more = [f"More with cursor {result.next_cursor}."] if result.next_cursor else []
    return "\n".join([*lines, *more]) or "There are none."


def _beginning(task: str) -> str:
    line = " ".join(task.split())
    return line if len(line) <= MAX_TASK_CHARACTERS else f"{line[: MAX_TASK_CHARACTERS - 3]}..."


TOOL = make_tool(list_delegations, title="List delegations", is_read_only=True)
