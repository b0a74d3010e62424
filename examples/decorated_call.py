"""One call to Claude under a budget, with the ``@cycles`` decorator of runcycles.

Before the call the most that it can cost is reserved; after it what it did cost is committed and the rest goes back.
Where the budget says no, nothing is sent. Needs ``runcycles`` and ``anthropic``, and any Cycles server::

    python examples/decorated_call.py "Why reserve money before a call?"

Exit code: 0 answered, 1 not answered (the sentence says why, and whether it cost anything), 2 a setting is missing.
"""

import os
import sys
from typing import NamedTuple

import anthropic
import httpx2
from anthropic.types import Usage
from runcycles import (
    CyclesClient,
    CyclesConfig,
    CyclesMetrics,
    CyclesProtocolError,
    cycles,
    get_cycles_context,
    set_default_client,
)

MODEL = "claude-sonnet-5-5"
MAX_TOKENS = 500
SETTINGS = ("CYCLES_BASE_URL", "CYCLES_API_KEY", "CYCLES_TENANT", "ANTHROPIC_API_KEY")

# A microcent is 10^-8 US dollars: $2 and $10 for a million tokens are whole numbers for one, and no float is needed.
INPUT_TOKEN_MICROCENTS, OUTPUT_TOKEN_MICROCENTS = 200, 1_000
# What the API adds around a question, unseen: no more than this for a plain one.
FRAME_TOKENS = 600

# No retries inside the client: the API has no idempotency key, so each may be billed, and only one call is reserved.
claude = anthropic.Anthropic(max_retries=0)


class Answer(NamedTuple):
    """What Claude said, and what it cost; without words, why there are none."""

    text: str
    charged_microcents: int
    failure: str = ""


def bound(question: str) -> int:
    """Give the most that a question can cost: no token is shorter than a byte, and the API enforces ``max_tokens``."""
    input_tokens = len(question.encode()) + FRAME_TOKENS
    return input_tokens * INPUT_TOKEN_MICROCENTS + MAX_TOKENS * OUTPUT_TOKEN_MICROCENTS


def cost(usage: Usage) -> int:
    """Give what a call did cost. It asked for no cache and no server tool, so there is nothing else to pay for."""
    return usage.input_tokens * INPUT_TOKEN_MICROCENTS + usage.output_tokens * OUTPUT_TOKEN_MICROCENTS


@cycles(
    estimate=bound,
    actual=lambda answer: answer.charged_microcents,
    action_kind="llm.completion",
    action_name=MODEL,
    action_tags=["decorated-call"],
    ttl_ms=120_000,  # renewed while the call lasts; under a minute the client's heartbeat has no room
)
def ask(question: str) -> Answer:
    """Ask Claude. To raise releases the reservation, so only what surely cost nothing is raised."""
    context = get_cycles_context()
    max_tokens = MAX_TOKENS
    if context and context.caps and context.caps.max_tokens is not None:
        max_tokens = min(max_tokens, context.caps.max_tokens)
    try:
        reply = claude.messages.create(
            model=MODEL,
            max_tokens=max_tokens,
            messages=[{"role": "user", "content": question}],
            inference_geo="global",  # a workspace's own choice could cost more than the prices above
        )
        text = "".join(block.text for block in reply.content if block.type == "text")
        answer = Answer(text, cost(reply.usage), "" if text else f"Claude said nothing ({reply.stop_reason}).")
        if context:
            context.metrics = CyclesMetrics(  # the decorator adds the latency
                tokens_input=reply.usage.input_tokens,
                tokens_output=reply.usage.output_tokens,
                model_version=reply.model,
                custom={"stop_reason": reply.stop_reason},
            )
    except BaseException as error:  # Ctrl-C too: what was sent may be billed
        if is_surely_unbilled(error):
            raise
        return Answer("", bound(question), f"The answer broke off ({type(error).__name__}).")
    return answer


def is_surely_unbilled(error: BaseException) -> bool:
    """Tell a call that was refused before any work, or never left, from one that may be on the bill."""
    if isinstance(error, anthropic.APIStatusError):
        return error.status_code == 529 or (400 <= error.status_code < 500 and error.status_code not in (408, 499))
    return isinstance(error.__cause__, httpx2.ConnectError | httpx2.ConnectTimeout)


def usd(microcents: int) -> str:
    """Write an amount in dollars."""
    return f"${microcents // 100_000_000}.{microcents % 100_000_000:08d}"


def main() -> int:
    """Ask the question of the command line."""
    if missing := [name for name in SETTINGS if not os.environ.get(name)]:
        print(f"Set {', '.join(missing)} first: examples/README.md says to what.", file=sys.stderr)
        return 2
    set_default_client(CyclesClient(CyclesConfig.from_env()))
    question = " ".join(sys.argv[1:]) or "In one sentence: why reserve money before a call, and not count it after?"
    try:
        answer = ask(question)
    except CyclesProtocolError as refusal:
        reason = refusal.reason_code or "no answer"
        print(f"Nothing was sent: {usd(bound(question))} could not be reserved ({reason}). {refusal}")
        return 1
    except anthropic.APIError as error:
        print(f"Nothing was charged: Claude did not take the call. {error}")
        return 1
    print(answer.text or answer.failure)
    print(f"Charged {usd(answer.charged_microcents)} of {usd(bound(question))} reserved.")
    return 1 if answer.failure else 0


if __name__ == "__main__":
    sys.exit(main())
