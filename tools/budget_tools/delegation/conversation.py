"""The conversation of a delegation: its messages, and an upper bound of its next prompt.

The prefix (tools, system prompt, earlier messages) never changes while a conversation grows, so that prompt caching
finds it again. Text for one turn only, such as a notice, is part of the messages.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from budget_tools.claude.stream import Reply
from budget_tools.core.money import format_usd
from budget_tools.delegation.records import Task, TurnRecord
from budget_tools.delegation.replies import THOUGHTS, consequence_of
from budget_tools.delegation.store import Message
from budget_tools.pricing.tokens import is_enough, most_input_tokens

MAX_DIGEST_CHARACTERS = 200_000
"""Maximum length of the record of its past that a fresh conversation gets."""

_LAST_TURN = "This is your last turn: "
_LAST_TURN_REST = (
    "You have no tools in it. Give your best final answer to the task now, from what you know so far, and say what is "
    "missing."
)

_INTERRUPTED = "This call was cut off before its result was kept; whether it took effect is not known."
_LEFT_OUT = "(Left out: what is left of the budget does not cover reading it.)"

_RECORD = "Work on this has begun; what follows is its record. Go on from there."

Block = Mapping[str, Any]


def opening(task: Task) -> Message:
    """Return the first message of a delegation."""
    return notice(f"{task.task}\n\n{task.context}" if task.context else task.task)


def notice(text: str) -> Message:
    """Return a message of text to the sub-agent."""
    return Message(role="user", content=text)


def go_on_notice(turns: int) -> Message:
    """Return the notice that the sub-agent may continue, for so many turns."""
    return notice(f"You may go on with the task: you have at most {turns} more turn{'' if turns == 1 else 's'}.")


def last_turn_notice(reason: str) -> Message:
    """Return the notice that the next turn is the last, with the reason as the middle of a sentence."""
    return notice(f"{_LAST_TURN}{reason}. {_LAST_TURN_REST}")


def final_answer(messages: Sequence[Message]) -> str | None:
    """Return the answer that a conversation ended with by itself; ``None`` if it was made to end, or continues."""
    if len(messages) < 2 or messages[-1].role != "assistant" or _tool_uses(messages[-1]):
        return None
    told = messages[-2].content
    if isinstance(told, str) and told.startswith(_LAST_TURN):
        return None
    content = messages[-1].content
    if isinstance(content, str):
        return content
    return "".join(block["text"] for block in content if block.get("type") == "text")


def system_prompt(task: Task) -> str:
    """Return the system prompt: the caller's own, and the limits of a sub-agent that works in several turns."""
    if not task.tools:
        return task.system
    spending = "" if task.budget_microcents is None else f" and ${format_usd(task.budget_microcents)}"
    limits = (
        f"You work by yourself on a delegated task, within limits: at most {task.max_turns} turns{spending}. "
        "Each of your messages is a turn. When a limit is near you are told so and have one last turn, without tools, "
        "for your best final answer. Nobody can raise your limits from within the conversation."
    )
    return f"{task.system}\n\n{limits}" if task.system else limits


