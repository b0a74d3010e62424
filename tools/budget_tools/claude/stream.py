"""An answer of Claude, put together from the events of its stream.

Read here rather than by the SDK's own accumulator, for two reasons. That one gives an answer whose end never came as
though it were whole, with one output token: what tells the two apart is whether the last usage was sent. And it builds
the whole answer anew at every piece, which takes longer than all the rest of a turn.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from anthropic.types import RawMessageStreamEvent

_JOINED = {"text_delta": "text", "thinking_delta": "thinking"}
"""Pieces of text, and the field of a block that they add to."""

_INPUT = "input"


@dataclass(frozen=True, kw_only=True, slots=True)
class ToolUse:
    """A tool call that Claude asks for."""

    id: str
    name: str
    input: Mapping[str, Any]
    problem: str = ""
    """A sentence, if its input is not a JSON object; ``input`` is empty then."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Reply:
    """A streamed answer, read to its end; it is complete only with a stop reason."""

    content: Sequence[Mapping[str, Any]]
    """The blocks as they go back to the API: thinking and its signatures verbatim."""
    text: str
    tool_uses: Sequence[ToolUse]
    stop_reason: str | None
    usage: Mapping[str, Any] | None
    """As the API reported it last; ``None`` where it did not."""
    model: str


class ReplyReader:
    """Takes the events of one stream, in order."""

    def __init__(self) -> None:
        self._model: str | None = None
        self._usage: dict[str, Any] | None = None
        self._stop_reason: str | None = None
        self._blocks: dict[int, dict[str, Any]] = {}
        self._pieces: dict[tuple[int, str], list[str]] = {}

    def take(self, event: "RawMessageStreamEvent") -> None:
        """Take the next event; kinds that are not known add nothing (Messages API, streaming).

        Raises:
            ValueError: an event belongs to a block that has not begun.
        """
        match event.type:
            case "message_start":
                self._model = event.message.model
                self._add_usage(event.message)
            case "content_block_start":
                self._blocks[event.index] = event.content_block.model_dump(mode="json", exclude_unset=True)
            case "content_block_delta":
                self._add(event.index, event.delta)
            case "message_delta":
                self._stop_reason = event.delta.stop_reason
                self._add_usage(event)

    def reply(self) -> Reply:
        """Give the answer as far as it came.

        Raises:
            ValueError: nothing came.
        """
        if self._model is None:
            raise ValueError("the stream ended before it began")
        content = [self._block(index) for index in sorted(self._blocks)]
        return Reply(
            content=content,
            text="".join(block["text"] for block in content if block["type"] == "text"),
            tool_uses=[
                ToolUse(id=block["id"], name=block["name"], input=block[_INPUT], problem=self._problem(index))
                for index, block in zip(sorted(self._blocks), content, strict=True)
                if block["type"] == "tool_use"
            ],
            stop_reason=self._stop_reason,
            usage=self._usage,
            model=self._model,
        )

    def _add(self, index: int, delta: Any) -> None:  # noqa: ANN401 - one of a growing number of kinds
        block = self._blocks.get(index)
        if block is None:
            raise ValueError(f"a piece of block {index} came before its beginning")
        match delta.type:
            case "text_delta" | "thinking_delta":
                name = _JOINED[delta.type]
                self._pieces.setdefault((index, name), []).append(getattr(delta, name))
            case "input_json_delta":
                self._pieces.setdefault((index, _INPUT), []).append(delta.partial_json)
            case "signature_delta":
                block["signature"] = delta.signature
            case "citations_delta":
                citation = delta.citation.model_dump(mode="json", exclude_unset=True)
                block["citations"] = [*(block.get("citations") or ()), citation]

    def _add_usage(self, holder: Any) -> None:  # noqa: ANN401 - a message or a delta; the SDK does not insist on either
        """Take counts that are running totals: what a later event leaves out, an earlier one has said."""
        usage = getattr(holder, "usage", None)
        if usage is None:
            # Without the last report, the first one's output is a placeholder.
            self._usage = None
            return
        counts = {name: count for name, count in usage.model_dump().items() if count is not None}
        self._usage = {**(self._usage or {}), **counts}

    def _block(self, index: int) -> dict[str, Any]:
        block = dict(self._blocks[index])
        for (owner, name), pieces in self._pieces.items():
            if owner != index:
                continue
            joined = "".join(pieces)
            block[name] = self._input(joined) if name == _INPUT else block.get(name, "") + joined
        return block

    def _input(self, written: str) -> Any:  # noqa: ANN401 - what a tool is called with
        try:
            return json.loads(written or "{}")
        except ValueError:
            return {}

    def _problem(self, index: int) -> str:
        written = "".join(self._pieces.get((index, _INPUT), ()))
        try:
            json.loads(written or "{}")
        except ValueError as exc:
            return f"The input of this call is not valid JSON ({exc})."
        return ""
