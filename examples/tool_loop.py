"""A conversation with tools under a budget: every turn has a reservation of its own.

A turn costs more than the one before, since it sends again all that was said. So each is bounded and reserved anew, and
the loop ends in good order at the first one that the budget does not cover. Needs ``cycles-budget-mcp`` for its price
book (``runcycles`` and ``anthropic`` come with it), and any Cycles server::

    python examples/tool_loop.py "What do three chains and two inner tubes cost together?"

Exit code: 0 answered, 1 stopped before (it says why, and what was said so far), 2 a setting is missing.
"""

import operator
import os
import sys
from contextlib import suppress
from typing import Any

import anthropic
import httpx2
from anthropic.types import Message, ToolUseBlock
from runcycles import Action, Amount, CyclesClient, CyclesConfig, CyclesProtocolError, StreamUsage, Unit

from budget_tools.core.errors import UsageError
from budget_tools.core.money import format_usd
from budget_tools.pricing.book import PriceBook
from budget_tools.pricing.tokens import most_input_tokens
from budget_tools.pricing.usage import read_usage

MODEL, MAX_TOKENS, MAX_TURNS = "claude-sonnet-5-5", 1_000, 5
SETTINGS = ("CYCLES_BASE_URL", "CYCLES_API_KEY", "CYCLES_TENANT", "ANTHROPIC_API_KEY")
PRICES = PriceBook.load()
# No retries inside the client: the API has no idempotency key, so each may be billed, and only one call is reserved.
claude = anthropic.Anthropic(max_retries=0)

PRICE_LIST_CENTS = {"chain-11": 2890, "tube-700": 590, "bell-brass": 1450}
OPERATIONS = {"add": operator.add, "subtract": operator.sub, "multiply": operator.mul}
TOOLS: dict[str, Any] = {
    "part_price": lambda part: f"{PRICE_LIST_CENTS[part]} cents",
    "calculate": lambda operation, a, b: str(OPERATIONS[operation](operator.index(a), operator.index(b))),
}
INTEGER = {"type": "integer"}
ARGUMENTS: dict[str, dict[str, Any]] = {
    "part_price": {"part": {"enum": list(PRICE_LIST_CENTS)}},
    "calculate": {"operation": {"enum": list(OPERATIONS)}, "a": INTEGER, "b": INTEGER},
}
TOOL_PARAMS = [
    {"name": name, "input_schema": {"type": "object", "properties": arguments, "required": list(arguments)}}
    for name, arguments in ARGUMENTS.items()
]


class StoppedError(Exception):
    """The conversation ends before Claude has answered; the message says why."""


def take_turn(budget: CyclesClient, turn: int, messages: list[dict[str, Any]]) -> Message:
    """Reserve a turn's bound, call Claude and commit what it cost; stop where one of the three does not happen."""
    request = {"model": MODEL, "max_tokens": MAX_TOKENS, "tools": TOOL_PARAMS, "messages": messages}
    bound = PRICES.worst_case(MODEL, input_tokens=most_input_tokens(request), max_output_tokens=MAX_TOKENS)
    reservation = budget.stream_reservation(
        action=Action(kind="llm.completion", name=MODEL, tags=["tool-loop", f"turn-{turn}"]),
        estimate=Amount(unit=Unit.USD_MICROCENTS, amount=bound),
    )
    try:
        with reservation:  # an exception in here would release it
            if reservation.caps and reservation.caps.max_tokens is not None:
                request["max_tokens"] = min(MAX_TOKENS, reservation.caps.max_tokens)
            reply = ask(request)
            record(reservation.usage, turn, reply)
    except CyclesProtocolError as no:
        reason = no.reason_code or "no answer"
        raise StoppedError(f"${format_usd(bound)} could not be reserved for turn {turn} ({reason}). {no}") from no
    except anthropic.APIError as error:
        raise StoppedError(f"Claude did not take turn {turn}, which cost nothing. {error}") from error
    charged = reservation.usage.actual_cost
    print(f"Turn {turn}: ${format_usd(bound)} reserved, ${format_usd(bound if charged is None else charged)} charged.")
    if not isinstance(reply, Message):
        raise StoppedError(f"turn {turn} broke off ({type(reply).__name__}), so it is charged as the most it can cost.")
    return reply