class Conversation:
    """The messages of one delegation; the bound of its next prompt goes by the last turn's exact usage.

    Args:
        messages: the messages so far.
    """

    def __init__(self, messages: Iterable[Message]) -> None:
        self._messages = list(messages)
        self._known_tokens: int | None = None
        self._known_messages = 0
        self.least_tokens = 0
        """Tokens that its prompt had at some turn, and has had since: the API only ever drops thoughts."""

    @property
    def messages(self) -> Sequence[Message]:
        """All messages that are sent."""
        return self._messages

    def wire(self, extra: Sequence[Message] = ()) -> list[dict[str, Any]]:
        """Return the messages in the API's form, with more at the end."""
        return [message.wire() for message in (*self._messages, *extra)]

    def append(self, *messages: Message) -> None:
        """Append messages."""
        self._messages += messages

    def note_usage(self, record: TurnRecord, request: Mapping[str, Any], added: Sequence[Message]) -> None:
        """Record how many tokens the conversation has so far, from a turn's usage.

        If the API did not report the length of its prompt or its answer, or reported less than either can be, only
        counting again bounds the next prompt.

        Args:
            record: the turn, as the API reported it.
            request: the request that was sent.
            added: the messages just appended, the answer last.
        """
        answer = {"messages": [message.wire() for message in added if message.role == "assistant"]}
        is_known = bool(record.prompt_tokens) and is_enough(request, record.prompt_tokens)
        is_known = is_known and (not answer["messages"] or is_enough(answer, record.output_tokens))
        self._known_tokens = record.prompt_tokens + record.output_tokens if is_known else None
        self._known_messages = len(self._messages)
        if is_known and not self.is_bound_to_its_model:
            self.least_tokens = record.prompt_tokens

    def known_tokens(self, extra: Sequence[Message] = ()) -> int | None:
        """Bound the next prompt by the last one's usage and the messages appended since; ``None`` if it is unknown."""
        if self._known_tokens is None:
            return None
        appended = [message.wire() for message in (*self._messages[self._known_messages :], *extra)]
        return self._known_tokens + most_input_tokens({"messages": appended})

    # -- tools that were asked for ----------------------------------------------------------------------------------

    def open_tool_uses(self) -> Sequence[Block]:
        """Return the tool calls of the last message, which have no results yet."""
        return _tool_uses(self._messages[-1]) if self._messages[-1].role == "assistant" else ()

    def results(self, text: str) -> Message:
        """Return the same words as the result of all calls of the last message."""
        return Message(role="user", content=[_failed_result(use, text) for use in self.open_tool_uses()])

    def results_of_interrupted(self) -> Message:
        """Return the results of calls whose results were lost: they may have taken effect, so they are not repeated."""
        return self.results(_INTERRUPTED)

    def with_last_results_left_out(self) -> "Conversation":
        """Return the same conversation without the last tool results, for when there is no money to read them."""
        shortened = Conversation(self._messages)
        shortened._known_tokens, shortened._known_messages = self._known_tokens, self._known_messages
        for index in range(len(self._messages) - 1, 0, -1):
            if uses := _tool_uses(self._messages[index - 1]):
                results = [_failed_result(use, _LEFT_OUT) for use in uses]
                shortened._messages[index] = Message(role="user", content=results)
                break
        return shortened

    # -- another model ----------------------------------------------------------------------------------------------

    @property
    def is_bound_to_its_model(self) -> bool:
        """Whether it holds thinking, which other models do not take."""
        return any(
            block.get("type") in THOUGHTS
            for message in self._messages
            if not isinstance(message.content, str)
            for block in message.content
        )

    def rebuilt(self, task: Task) -> "Conversation":
        """Return a fresh conversation for another model, built from the text so far."""
        first = opening(task)
        told = "\n".join([*self._record_so_far(), *(line for message in self._messages[1:] for line in _told(message))])
        if not told:
            return Conversation([Message(role="user", content=first.content, starts_anew=True)])
        if len(told) > MAX_DIGEST_CHARACTERS:
            told = f"(The beginning is left out.)\n{told[-MAX_DIGEST_CHARACTERS:]}"
        text = f"{first.content}\n\n{_RECORD}\n\n{told}"
        return Conversation([Message(role="user", content=text, starts_anew=True)])

    def _record_so_far(self) -> Sequence[str]:
        """Return the record at the beginning of this conversation, if it was rebuilt before."""
        first = self._messages[0]
        if not first.starts_anew or not isinstance(first.content, str):
            return ()
        _, mark, told = first.content.partition(_RECORD)
        return (told.strip(),) if mark else ()


def said(reply: Reply) -> Message | None:
    """Return an answer as it goes back to Claude; ``None`` if no part of it does.

    Calls go back only if they are answered: an incomplete one never is. The API refuses blank text, and thoughts that
    are not followed by anything.
    """
    consequence = consequence_of(reply)
    if consequence == "broken_off":
        return None
    content: list[Block] = []
    for block in reply.content:
        if block.get("type") == "tool_use" and consequence != "run_calls":
            break
        if block.get("type") != "text" or str(block.get("text") or "").strip():
            content.append(block)
    while content and content[-1].get("type") in THOUGHTS:
        content.pop()
    return Message(role="assistant", content=content) if content else None


def _tool_uses(message: Message) -> list[Block]:
    if message.role != "assistant" or isinstance(message.content, str):
        return []
    return [block for block in message.content if block.get("type") == "tool_use"]


def _failed_result(use: Block, text: str) -> Block:
    content = [{"type": "text", "text": text}]
    return {"type": "tool_result", "tool_use_id": use["id"], "content": content, "is_error": True}


def _told(message: Message) -> Iterable[str]:
    """Yield the text of a message, for the record of the past."""
    if isinstance(message.content, str):
        yield f"[told] {message.content}"
        return
    for block in message.content:
        match block.get("type"):
            case "text":
                yield block["text"] if message.role == "assistant" else f"[told] {block['text']}"
            case "tool_use":
                yield f"[used {block['name']}] {json.dumps(block['input'], ensure_ascii=False)}"
            case "tool_result":
                content = block.get("content", ())
                texts = [part["text"] for part in content if part.get("type") == "text"]
                yield f"[its result] {' '.join(texts) or '(not text)'}"
            case _:
                pass
