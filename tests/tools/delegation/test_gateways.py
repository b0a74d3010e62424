"""Money through gateways: ten delegations on a budget for eight, at every endpoint that the scripted Claude can play.

What a budget for eight is. One delegation here is one turn, of which two amounts are known, both from a delegation that
was run on a large budget before:

    R   the bound that is reserved before its request leaves
    C   what it is charged: the true cost where the endpoint's usage says it, and R where it does not

A turn begins only if R remains, so eight need ``7 C + max(R, C)``: after seven, that is just enough for one more, and
after eight, less than R is left (``R - C`` or nothing). One microcent less, and the eighth would be denied too. C is
more than R only at endpoints that break the API's promises, by long answers or by a dearer model.

The truth is the endpoint's own account of what it billed (`ScriptedClaude.bills`), at list prices that stand here.
"""

from collections.abc import Iterable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any, Literal

import pytest

from budget_server.demo.scripted_claude import PROFILES, Bill, ScriptedClaude, ToolCall, Turn, Usage
from tools.delegation.harness import MODEL, Bench, open_bench, tool_results

pytestmark = pytest.mark.anyio

LIST_PRICES = {
    "claude-haiku-4-5": (100, 500),
    "claude-sonnet-5-5": (200, 1_000),
    "claude-opus-5-5": (400, 2_000),
}
"""Microcents for one token of the prompt and one of the answer."""

TASK = "word " * 5_000
"""About 8,300 tokens, so that a count of 48 or of none makes a difference."""
ANSWER = "An answer of a few words."
MAX_OUTPUT_TOKENS = 200
"""So short that no turn is made shorter to fit a budget: it fits whole, or it is denied."""
TRIES = 25
"""Most delegations until ten were answered or denied; half of them fail at some endpoints, and cost nothing."""

Charge = Literal["exact", "bound"]


@dataclass(frozen=True, kw_only=True)
class Case:
    """What is to be expected of an endpoint.

    Attributes:
        charge: whether the true cost is charged, or the bound.
        status: how a delegation ends that was answered.
        text: what the answer says.
        arguments: what is asked beside the task.
        variables: the environment that the endpoint asks for.
        output_tokens: length of the answers; none is measured by its text.
    """

    charge: Charge
    status: str = "completed"
    text: str = ANSWER
    arguments: Mapping[str, Any] = field(default_factory=dict)
    variables: Mapping[str, str] = field(default_factory=dict)
    output_tokens: int = 50


CASES: Mapping[str, Case] = {
    # Usage that is missing, or that cannot be: the bound, never 0.
    "probos-like": Case(charge="bound"),
    "ollama-like": Case(charge="bound"),
    "grok2api-like": Case(charge="bound"),
    "swift-anthropic-like": Case(charge="bound"),
    "pi-like": Case(charge="bound"),
    "no-usage": Case(charge="bound"),
    # Its end came, and so the answer is whole; its final usage did not.
    "new-api-like": Case(charge="bound"),
    # A cost above the price of the tokens: something was billed that they do not tell of.
    "openrouter-cost-like": Case(charge="bound"),
    # Usage that is true and looks odd.
    "vercel-ai-gateway-like": Case(charge="exact"),
    "envoy-ai-gateway-like": Case(charge="exact"),
    "litellm-like": Case(charge="exact"),
    "litellm-null-text-like": Case(charge="exact"),
    "two-deltas": Case(charge="exact"),
    "vllm-like": Case(charge="exact"),
    "openrouter-like": Case(charge="exact"),
    # Streams of another form.
    "copilot-like": Case(charge="exact"),
    "agentic-api-like": Case(charge="exact"),
    "sse-starlette-like": Case(charge="exact"),
    "opencode-zen-like": Case(charge="exact", text="Größe: 北京, 🚲."),
    "claude-relay-like": Case(charge="exact"),
    "whole-blocks": Case(charge="exact"),
    "lore-like": Case(charge="exact"),
    # Errors for which nothing is billed.
    "codegraff-like": Case(charge="exact"),
    "html-under-200": Case(charge="exact"),
    "overloaded-stream": Case(charge="exact"),
    # The fallback is asked; its price is half of that of the model which is overloaded.
    "overloaded-model": Case(charge="exact", arguments={"fallback_models": ["claude-haiku-4-5"]}),
    "x-api-key-only": Case(charge="exact", variables={"ANTHROPIC_CUSTOM_HEADERS": "x-api-key: test"}),
    # Counts that are not believed: the usage is.
    "lm-studio-like": Case(charge="exact"),
    "zero-count": Case(charge="exact"),
    "shunt-like": Case(charge="exact"),
    # More than was promised: the true cost, also beyond the bound.
    "bifrost-like": Case(charge="exact"),
    "endless-answers": Case(charge="exact", output_tokens=9_000),
    # Tools are another test's.
    "librechat-like": Case(charge="exact"),
    "hindsight-like": Case(charge="exact"),
}


def test_every_profile_has_its_case() -> None:
    """A gateway that is added is driven for ten delegations too."""
    assert CASES.keys() == PROFILES.keys()


def billed(bills: Iterable[Bill]) -> int:
    """Add up what an endpoint billed, in microcents."""
    total = 0
    for bill in bills:
        input_price, output_price = LIST_PRICES[bill.model]
        assert not bill.usage["cache_read_input_tokens"]
        assert not bill.usage["cache_creation_input_tokens"]
        total += bill.usage["input_tokens"] * input_price + bill.usage["output_tokens"] * output_price
    return total


