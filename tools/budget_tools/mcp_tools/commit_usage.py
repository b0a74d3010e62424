"""The tool ``commit_usage``: settle a reservation with what was really used."""

from typing import Annotated, Any, Literal

from mcp.types import CallToolResult
from pydantic import BaseModel, Field

from budget_tools.core.ids import IdempotencyKey, time_ordered_id
from budget_tools.core.money import Amount, Money, UsdMicrocents
from budget_tools.mcp_tools.amounts import CallsArgument, PricedAmount, UsageArgument, metrics_of, spent_amount
from budget_tools.mcp_tools.answers import answer
from budget_tools.mcp_tools.balances import in_words, uncovered_hint, uncovered_of, usage_warnings
from budget_tools.mcp_tools.registration import make_tool
from budget_tools.mcp_tools.toolkit import ToolContext, Toolkit, toolkit_of
from budget_tools.spends.ownership import refuse_a_delegations
from budget_tools.spends.responses import balances_in, body_of, tightest


class CommitUsageResult(BaseModel):
    """The settled reservation and its charge."""

    status: Literal["COMMITTED", "BOOKED"] = Field(description="BOOKED: it had expired; booked as an event instead.")
    charged: Money
    uncovered: Money | None = None
    """Cost beyond the charge, which the budget could not cover."""
    released: Money | None = Field(None, description="What went back, where less was used than reserved.")
    remaining: Money | None = Field(None, description="What can still be reserved.")
    price_source: str = Field("", description="Whose prices, where usage was priced here.")
    idempotency_key: str
    warnings: list[str] = []
    hint: str = ""


async def commit_usage(
    ctx: ToolContext,
    reservation_id: Annotated[str, Field(description="From reserve_budget.", min_length=1, max_length=128)],
    usd: Annotated[UsdMicrocents, Field(description="Dollars spent.")] = None,
    amount: Amount = None,
    unit: Annotated[str, Field(description="The reservation's.")] = "",
    model: Annotated[str, Field(description="Prices usage.")] = "",
    usage: UsageArgument = None,
    calls: CallsArgument = None,
    latency_ms: Amount = None,
    metadata: dict[str, Any] | None = None,
    idempotency_key: IdempotencyKey = "",
) -> Annotated[CallToolResult, CommitUsageResult]:
    """Settle a reservation once with what was really spent; the rest goes back.

    Say the amount once: usd, amount with unit, or model with usage.
    """
    kit = toolkit_of(ctx)
    actual = spent_amount(kit.prices, usd=usd, amount=amount, unit=unit, model=model, usage=usage, calls=calls)
    key = idempotency_key or time_ordered_id()
    metrics = metrics_of(model, actual.reported)
    if latency_ms is not None:
        metrics["latency_ms"] = latency_ms
    body: dict[str, Any] = {"idempotency_key": key, "actual": actual.wire()}
    if metrics:
        body["metrics"] = metrics
    if metadata:
        body["metadata"] = metadata
    await refuse_a_delegations(kit.cycles, kit.settler.reservations, reservation_id)
    settlement = await kit.settler.commit(reservation_id, body)
    doing = f"commit reservation {reservation_id}"
    settled = body_of(settlement.response, doing, key=key, is_kept=settlement.is_kept)
    charged = int(settled["charged"]["amount"]) if settled.get("charged") else actual.amount
    uncovered = uncovered_of(actual.amount, charged, actual.unit)
    warnings = usage_warnings(balances_in(settlement.response))
    if not settlement.is_event and not settled.get("released"):
        warnings = [*await _excess(kit, reservation_id, actual), *warnings]
    result = CommitUsageResult(
        status="BOOKED" if settlement.is_event else "COMMITTED",
        charged=Money.of(charged, actual.unit),
        uncovered=uncovered,
        released=Money.of(int(settled["released"]["amount"]), actual.unit) if settled.get("released") else None,
        remaining=tightest(settled.get("balances") or [], actual.unit),
        price_source=actual.price_source,
        idempotency_key=key,
        warnings=[*actual.warnings, *warnings],
        hint=uncovered_hint(uncovered),
    )
    return answer(result, _text(result, reservation_id))


async def _excess(kit: Toolkit, reservation_id: str, actual: PricedAmount) -> list[str]:
    """Return a warning of a commit above its reservation, if the authority still shows what was reserved."""
    body: object = (await kit.cycles.get_reservation(reservation_id)).body
    reserved = body.get("reserved") if isinstance(body, dict) else None
    if not reserved or int(reserved["amount"]) >= actual.amount:
        return []
    spent, held = Money.of(actual.amount, actual.unit), Money.of(int(reserved["amount"]), actual.unit)
    return [f"{spent} was spent on a reservation of {held}: beyond that nothing was held, so reserve the worst case"]


def _text(result: CommitUsageResult, reservation_id: str) -> str:
    released = f", {result.released} went back" if result.released is not None else ""
    left = f" {result.remaining} remains." if result.remaining is not None else ""
    hint = f" {result.hint}" if result.hint else ""
    released += f", {result.uncovered} was not covered" if result.uncovered is not None else ""
    settled = f"COMMITTED: reservation {reservation_id} was charged {result.charged}{released}."
    if result.status == "BOOKED":
        settled = f"BOOKED: reservation {reservation_id} had expired, so {result.charged} was booked as an event."
    return f"{settled}{left}{hint}{in_words(result.warnings)}"


TOOL = make_tool(commit_usage, title="Commit usage", is_idempotent=True, always_load=True)
