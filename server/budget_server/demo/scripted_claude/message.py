"""The message: an answer as the API would give it, as the events of its stream.

The SDK and the code that counts money must not be able to tell a scripted answer from a real one by its form, so this
module owns every field, its order and the split of usage between the first and the last event. It knows neither how
events are written (`sse`) nor what a gateway does to them (`transformations`).
"""

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Self

from budget_server.demo.scripted_claude.script import Fault, ToolCall, Turn
from budget_server.demo.scripted_claude.wire import (
    OUTPUT_BYTES_PER_TOKEN,
    count_input_tokens,
    error_envelope,
    sign,
    to_json,
)

Event = dict[str, Any]
"""The data of a server-sent event, its type included."""

_PIECES_PER_BLOCK = 6
_UNBILLED_REFUSALS = frozenset({None, "cyber", "general_harms"})
"""Categories of a refusal before any output that are not billed ("Handling stop reasons")."""


@dataclass(frozen=True, kw_only=True)
class _Block:
    """A content block: how it opens in a stream, and the deltas that fill it."""

    opening: dict[str, Any]
    deltas: list[dict[str, Any]]

    @classmethod
    def thinking(cls, thinking: str, model: str) -> Self:
        return cls(
            opening={"type": "thinking", "thinking": "", "signature": ""},
            deltas=[
                *({"type": "thinking_delta", "thinking": piece} for piece in _split(thinking)),
                {"type": "signature_delta", "signature": sign(thinking, model)},
            ],
        )

    @classmethod
    def text(cls, text: str) -> Self:
        return cls(
            opening={"type": "text", "text": ""},
            deltas=[{"type": "text_delta", "text": piece} for piece in _split(text)],
        )

    @classmethod
    def tool_use(cls, call: ToolCall, call_id: str, input_json: str) -> Self:
        return cls(
            opening={"type": "tool_use", "id": call_id, "name": call.name, "input": {}},
            # The API sends an empty piece first.
            deltas=[{"type": "input_json_delta", "partial_json": piece} for piece in ("", *_split(input_json))],
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
    def compose(cls, turn: Turn, body: dict[str, Any], *, id_suffix: str, model: str = "") -> Self:
        """Write the turn's blocks within ``max_tokens``, and its usage.

        Args:
            turn: what is said.
            body: the request.
            id_suffix: ends every id of the answer.
            model: the model that answers, if it is not the one that was asked.
        """
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
            if input_json := take(to_json(call.input).decode()):
                blocks.append(_Block.tool_use(call, f"toolu_scripted_{id_suffix}_{number}", input_json))

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
            stop["stop_details"] = {"type": "refusal", "category": turn.refusal_category, "explanation": None}
        head = {
            "id": f"msg_scripted_{id_suffix}",
            "type": "message",
            "role": "assistant",
            "model": model or body["model"],
        }
        return cls(head=head, blocks=blocks, stop=stop, first_usage=first_usage, final_usage=final_usage)

    @property
    def usage(self) -> dict[str, Any]:
        """What the answer used, as the API reports it when it is whole."""
        return {**self.first_usage, **self.final_usage}

    @property
    def is_billed(self) -> bool:
        """Whether the API bills it: some refusals before any output are free."""
        is_refusal = self.stop["stop_reason"] == "refusal"
        return not (is_refusal and not self.blocks and self.stop["stop_details"]["category"] in _UNBILLED_REFUSALS)

    def events(self, *, with_usage: bool) -> list[Event]:
        """Return the whole stream, in the order of the API."""
        opening: dict[str, Any] = {**self.head, "content": [], "stop_reason": None, "stop_sequence": None}
        closing: Event = {"type": "message_delta", "delta": self.stop}
        if with_usage:
            opening["usage"] = self.first_usage
            closing["usage"] = self.final_usage
        events: list[Event] = [{"type": "message_start", "message": opening}, {"type": "ping"}]
        for index, block in enumerate(self.blocks):
            events.append({"type": "content_block_start", "index": index, "content_block": block.opening})
            events.extend({"type": "content_block_delta", "index": index, "delta": delta} for delta in block.deltas)
            events.append({"type": "content_block_stop", "index": index})
        return [*events, closing, {"type": "message_stop"}]


def as_one_object(events: Iterable[Event]) -> dict[str, Any]:
    """Join the events of a whole stream to the JSON object that answers a request without one."""
    message: dict[str, Any] = {}
    blocks: dict[int, dict[str, Any]] = {}
    inputs: dict[int, str] = {}
    for event in events:
        match event["type"]:
            case "message_start":
                message = {**event["message"]}
            case "content_block_start":
                blocks[event["index"]] = {**event["content_block"]}
            case "content_block_delta":
                block, delta = blocks[event["index"]], event["delta"]
                if delta["type"] == "input_json_delta":
                    inputs[event["index"]] = inputs.get(event["index"], "") + delta["partial_json"]
                else:
                    (name,) = delta.keys() - {"type"}
                    # Some gateways open text without text, and send null for a piece of it.
                    block[name] = block.get(name, "") + (delta[name] or "")
            case "message_delta":
                usage = {**(message.pop("usage", None) or {}), **(event.get("usage") or {})}
                message |= {**event["delta"], **({"usage": usage} if usage else {})}
    for index, written in inputs.items():
        blocks[index]["input"] = _parsed(written)
    return message | {"content": [blocks[index] for index in sorted(blocks)]}


def cut_short(events: list[Event], fault: Fault | None, *, request_id: str) -> tuple[list[Event | bytes], int]:
    """Return what a fault leaves of a stream, and the index of the first event of its second half.

    Bytes stand for a part that is not an event.
    """
    is_content = [event["type"].startswith("content_block_") for event in events]
    start = is_content.index(True) if any(is_content) else 2
    middle = start + sum(is_content) // 2
    error = error_envelope("overloaded_error", "Overloaded, as the script says.", request_id=request_id)
    left: list[Event | bytes]
    match fault:
        case "empty_stream":
            left = []
        case "error_event_first":
            left = [error]
        case "error_event":
            left = [*events[:middle], error]
        case "bad_json_event":
            left = [*events[:middle], b'event: content_block_delta\ndata: {"type": "content_block_de\n\n']
        case "no_message_delta":
            left = [event for event in events if event["type"] not in ("message_delta", "message_stop")]
        case "no_message_stop":
            left = [event for event in events if event["type"] != "message_stop"]
        case _:
            left = [*events]
    return left, min(middle, len(left))


def _calls_no_tools(body: Mapping[str, Any]) -> bool:
    choice = body.get("tool_choice")
    return isinstance(choice, Mapping) and choice.get("type") == "none"


def _parsed(input_json: str) -> Any:  # noqa: ANN401 - whatever a tool is called with
    try:
        return json.loads(input_json or "{}")
    except ValueError:
        return {}  # a cut input is no JSON object, so the JSON answer shows an empty one


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


def _split(text: str) -> list[str]:
    """Cut text into a few pieces, two at least where it has two characters."""
    size = max(1, math.ceil(len(text) / _PIECES_PER_BLOCK))
    return [text[start : start + size] for start in range(0, len(text), size)]