def ask(request: dict[str, Any]) -> Message | BaseException:
    """Call Claude once. What surely cost nothing is raised; what may be on the bill is returned, to be charged."""
    try:
        reply: Message = claude.messages.create(**request)
    except BaseException as error:  # Ctrl-C too
        if is_surely_unbilled(error):
            raise
        return error
    return reply


def is_surely_unbilled(error: BaseException) -> bool:
    """Tell a call that was refused before any work, or never left, from one that may be on the bill."""
    if isinstance(error, anthropic.APIStatusError):
        return error.status_code == 529 or (400 <= error.status_code < 500 and error.status_code not in (408, 499))
    return isinstance(error.__cause__, httpx2.ConnectError | httpx2.ConnectTimeout)


def record(usage: StreamUsage, turn: int, reply: Message | BaseException) -> None:
    """Fill in what the commit will say; without an actual cost it charges all that was reserved, and says so."""
    usage.custom = {"turn": turn}
    if isinstance(reply, Message):
        tool_calls = sum(block.type == "tool_use" for block in reply.content)
        usage.custom |= {"stop_reason": reply.stop_reason, "tool_calls": tool_calls}
        usage.model_version = reply.model
        with suppress(UsageError):  # what cannot be priced is not known to be less than the bound
            used = read_usage(reply.model_dump().get("usage"))
            usage.tokens_input, usage.tokens_output = used.prompt_tokens, used.output_tokens
            usage.set_actual_cost(PRICES.cost_of(MODEL, used).amount_microcents)


def run_tool(call: ToolUseBlock) -> dict[str, Any]:
    """Run a tool that Claude asks for; what goes wrong in it is for Claude to read."""
    result = {"type": "tool_result", "tool_use_id": call.id}
    try:
        return result | {"content": TOOLS[call.name](**call.input)}
    except Exception as error:
        return result | {"content": repr(error), "is_error": True}


def converse(budget: CyclesClient, task: str, said: list[str]) -> None:
    """Take turns until Claude has answered, adding what it says to ``said``."""
    messages: list[dict[str, Any]] = [{"role": "user", "content": task}]
    for turn in range(1, MAX_TURNS + 1):
        reply = take_turn(budget, turn, messages)
        said += [block.text for block in reply.content if block.type == "text"]
        if reply.stop_reason == "end_turn":
            return
        if reply.stop_reason != "tool_use":
            raise StoppedError(f"Claude ended turn {turn} with {reply.stop_reason}.")
        content = [block.model_dump(mode="json", exclude_unset=True) for block in reply.content]
        results = [run_tool(block) for block in reply.content if block.type == "tool_use"]
        messages += [{"role": "assistant", "content": content}, {"role": "user", "content": results}]
    raise StoppedError(f"{MAX_TURNS} turns are the most that this loop takes.")


def main() -> int:
    """Give Claude the task of the command line, and say what it answered."""
    if missing := [name for name in SETTINGS if not os.environ.get(name)]:
        print(f"Set {', '.join(missing)} first: examples/README.md says to what.", file=sys.stderr)
        return 2
    task = " ".join(sys.argv[1:]) or "What do three chains (chain-11) and two inner tubes (tube-700) cost together?"
    said: list[str] = []
    try:
        converse(CyclesClient(CyclesConfig.from_env()), task, said)
    except StoppedError as why:
        print(f"Stopped: {why}")
        print(f"Answered so far: {' '.join(said) or 'nothing'}")
        return 1
    print(said[-1] if said else "Claude ended without a word.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
