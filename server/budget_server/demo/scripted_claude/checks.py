"""The checks: what the real API would refuse about a request.

Code that builds a wrong conversation (a tool call without its result, thinking handed to another model) must fail
against the scripted Claude, not first against the real one. A request that is wrong twice hears of the first thing
only.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from budget_server.demo.scripted_claude.script import Failure
from budget_server.demo.scripted_claude.wire import COUNT_TOKENS_PATH, MESSAGES_PATH, blocks_of, sign

REDACTED = "[redacted]"
"""What stands in place of a credential: that there was one is all that is checked."""


def find_refusal(
    path: str, headers: Mapping[str, str], body: dict[str, Any], *, models: frozenset[str] | None
) -> Failure | None:
    """Say what the real API would refuse about a request, or ``None``.

    Args:
        path: the path without its query; any method but POST stands before it.
        headers: names in lower case; credentials, unless they are empty, are replaced by `REDACTED`.
        body: the JSON object that was sent; empty if it was none.
        models: the model ids that exist; ``None`` accepts every id.
    """
    if path not in (MESSAGES_PATH, COUNT_TOKENS_PATH):
        return Failure(status=404, message=f"The scripted Claude knows no {path}.")
    # Credentials are already replaced here, unless there was nothing to replace.
    if REDACTED not in (headers.get("authorization"), headers.get("x-api-key")):
        return Failure(status=401, message="An API key is needed, as authorization or x-api-key.")
    if "anthropic-version" not in headers:
        return Failure(status=400, message="anthropic-version: the header is needed.")
    model = body.get("model")
    if models is not None and isinstance(model, str) and model not in models:
        return Failure(status=404, message=f"model: {model}")
    problem = next(_problems(body, needs_max_tokens=path == MESSAGES_PATH), None)
    return Failure(status=400, message=problem) if problem else None


def _problems(body: dict[str, Any], *, needs_max_tokens: bool) -> Iterator[str]:
    """Yield what the API refuses about a request's body, the first thing first."""
    for name in ("temperature", "top_p", "top_k"):
        if name in body:
            yield f"{name}: sampling parameters are no longer accepted."
    if not isinstance(body.get("model"), str) or not body["model"]:
        yield "model: a model id is needed."
    if needs_max_tokens:
        max_tokens = body.get("max_tokens")
        if isinstance(max_tokens, bool) or not isinstance(max_tokens, int):
            yield "max_tokens: a whole number is needed."
        elif max_tokens < 1:
            yield "max_tokens: must be at least 1."
    if not isinstance(body.get("messages"), list) or not body["messages"]:
        yield "messages: at least one message is needed."
        return
    messages: list[dict[str, Any]] = body["messages"]
    for index, message in enumerate(messages):
        if type(message) is not dict or message.get("role") not in ("user", "assistant", "system"):
            yield f"messages.{index}.role: must be user, assistant or system."
            return
        content: Any = message.get("content")
        blocks: list[Any] = blocks_of(message)
        if not isinstance(content, str | list) or not all(isinstance(block, dict) for block in blocks):
            yield f"messages.{index}.content: must be text or a list of blocks."
            return
        if not content:
            yield f"messages.{index}.content: must not be empty."
        if any(block.get("type") == "text" and not block.get("text") for block in blocks):
            yield f"messages.{index}.content: text blocks must not be empty."
    if messages[0]["role"] != "user":
        yield "messages.0.role: the first message must be the user's."
    yield from _tool_problems(body)
    yield from _thinking_problems(body)


def _tool_problems(body: dict[str, Any]) -> Iterator[str]:
    """Yield tool calls without a result in the next message, results without a call, and both without tools."""
    open_ids: set[str] = set()
    every_id: set[str] = set()
    messages = body["messages"]
    for index, message in enumerate(messages):
        blocks = blocks_of(message)
        is_result = [block.get("type") == "tool_result" for block in blocks]
        result_ids = {str(block.get("tool_use_id")) for block in blocks if block.get("type") == "tool_result"}
        if missing := open_ids - result_ids:
            yield f"messages.{index}: tool_use without its tool_result here: {', '.join(sorted(missing))}."
        if unknown := result_ids - open_ids:
            yield f"messages.{index}: tool_result without a tool_use just before: {', '.join(sorted(unknown))}."
        if sorted(is_result, reverse=True) != is_result:
            yield f"messages.{index}: tool_result blocks must come first."
        open_ids = set()
        for block in blocks:
            if block.get("type") == "tool_use":
                call_id = str(block.get("id"))
                if call_id in every_id:
                    yield f"messages.{index}: tool_use ids must be unique: {call_id}."
                open_ids.add(call_id)
                every_id.add(call_id)
    if open_ids:
        yield f"messages.{len(messages)}: tool_use without its tool_result here: {', '.join(sorted(open_ids))}."
    if every_id and not body.get("tools"):
        yield "tools: a request with tool_use or tool_result blocks must define its tools."


def _thinking_problems(body: dict[str, Any]) -> Iterator[str]:
    """Yield thinking that did not come back as it was sent, or came back to another model."""
    for index, message in enumerate(body["messages"]):
        for block in blocks_of(message):
            if block.get("type") == "thinking":
                expected = sign(str(block.get("thinking")), str(body.get("model")))
                if block.get("signature") != expected:
                    yield f"messages.{index}: the signature is not that of this thinking and this model."
