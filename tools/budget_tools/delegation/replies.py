"""Replies of Claude and what follows from them: judged by their content first, by their stop reason second.

The two need not agree. Gateways end a tool call with ``end_turn`` and pass on the words of other APIs; an answer may be
cut within a call, or be empty although its stop reason calls it whole. So both are classified into a few kinds, and one
table names what follows from every pair of them: the loop, the conversation and the exhaustive test read it.

A whole call is run, whatever the stop reason. If the answer was cut within a call, none of its calls is run and none
goes back to Claude: calls of one message belong together, and half of them may be half of a change.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal, get_args

from budget_tools.claude.stream import Reply

Ending = Literal["whole", "calling", "cut", "window_full", "paused", "refused", "unknown", "broken_off"]
"""Kinds of stop reasons."""

Content = Literal["calls", "open_call", "words", "work", "nothing"]
"""Kinds of an answer's content.

    calls      tool calls, the last of them whole
    open_call  tool calls, the last of them with an input that is empty or not JSON: an answer that was cut ends so
    words      text, and no call
    work       neither, but blocks that go back as they are, as of tools that the provider runs
    nothing    no block, or only thoughts and white space
"""

Consequence = Literal[
    "run_calls",  # run its tool calls, then take the next turn
    "go_on",  # take the next turn
    "answer",  # it is the final answer
    "no_answer",  # it ends without a final answer
    "lost_call",  # it ends: an announced call is missing
    "cut_words",  # it ends in the middle of a text
    "cut_call",  # it ends in the middle of a call
    "cut_thoughts",  # it ends before it says anything
    "window_full",  # it ends because nothing more fits into the model's context
    "refused",
    "unknown",  # it ends for an unknown reason
    "broken_off",
]

STOP_REASONS: Mapping[str, Ending] = MappingProxyType(
    {
        "": "whole",  # complete, and without a reason
        "end_turn": "whole",
        "stop_sequence": "whole",
        "tool_use": "calling",
        "max_tokens": "cut",
        "model_context_window_exceeded": "window_full",
        "pause_turn": "paused",
        "refusal": "refused",
        # Stop reasons of other APIs that gateways pass on (OpenAI, Chat Completions, finish_reason).
        "stop": "whole",
        "tool_calls": "calling",
        "function_call": "calling",
        "length": "cut",
        "content_filter": "refused",
    }
)
"""The known stop reasons; every other one is ``unknown``, and ``None`` means that the answer broke off."""

_CONTENTS: tuple[Content, ...] = get_args(Content)

_ROWS: Mapping[Ending, tuple[Consequence, Consequence, Consequence, Consequence, Consequence]] = {
    #               calls          open_call      words          work            nothing
    "whole":       ("run_calls",   "run_calls",   "answer",      "no_answer",    "no_answer"),
    "calling":     ("run_calls",   "run_calls",   "lost_call",   "lost_call",    "lost_call"),
    "cut":         ("run_calls",   "cut_call",    "cut_words",   "cut_thoughts", "cut_thoughts"),
    "window_full": ("window_full", "window_full", "window_full", "window_full",  "window_full"),
    "paused":      ("run_calls",   "run_calls",   "go_on",       "go_on",        "no_answer"),
    "refused":     ("refused",     "refused",     "refused",     "refused",      "refused"),
    "unknown":     ("run_calls",   "run_calls",   "unknown",     "unknown",      "unknown"),
    "broken_off":  ("broken_off",  "broken_off",  "broken_off",  "broken_off",   "broken_off"),
}  # fmt: skip

CONSEQUENCES: Mapping[tuple[Ending, Content], Consequence] = MappingProxyType(
    {(ending, content): row[_CONTENTS.index(content)] for ending, row in _ROWS.items() for content in _CONTENTS}
)
"""What follows from every pair of a kind of stop reason and a kind of content."""

THOUGHTS = frozenset({"thinking", "redacted_thinking"})
"""Blocks that are bound to the model that made them: other models refuse them (Messages API, thinking)."""


def ending_of(stop_reason: str | None) -> Ending:
    """Return the kind of a stop reason; ``None`` is an answer that broke off."""
    return "broken_off" if stop_reason is None else STOP_REASONS.get(stop_reason, "unknown")


def content_of(reply: Reply) -> Content:
    """Return the kind of an answer's content."""
    if reply.tool_uses:
        last = reply.tool_uses[-1]
        # No part of a JSON object but the whole is valid JSON. Only one that had not begun looks like an empty one.
        is_open = reply.content[-1].get("type") == "tool_use" and (bool(last.problem) or not last.input)
        return "open_call" if is_open else "calls"
    if reply.text.strip():
        return "words"
    return "work" if any(block.get("type") not in {"text", *THOUGHTS} for block in reply.content) else "nothing"


def consequence_of(reply: Reply) -> Consequence:
    """Return what follows from an answer."""
    return CONSEQUENCES[ending_of(reply.stop_reason), content_of(reply)]
