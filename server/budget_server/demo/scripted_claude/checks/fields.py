"""The fields of a request itself: which there are, and which values they take.

Sources: Messages API reference, "Create a Message" and "Count tokens in a Message"; "Models overview" for the longest
answers; the migration notes of API version 2026-10-21 for the sampling parameters.
"""

from collections.abc import Iterator, Mapping
from typing import Any

_COUNTED_FIELDS = frozenset(
    {
        "cache_control", "messages", "model", "output_config", "speed", "system", "thinking", "tool_choice", "tools",
        "user_profile_id", "workspace_id",
    }
)  # fmt: skip
"""Fields of a request that counts tokens."""

_FIELDS = _COUNTED_FIELDS | {
    "container", "diagnostics", "inference_geo", "max_tokens", "metadata", "service_tier", "stop_sequences", "stream",
}  # fmt: skip
"""Fields of a request for a message."""

_BETA_FIELDS = frozenset(
    {
        "billing_policy", "compaction", "context_management", "fallback_credit_token", "fallbacks", "mcp_servers",
        "thread",
    }
)  # fmt: skip
"""Fields that an ``anthropic-beta`` header allows."""

_SAMPLING_FIELDS = ("temperature", "top_p", "top_k")

LONGEST_OUTPUT_TOKENS = 128_000
"""Longest answer of a current model."""

_SHORTER_OUTPUT_TOKENS: Mapping[str, int] = {
    "claude-haiku-4-5": 64_000,
    "claude-opus-4-5": 64_000,
    "claude-sonnet-4-5": 64_000,
}
"""Longest answers of older models, by the beginning of their ids."""

_CHOICES: Mapping[str, tuple[str | None, ...]] = {
    "service_tier": ("auto", "standard_only"),
    "speed": ("standard", "fast", None),
}

_LEAST_THINKING_TOKENS = 1_024


def longest_output_tokens(model: str) -> int:
    """Return the largest ``max_tokens`` that a model accepts."""
    found = (limit for prefix, limit in _SHORTER_OUTPUT_TOKENS.items() if model.startswith(prefix))
    return next(found, LONGEST_OUTPUT_TOKENS)


def find_field_problems(body: Mapping[str, Any], *, counts_only: bool, is_beta: bool) -> Iterator[str]:
    """Yield fields that are missing, unknown or of a value that the API does not take."""
    for name in _SAMPLING_FIELDS:
        if name in body:
            yield f"{name}: sampling parameters are no longer accepted."
    allowed = (_COUNTED_FIELDS if counts_only else _FIELDS) | (_BETA_FIELDS if is_beta else frozenset[str]())
    if unknown := body.keys() - allowed:
        yield f"{min(unknown)}: extra inputs are not permitted."
    model = body.get("model")
    if not isinstance(model, str) or not model:
        yield "model: a model id is needed."
    if not counts_only:
        yield from _find_max_tokens_problems(body.get("max_tokens"), str(model))
        yield from _find_stop_sequence_problems(body.get("stop_sequences"))
        if not isinstance(body.get("stream", False), bool):
            yield "stream: must be true or false."
    for name, choices in _CHOICES.items():
        if name in body and body[name] not in choices:
            yield f"{name}: must be {' or '.join(str(each) for each in choices if each)}."
    yield from _find_thinking_problems(body)


def _find_max_tokens_problems(max_tokens: object, model: str) -> Iterator[str]:
    if type(max_tokens) is not int:
        yield "max_tokens: a whole number is needed."
    # The API takes 0 to fill its cache without an answer; a program that means to be answered has counted wrong.
    elif max_tokens < 1:
        yield "max_tokens: must be at least 1."
    elif max_tokens > longest_output_tokens(model):
        yield f"max_tokens: {max_tokens} > {longest_output_tokens(model)}, the longest answer of {model}."


def _find_stop_sequence_problems(sequences: object) -> Iterator[str]:
    if sequences is None:
        return
    if not isinstance(sequences, list) or not all(isinstance(each, str) for each in sequences):
        yield "stop_sequences: must be a list of texts."
    elif not all(str(each).strip() for each in sequences):
        yield "stop_sequences: each stop sequence must contain non-whitespace."


def _find_thinking_problems(body: Mapping[str, Any]) -> Iterator[str]:
    """Yield a configuration of thinking that does not exist ("Extended thinking", "Adaptive thinking")."""
    thinking = body.get("thinking")
    if thinking is None:
        return
    if not isinstance(thinking, dict) or thinking.get("type") not in (
        "enabled",
        "disabled",
        "adaptive",
        "between_tools",
    ):
        yield "thinking.type: must be enabled, disabled, adaptive or between_tools."
        return
    budget, max_tokens = thinking.get("budget_tokens"), body.get("max_tokens")
    if thinking["type"] == "enabled":
        if type(budget) is not int or budget < _LEAST_THINKING_TOKENS:
            yield f"thinking.budget_tokens: must be {_LEAST_THINKING_TOKENS} or more."
        elif isinstance(max_tokens, int) and budget >= max_tokens:
            yield "thinking.budget_tokens: must be less than max_tokens."
    elif budget is not None:
        yield "thinking.budget_tokens: extra inputs are not permitted."
