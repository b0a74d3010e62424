"""Tools: their definitions, and the choice among them.

Sources: "Define tools" (names, descriptions, input schemas), Messages API reference, "Create a Message" (``tools`` and
``tool_choice``); for the keys of properties and for unions at the top of a schema, the errors that the API gives.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from budget_server.demo.scripted_claude.checks.schemas import find_input_schema_problems

_NAME = re.compile(r"[a-zA-Z0-9_-]{1,128}", re.ASCII)

_TOOL_FIELDS = frozenset(
    {
        "allowed_callers", "cache_control", "defer_loading", "description", "eager_input_streaming", "input_examples",
        "input_schema", "name", "strict", "type",
    }
)  # fmt: skip

_CHOICE_FIELDS: Mapping[str, tuple[str, ...]] = {
    "auto": ("disable_parallel_tool_use",),
    "any": ("disable_parallel_tool_use",),
    "tool": ("disable_parallel_tool_use", "name"),
}


def find_tool_problems(body: dict[str, Any]) -> Iterator[str]:
    """Yield definitions that one bad of which costs the whole request."""
    names: set[str] = set()
    for index, tool in enumerate(body.get("tools") or ()):
        where = f"tools.{index}"
        # Tools of the API's own carry their type and its date; the others are the caller's.
        is_custom = tool.get("type") in (None, "custom")
        name = tool.get("name")
        if is_custom and (not isinstance(name, str) or _NAME.fullmatch(name) is None):
            yield f"{where}.custom.name: must match ^[a-zA-Z0-9_-]{{1,128}}$."
        if name in names:
            yield "tools: tool names must be unique."
        names.add(str(name))
        if not is_custom:
            continue
        if unknown := tool.keys() - _TOOL_FIELDS:
            yield f"{where}.custom.{min(unknown)}: extra inputs are not permitted."
        if not isinstance(tool.get("description", ""), str):
            yield f"{where}.custom.description: must be text."
        yield from find_input_schema_problems(tool.get("input_schema"), f"{where}.custom.input_schema")


def find_tool_choice_problems(body: dict[str, Any]) -> Iterator[str]:
    """Yield a choice of tools that is not one of the API's, or that has no tools to choose from."""
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
    unknown = choice.keys() - {"type", *_CHOICE_FIELDS.get(choice["type"], ())}
    if unknown:
        yield f"tool_choice.{min(unknown)}: extra inputs are not permitted."
    if not isinstance(choice.get("disable_parallel_tool_use", False), bool):
        yield "tool_choice.disable_parallel_tool_use: must be true or false."
