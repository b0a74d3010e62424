"""The shapes that usage comes in, as one table: its source, its telling fields, and how its counts map to ours.

The Messages API counts a prompt in parts that exclude each other: tokens read from the cache, tokens written to it, and
the rest. Most libraries report the whole prompt and the cached parts of it, under similar names. Mistaken for one
another they are priced far too low or too high, so each shape is known by fields that only it has, and the parts are
subtracted from the whole if the whole includes them. ``docs/usage.md`` shows the same table, with the versions of the
packages that it was compared with.

A field of usage is one of four things: it is counted; it is part of a count and free of extra charge, but no larger
than it; it is always free; or it is unknown, and an error unless its name or its value shows that it costs nothing
(``Fields.refuse_unread``).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Literal

from budget_tools.core.errors import UsageError
from budget_tools.pricing.usage_fields import Fields
from budget_tools.pricing.usage_words import inference_geo, service_tier, speed

CacheTtl = Literal["5m", "1h"]

Part = Literal["input", "output", "cache_read", "cache_write"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Shape:
    """The names that one source of usage gives its counts; a path names a field by its sections (``Fields``).

    Attributes:
        name: the source of the usage, for sentences and for the documentation.
        tells: fields of which any one, null or not, shows that usage has this shape; none for the Messages API's own.
        needs: fields without which usage does not have this shape.
        input: the count of the prompt.
        includes_cache: whether ``input`` is the whole prompt, cached tokens included.
        output: the count of the answer, thinking included.
        cache_read, cache_write, web_searches: names of one count; those that exist must agree.
        cache_write_5m, cache_write_1h: parts of ``cache_write``, by lifetime.
        cache_write_rest: writes beside those of known lifetime, if the shape has no sum of all.
        unsplit: the lifetime of writes without one: ``""`` for the one that the caller gives. A library that counts
            writes of an hour separately means five minutes by the others.
        total: names of the sum of prompt and answer.
        rival: a library that uses the same names, has ``total`` beside them, and leaves the cache out of ``input``.
        within: parts of a count, free of extra charge.
        free: fields that cost nothing.
        elsewhere: fields that are read beside the counts (``usage``).
        calls: how many calls are summed up in it.
        sums_iterations: whether its counts are the sum of its ``iterations``, and not those of the answer alone.
    """

    name: str
    tells: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    input: str = "input_tokens"
    includes_cache: bool = True
    output: str = "output_tokens"
    cache_read: tuple[str, ...] = ()
    cache_write: tuple[str, ...] = ()
    cache_write_5m: str = ""
    cache_write_1h: str = ""
    cache_write_rest: str = ""
    unsplit: Literal["", "5m"] = ""
    web_searches: tuple[str, ...] = ()
    total: tuple[str, ...] = ("total_tokens",)
    rival: str = ""
    within: Mapping[str, Part] = field(default_factory=dict)
    free: tuple[str, ...] = ()
    elsewhere: tuple[str, ...] = ()
    calls: str = ""
    sums_iterations: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Reading:
    """The counts of one usage object, in the Messages API's parts; ``calls`` is ``None`` if it is not stated."""

    input_tokens: int
    output_tokens: int
    cache_read_input_tokens: int
    cache_creation_5m_input_tokens: int
    cache_creation_1h_input_tokens: int
    web_search_requests: int
    service_tier: str
    inference_geo: str
    speed: str
    calls: int | None = None
    stated_costs: Mapping[str, Fraction] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    @property
    def prompt_tokens(self) -> int:
        """Tokens of the whole prompt, cached or not."""
        return (
            self.input_tokens
            + self.cache_read_input_tokens
            + self.cache_creation_5m_input_tokens
            + self.cache_creation_1h_input_tokens
        )


_SERVER_TOOLS = ("server_tool_use.web_fetch_requests", "server_tool_use.tool_search_requests")

_CHAT_PARTS: Mapping[str, Part] = {
    "prompt_tokens_details.text_tokens": "input",
    "prompt_tokens_details.image_tokens": "input",
    "completion_tokens_details.text_tokens": "output",
    "completion_tokens_details.reasoning_tokens": "output",
    "completion_tokens_details.accepted_prediction_tokens": "output",
    "completion_tokens_details.rejected_prediction_tokens": "output",
}

MESSAGES = Shape(
    name="the Messages API",
    includes_cache=False,
    cache_read=("cache_read_input_tokens",),
    cache_write=("cache_creation_input_tokens",),
    cache_write_5m="cache_creation.ephemeral_5m_input_tokens",
    cache_write_1h="cache_creation.ephemeral_1h_input_tokens",
    web_searches=("server_tool_use.web_search_requests",),
    within={"output_tokens_details.thinking_tokens": "output", "output_tokens_details.reasoning_tokens": "output"},
    free=_SERVER_TOOLS,
    elsewhere=("iterations", "fallback_credit"),
)
"""The Messages API's own shape; also of Claude Code's transcripts and results, and of the Agent SDK."""