def usd(microcents: int) -> str:
    """Write an amount as people do."""
    return f"{Decimal(microcents).scaleb(-8):f}"


def bench_of(directory: Path, name: str, case: Case, *, budget_usd: str) -> AbstractAsyncContextManager[Bench]:
    """Open a bench whose endpoint plays a profile, and always answers the same."""
    directory.mkdir()
    turn = Turn(text=case.text, usage=Usage(output_tokens=case.output_tokens))
    return open_bench(
        directory,
        lambda _body, _number: turn,
        usd=budget_usd,
        servers={},
        endpoint=partial(ScriptedClaude, profile=name),
    )


async def delegate(bench: Bench, case: Case) -> dict[str, Any]:
    """Delegate the task, again if the endpoint failed it and billed nothing: that must cost nothing."""
    for _ in range(TRIES):
        before = len(bench.claude.bills)
        result = await bench.delegate(task=TASK, max_output_tokens=MAX_OUTPUT_TOKENS, **case.arguments)
        if len(bench.claude.bills) > before or result["status"] != "failed":
            return result
        assert result["spent"]["amount"] == 0, "nothing was billed, and the endpoint said so"
        assert result["hint"]
    raise AssertionError("the endpoint never answered")


@pytest.fixture
def quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait for next to nothing before a request is tried again."""
    monkeypatch.setattr("budget_tools.delegation.turn.FIRST_BACKOFF_SECONDS", 0.01)


@pytest.mark.usefixtures("quick_retries")
@pytest.mark.parametrize("name", CASES)
async def test_of_ten_delegations_on_a_budget_for_eight_two_are_denied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Neither is more charged than the budget holds, nor less than was billed."""
    case = CASES[name]
    for variable, value in case.variables.items():
        monkeypatch.setenv(variable, value)

    async with bench_of(tmp_path / "one", name, case, budget_usd="5") as bench:
        result = await delegate(bench, case)
        charged_once = result["spent"]["amount"]
        reserved_once = next(turn["reserved"]["amount"] for turn in result["turns"] if turn.get("charged"))
        billed_once = billed(bench.claude.bills)

    assert result["status"] == case.status
    assert result["text"] == case.text or case.status == "failed"
    assert charged_once == (billed_once if case.charge == "exact" else reserved_once)
    if not (PROFILES[name].serves or PROFILES[name].ignores_max_tokens):
        assert reserved_once >= billed_once, "a bound that is not one"

    budget = 7 * charged_once + max(reserved_once, charged_once)
    async with bench_of(tmp_path / "ten", name, case, budget_usd=usd(budget)) as bench:
        results = [await delegate(bench, case) for _ in range(10)]
        balance = await bench.balance()
        bills = list(bench.claude.bills)

    assert [each["status"] for each in results] == [case.status] * 8 + ["budget_exhausted"] * 2
    assert [each["spent"]["amount"] for each in results] == [charged_once] * 8 + [0] * 2
    assert len(bills) == 8, "a denied delegation sends nothing"
    assert balance["spent"] == 8 * charged_once <= budget
    assert balance["spent"] >= billed(bills)
    assert (balance["spent"] == billed(bills)) == (case.charge == "exact")


# -- tools ------------------------------------------------------------------------------------------------------------

COUNT = ToolCall("shed__count", {"note": "Größe"})


def counts_then_answers(calls: tuple[ToolCall, ...], body: Mapping[str, Any], _number: int) -> Turn:
    """Play a sub-agent that calls tools in its first turn and answers in its second."""
    if len(body["messages"]) == 1:
        return Turn(text="I count.", tool_calls=calls, usage=Usage(output_tokens=40))
    return Turn(text=ANSWER, usage=Usage(output_tokens=20))


@pytest.mark.parametrize(
    ("name", "calls", "are_errors"),
    [
        ("litellm-like", (COUNT,), [False]),
        ("bifrost-like", (COUNT,), [False]),
        ("hindsight-like", (COUNT, COUNT), [False, False]),
        ("librechat-like", (COUNT,), [True]),
    ],
)
async def test_tools_are_called_through_a_gateway_at_the_true_cost_of_both_turns(
    tmp_path: Path, name: str, calls: tuple[ToolCall, ...], are_errors: list[bool]
) -> None:
    """A call is one whatever the stop reason says; each has a result of its own; broken JSON goes back as an error."""
    async with open_bench(
        tmp_path,
        partial(counts_then_answers, calls),
        usd="5",
        endpoint=partial(ScriptedClaude, profile=name),
    ) as bench:
        result = await bench.delegate(tools=["shed__count"])

        assert (result["status"], bench.sent) == ("completed", 2)
        results = tool_results(bench.claude.message_requests[1])
        assert result["text"] == ANSWER
        assert [bool(each.get("is_error")) for each in results] == are_errors
        assert len({each["tool_use_id"] for each in results}) == len(calls)
        assert len(bench.claude.bills) == 2
        assert result["spent"]["amount"] == billed(bench.claude.bills) == (await bench.balance())["spent"]
        assert {turn["model"] for turn in result["turns"]} == {MODEL}
