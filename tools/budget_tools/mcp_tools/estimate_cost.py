"""The tool ``estimate_cost``: what a call would cost, and whether the budget covers it."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import accumulate, takewhile
from typing import Annotated, Any, Literal

from mcp.types import CallToolResult
from pydantic import BaseModel, Field, WithJsonSchema

from budget_tools.core.errors import ConfigurationError, InvalidArgumentError
from budget_tools.core.money import USD_MICROCENTS, Amount, Money
from budget_tools.delegation.token_count import count_tokens
from budget_tools.mcp_tools.amounts import require_one_way
from budget_tools.mcp_tools.answers import answer
from budget_tools.mcp_tools.registration import make_tool
from budget_tools.mcp_tools.stated_options import SameOptions
from budget_tools.mcp_tools.toolkit import ToolContext, Toolkit, toolkit_of
from budget_tools.pricing.book import PriceBook
from budget_tools.pricing.request_options import (
    RequestOptions,
    hidden_definition_tokens,
    is_server_tool,
    read_options,
    tools_of,
    why_unbounded,
)
from budget_tools.pricing.tokens import likely_input_tokens, most_input_tokens, with_margin
from budget_tools.spends.responses import remaining

MAX_MODELS = 32
MAX_TURNS = 1_000
MAX_OUTPUT_TOKENS = 1_000_000
EXPECTED_OUTPUT_SHARE = 4
"""Divisor of the output limit that an answer is assumed to use if the caller does not say: assumed, not measured."""

TokenSource = Literal["given", "counted", "estimated"]

System = Annotated[
    str | list[dict[str, Any]], WithJsonSchema({"type": ["string", "array"], "items": {"type": "object"}})
]

_UNSEEN_DEFINITIONS = "the API's own definition of a client tool among them is not seen here and was not counted"


class ModelEstimate(BaseModel):
    """The estimate for one model."""

    model: str
    input_tokens: int = Field(description="Of the first turn, as expected.")
    input_tokens_source: TokenSource
    expected: Money
    worst_case: Money | None = Field(
        None, description="What must be reserved; the cost never exceeds it. Absent without a bound: hint says why."
    )
    affordable: bool | None = Field(None, description="Whether worst_case fits what remains; absent without a budget.")
    affordable_turns: int | None = Field(None, description="How many such turns fit, each at its worst case.")
    price_source: str
    warning: str = Field("", description="When the model is, or was, retired.")


class EstimateCostResult(BaseModel):
    """Estimates side by side, in the order asked."""

    estimates: list[ModelEstimate]
    covers: str = Field("", description="What worst_case promises; a request that is priced otherwise may cost more.")
    remaining: Money | None = Field(None, description="What can still be reserved; absent without a budget.")
    hint: str = ""


class _Prompt(BaseModel):
    """A prompt's length: as expected, and at most."""

    likely_tokens: int
    most_tokens: int
    source: TokenSource
    unbounded: str = ""
    """Why its maximum is not known, as a clause."""


class _Call(BaseModel):
    """The parts of a question besides the prompt."""

    max_output_tokens: int
    expected_output_tokens: int
    turns: int
    options: RequestOptions
    unbounded: str
    """Why it has no bound, as a clause; empty if it has one."""