CLAUDE_CODE_MODEL = Shape(
    name="Claude Code's modelUsage",
    tells=("cacheReadInputTokens", "cacheCreationInputTokens", "costUSD"),
    needs=("inputTokens", "outputTokens"),
    input="inputTokens",
    includes_cache=False,
    output="outputTokens",
    cache_read=("cacheReadInputTokens",),
    cache_write=("cacheCreationInputTokens",),
    web_searches=("webSearchRequests",),
    within={"thinkingTokens": "output"},
    free=("contextWindow", "maxOutputTokens"),
)

LANGCHAIN = Shape(
    name="LangChain",
    tells=("input_token_details", "output_token_details"),
    cache_read=("input_token_details.cache_read",),
    cache_write_rest="input_token_details.cache_creation",
    cache_write_5m="input_token_details.ephemeral_5m_input_tokens",
    cache_write_1h="input_token_details.ephemeral_1h_input_tokens",
    unsplit="5m",
    within={"output_token_details.reasoning": "output"},
)

PYDANTIC_AI = Shape(
    name="pydantic-ai or genai-prices",
    tells=(
        *("cache_read_tokens", "cache_write_tokens", "cache_write_5m_tokens", "cache_write_1h_tokens"),
        *("output_reasoning_tokens", "web_searches", "tool_calls", "unmeasured_requests", "requests"),
    ),
    cache_read=("cache_read_tokens",),
    cache_write=("cache_write_tokens",),
    cache_write_5m="cache_write_5m_tokens",
    cache_write_1h="cache_write_1h_tokens",
    unsplit="5m",
    rival="agno",
    web_searches=("web_searches", "details.web_search_requests"),
    within={
        "output_reasoning_tokens": "output",
        "input_text_tokens": "input",
        "output_text_tokens": "output",
        "cache_text_read_tokens": "cache_read",
        # What the provider reported, kept beside the counts that were made from it.
        "details.input_tokens": "input",
        "details.output_tokens": "output",
        "details.cache_read_input_tokens": "cache_read",
        "details.cache_creation_input_tokens": "cache_write",
        "details.ephemeral_1h_input_tokens": "cache_write",
        "details.thinking_tokens": "output",
        "details.reasoning_tokens": "output",
        "details.compaction_input_tokens": "input",
        "details.compaction_output_tokens": "output",
        "details.compaction_cache_read_input_tokens": "cache_read",
        "details.compaction_cache_creation_input_tokens": "cache_write",
        "details.compaction_ephemeral_1h_input_tokens": "cache_write",
    },
    free=("tool_calls", "details.message_iterations", "details.compaction_iterations"),
    calls="requests",
)

LITELLM = Shape(
    name="LiteLLM",
    tells=(
        *("cache_read_input_tokens", "cache_creation_input_tokens"),
        *("prompt_tokens_details.cache_creation_tokens", "prompt_tokens_details.cache_creation_token_details"),
    ),
    needs=("prompt_tokens",),
    input="prompt_tokens",
    output="completion_tokens",
    cache_read=("cache_read_input_tokens", "prompt_tokens_details.cached_tokens"),
    cache_write=(
        "cache_creation_input_tokens",
        "prompt_tokens_details.cache_creation_tokens",
        "prompt_tokens_details.cache_write_tokens",
    ),
    cache_write_5m="prompt_tokens_details.cache_creation_token_details.ephemeral_5m_input_tokens",
    cache_write_1h="prompt_tokens_details.cache_creation_token_details.ephemeral_1h_input_tokens",
    unsplit="5m",
    web_searches=("server_tool_use.web_search_requests", "prompt_tokens_details.web_search_requests"),
    within=_CHAT_PARTS,
    free=_SERVER_TOOLS,
    elsewhere=("iterations",),
    sums_iterations=True,
)

OPENAI_CHAT = Shape(
    name="OpenAI's chat completions",
    tells=("prompt_tokens", "completion_tokens"),
    input="prompt_tokens",
    output="completion_tokens",
    cache_read=("prompt_tokens_details.cached_tokens",),
    cache_write=("prompt_tokens_details.cache_write_tokens",),
    web_searches=("server_tool_use.web_search_requests",),
    within={
        **_CHAT_PARTS,
        # Gateways that speak both languages send these as well; a larger one would contradict the prompt's count.
        "input_tokens": "input",
        "output_tokens": "output",
    },
    free=_SERVER_TOOLS,
)

OPENAI_RESPONSES = Shape(
    name="OpenAI's Responses or Agents SDK",
    tells=("input_tokens_details", "request_usage_entries"),
    cache_read=("input_tokens_details.cached_tokens",),
    cache_write=("input_tokens_details.cache_write_tokens",),
    within={
        "input_tokens_details.text_tokens": "input",
        "input_tokens_details.image_tokens": "input",
        "output_tokens_details.reasoning_tokens": "output",
        "output_tokens_details.text_tokens": "output",
    },
    elsewhere=("request_usage_entries",),
    calls="requests",
)

