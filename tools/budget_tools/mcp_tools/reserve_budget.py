"""The tool ``reserve_budget``: hold budget before spending it."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Annotated, Any, Literal

import anyio
from anyio.lowlevel import checkpoint_if_cancelled
from mcp.server.elicitation import ElicitationResult
from mcp.server.mcpserver import Elicit, Resolve
from mcp.types import CallToolResult
from pydantic import BaseModel, Field

from budget_tools.core.errors import InvalidArgumentError
from budget_tools.core.ids import IdempotencyKey, time_ordered_id
from budget_tools.core.money import USD_MICROCENTS, Amount, Money, UsdMicrocents
from budget_tools.core.subjects import Subject, WhoseBudget
from budget_tools.core.text_safety import beginning
from budget_tools.mcp_tools.amounts import PricedAmount, stated_amount
from budget_tools.mcp_tools.answers import answer, moment
from budget_tools.mcp_tools.balances import in_words, usage_warnings
from budget_tools.mcp_tools.consent_raise import NewBudget, ask_for_more, raise_as_agreed, raising_with_a_person
from budget_tools.mcp_tools.registration import make_tool
from budget_tools.mcp_tools.stated_options import StatedOptions
from budget_tools.mcp_tools.toolkit import ToolContext, Toolkit, Want, toolkit_of
from budget_tools.pricing.request_options import read_options, why_unbounded
from budget_tools.spends.ownership import refuse_the_tag_of_a_delegation
from budget_tools.spends.responses import balances_in, body_of, denial_of, remaining, tightest

MAX_TTL_SECONDS = 86_400
"""Longest lease of the protocol (Cycles v0, ReservationCreateRequest.ttl_ms); an authority may grant less."""

OveragePolicy = Literal["REJECT", "ALLOW_IF_AVAILABLE", "ALLOW_WITH_OVERDRAFT"]


_GONE = 410


class ReserveBudgetResult(BaseModel):
    """The result of a request to hold budget; a denial holds nothing."""

    decision: Literal["ALLOW", "ALLOW_WITH_CAPS", "DENY"]
    reservation_id: str = Field("", description="Give it to commit_usage; empty for a denial or a dry run.")
    reserved: Money | None = None
    covers: str = Field("", description="What a worst case by model promises; a dearer request may cost more.")
    expires_at: str = Field("", description="ISO 8601; unless committed by then, all of it goes back.")
    remaining: Money | None = Field(None, description="What this subject can still reserve.")
    caps: dict[str, Any] | None = Field(None, description="Limits to keep to with ALLOW_WITH_CAPS.")
    reason_code: str = Field("", description="Why it was denied.")
    blocked_by_scope: str = Field("", description="Whose budget denied it.")
    retry_after_ms: int | None = None
    affected_scopes: list[str] = []
    idempotency_key: str
    warnings: list[str] = Field([], description="Budgets used to 50, 80 or 95 %.")
    hint: str = Field("", description="What to do next.")


@dataclass(frozen=True, kw_only=True, slots=True)
class _Priced(PricedAmount):
    """The amount to hold, and what it promises to cover if a model's worst case gave it."""

    covers: str = ""


async def _ask_for_more(
    ctx: ToolContext,
    usd: int | None,
    amount: int | None,
    unit: str,
    model: str,
    input_tokens: int | None,
    max_output_tokens: int | None,
    options: StatedOptions,
    action_kind: str,
    action_name: str,
    subject: WhoseBudget,
    ttl_seconds: int,
    dry_run: bool,
    idempotency_key: str,
) -> NewBudget | Elicit[NewBudget]:
    """Return the question for a higher budget if this one does not cover the call."""
    kit, raising = toolkit_of(ctx), raising_with_a_person(ctx)
    if raising is None or dry_run:
        return NewBudget()
    priced = _amount(
        kit,
        usd=usd,
        amount=amount,
        unit=unit,
        model=model,
        input_tokens=input_tokens,
        max_output_tokens=max_output_tokens,
        options=options,
        ttl_seconds=ttl_seconds,
    )
    if priced.unit != USD_MICROCENTS:
        return NewBudget()
    action = _action(action_kind, action_name, model)
    want = Want(who=f"A reservation for {beginning(action['name'])}", action=action, microcents=priced.amount)
    return await ask_for_more(raising, kit.subject.narrowed(subject), want, idempotency_key)


