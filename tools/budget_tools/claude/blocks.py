"""The content of an answer, put together from blocks and their pieces.

Everything readable is read: a piece of a block that never began begins one, an index may be missing or used twice, and
null may take the place of text. A block that cannot be read is left out and named in ``problems``; the cost of the
answer is judged elsewhere, and does not depend on it.
"""

import uuid
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from budget_tools.claude.json import UnreadableJsonError, read_json

MAX_DEPTH = 100
"""Maximum depth of a block; not every JSON library can write deeper ones."""

_MAX_NAME_CHARACTERS = 200
_UNNAMED = "unnamed"

_TEXT_OF = {"text": "text", "thinking": "thinking"}
"""Types of blocks whose pieces are text, and the field that they add to."""

_PIECES = {
    "text_delta": ("text", "text"),
    "thinking_delta": ("thinking", "thinking"),
    "signature_delta": ("thinking", "signature"),
    "citations_delta": ("text", "citation"),
    "input_json_delta": ("tool_use", "partial_json"),
}
"""Kinds of pieces: the type of block that they belong to, and the field that they bring."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ToolUse:
    """A tool call that Claude asks for.

    ``problem`` is a sentence if the call cannot be made as it is, because its input is not a JSON object or its tool
    has no name; ``input`` is then empty, here and in the content that goes back.
    """

    id: str
    name: str
    input: Mapping[str, Any]
    problem: str = ""


@dataclass(kw_only=True, slots=True)
class _Block:
    """A block that is still arriving."""

    index: int
    type: str
    opening: dict[str, Any]
    pieces: list[str] = field(default_factory=list[str])
    signature: str = ""
    citations: list[Any] = field(default_factory=list[Any])
    is_open: bool = True

    def takes(self, of_type: str) -> bool:
        """Return whether the block takes pieces for blocks of a type; tools of the provider are called as ours are."""
        return self.type == of_type or (of_type == "tool_use" and self.type.endswith("tool_use"))


class ContentBlocks:
    """The blocks of one answer.

    Args:
        taken_ids: ids of tool calls that the conversation has already; a call with one of them gets a new one.
    """

    def __init__(self, taken_ids: Collection[str] = ()) -> None:
        self._taken_ids = set(taken_ids)
        self._blocks: list[_Block] = []
        self.problems: list[str] = []

    def open(self, index: object, opening: object) -> None:
        """Begin a block; an index that is missing or used again means the next one."""
        if not isinstance(opening, Mapping):
            return  # its pieces will begin it
        kind = opening.get("type")
        if not isinstance(kind, str) or not kind:
            kind = next((name for name in _TEXT_OF if isinstance(opening.get(name), str)), "")
        if not kind:
            self.problems.append("a block without a type was left out")
            return
        last = self._at(index)
        is_repeated = last is not None and last.is_open and last.opening == opening and not last.pieces
        if not is_repeated:
            self._begin(index, kind, dict(opening))

    def add(self, index: object, delta: object) -> None:
        """Add a piece to a block; unknown kinds of pieces add nothing."""
        if not isinstance(delta, Mapping):
            return
        kind = delta.get("type")
        if kind is None:
            kind = next((each for each, (_, name) in _PIECES.items() if name in delta), None)
        if not isinstance(kind, str) or kind not in _PIECES:
            return
        of_type, name = _PIECES[kind]
        piece = delta.get(name)
        if piece is None or piece == "":
            return
        block = self._at(index)
        if block is None or not block.takes(of_type):
            if of_type == "tool_use":
                self.problems.append("the input of a tool call came without the call")
                return
            block = self._begin(index, of_type, {"type": of_type})
        if kind == "citations_delta":
            block.citations.append(piece)
        elif not isinstance(piece, str):
            self.problems.append(f"a piece of a block was left out, whose {name} is not text")
        elif kind == "signature_delta":
            block.signature = piece
        else:
            block.pieces.append(piece)

    def close(self, index: object) -> None:
        """End a block."""
        block = self._at(index)
        if block is not None:
            block.is_open = False

    def finish(self) -> tuple[list[dict[str, Any]], list[ToolUse]]:
        """Return the blocks as they go back to the API, and the tool calls among them."""
        content: list[dict[str, Any]] = []
        tool_uses: list[ToolUse] = []
        for block in sorted(self._blocks, key=lambda each: each.index):
            try:
                whole = _well_formed(self._whole(block))
                if block.type == "tool_use":
                    whole, tool_use = self._called(whole)
                    tool_uses.append(tool_use)
            except ValueError as exc:
                self.problems.append(f"a block was left out: {exc}")
                continue
            content.append(whole)
        return content, tool_uses

    def _at(self, index: object) -> _Block | None:
        """Return the block that an event is about: the latest of its index, or the latest of all."""
        if type(index) is not int:
            return self._blocks[-1] if self._blocks else None
        return next((block for block in reversed(self._blocks) if block.index == index), None)

    def _begin(self, index: object, kind: str, opening: dict[str, Any]) -> _Block:
        known = index if type(index) is int else max((block.index for block in self._blocks), default=-1) + 1
        block = _Block(index=known, type=kind, opening=opening)
        self._blocks.append(block)
        return block

    def _whole(self, block: _Block) -> dict[str, Any]:
        whole = {**block.opening, "type": block.type}
        if name := _TEXT_OF.get(block.type):
            begun = whole.get(name)
            whole[name] = (begun if isinstance(begun, str) else "") + "".join(block.pieces)
        elif block.pieces:
            whole["input"] = "".join(block.pieces)
        if block.type == "thinking":
            signature = block.signature or whole.get("signature")
            whole["signature"] = signature if isinstance(signature, str) else ""
        if block.citations:
            begun = whole.get("citations")
            whole["citations"] = [*(begun if isinstance(begun, list) else ()), *block.citations]
        if block.type != "tool_use" and block.takes("tool_use"):
            whole["input"], _ = _input(whole.get("input"))
        return whole

    def _called(self, whole: dict[str, Any]) -> tuple[dict[str, Any], ToolUse]:
        """Return a call with an id of its own, a name and an input, and with what is wrong with them."""
        called_with, problem = _input(whole.get("input"))
        name = whole.get("name")
        if not isinstance(name, str) or not name or len(name) > _MAX_NAME_CHARACTERS:
            name, problem = _UNNAMED, "The call does not name a tool."
        call_id = whole.get("id")
        if not isinstance(call_id, str) or not call_id or call_id in self._taken_ids:
            call_id = f"toolu_{uuid.uuid4().hex}"
        self._taken_ids.add(call_id)
        whole = {**whole, "id": call_id, "name": name, "input": called_with}
        return whole, ToolUse(id=call_id, name=name, input=called_with, problem=problem)


def has_output(content: Sequence[Mapping[str, Any]]) -> bool:
    """Return whether a model wrote something: any block but a text block without text."""
    return any(block.get("type") != "text" or block.get("text") for block in content)


def _input(written: object) -> tuple[dict[str, Any], str]:
    """Read the input of a tool call: an object, or its JSON; the second value is a sentence if it is neither."""
    value = written
    if isinstance(written, str):
        try:
            value = read_json(written or "{}")
        except UnreadableJsonError as exc:
            return {}, f"The input of the call {exc}."
        except RecursionError:
            return {}, "The input of the call is nested too deeply."
    if value is None:
        return {}, ""
    if not isinstance(value, dict):
        return {}, "The input of the call is not a JSON object."
    try:
        return _well_formed(value), ""
    except ValueError as exc:
        return {}, f"The input of the call cannot be read: {exc}."


def _well_formed(block: dict[str, Any]) -> dict[str, Any]:
    """Return a block that can be written as UTF-8: halves of surrogate pairs are joined or replaced.

    Raises:
        ValueError: it is nested too deeply.
    """
    return {_mended(name): _walked(value, 1) for name, value in block.items()}


def _walked(value: Any, depth: int) -> Any:  # noqa: ANN401 - any JSON value
    if depth > MAX_DEPTH:
        raise ValueError("it is nested too deeply")
    if isinstance(value, str):
        return _mended(value)
    if isinstance(value, Mapping):
        return {_mended(name): _walked(each, depth + 1) for name, each in value.items()}
    if isinstance(value, list):
        return [_walked(each, depth + 1) for each in value]
    return value


def _mended(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        # Pieces may cut a pair in two; a half that stays alone has no UTF-8.
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text
