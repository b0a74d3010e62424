"""The requests of a delegation: the parts of it that reach Claude in a turn."""

from collections.abc import Mapping, Sequence
from typing import Any

from budget_tools.claude.output_schema import OutputSchema
from budget_tools.delegation.candidates import TurnCandidate
from budget_tools.delegation.caps import NO_CAPS, Allowance
from budget_tools.delegation.conversation import system_prompt
from budget_tools.delegation.records import Task
from budget_tools.delegation.store import Message
from budget_tools.subagent_tools.toolbox import SubagentTool

_EPHEMERAL = {"type": "ephemeral"}


class RequestBuilder:
    """Builder of the requests of one delegation.

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
        """Whether a turn may be followed by another, and a last turn differs from the others."""
        return bool(self._tools)

    def build(
        self,
        candidate: TurnCandidate,
        notices: Sequence[Message],
        allowance: Allowance = NO_CAPS,
        *,
        withholds_tools: bool = False,
    ) -> dict[str, Any]:
        """Build the body of POST /v1/messages without its ``max_tokens``.

        Args:
            candidate: the model and the conversation.
            notices: messages added to the conversation so far.
            allowance: the caps of the turn's reservation.
            withholds_tools: whether no tool may be used.
        """
        request: dict[str, Any] = {"model": candidate.model, "messages": candidate.conversation.wire(notices)}
        system = system_prompt(self._task)
        if system and candidate.is_cached:
            # The part that never changes; the cache finds it again even if it does not find the rest.
            request["system"] = [{"type": "text", "text": system, "cache_control": _EPHEMERAL}]
        elif system:
            request["system"] = system
        if self._schema is not None:
            request["output_config"] = self._schema.wire()
        if not self._tools:
            return request
        allowed = [tool.wire() for tool in self._tools.values() if allowance.allows_tool(tool.name)]
        # A conversation in which tools were used must still define some (Messages API, tool use).
        request["tools"] = allowed or [tool.wire() for tool in self._tools.values()]
        if withholds_tools or not allowed:
            request["tool_choice"] = {"type": "none"}
        elif candidate.is_cached:
            # All of the prompt, for the next turn to read.
            request["cache_control"] = _EPHEMERAL
        return request
