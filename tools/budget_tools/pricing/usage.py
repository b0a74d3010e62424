"""Usage of calls to a model, as they reported it.

The report is the only evidence of what a call costs, so it is read strictly: a missing or impossible count is an error
and never a zero, and so is an unknown field that may cost money. ``read_usage`` is the one reader of all reports, of
delegations and of tools; ``usage_shapes`` has the shapes they come in, ``usage_steps`` the steps of one call. These
modules know no prices; ``book`` turns usage into money.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction

from budget_tools.core.errors import UsageError
from budget_tools.pricing.usage_fields import MAX_COUNT, Fields, check_count
from budget_tools.pricing.usage_shapes import CLAUDE_CODE_MODEL, CacheTtl, Reading, read_counts, shape_of
from budget_tools.pricing.usage_steps import priced_steps

__all__ = ["MAX_COUNT", "CacheTtl", "ReportedUsage", "TokenUsage", "UsageEntry", "read_usage"]

SERVICE_TIERS = ("standard", "batch", "priority")
SPEEDS = ("standard", "fast")

# Fields that hold the usage of an answer, in the answers of these APIs and libraries.
_WHOLE_ANSWER = ("modelUsage", "model_usage", "usage", "usage_metadata")


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenUsage:
    """Everything about one finished call that has a price.

    ``input_tokens`` counts only tokens that were neither read from the cache nor written to it (Messages API, usage);
    ``output_tokens`` includes thinking. ``inference_geo`` is kept as reported, ``""`` if it was not.

    Raises:
        UsageError: a count is not a whole number from 0 to int64, or the tier or the speed has no price.
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
        check_count("input_tokens", self.input_tokens)
        check_count("output_tokens", self.output_tokens)
        check_count("cache_read_input_tokens", self.cache_read_input_tokens)
        check_count("cache_creation_5m_input_tokens", self.cache_creation_5m_input_tokens)
        check_count("cache_creation_1h_input_tokens", self.cache_creation_1h_input_tokens)
        check_count("web_search_requests", self.web_search_requests)
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

    @property
    def is_empty(self) -> bool:
        """Whether all of its counts are 0."""
        return not (self.prompt_tokens or self.output_tokens or self.web_search_requests)


@dataclass(frozen=True, kw_only=True, slots=True)
class UsageEntry:
    """Usage that is priced by itself: of one call, of one step of it, or of several calls in one sum.

    ``model`` is the model that it names, ``""`` for the model of the call; ``calls`` is how many calls it sums up,
    ``None`` if that is not known.
    """

    usage: TokenUsage
    model: str = ""
    calls: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class ReportedUsage:
    """Everything that a report charges for, as entries that are priced one by one and added up.

    ``warnings`` are clauses about the rest of the report, for the caller to pass on. ``stated_costs`` are the sums of
    money stated beside the counts, by the names of their fields, in US dollars.
    """

    entries: tuple[UsageEntry, ...]
    warnings: tuple[str, ...] = ()
    stated_costs: Mapping[str, Fraction] = field(default_factory=dict)

    @property
    def prompt_tokens(self) -> int:
        """Tokens of all prompts, cached or not."""
        return sum(entry.usage.prompt_tokens for entry in self.entries)

    @property
    def output_tokens(self) -> int:
        """Tokens of all answers."""
        return sum(entry.usage.output_tokens for entry in self.entries)


def read_usage(usage: object, *, unsplit_cache_ttl: CacheTtl = "1h", calls: int | None = None) -> ReportedUsage:
    """Read usage as a call reported it, in any shape that ``usage_shapes`` lists, or a list of such objects.

    Args:
        usage: the object as it came, nulls and unknown fields included.
        unsplit_cache_ttl: the lifetime to charge for cache writes that the report does not split. The dearer hour is
            right for usage of unknown origin; a caller that asked for five minutes says so, or its cost may pass a
            bound that was computed for five minutes.
        calls: how many calls one object sums up, if that is known.

    Raises:
        UsageError: usage is missing, incomplete or impossible, or holds something without a known price.
    """
    if usage is None:
        raise UsageError("The response carries no usage, so its cost is unknown.")
    if isinstance(usage, list | tuple):
        if not usage:
            raise UsageError("The usage is a list without entries, so its cost is unknown.")
        if calls is not None:
            raise UsageError("calls goes with one sum of usage: in a list, each call stands for itself.")
        read = _joined([_one_report(each, f"[{at}].", unsplit_cache_ttl, None) for at, each in enumerate(usage)])
        return replace(read, entries=tuple(replace(entry, calls=entry.calls or 1) for entry in read.entries))
    return _one_report(usage, "", unsplit_cache_ttl, calls)


