"""The checks: what the real Messages API refuses about a request.

Code that builds a wrong request (a tool call without its result, thinking handed to another model, a picture that is
too large) must fail against the scripted Claude, not first against the real one. A request that is wrong twice hears
of the first thing only. Types and statuses are the API's; the sentences are our own. Each module names the page of
the API's documentation that its rules come from.

- ``fields``: the fields of the request itself;
- ``conversation``: roles, content blocks, tool calls and their results, thinking;
- ``images``: pictures, by what their bytes say;
- ``tools``: definitions of tools, and the choice among them;
- ``schemas``: JSON Schemas, of tools and of answers;
- ``breakpoints``: where the prompt cache is asked for.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from budget_server.demo.scripted_claude.checks.breakpoints import find_cache_problems
from budget_server.demo.scripted_claude.checks.conversation import find_conversation_problems, find_message_problems
from budget_server.demo.scripted_claude.checks.fields import find_field_problems
from budget_server.demo.scripted_claude.checks.images import find_image_problems
from budget_server.demo.scripted_claude.checks.schemas import find_format_problems
from budget_server.demo.scripted_claude.checks.tools import find_tool_choice_problems, find_tool_problems
from budget_server.demo.scripted_claude.script import Failure
from budget_server.demo.scripted_claude.wire import COUNT_TOKENS_PATH, MESSAGES_PATH

REDACTED = "[redacted]"
"""Text in place of a credential: that there was one is all that is checked."""

MAX_REQUEST_BYTES = 32 * 1024 * 1024
"""Largest request of the Messages and the token counting API (API reference, "Errors", request size limits)."""


def find_refusal(
    path: str,
    headers: Mapping[str, str],
    body: dict[str, Any],
    *,
    models: frozenset[str] | None,
    size_bytes: int = 0,
) -> Failure | None:
    """Return the error with which the real API would refuse a request, or ``None``.

    Args:
        path: the path without its query; any method but POST stands before it.
        headers: names in lower case; credentials, unless they are empty, are replaced by `REDACTED`.
        body: the JSON object that was sent; empty if it was none.
        models: the model ids that exist; ``None`` accepts every id.
        size_bytes: length of the body as it was sent.
    """
    if path not in (MESSAGES_PATH, COUNT_TOKENS_PATH):
        return Failure(status=404, message=f"The scripted Claude knows no {path}.")
    if size_bytes > MAX_REQUEST_BYTES:
        return Failure(status=413, message=f"The request has {size_bytes} bytes, more than {MAX_REQUEST_BYTES}.")
    # Credentials are already replaced here, unless there was nothing to replace.
    if REDACTED not in (headers.get("authorization"), headers.get("x-api-key")):
        return Failure(status=401, message="An API key is needed, as authorization or x-api-key.")
    if "anthropic-version" not in headers:
        return Failure(status=400, message="anthropic-version: the header is needed.")
    model = body.get("model")
    if models is not None and isinstance(model, str) and model not in models:
        return Failure(status=404, message=f"model: {model}")
    counts_only = path == COUNT_TOKENS_PATH
    problem = next(_find_problems(body, counts_only=counts_only, is_beta="anthropic-beta" in headers), None)
    return Failure(status=400, message=problem) if problem else None


def _find_problems(body: dict[str, Any], *, counts_only: bool, is_beta: bool) -> Iterator[str]:
    """Yield what the API refuses about a body, the first thing first; each check may rely on those before it."""
    yield from find_field_problems(body, counts_only=counts_only, is_beta=is_beta)
    yield from find_message_problems(body)
    yield from find_tool_problems(body)
    yield from find_tool_choice_problems(body)
    yield from find_conversation_problems(body)
    yield from find_image_problems(body)
    yield from find_cache_problems(body)
    yield from find_format_problems(body)
