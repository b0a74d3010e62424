"""Results of tools as content blocks that the Messages API accepts, limited to what is worth its price.

Every block is paid for again on every later turn, and one block that the API refuses would refuse the whole
conversation from then on. Content that cannot be passed on becomes one line, so that Claude knows of it.
"""

import base64
import binascii
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mcp.types import (
    AudioContent,
    CallToolResult,
    ContentBlock,
    EmbeddedResource,
    ImageContent,
    ResourceLink,
    TextContent,
    TextResourceContents,
)

MAX_RESULT_CHARACTERS = 100_000
"""Maximum length of the text of one result, all of its blocks together; longer texts are cut."""

MAX_TEXT_BLOCKS = 100
"""Maximum number of text blocks; more are merged into one, because each costs tokens of its own."""

MAX_IMAGES = 20
"""Maximum number of images of one result; with more in a request, the Messages API accepts only smaller ones."""

MAX_IMAGE_CHARACTERS = 5_000_000
"""Longest base64 of an image; the Messages API refuses larger ones, and with them the whole conversation."""

MAX_IMAGES_CHARACTERS = 15_000_000
"""Longest base64 of all images of a result; the Messages API accepts requests of 32 MB."""

MAX_LINE_CHARACTERS = 500
"""Longest line about something that cannot be passed on."""

Block = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class ToolOutcome:
    """The outcome of a tool call for Claude: content blocks of a ``tool_result``.

    ``was_called`` is false only if surely nothing was run, because the request never left.
    """

    content: Sequence[Block]
    is_error: bool
    was_called: bool = True


def outcome(result: CallToolResult) -> ToolOutcome:
    """Convert a result to the form that the Messages API accepts."""
    blocks = [block for content in result.content if (block := _block(content)) is not None]
    structured = result.structured_content
    if structured is not None and not _is_said(structured, [block["text"] for block in blocks if "text" in block]):
        blocks.append(_text(json.dumps(structured, ensure_ascii=False)))
    return ToolOutcome(content=_limited(blocks) or [_text("(no output)")], is_error=bool(result.is_error))


def failed(message: str, *, was_called: bool = True) -> ToolOutcome:
    """Return the outcome that a call failed, with the reason for Claude."""
    return ToolOutcome(content=_limited([_text(message)]), is_error=True, was_called=was_called)


# -- what is passed on ------------------------------------------------------------------------------------------------


def _block(content: ContentBlock) -> Block | None:
    """Convert one content to a block; text of only white space, which the Messages API refuses, to ``None``."""
    if isinstance(content, TextContent):
        return _text(content.text) if content.text.strip() else None
    if isinstance(content, EmbeddedResource) and isinstance(content.resource, TextResourceContents):
        return _text(content.resource.text) if content.resource.text.strip() else None
    if isinstance(content, ImageContent):
        return _image(content)
    return _text(_line(content))


def _text(text: str) -> Block:
    return {"type": "text", "text": text}


def _image(content: ImageContent) -> Block:
    """Convert a picture under the type that its bytes have: the Messages API refuses a wrong one."""
    data = "".join(content.data.split())
    said = f"image, {content.mime_type}, {_size(data)}"
    if len(data) > MAX_IMAGE_CHARACTERS:
        return _text(_shortened(f"({said}: too large to be passed on)"))
    try:
        image_type = _image_type(base64.b64decode(data, validate=True))
    except (binascii.Error, ValueError):
        image_type = None
    if image_type is None:
        return _text(_shortened(f"({said}: not a picture that can be passed on)"))
    return {"type": "image", "source": {"type": "base64", "media_type": image_type, "data": data}}


def _image_type(picture: bytes) -> str | None:
    """Return the type of a picture from its first bytes; ``None`` for types that the Messages API does not accept."""
    if picture.startswith(b"\x89PNG\r\n\x1a\n"):
        return "image/png"
    if picture.startswith(b"\xff\xd8\xff"):
        return "image/jpeg"
    if picture.startswith((b"GIF87a", b"GIF89a")):
        return "image/gif"
    if picture[:4] == b"RIFF" and picture[8:12] == b"WEBP":
        return "image/webp"
    return None


# -- what is only described -------------------------------------------------------------------------------------------


def _line(content: AudioContent | ResourceLink | EmbeddedResource | object) -> str:
    """Describe content in one line."""
    if isinstance(content, AudioContent):
        facts: Sequence[str | None] = ["audio", content.mime_type, _size(content.data)]
    elif isinstance(content, ResourceLink):
        size = f"{content.size} bytes" if content.size is not None else None
        facts = ["resource link", content.name, content.uri, content.mime_type, size]
    elif isinstance(content, EmbeddedResource) and not isinstance(content.resource, TextResourceContents):
        facts = ["resource", content.resource.uri, content.resource.mime_type, _size(content.resource.blob)]
    else:
        facts = [str(getattr(content, "type", "content"))]
    end = "" if isinstance(content, ResourceLink) else ": cannot be passed on"
    return _shortened(f"({', '.join(fact for fact in facts if fact)}{end})")


def _size(base64_data: str) -> str:
    return f"{len(base64_data.rstrip('=')) * 3 // 4} bytes"


def _shortened(line: str) -> str:
    line = " ".join(line.split())
    return line if len(line) <= MAX_LINE_CHARACTERS else f"{line[:MAX_LINE_CHARACTERS]}…)"


# -- how much ---------------------------------------------------------------------------------------------------------


def _limited(blocks: Sequence[Block]) -> list[Block]:
    """Return the blocks within the limits, in their order, and one line that describes the rest."""
    texts = [block["text"] for block in blocks if "text" in block]
    if len(texts) > MAX_TEXT_BLOCKS:
        blocks = [_text("\n".join(texts)), *(block for block in blocks if "text" not in block)]
    kept: list[Block] = []
    text_room, image_room, images, left_out = MAX_RESULT_CHARACTERS, MAX_IMAGES_CHARACTERS, 0, 0
    all_characters = sum(len(block["text"]) for block in blocks if "text" in block)
    for block in blocks:
        if "text" not in block:
            characters = len(block["source"]["data"])
            if images < MAX_IMAGES and characters <= image_room:
                images, image_room = images + 1, image_room - characters
                kept.append(block)
            else:
                left_out += 1
        elif text_room:
            text = block["text"]
            if len(text) > text_room or (len(text) == text_room and all_characters > MAX_RESULT_CHARACTERS):
                text = f"{text[:text_room]}\n(cut: {all_characters} characters in all)"
            text_room = max(text_room - len(block["text"]), 0)
            kept.append(_text(text))
    if left_out:
        kept.append(_text(f"({left_out} more images left out: {images + left_out} in all)"))
    return kept


# -- structured content -----------------------------------------------------------------------------------------------


def _is_said(structured: Mapping[str, Any], texts: Sequence[str]) -> bool:
    """Return whether the texts say the same already, as MCP asks servers to do (tools, structured content).

    Servers wrap values other than objects as ``{"result": …}`` and write a list as one text for each element.
    """
    values: list[Any] = [structured]
    if structured.keys() == {"result"}:
        values.append(structured["result"])
    return any(_says_all(texts, value) or any(_says(text, value) for text in texts) for value in values)


def _says_all(texts: Sequence[str], values: object) -> bool:
    if not isinstance(values, list) or len(texts) != len(values):
        return False
    return all(_says(text, value) for text, value in zip(texts, values, strict=True))


def _says(text: str, value: object) -> bool:
    if text == value:
        return True
    try:
        return bool(json.loads(text) == value)
    except (ValueError, RecursionError):
        return False