SHAPES = (CLAUDE_CODE_MODEL, LANGCHAIN, LITELLM, OPENAI_CHAT, OPENAI_RESPONSES, PYDANTIC_AI, MESSAGES)
"""Every shape, in the order in which they are tried; the Messages API's is the default, without telling fields."""


def shape_of(fields: Fields) -> Shape:
    """Return the shape that a usage object has."""
    return next(
        shape
        for shape in SHAPES
        if all(fields.has(path) for path in shape.needs)
        and (not shape.tells or any(fields.has(path) for path in shape.tells))
    )


def read_counts(fields: Fields, shape: Shape, *, unsplit_cache_ttl: CacheTtl) -> Reading:
    """Read a usage object as a shape, and account for every field of it.

    Args:
        fields: the object.
        shape: the shape that it has.
        unsplit_cache_ttl: the lifetime of cache writes without one, if the shape does not settle it.

    Raises:
        UsageError: a count is missing or impossible, counts contradict each other, or an unknown field may cost money;
            names the field.
    """
    tokens = {shape.input: fields.count(shape.input), shape.output: fields.count(shape.output)}
    read = _one(fields, shape.cache_read)
    written = _one(fields, shape.cache_write)
    written_5m = fields.count(shape.cache_write_5m) if shape.cache_write_5m else None
    written_1h = fields.count(shape.cache_write_1h) if shape.cache_write_1h else None
    rest = fields.count(shape.cache_write_rest) if shape.cache_write_rest else None
    searches = _one(fields, shape.web_searches)
    totals = {path: fields.count(path) for path in shape.total}
    within = {path: fields.count(path) for path in shape.within}
    for path in (*shape.free, *shape.elsewhere):
        fields.value(path)
    calls = fields.count(shape.calls) if shape.calls else None
    words = {"service_tier": service_tier(fields), "inference_geo": inference_geo(fields), "speed": speed(fields)}
    stated_costs = fields.stated_costs()
    fields.refuse_unread(shape.name)
    for path, value in tokens.items():
        if value is None:
            raise UsageError(f"The usage has no {fields.at}{path}, so its cost is unknown.")
    whole, output = (value or 0 for value in tokens.values())

    split = (written_5m or 0) + (written_1h or 0)
    all_written = split + (rest or 0) if written is None else written
    if all_written < split:
        raise fields.error(f"{shape.cache_write_5m.split('.')[0]} splits more tokens than {shape.cache_write[0]} has")
    cached = (read or 0) + all_written
    if shape.rival and cached and any(total is not None for total in totals.values()):
        raise fields.error(
            f"{', '.join(shape.total)} beside cached tokens is {shape.rival}'s, whose {shape.input} leaves the cache "
            f"out, while {shape.name} counts it in: rename the counts as the Messages API has them"
        )
    if shape.includes_cache and cached > whole:
        cache = ", ".join(path for path in (*shape.cache_read, *shape.cache_write, shape.cache_write_rest) if path)
        raise fields.error(f"{shape.input} ({whole}) is less than the cached tokens it includes ({cached}: {cache})")
    plain = whole - cached if shape.includes_cache else whole
    parts = {"input": plain + cached, "output": output, "cache_read": read or 0, "cache_write": all_written}
    for path, part in shape.within.items():
        if (within[path] or 0) > parts[part]:
            raise fields.error(
                f"{path} ({within[path]}) is more than the {part.replace('_', ' ')} tokens it is part of"
            )
    for path, total in totals.items():
        if total is not None and total not in (whole + output, plain + cached + output):
            raise fields.error(
                f"{path} ({total}) is not the sum of {shape.input} ({whole}) and {shape.output} ({output})"
            )

    unsplit = all_written - split
    ttl = shape.unsplit or unsplit_cache_ttl
    return Reading(
        input_tokens=plain,
        output_tokens=output,
        cache_read_input_tokens=read or 0,
        cache_creation_5m_input_tokens=(written_5m or 0) + (unsplit if ttl == "5m" else 0),
        cache_creation_1h_input_tokens=(written_1h or 0) + (unsplit if ttl == "1h" else 0),
        web_search_requests=searches or 0,
        calls=calls or None,
        stated_costs=stated_costs,
        warnings=(_unsplit_warning(unsplit, ttl),) if unsplit and (written_1h is None or not shape.unsplit) else (),
        **words,
    )


def _one(fields: Fields, paths: tuple[str, ...]) -> int | None:
    """Read one count that has several names."""
    found = {path: count for path in paths if (count := fields.count(path)) is not None}
    if len(set(found.values())) > 1:
        named = " and ".join(f"{path} ({count})" for path, count in found.items())
        raise fields.error(f"{named} contradict each other")
    return next(iter(found.values()), None)


def _unsplit_warning(tokens: int, ttl: CacheTtl) -> str:
    lifetime = "5 minutes" if ttl == "5m" else "1 hour, the dearer"
    return f"{tokens} cache writes have no lifetime in the usage and are priced as {lifetime}"
