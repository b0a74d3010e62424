"""How long the next prompt is at most, by the best evidence there is, and what a turn then tells of that evidence.

The best is taken that can be true:

evidence                        believed unless
the last turn's exact usage     its prompt or its answer has more words than that
the endpoint's own count        the bytes do not allow it, or a turn used more than was counted
the bytes                       never in doubt: no tokenizer makes more tokens of them
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from budget_tools.claude.client import Claude
from budget_tools.delegation.candidates import TurnCandidate
from budget_tools.delegation.records import TurnRecord
from budget_tools.delegation.request import RequestBuilder
from budget_tools.delegation.stop import Stop
from budget_tools.delegation.store import Message
from budget_tools.delegation.token_count import contradicted, count_tokens
from budget_tools.pricing.tokens import most_input_tokens, with_margin

NOTICE_TOKENS = 600
"""More than any notice of a last turn has: it may have to be told after the turn was reserved."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PromptBound:
    """No fewer tokens than a prompt has."""

    tokens: int
    counted: int | None = None
    """What the endpoint counted, if the bound rests on that."""


class PromptBounder:
    """Bounds the prompts of one delegation.

    Args:
        requests: builds what is bounded.
        claude: the endpoint, asked for counts as long as they may be true.
        stop: interrupts the asking.
        warn: hears what the caller of the delegation should know, one sentence at a time.
    """

    def __init__(self, requests: RequestBuilder, *, claude: Claude, stop: Stop, warn: Callable[[str], None]) -> None:
        self._requests = requests
        self._claude = claude
        self._stop = stop
        self._warn = warn

    async def bound(self, candidate: TurnCandidate, notices: Sequence[Message]) -> PromptBound:
        """Bound the prompt of a turn, and of its notices."""
        spare = NOTICE_TOKENS if self._requests.has_tools else 0
        conversation = candidate.conversation
        known = conversation.known_tokens(notices)
        if known is not None:
            return PromptBound(tokens=with_margin(known) + spare)
        request = self._requests.build(candidate, notices)
        with self._stop.interruptible():
            count = await count_tokens(self._claude, request, no_fewer_than=conversation.least_tokens)
            if count.warning:
                self._warn(count.warning)
            if count.tokens is not None:
                return PromptBound(tokens=with_margin(count.tokens) + spare, counted=count.tokens)
        return PromptBound(tokens=most_input_tokens(request) + spare)

    def learn(self, bound: PromptBound, record: TurnRecord) -> None:
        """Compare what was counted with what the turn used."""
        if bound.counted is None or record.prompt_tokens <= bound.tokens:
            return
        if warning := contradicted(self._claude, counted=bound.counted, used=record.prompt_tokens):
            self._warn(warning)
