"""The parts of a request besides its prompt that change its price, or leave it without a bound.

A bound is a promise about one kind of request, so the kind has to be known: cache writes cost up to twice the input
price, fast mode twice, the US a tenth more, a batch half. Some requests have no bound at all: the API's own tools and
retries run and read there, and bill input that the request does not hold. Those are named here too, by field and type.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from budget_tools.core.errors import InvalidArgumentError

CacheChoice = Literal["none", "5m", "1h"]

_CACHES: tuple[CacheChoice, ...] = ("none", "5m", "1h")
"""Ascending by the most that a write may cost."""

_COVERED_CACHES = {
    "none": "no cache writes (options.cache covers them)",
    "5m": "cache writes for 5 minutes",
    "1h": "cache writes for up to 1 hour",
}

_TIERS = ("auto", "standard_only", "standard", "priority", "batch")

_PRICED = ("cache", "cache_control", "speed", "inference_geo", "batch", "service_tier")

# Fields of a request that do not change its price: their tokens are the prompt's or the output's, or they lower it.
_FREE = (
    *("output_config", "thinking", "tool_choice", "metadata", "stop_sequences", "stream", "betas", "diagnostics"),
    *("temperature", "top_p", "top_k", "billing_policy", "user_profile_id", "workspace_id", "fallback_credit_token"),
)

_UNBOUNDED_FIELDS = {
    "mcp_servers": "the API calls these servers' tools and reads their results",
    "fallbacks": "the API asks further models",
    "context_management": "the API may compact the conversation, which samples once more",
    "compaction": "what a compaction costs is not in the token counts of its answer",
    "thread": "the API holds earlier messages that the request does not show",
    "container": "code and skills in it run at the API",
}
_HARMLESS_EDITS = "clear_"
"""Prefix of the ``context_management`` edits that only shorten the prompt."""

# Types of the Messages API's tools (its "Tool reference"), by the part before the version's date.
_SERVER_TOOLS = ("web_search", "web_fetch", "code_execution", "tool_search_tool", "advisor", "mcp_toolset")
_CLIENT_TOOLS = ("bash", "text_editor", "computer", "memory", "browser_toolset")

# What the API adds to a prompt for a client tool that it defines: at most 1,234 tokens are documented (computer use,
# with its system prompt), on a tokenizer that counted up to a third fewer. The other tools are not documented.
_DEFINED_TOKENS = {"bash": 2_000, "text_editor": 2_000, "computer": 2_000}


@dataclass(frozen=True, kw_only=True, slots=True)
class RequestOptions:
    """The parts of a request that change its price.

    ``cache`` is the longest lifetime of any cache write that the request asks for; ``inference_geo`` is what it sends,
    ``""`` if it does not send it; ``speed`` is the mode that it asks for; ``batch`` whether it is part of a Message
    Batch.

    Raises:
        InvalidArgumentError: an option is not one of the values above.
    """

    cache: CacheChoice = "none"
    inference_geo: Literal["global", "us", ""] = ""
    speed: Literal["standard", "fast"] = "standard"
    batch: bool = False

    def __post_init__(self) -> None:
        stated: tuple[tuple[str, object, tuple[object, ...]], ...] = (
            ("cache", self.cache, _CACHES),
            ("inference_geo", self.inference_geo, ("global", "us", "")),
            ("speed", self.speed, ("standard", "fast")),
            ("batch", self.batch, (True, False)),
        )
        for name, value, choices in stated:
            if type(value) is not type(choices[0]) or value not in choices:
                raise InvalidArgumentError(f"options.{name} must be one of {', '.join(map(json.dumps, choices))}.")
        if self.batch and self.speed == "fast":
            raise InvalidArgumentError("Fast mode is not offered in batches: leave out speed or batch.")

    @property
    def covers(self) -> str:
        """What a bound with these options promises, in a few words."""
        parts = [
            _COVERED_CACHES[self.cache],
            "fast mode" if self.speed == "fast" else "standard speed",
            "global inference only" if self.inference_geo == "global" else "any geography",
        ]
        return ", ".join([*parts, "batches only"] if self.batch else parts)


PLAIN_REQUEST = RequestOptions()
"""A plain request: nothing cached, standard speed, geography left to the workspace."""


def read_options(stated: Mapping[str, Any], content: Mapping[str, Any] | None = None) -> RequestOptions:
    """Read what a caller states of a request, and what the request itself shows.

    Args:
        stated: ``cache`` (none, 5m or 1h), ``batch``, and fields of the Messages API as a request has them:
            ``cache_control``, ``speed``, ``inference_geo``, ``service_tier``. Null counts as not stated.
        content: the request's ``messages``, ``system`` and ``tools``, if they are known: each ``cache_control`` in them
            writes to the cache. Of several lifetimes the longest counts.

    Raises:
        InvalidArgumentError: a value that does not exist, or an unknown field that may have a price.
    """
    known = {name: value for name, value in stated.items() if value is not None}
    unknown = known.keys() - {*_PRICED, *_FREE, *_UNBOUNDED_FIELDS, "tools"}
    if unknown:
        raise InvalidArgumentError(
            f"options.{min(unknown)} is not known, so what it costs is not either: options are {', '.join(_PRICED)}."
        )
    tier = known.get("service_tier") or "auto"
    if tier not in _TIERS:
        raise InvalidArgumentError(f"options.service_tier must be one of {', '.join(_TIERS)}.")
    caches = [known.get("cache", "none"), *_lifetimes({**(content or {}), "options": known})]
    return RequestOptions(
        cache=max(caches, key=lambda each: _CACHES.index(each) if each in _CACHES else len(_CACHES)),
        inference_geo=known.get("inference_geo", ""),
        speed=known.get("speed") or "standard",
        batch=known.get("batch", False) or tier == "batch",
    )


def why_unbounded(stated: Mapping[str, Any], content: Mapping[str, Any] | None = None) -> str:
    """Return a clause on why a request has no known bound; ``""`` if it has one.

    Args:
        stated: as for ``read_options``.
        content: likewise.
    """
    for name, why in _UNBOUNDED_FIELDS.items():
        value = stated.get(name)
        if value and not (name == "context_management" and _only_shortens(value)):
            return f"with {name}, {why}"
    for tool in [*tools_of(stated), *tools_of(content or {})]:
        kind = str(tool.get("type") or "custom")
        if is_server_tool(tool):
            return f"{json.dumps(kind)} runs at the API, which bills what it reads there"
        if kind != "custom" and not kind.startswith(_CLIENT_TOOLS):
            return f"{json.dumps(kind)} is not a type of tool that is known here, and may run at the API"
    return ""


def is_server_tool(tool: Mapping[str, Any]) -> bool:
    """Return whether a tool of a request runs at the API, so that ``count_tokens`` refuses it too."""
    return str(tool.get("type") or "").startswith(_SERVER_TOOLS)


def hidden_definition_tokens(tools: Sequence[Mapping[str, Any]]) -> int | None:
    """Bound the prompt tokens of client tools that the API itself defines; ``None`` if one of them is unknown."""
    total = 0
    for tool in tools:
        kind = str(tool.get("type") or "custom")
        if not kind.startswith(_CLIENT_TOOLS):
            continue
        # The date distinguishes "computer_20251124", whose tokens are known, from "computer_toolset_20260801".
        tokens = _DEFINED_TOKENS.get(kind.rpartition("_")[0])
        if tokens is None:
            return None
        total += tokens
    return total


def tools_of(request: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the tools among a request's fields."""
    tools = request.get("tools")
    return [tool for tool in tools if isinstance(tool, dict)] if isinstance(tools, list | tuple) else []


