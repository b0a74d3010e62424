"""Input tokens of a request, without asking the API.

Four figures, none of them exact: an upper bound for every tokenizer, a lower bound by the words, a likely estimate, and
the margin to add to the API's own count. They count what reaches the model: ``system``, ``tools``, ``messages`` and
``output_config``. A count from elsewhere is plausible if it lies between the two bounds.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from budget_tools.core.errors import InvalidArgumentError

# The model's tokenizer works on bytes: a token of text has at least one. Measured over twenty hostile samples (emoji,
# base64, rare scripts, control characters), current models came to one token a byte at the very most.
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

MOST_PROMPT_TOKENS = 1_000_000
"""Longest prompt of any Claude model; the API refuses a longer one (Anthropic, "Context windows")."""

# The count endpoint is documented as an estimate that may differ by a small amount (Anthropic, "Token counting").
_MARGIN_PERCENT = 2
_MARGIN_TOKENS = 64

# No tokenizer in use joins two words, and prose has four tokens to three words or more. A quarter is left for the few
# words that are cut here and not there ("don't").
_WORD = re.compile(r"[0-9A-Za-z_\u0080-\U0010ffff]+")
_FEWEST_TOKENS_NUMERATOR, _WORDS_DENOMINATOR = 3, 4

# Scripts without spaces, and long runs of letters, look like one word: texts by people have at most this many bytes a
# token on average.
_MOST_WORD_BYTES_PER_TOKEN = 16

# Tables and code have words of one letter; this is the most that is demanded of a count for any text.
_FEWEST_CHARACTERS_PER_TOKEN = 4

_COUNTED_FIELDS = ("system", "tools", "messages", "output_config")


def most_input_tokens(request: Mapping[str, Any]) -> int:
    """Bound the input tokens of a Messages request from above, offline.

    Text counts as its UTF-8 bytes in JSON, an image as the most that any image may cost. A PDF, or a document by
    reference, has as many tokens as its pages, which only the API sees: the request is then bounded by the longest
    possible prompt.

    Raises:
        InvalidArgumentError: the request is not valid JSON text.
    """
    size = _measure(request)
    if size.has_unseen:
        return MOST_PROMPT_TOKENS
    return size.text_bytes * _MOST_TOKENS_PER_BYTE + size.images * MOST_TOKENS_PER_IMAGE + _FRAME_TOKENS


def likely_input_tokens(request: Mapping[str, Any]) -> int:
    """Estimate the input tokens of a Messages request, offline; the truth may lie on either side.

    If a document's pages cannot be seen, the estimate is the bound.

    Raises:
        InvalidArgumentError: as for ``most_input_tokens``.
    """
    size = _measure(request)
    if size.has_unseen:
        return MOST_PROMPT_TOKENS
    text_tokens = -(-size.text_bytes * _LIKELY_TOKENS_NUMERATOR // _LIKELY_BYTES_DENOMINATOR)
    return text_tokens + size.images * MOST_TOKENS_PER_IMAGE


def least_input_tokens(request: Mapping[str, Any]) -> int:
    """Bound the input tokens of a Messages request from below, offline: by its words, at least 1.

    Only what surely reaches the model as text counts. Thinking is left out (the API drops that of earlier turns), and
    so are images, documents that only the API can read, white space, punctuation, and the schemas of tools.
    """
    return _fewest(list(_texts_of(request)))


def is_enough(request: Mapping[str, Any], counted: int) -> bool:
    """Return whether the prompt of a request may have so few tokens; quicker than ``least_input_tokens`` if it may."""
    texts = list(_texts_of(request))
    return counted >= max(1, _most_demanded(texts)) or counted >= _fewest(texts)


def is_plausible_count(request: Mapping[str, Any], counted: int) -> bool:
    """Return whether the prompt of a request may have this many tokens, judged by its bytes.

    Raises:
        InvalidArgumentError: as for ``most_input_tokens``.
    """
    return counted <= most_input_tokens(request) and is_enough(request, counted)


def with_margin(counted: int) -> int:
    """Return a count of the API's count endpoint plus 2 % and 64 tokens, so that the billed input does not pass it.

    Raises:
        InvalidArgumentError: the count is not a whole number, or negative.
    """
    if type(counted) is not int or counted < 0:
        raise InvalidArgumentError("A token count must be a whole number, 0 or more.")
    return counted - (-counted * _MARGIN_PERCENT // 100) + _MARGIN_TOKENS


class _Size(NamedTuple):
    """Size of a request: bytes of text as JSON, images beside it, and whether it has documents unreadable here."""

    text_bytes: int
    images: int
    has_unseen: bool


class _Beside:
    """Counts of the parts besides the text, found while a request is walked."""

    images = 0
    unseen = 0


def _measure(request: Mapping[str, Any]) -> _Size:
    counted = {name: request[name] for name in _COUNTED_FIELDS if request.get(name) is not None}
    beside = _Beside()
    try:
        counted["messages"] = _text_in(counted.get("messages"), beside)
        text = json.dumps(counted, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        return _Size(len(text.encode()), beside.images, beside.unseen > 0)
    except UnicodeEncodeError as exc:
        raise InvalidArgumentError(
            "The request holds half of a surrogate pair, which is no valid text: remove or replace that character."
        ) from exc
    except RecursionError as exc:
        raise InvalidArgumentError("The request is nested too deeply to be counted.") from exc
    except (TypeError, ValueError) as exc:
        raise InvalidArgumentError("The request holds values that JSON cannot carry, so it cannot be counted.") from exc


def _text_in(content: Any, beside: _Beside) -> Any:  # noqa: ANN401 - text or a list, as the host sent it
    if not isinstance(content, list | tuple):
        return content
    return [_text_of(block, beside) for block in content]


def _text_of(block: Any, beside: _Beside) -> Any:  # noqa: ANN401 - a message or block as the host sent it
    """Return a copy of a message or block without the parts that are not text, and count those.

    Only places where the API reads content blocks are walked. A part that merely looks like an image elsewhere, in a
    tool's input for instance, is text to the API and is counted as text.
    """
    if not isinstance(block, Mapping):
        return block
    match block.get("type"):
        case "image":
            beside.images += 1
            return {"type": "image"}
        case "document":
            return _text_of_document(block, beside)
        case None | "tool_result":
            return {**block, "content": _text_in(block.get("content"), beside)}
        case _:
            return block


def _text_of_document(block: Mapping[str, Any], beside: _Beside) -> Mapping[str, Any]:
    match block.get("source"):
        case {"type": "text"}:
            return block
        case {"type": "content", "content": content, **rest}:
            return {**block, "source": {**rest, "content": _text_in(content, beside)}}
        case _:
            beside.unseen += 1
            return {"type": "document"}


def _fewest(texts: Sequence[str]) -> int:
    words = size = 0
    for text in texts:
        found = _WORD.findall(text)
        words += len(found)
        # Half of a surrogate pair has no UTF-8; the rest is counted all the same.
        size += len("".join(found).encode(errors="replace"))
    by_words = words * _FEWEST_TOKENS_NUMERATOR // _WORDS_DENOMINATOR
    return max(1, min(max(by_words, size // _MOST_WORD_BYTES_PER_TOKEN), _most_demanded(texts)))


def _most_demanded(texts: Sequence[str]) -> int:
    return sum(map(len, texts)) // _FEWEST_CHARACTERS_PER_TOKEN


def _texts_of(request: Mapping[str, Any]) -> Iterator[str]:
    """Yield the texts that the model surely reads; parts in a form that the API refuses yield nothing."""
    yield from _texts_in(request.get("system"))
    messages = request.get("messages")
    for message in messages if isinstance(messages, list | tuple) else ():
        if isinstance(message, Mapping):
            yield from _texts_in(message.get("content"))
    tools, choice = request.get("tools"), request.get("tool_choice")
    if isinstance(choice, Mapping) and choice.get("type") == "none":
        return
    for tool in tools if isinstance(tools, list | tuple) else ():
        if isinstance(tool, Mapping) and not tool.get("defer_loading"):
            yield from (each for each in (tool.get("name"), tool.get("description")) if isinstance(each, str))


def _texts_in(content: Any) -> Iterator[str]:  # noqa: ANN401 - text or a list of blocks, as the host sent it
    if isinstance(content, str):
        yield content
        return
    for block in content if isinstance(content, list | tuple) else ():
        match block:
            case {"type": "text", "text": str(text)}:
                yield text
            case {"type": "tool_use", "name": str(name), **rest}:
                yield name
                yield json.dumps(rest.get("input"), ensure_ascii=False, default=str)
            case {"type": "tool_result", "content": inner}:
                yield from _texts_in(inner)
            case {"type": "document", "source": {"type": "text", "data": str(text)}}:
                yield text
            case _:
                pass