def _action(kind: str, name: str, model: str) -> dict[str, str]:
    return {"kind": kind, "name": name or model or kind}


async def reserve_budget(
    ctx: ToolContext,
    more: Annotated[ElicitationResult[NewBudget], Resolve(_ask_for_more)],
    usd: Annotated[UsdMicrocents, Field(description="Dollars, such as 0.05.")] = None,
    amount: Amount = None,
    unit: Annotated[str, Field(description="USD_MICROCENTS (10^-8 USD), TOKENS, CREDITS or RISK_POINTS.")] = "",
    model: Annotated[str, Field(description="Holds a call's worst case.")] = "",
    input_tokens: Amount = None,
    max_output_tokens: Amount = None,
    options: StatedOptions = None,
    action_kind: Annotated[str, Field(min_length=1, max_length=64)] = "llm.completion",
    action_name: Annotated[str, Field(max_length=256)] = "",
    tags: Annotated[list[Annotated[str, Field(max_length=64)]], Field(max_length=10)] = [],  # noqa: B006 - never changed
    subject: WhoseBudget = None,
    ttl_seconds: Annotated[int, Field(strict=True, ge=1, le=MAX_TTL_SECONDS)] = 60,
    overage_policy: OveragePolicy = "ALLOW_IF_AVAILABLE",
    dry_run: Annotated[bool, Field(strict=True)] = False,
    idempotency_key: IdempotencyKey = "",
) -> Annotated[CallToolResult, ReserveBudgetResult]:
    """Hold budget before spending it, then settle with commit_usage.

    Say the amount once: usd, amount with unit, or model with input_tokens and max_output_tokens. DENY holds nothing: do
    not spend. What is not committed by expires_at goes back.
    """
    kit = toolkit_of(ctx)
    refuse_the_tag_of_a_delegation(tags)
    priced = _amount(
        kit,
        usd=usd,
        amount=amount,
        unit=unit,
        model=model,
        input_tokens=input_tokens,
        max_output_tokens=max_output_tokens,
        options=options,
        ttl_seconds=ttl_seconds,
    )
    spender = kit.subject.narrowed(subject)
    key = idempotency_key or time_ordered_id()
    body = {
        "idempotency_key": key,
        "subject": spender.wire(),
        "action": {**_action(action_kind, action_name, model), "tags": tags},
        "estimate": priced.wire(),
        "ttl_ms": ttl_seconds * 1_000,
        "overage_policy": overage_policy,
        "dry_run": dry_run,
    }
    raised = await raise_as_agreed(kit, more)
    result = await _reserve(kit, spender, priced, body, can_be_repeated=bool(idempotency_key))
    note = kit.prices.lifecycle_note(model) if model else ""
    result.hint = " ".join(filter(None, (raised, result.hint, note)))
    return answer(result, _text(result, dry_run=dry_run))


def _amount(
    kit: Toolkit,
    *,
    usd: int | None,
    amount: int | None,
    unit: str,
    model: str,
    input_tokens: int | None,
    max_output_tokens: int | None,
    options: Mapping[str, Any] | None,
    ttl_seconds: int,
) -> _Priced:
    by_model = bool(model) or input_tokens is not None or max_output_tokens is not None
    words = "model with input_tokens and max_output_tokens"
    stated = stated_amount(usd=usd, amount=amount, unit=unit, by_model=by_model, model_words=words)
    if stated is not None:
        if options:
            raise InvalidArgumentError("options go with model: leave them out, or reserve by price.")
        return _Priced(unit=stated.unit, amount=stated.amount)
    if not model or input_tokens is None or max_output_tokens is None:
        raise InvalidArgumentError(f"To reserve by price, give all of {words}.")
    read = read_options(options or {})
    reason = why_unbounded(options or {})
    if reason:
        raise InvalidArgumentError(f"This call has no worst case, because {reason}: say with usd how much to hold.")
    bound = kit.prices.worst_case(
        model,
        input_tokens=input_tokens,
        max_output_tokens=max_output_tokens,
        starts_within=timedelta(seconds=ttl_seconds),
        options=read,
    )
    return _Priced(unit=USD_MICROCENTS, amount=bound, covers=read.covers)


