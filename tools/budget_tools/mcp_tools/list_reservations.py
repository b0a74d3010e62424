"""The tool ``list_reservations``: what is held, by which subject, and what became of earlier reservations."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from mcp.types import CallToolResult
from pydantic import BaseModel, Field

from budget_tools.core.money import Money
from budget_tools.core.subjects import WhoseBudget
from budget_tools.mcp_tools.answers import answer, moment
from budget_tools.mcp_tools.registration import make_tool
from budget_tools.mcp_tools.toolkit import ToolContext, toolkit_of
from budget_tools.spends.ownership import delegation_of
from budget_tools.spends.responses import body_of

State = Literal["ACTIVE", "COMMITTED", "RELEASED", "EXPIRED"]


class ReservationSummary(BaseModel):
    """One reservation in a list."""

    reservation_id: str
    status: str
    reserved: Money
    charged: Money | None = None
    scope: str
    action: str
    created_at: str
    expires_at: str
    delegation_id: str = Field("", description="The delegation it belongs to, which alone settles it.")

    @classmethod
    def read(cls, row: Mapping[str, Any]) -> "ReservationSummary":
        """Convert a protocol ReservationSummary."""
        charged = row.get("committed")
        return cls(
            reservation_id=row["reservation_id"],
            status=row["status"],
            reserved=Money.of(int(row["reserved"]["amount"]), row["reserved"]["unit"]),
            charged=Money.of(int(charged["amount"]), charged["unit"]) if charged else None,
            scope=row.get("scope_path", ""),
            action=f"{row['action']['kind']} {row['action']['name']}",
            created_at=moment(row["created_at_ms"]),
            expires_at=moment(row["expires_at_ms"]),
            delegation_id=delegation_of(row),
        )

    def __str__(self) -> str:
        charged = f", {self.charged} charged" if self.charged is not None else ""
        whose = f", of delegation {self.delegation_id}" if self.delegation_id else ""
        return (
            f"{self.reservation_id} {self.status}: {self.reserved} reserved{charged}, {self.action}{whose},"
            f" {self.scope}, made {self.created_at}, expires {self.expires_at}"
        )


class ReservationList(BaseModel):
    """Reservations, the newest first."""

    reservations: list[ReservationSummary]
    next_cursor: str = ""


async def list_reservations(
    ctx: ToolContext,
    status: Annotated[Literal["", State], Field(description="Only those; ACTIVE are held now.")] = "",
    subject: WhoseBudget = None,
    limit: Annotated[int, Field(strict=True, ge=1, le=200)] = 50,
    cursor: Annotated[str, Field(description="next_cursor of the page before.", max_length=1_024)] = "",
) -> Annotated[CallToolResult, ReservationList]:
    """List reservations, the newest first: what is held, for what, and what was charged."""
    kit = toolkit_of(ctx)
    query = {**kit.subject.narrowed(subject).levels, "limit": str(limit)}
    if status:
        query["status"] = status
    if cursor:
        query["cursor"] = cursor
    body = body_of(await kit.cycles.list_reservations(**query), "list reservations")
    result = ReservationList(
        reservations=[ReservationSummary.read(row) for row in body.get("reservations", [])],
        next_cursor=body.get("next_cursor") or "",
    )
    more = [f"More with cursor {result.next_cursor}."] if result.next_cursor else []
    return answer(result, "\n".join([*map(str, result.reservations), *more]) or "There are none.")


TOOL = make_tool(list_reservations, title="List reservations", is_read_only=True)
