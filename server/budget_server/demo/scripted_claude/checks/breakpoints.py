"""Breakpoints: where a request asks for the prompt cache.

Source: "Prompt caching" (how many breakpoints, their kinds, the order of their lifetimes).
"""

from collections.abc import Iterator
from typing import Any

MAX_BREAKPOINTS = 4
"""Most places of a request that may have a ``cache_control``; the one at its top level is one of them."""


def find_cache_problems(body: dict[str, Any]) -> Iterator[str]:
    """Yield breakpoints of the prompt cache that are of no known kind, too many, or in an order that cannot be."""
    found = list(_breakpoints(body))
    ttls: list[str] = []
    for where, holder in found:
        control = holder["cache_control"]
        if not isinstance(control, dict) or control.get("type") != "ephemeral":
            yield f"{where}.cache_control.type: must be ephemeral."
            return
        if unknown := control.keys() - {"type", "ttl"}:
            yield f"{where}.cache_control.{min(unknown)}: extra inputs are not permitted."
        if control.get("ttl", "5m") not in ("5m", "1h"):
            yield f"{where}.cache_control.ttl: must be 5m or 1h."
        if holder.get("type") in ("thinking", "redacted_thinking"):
            yield f"{where}.cache_control: thinking cannot be cached by itself."
        ttls.append(control.get("ttl", "5m"))
    if len(found) > MAX_BREAKPOINTS:
        yield f"A maximum of {MAX_BREAKPOINTS} blocks with cache_control may be provided. Found {len(found)}."
    if ttls != sorted(ttls):  # "1h" sorts before "5m"
        yield "cache_control: a ttl of 1h must not come after a ttl of 5m (in the order tools, system, messages)."


def _breakpoints(body: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield what has a ``cache_control`` and where it is, in the order of the cache; the top level comes last."""

    def within(where: str, holders: object) -> Iterator[tuple[str, dict[str, Any]]]:
        for index, holder in enumerate(holders if isinstance(holders, list) else ()):
            if isinstance(holder, dict):
                if holder.get("cache_control") is not None:
                    yield f"{where}.{index}", holder
                if holder.get("type") == "tool_result":
                    yield from within(f"{where}.{index}.content", holder.get("content"))

    yield from within("tools", body.get("tools"))
    yield from within("system", body.get("system"))
    for index, message in enumerate(body["messages"]):
        yield from within(f"messages.{index}.content", message.get("content"))
    if body.get("cache_control") is not None:
        yield "request", {"cache_control": body["cache_control"]}
