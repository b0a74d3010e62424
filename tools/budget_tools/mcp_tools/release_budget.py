"""The tool ``release_budget``: release a reservation of which nothing was spent."""

from typing import Annotated, Literal

from mcp.types import CallToolResult
from pydantic import BaseModel, Field

from budget_tools.core.ids import IdempotencyKey, time_ordered_id
from budget_tools.core.money import Money
from budget_tools.mcp_tools.answers import answer
from budget_tools.mcp_tools.registration import make_tool
from budget_tools.mcp_tools.toolkit import ToolContext, toolkit_of
from budget_tools.spends.ownership import refuse_a_delegations
from budget_tools.spends.responses import body_of, tightest


class ReleaseBudgetResult(BaseModel):
    """The released amount."""

    status: Literal["RELEASED"]
    released: Money
    remaining: Money | None = None
    """What can still be reserved, if the authority says it."""
    idempotency_key: str


async def release_budget(
    ctx: ToolContext,
    reservation_id: Annotated[str, Field(description="From reserve_budget.", min_length=1, max_length=128)],
    reason: Annotated[str, Field(max_length=256)] = "",
    idempotency_key: IdempotencyKey = "",
) -> Annotated[CallToolResult, ReleaseBudgetResult]:
    """Give all of a reservation back. Only where nothing was spent of it: else settle it with commit_usage."""
    kit = toolkit_of(ctx)
    key = idempotency_key or time_ordered_id()
    body = {"idempotency_key": key, **({"reason": reason} if reason else {})}
    await refuse_a_delegations(kit.cycles, kit.settler.reservations, reservation_id)
    response = await kit.cycles.release_reservation(reservation_id, body)
    released = body_of(response, f"release reservation {reservation_id}", key=key)
    kit.settler.reservations.forget(reservation_id)
    unit, amount = released["released"]["unit"], int(released["released"]["amount"])
    result = ReleaseBudgetResult(
        status="RELEASED",
        released=Money.of(amount, unit),
        remaining=tightest(released.get("balances") or [], unit),
        idempotency_key=key,
    )
    left = f" {result.remaining} remains." if result.remaining is not None else ""
    return answer(result, f"RELEASED: {result.released} of reservation {reservation_id} went back.{left}")


TOOL = make_tool(release_budget, title="Release budget", is_idempotent=True)