async def estimate_cost(
    ctx: ToolContext,
    model: Annotated[str, Field(description="Exact id, else the server's.")] = "",
    models: Annotated[list[str], Field(max_length=MAX_MODELS)] = [],  # noqa: B006 - never changed
    prompt: str = "",
    messages: list[dict[str, Any]] | None = None,
    input_tokens: Annotated[Amount, Field(description="Of the whole prompt.")] = None,
    system: System = "",
    tools: list[dict[str, Any]] | None = None,
    max_output_tokens: Annotated[
        int, Field(strict=True, ge=1, le=MAX_OUTPUT_TOKENS, description="The call's max_tokens.")
    ] = 4_096,
    expected_output_tokens: Annotated[Amount, Field(description="Default: a quarter of that.")] = None,
    turns: Annotated[int, Field(strict=True, ge=1, le=MAX_TURNS, description="Of a loop that keeps its context.")] = 1,
    options: SameOptions = None,
) -> Annotated[CallToolResult, EstimateCostResult]:
    """Price a call to Claude: expected cost, worst case, and whether the budget bears it.

    Give the prompt as prompt, messages (as system and tools, of the Messages API) or input_tokens. Nothing is reserved.
    """
    kit = toolkit_of(ctx)
    chosen = _models(model, models, kit.default_model)
    stated = options or {}
    reason = why_unbounded(stated, {"tools": tools})
    if input_tokens is None:
        tools = [*(tools or []), *tools_of(stated)]
    elif reason:
        tools = None  # the prompt's count includes them already, and their effect on its bound is known
    request = _request(prompt=prompt, messages=messages, input_tokens=input_tokens, system=system, tools=tools)
    if request is not None and stated.get("output_config"):
        request["output_config"] = stated["output_config"]
    read = read_options(stated, request)
    if reason and request is not None:
        request = _without_server_tools(request)
    if expected_output_tokens is None:
        expected_output_tokens = max(1, max_output_tokens // EXPECTED_OUTPUT_SHARE)
    elif expected_output_tokens > max_output_tokens:
        raise InvalidArgumentError("expected_output_tokens must not exceed max_output_tokens.")
    prices = kit.prices
    for name in chosen:
        prices.price(name)  # an unknown model is refused before anything is counted
    left = await remaining(kit.cycles, kit.subject, USD_MICROCENTS)
    prompts = {name: await _measure(kit, name, request, input_tokens) for name in chosen}
    call = _Call(
        max_output_tokens=max_output_tokens,
        expected_output_tokens=expected_output_tokens,
        turns=turns,
        options=read,
        unbounded=reason or next((prompt.unbounded for prompt in prompts.values() if prompt.unbounded), ""),
    )
    estimates = [_estimate(prices, name, prompt, call, left) for name, prompt in prompts.items()]
    result = EstimateCostResult(
        estimates=estimates,
        covers="" if call.unbounded else read.covers,
        remaining=left,
        hint=_hint(prices, estimates, prompts, call, left),
    )
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
    system: str | list[dict[str, Any]],
    tools: list[dict[str, Any]] | None,
) -> dict[str, Any] | None:
    """Build the request to be measured; ``None`` if the caller states its length."""
    require_one_way(
        "the prompt",
        {"prompt": bool(prompt), "messages": messages is not None, "input_tokens": input_tokens is not None},
    )
    if input_tokens is not None:
        if system or tools:
            raise InvalidArgumentError("input_tokens is the whole prompt: leave out system and tools.")
        return None
    if messages is not None:
        _check_messages(messages)
    if not isinstance(system, str) and not all(block.get("type") for block in system):
        raise InvalidArgumentError("system must be text or a list of blocks, each with a type.")
    request: dict[str, Any] = {"messages": messages or [{"role": "user", "content": prompt}]}
    if system:
        request["system"] = system
    if tools:
        request["tools"] = tools
    return request


def _check_messages(messages: list[dict[str, Any]]) -> None:
    """Check messages by the rules of the API, before anything is counted.

    Raises:
        InvalidArgumentError: names the message.
    """
    if not messages:
        raise InvalidArgumentError("messages must not be empty.")
    for number, message in enumerate(messages):
        content = message.get("content")
        if message.get("role") not in ("user", "assistant") or not content:
            raise InvalidArgumentError(f"messages.{number} needs a role, user or assistant, and content.")
        blocks = content if isinstance(content, list) else ()
        if not isinstance(content, str | list) or not all(
            isinstance(each, dict) and each.get("type") for each in blocks
        ):
            raise InvalidArgumentError(f"messages.{number}.content must be text or a list of blocks, each with a type.")
    if messages[0]["role"] != "user":
        raise InvalidArgumentError("messages.0 must be the user's: a conversation begins with them.")


def _without_server_tools(request: dict[str, Any]) -> dict[str, Any]:
    """Return a request without the parts that ``count_tokens`` refuses; their number of tokens is not known."""
    tools = [tool for tool in request.get("tools", []) if not is_server_tool(tool)]
    rest = {name: value for name, value in request.items() if name != "tools"}
    return {**rest, "tools": tools} if tools else rest


async def _measure(kit: Toolkit, model: str, request: dict[str, Any] | None, input_tokens: int | None) -> _Prompt:
    if request is None:
        assert input_tokens is not None
        return _Prompt(likely_tokens=input_tokens, most_tokens=input_tokens, source="given")
    counted = await _counted(kit, {**request, "model": model})
    if counted is not None:
        return _Prompt(likely_tokens=counted, most_tokens=with_margin(counted), source="counted")
    hidden = hidden_definition_tokens(request.get("tools", []))
    return _Prompt(
        likely_tokens=likely_input_tokens(request),
        most_tokens=most_input_tokens(request) + (hidden or 0),
        source="estimated",
        unbounded=_UNSEEN_DEFINITIONS if hidden is None else "",
    )


async def _counted(kit: Toolkit, request: dict[str, Any]) -> int | None:
    """Return the API's count of a prompt; ``None`` if the API cannot be asked for any reason."""
    if not kit.has_claude:
        return None
    try:
        claude = kit.claude
    except ConfigurationError:
        return None  # reported at startup, and by every tool that needs the API
    return (await count_tokens(claude, request)).tokens


