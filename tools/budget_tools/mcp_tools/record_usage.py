"""The tool ``record_usage``: book what was spent without a reservation."""

from typing import Annotated, Any, Literal

from mcp.types import CallToolResult
from pydantic import BaseModel, Field

from budget_tools.core.ids import IdempotencyKey, time_ordered_id
from budget_tools.core.money import Amount, Money, UsdMicrocents
from budget_tools.core.subjects import WhoseBudget
from budget_tools.mcp_tools.amounts import CallsArgument, UsageArgument, metrics_of, spent_amount
from budget_tools.mcp_tools.answers import answer
from budget_tools.mcp_tools.balances import in_words, uncovered_hint, uncovered_of, usage_warnings
from budget_tools.mcp_tools.registration import make_tool
from budget_tools.mcp_tools.reserve_budget import OveragePolicy
from budget_tools.mcp_tools.toolkit import ToolContext, toolkit_of
from budget_tools.spends.responses import balances_in, body_of, denial_of, remaining, tightest


class RecordUsageResult(BaseModel):
    """The booked usage; a denial books nothing."""

    decision: Literal["ALLOW", "DENY"]
    event_id: str = ""
    charged: Money | None = None
    uncovered: Money | None = None
    """Cost beyond the charge, which the budget could not cover."""
    remaining: Money | None = None
    price_source: str = ""
    """Source of the prices, if usage was priced here."""
    reason_code: str = ""
    blocked_by_scope: str = ""
    idempotency_key: str
    warnings: list[str] = []
    hint: str = ""


async def record_usage(
    ctx: ToolContext,
    usd: Annotated[UsdMicrocents, Field(description="Dollars spent.")] = None,
    amount: Amount = None,
    unit: Annotated[str, Field(description="USD_MICROCENTS (10^-8 USD), TOKENS, CREDITS or RISK_POINTS.")] = "",
    model: Annotated[str, Field(description="Prices usage.")] = "",
    usage: UsageArgument = None,
    calls: CallsArgument = None,
    action_kind: Annotated[str, Field(min_length=1, max_length=64)] = "llm.completion",
    action_name: Annotated[str, Field(max_length=256)] = "",
    subject: WhoseBudget = None,
    overage_policy: Annotated[
        OveragePolicy, Field(description="Where the budget does not cover it.")
    ] = "ALLOW_IF_AVAILABLE",
    idempotency_key: IdempotencyKey = "",
) -> Annotated[CallToolResult, RecordUsageResult]:
    """Book what was already spent without a reservation.

    Say it once: usd, amount with unit, or model with usage. DENY books nothing. Better: reserve_budget before spending.
    """
    kit = toolkit_of(ctx)
    actual = spent_amount(kit.prices, usd=usd, amount=amount, unit=unit, model=model, usage=usage, calls=calls)
    spender = kit.subject.narrowed(subject)
    key = idempotency_key or time_ordered_id()
    body: dict[str, Any] = {
        "idempotency_key": key,
        "subject": spender.wire(),
        "action": {"kind": action_kind, "name": action_name or model or action_kind},
        "actual": actual.wire(),
        "overage_policy": overage_policy,
    }
    if actual.reported is not None:
        body["metrics"] = metrics_of(model, actual.reported)
    settlement = await kit.settler.book(body)
    denied = denial_of(settlement.response)
    if denied is not None:
        result = RecordUsageResult(
            decision="DENY",
            remaining=await remaining(kit.cycles, spender, actual.unit),
            reason_code=denied.reason_code,
            blocked_by_scope=denied.blocked_by_scope,
            idempotency_key=key,
            hint=denied.hint,
        )
        return answer(result, _text(result))
    booked = body_of(settlement.response, "record usage", key=key, is_kept=settlement.is_kept)
    charged = int(booked["charged"]["amount"]) if booked.get("charged") else actual.amount
    uncovered = uncovered_of(actual.amount, charged, actual.unit)
    result = RecordUsageResult(
        decision="ALLOW",
        event_id=booked.get("event_id", ""),
        charged=Money.of(charged, actual.unit),
        uncovered=uncovered,
        remaining=tightest(booked.get("balances") or [], actual.unit),
        price_source=actual.price_source,
        idempotency_key=key,
        warnings=[*actual.warnings, *usage_warnings(balances_in(settlement.response))],
        hint=uncovered_hint(uncovered),
    )
    return answer(result, _text(result))


def _text(result: RecordUsageResult) -> str:
    left = f" {result.remaining} remains." if result.remaining is not None else ""
    hint = f" {result.hint}" if result.hint else ""
    if result.decision == "DENY":
        where = f" by {result.blocked_by_scope}" if result.blocked_by_scope else ""
        return f"DENY ({result.reason_code}{where}): nothing is booked.{left}{hint}"
    missing = f", {result.uncovered} was not covered" if result.uncovered is not None else ""
    return (
        f"ALLOW: {result.charged} booked as event {result.event_id}{missing}.{left}{hint}"
        f" (idempotency_key {result.idempotency_key}){in_words(result.warnings)}"
    )


# Without a key, each call books once more.
TOOL = make_tool(record_usage, title="Record usage", is_idempotent=False)
