"""The tool ``estimate_cost``: what a call would cost, and whether the budget bears it."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from mcp.types import CallToolResult
from pydantic import BaseModel, Field

from budget_tools.amounts import require_one_way
from budget_tools.answers import answer
from budget_tools.cycles import remaining
from budget_tools.errors import InvalidArgumentError
from budget_tools.money import USD_MICROCENTS, Amount, Money
from budget_tools.pricing import PriceBook
from budget_tools.registration import make_tool
from budget_tools.tokens import likely_input_tokens, most_input_tokens, with_margin
from budget_tools.toolkit import ToolContext, Toolkit, toolkit_of

MAX_MODELS = 32
MAX_TURNS = 1_000
MAX_OUTPUT_TOKENS = 1_000_000
EXPECTED_OUTPUT_SHARE = 4
"""Where the caller does not say, an answer is taken to use a quarter of its limit: an assumption, not a measurement."""

TokenSource = Literal["given", "counted", "estimated"]


class ModelEstimate(BaseModel):
    """What one model would cost."""

    model: str
    input_tokens: int = Field(description="Of the first turn, as expected.")
    input_tokens_source: TokenSource
    expected: Money
    worst_case: Money = Field(description="What must be reserved; the cost never exceeds it.")
    affordable: bool | None = Field(None, description="Whether worst_case fits what remains; absent without a budget.")
    affordable_turns: int | None = Field(None, description="How many first turns would fit, at their worst case.")
    price_source: str


class EstimateCostResult(BaseModel):
    """Estimates side by side, in the order asked."""

    estimates: list[ModelEstimate]
    remaining: Money | None = Field(None, description="What can still be reserved; absent without a budget.")
    hint: str = ""


class _Prompt(BaseModel):
    """A prompt's length: as expected, and at most."""

    likely_tokens: int
    most_tokens: int
    source: TokenSource