def _estimate(prices: PriceBook, model: str, prompt: _Prompt, call: _Call, left: Money | None) -> ModelEstimate:
    is_cached = call.options.cache != "none"
    # Each turn sends the whole conversation again, and every earlier answer with it.
    expected = sum(
        prices.expected(
            model,
            input_tokens=prompt.likely_tokens + turn * call.expected_output_tokens,
            output_tokens=call.expected_output_tokens,
            # The next turns read what an earlier turn has written to the cache.
            read_tokens=prompt.likely_tokens + (turn - 1) * call.expected_output_tokens if turn and is_cached else 0,
            options=call.options,
        )
        for turn in range(call.turns)
    )
    if call.unbounded:
        return ModelEstimate(
            model=model,
            input_tokens=prompt.likely_tokens,
            input_tokens_source=prompt.source,
            expected=Money.microcents(expected),
            price_source=prices.price(model).source,
            warning=prices.lifecycle_note(model),
        )
    worst_case = sum(_bound(prices, model, prompt, call, turn) for turn in range(call.turns))
    return ModelEstimate(
        model=model,
        input_tokens=prompt.likely_tokens,
        input_tokens_source=prompt.source,
        expected=Money.microcents(expected),
        worst_case=Money.microcents(worst_case),
        affordable=None if left is None else worst_case <= left.amount,
        affordable_turns=None if left is None else _affordable_turns(prices, model, prompt, call, left.amount),
        price_source=prices.price(model).source,
        warning=prices.lifecycle_note(model),
    )


def _bound(prices: PriceBook, model: str, prompt: _Prompt, call: _Call, turn: int) -> int:
    input_tokens = prompt.most_tokens + turn * call.max_output_tokens
    return prices.worst_case(
        model, input_tokens=input_tokens, max_output_tokens=call.max_output_tokens, options=call.options
    )


def _affordable_turns(prices: PriceBook, model: str, prompt: _Prompt, call: _Call, left: int) -> int | None:
    """Return how many single calls fit, or how many turns of a loop whose context grows, up to the longest loop."""
    first = _bound(prices, model, prompt, call, 0)
    if call.turns == 1:
        return max(left, 0) // first if first else None
    bounds = (_bound(prices, model, prompt, call, turn) for turn in range(MAX_TURNS))
    return sum(1 for total in takewhile(lambda total: total <= left, accumulate(bounds)))


def _hint(
    prices: PriceBook,
    estimates: Sequence[ModelEstimate],
    prompts: Mapping[str, _Prompt],
    call: _Call,
    left: Money | None,
) -> str:
    if call.unbounded:
        return (
            f"There is no worst case, because {call.unbounded}: hold an amount of your own with reserve_budget (usd); "
            "expected leaves that out."
        )
    if left is None:
        return "No budget is set for this server's subject: a person sets one, for its own ledger with BUDGET_USD."
    if all(estimate.affordable for estimate in estimates):
        return ""
    fitting = [estimate for estimate in estimates if estimate.affordable]
    if fitting:
        return f"{min(fitting, key=_worst_case).model} fits what remains."
    nearest = min(estimates, key=_worst_case)
    ways = list(_ways_to_fit(prices, nearest, prompts[nearest.model], call, max(left.amount, 0)))
    if not ways:
        return "The worst case does not fit what remains, and no listed model's would: a person can raise the budget."
    return f"The worst case does not fit what remains: {', or '.join(ways)} would."


def _worst_case(estimate: ModelEstimate) -> int:
    assert estimate.worst_case is not None, "the call has a bound"
    return estimate.worst_case.amount


def _ways_to_fit(prices: PriceBook, nearest: ModelEstimate, prompt: _Prompt, call: _Call, left: int) -> Iterator[str]:
    """Yield what would fit: a shorter answer or loop of the same model, and the dearest model that is cheap enough."""
    if call.turns > 1:
        if nearest.affordable_turns:
            yield f"{nearest.affordable_turns} turns"
    else:
        output_tokens = prices.most_output_tokens(
            nearest.model, input_tokens=prompt.most_tokens, amount_microcents=left, options=call.options
        )
        if output_tokens:
            yield f"max_output_tokens of {output_tokens}"
    cheaper: dict[str, int] = {}
    for model in prices.in_service():
        with suppress(InvalidArgumentError):  # beyond all amounts: not a model to recommend
            worst_case = sum(_bound(prices, model, prompt, call, turn) for turn in range(call.turns))
            if worst_case <= left:
                cheaper[model] = worst_case
    if cheaper:
        model = max(cheaper, key=lambda each: cheaper[each])
        yield f"{model} at {Money.microcents(cheaper[model])}"


def _text(result: EstimateCostResult, turns: int) -> str:
    lines = [
        f"{each.model}: expected {each.expected}, "
        + ("no worst case" if each.worst_case is None else f"worst case {each.worst_case}")
        + f" ({each.input_tokens} input tokens, {each.input_tokens_source}{f', {turns} turns' if turns > 1 else ''})"
        + ("" if each.affordable is None else ", fits" if each.affordable else ", does not fit")
        + (f". {each.warning}" if each.warning else "")
        for each in result.estimates
    ]
    if result.covers:
        lines.append(f"The worst case covers {result.covers}.")
    if result.remaining is not None:
        lines.append(f"{result.remaining} remains.")
    if result.hint:
        lines.append(result.hint)
    return "\n".join(lines)


TOOL = make_tool(estimate_cost, title="Estimate cost", is_read_only=True, always_load=True)