def _only_shortens(management: object) -> bool:
    edits = management.get("edits") if isinstance(management, Mapping) else None
    return isinstance(edits, list | tuple) and all(
        isinstance(edit, Mapping) and str(edit.get("type")).startswith(_HARMLESS_EDITS) for edit in edits
    )


# Written by the caller's program: a key of this name in it is data to the API.
_DATA = frozenset({"input", "input_schema", "input_examples"})


def _lifetimes(content: Mapping[str, Any]) -> Iterator[CacheChoice]:
    """Yield the lifetime of every cache write that a request asks for.

    Raises:
        InvalidArgumentError: a ``cache_control`` that the API would refuse, with its place.
    """
    waiting: list[tuple[str, object]] = list(content.items())
    while waiting:
        place, part = waiting.pop()
        if isinstance(part, list | tuple):
            waiting += [(f"{place}.{number}", each) for number, each in enumerate(part)]
        elif isinstance(part, Mapping):
            waiting += [(f"{place}.{name}", each) for name, each in part.items() if name not in _DATA]
            if part.get("cache_control") is not None:
                yield _lifetime(f"{place}.cache_control", part["cache_control"])


def _lifetime(place: str, control: object) -> CacheChoice:
    if isinstance(control, Mapping) and control.get("type") == "ephemeral":
        ttl = control.get("ttl") or "5m"
        for lifetime in _CACHES[1:]:
            if ttl == lifetime:
                return lifetime
    raise InvalidArgumentError(f'{place} must be {{"type": "ephemeral"}}, with "ttl": "5m" or "1h" if any.')
