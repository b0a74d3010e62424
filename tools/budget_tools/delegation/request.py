"""The requests of a delegation: what of it reaches Claude in a turn, and no fewer tokens than that has."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from budget_tools.claude.client import Claude
from budget_tools.claude.output_schema import OutputSchema
from budget_tools.delegation.caps import NO_CAPS, Allowance
from budget_tools.delegation.conversation import Conversation, system_prompt
from budget_tools.delegation.policy import Fitter
from budget_tools.delegation.records import Task
from budget_tools.delegation.stop import Stop
from budget_tools.delegation.store import Message
from budget_tools.pricing.tokens import most_input_tokens, with_margin
from budget_tools.subagent_tools.toolbox import SubagentTool

NOTICE_TOKENS = 600
"""More than any notice of a last turn has: it may have to be told after the turn was reserved."""

_EPHEMERAL = {"type": "ephemeral"}


@dataclass(frozen=True, kw_only=True, slots=True)
class TurnCandidate:
    """One way to take a turn: a model with its prices, and the conversation as that model takes it."""

    fitter: Fitter
    conversation: Conversation
    rebuilt: Sequence[Message] = ()
    """The conversation itself, where it was told anew for this model and is not stored yet."""

    @property
    def model(self) -> str:
        """The model that is asked."""
        return self.fitter.model

    @property
    def is_cached(self) -> bool:
        """Whether its requests write their prompt to the cache."""
        return self.fitter.options.cache != "none"


class RequestBuilder:
    """Builds the requests of one delegation.

    Args:
        task: what is delegated.
        tools: what the sub-agent may use, by name.
        schema: the form of its final answer, if the caller gave one.
    """

    def __init__(self, task: Task, tools: Mapping[str, SubagentTool], schema: OutputSchema | None) -> None:
        self._task = task
        self._tools = tools
        self._schema = schema

    @property
    def has_tools(self) -> bool:
        """Whether a turn may be followed by another, and a last one is anything else than every turn."""
        return bool(self._tools)

    def build(
        self,
        candidate: TurnCandidate,
        notices: Sequence[Message],
        allowance: Allowance = NO_CAPS,
        *,
        withholds_tools: bool = False,
    ) -> dict[str, Any]:
        """Give the body of POST /v1/messages without its ``max_tokens``.

        Args:
            candidate: the model and the conversation.
            notices: what is said beside the conversation so far.
            allowance: the caps of the turn's reservation.
            withholds_tools: whether no tool may be used.
        """
        request: dict[str, Any] = {"model": candidate.model, "messages": candidate.conversation.wire(notices)}
        system = system_prompt(self._task)
        if system and candidate.is_cached:
            # The part that never changes; it is found again even where what follows is not.
            request["system"] = [{"type": "text", "text": system, "cache_control": _EPHEMERAL}]
        elif system:
            request["system"] = system
        if self._schema is not None:
            request["output_config"] = self._schema.wire()
        if not self._tools:
            return request
        allowed = [tool.wire() for tool in self._tools.values() if allowance.allows_tool(tool.name)]
        # A conversation in which tools were used must go on naming some (Messages API, tool use).
        request["tools"] = allowed or [tool.wire() for tool in self._tools.values()]
        if withholds_tools or not allowed:
            request["tool_choice"] = {"type": "none"}
        elif candidate.is_cached:
            # All of the prompt, for the turn that follows to read.
            request["cache_control"] = _EPHEMERAL
        return request

    async def input_bound(
        self, candidate: TurnCandidate, notices: Sequence[Message], claude: Claude, stop: Stop
    ) -> int:
        """Bound the prompt: by the last turn's exact usage, counted by the API where it will, else by its bytes."""
        spare = NOTICE_TOKENS if self._tools else 0
        known = candidate.conversation.known_tokens(notices)
        if known is not None:
            return with_margin(known) + spare
        request = self.build(candidate, notices)
        with stop.interruptible():
            counted = await claude.count_input_tokens(request)
            if counted is not None:
                return with_margin(counted) + spare
        return most_input_tokens(request) + spare
