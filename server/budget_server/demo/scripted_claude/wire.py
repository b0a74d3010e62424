"""The wire: what the real Messages API would write for an answer, as one JSON object or as server-sent events.

The SDK and the code that counts money must not be able to tell a scripted answer from a real one by its form, so this
module owns every field, its order and the split of usage between the first and the last event. It composes bytes and
sends none.
"""

import base64
import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self, cast

from budget_server.demo.scripted_claude.script import Fault, ToolCall, Turn

MESSAGES_PATH = "/v1/messages"
COUNT_TOKENS_PATH = "/v1/messages/count_tokens"

INPUT_BYTES_PER_TOKEN = 3
"""Input is counted at one token per this many UTF-8 bytes of JSON: believable, and far below the bytes themselves."""
OUTPUT_BYTES_PER_TOKEN = 4
"""Output is counted at one token per this many UTF-8 bytes of thinking, text and tool input."""

_PIECES_PER_BLOCK = 6
_ERROR_TYPES = {
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    409: "conflict_error",
    413: "request_too_large",
    429: "rate_limit_error",
    504: "timeout_error",
    529: "overloaded_error",
}


@dataclass(frozen=True, kw_only=True)
class _Block:
    """A content block: how it opens in a stream, the deltas that fill it, and what it is as a whole."""

    opening: dict[str, Any]
    deltas: list[dict[str, Any]]
    whole: dict[str, Any]

    @classmethod
    def thinking(cls, thinking: str, model: str) -> Self:
        signature = sign(thinking, model)
        return cls(
            opening={"type": "thinking", "thinking": "", "signature": ""},
            deltas=[
                *({"type": "thinking_delta", "thinking": piece} for piece in _split(thinking)),
                {"type": "signature_delta", "signature": signature},
            ],
            whole={"type": "thinking", "thinking": thinking, "signature": signature},
        )

    @classmethod
    def text(cls, text: str) -> Self:
        return cls(
            opening={"type": "text", "text": ""},
            deltas=[{"type": "text_delta", "text": piece} for piece in _split(text)],
            whole={"type": "text", "text": text},
        )

    @classmethod
    def tool_use(cls, call: ToolCall, call_id: str, input_json: str, *, complete: bool) -> Self:
        opening: dict[str, Any] = {"type": "tool_use", "id": call_id, "name": call.name, "input": {}}
        # The API sends an empty piece first.
        pieces = ["", *_split(input_json)]
        return cls(
            opening=opening,
            deltas=[{"type": "input_json_delta", "partial_json": piece} for piece in pieces],
            # A cut input is no JSON object, so the JSON answer shows an empty one.
            whole={**opening, "input": dict(call.input)} if complete else opening,
        )


