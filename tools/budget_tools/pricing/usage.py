"""What one call to a model used, as the Messages API reports it.

The API's report is the only witness of what a call costs, so it is read strictly: a count that is missing or cannot be
is an error and never a zero. Prices are no business of this module; ``pricing`` turns usage into money.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self

from budget_tools.core.errors import UsageError

MAX_COUNT = 2**63 - 1
"""Largest count of tokens or requests that is believed (int64, as the amounts that are computed from it)."""

CacheTtl = Literal["5m", "1h"]

SERVICE_TIERS = ("standard", "batch", "priority")
SPEEDS = ("standard", "fast")

# Usage that is billed outside the plain counts: sampling steps of beta features, each at a model of its own, and a
# credit that changes the price of cache writes. Requests of ours never enable them, so their sums were never bounded.
_BILLED_ELSEWHERE = ("iterations", "fallback_credit")


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenUsage:
    """Everything about one finished call that has a price.

    ``input_tokens`` counts only what neither came from the cache nor went into it (Messages API, usage);
    ``output_tokens`` includes thinking. ``inference_geo`` is kept as reported, ``""`` when it was not.

    Raises:
        UsageError: a count is not a whole number from 0 to int64, or the tier or the speed is none that has a price.
    """

    input_tokens: int
    output_tokens: int
    cache_read_input_tokens: int = 0
    cache_creation_5m_input_tokens: int = 0
    cache_creation_1h_input_tokens: int = 0
    web_search_requests: int = 0
    service_tier: str = "standard"
    inference_geo: str = ""
    speed: str = "standard"

    def __post_init__(self) -> None:
        _check_count("input_tokens", self.input_tokens)
        _check_count("output_tokens", self.output_tokens)
        _check_count("cache_read_input_tokens", self.cache_read_input_tokens)
        _check_count("cache_creation_5m_input_tokens", self.cache_creation_5m_input_tokens)
        _check_count("cache_creation_1h_input_tokens", self.cache_creation_1h_input_tokens)
        _check_count("web_search_requests", self.web_search_requests)
        _check_choice("service_tier", self.service_tier, SERVICE_TIERS)
        _check_choice("speed", self.speed, SPEEDS)
        if not isinstance(self.inference_geo, str):
            raise UsageError("The usage's inference_geo must be text.")

    @property
    def prompt_tokens(self) -> int:
        """Tokens of the whole prompt, cached or not: the length that long-context prices go by."""
        return (
            self.input_tokens
            + self.cache_read_input_tokens
            + self.cache_creation_5m_input_tokens
            + self.cache_creation_1h_input_tokens
        )

    @classmethod
    def from_api(cls, usage: Mapping[str, Any] | None, *, unsplit_cache_ttl: CacheTtl = "1h") -> Self:
        """Read a ``usage`` object of the Messages API as it comes, nulls and unknown fields included.

        Args:
            usage: the object as a mapping, for example ``message.usage.model_dump()``.
            unsplit_cache_ttl: which class to charge cache writes as that the report does not split by lifetime. The
                dearer hour is right for usage of unknown origin; a caller that asked for five minutes says so, or its
                cost may pass a bound that was computed for five minutes.

        Raises:
            UsageError: usage is missing, incomplete or impossible, or holds costs that these counts do not cover.
        """
        if usage is None:
            raise UsageError("The response carries no usage, so its cost is unknown.")
        if not isinstance(usage, Mapping):
            raise UsageError("The usage must be an object with token counts.")
        for name in _BILLED_ELSEWHERE:
            if usage.get(name):
                raise UsageError(f"The usage reports {name}, whose cost lies outside the token counts.")
        for name in ("input_tokens", "output_tokens"):
            if usage.get(name) is None:
                raise UsageError(f"The usage has no {name}, so its cost is unknown.")
        written_5m, written_1h = _cache_writes(usage, unsplit_cache_ttl)
        server_tools = _section(usage, "server_tool_use")
        return cls(
            input_tokens=_count(usage, "input_tokens"),
            output_tokens=_count(usage, "output_tokens"),
            cache_read_input_tokens=_count(usage, "cache_read_input_tokens"),
            cache_creation_5m_input_tokens=written_5m,
            cache_creation_1h_input_tokens=written_1h,
            web_search_requests=_count(server_tools, "web_search_requests"),
            service_tier=_text(usage, "service_tier", "standard"),
            inference_geo=_text(usage, "inference_geo", ""),
            speed=_text(usage, "speed", "standard"),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class UsageEntry:
    """Usage of one sampling step: ``model`` is the model that it names, ``""`` for the model of the call."""

    usage: TokenUsage
    model: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class ReportedUsage:
    """Everything that a report charges for, as entries that are priced one by one and added up.

    ``warnings`` are sentences about what the report holds beside it, for the caller to pass on.
    """

    entries: tuple[UsageEntry, ...]
    warnings: tuple[str, ...] = ()


def read_usage(usage: Mapping[str, Any] | None, *, unsplit_cache_ttl: CacheTtl = "1h") -> ReportedUsage:
    """Read a usage object of the Messages API.

    Args:
        usage: the object as it came, nulls and unknown fields included.
        unsplit_cache_ttl: as for ``TokenUsage.from_api``.

    Raises:
        UsageError: usage is missing, incomplete or impossible, or holds costs that its counts do not cover.
    """
    return ReportedUsage(entries=(UsageEntry(usage=TokenUsage.from_api(usage, unsplit_cache_ttl=unsplit_cache_ttl)),))


def _cache_writes(usage: Mapping[str, Any], unsplit_cache_ttl: CacheTtl) -> tuple[int, int]:
    split = _section(usage, "cache_creation")
    written_5m = _count(split, "ephemeral_5m_input_tokens")
    written_1h = _count(split, "ephemeral_1h_input_tokens")
    if usage.get("cache_creation_input_tokens") is None:
        return written_5m, written_1h
    unsplit = _count(usage, "cache_creation_input_tokens") - written_5m - written_1h
    if unsplit < 0:
        raise UsageError("The usage's cache_creation splits more tokens than cache_creation_input_tokens has in all.")
    return (written_5m + unsplit, written_1h) if unsplit_cache_ttl == "5m" else (written_5m, written_1h + unsplit)


def _section(usage: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    section = usage.get(name)
    if section is None:
        return {}
    if not isinstance(section, Mapping):
        raise UsageError(f"The usage's {name} must be an object.")
    return section


def _count(section: Mapping[str, Any], name: str) -> int:
    value = section.get(name)
    return 0 if value is None else _check_count(name, value)


def _text(usage: Mapping[str, Any], name: str, default: str) -> str:
    value = usage.get(name)
    if value is None:
        return default
    if not isinstance(value, str):
        raise UsageError(f"The usage's {name} must be text.")
    return value


def _check_count(name: str, value: object) -> int:
    # bool is an int to Python, and a float may have lost what it counted: neither is a count.
    if type(value) is not int:
        raise UsageError(f"The usage's {name} must be a whole number.")
    if value < 0:
        raise UsageError(f"The usage's {name} must not be negative.")
    if value > MAX_COUNT:
        raise UsageError(f"The usage's {name} is too large to be true.")
    return value


def _check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise UsageError(f"The usage's {name} is none that has a known price ({', '.join(choices)}).")