async def _reserve(
    kit: Toolkit, spender: Subject, priced: _Priced, body: dict[str, Any], *, can_be_repeated: bool
) -> ReserveBudgetResult:
    key = str(body["idempotency_key"])
    response = await kit.cycles.create_reservation(body)
    try:
        await checkpoint_if_cancelled()
    except anyio.get_cancelled_exc_class():
        # The host will never learn the reservation's id. If it gave a key, it can ask again, and an earlier call
        # under that key may already have been given the same reservation.
        if not can_be_repeated and response.body and response.body.get("reservation_id"):
            with anyio.CancelScope(shield=True):
                release = {"idempotency_key": f"release-{key}", "reason": "the host cancelled the call"}
                await kit.cycles.release_reservation(response.body["reservation_id"], release)
        raise
    denied = denial_of(response)
    if denied is not None:
        return ReserveBudgetResult(
            decision="DENY",
            remaining=await remaining(kit.cycles, spender, priced.unit),
            reason_code=denied.reason_code,
            blocked_by_scope=denied.blocked_by_scope,
            retry_after_ms=denied.retry_after_ms,
            idempotency_key=key,
            hint=denied.hint,
        )
    held = body_of(response, "reserve", key=key)
    if can_be_repeated and held.get("reservation_id"):
        ended = await _end_of(kit, str(held["reservation_id"]))
        if ended is not None:
            return ReserveBudgetResult(
                decision="DENY",
                remaining=await remaining(kit.cycles, spender, priced.unit),
                reason_code="RESERVATION_EXPIRED" if ended.is_expired else "RESERVATION_FINALIZED",
                idempotency_key=key,
                hint=ended.sentence,
            )
    if held.get("reservation_id"):
        kit.settler.reservations.remember(held["reservation_id"], subject=body["subject"], action=body["action"])
    expires_at_ms = held.get("expires_at_ms")
    return ReserveBudgetResult(
        decision=held["decision"],
        reservation_id=held.get("reservation_id", ""),
        reserved=Money.of(priced.amount, priced.unit),
        covers=priced.covers,
        expires_at=moment(expires_at_ms) if expires_at_ms is not None else "",
        remaining=tightest(held.get("balances") or [], priced.unit),
        caps=held.get("caps"),
        affected_scopes=held.get("affected_scopes", []),
        idempotency_key=key,
        warnings=usage_warnings(balances_in(response)),
        hint="" if expires_at_ms is None else "Settle with commit_usage when the cost is known.",
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class _End:
    """The end of a reservation that a repeated key finds again."""

    is_expired: bool
    sentence: str


async def _end_of(kit: Toolkit, reservation_id: str) -> _End | None:
    """Return how a reservation ended, if it holds nothing any more: a repeated key gets its first call's answer."""
    response = await kit.cycles.get_reservation(reservation_id)
    body = response.body if response.is_success and isinstance(response.body, dict) else {}
    status = "EXPIRED" if response.status == _GONE else str(body.get("status", ""))
    committed = body.get("committed")
    amount = f" at {Money.of(committed['amount'], committed['unit'])}" if isinstance(committed, dict) else ""
    became = {
        "COMMITTED": f"was settled already{amount}",
        "RELEASED": "was released already",
        "EXPIRED": "has expired, and its money went back",
    }.get(status)
    if became is None:
        return None
    sentence = f"The reservation of this key, {reservation_id}, {became}: for another call, reserve with a new key."
    return _End(is_expired=status == "EXPIRED", sentence=sentence)


def _text(result: ReserveBudgetResult, *, dry_run: bool) -> str:
    left = f" {result.remaining} remains." if result.remaining is not None else ""
    if result.decision == "DENY":
        where = f" by {result.blocked_by_scope}" if result.blocked_by_scope else ""
        return f"DENY ({result.reason_code}{where}): nothing is held.{left} {result.hint}"
    caps = f" Keep to these caps: {result.caps}." if result.caps else ""
    if result.covers:
        caps = f" It covers {result.covers}.{caps}"
    if dry_run:
        return f"{result.decision}: {result.reserved} would be held; nothing is, this was a dry run.{left}{caps}"
    return (
        f"{result.decision}: {result.reserved} held as reservation {result.reservation_id} until {result.expires_at}."
        f"{left}{caps} {result.hint} (idempotency_key {result.idempotency_key}){in_words(result.warnings)}"
    )


TOOL = make_tool(reserve_budget, title="Reserve budget", is_idempotent=False, always_load=True)
