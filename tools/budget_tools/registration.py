"""How a function becomes a tool: its annotations, and schemas without what a reader can do without.

Every host pays for a tool's schemas in its model's context on every turn, and some check every result against them.
"""

from collections.abc import Callable, Mapping
from typing import Any

from mcp.server.mcpserver.tools import Tool
from mcp.types import ToolAnnotations

_Schema = dict[str, Any]


def make_tool(
    function: Callable[..., Any],
    *,
    title: str,
    is_read_only: bool = False,
    is_destructive: bool = False,
    is_idempotent: bool,
    is_open_world: bool = False,
    always_load: bool = False,
    max_result_characters: int | None = None,
) -> Tool:
    """Build a tool from its function; name, description and schemas come from there.

    Args:
        function: the tool; its docstring is the description, its annotations are the schemas.
        title: what a person sees.
        is_read_only: it changes nothing.
        is_destructive: what it changes may not be undone.
        is_idempotent: repeating a call with the same arguments changes nothing more.
        is_open_world: it reaches beyond this server and its authority.
        always_load: hosts that load tools on demand should have this one at hand.
        max_result_characters: how long a result such a host should show whole.
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
            destructive_hint=is_destructive,
            idempotent_hint=is_idempotent,
            open_world_hint=is_open_world,
        ),
        meta=meta or None,
    )
    tool.parameters = _compact(tool.parameters, is_result=False)
    assert tool.fn_metadata.output_schema is not None, f"{tool.name} returns no model"
    tool.fn_metadata.output_schema = _compact(tool.fn_metadata.output_schema, is_result=True)
    return tool


def _compact(schema: _Schema, *, is_result: bool) -> _Schema:
    """Put definitions where they are used, and drop generated titles and defaults of null.

    In a result, what is ``None`` is left out (``answers.py``): there nothing is nullable, and no default needs saying.
    """
    definitions: Mapping[str, _Schema] = schema.get("$defs", {})

    def shorten(part: _Schema) -> _Schema:
        if "$ref" in part:
            # No model of ours contains itself, so this ends.
            definition = definitions[part["$ref"].removeprefix("#/$defs/")]
            return shorten({**_without(definition, "description"), **_without(part, "$ref")})
        dropped = {"title", "$defs", *(("default",) if is_result or part.get("default", "") is None else ())}
        short: _Schema = {}
        for key, value in _without(part, *dropped).items():
            if key == "properties":
                short[key] = {name: shorten(each) for name, each in value.items()}
            elif key in ("items", "additionalProperties") and isinstance(value, dict):
                short[key] = shorten(value)
            elif key == "anyOf":
                short |= _alternatives([shorten(each) for each in value], is_result=is_result)
            else:
                short[key] = value
        return short

    return shorten(schema)


def _alternatives(schemas: list[_Schema], *, is_result: bool) -> _Schema:
    null = {"type": "null"}
    others = [schema for schema in schemas if schema != null]
    if len(others) == 1 and is_result:
        return others[0]
    if len(others) == 1 and isinstance(others[0].get("type"), str):
        return {**others[0], "type": [others[0]["type"], "null"]}
    return {"anyOf": schemas}


def _without(schema: _Schema, *keys: str) -> _Schema:
    return {key: value for key, value in schema.items() if key not in keys}
