"""The parts of one usage object that are priced by themselves: its counts, or the steps or requests that it lists.

The Messages API may sample several times for one call, and lists each time in ``iterations``. Steps of the type
``message`` alone repeat the top-level counts: those are priced, and the list is never added up. Steps of the other
types are billed on top of them, or at another model:

    compaction         a summary of the conversation, at the model of the call; in no top-level count
    advisor_message    a consultation of another model, which it names; in no top-level count
    fallback_message   the answer of another model, which it names, after attempts that declined; the top-level counts
                       describe this attempt alone

With any of these, or with steps of several models, the list is the record, and every step is priced by itself. So is an
attempt that declined without output; whether it is billed depends on a category that usage does not contain. (Types and
fields: anthropic 2.15, ``types/beta/beta_iterations_usage.py``; billing: Anthropic's pages on compaction, the advisor
tool, and refusals and fallback.)

The OpenAI Agents SDK sums up the calls of a run, and may list each in ``request_usage_entries``; then those are priced.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from budget_tools.core.errors import UsageError
from budget_tools.pricing.usage_fields import Fields, shown
from budget_tools.pricing.usage_shapes import MESSAGES, CacheTtl, Reading, Shape, read_counts

_TYPES = ("message", "compaction", "advisor_message", "fallback_message")
_ANSWERS = ("message", "fallback_message")
_WORDS = ("service_tier", "inference_geo", "speed")


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """A part that is priced by itself; ``model`` is ``""`` for the model of the call."""

    counts: Reading
    model: str = ""
    type: str = "message"
    calls: int | None = None


def priced_steps(fields: Fields, top: Reading, shape: Shape, *, unsplit_cache_ttl: CacheTtl) -> tuple[Step, ...]:
    """Return the parts of a usage object that are to be priced.

    Args:
        fields: the usage object.
        top: its top-level counts.
        shape: its shape.
        unsplit_cache_ttl: as for ``read_counts``.

    Raises:
        UsageError: a step cannot be read or priced, or the steps contradict the top-level counts; names the field.
    """
    _check_credit(fields, shape)
    if "request_usage_entries" in shape.elsewhere:
        requests = tuple(_requests(fields, shape, unsplit_cache_ttl))
        if requests:
            _check_sums(fields, "request_usage_entries", requests, top)
            return requests
    steps = tuple(_iterations(fields, top, unsplit_cache_ttl)) if "iterations" in shape.elsewhere else ()
    if not steps:
        return (Step(counts=top, calls=top.calls),)
    answers = [step for step in steps if step.type in _ANSWERS]
    models = sorted({step.model for step in answers})
    if len(models) <= 1 and all(step.type == "message" for step in steps):
        for step in steps:
            if step.counts.prompt_tokens > top.prompt_tokens or step.counts.output_tokens > top.output_tokens:
                raise fields.error("iterations hold an entry of more tokens than the whole call")
        return (Step(counts=top, model=models[0]),)
    if "" in models and (len(models) > 1 or any(step.type == "fallback_message" for step in steps)):
        raise fields.error("iterations name a model in some entries only, so the price of the others is unknown")
    if len(models) > 1 and any(step.type == "compaction" for step in steps):
        raise fields.error("iterations do not say which of their models compacted, so its price is unknown")
    _check_sums(fields, "iterations", steps if shape.sums_iterations else answers, top)
    billed = [replace(step, model=models[0]) if step.type == "compaction" and models else step for step in steps]
    # Searches are counted for the call and not for its steps.
    return (*billed, Step(counts=_searches_of(top)))


def _listed(fields: Fields, name: str) -> Iterator[Fields]:
    listed = fields.value(name)
    if listed is None:
        return
    if not isinstance(listed, list | tuple):
        raise fields.error(f"{name} must be a list")
    for number, raw in enumerate(listed):
        if not isinstance(raw, Mapping):
            raise fields.error(f"{name}.{number} must be an object")
        yield Fields(raw, f"{fields.at}{name}.{number}.")


def _requests(fields: Fields, shape: Shape, unsplit_cache_ttl: CacheTtl) -> Iterator[Step]:
    for entry in _listed(fields, "request_usage_entries"):
        yield Step(counts=read_counts(entry, shape, unsplit_cache_ttl=unsplit_cache_ttl), calls=1)


def _iterations(fields: Fields, top: Reading, unsplit_cache_ttl: CacheTtl) -> Iterator[Step]:
    for entry in _listed(fields, "iterations"):
        kind, model = entry.text("type"), entry.text("model")
        if kind not in _TYPES:
            raise entry.error(f'type "{shown(kind)}" is none whose price is known ({", ".join(_TYPES)})')
        if not model and kind == "advisor_message":
            raise UsageError(f"The usage has no {entry.at}model, so the price of that entry is unknown.")
        counts = read_counts(entry, MESSAGES, unsplit_cache_ttl=unsplit_cache_ttl)
        # Tier, speed and geography are stated once for the whole call.
        said = {name: getattr(counts if entry.value(name) else top, name) for name in _WORDS}
        yield Step(counts=replace(counts, **said), model=model, type=kind, calls=1)


def _check_sums(fields: Fields, name: str, steps: Sequence[Step], top: Reading) -> None:
    prompt = sum(step.counts.prompt_tokens for step in steps)
    output = sum(step.counts.output_tokens for step in steps)
    if prompt < top.prompt_tokens or output < top.output_tokens:
        raise fields.error(
            f"{name} ({prompt} tokens of prompts, {output} of answers) hold less than its own counts "
            f"({top.prompt_tokens}, {top.output_tokens})"
        )


def _check_credit(fields: Fields, shape: Shape) -> None:
    """Check that no credit changed the price of the counts."""
    if "fallback_credit" not in shape.elsewhere:
        return
    status = fields.value("fallback_credit.status.type")
    if fields.value("fallback_credit") and status != "not_applied":
        raise fields.error("fallback_credit changes the price of the counts, by how much is not known")


def _searches_of(top: Reading) -> Reading:
    return replace(
        top,
        input_tokens=0,
        output_tokens=0,
        cache_read_input_tokens=0,
        cache_creation_5m_input_tokens=0,
        cache_creation_1h_input_tokens=0,
        warnings=(),
    )
