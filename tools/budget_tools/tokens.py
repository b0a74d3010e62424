"""How many input tokens a request has, without asking the API.

Three figures, none of them exact: a bound that no tokenizer passes, an estimate of what is likely, and the margin that
the API's own count deserves. They count what reaches the model: ``system``, ``tools``, ``messages`` and
``output_config``.
"""

import json
from collections.abc import Mapping
from typing import Any

from budget_tools.errors import InvalidArgumentError

# The model's tokenizer works on bytes: no token of text is shorter than one. Measured over twenty hostile samples
# (emoji, base64, rare scripts, control characters), current models came to one token a byte at the very most.
_MOST_TOKENS_PER_BYTE = 1

# What the API adds around a request, unseen by the client: the frame of the conversation and, with tools, their
# preamble. The documentation's examples and measurements lie between 10 and 500 tokens.
_FRAME_TOKENS = 600

# English, German, code and JSON lie between 2 and 3.5 bytes a token on the tokenizer of Opus 4.7 and later, so 2.5
# is taken: 5 bytes to 2 tokens. Four characters a token, an older rule of thumb, counts too few on all of them.
_LIKELY_TOKENS_NUMERATOR, _LIKELY_BYTES_DENOMINATOR = 2, 5

# A larger image is scaled down to 4,784 patches of 28 by 28 pixels, one token each, on the high-resolution models (Opus
# 4.7 and later); older ones stop at 1,568 (Anthropic, "Vision", image size).
MOST_TOKENS_PER_IMAGE = 4_784

# The count endpoint is documented as an estimate that may differ by a small amount (Anthropic, "Token counting").
_MARGIN_PERCENT = 2
_MARGIN_TOKENS = 64

_COUNTED_FIELDS = ("system", "tools", "messages", "output_config")


def most_input_tokens(request: Mapping[str, Any]) -> int:
    """Bound the input tokens of a Messages request from above, offline.

    Text counts as its UTF-8 bytes in JSON, an image as the most that any image may cost.

    Raises:
        InvalidArgumentError: the request holds a document that only counting can bound, or is not valid JSON text.
    """
    size_bytes, images = _measure(request)
    return size_bytes * _MOST_TOKENS_PER_BYTE + images * MOST_TOKENS_PER_IMAGE + _FRAME_TOKENS


def likely_input_tokens(request: Mapping[str, Any]) -> int:
    """Estimate the input tokens of a Messages request, offline; the truth may lie on either side.

    Raises:
        InvalidArgumentError: as for ``most_input_tokens``.
    """
    size_bytes, images = _measure(request)
    text_tokens = -(-size_bytes * _LIKELY_TOKENS_NUMERATOR // _LIKELY_BYTES_DENOMINATOR)
    return text_tokens + images * MOST_TOKENS_PER_IMAGE


def with_margin(counted: int) -> int:
    """Raise a count of the API's count endpoint by 2 % and 64 tokens, so that the billed input does not pass it.

    Raises:
        InvalidArgumentError: the count is not a whole number, or negative.
    """
    if type(counted) is not int or counted < 0:
        raise InvalidArgumentError("A token count must be a whole number, 0 or more.")
    return counted - (-counted * _MARGIN_PERCENT // 100) + _MARGIN_TOKENS


def _measure(request: Mapping[str, Any]) -> tuple[int, int]:
    """Return the bytes of the request's text as JSON, and how many images stand beside it."""
    counted = {name: request[name] for name in _COUNTED_FIELDS if request.get(name) is not None}
    try:
        counted["messages"], images = _without_images_in(counted.get("messages"))
        text = json.dumps(counted, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        return len(text.encode()), images
    except UnicodeEncodeError as exc:
        raise InvalidArgumentError(
            "The request holds half of a surrogate pair, which is no valid text: remove or replace that character."
        ) from exc
    except RecursionError as exc:
        raise InvalidArgumentError("The request is nested too deeply to be counted.") from exc
    except (TypeError, ValueError) as exc:
        raise InvalidArgumentError("The request holds values that JSON cannot carry, so it cannot be counted.") from exc


def _without_images(block: Any) -> tuple[Any, int]:  # noqa: ANN401 - a message or block as the host sent it
    """Copy a message or block with its images' data taken out, and count them.

    Only places where the API reads content blocks are walked. What merely looks like an image elsewhere, in a tool's
    input for instance, is text to the API and is counted as text.
    """
    if not isinstance(block, Mapping):
        return block, 0
    match block.get("type"):
        case "image":
            return {"type": "image"}, 1
        case "document":
            return _without_images_in_document(block)
        case None | "tool_result":
            kept, images = _without_images_in(block.get("content"))
            return {**block, "content": kept}, images
        case _:
            return block, 0


def _without_images_in_document(block: Mapping[str, Any]) -> tuple[Mapping[str, Any], int]:
    match block.get("source"):
        case {"type": "text"}:
            return block, 0
        case {"type": "content", "content": content, **rest}:
            kept, images = _without_images_in(content)
            return {**block, "source": {**rest, "content": kept}}, images
        case _:
            raise InvalidArgumentError(
                "A PDF or a document by reference cannot be bounded without the API's token count: give its text "
                "instead, give the number of input tokens, or set ANTHROPIC_API_KEY."
            )


def _without_images_in(content: Any) -> tuple[Any, int]:  # noqa: ANN401 - text or a list, as the host sent it
    if not isinstance(content, list | tuple):
        return content, 0
    walked = [_without_images(block) for block in content]
    return [kept for kept, _ in walked], sum(images for _, images in walked)