async def estimate_cost(
    ctx: ToolContext,
    model: Annotated[str, Field(description="Exact Claude model id; the server's default if left out.")] = "",
    models: Annotated[
        list[str], Field(description="Instead of model: several to compare.", max_length=MAX_MODELS)
    ] = [],  # noqa: B006 - never changed
    prompt: Annotated[str, Field(description="The prompt, if it is one text.")] = "",
    messages: Annotated[list[dict[str, Any]] | None, Field(description="Or: Messages API messages.")] = None,
    input_tokens: Annotated[Amount, Field(description="Or: the prompt's tokens, if known.")] = None,
    system: Annotated[str, Field(description="System prompt that goes with it.")] = "",
    tools: Annotated[list[dict[str, Any]] | None, Field(description="Tool definitions that go with it.")] = None,
    max_output_tokens: Annotated[
        int, Field(strict=True, ge=1, le=MAX_OUTPUT_TOKENS, description="The call's max_tokens.")
    ] = 4_096,
    expected_output_tokens: Annotated[
        Amount, Field(description="For 'expected'; a quarter of the limit if left out.")
    ] = None,
    turns: Annotated[
        int, Field(strict=True, ge=1, le=MAX_TURNS, description="Turns of a loop that keeps its context.")
    ] = 1,
) -> Annotated[CallToolResult, EstimateCostResult]:
    """Price a call to Claude before making it: expected cost, worst case, and whether the budget bears it.

    Give the prompt in one way: prompt, messages or input_tokens. Nothing is sent to a model and nothing is reserved.
    """
    kit = toolkit_of(ctx)
    chosen = _models(model, models, kit.default_model)
    request = _request(prompt=prompt, messages=messages, input_tokens=input_tokens, system=system, tools=tools)
    if expected_output_tokens is None:
        expected_output_tokens = max(1, max_output_tokens // EXPECTED_OUTPUT_SHARE)
    elif expected_output_tokens > max_output_tokens:
        raise InvalidArgumentError("expected_output_tokens must not exceed max_output_tokens.")
    prices = kit.prices
    for name in chosen:
        prices.price(name)  # an unknown model is refused before anything is counted
    left = await remaining(kit.cycles, kit.subject, USD_MICROCENTS)
    estimates: list[ModelEstimate] = []
    for name in chosen:
        measured = await _measure(kit, name, request, input_tokens)
        estimates.append(
            _estimate(
                prices,
                name,
                measured,
                max_output_tokens=max_output_tokens,
                expected_output_tokens=expected_output_tokens,
                turns=turns,
                left=left,
            )
        )
    result = EstimateCostResult(estimates=estimates, remaining=left, hint=_hint(estimates, left))
    return answer(result, _text(result, turns))


def _models(model: str, models: Sequence[str], default: str) -> list[str]:
    if model and models:
        raise InvalidArgumentError("Give model or models, not both.")
    return list(dict.fromkeys(models)) or [model or default]


def _request(
    *,
    prompt: str,
    messages: list[dict[str, Any]] | None,
    input_tokens: int | None,
    system: str,
    tools: list[dict[str, Any]] | None,
) -> dict[str, Any] | None:
    """Build the request to be measured, or ``None`` where the caller says its length."""
    require_one_way(
        "the prompt",
        {"prompt": bool(prompt), "messages": messages is not None, "input_tokens": input_tokens is not None},
    )
    if input_tokens is not None:
        if system or tools:
            raise InvalidArgumentError("input_tokens is the whole prompt: leave out system and tools.")
        return None
    if messages is not None and not messages:
        raise InvalidArgumentError("messages must not be empty.")
    for number, message in enumerate(messages or ()):
        if message.get("role") not in ("user", "assistant") or not message.get("content"):
            raise InvalidArgumentError(f"messages.{number} needs a role, user or assistant, and content.")
    request: dict[str, Any] = {"messages": messages or [{"role": "user", "content": prompt}]}
    if system:
        request["system"] = system
    if tools:
        request["tools"] = tools
    return request


async def _measure(kit: Toolkit, model: str, request: dict[str, Any] | None, input_tokens: int | None) -> _Prompt:
    if request is None:
        assert input_tokens is not None
        return _Prompt(likely_tokens=input_tokens, most_tokens=input_tokens, source="given")
    most = most_input_tokens(request)
    counted = await kit.claude.count_input_tokens({**request, "model": model}) if kit.has_claude else None
    if counted is not None:
        return _Prompt(likely_tokens=counted, most_tokens=with_margin(counted), source="counted")
    return _Prompt(likely_tokens=likely_input_tokens(request), most_tokens=most, source="estimated")


def _estimate(
    prices: PriceBook,
    model: str,
    prompt: _Prompt,
    *,
    max_output_tokens: int,
    expected_output_tokens: int,
    turns: int,
    left: Money | None,
) -> ModelEstimate:
    # Each turn sends the whole conversation again, and every earlier answer with it.
    expected = sum(
        prices.expected(
            model,
            input_tokens=prompt.likely_tokens + turn * expected_output_tokens,
            output_tokens=expected_output_tokens,
        )
        for turn in range(turns)
    )
    bounds = [
        prices.worst_case(
            model, input_tokens=prompt.most_tokens + turn * max_output_tokens, max_output_tokens=max_output_tokens
        )
        for turn in range(turns)
    ]
    return ModelEstimate(
        model=model,
        input_tokens=prompt.likely_tokens,
        input_tokens_source=prompt.source,
        expected=Money.microcents(expected),
        worst_case=Money.microcents(sum(bounds)),
        affordable=None if left is None else sum(bounds) <= left.amount,
        affordable_turns=None if left is None else max(left.amount, 0) // bounds[0] if bounds[0] else None,
        price_source=prices.price(model).source,
    )


def _hint(estimates: Sequence[ModelEstimate], left: Money | None) -> str:
    if left is None:
        return "No budget is set for this server's subject: a person sets one, for its own ledger with BUDGET_USD."
    if any(estimate.affordable is False for estimate in estimates):
        cheaper = [estimate for estimate in estimates if estimate.affordable]
        if cheaper:
            return f"{min(cheaper, key=lambda each: each.worst_case.amount).model} fits what remains."
        return "The worst case does not fit what remains: fewer output tokens, fewer turns or a cheaper model would."
    return ""


def _text(result: EstimateCostResult, turns: int) -> str:
    lines = [
        f"{each.model}: expected {each.expected}, worst case {each.worst_case}"
        f" ({each.input_tokens} input tokens, {each.input_tokens_source}{f', {turns} turns' if turns > 1 else ''})"
        + ("" if each.affordable is None else ", fits" if each.affordable else ", does not fit")
        for each in result.estimates
    ]
    if result.remaining is not None:
        lines.append(f"{result.remaining} remains.")
    if result.hint:
        lines.append(result.hint)
    return "\n".join(lines)


TOOL = make_tool(estimate_cost, title="Estimate cost", is_read_only=True, is_idempotent=True, always_load=True)
