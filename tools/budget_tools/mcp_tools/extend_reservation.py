"""The tool ``extend_reservation``: extend a reservation whose work takes longer."""

from typing import Annotated, Literal

from mcp.types import CallToolResult
from pydantic import BaseModel, Field

from budget_tools.core.ids import IdempotencyKey, time_ordered_id
from budget_tools.mcp_tools.answers import answer, moment
from budget_tools.mcp_tools.registration import make_tool
from budget_tools.mcp_tools.toolkit import ToolContext, toolkit_of
from budget_tools.spends.ownership import refuse_a_delegations
from budget_tools.spends.responses import body_of

MAX_SECONDS = 86_400
"""Longest extension of the protocol (Cycles v0, ReservationExtendRequest.extend_by_ms)."""


class ExtendReservationResult(BaseModel):
    """The new expiry of a reservation."""

    status: Literal["ACTIVE"]
    expires_at: str
    """ISO 8601; if it is not committed by then, all of it is released."""
    idempotency_key: str


async def extend_reservation(
    ctx: ToolContext,
    reservation_id: Annotated[str, Field(description="From reserve_budget.", min_length=1, max_length=128)],
    seconds: Annotated[int, Field(strict=True, ge=1, le=MAX_SECONDS, description="Beyond its expires_at.")],
    idempotency_key: IdempotencyKey = "",
) -> Annotated[CallToolResult, ExtendReservationResult]:
    """Hold a reservation for longer, before it expires."""
    kit = toolkit_of(ctx)
    key = idempotency_key or time_ordered_id()
    await refuse_a_delegations(kit.cycles, kit.settler.reservations, reservation_id)
    body = {"idempotency_key": key, "extend_by_ms": seconds * 1_000}
    response = await kit.cycles.extend_reservation(reservation_id, body)
    extended = body_of(response, f"extend reservation {reservation_id}", key=key)
    result = ExtendReservationResult(status="ACTIVE", expires_at=moment(extended["expires_at_ms"]), idempotency_key=key)
    text = f"ACTIVE: reservation {reservation_id} is held until {result.expires_at}. (idempotency_key {key})"
    return answer(result, text)


# Without a key, each call extends once more.
TOOL = make_tool(extend_reservation, title="Extend reservation", is_idempotent=False)
