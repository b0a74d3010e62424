"""Upper bounds of the next prompt by the best evidence available, and what a turn then shows about that evidence.

The best evidence that can be true is taken:

evidence                        believed unless
the last turn's exact usage     its prompt or its answer has more words than that
the endpoint's own count        the bytes do not allow it, or a turn used more than was counted
the bytes                       always believed: no tokenizer makes more tokens of them
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
"""More tokens than any notice of a last turn has: the notice may be added after the turn was reserved."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PromptBound:
    """An upper bound of a prompt's tokens."""

    tokens: int
    counted: int | None = None
    """The endpoint's count, if the bound rests on it."""


class PromptBounder:
    """Bounds of the prompts of one delegation.

    Args:
        requests: builds the requests to be bounded.
        claude: the endpoint, asked for counts as long as they may be true.
        stop: interrupts the asking.
        warn: called with each sentence that the caller of the delegation should know.
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
        """Compare the count with what the turn used."""
        if bound.counted is None or record.prompt_tokens <= bound.tokens:
            return
        if warning := contradicted(self._claude, counted=bound.counted, used=record.prompt_tokens):
            self._warn(warning)
