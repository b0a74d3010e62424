"""Registration of functions as tools: annotations, and schemas without the parts that a reader does not need.

Every host pays for a tool's schemas in its model's context on every turn, and some check every result against them.
"""

from collections.abc import Callable, Mapping
from typing import Any

from mcp.server.mcpserver.tools import Tool
from mcp.types import ToolAnnotations

from budget_tools.core.money import MAX_AMOUNT

_Schema = dict[str, Any]


def make_tool(
    function: Callable[..., Any],
    *,
    title: str,
    is_read_only: bool = False,
    is_destructive: bool = False,
    is_idempotent: bool = False,
    is_open_world: bool = False,
    always_load: bool = False,
    max_result_characters: int | None = None,
    result_of: str = "",
) -> Tool:
    """Build a tool from its function, which provides name, description and schemas.

    Args:
        function: the tool; its docstring is the description, its annotations are the schemas.
        title: the title shown to a person.
        is_read_only: it changes nothing.
        is_destructive: what it changes may not be undone.
        is_idempotent: repeating a call with the same arguments changes nothing more.
        is_open_world: it reaches beyond this server and its authority.
        always_load: hosts that load tools on demand should always load this one.
        max_result_characters: maximum length of a result that such a host should show whole.
        result_of: the tool whose published schema describes this one's result as well.
    """
    meta: dict[str, Any] = {}
    if always_load:
        meta["anthropic/alwaysLoad"] = True
    if max_result_characters is not None:
        meta["anthropic/maxResultSizeChars"] = max_result_characters
    tool = Tool.from_function(
        function,
        title=title,
        annotations=ToolAnnotations(
            read_only_hint=is_read_only,
            # If a tool is read-only, these two have no meaning (MCP, ToolAnnotations).
            destructive_hint=None if is_read_only else is_destructive,
            idempotent_hint=None if is_read_only else is_idempotent,
            open_world_hint=is_open_world,
        ),
        meta=meta or None,
    )
    tool.description = " ".join(tool.description.split())
    tool.parameters = _brief_input(_inlined(tool.parameters))
    assert tool.fn_metadata.output_schema is not None, f"{tool.name} returns no model"
    tool.fn_metadata.output_schema = (
        {"type": "object", "description": f"As of {result_of}"}
        if result_of
        else _brief_result(_inlined(tool.fn_metadata.output_schema))
    )
    return tool


def _inlined(schema: _Schema) -> _Schema:
    """Return a schema with definitions put where they are used, without the titles that pydantic makes of the names."""
    definitions: Mapping[str, _Schema] = schema.get("$defs", {})

    def inline(part: _Schema) -> _Schema:
        if "$ref" in part:
            # No model of ours contains itself, so this ends.
            definition = definitions[part["$ref"].removeprefix("#/$defs/")]
            return inline({**_without(definition, "description"), **_without(part, "$ref")})
        inlined: _Schema = {}
        for key, value in _without(part, "title", "$defs").items():
            if key == "properties":
                inlined[key] = {name: inline(each) for name, each in value.items()}
            elif key in ("items", "additionalProperties") and isinstance(value, dict):
                inlined[key] = inline(value)
            elif key == "anyOf":
                inlined |= _alternatives([inline(each) for each in value])
            else:
                inlined[key] = value
        return inlined

    return inline(schema)


def _alternatives(schemas: list[_Schema]) -> _Schema:
    """Return the alternatives of a value; an optional one is stated by not requiring it, instead of by null."""
    others = [schema for schema in schemas if schema != {"type": "null"}]
    if len(others) == 1:
        return others[0]
    if all(set(each) == {"type"} for each in others):
        return {"type": [each["type"] for each in others]}
    return {"anyOf": others}


def _brief_input(part: _Schema) -> _Schema:
    """Return an argument's schema without the obvious: empty defaults, texts that are not empty, 64-bit integers."""
    brief: _Schema = {}
    for key, value in part.items():
        if key == "properties":
            brief[key] = {name: _brief_input(each) for name, each in value.items()}
        elif key == "items":
            brief[key] = _brief_input(value)
        elif not _is_implied(key, value):
            brief[key] = value
    return brief


def _is_implied(key: str, value: object) -> bool:
    return (
        (key == "default" and (value is None or value is False or value in ("", [])))
        or (key == "minLength" and value == 1)
        or (key == "maximum" and value == MAX_AMOUNT)
        or (key == "additionalProperties" and isinstance(value, bool))
    )


def _brief_result(schema: _Schema) -> _Schema:
    """Return the fields of a result; the items of its lists are described in words.

    A published schema may be wider than the results, but never narrower.
    """
    properties = {name: _brief_field(each) for name, each in schema["properties"].items()}
    return {"type": "object", "properties": properties}


def _brief_field(field: _Schema) -> _Schema:
    named = field.get("items", {}).get("properties")
    if named:
        return {"description": f"Each {{{', '.join(named)}}}"}
    return {"enum": field["enum"]} if "enum" in field else {}


def _without(schema: _Schema, *keys: str) -> _Schema:
    return {key: value for key, value in schema.items() if key not in keys}
