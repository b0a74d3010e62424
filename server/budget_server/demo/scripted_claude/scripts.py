"""Scripts to start the scripted Claude with.

They remember nothing: what they answer depends on the conversation that a request carries, so that any number of
programs can be run against them, any number of times.
"""

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any

from budget_server.demo.scripted_claude.script import Script, ToolCall, Turn
from budget_server.demo.scripted_claude.wire import blocks_of

SHOWN_CHARACTERS = 200
"""How much of a tool's result the answer repeats."""
_DEEPEST_SAMPLE = 8


class ScriptName(StrEnum):
    """Names of the scripts."""

    ANSWER = "answer"
    FIRST_TOOL = "first-tool"
    TOOLS = "tools"


def answer(_request: Mapping[str, Any], _number: int) -> Turn:
    """Answer whatever is asked."""
    return Turn(text="(Scripted, not a model.) Because what is counted afterwards is spent already.")


def first_tool(request: Mapping[str, Any], number: int) -> Turn:
    """Call the first tool that is offered, once, and answer with what it returned; without tools, only answer."""
    tools = [tool for tool in request.get("tools") or () if "input_schema" in tool]
    results = [block for block in blocks_of(request["messages"][-1]) if block.get("type") == "tool_result"]
    if results:
        said = " ".join(_text_of(result) for result in results).strip() or "nothing"
        verb = "failed" if any(result.get("is_error") for result in results) else "answered"
        return Turn(text=f"(Scripted, not a model.) The tool {verb}: {said[:SHOWN_CHARACTERS]}")
    if not tools:
        return answer(request, number)
    name = str(tools[0]["name"])
    return Turn(
        text=f"(Scripted, not a model.) I call {name}.",
        tool_calls=(ToolCall(name, sample_input(tools[0]["input_schema"])),),
    )


_PRICE_OF_CHAIN = ToolCall("part_price", {"part": "chain-11"})
_PRICE_OF_TUBE = ToolCall("part_price", {"part": "tube-700"})
_SHOPPING: Sequence[Turn] = (
    Turn(text="(Scripted, not a model.) I look both prices up.", tool_calls=(_PRICE_OF_CHAIN, _PRICE_OF_TUBE)),
    Turn(
        text="Three of one and two of the other.",
        tool_calls=(
            ToolCall("calculate", {"operation": "multiply", "a": 3, "b": 2890}),
            ToolCall("calculate", {"operation": "multiply", "a": 2, "b": 590}),
        ),
    ),
    Turn(text="Together:", tool_calls=(ToolCall("calculate", {"operation": "add", "a": 8670, "b": 1180}),)),
    Turn(text="(Scripted, not a model.) Three chains and two inner tubes cost $98.50 together."),
)


def tools(request: Mapping[str, Any], number: int) -> Turn:
    """Play the shopping of ``examples/tool_loop.py`` if its tools are offered, else call the first tool once."""
    if not {"part_price", "calculate"} <= {tool.get("name") for tool in request.get("tools") or ()}:
        return first_tool(request, number)
    taken: int = sum(message["role"] == "assistant" for message in request["messages"])
    return _SHOPPING[min(taken, len(_SHOPPING) - 1)]


SCRIPTS: Mapping[ScriptName, Script] = {
    ScriptName.ANSWER: answer,
    ScriptName.FIRST_TOOL: first_tool,
    ScriptName.TOOLS: tools,
}


def sample_input(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Make up an input that has what a tool's schema requires; a tool with further rules may still refuse it."""
    value = _sample(schema, schema, _DEEPEST_SAMPLE)
    return value if isinstance(value, dict) else {}


def _sample(schema: Any, root: Mapping[str, Any], depth: int) -> Any:  # noqa: ANN401 - any JSON, by any schema
    if not isinstance(schema, Mapping) or depth == 0:
        return "scripted"
    for name in ("const", "default"):
        if name in schema:
            return schema[name]
    for name in ("enum", "examples"):
        if isinstance(schema.get(name), list) and schema[name]:
            return schema[name][0]
    if isinstance(reference := schema.get("$ref"), str) and reference.startswith("#/"):
        found: Any = root
        for part in reference[2:].split("/"):
            found = found.get(part) if isinstance(found, Mapping) else None
        return _sample(found, root, depth - 1)
    for name in ("anyOf", "oneOf", "allOf"):
        if isinstance(schema.get(name), list) and schema[name]:
            return _sample(schema[name][0], root, depth - 1)
    kind = schema.get("type", "object" if "properties" in schema else "string")
    match kind[0] if isinstance(kind, list) and kind else kind:
        case "object":
            properties = schema.get("properties") or {}
            return {name: _sample(properties.get(name), root, depth - 1) for name in schema.get("required") or ()}
        case "array":
            return [_sample(schema.get("items"), root, depth - 1)] * int(schema.get("minItems", 0))
        case "integer" | "number":
            return schema.get("minimum", schema.get("exclusiveMinimum", 0) + 1)
        case "boolean":
            return False
        case "null":
            return None
        case _:
            return "scripted".ljust(int(schema.get("minLength", 0)), ".")[: schema.get("maxLength")]


def _text_of(result: Mapping[str, Any]) -> str:
    content = result.get("content")
    if isinstance(content, list):
        return " ".join(str(part.get("text", f"({part.get('type')})")) for part in content)
    return str(content or "")
