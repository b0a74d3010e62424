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

MAX_BREAKPOINTS = 4
"""How many places of a request may have a ``cache_control``; the one at its top level is one of them."""


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
    for name, value in (("system", body.get("system")), ("tools", body.get("tools"))):
        is_text = name == "system" and isinstance(value, str)
        parts: list[Any] = value if isinstance(value, list) else []
        if not (value is None or is_text or isinstance(value, list)) or not all(
            isinstance(each, dict) for each in parts
        ):
            yield f"{name}: must be {'text or ' if name == 'system' else ''}a list of objects."
            return
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
    yield from _tool_choice_problems(body)
    yield from _thinking_problems(body)
    yield from _cache_problems(body)
    yield from _format_problems(body)


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


def _tool_choice_problems(body: dict[str, Any]) -> Iterator[str]:
    """Yield a choice of tools that is none of the API's, or that has no tools to choose from."""
    if "tool_choice" not in body:
        return
    choice = body["tool_choice"]
    if not isinstance(choice, dict) or choice.get("type") not in ("auto", "none", "any", "tool"):
        yield "tool_choice.type: must be auto, none, any or tool."
        return
    tools: list[Any] = body.get("tools") or []
    if not tools:
        yield "tool_choice: may only be specified while providing tools."
    if choice["type"] == "tool" and choice.get("name") not in [tool.get("name") for tool in tools]:
        yield f"tool_choice.name: there is no tool {choice.get('name')}."
    unknown = choice.keys() - {"type", *_TOOL_CHOICE_FIELDS.get(choice["type"], ())}
    if unknown:
        yield f"tool_choice.{min(unknown)}: extra inputs are not permitted."
    if not isinstance(choice.get("disable_parallel_tool_use", False), bool):
        yield "tool_choice.disable_parallel_tool_use: must be true or false."


_TOOL_CHOICE_FIELDS = {
    "auto": ("disable_parallel_tool_use",),
    "any": ("disable_parallel_tool_use",),
    "tool": ("disable_parallel_tool_use", "name"),
}


def _cache_problems(body: dict[str, Any]) -> Iterator[str]:
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


def _format_problems(body: dict[str, Any]) -> Iterator[str]:
    """Yield a format of the answer that the API cannot keep an answer to."""
    config = body.get("output_config")
    if config is None:
        return
    if not isinstance(config, dict):
        yield "output_config: must be an object."
        return
    form = config.get("format")
    if form is None:
        return
    if not isinstance(form, dict) or form.get("type") != "json_schema":
        yield "output_config.format.type: must be json_schema."
    elif not isinstance(form.get("schema"), dict):
        yield "output_config.format.schema: a JSON schema is needed."
    elif form["schema"].get("type") != "object":
        yield "output_config.format.schema: must be the schema of an object."
    else:
        yield from _schema_problems(form["schema"], "output_config.format.schema")


_NOT_ENFORCED = frozenset(
    {
        "exclusiveMaximum", "exclusiveMinimum", "maxItems", "maxLength", "maxProperties", "maximum", "minLength",
        "minProperties", "minimum", "multipleOf", "uniqueItems",
    }
)  # fmt: skip
"""What the API refuses instead of overlooking it ("Structured outputs", JSON Schema limitations)."""


def _schema_problems(schema: dict[str, Any], where: str) -> Iterator[str]:
    """Yield what the API says it cannot enforce, from the outside in."""
    if schema.get("type") == "object" and schema.get("additionalProperties") is not False:
        yield f"{where}: for 'object' type, 'additionalProperties' must be explicitly set to false."
    if unknown := _NOT_ENFORCED & schema.keys():
        yield f"{where}: '{min(unknown)}' is not supported."
    reference = schema.get("$ref")
    if reference is not None and not str(reference).startswith("#/"):
        yield f"{where}.$ref: references out of the schema are not supported."
    for name, value in schema.items():
        children: dict[str, Any] = {}
        if name in ("properties", "$defs") and isinstance(value, dict):
            children = value
        elif name in ("anyOf", "allOf") and isinstance(value, list):
            children = {str(index): each for index, each in enumerate(value)}
        elif name == "items":
            children = {"": value}
        for child_name, child in children.items():
            if isinstance(child, dict):
                yield from _schema_problems(child, ".".join(filter(None, [where, name, child_name])))
