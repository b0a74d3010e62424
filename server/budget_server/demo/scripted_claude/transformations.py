"""Transformations: what a gateway does to the stream of an answer on its way to the client.

Each takes the events of a whole stream and returns others; none of them knows what was billed. A profile is a few of
them one after another.
"""

import copy
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from budget_server.demo.scripted_claude.message import Event

Transformation = Callable[[list[Event]], list[Event]]

_INPUT_COUNTS = ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens")
_COUNTS = (*_INPUT_COUNTS, "output_tokens")


def transform(events: list[Event], transformations: Iterable[Transformation]) -> list[Event]:
    """Apply transformations one after another; the events that were given stay as they are."""
    transformed = copy.deepcopy(events)
    for each in transformations:
        transformed = each(transformed)
    return transformed


def _holder(event: Event) -> dict[str, Any]:
    """Return what has the usage of an event: the message in ``message_start``, the event itself otherwise."""
    holder: dict[str, Any] = event["message"] if event["type"] == "message_start" else event
    return holder


def _changing_usage(kind: str, change: Callable[[dict[str, Any]], object]) -> Transformation:
    """Build a transformation of the usage in events of one type."""

    def apply(events: list[Event]) -> list[Event]:
        for event in events:
            if event["type"] == kind and isinstance(usage := _holder(event).get("usage"), dict):
                change(usage)
        return events

    return apply


# -- usage ------------------------------------------------------------------------------------------------------------


def zero_usage(kind: str, counts: Iterable[str] = _COUNTS) -> Transformation:
    """Report 0 for counts, in ``message_start`` or in ``message_delta``."""
    names = tuple(counts)
    return _changing_usage(kind, lambda usage: usage.update(dict.fromkeys(names, 0)))


def zero_input(kind: str) -> Transformation:
    """Report a prompt of 0 tokens, in ``message_start`` or in ``message_delta``."""
    return zero_usage(kind, _INPUT_COUNTS)


def drop_input(kind: str) -> Transformation:
    """Leave the counts of the prompt out."""
    return _changing_usage(kind, lambda usage: [usage.pop(name, None) for name in _INPUT_COUNTS])


def drop_cache_counts(kind: str) -> Transformation:
    """Leave out what was read from the cache and written to it, as servers without a cache do."""
    names = ("cache_creation", "cache_creation_input_tokens", "cache_read_input_tokens")
    return _changing_usage(kind, lambda usage: [usage.pop(name, None) for name in names])


def null_cache_counts(kind: str) -> Transformation:
    """Report null for what was read from the cache and written to it."""
    return _changing_usage(
        kind, lambda usage: usage.update(dict.fromkeys(("cache_creation_input_tokens", "cache_read_input_tokens")))
    )


def add_usage(kind: str, fields: Mapping[str, object]) -> Transformation:
    """Report fields that the API does not have."""
    return _changing_usage(kind, lambda usage: usage.update(fields))


def drop_usage(events: list[Event]) -> list[Event]:
    """Report no usage anywhere."""
    for event in events:
        _holder(event).pop("usage", None)
    return events


def null_usage(events: list[Event]) -> list[Event]:
    """Report null as the usage, wherever there is some."""
    for event in events:
        if "usage" in _holder(event):
            _holder(event)["usage"] = None
    return events


def add_iterations(events: list[Event]) -> list[Event]:
    """Repeat the final usage as the single entry of ``iterations``, as the beta API does."""
    model = events[0]["message"].get("model")
    change = _changing_usage(
        "message_delta", lambda usage: usage.update(iterations=[{"type": "message", "model": model, **usage}])
    )
    return change(events)


# -- the order of events ----------------------------------------------------------------------------------------------


def drop(kind: str) -> Transformation:
    """Leave out the events of one type."""
    return lambda events: [event for event in events if event["type"] != kind]


def split_final_event(events: list[Event]) -> list[Event]:
    """Send a second ``message_delta`` that repeats the usage, and has no stop reason."""
    result: list[Event] = []
    for event in events:
        result.append(event)
        if event["type"] == "message_delta":
            result.append({**event, "delta": {}})
    return result


def send_blocks_whole(events: list[Event]) -> list[Event]:
    """Send the text of each block in one piece, in the event that opens it."""
    result: list[Event] = []
    for event in events:
        if event["type"] == "content_block_delta" and event["delta"]["type"] == "text_delta":
            opening = next(each for each in result if each.get("index") == event["index"])
            opening["content_block"]["text"] += event["delta"]["text"]
        else:
            result.append(event)
    return result


# -- content ----------------------------------------------------------------------------------------------------------


def stop_with(reason: str) -> Transformation:
    """Set one stop reason for every answer that would have ended by itself."""

    def apply(events: list[Event]) -> list[Event]:
        for event in events:
            if event["type"] == "message_delta" and event["delta"].get("stop_reason") in ("tool_use", "end_turn"):
                event["delta"]["stop_reason"] = reason
        return events

    return apply


def use_one_tool_id(events: list[Event]) -> list[Event]:
    """Set the id of every tool call of an answer to that of the first."""
    blocks = [event["content_block"] for event in events if event["type"] == "content_block_start"]
    calls = [block for block in blocks if block["type"] == "tool_use"]
    for call in calls:
        call["id"] = calls[0]["id"]
    return events


def break_tool_json(events: list[Event]) -> list[Event]:
    """Lose the last character of what each tool is called with, so that it is not JSON."""
    last: dict[int, Event] = {}
    for event in events:
        if event["type"] == "content_block_delta" and event["delta"]["type"] == "input_json_delta":
            last[event["index"]] = event
    for event in last.values():
        event["delta"]["partial_json"] = event["delta"]["partial_json"][:-1]
    return events


def lose_text(events: list[Event]) -> list[Event]:
    """Leave the text out of the event that opens a block, and send null for a piece of it."""
    result: list[Event] = []
    for event in events:
        result.append(event)
        if event["type"] == "content_block_start" and event["content_block"]["type"] == "text":
            del event["content_block"]["text"]
            piece = {"type": "text_delta", "text": None}
            result.append({"type": "content_block_delta", "index": event["index"], "delta": piece})
    return result


def drop_model(events: list[Event]) -> list[Event]:
    """Remove the model from every answer."""
    for event in events:
        if event["type"] == "message_start":
            event["message"].pop("model", None)
    return events
