"""One bad definition of a tool costs the whole request: at the real Messages API, and so at the scripted Claude."""

import re
from typing import Any

import anthropic
import pytest

from budget_server.demo.scripted_claude import MESSAGES_PATH, ScriptedClaude, Turn
from server.scripted_claude.asking import REQUEST, WEATHER, create, sdk

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("in_time")]


def defining(**changes: Any) -> dict[str, Any]:
    """Change the definition of a tool; a value of ``None`` takes a field away."""
    return {name: value for name, value in {**WEATHER, **changes}.items() if value is not None}


def taking(**schema: Any) -> dict[str, Any]:
    """Define a tool that is called with an object of a schema."""
    return defining(input_schema={"type": "object", **schema})


@pytest.mark.parametrize(
    ("tool", "complaint"),
    [
        (defining(name=None), "tools.0.custom.name: must match"),
        (defining(name=""), "tools.0.custom.name: must match"),
        (defining(name="weather.today"), "tools.0.custom.name: must match"),
        (defining(name="wetter für"), "tools.0.custom.name: must match"),
        (defining(name="weather\n"), "tools.0.custom.name: must match"),
        (defining(name="w" * 129), "tools.0.custom.name: must match"),
        (defining(description=5), "tools.0.custom.description"),
        (defining(parameters={}), "tools.0.custom.parameters: extra inputs are not permitted"),
        (defining(inputSchema={}), "tools.0.custom.inputSchema: extra inputs are not permitted"),
        (defining(input_schema=None), "tools.0.custom.input_schema: a JSON schema is needed"),
        (defining(input_schema={}), "tools.0.custom.input_schema.type: must be object"),
        (defining(input_schema={"type": "array"}), "tools.0.custom.input_schema.type: must be object"),
        (taking(oneOf=[{}]), "oneOf is not supported at the top level"),
        (taking(anyOf=[{}]), "anyOf is not supported at the top level"),
        (taking(allOf=[{}]), "allOf is not supported at the top level"),
        (taking(properties={"für": {}}), "property keys must match"),
        (taking(properties={"with space": {}}), "property keys must match"),
        (taking(properties={"k" * 65: {}}), "property keys must match"),
        (taking(properties={"a": {"type": "text"}}), "draft 2020-12"),
        (taking(properties={"a": {"minimum": "1"}}), "draft 2020-12"),
        (taking(required="place"), "draft 2020-12"),
        (taking(properties=[]), "draft 2020-12"),
        (taking(properties={"a": {"exclusiveMinimum": True}}), "draft 2020-12"),
    ],
)
async def test_a_definition_that_the_api_would_refuse_is_refused(tool: dict[str, Any], complaint: str) -> None:
    """As "Define tools" has it: names, schemas of objects, no union at the top."""
    with pytest.raises(anthropic.BadRequestError, match=re.escape(complaint)) as caught:
        await create([Turn(text="Hi")], tools=[tool])

    assert caught.value.type == "invalid_request_error"


async def test_two_tools_of_one_name_are_refused() -> None:
    """The model could not say which it means."""
    with pytest.raises(anthropic.BadRequestError, match="tool names must be unique"):
        await create([Turn(text="Hi")], tools=[WEATHER, defining(description="Another.")])


@pytest.mark.parametrize(
    "tool",
    [
        defining(name="w" * 128),
        defining(name="A-tool_of-1"),
        defining(description=None),
        defining(type="custom", strict=True, cache_control={"type": "ephemeral"}),
        taking(properties={"a.b-c_1": {"anyOf": [{"type": "string"}, {"type": "null"}]}}),
        taking(properties={"a": {"properties": {"für": {"oneOf": [{}, {}]}}}, "b": True}),
        defining(description="x" * 9_000),
        {"type": "web_search_20260209", "name": "web_search"},
    ],
)
async def test_a_definition_that_the_api_takes_is_taken(tool: dict[str, Any]) -> None:
    """Below the top level of a schema, and in tools of the API's own, the rules are others."""
    async with ScriptedClaude([Turn(text="Hi")]) as endpoint, sdk(endpoint) as client:
        await client.post(MESSAGES_PATH, cast_to=object, body={**REQUEST, "tools": [tool]})

        assert endpoint.requests[0].body["tools"] == [tool]