@dataclass(frozen=True, kw_only=True)
class Message:
    """The answer to one request, before it is put on the wire."""

    head: dict[str, Any]
    blocks: list[_Block]
    stop: dict[str, Any]
    first_usage: dict[str, Any]
    final_usage: dict[str, Any]

    @classmethod
    def compose(cls, turn: Turn, body: dict[str, Any], *, id_suffix: str) -> Self:
        """Write the turn's blocks within ``max_tokens``, and its usage."""
        max_tokens: int = body["max_tokens"]
        stated_output_tokens = turn.usage.output_tokens
        # Usage that fits and was given exactly is believed; anything else is measured, and cut where it must be.
        too_much_was_stated = stated_output_tokens is not None and stated_output_tokens > max_tokens
        measured = stated_output_tokens is None or too_much_was_stated
        room_bytes = max_tokens * OUTPUT_BYTES_PER_TOKEN if measured else None
        blocks: list[_Block] = []
        output_bytes = 0
        was_cut = too_much_was_stated

        def take(part: str) -> str:
            nonlocal output_bytes, was_cut
            raw = part.encode()
            kept = raw if room_bytes is None else raw[: room_bytes - output_bytes]
            output_bytes += len(kept)
            was_cut = was_cut or len(kept) < len(raw)
            return kept.decode(errors="ignore")

        if thinking := take(turn.thinking):
            blocks.append(_Block.thinking(thinking, body["model"]))
        thinking_tokens = math.ceil(output_bytes / OUTPUT_BYTES_PER_TOKEN)
        if text := take(turn.text):
            blocks.append(_Block.text(text))
        tool_calls = turn.tool_calls if turn.ignores_tool_choice or not _calls_no_tools(body) else ()
        for number, call in enumerate(tool_calls, start=1):
            written = to_json(call.input).decode()
            if input_json := take(written):
                call_id = f"toolu_scripted_{id_suffix}_{number}"
                blocks.append(_Block.tool_use(call, call_id, input_json, complete=input_json == written))

        if measured:
            output_tokens = min(max_tokens, max(1, math.ceil(output_bytes / OUTPUT_BYTES_PER_TOKEN)))
        else:
            assert stated_output_tokens is not None
            output_tokens = stated_output_tokens
        if too_much_was_stated:
            output_tokens = max_tokens
        stop_reason = turn.stop_reason or ("tool_use" if tool_calls else "end_turn")
        if stop_reason == "tool_use" and len(tool_calls) < len(turn.tool_calls):
            stop_reason = "end_turn"
        if was_cut:
            stop_reason = "max_tokens"
        first_usage, final_usage = _usage(turn, body, output_tokens=output_tokens, thinking_tokens=thinking_tokens)
        stop: dict[str, Any] = {"stop_reason": stop_reason, "stop_sequence": None}
        if stop_reason == "refusal":
            stop["stop_details"] = {"type": "refusal", "category": None, "explanation": None}
        head = {"id": f"msg_scripted_{id_suffix}", "type": "message", "role": "assistant", "model": body["model"]}
        return cls(head=head, blocks=blocks, stop=stop, first_usage=first_usage, final_usage=final_usage)

    def as_json(self, *, with_usage: bool) -> dict[str, Any]:
        """Return the message as one JSON object."""
        usage = {"usage": {**self.first_usage, **self.final_usage}} if with_usage else {}
        return {**self.head, "content": [block.whole for block in self.blocks], **self.stop, **usage}

    def _events(self, *, with_usage: bool) -> tuple[list[bytes], list[bytes], list[bytes]]:
        """Return the events before the content, of the content, and after it."""
        opening: dict[str, Any] = {**self.head, "content": [], "stop_reason": None, "stop_sequence": None}
        closing: dict[str, Any] = {"type": "message_delta", "delta": self.stop}
        if with_usage:
            opening["usage"] = self.first_usage
            closing["usage"] = self.final_usage
        content: list[bytes] = []
        for index, block in enumerate(self.blocks):
            content.append(_event({"type": "content_block_start", "index": index, "content_block": block.opening}))
            content.extend(
                _event({"type": "content_block_delta", "index": index, "delta": delta}) for delta in block.deltas
            )
            content.append(_event({"type": "content_block_stop", "index": index}))
        return (
            [_event({"type": "message_start", "message": opening}), _event({"type": "ping"})],
            content,
            [_event(closing), _event({"type": "message_stop"})],
        )

    def stream_pieces(self, fault: Fault | None, *, request_id: str) -> tuple[list[bytes], int]:
        """Return the events that a fault leaves, and the index of the first one of the second half."""
        start, content, end = self._events(with_usage=fault != "no_usage")
        first_half = [*start, *content[: len(content) // 2]]
        error = _event(error_envelope("overloaded_error", "Overloaded, as the script says.", request_id=request_id))
        match fault:
            case "empty_stream":
                pieces = []
            case "error_event_first":
                pieces = [error]
            case "error_event":
                pieces = [*first_half, error]
            case "bad_json_event":
                pieces = [*first_half, b'event: content_block_delta\ndata: {"type": "content_block_de\n\n']
            case "no_message_delta":
                pieces = [*start, *content]
            case "no_message_stop":
                pieces = [*start, *content, *end[:-1]]
            case _:
                pieces = [*start, *content, *end]
        return pieces, min(len(first_half), len(pieces))


def error_envelope(error_type: str, message: str, *, request_id: str, error_code: str = "") -> dict[str, Any]:
    """Return what the API sends as the body of an error, and as the data of an ``error`` event."""
    error: dict[str, Any] = {"type": error_type, "message": message}
    if error_code:
        error["details"] = {"error_code": error_code}
    return {"type": "error", "error": error, "request_id": request_id}


def error_type_of(status: int) -> str:
    """Return the type that the API gives an error of this HTTP status."""
    return _ERROR_TYPES.get(status, "invalid_request_error" if status < 500 else "api_error")


def count_input_tokens(body: Mapping[str, Any]) -> int:
    """Count a request's input as this endpoint does, for its usage and for ``count_tokens`` alike.

    Breakpoints of the prompt cache are no part of it.
    """
    counted: dict[str, Any] = {name: body[name] for name in ("system", "tools", "messages") if name in body}
    for name in ("system", "tools", "messages"):
        if isinstance(counted.get(name), list):
            counted[name] = [without_cache_control(each) for each in counted[name]]
    return math.ceil(len(to_json(counted)) / INPUT_BYTES_PER_TOKEN)


def without_cache_control(holder: Any) -> Any:  # noqa: ANN401 - whatever stands where a block should
    """Copy a message, block or tool without its breakpoints; what tools are called with is left alone."""
    if not isinstance(holder, dict):
        return holder
    bare = {name: value for name, value in cast("dict[str, Any]", holder).items() if name != "cache_control"}
    if isinstance(bare.get("content"), list):
        bare["content"] = [without_cache_control(each) for each in bare["content"]]
    return bare


def _calls_no_tools(body: Mapping[str, Any]) -> bool:
    choice = body.get("tool_choice")
    return isinstance(choice, Mapping) and choice.get("type") == "none"


def _usage(
    turn: Turn, body: dict[str, Any], *, output_tokens: int, thinking_tokens: int
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the usage of message_start and that of message_delta.

    The split follows the API: only the first says where and how the request was served and which cache was written, and
    its output is a placeholder; the second repeats the input, and it alone knows the output.
    """
    usage = turn.usage
    cached_tokens = usage.cache_creation_input_tokens + usage.cache_read_input_tokens
    input_tokens = usage.input_tokens
    if input_tokens is None:
        input_tokens = max(0, count_input_tokens(body) - cached_tokens)
    both = {
        "input_tokens": input_tokens,
        "cache_creation_input_tokens": usage.cache_creation_input_tokens,
        "cache_read_input_tokens": usage.cache_read_input_tokens,
    }
    first = {
        **both,
        "cache_creation": {
            "ephemeral_5m_input_tokens": usage.cache_creation_5m_input_tokens,
            "ephemeral_1h_input_tokens": usage.cache_creation_1h_input_tokens,
        },
        "output_tokens": min(1, output_tokens),
        "service_tier": usage.service_tier,
        "inference_geo": usage.inference_geo or body.get("inference_geo") or "global",
    }
    if speed := usage.speed or body.get("speed"):
        first["speed"] = speed
    final: dict[str, Any] = {**both, "output_tokens": output_tokens}
    if usage.thinking_tokens is not None or thinking_tokens:
        stated = thinking_tokens if usage.thinking_tokens is None else usage.thinking_tokens
        final["output_tokens_details"] = {"thinking_tokens": min(stated, output_tokens)}
    if usage.web_search_requests or usage.web_fetch_requests:
        final["server_tool_use"] = {
            "web_search_requests": usage.web_search_requests,
            "web_fetch_requests": usage.web_fetch_requests,
        }
    return first, final


def blocks_of(message: dict[str, Any]) -> list[dict[str, Any]]:
    """Return a message's content as blocks: text alone is short for one text block."""
    content: Any = message.get("content")
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    return cast("list[dict[str, Any]]", content) if isinstance(content, list) else []


def sign(thinking: str, model: str) -> str:
    """Sign thinking for a model; the same everywhere, so that a conversation may go on at another endpoint."""
    digest = hashlib.sha256(f"{model}\n{thinking}".encode()).digest()
    return base64.b64encode(b"scripted:" + digest).decode()


def _split(text: str) -> list[str]:
    """Cut text into a few pieces, two at least where it has two characters."""
    size = max(1, math.ceil(len(text) / _PIECES_PER_BLOCK))
    return [text[start : start + size] for start in range(0, len(text), size)]


def to_json(value: Mapping[str, Any]) -> bytes:
    """Write JSON as the API does, without spaces."""
    # Half of a surrogate pair is legal in JSON and has no UTF-8: count and send it as "?".
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode(errors="replace")


def _event(data: dict[str, Any]) -> bytes:
    """Write a server-sent event: the SDK drops one without a name, and the name repeats the data's type."""
    return b"event: " + str(data["type"]).encode() + b"\ndata: " + to_json(data) + b"\n\n"
