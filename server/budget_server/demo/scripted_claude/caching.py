"""The cache: which part of a request the API would have read from its prompt cache, and which it would have written.

As documented ("Prompt caching"): a prefix of tools, system and messages, in this order, is written at each breakpoint
and found again by a later request of the same model that has the same prefix, at its own breakpoints or up to twenty
blocks before them. A breakpoint at the top level of the request stands at its last block. The format of the answer is
part of every prefix, and the choice of tools and the thinking of every prefix that reaches into the messages.

Nothing expires here: there is no clock in it, and a script is over long before five minutes are.
"""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from budget_server.demo.scripted_claude.script import Usage
from budget_server.demo.scripted_claude.wire import (
    INPUT_BYTES_PER_TOKEN,
    blocks_of,
    count_input_tokens,
    to_json,
    without_cache_control,
)

MIN_CACHED_TOKENS = 1_024
"""A shorter prefix is not cached, and nothing says so (the least of any model; some ask for 4,096)."""
LOOK_BACK_BLOCKS = 20
"""How many blocks before a breakpoint are compared with what was written before."""


@dataclass(frozen=True, kw_only=True)
class _Block:
    """A block of a request, with all that comes before it."""

    prefix: bytes
    prefix_tokens: int
    ttl: str | None
    """How long a prefix that ends here is to be kept; ``None`` where there is no breakpoint."""


class PromptCache:
    """What earlier requests wrote."""

    def __init__(self) -> None:
        self._prefixes: set[bytes] = set()

    def usage_of(self, body: Mapping[str, Any], usage: Usage) -> Usage:
        """Remember a request's prefixes, and say what it read and wrote; usage that speaks of the input is believed."""
        blocks = _blocks(body)
        breakpoints = [index for index, block in enumerate(blocks) if block.ttl is not None]
        read = max(
            (
                blocks[index].prefix_tokens
                for breakpoint_ in breakpoints
                for index in range(max(0, breakpoint_ - LOOK_BACK_BLOCKS + 1), breakpoint_ + 1)
                if blocks[index].prefix in self._prefixes
            ),
            default=0,
        )
        written = {"5m": 0, "1h": 0}
        reached = read
        for index in breakpoints:
            block = blocks[index]
            if block.prefix_tokens >= MIN_CACHED_TOKENS:
                self._prefixes.add(block.prefix)
                written[block.ttl or "5m"] += max(0, block.prefix_tokens - reached)
                reached = max(reached, block.prefix_tokens)
        if usage.input_tokens is not None or usage.cache_creation_input_tokens or usage.cache_read_input_tokens:
            return usage
        return replace(
            usage,
            cache_read_input_tokens=read,
            cache_creation_5m_input_tokens=written["5m"],
            cache_creation_1h_input_tokens=written["1h"],
        )


def _blocks(body: Mapping[str, Any]) -> list[_Block]:
    """Yield every block that a breakpoint may stand at, in the order of the cache."""
    most_tokens = count_input_tokens(body)
    digest = hashlib.sha256(to_json({"model": body["model"], "format": _part(body, "output_config", "format")}))
    in_messages = to_json({"tool_choice": body.get("tool_choice"), "thinking": body.get("thinking")})
    size = 0
    was_in_messages = False
    blocks: list[_Block] = []
    for role, block in _parts_of(body):
        if role and not was_in_messages:
            digest.update(in_messages)
            was_in_messages = True
        written = to_json(without_cache_control(block))
        # Its length stands before each part: no two lists of blocks may come to the same bytes.
        digest.update(f"{role} {len(written)} ".encode() + written)
        size += len(written)
        # What holds the blocks together is counted with the whole; a part is never more than that.
        tokens = min(size // INPUT_BYTES_PER_TOKEN, most_tokens)
        blocks.append(_Block(prefix=digest.digest(), prefix_tokens=tokens, ttl=_ttl(block)))
    if blocks and blocks[-1].ttl is None:
        blocks[-1] = replace(blocks[-1], ttl=_ttl(body))
    return blocks


def _parts_of(body: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each block with the role of its message, which tools and the system prompt have not."""
    for tool in body.get("tools") or ():
        yield "", tool
    if body.get("system"):
        for block in blocks_of({"content": body["system"]}):
            yield "", block
    for message in body["messages"]:
        for block in blocks_of(message):
            yield message["role"], block


def _ttl(holder: Mapping[str, Any]) -> str | None:
    """Return how long a block's breakpoint is to be kept; within a tool's result, its parts have breakpoints too."""
    control = holder.get("cache_control")
    if isinstance(control, Mapping):
        return str(control.get("ttl") or "5m")
    content = holder.get("content")
    inner = [_ttl(each) for each in content if isinstance(each, Mapping)] if isinstance(content, list) else []
    return next((ttl for ttl in inner if ttl is not None), None)


def _part(body: Mapping[str, Any], name: str, key: str) -> object:
    value = body.get(name)
    return value.get(key) if isinstance(value, Mapping) else None
