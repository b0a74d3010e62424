"""The conversation: roles, content blocks, tool calls and their results, thinking.

Sources: Messages API reference, "Create a Message"; "Handle tool calls" for where results stand; "Extended thinking"
for signatures; API reference, "Errors", "Prefill not supported", for how a conversation may end.
"""

from collections.abc import Iterator
from typing import Any

from budget_server.demo.scripted_claude.wire import blocks_of, sign

_ROLES = ("user", "assistant", "system")

_PREFILLABLE = ("claude-haiku-4-5", "claude-opus-4-5", "claude-sonnet-4-5")
"""Beginnings of the ids of models that go on with a partial answer; every later model refuses one."""

_BLOCK_TYPES: dict[str, frozenset[str]] = {
    "user": frozenset({"text", "image", "document", "search_result", "tool_result", "container_upload"}),
    "assistant": frozenset({"text", "thinking", "redacted_thinking", "tool_use"}),
    "system": frozenset({"text"}),
}
"""Blocks that each role may send; those of the API's own tools beside them."""

_SERVER_TOOL_SUFFIXES = ("server_tool_use", "_tool_result", "mcp_tool_use")


def find_message_problems(body: dict[str, Any]) -> Iterator[str]:
    """Yield messages, and parts of the system prompt and of the tools, that are not of the form that they must have.

    Whatever stops the reading of the request ends the search.
    """
    for name in ("system", "tools"):
        value = body.get(name)
        is_text = name == "system" and isinstance(value, str)
        if value is None or is_text or (isinstance(value, list) and all(isinstance(each, dict) for each in value)):
            continue
        yield f"{name}: must be {'text or ' if name == 'system' else ''}a list of objects."
        return
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        yield "messages: at least one message is needed."
        return
    for index, message in enumerate(messages):
        if type(message) is not dict or message.get("role") not in _ROLES:
            yield f"messages.{index}.role: must be user, assistant or system."
            return
        content: Any = message.get("content")
        if not isinstance(content, str | list) or not all(isinstance(block, dict) for block in blocks_of(message)):
            yield f"messages.{index}.content: must be text or a list of blocks."
            return
        if unknown := message.keys() - {"role", "content"}:
            yield f"messages.{index}.{min(unknown)}: extra inputs are not permitted."
    if messages[0]["role"] != "user":
        yield "messages.0.role: the first message must be the user's."
    yield from _find_empty_content(messages)
    for index, message in enumerate(messages):
        for number, block in enumerate(blocks_of(message)):
            yield from _find_block_problems(block, message["role"], f"messages.{index}.content.{number}")


def find_conversation_problems(body: dict[str, Any]) -> Iterator[str]:
    """Yield messages that do not follow on each other as they must."""
    yield from _find_unpaired_tool_calls(body)
    yield from _find_changed_thinking(body)
    yield from _find_prefill(body)


def _find_empty_content(messages: list[dict[str, Any]]) -> Iterator[str]:
    for index, message in enumerate(messages):
        # Only the last message, if it is the assistant's, may be empty: an answer that is still to come.
        if not message["content"] and (index + 1 < len(messages) or message["role"] != "assistant"):
            yield f"messages.{index}.content: must not be empty."
        for block in blocks_of(message):
            if block.get("type") == "text" and block.get("text") == "" and message["content"]:
                yield f"messages.{index}.content: text blocks must not be empty."


def _find_block_problems(block: dict[str, Any], role: str, where: str) -> Iterator[str]:
    kind = block.get("type")
    if not isinstance(kind, str) or not (kind in _BLOCK_TYPES[role] or kind.endswith(_SERVER_TOOL_SUFFIXES)):
        yield f"{where}.type: a block of type {kind} is not one that the {role} may send."
    elif kind == "text":
        text = block.get("text")
        if not isinstance(text, str):
            yield f"{where}.text: must be text."
        elif text and not text.strip() and role != "assistant":
            yield f"{where}.text: must contain non-whitespace text."
    elif kind == "tool_use":
        if not isinstance(block.get("input"), dict):
            yield f"{where}.input: must be an object."
        if not isinstance(block.get("id"), str) or not isinstance(block.get("name"), str):
            yield f"{where}: a tool_use needs an id and a name."
    elif kind == "tool_result":
        yield from _find_result_problems(block, where)


def _find_result_problems(block: dict[str, Any], where: str) -> Iterator[str]:
    content = block.get("content")
    if not isinstance(block.get("is_error", False), bool):
        yield f"{where}.is_error: must be true or false."
    if content is None or isinstance(content, str):
        return
    if not isinstance(content, list) or not all(isinstance(each, dict) for each in content):
        yield f"{where}.content: must be text or a list of blocks."
        return
    for number, part in enumerate(content):
        if part.get("type") not in ("text", "image", "document", "search_result", "tool_reference"):
            yield f"{where}.content.{number}.type: {part.get('type')} cannot stand in a tool_result."
        elif part.get("type") == "text" and not part.get("text"):
            yield f"{where}.content.{number}.text: text blocks must not be empty."
    if block.get("is_error") and any(part.get("type") != "text" for part in content):
        yield f"{where}.content: all content must be text if is_error is true."


def _find_unpaired_tool_calls(body: dict[str, Any]) -> Iterator[str]:
    """Yield tool calls without a result in the next message, results without a call, and both without tools."""
    open_ids: set[str] = set()
    every_id: set[str] = set()
    messages = body["messages"]
    for index, message in enumerate(messages):
        blocks = blocks_of(message)
        is_result = [block.get("type") == "tool_result" for block in blocks]
        listed_ids = [str(block.get("tool_use_id")) for block in blocks if block.get("type") == "tool_result"]
        result_ids = set(listed_ids)
        if missing := open_ids - result_ids:
            yield f"messages.{index}: tool_use without its tool_result here: {', '.join(sorted(missing))}."
        if unknown := result_ids - open_ids:
            yield f"messages.{index}: tool_result without a tool_use just before: {', '.join(sorted(unknown))}."
        if len(listed_ids) > len(result_ids):
            yield f"messages.{index}: each tool_use must have a single tool_result."
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


def _find_changed_thinking(body: dict[str, Any]) -> Iterator[str]:
    """Yield thinking that did not come back as it was sent, or came back to another model."""
    for index, message in enumerate(body["messages"]):
        blocks = blocks_of(message)
        for block in blocks:
            if block.get("type") == "thinking":
                expected = sign(str(block.get("thinking")), str(body.get("model")))
                if block.get("signature") != expected:
                    yield f"messages.{index}: the signature is not that of this thinking and this model."
        if message["role"] == "assistant" and blocks and blocks[-1].get("type") in ("thinking", "redacted_thinking"):
            yield f"messages.{index}: the last block of an assistant message cannot be thinking."


def _find_prefill(body: dict[str, Any]) -> Iterator[str]:
    """Yield a conversation that ends with the assistant, if the model does not go on with that."""
    last = body["messages"][-1]
    if last["role"] != "assistant":
        return
    blocks = blocks_of(last)
    if blocks and str(blocks[-1].get("type")).endswith(_SERVER_TOOL_SUFFIXES):
        return  # a turn that paused at a tool of the API's own goes back as it is ("Stop reasons", pause_turn)
    if not str(body["model"]).startswith(_PREFILLABLE):
        yield f"messages: {body['model']} goes on with no partial answer: the last message must be the user's."
    text = blocks[-1].get("text") if blocks and blocks[-1].get("type") == "text" else ""
    if isinstance(text, str) and text != text.rstrip():
        yield "messages: a partial answer cannot end with whitespace."