def _one_report(usage: object, at: str, unsplit_cache_ttl: CacheTtl, calls: int | None) -> ReportedUsage:
    """Read one object: the usage of one model, or of each of several."""
    if not isinstance(usage, Mapping):
        raise UsageError("The usage must be an object with token counts.")
    by_model = _by_model(usage)
    if calls is not None and len(by_model) > 1:
        raise UsageError("calls goes with one sum of usage, and this usage has one for each of several models.")
    if by_model:
        read = [_report(Fields(counts, f"{at}{model}."), unsplit_cache_ttl, calls, model) for model, counts in by_model]
        report = _joined([each for each in read if each.entries])
    else:
        report = _report(Fields(usage, at), unsplit_cache_ttl, calls)
    where = f" {at[:-1]}" if at else ""
    if not report.prompt_tokens:
        raise UsageError(f"The usage{where} counts no prompt, which cannot be: every call that is billed had one.")
    if any(entry.usage.output_tokens and not entry.usage.prompt_tokens for entry in report.entries):
        raise UsageError(f"The usage{where} counts the answer to a prompt of no tokens, which cannot be.")
    return report


def _by_model(usage: Mapping[str, object]) -> list[tuple[str, Mapping[str, object]]]:
    """Return the usage of each model, if the object holds that (Claude Code's ``modelUsage``)."""
    found: list[tuple[str, Mapping[str, object]]] = []
    for name, each in usage.items():
        if not isinstance(each, Mapping) or not all(path in each for path in CLAUDE_CODE_MODEL.needs):
            return []
        # Claude Code marks a model's long context in its name.
        canonical = each.get("canonicalModel")
        found.append((canonical if isinstance(canonical, str) and canonical else str(name).split("[")[0], each))
    return found


def _report(fields: Fields, unsplit_cache_ttl: CacheTtl, calls: int | None, model: str = "") -> ReportedUsage:
    shape = shape_of(fields)
    if not fields.has(shape.input):
        for name in _WHOLE_ANSWER:
            if isinstance(fields.raw.get(name), Mapping):
                raise UsageError(f"The usage is a whole answer: give its {name} alone.")
    top = read_counts(fields, shape, unsplit_cache_ttl=unsplit_cache_ttl)
    steps = priced_steps(fields, top, shape, unsplit_cache_ttl=unsplit_cache_ttl)
    if calls is not None and ((calls > 1 and len(steps) > 1) or top.calls not in (None, calls)):
        raise UsageError(f"calls ({calls}) contradict the usage, which tells its calls apart or counts them otherwise.")
    if (calls or top.calls or 1) > max(1, top.prompt_tokens):
        raise UsageError(f"The usage{fields.at and f' {fields.at[:-1]}'} has fewer prompt tokens than calls.")
    entries = (
        UsageEntry(usage=_token_usage(step.counts), model=step.model or model, calls=step.calls or calls)
        for step in steps
    )
    return ReportedUsage(
        entries=tuple(entry for entry in entries if not entry.usage.is_empty),
        warnings=tuple(dict.fromkeys(warning for step in steps for warning in step.counts.warnings)),
        stated_costs=top.stated_costs,
    )


def _token_usage(counts: Reading) -> TokenUsage:
    return TokenUsage(
        input_tokens=counts.input_tokens,
        output_tokens=counts.output_tokens,
        cache_read_input_tokens=counts.cache_read_input_tokens,
        cache_creation_5m_input_tokens=counts.cache_creation_5m_input_tokens,
        cache_creation_1h_input_tokens=counts.cache_creation_1h_input_tokens,
        web_search_requests=counts.web_search_requests,
        service_tier=counts.service_tier,
        inference_geo=counts.inference_geo,
        speed=counts.speed,
    )


def _joined(reports: Sequence[ReportedUsage]) -> ReportedUsage:
    """Return reports as one; a stated cost is kept only if it is stated in all of them."""
    names = set[str]().union(*(report.stated_costs for report in reports))
    return ReportedUsage(
        entries=tuple(entry for report in reports for entry in report.entries),
        warnings=tuple(dict.fromkeys(warning for report in reports for warning in report.warnings)),
        stated_costs={
            name: sum((report.stated_costs[name] for report in reports), Fraction(0))
            for name in sorted(names)
            if all(name in report.stated_costs for report in reports)
        },
    )


def _check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise UsageError(f"The usage's {name} is none that has a known price ({', '.join(choices)}).")
