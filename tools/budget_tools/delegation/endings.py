"""Endings of a delegation, in words for its caller: why it ended, and what to do next."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal

from budget_tools.claude.client import Failure
from budget_tools.claude.stream import Reply
from budget_tools.core.money import format_usd
from budget_tools.core.text_safety import beginning
from budget_tools.delegation.caps import Allowance
from budget_tools.delegation.landing import Landing
from budget_tools.delegation.policy import LANDING_INPUT_TOKENS, Need
from budget_tools.delegation.records import Status, Task, TurnRecord
from budget_tools.delegation.replies import Consequence
from budget_tools.delegation.store import Outcome

OutputLimit = Literal["task", "budget", "caps"]
"""The limit on the length of a turn's answer: the task's, that of the remaining money, or that of the budget's caps."""

CANCELLED = Outcome(status="cancelled", hint="It was cancelled; what was in flight is settled. Resume it to go on.")

_ENDS: Mapping[Consequence, tuple[Status, str]] = MappingProxyType(
    {
        "refused": ("refused", "Claude declined the task{category}."),
        "broken_off": ("failed", ("The answer broke off. What it cost is not known, so no less than its bound was "
            "charged.")),
        "no_answer": ("failed", "Claude ended without an answer ({reason}): resume it to have it asked for one."),
        "lost_call": ("failed", "Claude announced a tool call ({reason}) that is not there: resume it to go on."),
        "window_full": ("failed", ("The model's context window is full, so its answer was cut there ({reason}): "
            "resume it to go on from a record of its work so far, or delegate the rest with less material.")),
        "unknown": ("failed", "Claude stopped for a reason that is not known here ({reason}): resume it to go on."),
    }
)  # fmt: skip

_CUT_WHERE: Mapping[OutputLimit, str] = MappingProxyType(
    {
        "task": "at max_output_tokens",
        "budget": "where the budget ended",
        "caps": "at the length that the budget's caps allow",
    }
)
_CUT: Mapping[Consequence, str] = MappingProxyType(
    {
        "cut_words": "The answer was cut {where}: {then}.",
        "cut_call": "The answer was cut {where} within a call of {tool}, so none of its calls was run: {then}.",
        "cut_thoughts": "Claude was cut {where} before it said anything, so there is no answer: {then}.",
    }
)
_THEN: Mapping[OutputLimit, str] = MappingProxyType(
    {
        "task": "delegate it with more of them, or resume it for another try, in which it is told so",
        "budget": "raise it and resume",
        "caps": "resume it for the rest",
    }
)

_TOLD: Mapping[Consequence, str] = MappingProxyType(
    {
        "no_answer": "Your last message was empty. Give your answer to the task now.",
        "lost_call": "Your last message held no tool call. If you need a tool, call it; else give your answer.",
        "cut_call": "Your last message was cut at {max_tokens} tokens, within a call of {tool}. None of its calls was "
            "run: make them again, shorter or one at a time.",
        "cut_thoughts": "Your last message was cut at {max_tokens} tokens, before you had said anything: answer within "
            "that length.",
    }
)  # fmt: skip


_TOLD_OF_CUT_JSON = (
    "Your last message was cut at {max_tokens} tokens, so its JSON is not whole: give the whole answer again, within "
    "that length."
)


def end_without_reply(failure: Failure | None, record: TurnRecord) -> Outcome:
    """Return the ending of a delegation after a turn without an answer."""
    reason = "The turn was interrupted." if failure is None else failure.message
    unknown = " What it cost is not known, so no less than its bound was charged." if record.charged else ""
    return Outcome(status="failed", hint=f"{reason}{unknown}")


def end_by(consequence: Consequence, reply: Reply) -> Outcome:
    """Return the ending for an answer that neither continues, nor is final, nor was cut at a limit."""
    status, hint = _ENDS[consequence]
    reason = f"stop reason {beginning(reply.stop_reason)}" if reply.stop_reason else "without a stop reason"
    category = f" (category {reply.refusal_category})" if reply.refusal_category else ""
    return Outcome(status=status, hint=hint.format(reason=reason, category=category))


def limit_of(max_tokens: int, task: Task, allowance: Allowance) -> OutputLimit:
    """Return the limit on the length of an answer."""
    if max_tokens >= task.max_output_tokens:
        return "task"
    return "caps" if allowance.max_tokens == max_tokens else "budget"


def cut_by(limit: OutputLimit, consequence: Consequence, reply: Reply, how_far: str, *, wants_json: bool) -> Outcome:
    """Return how a delegation ends with an answer that was cut at a limit of its length.

    A text that is as long as it was allowed to be is an answer, but not half of the JSON that was asked for; everything
    else has something left to do.
    """
    is_answer = limit == "task" and consequence == "cut_words" and not wants_json
    then = "allow more for a longer one" if is_answer else _THEN[limit]
    hint = _CUT[consequence].format(where=_CUT_WHERE[limit], tool=_last_tool(reply), then=then)
    status: Status = "completed" if is_answer else "failed" if limit == "task" else "budget_exhausted"
    return Outcome(status=status, hint=f"{hint}{how_far}" if limit == "budget" else hint)


def told_after(consequence: Consequence, reply: Reply, max_tokens: int, *, wants_json: bool) -> str:
    """Return what the sub-agent hears of its last message once it is resumed; ``""`` if that speaks for itself."""
    told = _TOLD_OF_CUT_JSON if wants_json and consequence == "cut_words" else _TOLD.get(consequence, "")
    return told.format(tool=_last_tool(reply), max_tokens=max_tokens)


def _last_tool(reply: Reply) -> str:
    return beginning(reply.tool_uses[-1].name) if reply.tool_uses else "a tool"


class Limits:
    """The limits of one task, in words.

    Args:
        task: what is delegated.
    """

    def __init__(self, task: Task) -> None:
        self._task = task

    def all_turns_taken(self) -> str:
        """Return the hint for a delegation that may take no more turns."""
        return f"It took all of its {self._task.max_turns} turns: resume it with a larger max_turns for more."

    def out_of_money(self, how_far: str) -> Landing:
        """Return the landing for what is left of the money."""
        return Landing(
            status="budget_exhausted",
            hint=f"{self._what_ended()} covered no more than a last answer: raise it and resume for more.{how_far}",
            reason="what is left of the budget covers no more than this answer",
        )

    def nothing_fits(self, turn: int, how_far: str) -> str:
        """Return the hint for a turn that was not sent, because what it may cost is not covered."""
        what = self._what_ended()
        return f"{what} does not cover turn {turn} at worst, so it was not sent: raise it and resume.{how_far}"

    def how_far(self, need: Need | None, spent_microcents: int) -> str:
        """Return a sentence on how much the next turn needs, if that is known, which may follow another sentence."""
        if need is None:
            return ""
        least = f", or ${format_usd(need.least)} for a short answer" if need.least < need.full else ""
        own = ""
        if self._task.budget_microcents is not None:
            own = f"; budget_usd then has to be ${format_usd(spent_microcents + need.full)}"
        return f" The next turn needs ${format_usd(need.full)} left{least}{own}."

    @property
    def growth_tokens(self) -> int:
        """The most by which a last answer, and the notices around it, lengthen the prompt of a turn after it."""
        return self._task.max_output_tokens + LANDING_INPUT_TOKENS

    def _what_ended(self) -> str:
        limit = self._task.budget_microcents
        return "The budget" if limit is None else f"What is left of the budget or of budget_usd (${format_usd(limit)})"
